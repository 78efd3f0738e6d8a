//! The support library of the black-box tests: real processes, real SIP, real namespaces.
//!
//! What the tests talk to is started here and stopped here: [`kamailio::Kamailio`] servers,
//! [`starling::Starling`] nodes, [`phone::Phone`]s, scripted [`peer::FakePeer`]s, in the address space of a
//! [`net::Net`] or on loopback addresses of their own ([`host::Host`]). The SIP spoken here is written from
//! scratch in [`sip`], so that the product's parser is not its own judge.
//!
//! Invariant: nothing outlives the test that started it. Processes are killed when their owner is dropped,
//! when a [`wait::limited`] test runs out of time, and, should the test binary itself have been killed, at the
//! start of the next one ([`process::sweep`]).

pub mod wait;

pub mod process;

pub mod host;

pub mod net;

pub mod sip;

pub mod udp;

pub mod phone;

pub mod flood;

pub mod peer;

pub mod http;

pub mod kamailio;

pub mod starling;

pub mod compare;

pub mod topology;
