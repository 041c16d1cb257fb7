//! A set of lists of one file.

use std::ops::{BitAnd, BitOr};

/// A set of lists of one file. Bit N is set if the list with the index N is in the set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListSet(u64);

impl ListSet {
    pub const EMPTY: Self = Self(0);

    /// Maximum number of lists in a file.
    pub const CAPACITY: usize = 64;

    /// Returns the set of the lists 0 to `count - 1`.
    pub fn first(count: usize) -> Self {
        match count {
            0..Self::CAPACITY => Self((1 << count) - 1),
            _ => Self(u64::MAX),
        }
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// Adds a list. An index beyond the capacity is ignored.
    pub fn insert(&mut self, list: usize) {
        if list < Self::CAPACITY {
            self.0 |= 1 << list;
        }
    }

    pub fn contains(self, list: usize) -> bool {
        list < Self::CAPACITY && self.0 >> list & 1 == 1
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns the indexes of the lists, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let list = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(list)
        })
    }
}

impl BitAnd for ListSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for ListSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<usize> for ListSet {
    fn from_iter<I: IntoIterator<Item = usize>>(lists: I) -> Self {
        let mut set = Self::EMPTY;
        lists.into_iter().for_each(|list| set.insert(list));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_what_was_inserted() {
        let set: ListSet = [0, 5, 63, 64].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!((set.len(), set.is_empty(), ListSet::EMPTY.is_empty()), (3, false, true));
        assert!(set.contains(63) && !set.contains(64) && !set.contains(1));
        assert_eq!((set & ListSet::first(6)).iter().collect::<Vec<_>>(), [0, 5]);
    }

    #[test]
    fn the_first_lists_are_counted() {
        for count in [0, 1, 63, 64, 65] {
            assert_eq!(ListSet::first(count).len(), count.min(64));
        }
    }
}
