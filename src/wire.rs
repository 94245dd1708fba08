//! The messages of the data-plane socket (`SOCK_SEQPACKET`), version 1, as `docs/attach.md` has them:
//! a hello from the client, and a welcome that carries descriptors or says why there are none.
//! Whether a client may attach is `attach`'s business, and what it does then its own.

use crate::{bundle::MAX_NAME_LEN, device::SessionEntry};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
    },
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

const MAGIC: [u8; 8] = *b"SMATTACH";
const VERSION: u32 = 1;
const TEXT_LEN: usize = 256;

/// Number of descriptors in a welcome.
pub const DESCRIPTORS: usize = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHello {
    magic: [u8; 8],
    version: le::U32,
    reserved: le::U32,
    model: [u8; MAX_NAME_LEN],
    session: [u8; MAX_NAME_LEN],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawWelcome {
    magic: [u8; 8],
    version: le::U32,
    status: le::U32,
    entry: le::U32,
    reserved: le::U32,
    text: [u8; TEXT_LEN],
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The model; empty for the only one.
    pub model: String,
    /// The session; empty for the default one.
    pub session: String,
}

/// What a client gets: descriptors in the order pool, table, index, cell, doorbell.
#[derive(Debug)]
pub struct Welcome {
    /// The session's place in the table.
    pub entry: SessionEntry,
    /// The descriptors.
    pub descriptors: [OwnedFd; DESCRIPTORS],
}

/// Why a message is not understood, or a request was refused.
#[derive(Debug, Error)]
pub enum WireError {
    /// The socket failed.
    #[error("the attach socket failed: {0}")]
    Io(#[from] Errno),
    /// The peer has gone.
    #[error("the peer has closed the connection")]
    Closed,
    /// The message is not one of this protocol.
    #[error("the peer does not speak this protocol")]
    Malformed,
    /// The peer speaks another version.
    #[error("the peer speaks version {0} of the attach protocol, not {VERSION}")]
    Version(u32),
    /// Descriptors came with a hello, or more than belong to a welcome.
    #[error("descriptors came that do not belong to the message")]
    Descriptors,
    /// Descriptors of a welcome were lost on their way in.
    #[error(
        "this process has no room for the descriptors that the daemon hands out: raise its limit \
         (LimitNOFILE=, ulimit -n)"
    )]
    DescriptorsLost,
    /// The daemon refuses.
    #[error("the daemon refuses: {text}")]
    Refused {
        /// What a caller can do about it.
        code: Refusal,
        /// Why, in words.
        text: String,
    },
}

/// Why a client is not attached: a gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u32);

impl Refusal {
    /// The hello is none, or its names cannot be names.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// No hello came.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// There is no such model or session.
    pub const NOT_FOUND: Self = Self(5);
    /// The peer may not attach.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// There is no place left for the client.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// The client speaks another version.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// The daemon is stopping.
    pub const UNAVAILABLE: Self = Self(14);
}

impl Hello {
    /// Sends the message.
    pub fn send(&self, socket: impl AsFd) -> Result<(), WireError> {
        let raw = RawHello {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            model: padded(&self.model).ok_or(WireError::Malformed)?,
            session: padded(&self.session).ok_or(WireError::Malformed)?,
        };
        retry_on_intr(|| send(&socket, raw.as_bytes(), SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Receives the message. Descriptors that come with it are closed by the kernel, as there is no
    /// room for them, and make the message a wrong one.
    pub fn receive(socket: impl AsFd) -> Result<Self, WireError> {
        let mut buffer = [0; size_of::<RawHello>() + 1];
        let mut none = RecvAncillaryBuffer::default();
        let bytes = &mut [IoSliceMut::new(&mut buffer)];
        let message =
            retry_on_intr(|| recvmsg(&socket, bytes, &mut none, RecvFlags::CMSG_CLOEXEC))?;
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::Descriptors);
        }
        let received = &buffer[..message.bytes];
        check_version(received)?;
        let raw = RawHello::ref_from_bytes(received).map_err(|_| WireError::Malformed)?;
        let (model, session) = (text(&raw.model), text(&raw.session));
        let (Some(model), Some(session)) = (model, session) else {
            return Err(WireError::Malformed);
        };
        Ok(Self { model, session })
    }
}

impl Welcome {
    /// Sends the descriptors.
    pub fn send(&self, socket: impl AsFd) -> Result<(), WireError> {
        let raw = RawWelcome::new(0, self.entry.number(), "");
        let fds: [BorrowedFd<'_>; DESCRIPTORS] = self.descriptors.each_ref().map(AsFd::as_fd);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(WireError::Malformed);
        }
        let bytes = [IoSlice::new(raw.as_bytes())];
        sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends a refusal.
    pub fn refuse(socket: impl AsFd, code: Refusal, why: &str) -> Result<(), WireError> {
        send(socket, RawWelcome::new(code.0, 0, why).as_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives the answer to a hello.
    pub fn receive(socket: impl AsFd) -> Result<Self, WireError> {
        let mut buffer = [0; size_of::<RawWelcome>()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = &mut [IoSliceMut::new(&mut buffer)];
        let message =
            retry_on_intr(|| recvmsg(&socket, bytes, &mut control, RecvFlags::CMSG_CLOEXEC))?;
        let mut descriptors = Vec::with_capacity(DESCRIPTORS);
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                descriptors.extend(fds);
            }
        }
        let received = &buffer[..message.bytes];
        let raw = match RawWelcome::ref_from_bytes(received) {
            Ok(raw) if raw.magic == MAGIC && !message.flags.contains(ReturnFlags::TRUNC) => raw,
            _ => return Err(check_version(received).err().unwrap_or(WireError::Malformed)),
        };
        if raw.status.get() != 0 {
            let (code, text) = (Refusal(raw.status.get()), text(&raw.text).unwrap_or_default());
            return Err(WireError::Refused { code, text });
        }
        check_version(received)?;
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::DescriptorsLost);
        }
        let entry = SessionEntry::new(raw.entry.get()).ok_or(WireError::Malformed)?;
        let descriptors = descriptors.try_into().map_err(|_| WireError::Descriptors)?;
        Ok(Self { entry, descriptors })
    }
}

impl RawWelcome {
    fn new(status: u32, entry: u32, why: &str) -> Self {
        let mut end = why.len().min(TEXT_LEN);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            magic: MAGIC,
            version: VERSION.into(),
            status: status.into(),
            entry: entry.into(),
            reserved: 0.into(),
            text: padded(&why[..end]).unwrap_or([0; TEXT_LEN]),
        }
    }
}

/// Looks at the beginning of a message, which is the same in all versions.
fn check_version(message: &[u8]) -> Result<(), WireError> {
    if message.is_empty() {
        return Err(WireError::Closed);
    }
    let rest = message.strip_prefix(&MAGIC).ok_or(WireError::Malformed)?;
    let version = rest.first_chunk().ok_or(WireError::Malformed)?;
    match u32::from_le_bytes(*version) {
        VERSION => Ok(()),
        other => Err(WireError::Version(other)),
    }
}

fn padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let rest_is_zero = bytes[end..].iter().all(|&byte| byte == 0);
    String::from_utf8(bytes[..end].to_vec()).ok().filter(|_| rest_is_zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn a_hello_and_a_welcome_arrive_as_they_were_sent() {
        let (client, daemon) = pair();
        let hello = Hello { model: "m".repeat(64), session: "default".into() };
        hello.send(&client).unwrap();
        assert_eq!(Hello::receive(&daemon).unwrap(), hello);

        let fd = || std::fs::File::open("/dev/null").unwrap().into();
        let entry = SessionEntry::new(5).unwrap();
        let sent = Welcome { entry, descriptors: [fd(), fd(), fd(), fd(), fd()] };
        sent.send(&daemon).unwrap();
        assert_eq!(Welcome::receive(&client).unwrap().entry, entry);

        Welcome::refuse(&daemon, Refusal::NOT_FOUND, &"é".repeat(300)).unwrap();
        let refusal = Welcome::receive(&client).unwrap_err();
        let WireError::Refused { code, text } = refusal else { panic!("{refusal}") };
        assert_eq!((code, text), (Refusal::NOT_FOUND, "é".repeat(128)));
    }

    #[test]
    fn other_messages_and_versions_are_refused() {
        let (client, daemon) = pair();
        for len in [1, 8, 143, 145, 4000] {
            send(&client, &vec![7; len], SendFlags::NOSIGNAL).unwrap();
            assert!(matches!(Hello::receive(&daemon), Err(WireError::Malformed)), "{len} bytes");
        }
        // Another version may have another size.
        for len in [12, 16, 144, 200] {
            let mut later = [&MAGIC[..], &[2, 0, 0, 0]].concat();
            later.resize(len, 9);
            send(&client, &later, SendFlags::NOSIGNAL).unwrap();
            assert!(matches!(Hello::receive(&daemon), Err(WireError::Version(2))), "{len} bytes");
            send(&daemon, &later, SendFlags::NOSIGNAL).unwrap();
            assert!(matches!(Welcome::receive(&client), Err(WireError::Version(2))), "{len} bytes");
        }
        let mut other = RawHello {
            magic: MAGIC,
            version: 2.into(),
            reserved: 0.into(),
            model: [0; 64],
            session: [0; 64],
        };
        send(&client, other.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(Hello::receive(&daemon), Err(WireError::Version(2))));
        other.version = 1.into();
        other.model = [0xff; 64];
        send(&client, other.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(Hello::receive(&daemon), Err(WireError::Malformed)));
        drop(client);
        assert!(matches!(Hello::receive(&daemon), Err(WireError::Closed)));
        assert!(Hello { model: "m".repeat(65), ..Hello::default() }.send(&daemon).is_err());
    }
}
