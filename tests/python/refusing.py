"""Becomes another program, to which the kernel refuses io_uring: refusing.py ERRNO PROGRAM [ARGUMENT ...]."""

import ctypes
import os
import struct
import sys

# prctl(2), seccomp(2), and the number of io_uring_setup(2), which is the same on x86-64 and arm64.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x0005_0000, 0x7FFF_0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
IO_URING_SETUP = 425


def refuse(number: int) -> None:
    """From now on io_uring_setup fails with this error."""
    steps = [
        struct.pack("HBBI", LOAD_WORD, 0, 0, 0),
        struct.pack("HBBI", JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        struct.pack("HBBI", RETURN, 0, 0, SECCOMP_RET_ERRNO | number),
        struct.pack("HBBI", RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    refuse(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
