"""A real model is computed in the daemon's memory, while its tasks are switched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from live import HANG_S, ROOT, serve, short_folder

from synchromesh import Control

EXAMPLE = ROOT / "python/examples/minilm.py"
# Other work may hold the machine up for longer than the daemon waits by itself.
PATIENCE = "limits: {lease_patience_ms: 60000}\n"


def test_embeddings_are_those_of_the_task_that_is_leased(minilm: Path) -> None:
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    # Room for two tasks: blocks come and go all the time.
    with short_folder() as folder, serve(minilm, folder, PATIENCE, "24MiB") as daemon:
        command = [sys.executable, EXAMPLE, "--control", daemon.control, "--attach", daemon.socket, "--seconds", "8"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_S, check=False)
        with Control(daemon.control) as control:
            read = control.status().models[0].prefetch.read.blocks
    print(f"{done.stdout}{read} blocks read")
    assert done.returncode == 0, done.stderr
    assert "bit for bit right" in done.stdout
    assert read > 20_000, "most of them more than once"
