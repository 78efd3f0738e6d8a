//! Which tables count, and how long what is counted lives. Invariant: a contribution has a deadline wherever entries have one.

use crdt::Wall;
use tables::htable;

use crate::config::Config;
use crate::io::Mono;

/// Whether a hash table counts.
pub(crate) fn is_counter(config: &Config, name: &str) -> bool {
    config.htables.get(name).is_some_and(|t| t.counter)
}

/// The deadline of a contribution that is made now; `None` in tables whose entries may live for ever.
pub(crate) fn deadline(table: &str, config: &Config, now: Wall) -> Option<u64> {
    lives_s(table, config).map(|seconds| now.0 / 1_000 + seconds)
}

/// How long a contribution lives, seconds.
fn lives_s(table: &str, config: &Config) -> Option<u64> {
    let known = config.htables.get(htable::name(table)?)?;
    let seconds = if known.autoexpire_s > 0 { known.autoexpire_s } else { known.max_ttl_s };
    (seconds > 0).then_some(u64::from(seconds))
}

/// Until when what a server was told of a counter in such a table may be there, and be shown, though the counter ends now.
pub(crate) fn outlived_until(table: &str, config: &Config, now: Mono) -> Mono {
    const SHOWN_S: u64 = 120;
    now.plus_ms((lives_s(table, config).unwrap_or(0) + SHOWN_S) * 1_000)
}
