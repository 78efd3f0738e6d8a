//! Books on disk: what each server held when this process's predecessor ended.
//!
//! Without them a node that restarts could not tell a contact that its server has removed meanwhile from one that never
//! reached it. A book goes to disk in the same batches as the cells that it speaks of, so a restored entry speaks of
//! the version that is restored with it, or of an older one: it never claims too much. So do the bases of its counters: what is
//! lost of them in a crash, and what is lost of the contributions, is the same.

use bytes::Bytes;
use crdt::{CellRef, Replica, Slot};
use serde::{Deserialize, Serialize};

use super::Dmq;
use super::book::Entry;
use super::counters::Key;
use super::doubts;
use super::membership::socket_for;
use super::peer::{Address, Peer, SavedLife};
use crate::config::{Config, SipTransport};
use crate::io::{Mono, Now, Tree};

/// A write in [`Tree::Books`]: key and value; `None` deletes.
pub(crate) type Put = (Vec<u8>, Option<Bytes>);

/// Between a server's address and a cell's id in a key; neither contains it in its first part.
const SEPARATOR: u8 = 0;

fn life_key(uri: &str) -> Vec<u8> {
    [uri.as_bytes(), &[SEPARATOR]].concat()
}

fn entry_key(uri: &str, cell: &CellRef<'_>) -> Vec<u8> {
    let parts = [cell.table.as_bytes(), cell.key];
    let mut key = Vec::with_capacity(uri.len() + cell.table.len() + cell.key.len() + cell.member.len() + 5);
    key.extend_from_slice(uri.as_bytes());
    key.push(SEPARATOR);
    for part in parts {
        key.extend_from_slice(&(part.len() as u16).to_be_bytes());
        key.extend_from_slice(part);
    }
    key.extend_from_slice(cell.member);
    key
}

/// What stands where an entry has the length of its table's name, which is shorter.
const COUNTER: [u8; 2] = [0xff; 2];

fn counter_key(uri: &str, (table, key): &Key) -> Vec<u8> {
    let mut put = life_key(uri);
    put.extend_from_slice(&COUNTER);
    put.extend_from_slice(&(table.len() as u16).to_be_bytes());
    put.extend_from_slice(table.as_bytes());
    put.extend_from_slice(key);
    put
}

fn counter_of(id: &[u8]) -> Option<Key> {
    let (table, key) = part(id.strip_prefix(&COUNTER)?)?;
    Some((std::str::from_utf8(table).ok()?.to_owned(), key.to_vec()))
}

/// Bytes behind their length, and the rest.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// What stands behind an entry, if there is anything.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct Beside {
    /// What is doubtful of it.
    doubt: Option<doubts::Saved>,
    /// Values that the server was told and may still get.
    under_way: Vec<u64>,
}

fn value_of(entry: &Entry, beside: &Beside) -> Option<Bytes> {
    let value = postcard::to_stdvec(entry).ok()?;
    if *beside == Beside::default() {
        return Some(value.into());
    }
    postcard::to_extend(beside, value).ok().map(Bytes::from)
}

fn entry_of(value: &[u8]) -> Option<(Entry, Option<Beside>)> {
    let (entry, rest) = postcard::take_from_bytes(value).ok()?;
    let beside = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).ok()?) };
    Some((entry, beside))
}

fn slot_of(replica: &Replica, id: &[u8]) -> Option<Slot> {
    let (table, rest) = part(id)?;
    let (key, member) = part(rest)?;
    replica.slot(std::str::from_utf8(table).ok()?, key, member)
}

/// `sip:host:port[;transport=tcp]`, as [`Address::uri`] writes it.
fn address_of(uri: &str) -> Option<Address> {
    let rest = uri.strip_prefix("sip:")?;
    let (addr, transport) = match rest.strip_suffix(";transport=tcp") {
        Some(addr) => (addr, SipTransport::Tcp),
        None => (rest, SipTransport::Udp),
    };
    Some(Address { addr: addr.parse().ok()?, transport })
}

impl Dmq {
    /// Takes up the books that the disk held. Entries of cells that are not held are left out.
    pub(crate) fn restore(
        &mut self,
        found: &[(Tree, Vec<u8>, Vec<u8>)],
        config: &Config,
        replica: &mut Replica,
        now: Now,
    ) {
        for (_, key, value) in found.iter().filter(|(tree, ..)| *tree == Tree::Books) {
            let Some(at) = key.iter().position(|b| *b == SEPARATOR) else { continue };
            let (uri, id) = (String::from_utf8_lossy(&key[..at]).into_owned(), &key[at + 1..]);
            let Some(peer) = self.restored_peer(&uri, config, now.mono) else { continue };
            if id.is_empty() {
                if let Some(saved) = SavedLife::decode(value) {
                    peer.resume_life(saved);
                }
            } else if let Some(key) = counter_of(id) {
                if let Ok(saved) = postcard::from_bytes(value) {
                    peer.counters.restore(key, saved, now.mono);
                }
            } else if let (Some(slot), Some((entry, beside))) = (slot_of(replica, id), entry_of(value)) {
                if !entry.is_nothing() {
                    peer.book.restore(slot, entry);
                }
                let Beside { doubt, under_way } = beside.unwrap_or_default();
                doubt.into_iter().for_each(|doubt| peer.doubts.restore(slot, doubt, now));
                peer.feed.restore(slot, under_way, now.mono);
                let holds = replica.cell(slot).is_some_and(|c| peer.book.holds(slot, c.order.into()));
                if !holds {
                    peer.hold_removal(slot, replica);
                }
            }
        }
    }

    fn restored_peer(&mut self, uri: &str, config: &Config, now: Mono) -> Option<&mut Peer> {
        let id = match self.by_uri.get(uri) {
            Some(id) => *id,
            None => {
                let address = address_of(uri)?;
                let socket = socket_for(config, &address)?;
                self.add(address, socket, now)
            }
        };
        let peer = self.peers.get_mut(&id)?;
        // It was ours, and stays so until another node is seen to speak for it.
        peer.owned = true;
        Some(peer)
    }

    /// What has changed in the books since the last call.
    pub(crate) fn take_puts(&mut self, replica: &Replica) -> Vec<Put> {
        let mut puts = std::mem::take(&mut self.puts);
        for peer in self.peers.values_mut() {
            let life = peer.life_to_save();
            if life != peer.saved_life {
                peer.saved_life = life;
                let value = life.map(|life| life.encode().into());
                puts.push((life_key(&peer.uri), value));
            }
            peer.feed.take_unsaved().into_iter().for_each(|slot| peer.book.changed(slot));
            for (slot, entry) in peer.book.take_unsaved() {
                let Some(cell) = replica.cell(slot) else { continue };
                let beside = Beside { doubt: peer.doubts.saved(slot), under_way: peer.feed.under_way(slot) };
                let alone = beside.doubt.as_ref().is_some_and(doubts::Saved::is_removal).then(Entry::nothing);
                let value = entry.or(alone).and_then(|entry| value_of(&entry, &beside));
                puts.push((entry_key(&peer.uri, &cell), value));
            }
            for (key, saved) in peer.counters.take_unsaved(replica) {
                let value = saved.and_then(|s| postcard::to_stdvec(&s).ok()).map(Bytes::from);
                puts.push((counter_key(&peer.uri, &key), value));
            }
        }
        puts
    }

    /// There is no disk.
    pub(crate) fn drop_puts(&mut self) {
        self.puts.clear();
        for peer in self.peers.values_mut() {
            peer.feed.take_unsaved();
            peer.counters.drop_unsaved();
        }
    }

    /// A cell is forgotten: so is what servers held of it.
    pub(super) fn forget_entries(&mut self, forgotten: &[u8]) {
        let Ok(cell) = CellRef::decode(forgotten) else { return };
        let keys: Vec<Vec<u8>> = self.peers.values().map(|peer| entry_key(&peer.uri, &cell)).collect();
        self.puts.extend(keys.into_iter().map(|key| (key, None)));
    }
}
