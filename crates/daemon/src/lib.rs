//! The shell around the node: sockets, QUIC, HTTP, clock, entropy and disk.
