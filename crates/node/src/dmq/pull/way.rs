//! What the way between a server and us is like: whether large answers arrive, and when all that was lost has been repeated.
//!
//! It leaves to its parent what depends on that. Invariant: what was lost while nothing passed at all does not count; that says
//! nothing of the way.

use crate::io::Mono;

/// The longest pause between two repetitions of a request, milliseconds: RFC 3261's T2.
const T2_MS: u64 = 4_000;

/// What was lost where repetitions are lost too may come until the server gives up repeating it, milliseconds: its `fr_timer`.
const LOSSY_REPEATS_MS: u64 = 30_000;

/// A way that has lost something is taken to lose repetitions too for so long, milliseconds: a ping a minute passes at least.
const LOSSY_MS: u64 = 60_000;

/// An answer that comes later than this was lost at first, or what it answers, milliseconds: RFC 3261's T1.
const PROMPT_MS: u64 = 500;

/// How many echoes are asked for.
const ECHOES: u32 = 3;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Way {
    echoes: Echoes,
    /// When something was last sent that was lost at first.
    lost_at: Option<Mono>,
    /// Since when anything passes.
    passes_since: Mono,
}

/// Whether large answers arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Echoes {
    /// Nothing had to be proven.
    #[default]
    Unwanted,
    /// So many are on their way.
    Awaited { left: u32, since: Mono },
    /// All have come.
    Heard { since: Mono },
    /// One never came.
    Lost,
}

/// What is known of the answers that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// None were.
    Unwanted,
    /// Some are on their way.
    Awaited,
    /// They arrive, and what was lost of a dump before them has been repeated by then.
    By(Mono),
    /// They do not.
    Lost,
}

impl Way {
    /// As it is for the next dump.
    pub(super) fn forget_echoes(&mut self) {
        self.echoes = Echoes::Unwanted;
    }

    /// Echoes are asked for now: so many.
    pub(super) fn ask(&mut self, now: Mono) -> u32 {
        self.echoes = Echoes::Awaited { left: ECHOES, since: now };
        ECHOES
    }

    /// An echo has come, or never will.
    pub(super) fn echoed(&mut self, arrived: bool, now: Mono) {
        let Echoes::Awaited { left, since } = self.echoes else { return };
        if now.ms_since(since) >= PROMPT_MS {
            self.lost(since);
        }
        self.echoes = match (arrived, left) {
            (false, _) => Echoes::Lost,
            (_, ..=1) => Echoes::Heard { since },
            (_, left) => Echoes::Awaited { left: left - 1, since },
        };
    }

    /// Something that was sent then, either way, was lost at first.
    pub(crate) fn lost(&mut self, sent: Mono) {
        if sent >= self.passes_since {
            self.lost_at = self.lost_at.max(Some(sent));
        }
    }

    /// Something came that the server has sent before, in vain; nobody can tell when first.
    pub(crate) fn repeated(&mut self, now: Mono) {
        if now.minus_ms(LOSSY_REPEATS_MS) >= self.passes_since {
            self.lost_at = self.lost_at.max(Some(now));
        }
    }

    /// Until now nothing passed.
    pub(crate) fn passes_again(&mut self, now: Mono) {
        (self.lost_at, self.passes_since) = (None, now);
    }

    /// What the echoes prove of a dump that was asked for at `begun`. They show what the way is like now, not what it was like
    /// when the dump was sent; each pause between repetitions is as long as all the time before it, and half a second, but T2 at
    /// most. A few echoes may come in time where a tenth of all is lost, so whatever was lost lately counts.
    pub(super) fn evidence(&self, begun: Mono) -> Evidence {
        let since = match self.echoes {
            Echoes::Unwanted => return Evidence::Unwanted,
            Echoes::Awaited { .. } => return Evidence::Awaited,
            Echoes::Lost => return Evidence::Lost,
            Echoes::Heard { since } => since,
        };
        if self.lost_at.is_some_and(|at| since.ms_since(at) <= LOSSY_MS) {
            return Evidence::By(since.plus_ms(LOSSY_REPEATS_MS));
        }
        let heard = since.plus_ms(PROMPT_MS);
        Evidence::By(heard.plus_ms((heard.ms_since(begun) + PROMPT_MS).min(T2_MS) + PROMPT_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    /// When echoes that are asked for a second after the dump, and come in time, prove it.
    fn proven(way: &mut Way, begun: u64) -> Evidence {
        for _ in 0..way.ask(at(begun + 1_000)) {
            assert_eq!(way.evidence(at(begun)), Evidence::Awaited);
            way.echoed(true, at(begun + 1_010));
        }
        way.evidence(at(begun))
    }

    #[test]
    fn a_dump_is_proven_after_a_repetition_where_nothing_is_lost_and_after_all_of_them_where_anything_was() {
        let mut way = Way::default();
        assert_eq!(way.evidence(at(0)), Evidence::Unwanted);
        assert_eq!(proven(&mut way, 100_000), Evidence::By(at(104_000)));
        way.lost(at(50_000));
        assert_eq!(proven(&mut way, 100_000), Evidence::By(at(131_000)));
        assert_eq!(proven(&mut way, 109_000), Evidence::By(at(140_000)), "a minute before the echoes");
        assert_eq!(proven(&mut way, 109_001), Evidence::By(at(113_001)), "longer ago");
    }

    #[test]
    fn what_was_lost_while_nothing_passed_does_not_count() {
        let mut way = Way::default();
        way.lost(at(90_000));
        way.passes_again(at(95_000));
        way.lost(at(94_999));
        assert_eq!(proven(&mut way, 100_000), Evidence::By(at(104_000)));
        way.repeated(at(124_999));
        assert_eq!(proven(&mut way, 125_000), Evidence::By(at(129_000)));
        way.repeated(at(125_000));
        assert_eq!(proven(&mut way, 125_000), Evidence::By(at(156_000)));
    }

    #[test]
    fn one_echo_that_is_late_or_lost_is_enough() {
        let mut way = Way::default();
        way.ask(at(1_000));
        for came in [1_001, 1_500, 1_501] {
            way.echoed(true, at(came));
        }
        assert_eq!(way.evidence(at(0)), Evidence::By(at(31_000)));
        way.ask(at(1_000));
        way.echoed(false, at(9_000));
        way.echoed(true, at(9_001));
        assert_eq!(way.evidence(at(0)), Evidence::Lost);
        way.forget_echoes();
        assert_eq!(way.evidence(at(0)), Evidence::Unwanted);
    }
}
