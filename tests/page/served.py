"""A daemon with a status page, run as its users run it."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SYNCHROMESH_BIN", ROOT / "target/debug/synchromesh"))
# How long anything may take before a test gives up; it measures nothing.
HANG_S = 60.0


def run(*args: str | Path) -> str:
    """Runs a command that must succeed, and gives what it prints."""
    done = subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Served:
    """A daemon that can be stopped and started again, at the same addresses."""

    def __init__(self, folder: Path, models: Sequence[str], others: str, locks: bool) -> None:
        self.folder = folder
        self.config = folder / "synchromesh.yaml"
        self.log = folder / "log"
        port = free_port()
        self.page = f"http://127.0.0.1:{port}/"
        listen = f"{{control: {self.control}, attach: {self.attach}, metrics: '127.0.0.1:{port}'}}"
        text = f"models: [{', '.join(models)}]\nlisten: {listen}\nlock_memory: {str(locks).lower()}\nstate_dir: {folder}\n{others}"
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        """The socket of the gRPC services."""
        return self.folder / "control.sock"

    @property
    def attach(self) -> Path:
        """The socket of the data plane."""
        return self.folder / "attach.sock"

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([BINARY, "serve", "--config", self.config], stderr=log)
        # The kernel takes the connection, and the call is answered once there is somebody to answer.
        while not self.serves():
            assert self.process.poll() is None, self.log.read_text()

    def serves(self) -> bool:
        """Whether it answers a call."""
        command = [BINARY, "status", "--control", self.control]
        return subprocess.run(command, capture_output=True, timeout=HANG_S, check=False).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it, and gives its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=HANG_S)

    def switch(self, task: str, *more: str) -> None:
        """Makes a task active."""
        run("switch", task, "--control", self.control, *more)


@contextmanager
def serve(models: Sequence[str], others: str = "prefetch: {enabled: false}\n", *, locks: bool = False) -> Iterator[Served]:
    """A daemon with these models, as the configuration writes them."""
    # The path of a socket has at most 107 bytes.
    with TemporaryDirectory(prefix="synchromesh-") as folder:
        served = Served(Path(folder), models, others, locks)
        try:
            served.start()
            yield served
        finally:
            if served.process is not None:
                served.process.kill()
                served.process.wait()
