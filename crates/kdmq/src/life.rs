//! Which life of a server a message is from, and which of its processes sent it.
//!
//! Kamailio numbers its own requests in the Call-ID: `<16 hex digits>-<pid>@<ip>`. The number starts
//! at one random value for all processes of a server's life and goes up by one per message in each
//! process. So a jump tells a restart, and the numbers of one process tell a gap in a dump.

/// The number and the process in the Call-ID of a server's own request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallIdCounter {
    /// Counts up by one per message of the process.
    pub counter: u64,
    /// The process; may repeat over restarts, in containers above all.
    pub pid: u32,
}

impl CallIdCounter {
    /// Numbers farther apart than this belong to different lives.
    pub const SAME_LIFE: u64 = 1 << 32;

    /// Reads a Call-ID; `None` if it is not of that form (5.x and 6.x with stateless sending, other
    /// software).
    pub fn parse(call_id: &[u8]) -> Option<Self> {
        let at = call_id.iter().position(|&byte| byte == b'@')?;
        let (counter, pid) = call_id.get(..at)?.split_at_checked(16)?;
        let pid = pid.strip_prefix(b"-")?;
        let digits = |text: &[u8], radix| {
            let plain = text.iter().all(u8::is_ascii_alphanumeric);
            std::str::from_utf8(text).ok().filter(|_| plain).and_then(|t| u64::from_str_radix(t, radix).ok())
        };
        let pid = u32::try_from(digits(pid, 10)?).ok()?;
        Some(Self { counter: digits(counter, 16)?, pid })
    }

    /// Whether `other` comes from the same life of the same server.
    pub fn same_life(self, other: Self) -> bool {
        let ahead = self.counter.wrapping_sub(other.counter);
        ahead.min(ahead.wrapping_neg()) < Self::SAME_LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kamailio_call_id_tells_counter_and_process() {
        let id = CallIdCounter::parse(b"0a6db7ce784fec38-32559@127.0.0.11").unwrap();
        assert_eq!((id.counter, id.pid), (0x0a6d_b7ce_784f_ec38, 32559));
    }

    #[test]
    fn other_call_ids_tell_nothing() {
        for id in [
            "",
            "@",
            "abc-1@x",
            "0a6db7ce784fec38@x",
            "0a6db7ce784fec38-@x",
            "0a6db7ce784fec38-+5@x",
            "+a6db7ce784fec38-5@x",
        ] {
            assert_eq!(CallIdCounter::parse(id.as_bytes()), None, "{id}");
        }
    }

    #[test]
    fn near_counters_are_one_life_in_either_direction_and_over_the_end() {
        let at = |counter| CallIdCounter { counter, pid: 1 };
        assert!(at(5).same_life(at(100_000)) && at(100_000).same_life(at(5)));
        assert!(at(u64::MAX).same_life(at(3)));
        assert!(!at(0).same_life(at(1 << 32)));
    }
}
