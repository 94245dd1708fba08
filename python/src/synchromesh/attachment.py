"""A membership in a session: its memory, mapped, and the leases on it. docs/attach.md is the protocol.

Not here: switching. That is the control plane's, see `Control`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from types import TracebackType

from . import _memory, _wire
from ._fence import full_fence
from .dtypes import DTYPES
from .errors import Closed, DescriptorLimit, LeaseError, NoTask, ProtocolError, Revoked, StaleGeneration
from .lease import Lease
from .model import Model


class Attachment:
    """A membership in a session of the daemon. It ends when it is closed.

    Threads may share it, but it has one lease at a time, and one of them waits at a time. It is not for use on both
    sides of a fork.
    """

    def __init__(self, path: str | os.PathLike[str], model: str = "", session: str = "", timeout: float = 10.0) -> None:
        """Attaches. Empty names stand for the only model and its default session; `timeout` is in seconds.

        Raises `Closed` where nobody answers, `Refused`, `DescriptorLimit` or `ProtocolError`.
        """
        self._fence = full_fence()
        self._held = threading.Lock()
        try:
            with contextlib.ExitStack() as opened:
                self._open(opened, os.fspath(path), model, session, timeout)
                self._opened = opened.pop_all()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise DescriptorLimit("this process has no room for more descriptors: raise `ulimit -n`") from error

    def _open(self, opened: contextlib.ExitStack, path: str, model: str, session: str, timeout: float) -> None:
        """Connects and maps; `opened` gets what closing closes."""
        self._socket = opened.enter_context(_wire.connect(path, timeout))
        self._place, descriptors = _wire.greet(self._socket, model, session)
        *mapped, self._doorbell = descriptors
        opened.callback(os.close, self._doorbell)
        self._map(mapped)
        self._epoll = opened.enter_context(select.epoll())
        os.set_blocking(self._doorbell, False)
        for watched in (self._doorbell, self._socket.fileno()):
            self._epoll.register(watched, select.EPOLLIN)

    def _map(self, descriptors: list[int]) -> None:
        """Maps pool, table, index and cell; a mapping needs its descriptor no more."""
        pool, table, index, cell = descriptors
        try:
            self._cell = _memory.Cell(cell)
            self._table = _memory.Table(table)
            _memory.sealed(index, "the index", _memory.READ_ONLY, 8)
            self.model = Model(index)
            self._check_belonging()
            block = self.model.block_shape, DTYPES[self.model.dtype].numpy
            self._pool = _memory.Pool(pool, self._table, *block)
        finally:
            _wire.close_all(descriptors)

    def _check_belonging(self) -> None:
        model, table = self.model, self._table
        if (table.bundle_id, table.blocks, table.slot_bytes) != (model.bundle_id, model.blocks, model.block_bytes):
            raise ProtocolError("table and index that the daemon hands out do not belong together")

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` has something to tell: for select, poll or an event loop."""
        return self._epoll.fileno()

    @property
    def generation(self) -> int:
        """The generation that the session is at now; 0 before the first."""
        return _memory.generation_and_task(self._table.word(self._place))[0]

    def wait(self, beyond: int = 0, timeout: float | None = None) -> int:
        """Waits until the session serves a task in a generation above `beyond`, and gives that generation.

        `timeout` is in seconds; 0 only looks. Raises `TimeoutError`, `Closed` or `Revoked`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._silence()
            self._check_life()
            generation, task = _memory.generation_and_task(self._table.word(self._place))
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
        if not self._held.acquire(blocking=False):
            raise LeaseError("an attachment has one lease at a time: release it, or attach once more")
        try:
            self._check_life()
            leased, task = self._pin()
            self._check_socket()
            if generation not in (None, leased):
                raise StaleGeneration(generation, leased)
            if task >= len(self.model.tasks):
                raise ProtocolError(f"the table names task {task} of {len(self.model.tasks)}")
            return Lease(self.model, self._table, self._pool, self._release, leased, self.model.tasks[task])
        except BaseException:
            self._release()
            raise

    def _pin(self) -> tuple[int, int]:
        """Steps 3 to 6 of a lease.

        The fence keeps step 6 behind step 4, and all that is read later behind step 3: so what the daemon wrote before
        it published the word of step 3 is seen, and neither load has to acquire by itself.
        """
        while True:
            word = self._table.word(self._place)
            generation, task = _memory.generation_and_task(word)
            if task is None:
                raise NoTask("the session has no task at the moment")
            self._cell.announce(generation)
            self._fence()
            if self._table.word(self._place) == word:
                return generation, task
            self._cell.announce(0)

    def _release(self) -> None:
        """Step 8. What was read before must not be read after: x86-64 sees to that by itself, arm64 does not."""
        self._fence()
        self._cell.announce(0)
        self._held.release()

    def _check_life(self) -> None:
        """Steps 1 and 2 of a lease."""
        if self._table.daemon_is_gone():
            raise Closed("the daemon is gone: attach again once it is back")
        if self._cell.revoked():
            raise Revoked(f"the lease on generation {self._cell.revoked()} lasted too long: attach again")

    def _check_socket(self) -> None:
        """Whether the membership has ended: nothing but its end makes the socket readable."""
        if self._socket.fileno() < 0:
            raise Closed("this attachment was closed")
        if any(descriptor == self._socket.fileno() for descriptor, _ in self._epoll.poll(0)):
            raise Closed("the daemon has closed the connection: attach again")

    def _silence(self) -> None:
        """Reads the doorbell until it is empty. So nothing is lost that rings afterwards."""
        if self._socket.fileno() < 0:
            raise Closed("this attachment was closed")
        with contextlib.suppress(BlockingIOError):
            while os.read(self._doorbell, 4096):
                pass
            raise Closed("the daemon has closed the doorbell: attach again")

    def close(self) -> None:
        """Ends the membership, and with it any lease. Views that are left can be read, but mean nothing."""
        self._opened.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
