"""S16: where the kernel refuses io_uring, the daemon says so once, reads by blocking calls, and serves."""

import errno
import sys
from pathlib import Path

import pytest

from control import TaskService
from daemon import run, serve

REFUSING = Path(__file__).with_name("refusing.py")
REASONS = {
    errno.EPERM: "kernel.io_uring_disabled or a seccomp filter",
    errno.ENOSYS: "does not have it",
    errno.ENOMEM: "LimitMEMLOCK=",
}


@pytest.mark.parametrize("number", REASONS, ids=errno.errorcode.get)
def test_s16_a_refused_ring_is_told_once_and_blocks_are_read_all_the_same(
    bundle: Path, tmp_path: Path, number: int
) -> None:
    log = tmp_path / "log"
    through = [sys.executable, REFUSING, str(number)]
    with log.open("w") as lines, serve(bundle, through, lines) as daemon, daemon.connect() as channel:
        assert TaskService(channel).switch("city").read.blocks > 0
        (model,) = run("status", "--control", daemon.control)["models"]
    storage = model["storage"]
    assert storage["backend"] == "preadv"
    assert REASONS[number] in storage["fallback_reason"]
    told = [line for line in log.read_text().splitlines() if "io_uring" in line]
    assert len(told) == 1 and "WARN" in told[0] and REASONS[number] in told[0], told


def test_elsewhere_blocks_are_read_by_io_uring(bundle: Path) -> None:
    with serve(bundle) as daemon, daemon.connect() as channel:
        TaskService(channel).switch("park")
        (model,) = run("status", "--control", daemon.control)["models"]
    if model["storage"]["fallback_reason"]:
        pytest.skip(model["storage"]["fallback_reason"])
    assert model["storage"]["backend"] == "io_uring"
    assert model["storage"]["reads"] > 0
