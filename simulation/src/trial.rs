//! A run that is allowed to fail: a panic of the node is a broken promise like any other.
//!
//! The panic hook is put in place once; it is silent while this thread is in a trial, and as it was elsewhere.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::{Options, Outcome, Script, Violation, run};

/// The property that a panic breaks.
pub const NO_PANIC: &str = "no-panic";
/// The property that two different runs of one script break.
pub const SAME_RUN: &str = "same-run";

thread_local! {
    /// What the last panic in a trial of this thread said; `None` outside of trials.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs a script; a panic is a violation of [`NO_PANIC`].
pub fn attempt(script: &Script, options: Options) -> Outcome {
    guarded(|| run(script, options))
}

/// Runs a script twice; if the two differ, that is a violation of [`SAME_RUN`].
pub fn attempt_twice(script: &Script, options: Options) -> Outcome {
    let mut first = attempt(script, options);
    let second = attempt(script, options);
    if first.violation.is_none() && !same(&first, &second) {
        first.violation = Some(Violation {
            property: SAME_RUN.to_owned(),
            at_us: 0,
            what: format!("one script gave the traces {:016x} and {:016x}", first.trace, second.trace),
        });
    }
    first
}

/// Whether two outcomes are those of one run.
fn same(a: &Outcome, b: &Outcome) -> bool {
    let facts =
        |o: &Outcome| (o.trace, o.steps, o.equal_after_ms, o.violation.clone(), o.coverage.clone(), o.traffic.clone());
    facts(a) == facts(b)
}

/// Runs something whose panic is a violation of [`NO_PANIC`].
pub(crate) fn guarded(run: impl FnOnce() -> Outcome) -> Outcome {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !note(info) {
                before(info);
            }
        }));
    });
    SAID.with(|said| *said.borrow_mut() = Some(String::new()));
    let done = panic::catch_unwind(AssertUnwindSafe(run));
    let said = SAID.with(|said| said.borrow_mut().take()).unwrap_or_default();
    done.unwrap_or_else(|_| Outcome {
        violation: Some(Violation { property: NO_PANIC.to_owned(), at_us: 0, what: said }),
        ..Outcome::default()
    })
}

/// Notes what a panic says, if this thread is in a trial.
fn note(info: &PanicHookInfo<'_>) -> bool {
    SAID.with(|said| match &mut *said.borrow_mut() {
        Some(said) => {
            let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
            *said = format!("panic: {}{place}", info.payload_as_str().unwrap_or("without words"));
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_violation_with_its_words_and_its_place() {
        let out = guarded(|| panic!("the seventh seal"));
        let violation = out.violation.expect("a violation");
        assert_eq!(violation.property, NO_PANIC);
        assert!(violation.what.contains("the seventh seal") && violation.what.contains("trial.rs"), "{violation:?}");
        assert_eq!(guarded(Outcome::default).violation, None);
    }
}
