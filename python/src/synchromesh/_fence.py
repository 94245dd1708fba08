"""A sequentially consistent fence for a language that has none: the lease protocol needs one.

A FUTEX_WAKE of a private word that nobody waits for wakes nobody, but is a full barrier on the processor that makes
it. No manual promises that; the kernel's source does, in the comment at the head of kernel/futex/waitwake.c: barrier
(B) stands between all that the waker wrote and its look at who waits. It is called without giving up the interpreter's
lock, which would cost more than the call.

Not here: acquire and release. What the client loads and stores on either side of a fence needs no more. And
interpreters other than CPython: that each load and store of the protocol is one access, in the order of the program,
is known of CPython alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Callable

_FUTEX_WAKE_PRIVATE = 1 | 128
# The number of futex(2), and where memory is laid out as the protocol has it: 64 bits, little endian.
_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}


def full_fence() -> Callable[[], None]:
    """A function that is a full fence. Raises `NotImplementedError` where none is known."""
    if sys.implementation.name != "cpython":
        raise NotImplementedError(f"attaching needs CPython, not {sys.implementation.name}")
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _SYS_FUTEX or sys.maxsize < 2**32:
        raise NotImplementedError(f"attaching needs 64-bit Linux on {' or '.join(_SYS_FUTEX)}, not {machine}")
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    word = ctypes.c_uint32()
    arguments = (
        ctypes.c_long(_SYS_FUTEX[machine]),
        ctypes.byref(word),
        ctypes.c_int(_FUTEX_WAKE_PRIVATE),
        ctypes.c_int(1),
    )

    def fence() -> None:
        if syscall(*arguments) != 0:
            raise OSError(f"futex(2) failed: {os.strerror(ctypes.get_errno())}")

    return fence
