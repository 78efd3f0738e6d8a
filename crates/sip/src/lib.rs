//! SIP messages, URIs and non-INVITE transactions (RFC 3261), without sockets and clocks.
