"""The quick tour of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from live import Daemon

README = Path(__file__).resolve().parents[1] / "README.md"
TOUR = ["'city', 'fog', 'park', 'rain'", "NOT_FOUND UNKNOWN_TASK city,fog,park,rain", "small-f32", "park", "rain"]


def test_the_quick_tour_runs(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names = {"control_socket": daemon.control, "attach_socket": daemon.socket}
    exec(compile("\n".join(blocks), str(README), "exec"), names)
    out = capsys.readouterr().out
    at = 0
    for expected in TOUR:
        at = out.index(expected, at)
