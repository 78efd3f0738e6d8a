//! What the KDMQ side shows of itself.

use super::Dmq;
use super::owner::Standing;
use super::peer::{Peer, Phase};
use crate::view::{Metric, PeerView};

impl Dmq {
    /// A row per server, in the order in which they were met.
    pub(crate) fn views(&self) -> Vec<PeerView> {
        self.peers.values().map(Peer::view).collect()
    }

    /// Servers that answer.
    pub(crate) fn active(&self) -> usize {
        self.peers.values().filter(|p| p.phase == Phase::Active).count()
    }

    /// Whether a server has come, gone or restarted since [`Dmq::take_notes`].
    pub(crate) fn has_news(&self) -> bool {
        self.notes_changed
    }

    /// The servers that this node hears, or keeps, for the other nodes, and how it stands to them. `None` if nothing
    /// has changed since the last call.
    pub(crate) fn take_notes(&mut self) -> Option<Vec<(String, Standing)>> {
        if !std::mem::take(&mut self.notes_changed) {
            return None;
        }
        let heard = |p: &&Peer| p.phase == Phase::Active || p.phase == Phase::Silent && p.standing == Standing::Keeps;
        Some(self.peers.values().filter(heard).map(|p| (p.uri.clone(), p.standing)).collect())
    }

    /// Figures with a label per server, and what is held for other nodes' servers.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = vec![Metric {
            name: "dmq_held_messages",
            help: "Messages held for the fail-over of the node that speaks for their server.",
            labels: Vec::new(),
            value: self.holding.len() as u64,
        }];
        type Figure = (&'static str, &'static str, fn(&Peer) -> u64);
        let figures: [Figure; 6] = [
            ("dmq_server_up", "Whether the server answers.", |p| u64::from(p.phase == Phase::Active)),
            ("dmq_server_queued", "Cells waiting to be told to the server.", |p| p.feed.queued() as u64),
            ("dmq_server_open", "Open requests to the server.", |p| p.feed.requests() as u64),
            ("dmq_server_cells", "Cells that the server is known to hold.", |p| p.book.len() as u64),
            ("dmq_server_requests_in_total", "Requests received from the server.", |p| p.figures.requests_in),
            ("dmq_server_requests_out_total", "Requests sent to the server.", |p| p.figures.requests_out),
        ];
        for (name, help, figure) in figures {
            metrics.extend(self.peers.values().map(|peer| Metric {
                name,
                help,
                labels: vec![("server", peer.uri.clone())],
                value: figure(peer),
            }));
        }
        metrics
    }
}

impl Peer {
    fn view(&self) -> PeerView {
        PeerView {
            uri: self.uri.clone(),
            state: self.phase.name(),
            generation: match self.generation {
                kdmq::Generation::V5 => "5.6",
                kdmq::Generation::V6 => "6",
            },
            open: self.feed.requests(),
            queued: self.feed.queued(),
            lag_cells: self.feed.lag(),
            unproven: self.book.unproven(),
            corrections: self.figures.corrections,
            last_sync: self.figures.last_sync,
            owned: self.owned,
            restarts: self.figures.restarts,
            requests_in: self.figures.requests_in,
            requests_out: self.figures.requests_out,
        }
    }
}
