//! The sans-IO node: membership, anti-entropy, the SIP front end and KDMQ peers.
