//! How Kamailio says it: one module per DMQ channel.
