"""The built program, run as its users run it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import grpc

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SYNCHROMESH_BIN", ROOT / "target/debug/synchromesh"))
# A daemon that is just starting is asked again soon.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100)]
# How long anything may take before a test gives up; it measures nothing.
HANG_S = 60.0


def run(*args: str | Path) -> Any:
    """Runs a command that must succeed, and gives the object that it prints."""
    command = [BINARY, *args, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def control(self) -> Path:
        """The socket of the gRPC services."""
        return self.folder / "control.sock"

    @property
    def attach(self) -> Path:
        """The socket of the data plane."""
        return self.folder / "attach.sock"

    @contextmanager
    def connect(self, target: str = "unix:{}") -> Iterator[grpc.Channel]:
        """A connection, made and closed here."""
        with grpc.insecure_channel(target.format(self.control), options=OPTIONS) as channel:
            grpc.channel_ready_future(channel).result(timeout=HANG_S)
            yield channel

    @contextmanager
    def halted(self) -> Iterator[None]:
        """For a while, the daemon does nothing at all."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def serve(bundle: Path, through: Sequence[str | Path] = (), log: IO[str] | None = None) -> Iterator[Daemon]:
    """A daemon that serves one bundle, started through a command; it must end cleanly when told to."""
    # Not pytest's folder: the path of a socket has at most 107 bytes.
    with TemporaryDirectory(prefix="synchromesh-") as folder:
        config = Path(folder, "synchromesh.yaml")
        listen = f"{{control: {folder}/control.sock, attach: {folder}/attach.sock}}"
        models = f"[{{bundle: {bundle}, pool_bytes: 1MiB}}]"
        # What is loaded ahead would change what a switch is expected to find.
        others = f"lock_memory: false\nprefetch: {{enabled: false}}\nstate_dir: {folder}\n"
        config.write_text(f"models: {models}\nlisten: {listen}\n{others}")
        process = subprocess.Popen([*through, BINARY, "serve", "--config", config], stderr=log)
        daemon = Daemon(Path(folder), process)
        try:
            with daemon.connect():
                yield daemon
            process.terminate()
            assert process.wait(timeout=HANG_S) == 0
        finally:
            process.kill()
            process.wait()
