//! What the sequences met, so that a simulation which meets nothing fails.

use std::{collections::BTreeMap, fmt};

/// What must have happened at least once.
const EXPECTED: [&str; 51] = [
    "already active",
    "answered from memory",
    "bad name",
    "blocks evicted",
    "caller gone",
    "caller gone, switched",
    "client died with a lease",
    "client leased",
    "client retreated",
    "client wrote junk",
    "closed without its task",
    "corrupt",
    "deadline exceeded",
    "draining",
    "gave up its task",
    "generation mismatch",
    "joined a running request",
    "joined reads under way",
    "lease outlived its generation",
    "lease revoked",
    "left without a task",
    "loaded",
    "model ambiguous",
    "model unknown",
    "no need to be in place",
    "no room",
    "pool full of pinned blocks",
    "read failed",
    "read in vain",
    "read late",
    "recovered by the second read",
    "refused after a revocation",
    "request id reused",
    "resident",
    "session closed while it switched",
    "session closed",
    "session exists",
    "session in use",
    "session unknown",
    "several sessions switched",
    "superseded",
    "switched after faults",
    "switched in place",
    "taken back at its deadline",
    "taken back for another switch",
    "taken back",
    "task unknown",
    "too many clients",
    "verified as bad",
    "waited for room",
    "withdrew reads",
];

/// How often things happened.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        assert!(EXPECTED.contains(&what), "`{what}` is not listed");
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn count_if(&mut self, happened: bool, what: &'static str) {
        self.add(what, u64::from(happened));
    }

    pub(crate) fn assert_complete(&self) {
        let missed = |what: &&&str| self.0.get(**what).is_none_or(|&times| times == 0);
        let missed: Vec<_> = EXPECTED.iter().filter(missed).collect();
        assert!(missed.is_empty(), "never met: {missed:?}; met: {self}");
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, times)| write!(f, "\n{times:>9} {what}"))
    }
}
