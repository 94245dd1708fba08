"""Tries, from within the service's sandbox, what the daemon has no business to do. Prints a line for each."""

import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
# By x86-64's numbers.
CALLS = {
    "ptrace": 101, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "init_module": 175, "setns": 308,
    "unshare": 272, "bpf": 321, "perf_event_open": 298, "keyctl": 250, "clock_settime": 227, "settimeofday": 164,
    "chroot": 161, "pivot_root": 155, "acct": 163, "personality": 135, "kexec_load": 246, "setuid": 105,
    "chown": 92, "sched_setaffinity": 203, "setpriority": 141, "process_vm_writev": 311, "userfaultfd": 323,
    "mknod": 133, "open_by_handle_at": 304, "name_to_handle_at": 303, "iopl": 172, "io_setup": 206, "quotactl": 179,
}  # fmt: skip


def refused(what: str, attempt: Callable[[], object]) -> bool:
    """Whether an attempt is refused, as it should be."""
    try:
        result = attempt()
    except OSError as error:
        print(f"probe: {what}: refused ({errno.errorcode.get(error.errno or 0)})", flush=True)
        return True
    print(f"probe: {what}: ALLOWED ({result})", flush=True)
    return False


def call(number: int) -> None:
    """A system call without sense, which a filter refuses before the kernel looks at it."""
    if LIBC.syscall(number, -1, 0, 0, 0, 0, 0) != 0 and ctypes.get_errno() == errno.EPERM:
        raise PermissionError(errno.EPERM, "refused")


def write(path: str) -> None:
    """Opens a file to write."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def main() -> None:
    """Tries everything."""
    attempts: dict[str, Callable[[], object]] = {
        name: lambda number=number: call(number) for name, number in CALLS.items()
    }
    attempts |= {f"writing {path}": lambda path=path: write(path) for path in ("/etc/x", "/usr/x", "/run/synchromesh/x")}
    attempts |= {
        "memory that is written and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
        "an internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "another process's files": lambda: os.stat("/proc/1/exe"),
        "the kernel's log": lambda: os.open("/dev/kmsg", os.O_RDONLY),
        "a disk": lambda: os.open("/dev/vda", os.O_RDONLY),
        "the kernel's settings": lambda: write("/proc/sys/kernel/panic"),
        "a home": lambda: os.listdir("/root") or write("/root/x"),
    }
    allowed = [what for what, attempt in attempts.items() if not refused(what, attempt)]
    links = os.listdir("/sys/class/net")
    print(f"probe: devices: {sorted(os.listdir('/dev'))}, links: {links}", flush=True)
    if allowed:
        sys.exit(f"probe: not refused: {', '.join(allowed)}")


if __name__ == "__main__":
    main()
