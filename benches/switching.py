#!/usr/bin/env python3
"""Measures switches of the daemon against the size of the difference, and draws docs/switching.svg.

    pip install numpy
    cargo build --release
    benches/switching.py                  # 1 GiB of bf16; a switch for each difference, 9 rounds each
    benches/switching.py --draw-only      # draws again what docs/switching.json has

The model's tasks keep half of its 64 x 64 blocks and differ from the first one by 0.5 to 100 %, each difference lying
in a row on disk. Each is measured by `synchromesh bench`. A difference of 0 % is the resident switch. The files lie in
a temporary folder (--folder keeps them for the next run).
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    sys.exit(f"switching: {missing}: run `pip install numpy`")

from offline import MIB, PROGRAM, ROOT, seeded, weights, write

SHAPE, TENSORS, BLOCK = (4096, 4096), 32, 64
SHARES = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0]
RESULT = ROOT / "docs/switching.json"
FIGURE = ROOT / "docs/switching.svg"


def task(share: float) -> str:
    return f"d{share * 1000:.0f}"


def make(folder: Path) -> Path:
    """A bundle in which task `d80` has 8 % of its blocks in places where `base` has none."""
    bundle = folder / "switching.mesh"
    if bundle.exists():
        return bundle
    names = [f"layer.{i}.weight" for i in range(TENSORS)]
    source = folder / "switching.safetensors"
    if not source.exists():
        write(source, [(name, "BF16", list(SHAPE)) for name in names], weights)
    grid = [side // BLOCK for side in SHAPE]
    places = TENSORS * math.prod(grid)
    order = seeded("places").permutation(places)
    kept, others = order[: places // 2], order[places // 2 :]
    for share in [0.0, *SHARES]:
        changed = int(share * len(kept))
        mask = np.zeros(places, np.uint8)
        mask[kept[changed:]] = 1
        mask[others[:changed]] = 1
        masks = dict(zip(names, mask.reshape(TENSORS, *grid)))
        path = folder / f"switching-{task(share)}.safetensors"
        write(path, [(name, "U8", grid) for name in names], lambda name, _: masks[name].tobytes())
    recipe = {
        "model": "switching",
        "output": str(bundle),
        "weights": str(source),
        "block": {"rows": BLOCK, "cols": BLOCK},
        "prune": {"include": ["layer.*"]},
        "tasks": [
            {"name": "base" if share == 0 else task(share), "mask": str(folder / f"switching-{task(share)}.safetensors")}
            for share in [0.0, *SHARES]
        ],
    }
    path = folder / "switching.yaml"
    path.write_text(json.dumps(recipe))
    subprocess.run([PROGRAM, "compile", path], check=True, stdout=subprocess.DEVNULL)
    source.unlink()
    # Files just written are slower on the first read.
    subprocess.run([PROGRAM, "verify", bundle], check=True, stdout=subprocess.DEVNULL)
    return bundle


def measure(bundle: Path, rounds: int) -> list[dict]:
    """What `bench` says of each difference, without the samples."""
    results = []
    for share in SHARES:
        command = [PROGRAM, "bench", bundle, "--from", "base", "--to", task(share), "--rounds", str(rounds), "--json"]
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        measures = {one["name"]: {key: one[key] for key in ("bytes", "median_us", "min_us", "max_us", "p99_us")}
                    for one in told["measures"]}
        results.append({"share": share, "bytes": told["diff_bytes"], "ratios": told["ratios"], "measures": measures})
        line = {key: None if value is None or isinstance(value, str) else round(value, 2)
                for key, value in told["ratios"].items()}
        print(f"{share:6.1%}  {told['diff_bytes'] / MIB:7.1f} MiB  cold {measures['cold']['median_us'] / 1e3:7.2f} ms  "
              f"half {measures['half']['median_us'] / 1e3:7.2f} ms  {line}", flush=True)
    return results


def draw(results: list[dict]) -> str:
    """Time of a switch, logarithmic, over the bytes it reads; the device's limit dashed."""
    width, height, left, right, bottom, top = 760, 430, 70, 35, 50, 20
    # With no difference a switch is a resident one, whatever was there before.
    resident = results[0]["measures"]["rpc_switch"]
    nothing = {"share": 0, "bytes": 0, "measures": {**results[0]["measures"], "cold": resident, "half": resident}}
    columns = [nothing, *results]
    lines = [
        ("cold switch", "cold", "#d33", ""),
        ("half of it there", "half", "#e90", ""),
        ("resident, whole call", "rpc_switch", "#283", ""),
        ("whole task reloaded", "reload", "#36c", ""),
        ("device: one piece of as many bytes", "sequential", "#777", "5 4"),
    ]
    low, high = 0.01, 1000.0

    def x(column: int) -> float:
        return left + column * (width - left - right) / (len(columns) - 1)

    def y(ms: float) -> float:
        share = math.log(ms / low) / math.log(high / low)
        return height - bottom - share * (height - bottom - top)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for ms in (0.01, 0.1, 1, 10, 100, 1000):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(ms):.1f}" y2="{y(ms):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:g} ms</text>')
    for column, one in enumerate(columns):
        size = f'{one["bytes"] / MIB:.0f}'
        parts.append(f'<text x="{x(column):.1f}" y="{height - bottom + 18}" text-anchor="middle">{size}</text>')
        share = f'{100 * one["share"]:g} %'
        parts.append(f'<text x="{x(column):.1f}" y="{height - bottom + 33}" text-anchor="middle" fill="#777">{share}</text>')
    parts.append(f'<text x="{left - 20}" y="{height - bottom + 18}" text-anchor="end">MiB</text>')
    for number, (title, name, colour, dash) in enumerate(lines):
        shown = [(column, one) for column, one in enumerate(columns) if one["bytes"] > 0 or name != "sequential"]
        points = " ".join(f'{x(at):.1f},{y(one["measures"][name]["median_us"] / 1e3):.1f}' for at, one in shown)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(f'<text x="{width - 300}" y="{y(0.6) + number * 16:.1f}" fill="{colour}">{title}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files lie, on a disk")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--draw-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.draw_only:
        with tempfile.TemporaryDirectory(prefix="synchromesh-") as temporary:
            folder = arguments.folder or Path(temporary)
            RESULT.write_text(json.dumps(measure(make(folder), arguments.rounds), indent=1) + "\n")
    FIGURE.write_text(draw(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
