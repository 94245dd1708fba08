//! Switches in OTLP's words. A switch is a span below its caller's; its phases are spans below that,
//! one after another, up to the moment when it ended.

use super::Traced;
use crate::{
    engine::{EventKind, SwitchEnd, SwitchTiming},
    observe::{
        convert,
        lines::{bytes, outcome_name},
    },
    proto::{self, event::Kind},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, SpanFlags, Status, span::SpanKind, status::StatusCode,
    },
};
use prost::Message as _;
use std::time::Duration;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The trace is recorded, and the span above is one of the daemon's.
const LOCAL: u32 = 1 | SpanFlags::ContextHasIsRemoteMask as u32;

/// A request that exports these switches.
pub(super) fn request(instance: &str, traced: &[Traced]) -> Vec<u8> {
    let attributes = vec![
        attribute("service.name", text(NAME)),
        attribute("service.version", text(VERSION)),
        attribute("service.instance.id", text(instance)),
    ];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope = InstrumentationScope {
        name: NAME.into(),
        version: VERSION.into(),
        ..InstrumentationScope::default()
    };
    let spans = traced.iter().flat_map(spans).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource, scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// The span of a switch, then those of its phases.
fn spans(traced: &Traced) -> Vec<Span> {
    let Traced { event, trace, time_us } = traced;
    let timing = match &event.kind {
        EventKind::Switch(SwitchEnd { result: Ok(report), .. }) => report.timing,
        // How long a switch took that failed is not known.
        _ => SwitchTiming::default(),
    };
    let end = time_us * 1000;
    let (attributes, status) = told(&convert::event(event, *time_us));
    let whole = Span {
        trace_id: trace.trace_id.to_be_bytes().into(),
        span_id: new_id(),
        parent_span_id: trace.span_id.to_be_bytes().into(),
        flags: LOCAL | SpanFlags::ContextIsRemoteMask as u32,
        name: "SwitchTask".into(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: end.saturating_sub(timing.total().as_nanos() as u64),
        end_time_unix_nano: end,
        attributes,
        status,
        ..Span::default()
    };
    let phases = phases(&whole, timing);
    [whole].into_iter().chain(phases).collect()
}

/// Spans of the phases that a switch went through.
fn phases(whole: &Span, timing: SwitchTiming) -> Vec<Span> {
    let SwitchTiming { queue, plan, read, verify, publish } = timing;
    let phases = [
        ("queue", queue),
        ("plan", plan),
        ("read", read),
        ("verify", verify),
        ("publish", publish),
    ];
    let mut begun = whole.start_time_unix_nano;
    let gone_through = phases.into_iter().filter(|(_, time)| !time.is_zero());
    let span = |(name, time): (&str, Duration)| {
        let start_time_unix_nano = begun;
        begun += time.as_nanos() as u64;
        Span {
            trace_id: whole.trace_id.clone(),
            span_id: new_id(),
            parent_span_id: whole.span_id.clone(),
            flags: LOCAL,
            name: name.into(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano,
            end_time_unix_nano: begun,
            ..Span::default()
        }
    };
    gone_through.map(span).collect()
}

/// What the event says of the switch, and its status.
fn told(event: &proto::Event) -> (Vec<KeyValue>, Option<Status>) {
    let mut attributes = vec![
        attribute("synchromesh.model", text(&event.model)),
        attribute("synchromesh.session", text(&event.session)),
    ];
    let status = match &event.kind {
        Some(Kind::Switched(switched)) => {
            attributes.extend(way(&switched.from, &switched.task, &switched.request_id));
            attributes.extend(switched.result.iter().flat_map(results));
            None
        }
        Some(Kind::SwitchFailed(failed)) => {
            attributes.extend(way(&failed.from, &failed.task, &failed.request_id));
            attributes.push(attribute("error.type", text(&failed.reason)));
            let (message, code) = (failed.reason.clone(), StatusCode::Error.into());
            Some(Status { message, code })
        }
        _ => None,
    };
    (attributes, status)
}

/// What was asked for.
fn way(from: &str, task: &str, request_id: &str) -> impl Iterator<Item = KeyValue> {
    let present = [
        ("synchromesh.from", from),
        ("synchromesh.task", task),
        ("synchromesh.request_id", request_id),
    ];
    let present = present.map(|(key, value)| (key, text(value), value.is_empty()));
    present.into_iter().filter(|(.., empty)| !empty).map(|(key, value, _)| attribute(key, value))
}

/// What came of it.
fn results(result: &proto::SwitchTaskResponse) -> [KeyValue; 8] {
    [
        attribute("synchromesh.outcome", text(&outcome_name(result.outcome()))),
        attribute("synchromesh.generation", number(result.generation)),
        attribute("synchromesh.needed_bytes", number(bytes(result.needed))),
        attribute("synchromesh.reused_bytes", number(bytes(result.reused))),
        attribute("synchromesh.prefetched_bytes", number(bytes(result.prefetched))),
        attribute("synchromesh.read_bytes", number(bytes(result.read))),
        attribute("synchromesh.evicted_bytes", number(bytes(result.evicted))),
        attribute("synchromesh.in_place", Value::BoolValue(result.in_place)),
    ]
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.into())
}

fn number(number: u64) -> Value {
    Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A span's id: any but zero.
fn new_id() -> Vec<u8> {
    fastrand::u64(1..).to_be_bytes().into()
}
