//! Who makes room when a table of a gateway is full, so that no guest of a shared one takes it from the others.

use std::collections::BTreeMap;

use super::Guest;

/// The guest that has most entries of a table, if those are at least two more than the newcomer's: one of them makes room, and it
/// still has as many as the newcomer then. So with N guests that want more than there is, each gets its Nth part.
pub(super) fn greedier(owners: impl Iterator<Item = Guest>, newcomer: Guest) -> Option<Guest> {
    let mut counts: BTreeMap<Guest, usize> = BTreeMap::new();
    for owner in owners {
        let count = counts.entry(owner).or_default();
        *count = count.saturating_add(1);
    }
    let own = counts.get(&newcomer).copied().unwrap_or_default();
    let (guest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (most >= own.saturating_add(2)).then_some(guest)
}

/// The same for tables in which the oldest entry makes room in any case: where nobody is greedy that is one of the newcomer's own,
/// or anybody's (`None`) when it has none.
pub(super) fn victim(owners: impl Iterator<Item = Guest> + Clone, newcomer: Guest) -> Option<Guest> {
    let has_some = || owners.clone().any(|owner| owner == newcomer).then_some(newcomer);
    greedier(owners.clone(), newcomer).or_else(has_some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greediest_makes_room_until_all_have_as_much() {
        let table = |counts: &[(u64, usize)]| {
            let guests = counts.iter().flat_map(|(guest, count)| vec![Guest(*guest); *count]);
            guests.collect::<Vec<_>>().into_iter()
        };
        assert_eq!(greedier(table(&[]), Guest(1)), None);
        assert_eq!(greedier(table(&[(1, 9)]), Guest(1)), None);
        assert_eq!(greedier(table(&[(1, 9), (2, 3)]), Guest(2)), Some(Guest(1)));
        assert_eq!(greedier(table(&[(1, 2), (2, 1)]), Guest(2)), None);
        assert_eq!(greedier(table(&[(1, 1), (2, 1)]), Guest(3)), None);
        assert_eq!(victim(table(&[(1, 9)]), Guest(1)), Some(Guest(1)));
        assert_eq!(victim(table(&[(1, 2), (2, 1)]), Guest(2)), Some(Guest(2)));
        assert_eq!(victim(table(&[(1, 1), (2, 1)]), Guest(3)), None);
    }
}
