//! Changes on the command line: `a.b=value`, where the value is TOML, or a bare word; and defaults below what a file says.

use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::FaultName;

/// Puts a change into the tree of a scenario.
pub(super) fn apply(tree: &mut Table, change: &str) -> Result<(), String> {
    let (path, value) = change.split_once('=').ok_or_else(|| format!("`{change}` is not of the form a.b=value"))?;
    let mut path: Vec<&str> = path.trim().split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(format!("`{change}` does not name a value"));
    }
    if is_fault(path[0]) {
        path.insert(0, "faults");
    }
    let (last, tables) = path.split_last().ok_or("an empty path")?;
    let mut at = tree;
    for part in tables {
        at = at
            .entry((*part).to_owned())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`{change}`: {part} holds no values"))?;
    }
    at.insert((*last).to_owned(), read(value.trim()));
    Ok(())
}

/// Puts defaults below what a section says.
pub(super) fn defaults(tree: &mut Table, section: &str, values: &impl Serialize) -> Result<(), String> {
    let mut whole = Value::try_from(values).map_err(|e| e.to_string())?;
    if let Some(said) = tree.remove(section) {
        lay(&mut whole, said);
    }
    tree.insert(section.to_owned(), whole);
    Ok(())
}

/// Lays one tree over another.
fn lay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Table(below), Value::Table(above)) => {
            for (key, value) in above {
                match below.get_mut(&key) {
                    Some(old) => lay(old, value),
                    None => drop(below.insert(key, value)),
                }
            }
        }
        (below, above) => *below = above,
    }
}

fn is_fault(word: &str) -> bool {
    let word: StrDeserializer<'_, Error> = word.into_deserializer();
    FaultName::deserialize(word).is_ok()
}

/// As TOML reads it; what TOML does not understand is a string.
fn read(text: &str) -> Value {
    let as_file = toml::from_str::<Table>(&format!("v = {text}\n"));
    match as_file.ok().filter(|t| t.len() == 1).and_then(|mut t| t.remove("v")) {
        Some(value) => value,
        None => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<Table, String> {
        let mut tree: Table = toml::from_str("secs = 10\n[nodes]\ncount = 3\n").expect("TOML");
        changes.iter().try_for_each(|c| apply(&mut tree, c))?;
        Ok(tree)
    }

    #[test]
    fn a_value_is_replaced_a_missing_table_made_and_a_fault_found_by_its_name() {
        let tree = changed(&["nodes.count=5", "secs=2.5", "partition.secs=120", "servers.generation=mixed"]);
        let tree = tree.expect("good changes");
        assert_eq!(tree["nodes"]["count"], Value::Integer(5));
        assert_eq!(tree["secs"], Value::Float(2.5));
        assert_eq!(tree["faults"]["partition"]["secs"], Value::Integer(120));
        assert_eq!(tree["servers"]["generation"], Value::String("mixed".to_owned()));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for wrong in ["nodes.count", "=3", "a..b=1", "secs.x=1"] {
            assert!(changed(&[wrong]).is_err(), "{wrong}");
        }
    }
}
