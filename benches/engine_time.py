#!/usr/bin/env python3
"""Measures what a switch costs the engine itself, by size of the model, and draws docs/engine-time.svg.

    benches/engine_time.py                # runs `cargo bench --bench engine` first
    benches/engine_time.py --draw-only    # takes what the last run has left in target/criterion

The times are medians of criterion. The limits that they must stay under are dashed.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

# The groups of benches/engine.rs, each with a parameter for each number of blocks; with their colours.
GROUPS = {"resident switch": "#283", "fifty blocks missing": "#d33"}
BLOCKS = [10_000, 31_623, 100_000, 316_228, 1_000_000]
# Microseconds that a resident switch may take, up to so many blocks.
LIMITS = {100_000: 10.0, 1_000_000: 50.0}
ROOT = Path(__file__).resolve().parent.parent
CRITERION = ROOT / "target/criterion"
RESULT = ROOT / "docs/engine-time.json"
FIGURE = ROOT / "docs/engine-time.svg"

# By group the median microseconds for each of BLOCKS.
Medians = dict[str, list[float]]


class Failure(Exception):
    """What went wrong, where, and what to do."""


def read_medians() -> dict[tuple[str, str], float]:
    """By group and parameter. The names of criterion's folders are not the groups' names."""
    found = {}
    for path in CRITERION.rglob("new/benchmark.json"):
        try:
            about = json.loads(path.read_text())
            nanoseconds = json.loads(path.with_name("estimates.json").read_text())["median"]["point_estimate"]
            found[about["group_id"], about["value_str"]] = nanoseconds / 1e3
        except (OSError, ValueError, KeyError, TypeError) as reason:
            raise Failure(f"{path.parent} is not a result of criterion ({reason!r}): delete {CRITERION} and run "
                          "without --draw-only") from reason
    return found


def chosen(found: dict[tuple[str, str], float]) -> Medians:
    lacking = [f"{group}/{blocks}" for group in GROUPS for blocks in BLOCKS if (group, str(blocks)) not in found]
    if lacking:
        raise Failure(f"{CRITERION} has no {', '.join(lacking)}: run without --draw-only; if that does not help, bring "
                      "the names in this script in line with benches/engine.rs")
    return {group: [round(found[group, str(blocks)], 4) for blocks in BLOCKS] for group in GROUPS}


def print_table(medians: Medians) -> None:
    print(f"{'blocks':>10}  " + "  ".join(f"{group:>24}" for group in medians))
    for number, blocks in enumerate(BLOCKS):
        limit = f"  at most {LIMITS[blocks]:g} µs resident" if blocks in LIMITS else ""
        print(f"{blocks:10,}  " + "  ".join(f"{times[number]:21.2f} µs" for times in medians.values()) + limit)


def draw(medians: Medians) -> str:
    """Time of a switch over the number of blocks, both logarithmic; the limits dashed."""
    width, height, left, bottom, top = 760, 430, 70, 50, 20
    shown = [*LIMITS.values(), *(time for times in medians.values() for time in times)]
    decades = range(math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown))) + 1)

    def x(blocks: float) -> float:
        share = math.log(blocks / BLOCKS[0]) / math.log(BLOCKS[-1] / BLOCKS[0])
        return left + share * (width - left - 30)

    def y(us: float) -> float:
        share = (math.log10(us) - decades[0]) / (decades[-1] - decades[0])
        return height - bottom - share * (height - bottom - top)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             'font-size="12">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for us in (10.0**decade for decade in decades):
        parts.append(f'<line x1="{left}" x2="{width - 30}" y1="{y(us):.1f}" y2="{y(us):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(us) + 4:.1f}" text-anchor="end">{us:g} µs</text>')
    for blocks in BLOCKS:
        parts.append(f'<text x="{x(blocks):.1f}" y="{height - bottom + 18}" text-anchor="middle">{blocks:,}</text>')
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - bottom + 38}" text-anchor="middle" fill="#777">'
                 "blocks</text>")
    begin = BLOCKS[0]
    for blocks, us in LIMITS.items():
        parts.append(f'<line x1="{x(begin):.1f}" x2="{x(blocks):.1f}" y1="{y(us):.1f}" y2="{y(us):.1f}" stroke="#777" '
                     'stroke-width="2" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{x(blocks):.1f}" y="{y(us) - 6:.1f}" text-anchor="end" fill="#777">'
                     f"at most {us:g} µs resident, up to {blocks:,}</text>")
        begin = blocks
    for number, (group, times) in enumerate(medians.items()):
        points = " ".join(f"{x(blocks):.1f},{y(us):.1f}" for blocks, us in zip(BLOCKS, times, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{GROUPS[group]}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 12}" y="{top + 16 + number * 16}" fill="{GROUPS[group]}">{group}</text>')
    return "\n".join([*parts, "</svg>\n"])


def measure() -> None:
    try:
        finished = subprocess.run(["cargo", "bench", "--bench", "engine"], cwd=ROOT, check=False)
    except FileNotFoundError:
        raise Failure("cargo is not installed: install Rust, or use --draw-only") from None
    if finished.returncode:
        raise Failure("`cargo bench --bench engine` failed: its messages stand above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw-only", action="store_true", help="do not measure again")
    args = parser.parse_args()
    try:
        if not args.draw_only:
            measure()
        medians = chosen(read_medians())
        RESULT.write_text(json.dumps({"blocks": BLOCKS, "median_us": medians}, indent=1) + "\n")
        FIGURE.write_text(draw(medians))
    except (Failure, OSError) as reason:
        sys.exit(f"engine_time: {reason}")
    print_table(medians)


if __name__ == "__main__":
    main()
