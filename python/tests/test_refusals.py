"""What the daemon refuses a client of the data plane, and what a client does that cannot take what it is given."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live import HANG_S, Daemon, child, said

from synchromesh import Attachment, Closed, Refused, _fence, _wire

INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNIMPLEMENTED = 3, 5, 7, 12


@contextmanager
def connected(daemon: Daemon) -> Iterator[socket.socket]:
    """A bare connection to the data plane."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(HANG_S)
        peer.connect(str(daemon.socket))
        yield peer


def hello(version: int = 1) -> bytes:
    """A client's message, made by hand."""
    return struct.pack("<8sII128x", b"SMATTACH", version, 0)


def test_an_unknown_model_or_session_is_not_found(daemon: Daemon) -> None:
    for names in ({"model": "other"}, {"session": "other"}):
        with pytest.raises(Refused, match="other") as refused:
            Attachment(daemon.socket, **names)
        assert refused.value.status == NOT_FOUND


def test_a_name_that_cannot_be_one_is_refused(daemon: Daemon) -> None:
    with pytest.raises(Refused) as refused:
        Attachment(daemon.socket, session="two words")
    assert refused.value.status == INVALID_ARGUMENT
    for name in ("x" * 65, "a\0b"):
        with pytest.raises(ValueError, match="not a name"):
            Attachment(daemon.socket, session=name)


def test_another_version_is_unimplemented(daemon: Daemon) -> None:
    with connected(daemon) as peer:
        peer.send(hello(version=7))
        magic, version, status = struct.unpack_from("<8sII", peer.recv(1000))
    assert (magic, version, status) == (b"SMATTACH", 1, UNIMPLEMENTED)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_permitted(daemon: Daemon) -> None:
    mode = daemon.socket.stat().st_mode
    assert said(child("attach_as", 65534, daemon.socket)) == f"7 this user may not reach {daemon.socket}"
    daemon.socket.chmod(0o666)
    try:
        reached = said(child("attach_as", 65534, daemon.socket))
    finally:
        daemon.socket.chmod(mode)
    assert reached.startswith(f"{PERMISSION_DENIED} ")
    assert "this user may not reach" not in reached


def test_where_nobody_listens_there_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(Closed, match="is the daemon running"):
        Attachment(tmp_path / "nobody.sock")


FULL = struct.pack("<8sIIII256s", b"SMATTACH", 1, 8, 0, 0, b"full")


@contextmanager
def pair(folder: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's connection, and its other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "pair.sock"))
        listener.listen()
        with _wire.connect(str(folder / "pair.sock"), 0.1) as client, listener.accept()[0] as server:
            yield client, server


def test_a_refusal_is_read_that_came_before_the_hello(tmp_path: Path) -> None:
    with pair(tmp_path) as (client, server):
        server.send(FULL)
        server.close()
        with pytest.raises(Refused, match="full"):
            _wire.greet(client, "", "")


def test_a_refusal_is_read_of_who_did_not_read_the_hello(tmp_path: Path) -> None:
    class Slow:
        """A client that the daemon has refused between hello and answer."""

        recvmsg = property(lambda _self: client.recvmsg)

        def send(self, data: bytes) -> None:
            client.send(data)
            server.send(FULL)
            server.close()

    with pair(tmp_path) as (client, server), pytest.raises(Refused, match="full"):
        _wire.greet(Slow(), "", "")  # type: ignore[arg-type]


def test_who_hangs_up_unheard_is_gone(tmp_path: Path) -> None:
    with pair(tmp_path) as (client, server):
        server.close()
        with pytest.raises(Closed, match="without an answer"):
            _wire.greet(client, "", "")


def test_who_neither_reads_nor_answers_is_not_waited_for(tmp_path: Path) -> None:
    with pair(tmp_path) as (client, _server):
        with pytest.raises(Closed, match="does not answer"):
            _wire.greet(client, "", "")
        with contextlib.suppress(BlockingIOError):
            while client.send(b"x"):
                pass
        with pytest.raises(Closed, match="does not answer"):
            _wire.greet(client, "", "")


def test_another_interpreter_is_told_so(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fence.sys.implementation, "name", "pypy")
    with pytest.raises(NotImplementedError, match="CPython, not pypy"):
        daemon.attach()


def test_r17_junk_descriptors_are_not_taken_in(daemon: Daemon) -> None:
    with daemon.attach() as session:
        before = daemon.descriptors()
        for first in (hello(), b"junk"):
            with open("/dev/null") as junk, connected(daemon) as peer:
                rights = array.array("i", [junk.fileno()] * 253)
                peer.sendmsg([first], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                peer.recvmsg(1000, 1000)
                assert daemon.descriptors() < before + 100, "none of them is open at the daemon"
        settle(daemon, before)
        with pytest.raises(TimeoutError):
            session.wait(1 << 40, timeout=0)


def settle(daemon: Daemon, descriptors: int) -> None:
    """Waits until the daemon has no more descriptors than it had."""
    deadline = time.monotonic() + HANG_S
    while daemon.descriptors() > descriptors:
        assert time.monotonic() < deadline, f"{daemon.descriptors()} descriptors, {descriptors} before"
        time.sleep(0.01)


@pytest.mark.parametrize("free", range(10))
def test_r18_a_client_without_room_for_descriptors_keeps_none(daemon: Daemon, free: int) -> None:
    before = daemon.descriptors()
    outcome, left_open = said(child("attach_limited", free, daemon.socket)).split()
    # One is the connection's, five come with the welcome, and each of four mappings has one of its own.
    assert (outcome, left_open) == ("DescriptorLimit", "0")
    settle(daemon, before)
    daemon.attach().close()
