//! The only place that draws random numbers: the operating system's, by way of the TLS provider.

use crate::tls::provider;

/// `N` random bytes.
///
/// # Panics
///
/// If the operating system has no randomness to give: then neither identities nor TLS can work.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    provider().secure_random.fill(&mut out).expect("the operating system gives random bytes");
    out
}

/// A random number that is not 0.
pub(crate) fn number() -> u64 {
    loop {
        let drawn = u64::from_le_bytes(bytes());
        if drawn != 0 {
            return drawn;
        }
    }
}
