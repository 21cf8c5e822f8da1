//! Node numbers: the last byte of a machine's Ethernet addresses, and of its addresses where NixOS makes them.

use std::collections::BTreeMap;

use super::{Manifest, NodeConfig};

impl Manifest {
    /// The machines with their node numbers, sorted by name. A machine's number is its `number`, or without one its place in
    /// this order, from 1: that is how NixOS counts a test's nodes, by the names that they have there.
    pub fn numbered(&self) -> impl Iterator<Item = (u8, &str, &NodeConfig)> {
        numbered(&self.machines)
    }
}

/// As [`Manifest::numbered`]. There are at most [`Manifest::MAX_MACHINES`].
fn numbered(machines: &BTreeMap<String, NodeConfig>) -> impl Iterator<Item = (u8, &str, &NodeConfig)> {
    (1..=u8::MAX)
        .zip(machines)
        .map(|(place, (name, node))| (node.number.unwrap_or(place), name.as_str(), node))
}

/// Whether no two machines have the same number. The error has the name of the later one, and says what is wrong.
pub(super) fn check(machines: &BTreeMap<String, NodeConfig>) -> Result<(), (&str, String)> {
    let mut owners = BTreeMap::new();
    for (number, name, _) in numbered(machines) {
        if let Some(other) = owners.insert(number, name) {
            let message = format!(
                "machines `{other}` and `{name}` would both have the number {number}, of which their addresses are made: give \
                 each a `number` of its own"
            );
            return Err((name, message));
        }
    }
    Ok(())
}
