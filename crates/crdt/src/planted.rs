//! Known bugs, to be planted one at a time: proof that whoever checks a node would find them.
//!
//! Each [`Bug`] undoes one rule of docs/rules.md at the place where it is kept, in the way its *without it* describes, or
//! one habit of the node that the rules rest on. The places read `if planted::on(Bug::..)`, here and in the node. Without
//! the feature `planted` that is a constant `false`, and nothing of it is left in the program. With it one bug, or none,
//! is chosen for the whole process by `choose`.
//!
//! Not among them, because the present code has no place for them, or because nobody could tell:
//!
//! - rule 18: the daemon refuses such a configuration, and rules that differ between nodes are refused at hello;
//! - what the sender covers and did not show, kept at the end of a session that is not full (R2): it has lost to something
//!   that the session brings, or is dead;
//! - dots trusted in a repair (R9): a repair runs only where another bug has already been seen;
//! - a relay that drops: clocks and sessions make up for it, so it costs two seconds and nothing else;
//! - a cell that its dot shows to be old, relayed as it came: the push queue holds names of cells, not versions.
//!
//! **Invariant:** with nothing chosen the feature changes nothing.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// Declares [`Bug`]: what it does, its variant, its name, and the rule that it undoes.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident = $name:literal, $rule:literal;)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// Every bug, in the order of the rules.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// Its name on command lines: words with dashes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)+ }
            }

            /// What it does, in one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$bug => concat!($($what),+).trim_ascii(),)+ }
            }

            /// The rule that it undoes, by its number in docs/rules.md; `glue`: a habit of the node.
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$bug => $rule,)+ }
            }
        }
    };
}

bugs! {
    /// A process goes on under the origin of the one before it, from the sequence that the disk knows.
    OriginReused = "origin-reused", "origins";
    /// What comes of a retired origin is taken up again.
    RetiredTakenUp = "retired-taken-up", "origins";

    /// An expired version is forgotten by its own deadline, not by the time of its write.
    ForgetAtOwnDeadline = "forget-at-own-deadline", "R1";
    /// Where ranks decide before stamps, versions live and are forgotten by their stamp all the same, not by the birth.
    RankedForgottenByStamp = "ranked-forgotten-by-stamp", "R1";
    /// A version of a cell with ranks is born anew with each write.
    BirthNotCopied = "birth-not-copied", "R1";
    /// A version may live as long as was asked for, beyond what its table allows.
    DeadlineNotClamped = "deadline-not-clamped", "R1";

    /// The receiver takes the sender's clock as it is at the end of the session.
    ClockOfTheEnd = "clock-of-the-end", "R2";
    /// After each chunk the receiver covers everything up to the dots that have come.
    ClockPerChunk = "clock-per-chunk", "R2";
    /// An owed cell that was overwritten before its turn is not sent at all.
    OverwrittenNotSent = "overwritten-not-sent", "R2";
    /// A session goes on although an owed cell was forgotten by stability.
    VoidSessionGoesOn = "void-session-goes-on", "R2";

    /// The dot of a cell that was refused as too far ahead is covered.
    RefusedIsCovered = "refused-is-covered", "R3";
    /// Data is exchanged with a node whatever its clock shows.
    SkewedPeerTrusted = "skewed-peer-trusted", "R3";
    /// Forgetting goes on while the own clock is too far from the others'.
    ForgetWhileSkewed = "forget-while-skewed", "R3";
    /// Times that come from servers are believed also when they lie ahead.
    SipTimesAhead = "sip-times-ahead", "R3";

    /// Two versions with equal rank, stamp and removal are not told apart: the first one stays.
    DotLeftOut = "dot-left-out", "R4";
    /// Two versions of the same time are not told apart, wherever they were written: the first one stays.
    TimeAloneDecides = "time-alone-decides", "R4";
    /// After a crash the hybrid clock begins with the wall clock, below what it gave before.
    HybridRestartsBelow = "hybrid-restarts-below", "R4";
    /// A local write is stamped by the wall clock alone, not above the version that it replaces.
    WallClockStamps = "wall-clock-stamps", "R4";
    /// Call-ID and CSeq are not looked at: of two messages about a contact the later arrival is the newer.
    CseqIgnored = "cseq-ignored", "R4";

    /// What a node shows for forgetting is its clock in memory, not the one on its disk.
    StableFromMemory = "stable-from-memory", "R5";
    /// The clock of a member counts before the own clock includes it.
    StableUnseen = "stable-unseen", "R5";
    /// Forgetting waits for no other node: nobody enters the roster.
    RosterIgnored = "roster-ignored", "R5";

    /// Pushes flow between any two nodes, also where a session has to put one of them right first.
    PushesFromAnybody = "pushes-from-anybody", "R6";
    /// What was forgotten by stability is not read back from the disk.
    ForgottenNotKept = "forgotten-not-kept", "R6";
    /// No session is full, whatever the receiver lacks of what was forgotten.
    NeverFull = "never-full", "R6";
    /// At the end of a full session nothing is dropped that the sender covers and did not show.
    FullKeepsUnshown = "full-keeps-unshown", "R6";
    /// At the end of a full session everything is dropped that the sender did not show, also what it never saw.
    FullTakesOver = "full-takes-over", "R6";
    /// At the end of a full session nothing is issued again.
    FullReissuesNothing = "full-reissues-nothing", "R6";
    /// What wins of a sender that lacks what was forgotten here is not issued again.
    SuspectTaken = "suspect-taken", "R6";

    /// A new cell may get a stamp below what was forgotten in its table.
    NoFloor = "no-floor", "R7";
    /// A removal is forgotten before the servers that have what it removes know of it.
    ServersNotWaitedFor = "servers-not-waited-for", "R7";

    /// A process goes on with the counter contribution of the one before it.
    ContributionResumed = "contribution-resumed", "R8";
    /// Setting or deleting a counter begins no epoch.
    EpochIsNoRank = "epoch-is-no-rank", "R8";
    /// Deleting a counter removes what is known of it and leaves no epoch behind.
    DeletedCounterReturns = "deleted-counter-returns", "R8";

    /// Digests sum over tombstones as well.
    DigestOfTheDead = "digest-of-the-dead", "R9";

    /// A server's removal of a contact that is not held is no write.
    UnknownContactNotRemoved = "unknown-contact-not-removed", "10";
    /// A server's delete of an entry that is not held is no write.
    UnknownEntryNotDeleted = "unknown-entry-not-deleted", "10";
    /// A set that says the value that is held is no write, however old that is, and whatever the deadline.
    SameValueIsNoWrite = "same-value-is-no-write", "11";
    /// Every node that hears a server takes its messages in; only feeding it is the owner's.
    OwnershipOfOutputOnly = "ownership-of-output-only", "12";
    /// What was held for the owner of a server is dropped at the fail-over.
    HeldMessagesDropped = "held-messages-dropped", "12";
    /// A server's removal wins over whatever is held.
    RemovalAlwaysWins = "removal-always-wins", "13";
    /// What a dump shows is taken for written now.
    PulledIsNow = "pulled-is-now", "14";
    /// The ruids that other servers gave a contact are not kept.
    NoAliases = "no-aliases", "15";
    /// The end of a dialog leaves its variables and profiles as they are.
    ChildrenNotRemoved = "children-not-removed", "16";
    /// Variables and profiles are shown whether their dialog is live or not.
    ChildrenOutliveDialog = "children-outlive-dialog", "16";
    /// Of two versions of a dialog the later one wins, whatever their states.
    StateIsNoRank = "state-is-no-rank", "16";
    /// An observed removal is stamped now: it wins over writes that it has not seen.
    RemovalBeatsUnseen = "removal-beats-unseen", "17";

    /// Of two versions the one that arrives later stays.
    MergeByArrival = "merge-by-arrival", "glue";
    /// The winner is not sent back to a server that holds what lost.
    NoCorrection = "no-correction", "glue";
    /// Reads show what is past its deadline until it is forgotten.
    ReadsShowTheDead = "reads-show-the-dead", "glue";
    /// A node that was linked once and is not any more is not dialed again.
    NoRedial = "no-redial", "glue";
    /// Clocks are exchanged at hello only.
    ClocksShownOnce = "clocks-shown-once", "glue";
    /// The disk gets the clock first, and the cells that it covers with the next batch.
    ClockBeforeCells = "clock-before-cells", "glue";
    /// What has to be on disk before it is acknowledged is acknowledged at once.
    AckBeforeDisk = "ack-before-disk", "glue";
    /// A server that does not answer is not greeted again.
    SilentNotGreeted = "silent-not-greeted", "glue";
    /// A server is told news before it was asked for what it took in meanwhile.
    FedBeforeAsked = "fed-before-asked", "glue";
    /// The restart of a server is not noticed.
    RestartUnnoticed = "restart-unnoticed", "glue";
    /// What a server's dump no longer shows is not removed.
    AbsenceIgnored = "absence-ignored", "glue";
    /// A dump with messages missing counts as complete.
    GapsIgnored = "gaps-ignored", "glue";
    /// A node is woken for counters that it may not tell yet.
    WokenForNothing = "woken-for-nothing", "glue";
    /// Where the messages of two servers have crossed, none of them is told the winner.
    ContestNotSettled = "contest-not-settled", "glue";
}

impl Bug {
    /// The bug of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// The chosen bug's number, from 1; 0: none.
#[cfg(feature = "planted")]
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// Plants a bug in this process, instead of the one that was planted before; `None`: none. To be called before any replica
/// is made. Returns whether this build can: without the feature `planted` there is nothing to plant.
pub fn choose(bug: Option<Bug>) -> bool {
    #[cfg(feature = "planted")]
    CHOSEN.store(bug.map_or(0, |bug| bug as u8 + 1), Ordering::Relaxed);
    bug.is_none() || cfg!(feature = "planted")
}

/// The bug that is planted.
pub fn chosen() -> Option<Bug> {
    Bug::ALL.iter().copied().find(|&bug| on(bug))
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub fn on(bug: Bug) -> bool {
    CHOSEN.load(Ordering::Relaxed) == bug as u8 + 1
}

/// Whether this bug is planted: never, in a build without the feature `planted`.
#[cfg(not(feature = "planted"))]
pub const fn on(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name_and_says_what_it_does() {
        let names: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for &bug in Bug::ALL {
            assert_eq!(Bug::by_name(bug.name()), Some(bug));
            assert!(bug.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{bug:?}");
            assert!(bug.what().ends_with('.') && !bug.rule().is_empty(), "{bug:?}");
        }
        assert_eq!(Bug::by_name("no-such-bug"), None);
    }

    #[test]
    fn nothing_is_planted_unless_chosen() {
        assert!(choose(None) && chosen().is_none());
    }
}
