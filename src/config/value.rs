//! The kinds of values that keys have: what the schema says of each, with unit and range, and the
//! rules of texts. `check` enforces what the schema says; nothing here is checked by being made.

use bytesize::ByteSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    borrow::Cow,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
};
use tracing_subscriber::filter::Targets;

/// Longest path of a Unix socket that the kernel takes.
pub const MAX_SOCKET_PATH: usize = 107;

/// Bytes, written as a number or with a unit.
#[derive(Clone, Copy)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A time in milliseconds.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Millis<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A number of things.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A user or a group, by number or name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    Number(u64),
    Text(String),
}

/// Permissions of a file, in octal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FileMode(pub(super) String);

/// A path that does not depend on where the daemon is started.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct AbsolutePath(pub(super) PathBuf);

/// The same for a Unix socket.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SocketPath(pub(super) PathBuf);

/// An address and port that only this machine can reach.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct LoopbackAddress(pub(super) SocketAddr);

/// Which log lines are written.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct LogFilter(pub(super) String);

/// Gives a kind of values its schema.
macro_rules! described {
    ($name:ident $(<$($bound:ident),+>)?, $schema:tt) => {
        impl $(<$(const $bound: u64),+>)? JsonSchema for $name $(<$($bound),+>)? {
            // Kinds differ by their bounds, and no name tells that.
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

described!(Size<MIN, MAX>, {
    "type": ["integer", "string"],
    "format": "byte-size",
    "pattern": "^[0-9]+$|^[0-9]+(\\.[0-9]+)? *([kKmMgGtTpPeE][iI]?[bB]?|[bB])$",
    "minimum": MIN,
    "maximum": MAX,
    "x-unit": "bytes"
});
described!(Millis<MIN, MAX>, {
    "type": "integer", "minimum": MIN, "maximum": MAX, "x-unit": "milliseconds"
});
described!(Count<MIN, MAX>, { "type": "integer", "minimum": MIN, "maximum": MAX });
described!(Name, {
    "type": ["integer", "string"],
    "format": "account-name",
    "pattern": "^[A-Za-z0-9_.@\\\\$+-]+$"
});
described!(FileMode, { "type": "string", "format": "file-mode", "pattern": "^0[0-7]{3}$" });
described!(AbsolutePath, { "type": "string", "format": "absolute-path", "pattern": "^/" });
described!(SocketPath, {
    "type": "string", "format": "socket-path", "pattern": "^/", "maxLength": MAX_SOCKET_PATH
});
described!(LoopbackAddress, {
    "type": "string",
    "format": "loopback-address",
    "pattern": "^(127\\.[0-9]+\\.[0-9]+\\.[0-9]+|\\[::1\\]):[0-9]+$"
});
described!(LogFilter, { "type": "string", "format": "log-filter" });

/// What is wrong with a text that must follow the rule of this name, if anything is. A rule that
/// is not known refuses nothing; sizes are `check`'s business.
pub(super) fn breach(rule: &str, text: &str) -> Option<String> {
    match rule {
        "absolute-path" => not_absolute(text),
        "socket-path" if text.len() > MAX_SOCKET_PATH => {
            Some(format!("has {} bytes; a socket's path has at most {MAX_SOCKET_PATH}", text.len()))
        }
        "socket-path" => not_absolute(text),
        "loopback-address" => match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => None,
            Ok(_) => Some("only loopback addresses are allowed: use 127.0.0.1:PORT".into()),
            Err(_) => Some("is not an address with a port: use 127.0.0.1:PORT".into()),
        },
        "account-name" => not_a_name(text),
        "file-mode" if mode_of(text).is_none() => {
            Some(format!("is `{}`; use four octal digits such as \"0660\"", text.escape_debug()))
        }
        "log-filter" => text
            .parse::<Targets>()
            .err()
            .map(|error| format!("{error}; use a level such as `info`")),
        _ => None,
    }
}

fn not_absolute(text: &str) -> Option<String> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs {
        return Some(format!("`{text}` must be an absolute path without `..`"));
    }
    text.contains('\0').then(|| "a path has no NUL".into())
}

/// Longest name of a user or group on Linux.
const MAX_ACCOUNT_NAME: usize = 256;

fn not_a_name(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.@\\$+-".contains(c);
    if !text.is_empty() && text.len() <= MAX_ACCOUNT_NAME && text.chars().all(fits) {
        return None;
    }
    let start: String = text.chars().take(40).collect();
    Some(format!(
        "is `{}`; the name or number of a user or group is expected",
        start.escape_debug()
    ))
}

/// The permissions that a text such as `0660` means.
pub(super) fn mode_of(text: &str) -> Option<u32> {
    let is_octal = text.len() == 4 && text.starts_with('0');
    is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

/// Bytes that a text with a unit means.
pub(super) fn bytes_of(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.as_u64())
}

/// Bytes with the largest unit of which they are a multiple.
pub(super) fn shown_bytes(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.into_iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&shown_bytes(self.0))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Size<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => bytes_of(&text).map(Self).map_err(de::Error::custom),
        }
    }
}
