//! A stream of randomness for each participant, so that taking one away leaves the others as they were.

use std::hash::BuildHasher as _;

use foldhash::quality::FixedState;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;

/// A number that only these three decide, on every machine.
pub(crate) fn number(seed: u64, kind: &str, id: u64) -> u64 {
    FixedState::with_seed(seed).hash_one((kind.as_bytes(), id))
}

/// The stream of participant `id` of a kind.
pub(crate) fn stream(seed: u64, kind: &str, id: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(number(seed, kind, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_kind_and_number_each_make_another_stream() {
        let all = [number(1, "phone", 1), number(2, "phone", 1), number(1, "writer", 1), number(1, "phone", 2)];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one));
        }
        assert_eq!(number(1, "phone", 1), all[0]);
    }
}
