"""The daemon, run as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from synchromesh import Attachment, Control, ControlError

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SYNCHROMESH_BIN", ROOT / "target/debug/synchromesh"))
CHILD = Path(__file__).with_name("child.py")
# How long anything may take before a test gives up; it measures nothing.
HANG_S = 60.0


@dataclass(frozen=True)
class Daemon:
    """A running daemon; its sockets lie in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def control(self) -> Path:
        """The socket of the gRPC services."""
        return self.folder / "control.sock"

    @property
    def socket(self) -> Path:
        """The socket of the data plane."""
        return self.folder / "attach.sock"

    def attach(self, session: str = "") -> Attachment:
        """Attaches to the only model."""
        return Attachment(self.socket, session=session)

    def descriptors(self) -> int:
        """How many descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def run(*arguments: str | Path) -> None:
    """Runs a command of the program that must succeed."""
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


@contextmanager
def serve(bundle: Path, folder: Path, more: str = "", pool: str = "1MiB") -> Iterator[Daemon]:
    """A daemon that serves one bundle, with its sockets in a folder; `more` is configuration."""
    config = folder / "synchromesh.yaml"
    listen = f"{{control: {folder}/control.sock, attach: {folder}/attach.sock}}"
    config.write_text(
        f"models: [{{bundle: {bundle}, pool_bytes: {pool}}}]\nlisten: {listen}\nlock_memory: false\n"
        f"prefetch: {{enabled: false}}\nlog: {{filter: warn}}\nstate_dir: {folder}\n{more}"
    )
    process = subprocess.Popen([BINARY, "serve", "--config", config])
    try:
        daemon = Daemon(folder, process)
        ready(daemon)
        yield daemon
        process.terminate()
        assert process.wait(timeout=HANG_S) in (0, -9), "it ends cleanly, if nobody has killed it"
    finally:
        process.kill()
        process.wait()


def ready(daemon: Daemon) -> None:
    """Waits until the daemon answers."""
    deadline = time.monotonic() + HANG_S
    while not (daemon.socket.exists() and answers(daemon)):
        assert daemon.process.poll() is None, "the daemon runs"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(daemon: Daemon) -> bool:
    """Whether the daemon answers a call."""
    try:
        with Control(daemon.control) as control:
            return bool(control.list_models())
    except ControlError:
        return False


def child(*arguments: str | Path | int) -> subprocess.Popen[str]:
    """Another process, which does what child.py says."""
    command = [sys.executable, CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """What another process printed, once it has ended well."""
    out, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, out
    return out.strip()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name that all users may enter: the path of a socket has at most 107 bytes."""
    with TemporaryDirectory(prefix="synchromesh-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
