"""A daemon that is none of ours, or that goes away: what the client makes of it, and that it lets go of everything."""

from __future__ import annotations

import gc
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake import LIFE, NO_TASK, OWNER_DIED, REVOKED, SHRINK, Fake

from synchromesh import Attachment, Closed, DescriptorLimit, LeaseError, NoTask, ProtocolError, Refused, Revoked
from synchromesh.errors import AttachError

Faked = tuple[Fake, Path]
POOL, TABLE, INDEX, CELL = range(4)


def refused(faked: Faked) -> AttachError:
    """Attaches, which must fail; no descriptor may be left open."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    try:
        Attachment(faked[1]).close()
    except AttachError as error:
        found = error
    # A traceback keeps what its functions had.
    found.__cause__ = found.__context__ = found.__traceback__ = None
    faked[0].hang_up()
    faked[0].views.clear()
    assert len(os.listdir("/proc/self/fd")) == before
    return found


def patched(what: str, offset: int, value: bytes) -> Callable[[str, bytearray], None]:
    """Changes some bytes of what is handed out."""

    def change(name: str, content: bytearray) -> None:
        if name == what:
            content[offset : offset + len(value)] = value

    return change


def test_a_hello_is_as_the_page_says(faked: Faked) -> None:
    fake, path = faked
    Attachment(path, "the-model", "rear").close()
    assert fake.hello == struct.pack("<8sII64s64s", b"SMATTACH", 1, 0, b"the-model", b"rear")


def test_a_status_is_told_with_its_text(faked: Faked) -> None:
    faked[0].status, faked[0].text = 8, "no room für you".encode()
    error = refused(faked)
    assert isinstance(error, Refused)
    assert (error.status, error.text) == (8, "no room für you")


def test_another_version_or_packet_is_no_daemon_of_ours(faked: Faked) -> None:
    faked[0].version = 2
    assert "version 2" in str(refused(faked))
    faked[0].version = 1
    for wrong in (b"SMATTACH", b"x" * 280, b"x" * 4000):
        faked[0].answer = lambda _packet, wrong=wrong: wrong
        assert isinstance(refused(faked), ProtocolError)


def test_a_place_past_the_last_is_refused(faked: Faked) -> None:
    fake = faked[0]
    fake.change = lambda _what, _content: setattr(fake, "place", 64)
    assert isinstance(refused(faked), ProtocolError)


@pytest.mark.parametrize("which", [POOL, TABLE, INDEX, CELL])
def test_what_is_not_sealed_is_not_mapped(faked: Faked, which: int) -> None:
    faked[0].seals[which] = 0
    assert "not sealed" in str(refused(faked))
    faked[0].seals[which] = SHRINK
    if which == CELL:
        Attachment(faked[1]).close()
    else:
        assert "not sealed" in str(refused(faked))


WRONG_TABLES = {
    "magic": (0, b"SMTABLE9"),
    "more blocks than it has room for": (8, struct.pack("<I", 1 << 24)),
    "more slots than the pool has": (12, struct.pack("<I", 1 << 24)),
    "bundle id": (16, b"x"),
    "bytes of a slot": (32, struct.pack("<Q", 8192)),
    "a base that is larger than the pool": (40, struct.pack("<Q", 1 << 40)),
    "a base that is smaller than the header's": (40, struct.pack("<Q", 4096)),
}


@pytest.mark.parametrize("wrong", WRONG_TABLES)
def test_a_table_that_does_not_fit_is_refused(faked: Faked, wrong: str) -> None:
    faked[0].change = patched("table", *WRONG_TABLES[wrong])
    assert isinstance(refused(faked), ProtocolError)


@pytest.mark.parametrize("what", ["pool", "table", "index", "cell"])
def test_memory_that_is_too_small_is_refused(faked: Faked, what: str) -> None:
    faked[0].change = lambda name, content: content.__delitem__(slice(64, None)) if name == what else None
    assert isinstance(refused(faked), ProtocolError)


def test_an_index_that_is_longer_than_its_header_says_is_refused(faked: Faked) -> None:
    faked[0].change = lambda name, content: content.extend(bytes(8)) if name == "index" else None
    assert "as long as" in str(refused(faked))


@pytest.mark.parametrize("slot", [0xFFFFFFFF, 1 << 20])
def test_a_block_without_a_slot_is_not_read(faked: Faked, slot: int) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 0)
        for block in range(fake.count):
            fake.set_word("table", 576 + 4 * block, "<I", slot)
        with session.lease() as lease, pytest.raises(ProtocolError, match="slot"):
            lease.dense("layer.0.weight")


def test_a_task_past_the_last_is_not_leased(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 4)
        with pytest.raises(ProtocolError, match="task 4"):
            session.lease()
        assert fake.word("cell", 0) == 0


def test_a_lease_announces_its_generation_and_its_end(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        with pytest.raises(NoTask):
            session.lease()
        fake.publish(1 << 40, 2)
        with session.lease() as lease:
            assert (lease.task, fake.word("cell", 0)) == ("park", 1 << 40)
        assert fake.word("cell", 0) == 0
        fake.publish((1 << 40) + 1, NO_TASK)
        with pytest.raises(NoTask):
            session.lease()
        with pytest.raises(TimeoutError):
            session.wait(timeout=0.05)


def test_a_switch_in_between_makes_it_look_again(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 0)
        seen = []

        def fence() -> None:
            seen.append(fake.word("cell", 0))
            if len(seen) < 3:
                fake.publish(1 + len(seen), len(seen))

        monkeypatch.setattr(session, "_fence", fence)
        with session.lease() as lease:
            assert (lease.generation, lease.task) == (3, "park")
        assert seen == [1, 2, 3, 3], "each generation is announced before the fence, and the last until the end"


def test_r_a_revoked_client_has_to_attach_again(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(5, 0)
        assert session.wait() == 5
        lease = session.lease()
        fake.set_word("cell", REVOKED, "<Q", 5)
        fake.doorbell_rings()
        with pytest.raises(Revoked, match="5"):
            session.wait(5)
        assert lease.dense("layer.0.weight").any(), "what is leased can be read until it is let go"
        lease.release()
        with pytest.raises(Revoked):
            session.lease()


def test_a_membership_that_the_daemon_has_ended_is_closed(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(5, 0)
        with session.lease() as lease:
            fake.set_word("cell", REVOKED, "<Q", 2**64 - 1)
            for call in (session.check, lease.check, session.wait):
                with pytest.raises(Closed, match="ended the membership"):
                    call()
        with pytest.raises(Closed, match="ended the membership"):
            session.lease()


def test_a_lease_can_be_asked_how_it_stands(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        session.check()
        fake.publish(5, 0)
        with session.lease() as lease:
            lease.check()
            assert lease.is_current
            fake.publish(6, 0)
            assert not lease.is_current
            fake.set_word("cell", REVOKED, "<Q", 5)
            for check in (session.check, lease.check):
                with pytest.raises(Revoked, match="5"):
                    check()
            fake.set_word("table", LIFE, "<I", OWNER_DIED | 1234)
            for check in (session.check, lease.check):
                with pytest.raises(Closed, match="gone"):
                    check()
        with pytest.raises(LeaseError):
            lease.check()
        with pytest.raises(LeaseError):
            _ = lease.is_current
    with pytest.raises(Closed, match="was closed"):
        session.check()


def in_a_fork(tell: Callable[[], str], then: Callable[[], None] = lambda: None) -> str:
    """What a forked process tells; `then` is called in this one while that one lives."""
    reading, writing = os.pipe()
    done, finish = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, tell().encode())
            os.close(finish)
            os.read(done, 1)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as told, open(finish, "w"):
        then()
        os.close(done)
        text = os.read(told.fileno(), 4096).decode()
    os.waitpid(child, 0)
    return text


def outcome(call: Callable[[], object]) -> str:
    """The error that a call raises."""
    try:
        call()
    except AttachError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def test_a_fork_neither_ends_nor_keeps_what_its_parent_has(faked: Faked) -> None:
    fake, path = faked
    session = Attachment(path)
    fake.publish(7, 2)
    before = len(os.listdir("/proc/self/fd"))

    def leave_the_lease() -> str:
        told = []
        with lease:
            for call in (lease.check, session.lease, session.wait, session.check, session.fileno):
                told.append(outcome(call))
            told.append(outcome(lambda: lease.dense("layer.0.weight")))
        lease.release()
        session.close()
        gc.collect()
        return "\n".join([*told, str(len(os.listdir("/proc/self/fd")) - before)])

    with session.lease() as lease:
        *told, descriptors = in_a_fork(leave_the_lease).split("\n")
        assert all(line.startswith("Closed") and "forked from: attach anew" in line for line in told), told
        assert len(told) == 6
        assert fake.word("cell", 0) == 7, "the parent's lease stands"
        lease.check()
        assert lease.dense("layer.0.weight").any()
    assert fake.word("cell", 0) == 0
    session.lease(7).release()
    # Seven of the attachment are gone (a connection, doorbell, epoll, four mappings), and the test's pipes are there.
    assert int(descriptors) == 4 - 7
    session.close()


def test_a_connection_ends_with_its_process_though_a_fork_lives(faked: Faked) -> None:
    fake, path = faked
    session = Attachment(path)

    def hung_up() -> None:
        session.close()
        fake.peer.settimeout(10)
        assert fake.peer.recv(1) == b"", "though the other process lives"

    assert in_a_fork(lambda: outcome(session.check), hung_up).startswith("Closed")


def test_an_attachment_that_is_dropped_lets_go_of_everything(faked: Faked) -> None:
    fake, path = faked
    Attachment(path).close()
    gc.collect()
    fake.hang_up()
    fake.views.clear()
    before = len(os.listdir("/proc/self/fd"))
    session = Attachment(path)
    with pytest.warns(ResourceWarning, match="Attachment"):
        del session
    fake.hang_up()
    fake.views.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_attachment_keeps_no_descriptor(faked: Faked) -> None:
    fake, path = faked
    before = len(os.listdir("/proc/self/fd"))
    session = Attachment(path)
    fake.publish(1, 0)
    lease = session.lease()
    session.close()
    fake.hang_up()
    fake.views.clear()
    assert len(os.listdir("/proc/self/fd")) == before
    for call in (lambda: session.model, lambda: lease.model, lambda: lease.base("norm.bias"), session.fileno):
        with pytest.raises(Closed):
            call()
    lease.release()


def test_a_daemon_s_death_is_told_by_memory_alone(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 0)
        with session.lease() as lease:
            view = next(lease.blocks("layer.0.weight"))[2]
            before = view.tobytes()
            fake.set_word("table", LIFE, "<I", OWNER_DIED | 1234)
            assert view.tobytes() == before
        for call in (session.lease, session.wait):
            with pytest.raises(Closed, match="gone"):
                call()


def test_a_lost_connection_is_told_where_life_is_not(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 0)
        waiting = threading.Timer(0.1, fake.hang_up)
        waiting.start()
        with pytest.raises(Closed):
            session.wait(1, timeout=10)
        waiting.join()
        with pytest.raises(Closed):
            session.lease()
        assert fake.word("cell", 0) == 0


def test_a_lost_descriptor_says_what_to_do() -> None:
    assert "RLIMIT_NOFILE" in (DescriptorLimit.__doc__ or "")


def test_views_outlive_the_attachment(faked: Faked) -> None:
    fake, path = faked
    with Attachment(path) as session:
        fake.publish(1, 0)
        with session.lease() as lease:
            base = lease.base("embed.weight")
            expected = base.copy()
    del lease, session
    assert np.array_equal(base, expected)
