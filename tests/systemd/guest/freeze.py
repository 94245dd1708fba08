"""Stops threads as a debugger does, so that they hang where they are while the rest of their process runs on.

python3 freeze.py TID...

Prints `frozen` once they stand still. They go on when this program ends, which it
does by itself once they are gone.
"""

import ctypes
import os
import sys
from contextlib import suppress

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


def main() -> None:
    """Stops the threads until it is killed itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    libc.ptrace.restype = ctypes.c_long
    for tid in map(int, sys.argv[1:]):
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, tid, 0, 0) != 0:
                sys.exit(f"thread {tid}: {os.strerror(ctypes.get_errno())}")
        os.waitpid(tid, WALL)
    print("frozen", flush=True)
    # The end of a thread that is stopped is told to nobody else before it is told here.
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, WALL)


if __name__ == "__main__":
    main()
