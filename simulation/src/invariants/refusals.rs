//! What is refused, and what strangers send, changes nothing: no write, no dot, no cell.
//!
//! The world lets a node's timers run before it hands in such an input, so what the step does is the input's doing.

use super::same_writes::whole;
use super::{Invariant, Kind, Moment};
use crate::model::Shared;
use crate::script::Script;
use crate::view::View;

/// See the module.
pub struct Refusals {
    model: Shared,
    /// By position: whether a hostile server is attached. It is trusted, as every attached server is, so what it says in
    /// correct messages is written; only what strangers say must change nothing.
    believes_hostile: Vec<bool>,
    /// Cells held after the last step.
    held: Vec<usize>,
}

impl Refusals {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        let hostile = |ix| script.servers.iter().any(|server| server.hostile && server.nodes.contains(&ix));
        let believes_hostile = script.nodes.iter().map(|spec| hostile(spec.ix)).collect();
        Self { model, believes_hostile, held: vec![0; script.nodes.len()] }
    }
}

impl Invariant for Refusals {
    fn name(&self) -> &'static str {
        "refusals"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let (node, input) = match moment {
            Moment::Stepped { node, input } => (node, input),
            Moment::Started { node, .. } => (node, Kind::Tick),
            _ => return Ok(()),
        };
        let Some(running) = world.running(node) else { return Ok(()) };
        let held = running.replica().cells_held();
        let before = std::mem::replace(&mut self.held[node], held);
        let innocent = match input {
            Kind::Refused => true,
            Kind::Hostile => !self.believes_hostile[node],
            _ => false,
        };
        if !innocent {
            return Ok(());
        }
        let model = self.model.borrow();
        let step = model.step();
        let what = if input == Kind::Refused { "a refused command" } else { "a stranger's message" };
        if let Some(&write) = step.made.first() {
            return Err(format!("{what} made node {node} write {}", model.tell(write)));
        }
        if let Some(&cell) = step.touched.first() {
            return Err(format!("{what} made node {node} cover a write of {}", model.name(cell)));
        }
        if held > before {
            return Err(format!("{what} made node {node} hold {held} cells instead of {before}"));
        }
        whole(&model, node, running.replica(), world.node(node).wall).map_err(|wrong| format!("after {what} {wrong}"))
    }
}

#[cfg(test)]
mod tests {
    use node::Command;

    use super::super::fake::{World, script};
    use super::*;

    fn set(world: &mut World) {
        let value = node::Value::Int(1);
        world.command(0, Command::HtableSet { table: "t".into(), key: "k".into(), value, expires_in: None });
    }

    #[test]
    fn a_refused_command_that_does_nothing_passes() {
        let mut world = World::new(script(1, 0));
        let mut checker = Refusals::new(world.model.clone(), &world.script);
        set(&mut world);
        checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &world).unwrap();
        assert!(!world.command(0, Command::HtableDelete { table: "t".into(), key: "other".into() }));
        assert_eq!(checker.at(Moment::Stepped { node: 0, input: Kind::Refused }, &world), Ok(()));
    }

    #[test]
    fn a_stranger_who_gets_something_written_is_found() {
        let mut world = World::new(script(1, 0));
        let mut checker = Refusals::new(world.model.clone(), &world.script);
        set(&mut world);
        let wrong = checker.at(Moment::Stepped { node: 0, input: Kind::Hostile }, &world).unwrap_err();
        assert!(wrong.contains("a stranger's message made node 0 write the version"), "{wrong}");
    }

    #[test]
    fn what_an_attached_server_says_may_be_written_even_if_it_is_hostile() {
        let mut script = script(1, 1);
        script.servers[0].hostile = true;
        let mut world = World::new(script);
        let mut checker = Refusals::new(world.model.clone(), &world.script);
        set(&mut world);
        assert_eq!(checker.at(Moment::Stepped { node: 0, input: Kind::Hostile }, &world), Ok(()));
        assert!(checker.at(Moment::Stepped { node: 0, input: Kind::Refused }, &world).is_err());
    }
}
