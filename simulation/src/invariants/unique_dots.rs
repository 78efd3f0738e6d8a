//! No dot names two writes, no origin is used twice, and no clock covers what nobody wrote or less than it did.
//!
//! This checker keeps the [model](crate::model) up to date for the others, so it comes first.

use super::{Invariant, Moment};
use crate::model::Shared;
use crate::view::View;

/// See the module.
pub struct UniqueDots {
    model: Shared,
}

impl UniqueDots {
    /// Feeds a model that other checkers read.
    pub const fn new(model: Shared) -> Self {
        Self { model }
    }
}

impl Invariant for UniqueDots {
    fn name(&self) -> &'static str {
        "unique-dots"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        self.model.borrow_mut().observe(moment, world)?;
        if !matches!(moment, Moment::Second | Moment::End { .. }) {
            return Ok(());
        }
        for node in 0..world.nodes() {
            let host = world.node(node);
            let Some(alarms) = host.node.map(|node| node.replica().alarms()) else { continue };
            let wrong = [
                (alarms.dot_reuse, "cells offered to it under a dot that names another version"),
                (alarms.malformed, "bytes offered to it by other nodes that are no cells"),
                (alarms.beyond_rules, "cells with a deadline beyond the rules of their table"),
            ];
            if let Some((count, what)) = wrong.into_iter().find(|(count, _)| *count > 0) {
                return Err(format!("node {node} counts {count} {what}"));
            }
        }
        Ok(())
    }
}
