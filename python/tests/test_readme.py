"""The quick tour of the README runs as it stands with the daemon that it names, and with another one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from live import Daemon, serve, short_folder

README = Path(__file__).resolve().parents[1] / "README.md"
# The names of the README, and what stands for them where another model is served.
SMALL = {
    "encoder.layer.0.output.dense.weight": "layer.0.weight",
    "encoder.layer.0.output.dense.bias": "norm.bias",
    "1536": "128",
    "manuals": "park",
    "packages": "rain",
}


def tour(daemon: Daemon, names: dict[str, str]) -> None:
    """Runs the tour with the daemon's sockets, and with other names."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    code = "\n".join(blocks)
    sockets = {"target/control.sock": str(daemon.control), "target/attach.sock": str(daemon.socket)}
    for name, other in {**names, **sockets}.items():
        assert name in code
        code = code.replace(name, other)
    exec(compile(code, str(README), "exec"), {})


def check(printed: str, expected: list[str]) -> None:
    """Whether this was printed, in this order."""
    at = 0
    for text in expected:
        at = printed.index(text, at)


def test_the_quick_tour_runs(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with short_folder() as folder, serve(minilm, folder, pool="24MiB") as daemon:
        tour(daemon, {})
    unknown = "NOT_FOUND UNKNOWN_TASK c-headers,changelogs,licences,manuals,packages,python"
    check(capsys.readouterr().out, ["'manuals', 'packages'", unknown, "minilm", "manuals", "packages"])


def test_the_quick_tour_runs_with_a_small_model(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    tour(daemon, SMALL)
    unknown = "NOT_FOUND UNKNOWN_TASK city,fog,park,rain"
    check(capsys.readouterr().out, ["'city', 'fog', 'park', 'rain'", unknown, "small-f32", "park", "rain"])
