//! Membership: SWIM by foca, with the glue that it leaves to its users.
//!
//! Packets ride as datagrams of a link to the address they are for; where there is no link they are dropped (the dialer
//! is at work). What foca needs from us, each point reproduced before it was written down: a watchdog that announces to
//! every linked node that is not an active member, because a lost first announce is never retried and a node alone stops
//! its own timers; identities that renew themselves; announcing to members that are down; and a memory of members that is
//! at least as long as `forget_after`.
//!
//! What comes out is a hint. Nothing is dropped because a member is down.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use crdt::NodeId;
use foca::{AccumulatingRuntime, Foca, Identity, NoCustomBroadcast, OwnedNotification, PeriodicParams, PostcardCodec};
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::Timing;
use crate::io::Mono;

/// The largest packet, bytes: fits a QUIC datagram before path MTU discovery.
const PACKET_MAX: usize = 1_100;

/// How often linked nodes that are no active members are announced to, milliseconds.
const WATCH_MS: u64 = 2_000;

/// A member as SWIM names it. One address is one member; the greater generation wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Id {
    /// Advertised address.
    pub addr: SocketAddr,
    /// Stable id.
    pub node: NodeId,
    /// Grows with every start and every time that the member was declared down.
    pub generation: u64,
    /// Name.
    pub name: String,
}

/// A generation is renewed by no more than two to this power at once: as milliseconds, 19 hours.
const LARGEST_STEP: u32 = 26;

impl Identity for Id {
    type Addr = SocketAddr;

    /// By larger and larger steps: a process whose clock was ahead may have had a generation that is hours away, and if the disk
    /// is gone since, nobody here knows which. Each step ends on a power of two, which is how the next one knows its size.
    fn renew(&self) -> Option<Self> {
        let step = (self.generation.trailing_zeros() + 1).min(LARGEST_STEP);
        let generation = (self.generation >> step).saturating_add(1).checked_shl(step).unwrap_or(u64::MAX);
        Some(Self { generation: generation.max(self.generation.saturating_add(1)), ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.node) > (adversary.generation, adversary.node)
    }
}

/// What membership wants done or known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SwimEvent {
    /// Send this packet to the node at this address, or drop it.
    Send(SocketAddr, Bytes),
    /// A member appeared or came back.
    Up(Id),
    /// A member has another identity at the same address.
    Renamed(Id),
    /// A member was declared down.
    Down(Id),
    /// This node renewed its identity; the generation is to be kept on disk.
    Renewed(u64),
}

/// The membership protocol.
pub(super) struct Swim {
    foca: Foca<Id, PostcardCodec, ChaCha8Rng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BTreeMap<(Mono, u64), foca::Timer<Id>>,
    timers_set: u64,
    watch_at: Mono,
    events: VecDeque<SwimEvent>,
}

impl Swim {
    /// A member that knows nobody.
    pub(super) fn new(id: Id, timing: Timing, forget_after_s: u64, rng: ChaCha8Rng, now: Mono) -> Self {
        Self {
            foca: Foca::new(id, config(timing, forget_after_s), rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            watch_at: now.plus_ms(WATCH_MS),
            events: VecDeque::new(),
        }
    }

    /// This node's current identity.
    pub(super) fn id(&self) -> &Id {
        self.foca.identity()
    }

    /// Everybody that is known, with the failure detector's opinion.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Id, foca::State)> {
        self.foca.iter_membership_state().map(|member| (member.id(), member.state()))
    }

    /// The opinion on the member at an address.
    pub(super) fn state(&self, addr: SocketAddr) -> Option<foca::State> {
        self.members().find(|(id, _)| id.addr == addr).map(|(_, state)| state)
    }

    /// Asks a node, to which a link has come up, to take us in.
    pub(super) fn announce(&mut self, to: Id, now: Mono) {
        let done = self.foca.announce(to, &mut self.runtime);
        debug_assert!(done.is_ok(), "{done:?}");
        self.drain(now);
    }

    /// Takes in a packet. Gives whether it was understood.
    pub(super) fn packet(&mut self, bytes: &[u8], now: Mono) -> bool {
        let understood = self.foca.handle_data(bytes, &mut self.runtime).is_ok();
        self.drain(now);
        understood
    }

    /// Fires what is due. `linked` are the identities of the nodes that a link leads to.
    pub(super) fn tick(&mut self, linked: impl Iterator<Item = Id>, now: Mono) {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            // An error here says that a packet could not be encoded or a probe was late; foca goes on by itself.
            let _ = self.foca.handle_timer(timer.remove(), &mut self.runtime);
            self.drain(now);
        }
        if self.watch_at > now {
            return;
        }
        self.watch_at = now.plus_ms(WATCH_MS);
        for id in linked {
            if !matches!(self.state(id.addr), Some(foca::State::Alive | foca::State::Suspect)) {
                self.announce(id, now);
            }
        }
    }

    /// When [`Swim::tick`] has something to do.
    pub(super) fn next(&self) -> Mono {
        let timer = self.timers.first_key_value().map_or(self.watch_at, |(&(at, _), _)| at.min(self.watch_at));
        if self.events.is_empty() { timer } else { Mono(0) }
    }

    /// The next thing that membership wants done or known.
    pub(super) fn poll(&mut self) -> Option<SwimEvent> {
        self.events.pop_front()
    }

    fn drain(&mut self, now: Mono) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            let at = Mono(now.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)));
            self.timers_set += 1;
            self.timers.insert((at, self.timers_set), timer);
        }
        while let Some((to, packet)) = self.runtime.to_send() {
            self.events.push_back(SwimEvent::Send(to.addr, packet));
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.events.extend(match notification {
                OwnedNotification::MemberUp(id) => Some(SwimEvent::Up(id)),
                OwnedNotification::Rename(_, id) => Some(SwimEvent::Renamed(id)),
                OwnedNotification::MemberDown(id) => Some(SwimEvent::Down(id)),
                OwnedNotification::Rejoin(id) => Some(SwimEvent::Renewed(id.generation)),
                _ => None,
            });
        }
    }
}

/// Timing as measured for 5 to 200 nodes; see `docs/architecture.md`.
fn config(timing: Timing, forget_after_s: u64) -> foca::Config {
    let ms = Duration::from_millis;
    let periodic = |every: u64, members: usize| {
        Some(PeriodicParams {
            frequency: ms(every),
            num_members: NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN),
        })
    };
    let lan = foca::Config {
        probe_period: ms(500),
        probe_rtt: ms(150),
        num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
        max_transmissions: NonZeroU8::new(8).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: ms(2_000),
        remove_down_after: Some(Duration::from_secs(forget_after_s)),
        max_packet_size: NonZeroUsize::new(PACKET_MAX).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: periodic(10_000, 1),
        periodic_announce_to_down_members: periodic(2_000, 3),
        periodic_gossip: periodic(200, 3),
    };
    match timing {
        Timing::Lan => lan,
        Timing::Wan => foca::Config {
            probe_period: ms(2_000),
            probe_rtt: ms(600),
            suspect_to_down_after: ms(6_000),
            periodic_announce: periodic(20_000, 2),
            periodic_announce_to_down_members: periodic(5_000, 3),
            periodic_gossip: periodic(400, 4),
            ..lan
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_that_is_far_behind_is_renewed_past_any_other_in_a_few_steps() {
        let id = |generation| Id { addr: ([127, 0, 0, 1], 1).into(), node: NodeId(1), generation, name: "n".into() };
        const HOUR: u64 = 3_600_000;
        for (ahead, most) in [(1, 1), (48_000, 16), (HOUR, 22), (24 * HOUR, 28), (365 * 24 * HOUR, 500)] {
            for start in [1_800_000_000_000, 1_800_000_000_001, 1_799_999_999_999] {
                let (mut last, mut steps) = (id(start), 0);
                while last.generation < start + ahead {
                    let next = last.renew().unwrap();
                    assert!(next.win_addr_conflict(&last));
                    (last, steps) = (next, steps + 1);
                }
                assert!(steps <= most, "{ahead} from {start}: {steps}");
            }
        }
        assert_eq!(id(u64::MAX).renew().unwrap().generation, u64::MAX);
    }
}
