//! Changes of a network in words: the calls of a Python script that make them again.

use snowboot_network::{Impairment, Spread};

use super::Direction;

/// All that is not as without a fault, and the seed.
pub(super) fn impair(
    network: &str,
    from: &str,
    to: &str,
    direction: Direction,
    impairment: &Impairment,
) -> String {
    let none = Impairment::default();
    let mut parts = vec![format!("{from:?}, {to:?}")];
    parts.extend(one_way(direction));
    let mut add = |name: &str, value: String, counts: bool| {
        if counts {
            parts.push(format!("{name}={value}"));
        }
    };
    let seconds = |time: std::time::Duration| time.as_secs_f64().to_string();
    add("cut", "True".to_owned(), impairment.cut);
    if let Some(flap) = impairment.flap {
        add("flap", format!("({}, {})", seconds(flap.up), seconds(flap.down)), true);
    }
    let chances =
        [("loss", impairment.loss), ("duplicate", impairment.duplicate), ("corrupt", impairment.corrupt)];
    for (name, value) in chances {
        add(name, value.to_string(), value > 0.0);
    }
    if let Some(burst) = impairment.burst {
        add("burst", format!("({}, {}, {})", burst.enter, burst.leave, burst.loss), true);
    }
    if let Some(rate) = impairment.rate {
        add("rate", rate.to_string(), true);
        add("queue", impairment.queue.to_string(), impairment.queue != none.queue);
    }
    add("delay", seconds(impairment.delay), !impairment.delay.is_zero());
    add("jitter", seconds(impairment.jitter), !impairment.jitter.is_zero());
    add("spread", format!("{:?}", spread(impairment.spread)), impairment.spread != none.spread);
    if impairment.reorder > 0.0 {
        add("reorder", impairment.reorder.to_string(), true);
        add("reorder_by", seconds(impairment.reorder_by), impairment.reorder_by != none.reorder_by);
    }
    add("seed", impairment.seed.to_string(), true);
    format!("{network}.impair({})", parts.join(", "))
}

pub(super) fn repair(network: &str, from: &str, to: &str, direction: Direction) -> String {
    let mut parts = vec![format!("{from:?}, {to:?}")];
    parts.extend(one_way(direction));
    format!("{network}.heal({})", parts.join(", "))
}

pub(super) fn partition(network: &str, groups: &[&[&str]]) -> String {
    let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
    format!("{network}.partition({})", groups.join(", "))
}

fn one_way(direction: Direction) -> Option<String> {
    (direction == Direction::There).then(|| "both=False".to_owned())
}

/// The name of a spread in scripts.
fn spread(spread: Spread) -> &'static str {
    match spread {
        Spread::Uniform => "uniform",
        Spread::Normal => "normal",
        Spread::Pareto => "pareto",
    }
}
