//! Phones with SIP habits, writers of tables, operators: each with a stream of randomness of its own.

use node::Mono;

use crate::ledger::{Deed, DeedId, Ended, Ledger, What};
use crate::script::{Entry, Script};

/// All load of a run.
pub struct Load {}

/// Something that load wants done now.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its entry in the ledger.
    pub deed: DeedId,
    /// Where.
    pub at: Entry,
    /// What. More about it (Call-ID, CSeq, instance) is in [`Ask::phone`].
    pub what: What,
    /// For what a phone does: how it says so.
    pub phone: Option<PhoneWords>,
}

/// The words of a phone's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneWords {
    /// Call-ID.
    pub callid: String,
    /// CSeq number.
    pub cseq: u32,
    /// `+sip.instance` with angle brackets, or empty.
    pub instance: String,
    /// `reg-id`, 0 if none.
    pub reg_id: u32,
}

impl Load {
    /// The load of a script.
    pub fn new(_script: &Script) -> Self {
        Self {}
    }

    /// When somebody wants to act next.
    pub fn wakeup(&self) -> Mono {
        Mono(u64::MAX)
    }

    /// What is to be done now; each is begun in the ledger.
    pub fn due(&mut self, _now: Mono, _ledger: &mut Ledger) -> Vec<Ask> {
        Vec::new()
    }

    /// How something ended; the phone goes on accordingly (another server after a failure).
    pub fn ended(&mut self, _deed: DeedId, _what: &Deed, _how: Ended, _now: Mono) {}
}
