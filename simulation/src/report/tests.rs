use super::*;
use crate::scenario::Scenario;
use crate::{Options, compare};

fn story(scenario: &str, set: &[&str], key: Option<&str>) -> Story {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let script = Scenario::load(scenario, &set).expect("ours").draw(3);
    watch(&script, key, Options { check: true, ..Options::default() })
}

const SMALL: &[&str] = &["phones.count=6", "phones.start_secs=5", "secs=20", "settle_secs=40"];

/// Nothing in a page may load anything.
fn loads_nothing(page: &str) {
    for word in ["http://", "https://", "src=", "url(", "@import", "<link", "<iframe", "fetch(", "//cdn"] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
}

#[test]
fn a_page_has_everything_in_it_and_says_how_to_do_it_again() {
    let set = [SMALL, &["partition.at=[5]", "partition.secs=8"]].concat();
    let story = story("split-brain", &set, None);
    let page = page(&story, "starling sim run x --set 'a=<b>'");
    loads_nothing(&page);
    for word in [
        "split-brain",
        "seed 3",
        "Every promise held",
        "split",
        "heal",
        "calm",
        "equal",
        "a=&lt;b&gt;",
        "What each side saw of",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert_eq!(page, super::page(&story, "starling sim run x --set 'a=<b>'"));
}

#[test]
fn every_kind_of_fault_and_many_hosts_are_shown() {
    let set = [SMALL, &["swarm=false", "nodes.count=9"]].concat();
    let page = page(&story("everything", &set, Some("routes/k1")), "again");
    loads_nothing(&page);
    assert!(page.contains("routes/k1") && page.contains("n8") && page.contains("All faults"));
}

#[test]
fn a_broken_promise_is_the_first_thing_that_is_said() {
    let mut story = story("calm", SMALL, None);
    story.outcome.violation = Some(crate::Violation {
        property: "nothing-lost".to_owned(),
        at_us: 7_300_000,
        what: "cell <x> of n1 is gone".to_owned(),
    });
    let page = page(&story, "again");
    assert!(page.contains("Broken at 7.3 s") && page.contains("cell &lt;x&gt; of n1 is gone"), "{page}");
}

#[test]
fn a_comparison_has_three_ways_in_numbers_and_charts() {
    let set = [SMALL, &["partition.at=[5]", "partition.secs=8"]].concat();
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let script = Scenario::load("split-brain", &set).expect("ours").draw(3);
    let found = compare::compare(&script).expect("two servers");
    let page = comparison(&found, "again");
    loads_nothing(&page);
    assert!(
        page.contains("Kamailio 5.6, DMQ alone") && page.contains("with Starling") && page.contains("never")
            || found.ways[0].equal_after_ms.is_some()
    );
}
