//! Networks with names: what a manifest says of them, and the numbers of those that it gives none.

use std::collections::BTreeSet;

use super::table::{self, Table};
use super::tree::{Entry, Fault, Node, Value};
use super::{Manifest, Names};
use crate::{NamedNetworks, NetworkConfig};

/// The last one is read with the uplinks, when the machines are known.
pub(super) const KEYS: &[&str] = &["vlan", "description", "user-network"];

/// A network before all numbers are known.
struct Draft<'a> {
    name: &'a str,
    /// Where it is first named.
    place: usize,
    vlan: Option<u8>,
    description: Option<String>,
}

/// Reads the `networks` of a manifest. Where there are none, its machines' `vlans` name them.
pub(super) fn read(table: &Table<'_>) -> Result<NamedNetworks, Fault> {
    let lists = vlan_lists(table)?;
    let drafts = match table.names("networks")? {
        Some(entries) => entries.iter().map(draft).collect::<Result<_, _>>()?,
        None => named(&lists),
    };
    let mut taken = BTreeSet::new();
    for draft in &drafts {
        if let Some(vlan) = draft.vlan
            && !taken.insert(vlan)
        {
            let message =
                format!("network `{}`: another one is VLAN {vlan} already: give it its own", draft.name);
            return Err(Fault::new(draft.place, message));
        }
    }
    taken.extend(lists.iter().flat_map(|list| numbers(list)));
    taken.extend(of_uplinks(table)?);
    if lists.len() < table.names("machines")?.unwrap_or_default().len() {
        taken.extend(Manifest::DEFAULT_VLANS);
    }
    numbered(drafts, taken)
}

/// Whether a script can have these networks beside its machines.
pub(super) fn check(table: &Table<'_>, networks: &NamedNetworks, names: &Names) -> Result<(), Fault> {
    let lists = vlan_lists(table)?;
    let places = table.names("networks")?.unwrap_or_default().iter();
    let places: Vec<(&str, usize)> = places
        .map(|entry| (entry.key.as_str(), entry.offset))
        .chain(named(&lists).iter().map(|draft| (draft.name, draft.place)))
        .collect();
    networks.keys().try_for_each(|name| {
        let place = places.iter().find(|(other, _)| other == name).map_or(0, |(_, place)| *place);
        names.check_network(name, place)
    })
}

/// The `vlans` of a machine: the numbers of its networks, in their order.
pub(super) fn of_machine(table: &Table<'_>, networks: &NamedNetworks) -> Result<Vec<u8>, Fault> {
    let Some(items) = table.list("vlans")? else { return Ok(Manifest::DEFAULT_VLANS.to_vec()) };
    let (mut vlans, mut by_name) = (Vec::new(), BTreeSet::new());
    for item in items {
        let at_item = |why: String| Fault { offset: item.offset, ..table.wrong("vlans", &why) };
        let vlan = vlan(item, networks).map_err(at_item)?;
        if matches!(item.value, Value::Text(_)) {
            by_name.insert(vlan);
        }
        if by_name.contains(&vlan) && vlans.contains(&vlan) {
            let name = networks.iter().find(|(_, network)| network.vlan == vlan).map_or("", |(name, _)| name);
            return Err(at_item(format!("it is on the network `{name}`, VLAN {vlan}, twice")));
        }
        vlans.push(vlan);
    }
    Ok(vlans)
}

/// The number of a network that is given by number or name.
pub(super) fn vlan(item: &Node, networks: &NamedNetworks) -> Result<u8, String> {
    match &item.value {
        Value::Integer(number) => {
            u8::try_from(*number).map_err(|_| format!("VLAN {number} is out of range: choose 0 to 255"))
        }
        Value::Text(name) => {
            networks.get(name).map(|network| network.vlan).ok_or_else(|| unknown(name, networks))
        }
        other => Err(format!("expected numbers from 0 to 255 and names of networks, found {}", other.kind())),
    }
}

fn unknown(name: &str, networks: &NamedNetworks) -> String {
    let name = name.escape_debug();
    if networks.is_empty() {
        return format!(
            "no network is called `{name}`: only a test's manifest gives names; write a number from 0 to 255"
        );
    }
    let names: Vec<&str> = networks.keys().map(String::as_str).collect();
    let hint = match table::nearest(&name.to_string(), &names) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", names.join(", ")),
    };
    format!("no network is called `{name}`: {hint}")
}

/// The lists of all machines. What is wrong with a machine is found when it is read.
fn vlan_lists<'a>(table: &Table<'a>) -> Result<Vec<&'a [Node]>, Fault> {
    let machines = table.names("machines")?.unwrap_or_default();
    let lists = machines.iter().filter_map(|entry| match &entry.node.value {
        Value::Table(keys) => keys.iter().find(|key| key.key == "vlans"),
        _ => None,
    });
    Ok(lists
        .filter_map(|list| match &list.node.value {
            Value::Array(items) => Some(items.as_slice()),
            _ => None,
        })
        .collect())
}

fn numbers(list: &[Node]) -> impl Iterator<Item = u8> {
    list.iter().filter_map(|item| match item.value {
        Value::Integer(number) => u8::try_from(number).ok(),
        _ => None,
    })
}

/// The numbers of networks that uplinks are ports of.
fn of_uplinks(table: &Table<'_>) -> Result<Vec<u8>, Fault> {
    let uplinks = table.list("uplinks")?.unwrap_or_default().iter();
    let network = |uplink: &Node| match &uplink.value {
        Value::Table(keys) => match keys.iter().find(|key| key.key == "network").map(|key| &key.node.value) {
            Some(Value::Integer(number)) => u8::try_from(*number).ok(),
            Some(_) => None,
            None => Manifest::DEFAULT_VLANS.first().copied(),
        },
        _ => None,
    };
    Ok(uplinks.filter_map(network).collect())
}

/// The networks that these lists name.
fn named<'a>(lists: &[&'a [Node]]) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for item in lists.iter().copied().flatten() {
        if let Value::Text(name) = &item.value
            && drafts.iter().all(|draft| draft.name != name)
        {
            drafts.push(Draft { name, place: item.offset, vlan: None, description: None });
        }
    }
    drafts
}

fn draft(entry: &Entry) -> Result<Draft<'_>, Fault> {
    let of = format!("network `{}`", entry.key.escape_debug());
    let table = Table::read(&entry.node, &of, KEYS)?;
    let vlan = table.number("vlan", 0, u8::MAX.into())?;
    let description = table.text("description")?;
    if description.is_some_and(|text| text.trim().is_empty() || text.chars().any(char::is_control)) {
        return Err(table.wrong("description", "expected one line of text"));
    }
    Ok(Draft {
        name: &entry.key,
        place: entry.offset,
        vlan: vlan.and_then(|vlan| u8::try_from(vlan).ok()),
        description: description.map(str::to_owned),
    })
}

/// Gives each that has no number the lowest free one from 1 on, in the order of their names; 0 comes last.
fn numbered(mut drafts: Vec<Draft<'_>>, mut taken: BTreeSet<u8>) -> Result<NamedNetworks, Fault> {
    drafts.sort_by_key(|draft| draft.name);
    let mut networks = NamedNetworks::new();
    for Draft { name, place, vlan, description } in drafts {
        let free = || (1..=u8::MAX).chain([0]).find(|number| !taken.contains(number));
        let Some(vlan) = vlan.or_else(free) else {
            return Err(Fault::new(
                place,
                format!("network `{name}` is one too many: a test has at most 256"),
            ));
        };
        taken.insert(vlan);
        networks.insert(name.to_owned(), NetworkConfig { vlan, description });
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::NodeConfig;

    /// A manifest with these networks, and machines `a`, `b` and so on with these `vlans`.
    fn manifest(networks: &str, vlans: &[&str]) -> Result<Manifest, String> {
        let machines = ('a'..).zip(vlans).map(|(name, vlans)| {
            format!("[machines.{name}]\nkernel = 'k'\n{}\n", vlans.replace('[', "vlans = ["))
        });
        let text = format!("name = 't'\ntest-script = ''\n{networks}\n{}", machines.collect::<String>());
        Manifest::parse(Path::new("/t.toml"), &text).map_err(|error| error.0)
    }

    fn numbers_of(manifest: &Manifest) -> Vec<(&str, u8)> {
        manifest.networks.iter().map(|(name, network)| (name.as_str(), network.vlan)).collect()
    }

    #[test]
    fn a_name_has_the_lowest_number_that_nobody_uses() {
        let found = manifest("", &["['z', 'y', 2]", "['x', 4]"]).unwrap();
        assert_eq!(numbers_of(&found), [("x", 1), ("y", 3), ("z", 5)]);
        assert_eq!(
            (&found.machines["a"].vlans[..], &found.machines["b"].vlans[..]),
            (&[5, 3, 2][..], &[1, 4][..])
        );
        // A machine without `vlans` is on VLAN 1.
        assert_eq!(numbers_of(&manifest("", &["['x']", ""]).unwrap()), [("x", 2)]);
        let all: Vec<String> = (1..=255).map(|number: u8| number.to_string()).collect();
        let all = format!("[{}]", all.join(", "));
        assert_eq!(numbers_of(&manifest("", &["['x']", &all]).unwrap()), [("x", 0)]);
        assert!(manifest("", &["['x', 0]", &all]).unwrap_err().contains("a test has at most 256"));
    }

    #[test]
    fn a_table_says_more_of_a_network() {
        let table = "[networks.backbone]\nvlan = 7\ndescription = 'between the \"routers\"'\n[networks.idle]";
        let found = manifest(table, &["[7]", "[1, 'backbone']"]).unwrap();
        assert_eq!(numbers_of(&found), [("backbone", 7), ("idle", 2)]);
        assert_eq!(found.networks["backbone"].description.as_deref(), Some("between the \"routers\""));
        assert_eq!((&found.machines["a"].vlans[..], &found.machines["b"].vlans[..]), (&[7][..], &[1, 7][..]));
        let again = serde_json::to_string(&found).unwrap();
        assert_eq!(Manifest::parse(Path::new("x.json"), &again).unwrap(), found);
        let json = "{\"name\": \"t\", \"test-script\": \"\", \"networks\": {\"n\": {\"vlan\": 3}}, \
                    \"machines\": {\"a\": {\"kernel\": \"k\", \"vlans\": [\"n\"]}}}";
        let found = Manifest::parse(Path::new("x.json"), json).unwrap();
        assert_eq!((numbers_of(&found), &found.machines["a"].vlans[..]), (vec![("n", 3)], &[3][..]));
    }

    #[test]
    fn what_is_wrong_is_said_at_its_place() {
        let two = "[networks.backbone]\nvlan = 7\n[networks.lan]";
        for (networks, vlans, part) in [
            (
                two,
                "['bakbone']",
                "/t.toml:8:10: `vlans` of machine `a`: no network is called `bakbone`: did you mean `backbone`?",
            ),
            (two, "['zzz']", "no network is called `zzz`: there are backbone, lan"),
            ("[networks]", "['x']", "no network is called `x`: only a test's manifest gives names"),
            (two, "['lan', 'lan']", "it is on the network `lan`, VLAN 1, twice"),
            (two, "['backbone', 7]", "it is on the network `backbone`, VLAN 7, twice"),
            (two, "[7, 'backbone']", "it is on the network `backbone`, VLAN 7, twice"),
            ("", "[true]", "expected numbers from 0 to 255 and names of networks, found a truth value"),
            ("[networks.x]\nvlan = 256", "[1]", "256 is out of range: choose 0 to 255"),
            ("[networks.x]\nid = 1", "[1]", "unknown key `id` of network `x`"),
            ("[networks.x]\ndescription = \"a\\nb\"", "[1]", "expected one line of text"),
            ("[networks.x]\ndescription = ''", "[1]", "expected one line of text"),
            ("[networks]\nx = 3", "[1]", "expected a table of network `x`, found a number"),
            (
                "[networks.x]\nvlan = 3\n[networks.y]\nvlan = 3",
                "[1]",
                "/t.toml:5:11: network `y`: another one is VLAN 3 already",
            ),
        ] {
            let error = manifest(networks, &[vlans]).unwrap_err();
            assert!(error.contains(part), "{networks} {vlans}: {error}");
        }
        // As numbers are used twice: nobody was kept from it.
        assert!(manifest("", &["[1, 1]"]).is_ok());
    }

    #[test]
    fn names_are_variables_of_the_script_and_nobody_elses() {
        for (name, part) in [
            ("a-b", "is no variable of Python"),
            ("1", "is no variable of Python"),
            ("_x", "is no variable of Python"),
            ("", "is no variable of Python"),
            ("größe", "is no variable of Python"),
            ("class", "a word of Python's own"),
            ("log", "a name that every script finds already"),
            ("vlan7", "a name that every script finds already"),
            ("network", "a name that every script finds already"),
            ("machine", "a name that every script finds already"),
            ("a", "machine `a` and network `a` would both be `a` in the script: rename one"),
        ] {
            let by_use = manifest("", &[&format!("['{name}']")]).unwrap_err();
            assert!(by_use.starts_with("/t.toml:6:10: ") && by_use.contains(part), "{name}: {by_use}");
            let by_table = manifest(&format!("[networks.'{name}']"), &["[1]"]).unwrap_err();
            assert!(by_table.starts_with("/t.toml:3:11: ") && by_table.contains(part), "{name}: {by_table}");
        }
        for name in ["backbone", "vlan", "vlan_7", "Lan2", "match"] {
            assert!(manifest("", &[&format!("['{name}']")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_description_of_its_own_knows_the_names_of_a_test() {
        let networks = manifest("[networks.backbone]\nvlan = 7", &["[1]"]).unwrap().networks;
        let text = "kernel = 'k'\nvlans = ['backbone']";
        let node = NodeConfig::parse_within("m", Path::new("/m.toml"), text, &networks).unwrap();
        assert_eq!(node.vlans, [7]);
        let error = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap_err().to_string();
        assert!(
            error.ends_with("only a test's manifest gives names; write a number from 0 to 255"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_two_names_have_one_number(
            fixed in prop::collection::btree_map("[b-y]{1,3}", prop::option::of(any::<u8>()), 0..12),
            used in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let table: String = fixed.iter().map(|(name, vlan)| {
                let vlan = vlan.map_or(String::new(), |vlan| format!("vlan = {vlan}"));
                format!("[networks.n{name}]\n{vlan}\n")
            }).collect();
            let Ok(found) = manifest(&table, &[&format!("{used:?}")]) else { return Ok(()) };
            let numbers: BTreeSet<u8> = found.networks.values().map(|network| network.vlan).collect();
            prop_assert_eq!(numbers.len(), fixed.len());
            for (name, vlan) in &fixed {
                let given = found.networks[&format!("n{name}")].vlan;
                prop_assert!(vlan.map_or(!used.contains(&given), |vlan| vlan == given));
            }
        }
    }
}
