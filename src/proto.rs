//! The generated types and stubs of the gRPC protocol (`proto/synchromesh/v1`).
//!
//! Holds no logic: what the engine says is told in the protocol's words by `observe::convert`, errors
//! by `observe::errors`; `client` speaks the protocol.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the protocol file is documented instead"
)]

tonic::include_proto!("synchromesh.v1");
include!(concat!(env!("OUT_DIR"), "/server/synchromesh.v1.rs"));

/// A [`WatchEventsResponse`] as the server sends it: the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedEvents {
    /// The run of the daemon that counts the events.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// The events, encoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub events: Vec<prost::bytes::Bytes>,
}

// Messages serialize under the names of the protocol, enums by the names of their values.

fn outcome_name<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(SwitchOutcome::try_from(*value).unwrap_or_default().as_str_name())
}

fn state_name<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(DaemonState::try_from(*value).unwrap_or_default().as_str_name())
}

fn slot_state_name<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(SlotState::try_from(*value).unwrap_or_default().as_str_name())
}

/// The encoded descriptor set, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/synchromesh.v1.fds"));
