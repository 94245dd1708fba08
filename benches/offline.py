#!/usr/bin/env python3
"""Measures the offline part: how fast and how large it compiles, what its layout reads, how it scales.

    pip install numpy; apt-get install time
    cargo build --release
    benches/offline.py speed      # 1 GiB of bf16, six tasks: compile against cp, in turn
    benches/offline.py layout     # the same model, tasks that differ by some 8 %
    benches/offline.py scale      # 1 M blocks, 64 tasks: align

Inputs are made from seeds in a temporary folder (--folder keeps them for the next run). Memory is the largest resident
set of the process, as the kernel counts it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    sys.exit(f"offline: {missing}: run `pip install numpy`")

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/synchromesh"
MIB = 1 << 20
# How far the tasks' norms are apart: so far that their own best masks differ by some 8 %.
SPREAD = 0.07


def write(path: Path, tensors: list[tuple[str, str, list[int]]], content: Callable[[str, list[int]], bytes]) -> None:
    """Writes a safetensors file, one tensor in memory at a time."""
    sizes = {"BF16": 2, "F32": 4, "U8": 1}
    header, offset = {}, 0
    for name, dtype, shape in tensors:
        length = sizes[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.with_suffix(".partial").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, shape in tensors:
            file.write(content(name, shape))
    path.with_suffix(".partial").rename(path)


def seeded(*words: str) -> np.random.Generator:
    return np.random.default_rng(list("/".join(words).encode()))


def weights(name: str, shape: list[int]) -> bytes:
    """Normal values as bf16; some regions of a weight matter more to all tasks than others."""
    rng = seeded(name)
    values = rng.standard_normal(shape, dtype=np.float32)
    regions = np.exp(0.35 * rng.standard_normal([-(-side // 64) for side in shape], dtype=np.float32))
    values *= regions.repeat(64, axis=0)[: shape[0]].repeat(64, axis=1)[:, : shape[1]]
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def plain(name: str, shape: list[int]) -> bytes:
    """Bytes that are not zero."""
    return seeded(name).integers(1, 255, shape, dtype=np.uint8).tobytes()


CONTENT = {"BF16": weights, "U8": plain}


def norms(task: str, spread: float) -> Callable[[str, list[int]], bytes]:
    """What all tasks have in common, times what is a task's own: by runs of channels, as blocks see them."""

    def content(name: str, shape: list[int]) -> bytes:
        common = seeded("common", name).standard_normal(shape[0])
        own = np.repeat(seeded(task, name).standard_normal(-(-shape[0] // 64)), 64)[: shape[0]]
        return np.exp(0.5 * common + spread * own).astype(np.float32).tobytes()

    return content


def transformer(layers: int, hidden: int, mlp: int) -> list[tuple[str, str, list[int]]]:
    shapes = {
        **{f"self_attn.{part}_proj": [hidden, hidden] for part in "qkvo"},
        "mlp.gate_proj": [mlp, hidden],
        "mlp.up_proj": [mlp, hidden],
        "mlp.down_proj": [hidden, mlp],
    }
    return [(f"layers.{layer}.{part}.weight", "BF16", shape) for layer in range(layers) for part, shape in shapes.items()]


# 1 GiB of bf16: 40 layers of about 26 MiB.
MODEL = transformer(40, 1024, 3072)


def recipe(folder: Path, name: str, tensors: list[tuple[str, str, list[int]]], tasks: int, spread: float) -> Path:
    """The recipe of a model that is made if it is not there, with tasks that each keep half."""
    model = folder / f"{name}.safetensors"
    if not model.exists():
        write(model, tensors, CONTENT[tensors[0][1]])
    entries = []
    for task in range(tasks):
        path = folder / f"{name}-norms-{task}-{spread}.safetensors"
        if not path.exists():
            write(path, [(name, "F32", shape[1:]) for name, _, shape in tensors], norms(str(task), spread))
        entries.append({"name": f"task-{task}", "keep": 0.5, "norms": path.name})
    text = {
        "model": name,
        "output": f"{name}.mesh",
        "weights": model.name,
        "block": {"rows": 64, "cols": 64},
        "prune": {"include": ["layers.*"]},
        "tasks": entries,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(text))
    return path


def run(*command: object) -> tuple[float, int, bytes]:
    """Seconds, largest resident set in bytes, and what was printed."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as kib:
        # Not this process's own count of its child: that begins with what this process itself had in memory.
        words = ["time", "-f", "%M", "-o", kib.name, *(str(word) for word in command)]
        finished = subprocess.run(words, stdout=subprocess.PIPE, check=False)
        seconds = time.monotonic() - started
        if finished.returncode:
            sys.exit(f"offline: {command} failed")
        return seconds, int(kib.read()) * 1024, finished.stdout


def interleaved(rounds: int, commands: dict[str, list[object]]) -> dict[str, list[float]]:
    """By name the seconds of each round; the commands take turns."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            subprocess.run(["sync"], check=True)
            seconds, _, _ = run(*command)
            # The first round brings the input into the page cache, for all alike.
            if number > 0:
                times[name].append(seconds)
    return times


def speed(folder: Path, rounds: int) -> None:
    path = recipe(folder, "model", MODEL, 6, SPREAD)
    model = folder / "model.safetensors"
    copy = folder / "copy.safetensors"
    commands = {
        "cp": ["cp", model, copy],
        "cp and sync": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', model, copy],
        "compile": [PROGRAM, "compile", path, "--json"],
        "pack": [PROGRAM, "pack", path, "--json"],
    }
    medians = {}
    for name, times in interleaved(rounds, commands).items():
        medians[name] = statistics.median(times)
        print(f"{name:12} median {medians[name]:6.2f} s  ({min(times):.2f} to {max(times):.2f})")
    for name in ("compile", "pack"):
        print(f"{name}: {medians['cp'] / medians[name]:.2f} of the speed of cp, "
              f"{medians['cp and sync'] / medians[name]:.2f} of cp and sync")
    _, memory, printed = run(PROGRAM, "compile", path, "--json")
    blocks = json.loads(printed)["blocks"]
    elements = [int(np.prod(shape)) for _, _, shape in MODEL]
    largest, places = 2 * max(elements), sum(elements) // 4096
    allowed = 2 * largest + 64 * places
    print(f"memory: {memory / MIB:.1f} MiB for {places} places ({blocks} blocks); twice the largest tensor and 64 bytes "
          f"a place are {allowed / MIB:.1f} MiB")


def layout(folder: Path, _: int) -> None:
    path = recipe(folder, "model", MODEL, 6, SPREAD)
    _, _, printed = run(PROGRAM, "pack", path, "--json")
    figures = json.loads(printed)
    print(f"mean difference {100 * figures['mean_diff']:.2f} % of a task, {figures['blocks']} blocks")
    print(f"extents of a switch: {figures['mean_extents']:.2f} on average, {figures['mean_naive_extents']:.2f} in the order of "
          f"the tensors: a {figures['mean_naive_extents'] / figures['mean_extents']:.0f}th")
    print(f"bytes read: {figures['read_share']:.4f} of the difference")


def scale(folder: Path, _: int) -> None:
    """A model of 4 GiB in blocks of a page, the smallest there are: 1 M blocks."""
    tensors = [(f"layers.{layer}.weight", "U8", [8192, 8192]) for layer in range(64)]
    path = recipe(folder, "large", tensors, 64, 0.2)
    text = json.loads(path.read_text())
    pairs = [{"from": f"task-{a}", "to": f"task-{(a + step) % 64}", "weight": 1 + (a * step) % 7}
             for a in range(64) for step in (1, 2, 5, 11)]
    for name, transitions in {"every switch as likely": None, "four switches from each task": {"pairs": pairs}}.items():
        path.write_text(json.dumps(text | ({"transitions": transitions} if transitions else {})))
        seconds, memory, printed = run(PROGRAM, "align", path, "--json")
        figures = json.loads(printed)
        least = min(task["retained"] / task["best"] for task in figures["tasks"])
        share = figures["expected_switch_bytes"] / figures["tasks"][0]["bytes"]
        print(f"{name}: {seconds:.1f} s, {memory / MIB:.0f} MiB; {figures['blocks']} blocks, λ {figures['lambda']:.4f}, gap "
              f"{figures['gap']:.1e}, least quality {least:.4f}, expected switch {100 * share:.2f} % of a task")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "layout", "scale"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where inputs are made, and kept")
    args = parser.parse_args()
    measure = {"speed": speed, "layout": layout, "scale": scale}[args.what]
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        measure(args.folder, args.rounds)
        return
    with tempfile.TemporaryDirectory(prefix="synchromesh-bench-", dir=ROOT / "target") as folder:
        measure(Path(folder), args.rounds)


if __name__ == "__main__":
    main()
