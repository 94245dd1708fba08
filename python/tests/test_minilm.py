"""A real model is computed in the daemon's memory, while its tasks are switched."""

from __future__ import annotations

import subprocess
import sys

import pytest
from live import HANG_S, ROOT, run, serve, short_folder

MODEL = ROOT / "target/minilm"


@pytest.mark.skipif(not MODEL.exists(), reason="the model is not here: run scripts/fetch-minilm.sh")
def test_embeddings_are_those_of_the_task_that_is_leased() -> None:
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    example = ROOT / "python/examples/minilm.py"
    run("compile", ROOT / "examples/minilm/recipe.yaml")
    # Room for two tasks and a little: blocks come and go all the time.
    with short_folder() as folder, serve(ROOT / "target/minilm.mesh", folder, pool="26MiB") as daemon:
        command = [sys.executable, example, "--control", daemon.control, "--attach", daemon.socket, "--seconds", "8"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_S, check=False)
        print(done.stdout)
        assert done.returncode == 0, done.stderr
        assert "bit for bit right" in done.stdout
