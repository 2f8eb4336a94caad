use proptest::{collection::vec, prelude::*};

use super::*;

const ENTRY: Entry<'_> = Entry { site: "s", target: "/a/b?c" };

fn purge(soft: bool, targets: &[&str], prefixes: &[&str], keys: &[&str]) -> Purge {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let (targets, prefixes, keys) = (own(targets), own(prefixes), own(keys));
    Purge { site: "s".into(), soft, everything: false, targets, prefixes, keys }
}

fn standing(purges: &Purges, stamp: u64) -> Standing {
    purges.standing(ENTRY, || SurrogateKeys::of_texts([("surrogate-key", "k1 k2")]), stamp)
}

fn check(purge: Purge, expected: Standing) {
    let mut purges = Purges::beginning_at(7);
    purges.purge(std::slice::from_ref(&purge));
    assert_eq!(standing(&purges, 7), expected, "{purge:?}");
    assert_eq!(standing(&purges, 8), Standing::Good, "stored after {purge:?}");
    let again = Purges::restored(purges.epoch(), purges.unknown_before(), purges.iter());
    assert_eq!(standing(&again, 7), expected, "{purge:?}, written down and read");
}

#[test]
fn what_matches_is_purged() {
    for (soft, purged) in [(false, Standing::Gone), (true, Standing::Stale)] {
        check(purge(soft, &["/a/b?c"], &[], &[]), purged);
        check(purge(soft, &["/a/b"], &[], &[]), Standing::Good);
        check(purge(soft, &["/%61/b?%63"], &[], &[]), purged);
        check(purge(soft, &[], &["/%61/%"], &[]), purged);
        check(purge(soft, &[], &["/a"], &[]), purged);
        check(purge(soft, &[], &["/a/b?c"], &[]), purged);
        check(purge(soft, &[], &["/a/b?d", "/a/b?", "/b"], &[]), purged);
        check(purge(soft, &[], &["/a/b?cc", "/aa", "/a/a"], &[]), Standing::Good);
        check(purge(soft, &[], &[], &["k0", "k2"]), purged);
        check(purge(soft, &[], &[], &["k"]), Standing::Good);
        check(Purge { everything: true, ..purge(soft, &[], &[], &[]) }, purged);
        check(Purge { site: "t".into(), everything: true, ..purge(soft, &[], &[], &[]) }, Standing::Good);
    }
}

#[test]
fn soft_does_not_take_back_what_is_hard() {
    let mut purges = Purges::default();
    purges.purge(&[purge(false, &["/a/b?c"], &[], &[])]);
    purges.purge(&[Purge { everything: true, ..purge(true, &[], &[], &[]) }]);
    assert_eq!([0, 1, 2].map(|stamp| standing(&purges, stamp)), [Standing::Gone, Standing::Stale, Standing::Good]);
    purges.purge(&[Purge { everything: true, ..purge(false, &[], &[], &[]) }]);
    assert_eq!(standing(&purges, 2), Standing::Gone);
    assert_eq!(purges.iter().count(), 2, "the target's mark says nothing any more: {purges:?}");
}

#[test]
fn who_was_away_takes_what_it_has_for_stale_until_it_knows() {
    let mut purges = Purges::default();
    purges.purge(&[purge(false, &["/x"], &[], &[])]);
    purges.fell_behind();
    assert_eq!([1, 2].map(|stamp| standing(&purges, stamp)), [Standing::Stale, Standing::Good]);
    assert!(purges.caught_up());
    assert_eq!([1, 2].map(|stamp| standing(&purges, stamp)), [Standing::Good, Standing::Good]);
    assert!(!purges.caught_up());
    purges.all_is_stale();
    let epoch = purges.epoch();
    assert_eq!([epoch - 1, epoch].map(|stamp| standing(&purges, stamp)), [Standing::Stale, Standing::Good]);
}

#[test]
fn too_many_keys_are_any_key() {
    let mut purges = Purges::default();
    let long = "x".repeat(MAX_KEY + 1);
    let of = |purges: &Purges| purges.standing(ENTRY, || SurrogateKeys::of_texts([("cache-tag", long.as_str())]), 0);
    purges.purge(&[purge(false, &["/x"], &[], &[])]);
    assert_eq!(of(&purges), Standing::Good);
    purges.purge(&[purge(false, &[], &[], &["other"])]);
    assert_eq!(of(&purges), Standing::Gone);
}

#[test]
fn marks_are_bounded_and_what_is_forgotten_is_purged() {
    let mut purges = Purges::default();
    for first in 0..70 {
        let keys: Vec<_> = (0..1000).map(|second| format!("{first}-{second}")).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        purges.purge(&[purge(false, &[], &[], &keys)]);
    }
    assert!(purges.sites["s"].weight() <= MAX_SITE);
    assert_eq!(standing(&purges, 0), Standing::Gone);
    assert_eq!(standing(&purges, 70), Standing::Good);
}

/// What a purge says, word for word.
fn matches(purge: &Purge, target: &str, key: &str) -> bool {
    purge.everything
        || purge.targets.iter().any(|text| text == target)
        || purge.prefixes.iter().any(|text| target.starts_with(text.as_str()))
        || purge.keys.iter().any(|text| text == key)
}

fn any_purge() -> impl Strategy<Value = Purge> {
    let texts = || vec("[ab]{0,3}", 0..3);
    let all = (any::<bool>(), prop::bool::weighted(0.05), texts(), texts(), texts());
    all.prop_map(|(soft, everything, targets, prefixes, keys)| Purge {
        site: "s".into(),
        soft,
        everything,
        targets,
        prefixes,
        keys,
    })
}

proptest! {
    #[test]
    fn as_a_list_of_all_purges_would_have_it(
        all in vec(any_purge(), 0..12),
        target in "[ab]{0,4}",
        key in "[ab]{1,3}",
        stamp in 0u64..14,
    ) {
        let mut purges = Purges::default();
        all.iter().for_each(|purge| purges.purge(std::slice::from_ref(purge)));
        let since = all.iter().skip(usize::try_from(stamp).unwrap()).filter(|purge| matches(purge, &target, &key));
        let soft: Vec<bool> = since.map(|purge| purge.soft).collect();
        let expected = match soft.as_slice() {
            [] => Standing::Good,
            soft if soft.contains(&false) => Standing::Gone,
            _ => Standing::Stale,
        };
        let entry = Entry { site: "s", target: &target };
        let keys = || SurrogateKeys::of_texts([("surrogate-key", key.as_str())]);
        prop_assert_eq!(purges.standing(entry, keys, stamp), expected);
        let again = Purges::restored(purges.epoch(), purges.unknown_before(), purges.iter());
        prop_assert_eq!(again.standing(entry, keys, stamp), expected);
    }
}
