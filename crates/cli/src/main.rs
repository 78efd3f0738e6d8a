//! The one binary, `starling`.
fn main() {}
