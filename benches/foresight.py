#!/usr/bin/env python3
"""Replays made-up journeys against policies of foresight, and writes docs/foresight.{json,svg} and a table.

    pip install numpy
    cargo build --release
    benches/foresight.py                  # all scenarios, three seeds each, in virtual time

The model has 20 tasks; 92 % of a task's blocks are those of all, 8 % its own, in a row on disk. The pool holds one and
a half tasks. The files lie in a temporary folder (--folder keeps them for the next run).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    sys.exit(f"foresight: {missing}: run `pip install numpy`")

from offline import PROGRAM, ROOT, seeded, weights, write

SHAPE, TENSORS, BLOCK, TASKS, DIFF = (2048, 2048), 16, 64, 20, 0.08
DRAWN = 150
SCENARIOS = ["commute", "city", "highway", "valet", "random", "adversarial"]
POLICIES = ["none", "lru", "recent", "markov1", "full", "oracle"]


def make(folder: Path) -> Path:
    """All tasks share 92 % of their blocks; each has 8 % of its own."""
    bundle = folder / "foresight.mesh"
    if bundle.exists():
        return bundle
    names = [f"layer.{i}.weight" for i in range(TENSORS)]
    source = folder / "foresight.safetensors"
    write(source, [(name, "BF16", list(SHAPE)) for name in names], weights)
    grid = [side // BLOCK for side in SHAPE]
    places = TENSORS * grid[0] * grid[1]
    # What all have and what each has for itself fill the model.
    kept = int(places / (1 + DIFF * (TASKS - 1)))
    order = seeded("places").permutation(places)
    own = int(kept * DIFF)
    shared = order[: kept - own]
    tasks = []
    for task in range(TASKS):
        mask = np.zeros(places, np.uint8)
        mask[shared] = 1
        mask[order[kept - own + task * own : kept + task * own]] = 1
        masks = dict(zip(names, mask.reshape(TENSORS, *grid)))
        path = folder / f"foresight-{task}.safetensors"
        write(path, [(name, "U8", grid) for name in names], lambda name, _: masks[name].tobytes())
        tasks.append({"name": f"task-{task}", "mask": str(path)})
    recipe = {
        "model": "foresight", "output": str(bundle), "weights": str(source),
        "block": {"rows": BLOCK, "cols": BLOCK}, "prune": {"include": ["*"]}, "tasks": tasks,
    }
    (folder / "foresight.yaml").write_text(json.dumps(recipe))
    subprocess.run([PROGRAM, "compile", folder / "foresight.yaml"], check=True, stdout=subprocess.DEVNULL)
    return bundle


def run(*command) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def replay(folder: Path, bundle: Path, scenario: str, seed: int, switches: int, speed: list) -> dict:
    trace = folder / f"{scenario}-{seed}.jsonl"
    trace.write_text(run(PROGRAM, "replay", "--generate", scenario, "--seed", seed, "--switches", switches,
                         "--bundle", bundle))
    result = json.loads(run(PROGRAM, "replay", trace, "--bundle", bundle, *speed, "--json"))
    del result["bundle"]  # It lies somewhere on this machine.
    return result


def draw(folder: Path, bundle: Path, speed: list) -> None:
    """The first part of a journey, for docs/foresight.svg."""
    lines = (folder / "city-1.jsonl").read_text().splitlines(keepends=True)
    trace = folder / "city-drawn.jsonl"
    trace.write_text("".join(lines[:DRAWN]))
    run(PROGRAM, "replay", trace, "--bundle", bundle, *speed, "--svg", ROOT / "docs/foresight.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--scenario", action="append")
    # The model is small; the device is as much slower, so that a switch takes as long as one of 41 MB.
    parser.add_argument("--mb-per-s", type=float, default=150)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="synchromesh-foresight-"))
    folder.mkdir(exist_ok=True, parents=True)
    bundle = make(folder)
    speed = ["--mb-per-s", args.mb_per_s, "--latency-us", 80]
    results = {}
    for scenario in args.scenario or SCENARIOS:
        runs = [replay(folder, bundle, scenario, seed, args.switches, speed) for seed in range(1, args.seeds + 1)]
        results[scenario] = runs
        table(scenario, runs)
    if "city" in results:
        draw(folder, bundle, speed)
    (ROOT / "docs/foresight.json").write_text(json.dumps(results, indent=1) + "\n")


def table(scenario: str, runs: list) -> None:
    """Medians over the seeds."""
    print(f"\n| {scenario} | hits | covered | waited, s | of lru | of the oracle | p99, ms | wasted, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for place, policy in enumerate(POLICIES):
        def median(key: str) -> float:
            return statistics.median(run["results"][place][key] or 0 for run in runs)
        assert all(run["results"][place]["policy"] == policy for run in runs)
        print(f"| {policy} | {median('hit_rate'):.1%} | {median('covered'):.1%} | {median('waited_us') / 1e6:.2f} "
              f"| {median('waited_of_lru'):.2f} | {median('waited_of_oracle'):.2f} | {median('p99_us') / 1e3:.2f} "
              f"| {median('wasted_bytes') / 1e6:.0f} |")


if __name__ == "__main__":
    main()
