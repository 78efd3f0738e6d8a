//! Tests of the public surface, one module per subject.

mod address;
mod build;
mod client;
mod corpus;
mod faults;
mod message;
mod robust;
mod server;
mod stream;
mod torture;
mod uri;
