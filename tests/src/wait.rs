//! Waiting for what shall become true, and for tests that shall end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::process;

/// How long things may take that have nothing to do with what a test is about: a process that starts, a link
/// that comes up, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Seconds, shortly.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Asks until the answer is `Ok`, at growing intervals of 5 to 100 ms, and returns it.
///
/// # Panics
/// After `timeout`, with `what` and the reason of the last refusal.
#[track_caller]
pub fn eventually<T>(timeout: Duration, what: &str, mut check: impl FnMut() -> anyhow::Result<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match check() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() >= timeout => {
                panic!("not within {timeout:?}: {what}\n  last: {reason:#}")
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

/// Checks for a while that something stays true.
///
/// # Panics
/// As soon as it is not, with `what` and the reason.
#[track_caller]
pub fn stays(duration: Duration, what: &str, mut check: impl FnMut() -> anyhow::Result<()>) {
    let start = Instant::now();
    loop {
        if let Err(reason) = check() {
            panic!("did not stay so for {duration:?}: {what}\n  after {:?}: {reason:#}", start.elapsed());
        }
        if start.elapsed() >= duration {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a test in a thread of its own under a hard limit.
///
/// # Panics
/// With the panic of `body`; or after `limit`, when every process that this test binary started has been killed.
#[track_caller]
pub fn limited(limit: Duration, body: impl FnOnce() + Send + 'static) {
    process::sweep();
    let (done, ended) = channel();
    std::thread::spawn(move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(body)));
    });
    match ended.recv_timeout(limit) {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            process::kill_all();
            panic!("the test ran out of its time of {limit:?}");
        }
    }
}

/// Fails a check, with a reason, unless the two are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, left: T, right: T) -> anyhow::Result<()> {
    anyhow::ensure!(left == right, "{what}: {left:?} is not {right:?}");
    Ok(())
}
