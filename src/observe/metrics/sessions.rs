//! Metrics of sessions and of leases on what they had before. A session is named only while it is
//! open, so there are never more of them than a model has places.

use super::{
    families::{Families, flag, numbers, ratios, seconds},
    models::{Label, Model},
};
use crate::engine::{LeaseStatus, SessionStatus};
use std::{fmt, time::Duration};

type Gauge = (&'static str, &'static str, fn(&SessionStatus) -> f64);

const GAUGES: [Gauge; 4] = [
    ("session_generation", "Grows at every published switch", |s| s.generation.0 as f64),
    ("session_clients", "Clients attached to the session", |s| s.clients as f64),
    ("session_switching", "Whether a switch of the session is on its way", |s| {
        flag(s.pending_task.is_some())
    }),
    ("draining_generations", "Older generations of the session that a lease still holds", |s| {
        s.draining_generations as f64
    }),
];

/// Writes the families of these models' sessions.
pub(super) fn write(models: &[Model], to: &mut Families<'_>) -> fmt::Result {
    let sessions = || models.iter().flat_map(|m| m.now.sessions.iter().map(move |s| (m, s)));
    let labels = |(model, session): (&'_ Model, &'_ SessionStatus)| -> [(&'static str, String); 2] {
        let (key, name) = model.label();
        [(key, name.to_owned()), ("session", session.session.clone())]
    };
    for (name, help, value) in GAUGES {
        to.gauges(numbers(name, help), sessions().map(|at| (labels(at), value(at.1))))?;
    }
    let remaining = |s: &SessionStatus| Some(s.remaining?.as_secs_f64());
    let remaining = sessions().filter_map(|at| Some((labels(at), remaining(at.1)?)));
    let what = "How long until the session closes if nothing happens";
    to.gauges(seconds("session_remaining", what), remaining)?;
    let confidence = "The share of late switches whose task had been held to be the likeliest";
    let confidences = sessions().map(|at| (labels(at), at.1.confidence));
    to.gauges(ratios("foresight_confidence", confidence), confidences)?;
    let active = sessions().filter_map(|at| {
        let [model, session] = labels(at);
        Some([model, session, ("task", at.1.task.clone()?)])
    });
    to.infos(numbers("session_active_task", "The task that each session has"), active)?;
    let held = |m: &Model| leases(m).count() as f64;
    let what = "Clients' leases on older generations";
    to.gauges(numbers("leases", what), models.iter().map(|m| ([m.label()], held(m))))?;
    let what = "For how long the oldest lease has been on an older generation; 0 if there is none";
    let oldest = |m: &'_ Model| -> Duration {
        leases(m).map(|l| l.superseded_for).max().unwrap_or_default()
    };
    let oldest = models.iter().map(|m| ([m.label()] as [Label<'_>; 1], oldest(m).as_secs_f64()));
    to.gauges(seconds("lease_oldest_age", what), oldest)
}

fn leases(model: &Model) -> impl Iterator<Item = &LeaseStatus> {
    model.now.sessions.iter().flat_map(|session| &session.leases)
}
