//! What push and sync cost stays within a bound that is linear in what happened.
//!
//! - **Push**: every write goes to every other node once, and through relays perhaps once more; the rest is small talk
//!   per pair of nodes and second, which grows with the number of lives, since clocks name them.
//! - **Rest**: a node is woken for what it has to do, not again and again.
//! - **Sync**: a node is sent what it lacks. That is every write at most once for each node, twice where a push or a
//!   session crossed it, and all that there is for each process that starts.

use super::{Invariant, Kind, Moment};
use crate::model::Shared;
use crate::view::{Traffic, View};

/// Copies of a write per node that pushes may cost.
const PUSHED: u64 = 3;
/// Copies of a write per node that sessions may cost.
const SYNCED: u64 = 3;
/// Small talk per ordered pair of nodes and second, bytes: pings, membership, clocks.
const TALK: u64 = 2_048;
/// What each life adds to a clock that is shown, bytes per ordered pair of nodes and second.
const TALK_PER_LIFE: u64 = 512;

/// So often may a node be woken in a second by nothing but the time, and once more for each SIP message of that second: what is
/// told waits for its turn.
const WAKES: u64 = 500;

/// See the module.
pub struct Costs {
    model: Shared,
    /// How often the time has woken each node in this second, by position.
    wakes: Vec<u64>,
    /// SIP messages up to the last second.
    messages: u64,
}

/// What a run was like.
#[derive(Clone, Copy, Debug)]
struct Size {
    nodes: u64,
    lives: u64,
    secs: u64,
    /// Bytes of all writes.
    written: u64,
}

impl Size {
    const fn talk(self) -> u64 {
        self.nodes * self.nodes * (self.secs + 1) * (TALK + TALK_PER_LIFE * self.lives)
    }

    const fn push(self) -> u64 {
        PUSHED * self.nodes * self.written + self.talk()
    }

    const fn sync(self) -> u64 {
        (SYNCED * self.nodes + self.lives) * self.written + self.talk()
    }
}

fn within(size: Size, traffic: &Traffic) -> Result<(), String> {
    let push = traffic.node_bytes.saturating_sub(traffic.session_bytes);
    for (what, bytes, bound) in [("pushes", push, size.push()), ("sync sessions", traffic.session_bytes, size.sync())] {
        if bytes > bound {
            return Err(format!("{what} took {bytes} bytes, more than {bound}, which is the bound for {size:?}"));
        }
    }
    Ok(())
}

impl Costs {
    /// With the model that `unique_dots` keeps up to date.
    pub const fn new(model: Shared) -> Self {
        Self { model, wakes: Vec::new(), messages: 0 }
    }

    fn woken(&mut self, node: usize) {
        if self.wakes.len() <= node {
            self.wakes.resize(node + 1, 0);
        }
        self.wakes[node] += 1;
    }

    /// A second is over, and there have been so many SIP messages so far.
    fn rested(&mut self, messages: u64) -> Result<(), String> {
        let allowed = WAKES + (messages - std::mem::replace(&mut self.messages, messages));
        let most = self.wakes.iter().enumerate().max_by_key(|(_, wakes)| **wakes).map(|(node, wakes)| (node, *wakes));
        self.wakes.fill(0);
        match most {
            Some((node, wakes)) if wakes > allowed => Err(format!("node {node} was woken {wakes} times in a second")),
            _ => Ok(()),
        }
    }
}

impl Invariant for Costs {
    fn name(&self) -> &'static str {
        "costs"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        match moment {
            Moment::Stepped { node, input: Kind::Tick } => self.woken(node),
            Moment::Second => return self.rested(world.traffic().sip_messages),
            _ => {}
        }
        if !matches!(moment, Moment::Calm | Moment::End { .. }) {
            return Ok(());
        }
        let lives = (0..world.nodes()).map(|node| u64::from(world.node(node).lives)).sum();
        let (nodes, secs) = (world.nodes() as u64, world.now().ms() / 1_000);
        let size = Size { nodes, lives, secs, written: self.model.borrow().bytes() };
        within(size, world.traffic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { nodes: 5, lives: 7, secs: 60, written: 10_000_000 };

    #[test]
    fn a_node_that_does_not_sleep_is_found() {
        let mut costs = Costs::new(crate::model::Model::shared());
        (0..WAKES).for_each(|_| costs.woken(1));
        assert_eq!(costs.rested(70), Ok(()));
        (0..=WAKES).for_each(|_| costs.woken(1));
        assert!(costs.rested(70).unwrap_err().contains("node 1 was woken"));
        assert_eq!(costs.rested(70), Ok(()), "the next second");
        (0..=WAKES).for_each(|_| costs.woken(1));
        assert_eq!(costs.rested(71), Ok(()), "for what it tells");
    }

    #[test]
    fn one_copy_per_node_passes() {
        let traffic = Traffic { node_bytes: 60_000_000, session_bytes: 10_000_000, ..Traffic::default() };
        assert_eq!(within(SIZE, &traffic), Ok(()));
    }

    #[test]
    fn pushing_everything_again_and_again_is_found() {
        let traffic = Traffic { node_bytes: 1_000_000_000, session_bytes: 0, ..Traffic::default() };
        assert!(within(SIZE, &traffic).unwrap_err().contains("pushes took"));
    }

    #[test]
    fn sending_everything_in_every_session_is_found() {
        let traffic = Traffic { node_bytes: 1_000_000_000, session_bytes: 1_000_000_000, ..Traffic::default() };
        assert!(within(SIZE, &traffic).unwrap_err().contains("sync sessions took"));
    }
}
