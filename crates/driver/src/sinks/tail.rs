//! The last things of a sequence, bounded in number and size.

use std::collections::VecDeque;

/// Keeps the newest items.
#[derive(Debug)]
pub(crate) struct Tail<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
    cut: u64,
}

impl<T> Tail<T> {
    /// For so many items and bytes.
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self { items: VecDeque::new(), bytes: 0, most, most_bytes, cut: 0 }
    }

    /// Adds one of this size, in the place of the oldest where there is no room.
    pub(crate) fn push(&mut self, item: T, size: usize) {
        self.items.push_back((item, size));
        self.bytes = self.bytes.saturating_add(size);
        self.shrink(self.most_bytes);
    }

    /// Gives room for so many bytes only.
    pub(crate) fn shrink(&mut self, most_bytes: usize) {
        while self.items.len() > self.most || self.bytes > most_bytes {
            let Some((_, size)) = self.items.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size);
            self.cut = self.cut.saturating_add(1);
        }
    }

    /// How many were dropped.
    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    /// The size of all.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// From the oldest on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(item, _)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let mut tail = Tail::new(3, 10);
        for (item, size) in [(1, 1), (2, 1), (3, 1), (4, 1)] {
            tail.push(item, size);
        }
        assert_eq!(
            (tail.iter().copied().collect::<Vec<_>>(), tail.cut(), tail.bytes()),
            (vec![2, 3, 4], 1, 3)
        );
        tail.push(5, 9);
        assert_eq!(tail.iter().copied().collect::<Vec<_>>(), [4, 5]);
        tail.push(6, 11);
        assert_eq!((tail.iter().count(), tail.bytes()), (0, 0));
    }
}
