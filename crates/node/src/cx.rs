//! What every module of the node works through: the time, the configuration, the state, the way out, and the counters.
//!
//! A [`Cx`] lives for one input. Nothing in the node keeps a reference to any of it.

use std::collections::VecDeque;

use crdt::Replica;

use crate::config::Config;
use crate::io::{Level, LogLine, Now, Output};
use crate::view::Metric;

/// The surroundings of one input.
pub(crate) struct Cx<'a> {
    /// The moment of the input.
    pub now: Now,
    /// What the node was told at its start.
    pub config: &'a Config,
    /// The replicated state.
    pub replica: &'a mut Replica,
    /// What the shell shall do, in order.
    pub out: &'a mut VecDeque<Output>,
    /// The node's counters.
    pub stats: &'a mut Stats,
}

impl Cx<'_> {
    /// Writes a line to the log.
    pub(crate) fn log(&mut self, level: Level, text: impl Into<String>) {
        self.out.push_back(Output::Log(LogLine { level, text: text.into() }));
    }

    /// Whether what this node acknowledges may depend on its disk.
    pub(crate) fn durable(&self) -> bool {
        self.config.durable
    }
}

/// Declares [`Stats`]: a plain counter per line, and the list that `/metrics` walks.
macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters since the start of the process; each only grows.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Stats {
            $($(#[doc = $help])+ pub $name: u64,)+
        }

        impl Stats {
            /// Every counter as a figure, in the order of declaration. Names end in `_total`.
            pub(crate) fn metrics(&self) -> Vec<Metric> {
                vec![$(Metric {
                    name: concat!(stringify!($name), "_total"),
                    help: concat!($($help),+).trim_ascii(),
                    labels: Vec::new(),
                    value: self.$name,
                }),+]
            }
        }
    };
}

counters! {
    /// SIP messages that could not be parsed.
    sip_malformed,
    /// SIP requests received.
    sip_requests_in,
    /// SIP responses received.
    sip_responses_in,
    /// SIP requests refused before they had any effect: faulty, of an unknown method, untrusted.
    sip_refused,
    /// Retransmissions received, and answered from their transaction.
    sip_retransmissions_in,
    /// Retransmissions sent.
    sip_retransmissions_out,
    /// Requests not sent because too many were open.
    sip_transactions_refused,
    /// DMQ requests from addresses that are not trusted.
    dmq_untrusted,
    /// DMQ requests refused: no readable sender or channel, no body.
    dmq_requests_refused,
    /// DMQ bodies that could not be understood.
    dmq_malformed,
    /// Contacts and entries in DMQ messages that could not be taken: incomplete, too long, a bad pattern.
    dmq_rows_refused,
    /// Requests on channels that this node does not serve.
    dmq_other_channels,
    /// Lines of node lists that could not be understood.
    dmq_node_lines_bad,
    /// Servers that came when there was no room for another.
    dmq_peers_refused,
    /// Pings that a server refused.
    dmq_pings_refused,
    /// Requests with news sent to servers.
    dmq_requests_out,
    /// Requests with news that no server answered.
    dmq_unanswered,
    /// Requests with news that a server refused.
    dmq_refused,
    /// Cells that cannot be told to a server without hurting it.
    dmq_unsendable,
    /// Contacts not told to a server because of its feed limit.
    dmq_feed_limited,
    /// Winners sent back to servers that held something else.
    dmq_corrections,
    /// Questions for everything, asked of servers.
    dmq_pulls,
    /// Cells removed because a server's complete dump no longer showed them.
    dmq_absences,
    /// Leases renewed for contacts that live longer than a cell may.
    dmq_leases_renewed,
    /// Links that came up and passed the hello.
    links_up,
    /// Links that ended after they had passed the hello.
    links_down,
    /// Links refused at hello: another version, cluster, rules or name.
    links_refused,
    /// Second links between the same two nodes, closed.
    links_duplicate,
    /// Attempts to connect to another node.
    dials,
    /// Attempts to connect to another node that failed.
    dials_failed,
    /// Frames from other nodes that could not be understood.
    frames_malformed,
    /// Membership packets sent.
    swim_packets_out,
    /// Membership packets received.
    swim_packets_in,
    /// Membership packets that could not be sent for want of a link.
    swim_packets_unsent,
    /// Membership packets that could not be understood.
    swim_packets_malformed,
    /// Cells pushed to other nodes.
    push_cells_out,
    /// Cells received as pushes.
    push_cells_in,
    /// Pushed cells that were news.
    push_cells_new,
    /// Cells not pushed because a queue was full; sync sends them.
    push_cells_dropped,
    /// Pushed cells refused: the peer's clock differs too much, or it must sync first.
    push_cells_refused,
    /// Cells from too far ahead in time; not taken, not covered.
    cells_too_far_ahead,
    /// Cells from other nodes that are no cells.
    cells_malformed,
    /// Two different writes under one dot: a bug, or forgery. Not taken.
    dots_reused,
    /// Sync sessions that this node opened to get what it lacks.
    sync_pulls,
    /// Sync sessions that ended well.
    sync_pulls_done,
    /// Sync sessions that broke off or stalled; another follows.
    sync_pulls_aborted,
    /// Sync sessions that this node served.
    sync_served,
    /// Served sync sessions that broke off.
    sync_served_aborted,
    /// Cells received in sync sessions.
    sync_cells_in,
    /// Bytes of cells received in sync sessions.
    sync_bytes_in,
    /// Bytes of cells sent in sync sessions.
    sync_bytes_out,
    /// Equal clocks, unequal digests: our bug.
    digest_mismatches,
    /// Ranges repaired after unequal digests.
    ranges_repaired,
    /// Times that the clock of another node was found to differ too much.
    skew_alarms,
    /// Batches handed to the disk.
    journal_batches,
    /// Batches that the disk refused.
    journal_failures,
    /// Cells handed to the disk.
    journal_cells,
    /// Entries found on disk at the start that make no sense.
    journal_unreadable,
}
