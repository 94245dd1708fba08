#!/usr/bin/env python3
"""Measures how long a scrape of the metrics takes, over loopback, of a model with 64 tasks.

    pip install numpy
    cargo build --release
    benches/scrape.py                     # 64 tasks, 16 sessions; 1000 scrapes of each text

The tasks keep half of the blocks each, drawn from a seed; the sessions have switched before, and blocks are loaded ahead
meanwhile. Scrapes come one after another, each on a connection of its own, as the daemon wants it, the two texts in turn.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import http.client
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    sys.exit(f"scrape: {missing}: run `pip install numpy`")

from offline import PROGRAM, seeded, weights, write

SHAPE, TENSORS, BLOCK, TASKS, SESSIONS = (2048, 2048), 4, 64, 64, 16
# Longer than any start takes.
PATIENCE_SECONDS = 60
LIMIT_SECONDS = 0.005
TEXTS = {"OpenMetrics": "application/openmetrics-text; version=1.0.0", "plain text": "text/plain"}


def make(folder: Path) -> Path:
    names = [f"layer.{i}.weight" for i in range(TENSORS)]
    source, grid = folder / "scrape.safetensors", [side // BLOCK for side in SHAPE]
    write(source, [(name, "BF16", list(SHAPE)) for name in names], weights)
    tasks = []
    for number in range(TASKS):
        draw = seeded("mask", str(number))
        masks = {name: (draw.random(math.prod(grid)) < 0.5).astype(np.uint8) for name in names}
        path = folder / f"mask-{number}.safetensors"
        write(path, [(name, "U8", grid) for name in names], lambda name, _: masks[name].tobytes())
        tasks.append({"name": f"task-{number}", "mask": str(path)})
    bundle, recipe = folder / "scrape.mesh", folder / "scrape.yaml"
    recipe.write_text(json.dumps({
        "model": "scrape", "output": str(bundle), "weights": str(source), "block": {"rows": BLOCK, "cols": BLOCK},
        "prune": {"include": ["layer.*"]}, "tasks": tasks,
    }))
    subprocess.run([PROGRAM, "compile", recipe], check=True, stdout=subprocess.DEVNULL)
    return bundle


@contextmanager
def running(folder: Path, bundle: Path) -> Iterator[int]:
    """A daemon that is ready, by its port of metrics; it is stopped at the end."""
    config, control = folder / "synchromesh.yaml", folder / "control.sock"
    config.write_text(json.dumps({
        "models": [{"bundle": str(bundle), "pool_bytes": 64 << 20}],
        "listen": {"control": str(control), "attach": str(folder / "attach.sock"), "metrics": "127.0.0.1:0"},
        "state_dir": str(folder), "lock_memory": False,
    }))
    process = subprocess.Popen([PROGRAM, "serve", "--config", config], stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
    watchdog.start()
    port = None
    for line in process.stderr:
        found = re.search(r"metrics are served.*127\.0\.0\.1:(\d+)", line)
        port = int(found[1]) if found else port
        if ": ready" in line:
            break
    watchdog.cancel()
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        if port is None:
            raise OSError("the daemon serves no metrics: see what it says when it is run by hand")
        for number in range(SESSIONS):
            call = [PROGRAM, "sessions", "--control", control, "open", f"session-{number}"]
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
            for step in (0, 1):
                call = [PROGRAM, "switch", "--control", control, "--session", f"session-{number}",
                        f"task-{number + step}"]
                subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        yield port
    finally:
        process.terminate()
        process.wait()


def scrape(port: int, accept: str) -> tuple[float, str]:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics", headers={"Accept": accept})
    answer = connection.getresponse()
    text = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200:
        raise OSError(f"the daemon answers {answer.status}")
    return seconds, text.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="scrapes of each text")
    rounds = parser.parse_args().rounds
    if rounds < 100:
        parser.error("--rounds must be at least 100, for one in a hundred to be told")
    times, texts = {name: [] for name in TEXTS}, {}
    with tempfile.TemporaryDirectory() as name, running(Path(name), make(Path(name))) as port:
        for _ in range(rounds):
            for name, accept in TEXTS.items():
                seconds, texts[name] = scrape(port, accept)
                times[name].append(seconds)
    for name, all_of in times.items():
        p50, p99 = statistics.median(all_of), statistics.quantiles(all_of, n=100)[98]
        series = sum(not line.startswith("#") for line in texts[name].splitlines())
        verdict = "within" if p99 <= LIMIT_SECONDS else "BEYOND"
        print(f"{name:>12}: p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, {verdict} {LIMIT_SECONDS * 1e3:.0f} ms; "
              f"{series} series, {len(texts[name]) / 1024:.0f} KiB")


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as failure:
        sys.exit(f"scrape: {failure}")
