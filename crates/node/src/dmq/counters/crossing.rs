//! What a server's messages add up to that cross a set of ours on their way.
//!
//! A server that says no stamps counts on from what it had, until our set arrives, and from the set afterwards; its messages
//! overtake each other, and nothing in them tells on which side of the set they were said. Each is one step of a way up, from
//! the value before or from the set, so all of them together leave few ways to have come about. The shortest is taken, and what
//! was counted is put right when another message shows a longer one. Invariant: the steps that were returned are the length of
//! the shortest way that all messages so far can be part of.

/// How many messages are kept: one set is under way for a moment.
const MESSAGES: usize = 64;

/// One of our sets, and what the server has said since it was sent.
#[derive(Debug)]
pub(super) struct Crossing {
    /// What the server had before: one of these.
    before: Vec<i64>,
    sum: i64,
    /// In ascending order.
    said: Vec<i64>,
    counted: i64,
}

/// What one more message shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// What has been counted, beside what was known.
    pub(super) step: i64,
    /// What the server has, if the set has not come after all messages: the most that it may have.
    pub(super) last: i64,
    /// Whether the set must have come before the last of them, or one is still missing.
    pub(super) taken: bool,
}

/// How the server may have come to say what it said.
#[derive(Clone, Copy, Debug)]
struct Way {
    length: i64,
    end: i64,
    /// Whether it counted on from the set.
    by_the_set: bool,
}

impl Crossing {
    /// The set is sent to a server that has `before`.
    pub(super) fn new(before: i64, sum: i64) -> Self {
        Self { before: vec![before], sum, said: Vec::new(), counted: 0 }
    }

    /// It may also have one of these, as far as is known.
    pub(super) fn or(mut self, others: &[i64]) -> Self {
        self.before.extend(others);
        self
    }

    /// The server says a value. `None` if that is no step of a way up; then it is not taken in.
    pub(super) fn said(&mut self, value: i64) -> Option<Counted> {
        if self.said.len() == MESSAGES {
            return None;
        }
        let at = self.said.partition_point(|known| *known <= value);
        self.said.insert(at, value);
        let ways = self.shortest();
        let (Some(first), Some(last)) = (ways.first(), ways.iter().map(|way| way.end).max()) else {
            self.said.remove(at);
            return None;
        };
        let step = first.length - std::mem::replace(&mut self.counted, first.length);
        Some(Counted { step, last, taken: ways.iter().all(|way| way.by_the_set) })
    }

    /// What was said is none that crosses: from now on the server has that.
    pub(super) fn restart(&mut self, before: i64) {
        *self = Self::new(before, self.sum);
    }

    /// Whether the server has said more than was set, so that nobody knows which came last.
    pub(super) fn is_open(&self) -> bool {
        self.said.last().is_some_and(|most| *most > self.sum)
    }

    /// What the server may have now, if the set has not come after all messages.
    pub(super) fn ends(&self) -> impl Iterator<Item = i64> {
        self.shortest().into_iter().map(|way| way.end)
    }

    /// The shortest ways, all of one length.
    fn shortest(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = self.before.iter().flat_map(|before| self.ways_from(*before)).collect();
        let least = ways.iter().map(|way| way.length).min();
        ways.retain(|way| Some(way.length) == least);
        ways
    }

    fn ways_from(&self, before: i64) -> impl Iterator<Item = Way> {
        let twice = self.said.windows(2).any(|two| two[0] == two[1]);
        let most = self.said.last().copied().filter(|_| self.said[0] > before && !twice);
        let alone = most.map(|most| Way { length: most - before, end: most, by_the_set: false });
        let until = self.said.iter().copied().filter(move |value| *value > before);
        let split = std::iter::once(before).chain(until).filter_map(move |until| self.by_way_of_the_set(before, until));
        alone.into_iter().chain(split)
    }

    /// The way on which the server had come up to a value when the set arrived.
    fn by_way_of_the_set(&self, before: i64, until: i64) -> Option<Way> {
        let mut previous = None;
        // A value is said once on each side.
        let after = self.said.iter().copied().filter(|value| {
            let first = previous.replace(*value) != Some(*value);
            !(first && (before + 1..=until).contains(value))
        });
        let after: Vec<i64> = after.collect();
        let (least, most) = (*after.first()?, *after.last()?);
        let twice = after.windows(2).any(|two| two[0] == two[1]);
        let length = until - before + most - self.sum;
        (least > self.sum && !twice).then_some(Way { length, end: most, by_the_set: true })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(before: i64, sum: i64, said: &[i64]) -> i64 {
        let mut crossing = Crossing::new(before, sum);
        said.iter().filter_map(|value| crossing.said(*value)).map(|way| way.step).sum()
    }

    #[test]
    fn the_shortest_way_is_counted_until_another_message_shows_a_longer_one() {
        for (said, steps) in
            [(&[45][..], 1), (&[45, 44], 2), (&[45, 44, 47, 48, 46], 5), (&[44, 45, 45], 3), (&[48], 4), (&[42], 0)]
        {
            assert_eq!(counted(43, 44, said), steps, "{said:?}");
        }
        assert_eq!(counted(49, 52, &[53, 50]), 2);
        assert_eq!(counted(49, 52, &[51, 50]), 2);
    }

    /// What the server had, what else it may have had, our set, the number of its own steps, and its messages in any order.
    fn crossings() -> impl Strategy<Value = (i64, Vec<i64>, i64, i64, Vec<i64>)> {
        let others = proptest::collection::vec(0..20_i64, 0..2);
        (0..20_i64, others, 0..30_i64, 0..8_i64, 0..8_i64).prop_flat_map(|(before, others, sum, own, after)| {
            let first = (1..=own).map(move |step| before + step);
            let said: Vec<i64> = first.chain((1..=after).map(|step| sum + step)).collect();
            (Just(before), Just(others), Just(sum), Just(own + after), Just(said).prop_shuffle())
        })
    }

    proptest! {
        #[test]
        fn all_steps_are_counted_once_wherever_the_set_came_and_in_whatever_order_they_are_heard(
            (before, others, sum, steps, said) in crossings()
        ) {
            let mut crossing = Crossing::new(before, sum).or(&others);
            let ways: Vec<Option<Counted>> = said.iter().map(|value| crossing.said(*value)).collect();
            prop_assert!(ways.iter().all(Option::is_some), "{:?}", ways);
            prop_assert_eq!(ways.iter().flatten().map(|way| way.step).sum::<i64>(), steps, "{:?}", ways);
        }
    }
}
