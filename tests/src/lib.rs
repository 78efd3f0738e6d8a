//! Golden captures, real processes, real Kamailio, tidy.
