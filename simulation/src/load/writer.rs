//! Somebody who writes at intervals: keys of a table, counters, or an operator who removes contacts.

use node::Mono;

use super::{Wish, aor};
use crate::ledger::What;
use crate::rng::{Rng, Stream};
use crate::script::{Job, WriterSpec};

/// So many keys of a table are written by everybody; half of all writes go there.
const HOT_KEYS: u32 = 3;
/// How long an answer is waited for.
const PATIENCE_MS: u64 = 6_000;
/// Share of the increments that add more than one, per mille.
const LARGE_PERMILLE: u32 = 100;

/// A writer.
pub(super) struct Writer {
    spec: WriterSpec,
    /// How many values it has written; each is another.
    written: u64,
    rng: Rng,
}

impl Writer {
    pub(super) fn new(spec: &WriterSpec, seed: u64) -> Self {
        Self { spec: spec.clone(), written: 0, rng: Rng::stream(seed, Stream::Writer, u64::from(spec.id)) }
    }

    pub(super) fn act(&mut self, now: Mono) -> Result<Wish, Option<Mono>> {
        if now >= Mono(0).plus_ms(self.spec.stop_ms) {
            return Err(None);
        }
        let rng = &mut self.rng;
        let what = match &self.spec.job {
            Job::Keys { table, keys, delete_permille } => {
                let table = table.clone();
                let key = key(self.spec.id, *keys, rng);
                if rng.permille(*delete_permille) {
                    What::Delete { table, key }
                } else {
                    self.written += 1;
                    What::Set { table, key, value: format!("w{}-{}", self.spec.id, self.written) }
                }
            }
            Job::Count { table, keys } => {
                let key = format!("c{}", skewed((*keys).max(1), rng));
                let large = rng.permille(LARGE_PERMILLE);
                let by = if large { rng.between(2, 5) as i64 } else { 1 };
                What::Add { table: table.clone(), key, by }
            }
            Job::Operator { aors } => {
                What::RemoveAll { aor: aor(rng.below(u64::from((*aors).max(1))) as u32), operator: true }
            }
        };
        Ok(Wish { at: self.spec.at, what, words: None, patience_ms: PATIENCE_MS })
    }

    /// When it writes next, if ever: half to one and a half times the mean from now.
    pub(super) fn next(&mut self, now: Mono) -> Option<Mono> {
        let every = self.spec.every_ms.max(1);
        let next = now.plus_ms(self.rng.between(every / 2, every + every / 2));
        (next < Mono(0).plus_ms(self.spec.stop_ms)).then_some(next)
    }
}

/// A hot key that everybody writes, or one of this writer's own.
fn key(writer: u32, keys: u32, rng: &mut Rng) -> String {
    let hot = HOT_KEYS.min(keys.max(1));
    if rng.permille(500) || keys <= hot {
        format!("hot{}", rng.below(u64::from(hot)))
    } else {
        format!("w{writer}-{}", rng.below(u64::from(keys - hot)))
    }
}

/// Below `n`; half of all draws are among the first few.
fn skewed(n: u32, rng: &mut Rng) -> u32 {
    let below = if rng.permille(500) { HOT_KEYS.min(n) } else { n };
    rng.below(u64::from(below)) as u32
}
