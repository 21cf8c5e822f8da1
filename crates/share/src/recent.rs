//! The things that were used last, up to a number.

use std::collections::HashMap;
use std::hash::Hash;

/// A map that forgets what was not used for longest.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    capacity: usize,
    uses: u64,
}

impl<K: Eq + Hash + Copy, V> Recent<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity: capacity.max(1), uses: 0 }
    }

    pub(crate) fn get(&mut self, key: K) -> Option<&mut V> {
        self.uses = self.uses.saturating_add(1);
        let (used, value) = self.entries.get_mut(&key)?;
        *used = self.uses;
        Some(value)
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.entries.contains_key(&key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.entries.len() >= self.capacity {
            self.shrink();
        }
        self.uses = self.uses.saturating_add(1);
        self.entries.insert(key, (self.uses, value));
    }

    pub(crate) fn remove(&mut self, key: K) {
        self.entries.remove(&key);
    }

    pub(crate) fn take(&mut self, key: K) -> Option<V> {
        self.entries.remove(&key).map(|(_, value)| value)
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Forgets a quarter at once, so that each insertion costs little.
    fn shrink(&mut self) {
        let mut uses: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
        let middle = uses.len() / 4;
        let (_, limit, _) = uses.select_nth_unstable(middle);
        let limit = *limit;
        self.entries.retain(|_, (used, _)| *used > limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut recent = Recent::new(8);
        for number in 0..100 {
            recent.insert(number, number);
            assert_eq!(recent.get(0), Some(&mut 0), "after {number}");
            assert!(recent.entries.len() <= 8);
        }
        assert!(recent.contains(99) && !recent.contains(1));
        recent.remove(99);
        assert_eq!(recent.get(99), None);
        let mut one = Recent::new(1);
        one.insert(1, ());
        one.insert(2, ());
        assert_eq!(one.entries.len(), 1);
    }
}
