"""A membership in a session: its memory, mapped, and the leases on it. docs/attach.md is the protocol.

Not here: switching. That is the control plane's, see `Control`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import threading
import time
import warnings
import weakref
from types import TracebackType
from typing import NamedTuple

from . import _memory, _wire
from ._fence import full_fence
from .dtypes import DTYPES
from .errors import Closed, DescriptorLimit, LeaseError, NoTask, ProtocolError, Revoked, StaleGeneration
from .lease import Lease
from .model import Model

_CLOSED = "this attachment was closed"
_FORKED = "this attachment is that of the process which this one was forked from: attach anew"


class _Mapped(NamedTuple):
    """What the daemon has handed out. It goes, with its descriptors, when nobody has it or a view of it any more."""

    cell: _memory.Cell
    table: _memory.Table
    model: Model
    pool: _memory.Pool


class Attachment:
    """A membership in a session of the daemon. It ends when it is closed.

    Threads may share it, but it has one lease at a time, and one of them waits at a time. A process that is forked
    does not have it: whatever it asks of the attachment or of a lease on it raises `Closed`, and it attaches anew.
    """

    def __init__(self, path: str | os.PathLike[str], model: str = "", session: str = "", timeout: float = 10.0) -> None:
        """Attaches. Empty names stand for the only model and its default session; `timeout` is in seconds.

        Raises `Closed` where nobody answers, `Refused`, `DescriptorLimit` or `ProtocolError`.
        """
        self._opened = contextlib.ExitStack()
        self._mapped: _Mapped | None = None
        self._ended = _CLOSED
        self._fence = full_fence()
        self._held = threading.Lock()
        _living.add(self)
        try:
            self._open(os.fspath(path), model, session, timeout)
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise DescriptorLimit("this process has no room for more descriptors: raise `ulimit -n`") from error

    def _open(self, path: str, model: str, session: str, timeout: float) -> None:
        """Connects and maps."""
        self._socket = self._opened.enter_context(_wire.connect(path, timeout))
        self._place, descriptors = _wire.greet(self._socket, model, session)
        *mapped, doorbell = descriptors
        try:
            self._doorbell = self._opened.enter_context(io.FileIO(doorbell, "r"))
        except OSError as error:
            _wire.close_all(descriptors)
            raise ProtocolError("the doorbell that the daemon hands out cannot be read") from error
        self._mapped = _map(mapped)
        self._epoll = self._opened.enter_context(select.epoll())
        os.set_blocking(doorbell, False)
        for watched in (doorbell, self._socket.fileno()):
            self._epoll.register(watched, select.EPOLLIN)

    @property
    def model(self) -> Model:
        """The model that is served. Raises `Closed` once the attachment is closed."""
        return self._now().model

    def _now(self) -> _Mapped:
        if self._mapped is None:
            raise Closed(self._ended)
        return self._mapped

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` has something to tell: for select, poll or an event loop."""
        self._now()
        return self._epoll.fileno()

    @property
    def generation(self) -> int:
        """The generation that the session is at now; 0 before the first."""
        return _memory.generation_and_task(self._now().table.word(self._place))[0]

    def check(self) -> None:
        """Whether the daemon lives and the membership stands: two loads from memory, and no system call.

        Raises `Closed` or `Revoked`.
        """
        _check(self._now())

    def wait(self, beyond: int = 0, timeout: float | None = None) -> int:
        """Waits until the session serves a task in a generation above `beyond`, and gives that generation.

        `timeout` is in seconds; 0 only looks. Raises `TimeoutError`, `Closed` or `Revoked`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            mapped = self._now()
            self._silence()
            _check(mapped)
            generation, task = _memory.generation_and_task(mapped.table.word(self._place))
            if generation > beyond and task is not None:
                return generation
            self._check_socket()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"no task in a generation above {beyond} within {timeout} s")
            self._epoll.poll(left)

    def lease(self, generation: int | None = None) -> Lease:
        """Pins what the session serves now, until the lease is released: use it as a context manager.

        With `generation`, only if the session is there: else raises `StaleGeneration`. Raises `NoTask`, `Closed`,
        `Revoked`, or `LeaseError` if a lease is held already.
        """
        mapped = self._now()
        if not self._held.acquire(blocking=False):
            raise LeaseError("an attachment has one lease at a time: release it, or attach once more")
        try:
            _check(mapped)
            leased, task = self._pin(mapped)
            self._check_socket()
            if generation not in (None, leased):
                raise StaleGeneration(generation, leased)
            if task >= len(mapped.model.tasks):
                raise ProtocolError(f"the table names task {task} of {len(mapped.model.tasks)}")
            return Lease(self, leased, mapped.model.tasks[task])
        except BaseException:
            self._release()
            raise

    def _pin(self, mapped: _Mapped) -> tuple[int, int]:
        """Steps 3 to 6 of a lease.

        The fence keeps step 6 behind step 4, and all that is read later behind step 3: so what the daemon wrote before
        it published the word of step 3 is seen, and neither load has to acquire by itself.
        """
        while True:
            word = mapped.table.word(self._place)
            generation, task = _memory.generation_and_task(word)
            if task is None:
                raise NoTask("the session has no task at the moment")
            mapped.cell.announce(generation)
            self._fence()
            if mapped.table.word(self._place) == word:
                return generation, task
            mapped.cell.announce(0)

    def _release(self) -> None:
        """Step 8. What was read before must not be read after: x86-64 sees to that by itself, arm64 does not.

        A forked process stores nothing: the cell is that of the process which it was forked from.
        """
        mapped = self._mapped
        if mapped is not None:
            self._fence()
            mapped.cell.announce(0)
        self._held.release()

    def _check_socket(self) -> None:
        """Whether the membership has ended: nothing but its end makes the socket readable."""
        self._now()
        if any(descriptor == self._socket.fileno() for descriptor, _ in self._epoll.poll(0)):
            raise Closed("the daemon has closed the connection: attach again")

    def _silence(self) -> None:
        """Reads the doorbell until it is empty. So nothing is lost that rings afterwards."""
        while rings := self._doorbell.read(4096):
            pass
        if rings is not None:
            raise Closed("the daemon has closed the doorbell: attach again")

    def close(self) -> None:
        """Ends the membership, and with it any lease. Views that are left can be read, but mean nothing."""
        self._mapped = None
        self._opened.close()

    def _forget(self) -> None:
        """Lets go of all of it in a process that was just forked, where the membership is the other's."""
        self._ended = _FORKED
        self.close()

    def __del__(self) -> None:
        # Whoever could not attach has nothing to close.
        if getattr(self, "_mapped", None) is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _map(descriptors: list[int]) -> _Mapped:
    """Maps pool, table, index and cell; a mapping needs its descriptor no more."""
    pool, table, index, cell = descriptors
    try:
        its_cell = _memory.Cell(cell)
        its_table = _memory.Table(table)
        _memory.sealed(index, "the index", _memory.READ_ONLY, 8)
        model = Model(index)
        _check_belonging(model, its_table)
        block = model.block_shape, DTYPES[model.dtype].numpy
        return _Mapped(its_cell, its_table, model, _memory.Pool(pool, its_table, *block))
    finally:
        _wire.close_all(descriptors)


def _check_belonging(model: Model, table: _memory.Table) -> None:
    served = table.bundle_id, table.blocks, table.slot_bytes, table.base_bytes
    if served != (model.bundle_id, model.blocks, model.block_bytes, model.base_bytes):
        raise ProtocolError("table and index that the daemon hands out do not belong together")


def _check(mapped: _Mapped) -> None:
    """Steps 1 and 2 of a lease."""
    if mapped.table.daemon_is_gone():
        raise Closed("the daemon is gone: attach again once it is back")
    revoked = mapped.cell.revoked()
    if revoked == _memory.ENDED:
        raise Closed("the daemon has ended the membership: attach again")
    if revoked:
        raise Revoked(f"the lease on generation {revoked} lasted too long: attach again")


_living: weakref.WeakSet[Attachment] = weakref.WeakSet()


def _after_fork() -> None:
    """The new process would keep the other's memberships open, and could end its leases."""
    for attachment in list(_living):
        attachment._forget()


os.register_at_fork(after_in_child=_after_fork)
