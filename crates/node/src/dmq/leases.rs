//! Contacts that outlive a cell: permanent ones, and those beyond `location.max_ttl`, are held as leases which a node that has
//! them from its server, or wrote them, renews at half their life (docs/rules.md R1).

use crdt::{StampRule, Wall, Write};
use tables::location;

use super::Dmq;
use super::usrloc_in::contact_of;
use crate::cx::Cx;

impl Dmq {
    /// Renews what is held as a lease: contacts that outlive a cell's longest life. A slice of the cells is looked at each
    /// second, so large that all have had their turn within an eighth of that life.
    pub(super) fn renew_leases(&mut self, cx: &mut Cx<'_>) {
        const EVERY_MS: u64 = 1_000;
        const LEAST: usize = 16;
        if cx.now.mono < self.lease_at {
            return;
        }
        self.lease_at = cx.now.mono.plus_ms(EVERY_MS);
        let now_s = cx.now.wall.0 / 1_000;
        let half = u64::from(cx.config.location_max_ttl_s) / 2;
        let turns = usize::try_from(half / 4).unwrap_or(usize::MAX).max(1);
        let slice = cx.replica.slots_len().div_ceil(turns).max(LEAST);
        let mut due = Vec::new();
        let mut last = None;
        for (slot, cell) in cx.replica.scan(self.lease_cursor, slice) {
            last = Some(slot);
            let ends = cell.deadline.unwrap_or(u64::MAX);
            if cell.table != location::TABLE || !cell.is_live(cx.now.wall) || ends > now_s + half {
                continue;
            }
            let mine = cell.order.stamp.node == cx.config.node
                || self.peers.values().any(|p| p.owned && p.book.get(slot).is_some());
            if !mine {
                continue;
            }
            let Some((_, contact)) = contact_of(&cell) else { continue };
            if contact.expires == 0 || contact.expires > ends {
                due.push((cell.key.to_vec(), cell.member.to_vec(), cell.body.unwrap_or_default().to_vec()));
            }
        }
        self.lease_cursor = last;
        for (key, member, body) in due {
            renew(&key, &member, &body, cx);
        }
    }
}

/// Holds a contact for another while that outlives a cell's longest life.
fn renew(key: &[u8], member: &[u8], body: &[u8], cx: &mut Cx<'_>) {
    let Ok(contact) = location::Contact::decode(body, member) else { return };
    let now = cx.now.wall;
    let deadline = location::deadline(contact.expires, now.0 / 1_000, cx.config.location_max_ttl_s);
    let write = Write {
        table: location::TABLE,
        key,
        member,
        rank: 0,
        stamp: StampRule::Now,
        deadline: Some(deadline),
        body: Some(body),
        via: 0,
        birth: None,
    };
    if cx.replica.write(Wall(now.0), write).is_ok() {
        cx.stats.dmq_leases_renewed += 1;
    }
}
