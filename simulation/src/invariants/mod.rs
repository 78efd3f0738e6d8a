//! The promises, one file each, checked while a run goes on and at its end.
//!
//! A checker is told every moment that can matter to it, looks at the world through [`View`], and says what is wrong in a
//! sentence that names the node, the cell and the rule. It changes nothing: a run is the same with and without it.

mod costs;
mod dialog_order;
mod dialogs;
mod equal_in_time;
mod exact_counters;
mod facts;
#[cfg(test)]
mod fake;
mod keys;
mod memory;
mod no_return;
mod nothing_lost;
mod phones;
mod refusals;
mod same_writes;
mod unique_dots;

use node::{Mono, Origin};
use serde::{Deserialize, Serialize};

pub use self::costs::Costs;
pub use self::dialog_order::DialogOrder;
pub use self::dialogs::Dialogs;
pub use self::equal_in_time::EqualInTime;
pub use self::exact_counters::ExactCounters;
pub use self::keys::Keys;
pub use self::memory::Memory;
pub use self::no_return::NoReturn;
pub use self::nothing_lost::NothingLost;
pub use self::phones::Phones;
pub use self::refusals::Refusals;
pub use self::same_writes::SameWrites;
pub use self::unique_dots::UniqueDots;
use crate::ledger::DeedId;
use crate::model::Model;
use crate::view::View;

/// A moment that the world tells the checkers of. Nodes are positions in `script.nodes`.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// A node's process has started; its replica was restored from its disk.
    Started {
        /// Which.
        node: usize,
        /// The origin of this life.
        origin: Origin,
    },
    /// A node has taken one input and all its outputs were taken from it.
    Stepped {
        /// Which.
        node: usize,
        /// What kind of input.
        input: Kind,
    },
    /// A node's process was killed; its last state is gone but for its disk. Told before it goes.
    Crashing {
        /// Which.
        node: usize,
    },
    /// A deed ended for whoever did it.
    Ended {
        /// Which.
        deed: DeedId,
    },
    /// A second has passed.
    Second,
    /// All load and all faults are over.
    Calm,
    /// Everything was found equal for the first time since `Calm`.
    Equal,
    /// The run is over: equal, or out of time.
    End {
        /// Whether all were equal in time.
        equal: bool,
    },
}

/// What kind of input a node took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Time.
    Tick,
    /// Something of a link to another node.
    Mesh,
    /// SIP from a server of the script.
    Server,
    /// SIP from a stranger, or from a hostile server.
    Hostile,
    /// Disk.
    Disk,
    /// A command that was carried out.
    Command,
    /// A command that was refused.
    Refused,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The property, as [`Invariant::name`] says it.
    pub property: String,
    /// When, virtual microseconds.
    pub at_us: u64,
    /// What is wrong, in a sentence.
    pub what: String,
}

/// A promise.
pub trait Invariant {
    /// Its name, in words with dashes.
    fn name(&self) -> &'static str;

    /// Looks at a moment.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String>;
}

/// All of them, for a run of this script.
pub fn all(script: &crate::Script) -> Vec<Box<dyn Invariant>> {
    let model = Model::shared();
    vec![
        Box::new(UniqueDots::new(model.clone())),
        Box::new(SameWrites::new(model.clone())),
        Box::new(NothingLost::new(model.clone(), script)),
        Box::new(NoReturn::new(model.clone(), script)),
        Box::new(DialogOrder::new(model.clone())),
        Box::new(Dialogs::new(model.clone(), script)),
        Box::new(Refusals::new(model.clone(), script)),
        Box::new(EqualInTime::new(model.clone())),
        Box::new(Phones::new(model.clone(), script)),
        Box::new(Keys::new(model.clone(), script)),
        Box::new(ExactCounters::new(model.clone(), script)),
        Box::new(Costs::new(model)),
        Box::new(Memory::default()),
    ]
}

/// Tells all of them of a moment.
///
/// # Errors
/// The first promise found broken.
pub(crate) fn tell(all: &mut [Box<dyn Invariant>], moment: Moment, world: &dyn View) -> Result<(), Violation> {
    for one in all {
        one.at(moment, world).map_err(|what| Violation {
            property: one.name().to_owned(),
            at_us: world.now().0,
            what,
        })?;
    }
    Ok(())
}

/// A moment in words, for a violation.
pub(crate) fn moment_of(at: Mono) -> String {
    format!("{}.{:03} s", at.ms() / 1_000, at.ms() % 1_000)
}
