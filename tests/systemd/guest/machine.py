"""The machine that the checks run in: its units, its journal, and the daemon as its users see it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAYLOAD = Path("/payload")
BINARY = "/usr/bin/synchromesh"
CONFIG = Path("/etc/synchromesh/synchromesh.yaml")
BUNDLE = Path("/var/lib/synchromesh/model.mesh")
UNITS = Path("/usr/lib/systemd/system")
DROP_INS = Path("/etc/systemd/system/synchromesh.service.d")
SERVICE = "synchromesh.service"
SOCKETS = [f"synchromesh-{name}.socket" for name in ("control", "attach", "metrics")]
# How long anything may take before a check gives up; it measures nothing.
HANG_S = 60.0
# Who may switch and attach; who reaches the sockets but is not among `peers`; and who does not even that.
PLANNER, GUEST, STRANGER = 1500, 1501, 1502
# As the shipped configuration, but for a small pool, which holds three tasks of four, and who may connect.
SETTINGS = """\
models: [{bundle: /var/lib/synchromesh/model.mesh, pool_bytes: 2500KiB, initial_task: city}]
peers: [{user: 1500, role: command}]
"""


class Failed(Exception):
    """A check has found that something is not as it should be."""


def expect(holds: object, what: str) -> None:
    """Fails unless something holds."""
    if not holds:
        raise Failed(what)


def run(*command: str | Path, user: int | None = None, fails: bool = False) -> str:
    """Runs a program that must succeed, or must fail, and gives what it prints."""
    group: dict[str, Any] = {}
    if user is not None:
        group = {"user": user, "group": user, "extra_groups": os.getgrouplist(name_of(user), user)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False, **group)
    text = (done.stdout + done.stderr).strip()
    expect((done.returncode != 0) == fails, f"`{' '.join(map(str, command))}` gave {done.returncode}: {text}")
    return text if fails else done.stdout


def name_of(user: int) -> str:
    """A user's name."""
    return {PLANNER: "planner", GUEST: "guest", STRANGER: "stranger"}[user]


@contextmanager
def as_user(user: int) -> Iterator[None]:
    """For a while, this process is a user's."""
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(name_of(user), user))
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def until(what: str, holds: Callable[[], Any]) -> Any:
    """Waits until something holds, and gives what it is."""
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise Failed(f"did not come: {what}")


def install() -> None:
    """Does what a package does."""
    binary = Path(BINARY)
    shutil.copy(PAYLOAD / "synchromesh", binary)
    binary.chmod(0o755)
    for file in (PAYLOAD / "systemd").glob("*.s*"):
        shutil.copy(file, UNITS)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copy(PAYLOAD / "systemd" / kind / "synchromesh.conf", Path("/usr/lib") / kind)
    users = "".join(
        f"u {name_of(user)} {user}\n" + ("" if user == STRANGER else f"m {name_of(user)} synchromesh\n")
        for user in (PLANNER, GUEST, STRANGER)
    )
    Path("/etc/sysusers.d").mkdir(exist_ok=True)
    Path("/etc/sysusers.d/test.conf").write_text(users)
    run("systemd-sysusers")
    run("systemd-tmpfiles", "--create", "synchromesh.conf")
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(SETTINGS)
    shutil.copy(PAYLOAD / "model.mesh", BUNDLE)
    BUNDLE.chmod(0o644)
    systemctl("daemon-reload")


def systemctl(*args: str, fails: bool = False) -> str:
    """Asks systemd, which must do it, or must refuse."""
    return run("systemctl", *args, fails=fails)


def shown(name: str, unit: str = SERVICE) -> str:
    """A property of a unit."""
    return systemctl("show", "-P", name, unit).strip()


def state(unit: str = SERVICE) -> str:
    """What a unit is: active, inactive, failed and so on."""
    return shown("ActiveState", unit)


def main_pid() -> int:
    """The daemon's process; 0 if there is none."""
    return int(shown("MainPID"))


def restarts() -> int:
    """How often systemd has started the daemon anew by itself."""
    return int(shown("NRestarts"))


def synchromesh(*args: str, user: int | None = PLANNER, fails: bool = False) -> Any:
    """Calls the daemon as one of its users, and gives the object that is printed, or what was said on failure."""
    text = run(BINARY, *args, *([] if fails else ["--json"]), user=user, fails=fails)
    return text if fails else json.loads(text)


def switch(task: str) -> int:
    """Switches, and gives the generation."""
    return int(synchromesh("switch", task)["generation"])


def active() -> tuple[str, int]:
    """The default session's task and generation."""
    session = synchromesh("status")["models"][0]["sessions"][0]
    return session["task"], int(session["generation"])


class Journal:
    """What was logged since this was made."""

    def __init__(self) -> None:
        shown = run("journalctl", "-n0", "--show-cursor")
        self.cursor = shown.splitlines()[-1].removeprefix("-- cursor: ")

    def text(self, *of: str) -> str:
        """What the service has said, and what systemd has said of it; or what is asked for."""
        run("journalctl", "--sync")
        return run("journalctl", "-o", "cat", "--after-cursor", self.cursor, *(of or ("-u", SERVICE)))

    def until(self, word: str) -> None:
        """Waits for a word of it."""
        until(f"`{word}` in the journal", lambda: word in self.text())


@contextmanager
def set_up(settings: str = "", config: str = "", files: Sequence[Path] = ()) -> Iterator[Journal]:
    """Until the end, runs the service anew with further settings, configuration and drop-ins: it is not started."""
    # With the sockets, so that no call that waits there starts it too soon.
    stop()
    DROP_INS.mkdir(exist_ok=True)
    if settings:
        (DROP_INS / "test.conf").write_text(f"[Service]\n{settings}\n")
    for file in files:
        shutil.copy(file, DROP_INS)
    CONFIG.write_text(SETTINGS + config)
    systemctl("daemon-reload")
    systemctl("start", *SOCKETS)
    try:
        yield Journal()
    finally:
        reset()


def stop() -> None:
    """Stops the service and its sockets, and forgets how it went."""
    systemctl("stop", *SOCKETS, SERVICE)
    systemctl("reset-failed")


def reset() -> None:
    """Stops the service, and has all as it was shipped, with sockets that wait."""
    CONFIG.write_text(SETTINGS)
    stop()
    if DROP_INS.exists():
        shutil.rmtree(DROP_INS)
        systemctl("daemon-reload")
    Path("/var/lib/synchromesh/starts").unlink(missing_ok=True)
    # Sessions outlive the daemon; each check begins without those of others.
    for stored in BUNDLE.parent.glob("sessions-*"):
        stored.unlink()
    systemctl("start", *SOCKETS)


def settled() -> str:
    """Waits until systemd has nothing to do any more with the service, and gives what it is then."""
    return until("an end of starting and stopping", lambda: state() in ("active", "inactive", "failed") and state())


def thread(name: str) -> int:
    """One of the daemon's threads."""
    for task in Path(f"/proc/{main_pid()}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise Failed(f"the daemon has no thread `{name}`")


@contextmanager
def program(*command: str | int | Path, user: int | None = None) -> Iterator["Program"]:
    """Runs a program of the test beside all else."""
    process = Program([str(part) for part in command], user)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


class Program:
    """A program that prints lines."""

    def __init__(self, command: list[str], user: int | None) -> None:
        group: dict[str, Any] = {}
        if user is not None:
            group = {"user": user, "group": user, "extra_groups": os.getgrouplist(name_of(user), user)}
        self.path = Path(f"/tmp/program.{time.monotonic_ns()}")
        with self.path.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, **group)

    def lines(self) -> list[str]:
        """What it has printed by now, in whole lines."""
        text = self.path.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def until(self, what: str, holds: Callable[[str], bool]) -> str:
        """Waits for a new line of a kind."""
        seen = len(self.lines())

        def found() -> str | None:
            lines = self.lines()
            wrong = [line for line in lines if line.startswith(("wrong", "Traceback"))]
            expect(not wrong, f"{wrong[:1]} of {lines[-3:]}")
            expect(self.process.poll() is None, f"it has ended: {lines[-3:]}")
            return next((line for line in lines[seen:] if holds(line)), None)

        return until(what, found)


def client() -> Any:
    """Runs a client that compares what it is served with the bundle, again and again."""
    return program("python3", "-B", PAYLOAD / "guest/attach.py", BUNDLE, user=PLANNER)


def freeze(*tids: int) -> Any:
    """Keeps threads from running."""
    return program("python3", "-B", PAYLOAD / "guest/freeze.py", *tids)
