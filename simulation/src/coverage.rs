//! What must have happened at least once in a sweep: otherwise it tests less than it seems to.

use std::collections::BTreeMap;

/// Declares [`Sometimes`] and [`ALL`].
macro_rules! sometimes {
    ($($name:ident = $key:literal, $title:literal;)+) => {
        /// An event that a run may or may not have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sometimes {
            $(#[doc = $title] $name,)+
        }

        /// All events: key and title.
        pub const ALL: &[(&str, &str)] = &[$(($key, $title),)+];
    };
}

sometimes! {
    SessionCut = "session-cut", "A sync session was cut half way.";
    BrokenMidFrame = "broken-mid-frame", "A link ended while a frame was under way.";
    FrameStalled = "frame-stalled", "A cut held up a frame, which arrived after it.";
    DialOneWay = "dial-one-way", "A node dialed while only one direction passed.";
    DatagramTwice = "datagram-twice", "A SIP datagram arrived twice.";
    DatagramLost = "datagram-lost", "A SIP datagram was lost on its way.";
    StreamBroken = "stream-broken", "A TCP connection broke while bytes were under way.";
    StreamRefused = "stream-refused", "A server closed a TCP connection whose bytes it could not read.";
    CrashWhileWriting = "crash-while-writing", "A node crashed while a batch was being written.";
    TailWritten = "tail-written", "The batch under way was written, and the node that crashed did not know.";
    LostFsync = "lost-fsync", "Batches that were called fsynced were gone after a crash.";
    TornEntry = "torn-entry", "A node started with an entry on disk that could not be read.";
    Backup = "backup", "A node started from an old backup.";
    Wiped = "wiped", "A node started with a wiped disk.";
    NewIdentity = "new-identity", "A node came back under a new identity.";
    MemoryOnly = "memory-only", "A node without a disk was restarted.";
    DiskRefused = "disk-refused", "A disk refused a batch.";
    Paused = "paused", "A node stood still for longer than its links live.";
    ServerRestarted = "server-restarted", "A server was restarted.";
    ServerWhileNodeDown = "server-while-node-down", "A server was restarted while its node was down.";
    ServerFell = "server-fell", "A server went down by what it was sent or held.";
    NodeWhileServerDown = "node-while-server-down", "A node was restarted while its server was down.";
    JoinDuringCut = "join-during-cut", "A node was started while it was cut off from another one.";
    ClockBack = "clock-back", "A wall clock went back.";
    Skewed = "skewed", "A node found another one's clock too far off.";
    TooFarAhead = "too-far-ahead", "A cell came from too far ahead in time.";
    PullAborted = "pull-aborted", "A sync session broke off or stalled.";
    PushDropped = "push-dropped", "A queue of pushes was full.";
    DuplicateLink = "duplicate-link", "Two nodes had dialed each other at once.";
    OtherVersion = "other-version", "Two nodes that speak different versions of the protocol met.";
    Forgotten = "forgotten", "A removal was forgotten by stability.";
    LateWrite = "late-write", "A node met one that had forgotten what it still might hold.";
    Absent = "absent", "What a server no longer showed was removed.";
    Corrected = "corrected", "A server was told that it holds a loser.";
    Unanswered = "unanswered", "A server did not answer what it was told.";
    Lease = "lease", "A lease was renewed.";
    HostileRefused = "hostile-refused", "A hostile message was refused.";
    CommandRefused = "command-refused", "A command was refused.";
    AckedAndLost = "acked-and-lost", "A node that had acknowledged writes crashed before they were on disk.";
    CallRefused = "call-refused", "What was said of a call was refused: it had ended, or was not known.";
    DeedUnknown = "deed-unknown", "Somebody got no answer.";
    EqualAfterCalm = "equal-after-calm", "After faults everybody became equal.";
}

/// How often each happened.
#[derive(Clone, Debug)]
pub(crate) struct Coverage([u64; ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; ALL.len()])
    }
}

impl Coverage {
    /// It happened so many times.
    pub(crate) fn add(&mut self, what: Sometimes, times: u64) {
        self.0[what as usize] += times;
    }

    /// All by key, those that never happened too.
    pub(crate) fn rows(&self) -> BTreeMap<&'static str, u64> {
        ALL.iter().zip(self.0).map(|((key, _), times)| (*key, times)).collect()
    }
}

/// The counters of a node that tell of something in the list.
pub(crate) const METRICS: &[(&str, Sometimes)] = &[
    ("skew_alarms_total", Sometimes::Skewed),
    ("cells_too_far_ahead_total", Sometimes::TooFarAhead),
    ("sync_pulls_aborted_total", Sometimes::PullAborted),
    ("push_cells_dropped_total", Sometimes::PushDropped),
    ("links_duplicate_total", Sometimes::DuplicateLink),
    ("dmq_absences_total", Sometimes::Absent),
    ("dmq_corrections_total", Sometimes::Corrected),
    ("dmq_unanswered_total", Sometimes::Unanswered),
    ("dmq_leases_renewed_total", Sometimes::Lease),
    ("journal_failures_total", Sometimes::DiskRefused),
    ("journal_unreadable_total", Sometimes::TornEntry),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_events_are_counted_under_their_own() {
        let mut coverage = Coverage::default();
        coverage.add(Sometimes::EqualAfterCalm, 2);
        let rows = coverage.rows();
        assert_eq!((rows.len(), rows["equal-after-calm"], rows["session-cut"]), (ALL.len(), 2, 0));
    }
}
