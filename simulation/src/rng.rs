//! Streams of randomness: each participant and each path has its own, so that taking one away leaves the others alone.

/// What a stream is for. Part of its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Stream {
    /// A node's own seed, by number and life.
    Node = 1,
    /// Origins, by number and life.
    Origin,
    /// A path, by its two ends.
    Path,
    /// A connection between nodes.
    Link,
    /// A disk.
    Disk,
    /// A server's seed, and its lives.
    Server,
    /// A phone.
    Phone,
    /// A writer.
    Writer,
    /// A hostile sender, by its place in the list of faults.
    Hostile,
    /// A TCP connection.
    Tcp,
    /// A call.
    Call,
}

/// A generator of small state (SplitMix64, Steele et al. 2014), for the many streams of a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of one participant.
    pub(crate) const fn stream(seed: u64, stream: Stream, id: u64) -> Self {
        let mixed = mix(seed ^ mix(stream as u64 ^ mix(id)));
        Self(mixed)
    }

    /// The next 64 bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }

    /// A number of this range, ends included.
    pub(crate) const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True so many times in a thousand.
    pub(crate) const fn permille(&mut self, share: u32) -> bool {
        share > 0 && self.below(1_000) < share as u64
    }

    /// An exponentially distributed number with about this mean. In whole numbers only, so that it is the same on every
    /// machine: the logarithm is taken as linear between two powers of two.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        if mean == 0 {
            return 0;
        }
        let bits = self.next() | 1;
        let zeros = u64::from(bits.leading_zeros());
        let fraction = (bits << zeros << 1) >> 48;
        // 45,426 is ln 2 in 65,536ths.
        let nats = ((zeros + 1) * 65_536 - fraction) * 45_426 / 65_536;
        (u128::from(mean) * u128::from(nats) / 65_536) as u64
    }

    /// 32 bytes for another generator's seed.
    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_le_bytes()));
        bytes
    }
}

const fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_what_they_are_for_and_whom() {
        let first = |stream, id| Rng::stream(7, stream, id).next();
        assert_eq!(first(Stream::Node, 1), first(Stream::Node, 1));
        assert_ne!(first(Stream::Node, 1), first(Stream::Node, 2));
        assert_ne!(first(Stream::Node, 1), first(Stream::Disk, 1));
        assert_ne!(Rng::stream(8, Stream::Node, 1).next(), first(Stream::Node, 1));
    }

    #[test]
    fn an_exponential_draw_has_its_mean_and_a_tail() {
        let mut rng = Rng::stream(1, Stream::Path, 1);
        let draws: Vec<u64> = (0..20_000).map(|_| rng.exponential(1_000)).collect();
        let mean = draws.iter().sum::<u64>() / draws.len() as u64;
        assert!((900..1_100).contains(&mean), "{mean}");
        assert!(draws.iter().any(|&draw| draw > 5_000) && draws.iter().any(|&draw| draw < 50));
        assert_eq!(rng.exponential(0), 0);
    }
}
