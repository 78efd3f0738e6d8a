//! Once load and faults are over, all nodes and all servers are equal within `settle_ms`; and no server dies of what a
//! node sends it.

use std::collections::BTreeSet;

use node::Now;

use super::{Invariant, Moment};
use crate::model::{CellNo, Model, Shared};
use crate::script::{Script, ServerSpec};
use crate::view::View;

/// See the module.
pub struct EqualInTime {
    model: Shared,
}

impl EqualInTime {
    /// With the model that `unique_dots` keeps up to date; it only helps to say what differs.
    pub const fn new(model: Shared) -> Self {
        Self { model }
    }
}

impl Invariant for EqualInTime {
    fn name(&self) -> &'static str {
        "equal-in-time"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        match moment {
            Moment::Second => world.script().servers.iter().try_for_each(|spec| survives(spec, world)),
            Moment::End { equal: false } => {
                let bound = world.script().settle_ms;
                let model = self.model.borrow();
                let what = nodes_differ(&model, world).or_else(|| servers_differ(world));
                let what = what.unwrap_or_else(|| "though no difference is left at this moment".to_owned());
                Err(format!("not equal {bound} ms after the end of all faults: {what}"))
            }
            _ => Ok(()),
        }
    }
}

/// A server with as much memory as it wants outlives everything that nodes say. One without dies of being full, as real
/// ones do; a hostile one is no concern.
fn survives(spec: &ServerSpec, world: &dyn View) -> Result<(), String> {
    let Some(why) = world.server(spec.ix).and_then(|server| server.fallen()) else { return Ok(()) };
    if spec.hostile || spec.memory_contacts > 0 || hears_servers(spec, world.script()) {
        return Ok(());
    }
    Err(format!("server {} ended: {why}", spec.ix))
}

/// Whether what ended a server may have come from another server.
fn hears_servers(spec: &ServerSpec, script: &Script) -> bool {
    script.limits.mesh || !spec.peers.is_empty() || script.servers.iter().any(|other| other.peers.contains(&spec.ix))
}

/// How nodes differ: clocks, then the first cell that not all show alike.
fn nodes_differ(model: &Model, world: &dyn View) -> Option<String> {
    let up: Vec<usize> = (0..world.nodes()).filter(|&node| world.node(node).node.is_some()).collect();
    let (&first, rest) = up.split_first()?;
    let digest = |node: usize| {
        let host = world.node(node);
        host.node.map(|running| {
            let digest = running.replica().digest(host.wall);
            (digest.total, digest.cells)
        })
    };
    let other = *rest.iter().find(|&&node| digest(node) != digest(first))?;
    let mut said = format!("nodes {first} and {other} show {} and {} cells", digest(first)?.1, digest(other)?.1);
    for (one, two) in [(first, other), (other, first)] {
        let (one_life, two_life) = (model.life(one)?, model.life(two)?);
        let mut missing = one_life.covered.difference(&two_life.covered);
        if let Some((origin, seqs)) = missing.next() {
            let more = missing.count();
            let through = format!("{origin}:{}..={} and {more} ranges more", seqs.start(), seqs.end());
            said.push_str(&format!("; node {two} has not covered {through} of what node {one} has"));
        }
    }
    let shown = |node: usize, cell: CellNo| {
        let wall = world.node(node).wall;
        model.best(node, cell).filter(|&best| model.write(best).is_live(wall))
    };
    let differs = |cell: &CellNo| shown(first, *cell) != shown(other, *cell);
    if let Some(cell) = (0..model.cells() as CellNo).find(differs) {
        let tell = |node| shown(node, cell).map_or("nothing".to_owned(), |write| model.tell(write));
        let (name, ours, theirs) = (model.name(cell), tell(first), tell(other));
        said.push_str(&format!("; of {name} node {first} must show {ours}, node {other} {theirs}"));
    }
    Some(said)
}

/// How a server differs from the first of its nodes that is up.
fn servers_differ(world: &dyn View) -> Option<String> {
    world.script().servers.iter().filter(|spec| !spec.hostile).find_map(|spec| server_differs(spec, world))
}

fn server_differs(spec: &ServerSpec, world: &dyn View) -> Option<String> {
    let server = world.server(spec.ix)?;
    let position = spec.nodes.iter().find_map(|&ix| world.position(ix).filter(|&at| world.node(at).node.is_some()))?;
    let host = world.node(position);
    let (running, at_node) = (host.node?, host.now(world.now()));
    let at_server = Now { mono: world.now(), wall: world.true_wall() };
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let theirs: BTreeSet<(String, String)> =
        server.contacts(at_server).map(|held| (text(held.aor), text(&held.contact.uri))).collect();
    let ours: BTreeSet<(String, String)> = running
        .location_list(None, usize::MAX, at_node)
        .into_iter()
        .flat_map(|(aor, contacts)| contacts.into_iter().map(move |contact| (text(&aor), text(&contact.contact))))
        .collect();
    let (who, node) = (spec.ix, spec.nodes.first()?);
    if let Some((aor, uri)) = ours.difference(&theirs).next() {
        let more = ours.difference(&theirs).count() - 1;
        return Some(format!("server {who} lacks {uri} of {aor}, which node {node} shows (and {more} more)"));
    }
    if let Some((aor, uri)) = theirs.difference(&ours).next() {
        let more = theirs.difference(&ours).count() - 1;
        return Some(format!("server {who} shows {uri} of {aor}, which node {node} does not (and {more} more)"));
    }
    let entries = server.entries(at_server).find_map(|entry| {
        let held = running.htable_get(entry.table, entry.key, at_node);
        let (table, key) = (entry.table, entry.key.escape_ascii());
        let shown = held.as_ref().map(|held| &held.value);
        let same = match (shown, entry.value) {
            // Servers count in 32 bits, and are told the nearest.
            (Some(node::Value::Int(ours)), tables::htable::Value::Int(theirs)) => {
                (*ours).clamp(i32::MIN.into(), i32::MAX.into()) == *theirs
            }
            (Some(node::Value::Str(ours)), tables::htable::Value::Str(theirs)) => ours[..] == theirs[..],
            _ => false,
        };
        let told = format!("server {who} shows {:?} for {table} [{key}], node {node} {shown:?}", entry.value);
        (!same).then_some(told)
    });
    entries.or_else(|| {
        let lacking = world.script().htables.keys().find_map(|table| {
            let listed = running.htable_list(table, None, usize::MAX, at_node);
            let lacks = |key: &[u8]| {
                let key = std::str::from_utf8(key).unwrap_or_default();
                server.entry(table, key, at_server).is_none()
            };
            listed.into_iter().find(|entry| lacks(&entry.key)).map(|entry| (table, entry))
        });
        lacking.map(|(table, entry)| {
            let key = entry.key.escape_ascii();
            format!("server {who} lacks {table} [{key}], which node {node} shows as {:?}", entry.value)
        })
    })
}

#[cfg(test)]
mod tests {
    use node::Command;

    use super::super::fake::{World, script};
    use super::*;

    #[test]
    fn a_run_that_ended_equal_passes() {
        let world = World::new(script(2, 0));
        let mut checker = EqualInTime::new(world.model.clone());
        assert_eq!(checker.at(Moment::End { equal: true }, &world), Ok(()));
        assert_eq!(checker.at(Moment::Second, &world), Ok(()));
    }

    #[test]
    fn what_differs_in_the_end_is_said() {
        let mut world = World::new(script(2, 0));
        let mut checker = EqualInTime::new(world.model.clone());
        let value = node::Value::Int(1);
        world.command(1, Command::HtableSet { table: "t".into(), key: "k".into(), value, expires_in: None });
        let wrong = checker.at(Moment::End { equal: false }, &world).unwrap_err();
        for part in
            ["30000 ms", "show 0 and 1 cells", "node 0 has not covered", "htable:t [k] node 0 must show nothing"]
        {
            assert!(wrong.contains(part), "{part}: {wrong}");
        }
    }
}
