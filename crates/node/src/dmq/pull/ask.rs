//! When a server is asked for what it has, and how.
//!
//! It leaves to its parent what the answers are good for. Invariant: one question is open per server, and none is asked of
//! a server that this node does not speak for.

use super::{Next, Verdict};
use crate::config::DmqMode;
use crate::cx::Cx;
use crate::dmq::peer::{Peer, PeerId};
use crate::dmq::{Ask, DataChannel, Dmq, GIVE_UP_MS, counters, membership};
use crate::front::{Front, Outgoing};
use crate::io::Mono;

/// A question for a dump stays open this long, milliseconds: its 200 comes after the whole dump.
const PULL_GIVE_UP_MS: u64 = 120_000;

impl Dmq {
    /// Goes on with the pull of a server, or starts one that is due.
    pub(crate) fn look_at_pull(&mut self, id: PeerId, front: &mut Front, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !self.attending || !peer.is_served() {
            return;
        }
        if let Some(got) = peer.streams.due(cx.now.mono) {
            super::conclude_absences(peer, &got, &self.facts, cx);
        }
        match peer.pull.look(cx.now.mono) {
            Next::Send(channel) => ask(peer, channel, front, cx),
            Next::Conclude => match super::conclude(peer, &self.facts, cx) {
                Verdict::AskAgain => start_pull(peer, true, front, cx),
                Verdict::AskEntries => {
                    peer.pull.want_entries();
                    start_pull(peer, false, front, cx);
                }
                Verdict::Prove(size) => {
                    let list = self.list_for(id, &self.nodes, cx);
                    if let Some(peer) = self.peers.get_mut(&id) {
                        prove(peer, size, &list, front, cx);
                    }
                }
                Verdict::Over => counters::after_pull(peer, cx),
            },
            Next::Wait if peer.pull_due(cx.config.dmq.mode).is_some_and(|at| at <= cx.now.mono) => {
                // Entries alone are cheap; for their sake contacts are not asked for earlier than a proof may be.
                let proof = peer.proof_due(cx.config.dmq.mode).is_some_and(|at| at <= cx.now.mono);
                start_pull(peer, peer.gap || peer.comeback.again || proof, front, cx)
            }
            Next::Wait => {}
        }
    }
}

impl Peer {
    /// When a pull of this server has to start.
    pub(crate) fn pull_due(&self, mode: DmqMode) -> Option<Mono> {
        if !self.is_served() || !self.lists_us || self.pull.is_open() {
            return None;
        }
        if self.gap || self.comeback.again || self.pull.entries_wanted() {
            return Some(self.pull.retry_at().unwrap_or(Mono(0)));
        }
        self.proof_due(mode)
    }

    /// When a pull may start that only proves what the server holds.
    fn proof_due(&self, mode: DmqMode) -> Option<Mono> {
        let cheap_at = |fed| self.pull.may_verify_at(fed, self.book.len() as u64, self.dump_messages());
        // Something that it holds is not proven, and everything else is quiet.
        let unproven = mode == DmqMode::Bridge && self.book.unproven() > 0 && self.feed.is_idle();
        let unproven = unproven.then(|| cheap_at(self.feed.answered_at())).flatten();
        // In a mesh servers tell each other most of it, and a dump costs more than many changes.
        let doubted = self.doubts.due().and_then(|due| Some(due.max(cheap_at(None)?)));
        unproven.into_iter().chain(doubted).min()
    }
}

/// Asks a server for what it has: its entries, and its contacts too if `everything` is wanted.
fn start_pull(peer: &mut Peer, everything: bool, front: &mut Front, cx: &mut Cx<'_>) {
    peer.drop_old_touches(cx.now.mono);
    let careful = peer.book.len() > 0;
    peer.streams.asked();
    let channel = peer.pull.start(everything, careful, cx.now.mono);
    ask(peer, channel, front, cx);
}

fn ask(peer: &mut Peer, channel: DataChannel, front: &mut Front, cx: &mut Cx<'_>) {
    cx.stats.dmq_pulls += 1;
    peer.figures.requests_out += 1;
    if channel == DataChannel::Htable {
        let (has_any, late_ms) = (peer.book.len() > peer.book.contacts(), peer.late_ms());
        peer.pull.asks_entries(has_any, late_ms, cx.now.mono);
    }
    let ask = Ask::Pull { peer: peer.id, channel, number: peer.pull.number };
    let outgoing = Outgoing {
        to: &peer.address,
        socket: peer.socket,
        channel: channel.name(),
        max_forwards: 1,
        content_type: "application/json",
        body: channel.sync(),
        give_up_ms: PULL_GIVE_UP_MS,
        retransmit: false,
        padding: 0,
        ask,
    };
    front.send(outgoing, cx);
}

/// Asks for answers of `size` bytes, or as long as the longest message of a server, to see whether they arrive.
fn prove(peer: &mut Peer, size: usize, list: &[u8], front: &mut Front, cx: &mut Cx<'_>) {
    let padding = peer.echo_padding(size);
    for _ in 0..peer.pull.prove(cx.now.mono) {
        peer.figures.requests_out += 1;
        let outgoing = Outgoing {
            to: &peer.address,
            socket: peer.socket,
            channel: membership::CHANNEL,
            max_forwards: 1,
            content_type: "text/plain",
            body: list,
            give_up_ms: GIVE_UP_MS,
            retransmit: true,
            padding,
            ask: Ask::Echo { peer: peer.id, number: peer.pull.number },
        };
        front.send(outgoing, cx);
    }
}
