//! Sets of sequence numbers as sorted, disjoint ranges that do not touch.

/// A set of numbers. **Invariant:** ranges ascend, none is empty, and between two of them at least one number is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Takes ranges that keep the invariant and lie at or above `least`; `None` if they do not.
    pub(crate) fn checked(ranges: Vec<(u64, u64)>, least: u64) -> Option<Self> {
        let mut free = least;
        for (index, &(first, last)) in ranges.iter().enumerate() {
            if first < free || first > last || (last == u64::MAX && index + 1 < ranges.len()) {
                return None;
            }
            free = last.saturating_add(2);
        }
        Some(Self(ranges))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + Clone + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn max(&self) -> Option<u64> {
        self.0.last().map(|&(_, last)| last)
    }

    /// Index of the first range that ends at or after `seq`.
    fn position(&self, seq: u64) -> usize {
        match self.0.last() {
            Some(&(_, last)) if last < seq => self.0.len(),
            _ => self.0.partition_point(|&(_, last)| last < seq),
        }
    }

    /// Whether all of `first..=last` is in the set.
    pub(crate) fn contains(&self, first: u64, last: u64) -> bool {
        self.0.get(self.position(last)).is_some_and(|&(f, l)| f <= first && last <= l)
    }

    /// Adds `first..=last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        let from = self.position(first.saturating_sub(1));
        let (mut low, mut high, mut to) = (first, last, from);
        while let Some(&(f, l)) = self.0.get(to) {
            if f > last.saturating_add(1) {
                break;
            }
            low = low.min(f);
            high = high.max(l);
            to += 1;
        }
        self.0.splice(from..to, [(low, high)]);
    }

    /// Takes out `first..=last`.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        let from = self.position(first);
        let (mut to, mut left) = (from, Vec::new());
        while let Some(&(f, l)) = self.0.get(to) {
            if f > last {
                break;
            }
            if f < first {
                left.push((f, first - 1));
            }
            if l > last {
                left.push((last + 1, l));
            }
            to += 1;
        }
        self.0.splice(from..to, left);
    }

    /// If the set starts with `next`, takes that range out and gives its end.
    pub(crate) fn take_from(&mut self, next: u64) -> Option<u64> {
        let &(_, last) = self.0.first().filter(|&&(first, _)| first == next)?;
        self.0.remove(0);
        Some(last)
    }

    /// Drops the ranges after the first `keep`.
    pub(crate) fn truncate(&mut self, keep: usize) {
        self.0.truncate(keep);
    }
}

/// The parts of `first..=last` that none of the ascending `ranges` has.
pub(crate) fn gaps(first: u64, last: u64, ranges: impl Iterator<Item = (u64, u64)>, mut gap: impl FnMut(u64, u64)) {
    let mut from = first;
    for (f, l) in ranges {
        if l < from {
            continue;
        }
        if f > last {
            break;
        }
        if f > from {
            gap(from, f - 1);
        }
        if l >= last {
            return;
        }
        from = l + 1;
    }
    gap(from, last);
}
