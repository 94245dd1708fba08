"""The two messages of the attach socket, as docs/attach.md has them.

Not here: what the descriptors are; to whoever calls they are five numbers, and theirs to close.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence

from .errors import Closed, DescriptorLimit, ProtocolError, Refused

_MAGIC = b"SMATTACH"
_VERSION = 1
_HELLO = struct.Struct("<8sII64s64s")
_WELCOME = struct.Struct("<8sIIII256s")
_DESCRIPTORS = 5
_PLACES = 64
_PERMISSION_DENIED = 7
_SILENT = "the daemon does not answer; it may have all the clients that it takes"


def connect(path: str, timeout: float) -> socket.socket:
    """A connection to the daemon's attach socket. `timeout` (seconds) bounds each later wait on it, too."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Not settimeout: with it, a full queue would refuse at once instead of making the client wait.
    # And not 0, which would mean for ever.
    limit = struct.pack("ll", *divmod(max(1, int(timeout * 1_000_000)), 1_000_000))
    try:
        for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            peer.setsockopt(socket.SOL_SOCKET, direction, limit)
        peer.connect(path)
    except PermissionError as error:
        peer.close()
        raise Refused(_PERMISSION_DENIED, f"this user may not reach {path}") from error
    except OSError as error:
        peer.close()
        raise Closed(f"cannot connect to {path}: {error.strerror or error}; is the daemon running?") from error
    return peer


def greet(peer: socket.socket, model: str, session: str) -> tuple[int, list[int]]:
    """Says hello. Gives the session's place in the table, and the descriptors."""
    hello = _HELLO.pack(_MAGIC, _VERSION, 0, _padded(model), _padded(session))
    try:
        # A daemon that refuses unheard has said why all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.send(hello)
    except BlockingIOError as error:
        raise Closed(_SILENT) from error
    data, descriptors, lost = _receive(peer)
    try:
        return _place(data, len(descriptors), lost), descriptors
    except BaseException:
        close_all(descriptors)
        raise


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def _padded(name: str) -> bytes:
    data = name.encode()
    if len(data) > 64 or 0 in data:
        raise ValueError(f"not a name of a model or session: {name!r}")
    return data


def _receive(peer: socket.socket) -> tuple[bytes, list[int], bool]:
    """A packet, the descriptors that came with it, and whether some could not be taken in."""
    # Room for more than is due: what a wrong peer sends too much of is seen, and closed.
    numbers = array.array("i")
    space = socket.CMSG_SPACE(2 * _DESCRIPTORS * numbers.itemsize)

    def receive() -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        return peer.recvmsg(_WELCOME.size + 1, space, socket.MSG_CMSG_CLOEXEC)

    try:
        try:
            data, parts, flags, _ = receive()
        except ConnectionResetError:
            # The daemon has closed without reading the hello. That is told once, before what it had sent.
            data, parts, flags, _ = receive()
    except BlockingIOError as error:
        raise Closed(_SILENT) from error
    except ConnectionError as error:
        raise Closed("the daemon has closed the connection") from error
    for level, kind, content in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
    return data, list(numbers), bool(flags & socket.MSG_CTRUNC)


def _place(data: bytes, descriptors: int, lost: bool) -> int:
    if not data:
        raise Closed("the daemon has closed the connection without an answer")
    if len(data) != _WELCOME.size or not data.startswith(_MAGIC):
        raise ProtocolError("the peer does not speak the attach protocol")
    _, version, status, place, _, text = _WELCOME.unpack(data)
    if status:
        raise Refused(status, text.rstrip(b"\0").decode(errors="replace"))
    if version != _VERSION:
        raise ProtocolError(f"the daemon speaks version {version} of the attach protocol, this client {_VERSION}")
    if lost:
        raise DescriptorLimit(f"no room for the daemon's {_DESCRIPTORS} descriptors: raise `ulimit -n`")
    if descriptors != _DESCRIPTORS or place >= _PLACES:
        raise ProtocolError(f"the daemon sends {descriptors} descriptors for place {place}")
    return int(place)
