//! A clock against the plain set of dots that it stands for.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

type Model = BTreeSet<(u64, u64)>;

fn dot(origin: u64, seq: u64) -> Dot {
    Dot { origin: Origin(origin), seq }
}

fn clock_of(model: &Model) -> Clock {
    let mut clock = Clock::new();
    for &(origin, seq) in model {
        clock.insert(dot(origin, seq));
    }
    clock
}

fn model_of(ranges: impl Iterator<Item = (Origin, RangeInclusive<u64>)>) -> Model {
    ranges.flat_map(|(origin, seqs)| seqs.map(move |seq| (origin.0, seq))).collect()
}

fn any_model() -> impl Strategy<Value = Model> {
    proptest::collection::btree_set((0..3_u64, 1..24_u64), 0..40)
}

proptest! {
    #[test]
    fn a_clock_is_the_set_of_its_dots_in_any_order(model in any_model(), order in any::<u64>()) {
        let mut dots: Vec<_> = model.iter().copied().collect();
        dots.sort_by_key(|&(o, s)| (o * 31 + s * 7).wrapping_mul(order | 1));
        let mut clock = Clock::new();
        for &(origin, seq) in &dots {
            prop_assert!(clock.insert(dot(origin, seq)));
            prop_assert!(!clock.insert(dot(origin, seq)));
        }
        prop_assert_eq!(model_of(clock.ranges()), model.clone());
        prop_assert_eq!(&clock, &clock_of(&model));
        for origin in 0..3 {
            for seq in 1..24 {
                prop_assert_eq!(clock.contains(dot(origin, seq)), model.contains(&(origin, seq)));
            }
            let max = model.iter().filter(|d| d.0 == origin).map(|d| d.1).max();
            prop_assert_eq!(clock.max(Origin(origin)), max.unwrap_or(0));
        }
    }

    #[test]
    fn set_operations_agree_with_sets(a in any_model(), b in any_model()) {
        let (ca, cb) = (clock_of(&a), clock_of(&b));
        prop_assert_eq!(model_of(ca.difference(&cb)), &a - &b);
        prop_assert_eq!(ca.includes(&cb), a.is_superset(&b));
        let mut both = ca.clone();
        both.intersect(&cb);
        prop_assert_eq!(&both, &clock_of(&(&a & &b)));
        let mut joined = ca.clone();
        joined.join(&cb);
        prop_assert_eq!(&joined, &clock_of(&(&a | &b)));
        let without = ca.minus(b.iter().map(|&(o, s)| dot(o, s)));
        prop_assert_eq!(&without, &clock_of(&(&a - &b)));
    }

    #[test]
    fn ranges_are_inserted_and_removed_as_sets(
        mut model in any_model(), origin in 0..3_u64, first in 1..24_u64, len in 0..12_u64, insert in any::<bool>()
    ) {
        let mut clock = clock_of(&model);
        let last = first + len;
        if insert {
            clock.insert_range(Origin(origin), first..=last);
            model.extend((first..=last).map(|seq| (origin, seq)));
        } else {
            clock.remove_range(Origin(origin), first..=last);
            model.retain(|&(o, s)| o != origin || !(first..=last).contains(&s));
        }
        prop_assert_eq!(&clock, &clock_of(&model));
    }

    #[test]
    fn a_clock_survives_the_wire(model in any_model()) {
        let clock = clock_of(&model);
        let bytes = postcard::to_stdvec(&clock).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Clock>(&bytes).unwrap(), clock);
    }

    #[test]
    fn a_clock_from_garbage_is_in_normal_form_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(clock) = postcard::from_bytes::<Clock>(&bytes) {
            let mut again = Clock::new();
            again.join(&clock);
            prop_assert_eq!(again, clock);
        }
    }
}

#[test]
fn a_truncated_clock_covers_less() {
    let mut clock = Clock::new();
    for seq in [1, 3, 5, 7, 9] {
        clock.insert(dot(1, seq));
    }
    let whole = clock.clone();
    clock.truncate(2);
    assert!(whole.includes(&clock) && clock.contains(dot(1, 5)) && !clock.contains(dot(1, 7)));
}
