//! A topology in the language of Graphviz (<https://graphviz.org/doc/info/lang.html>).

use snowboot_config::{Topology, TopologyMachine, TopologyNetwork};

use super::text::{forward, lease, reach};

/// All of it: machines are boxes, networks ellipses, and a card is the line between two of them.
pub(super) fn write(test: &str, topology: &Topology) -> String {
    let mut text = format!("graph {} {{\n", quoted(&[test]));
    for line in [
        "rankdir=LR",
        "ranksep=1.5",
        "node [fontname=\"sans-serif\" fontsize=11]",
        "edge [fontname=\"sans-serif\" fontsize=9]",
    ] {
        text.push_str(&format!("  {line};\n"));
    }
    topology.networks.iter().for_each(|network| write_network(&mut text, network));
    topology.machines.iter().for_each(|machine| write_machine(&mut text, machine));
    text.push_str("}\n");
    text
}

fn write_network(text: &mut String, network: &TopologyNetwork) {
    let number =
        (network.name != snowboot_config::vlan_name(network.vlan)).then(|| format!("VLAN {}", network.vlan));
    let lines = [Some(network.name.as_str()), number.as_deref(), network.description.as_deref()];
    let lines: Vec<&str> = lines.into_iter().flatten().collect();
    let id = network_id(&network.name);
    node(text, &id, "ellipse", &lines);
    let details = network.user_network.iter().flat_map(|user| {
        let leases = user.leases.iter().map(lease);
        std::iter::once(reach(user)).chain(leases).chain(user.forwards.iter().map(forward))
    });
    let details: Vec<String> = details.collect();
    for (number, uplink) in network.uplinks.iter().enumerate() {
        let far = format!("uplink {number} of {}", network.name);
        let is_gateway = uplink.starts_with("user network");
        let more = details.iter().filter(|_| is_gateway).map(String::as_str);
        let lines: Vec<&str> = std::iter::once(uplink.as_str()).chain(more).collect();
        node(text, &far, "note", &lines);
        text.push_str(&format!("  {} -- {};\n", quoted(&[&id]), quoted(&[&far])));
    }
}

fn write_machine(text: &mut String, machine: &TopologyMachine) {
    let id = format!("machine {}", machine.name);
    node(text, &id, "box", &[&machine.name]);
    for card in &machine.cards {
        let far = match &card.network {
            Some(network) => network_id(network),
            None => {
                let host = format!("host of {}", machine.name);
                let forwards = machine.user_network.iter().flat_map(|network| {
                    std::iter::once(reach(network)).chain(network.forwards.iter().map(forward))
                });
                let lines: Vec<String> = std::iter::once("host".to_owned()).chain(forwards).collect();
                node(text, &host, "note", &lines.iter().map(String::as_str).collect::<Vec<_>>());
                host
            }
        };
        let (address, mac) = (card.address.to_string(), card.mac.to_string());
        let label = quoted(&[&card.interface, &address, &mac]);
        text.push_str(&format!("  {} -- {} [label={label}];\n", quoted(&[&id]), quoted(&[&far])));
    }
}

/// Machines, networks and ways to the host have names of different forms, so that none is another's.
fn network_id(name: &str) -> String {
    format!("network {name}")
}

fn node(text: &mut String, id: &str, shape: &str, lines: &[&str]) {
    text.push_str(&format!("  {} [shape={shape} label={}];\n", quoted(&[id]), quoted(lines)));
}

/// Lines as one quoted string. In one, a quotation mark needs a backslash, in a label a backslash begins an escape sequence,
/// and an ampersand one of HTML.
fn quoted(lines: &[&str]) -> String {
    let escaped = lines.iter().map(|line| {
        let parts = line.chars().map(|character| match character {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '&' => "&amp;".to_owned(),
            other => other.to_string(),
        });
        parts.collect::<String>()
    });
    format!("\"{}\"", escaped.collect::<Vec<_>>().join("\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{ROUTED, topology};

    #[test]
    fn machines_and_networks_are_nodes_and_cards_are_edges() {
        let text = write("routed", &topology(ROUTED));
        for line in [
            "graph \"routed\" {",
            "  \"network backbone\" [shape=ellipse label=\"backbone\\nVLAN 7\\nbetween the \\\"routers\\\"\"];",
            "  \"network vlan1\" [shape=ellipse label=\"vlan1\"];",
            "  \"machine lonely\" [shape=box label=\"lonely\"];",
            "  \"machine router-1\" -- \"network backbone\" [label=\"eth2\\n192.168.7.200\\n52:54:00:12:07:c8\"];",
            "  \"machine client\" -- \"host of client\" [label=\"eth0\\n10.0.2.15\\n52:54:00:12:34:56\"];",
            "}",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
        assert!(
            text.contains(
                "restricted to what is forwarded, resolver [::1]:53\\ntcp from host 127.0.0.1:2222"
            )
        );
    }

    #[test]
    fn whatever_a_test_is_called_stays_in_its_quotes() {
        for (name, expected) in [
            ("a \"b\"", r#""a \"b\"""#),
            ("ends in \\", r#""ends in \\""#),
            ("\\n } digraph {", r#""\\n } digraph {""#),
            ("<b> &lt; // #", r#""<b> &amp;lt; // #""#),
            ("größe", "\"größe\""),
        ] {
            assert_eq!(quoted(&[name]), expected);
        }
    }
}
