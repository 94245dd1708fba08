"""Writes a model of 4 MiB with four tasks, as a recipe with its inputs. Python's own library only.

python3 bundle.py FOLDER
"""

import json
import random
import struct
import sys
from array import array
from pathlib import Path

SIDE = 1024
BLOCK = 32
TASKS = ("city", "fog", "park", "rain")
TENSOR = "layer.weight"


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """Writes a safetensors file."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main() -> None:
    """Writes weights, masks and recipe into a folder."""
    folder = Path(sys.argv[1])
    source = random.Random(11)
    weights = array("f", (source.random() for _ in range(SIDE * SIDE))).tobytes()
    bias = array("f", range(SIDE)).tobytes()
    tensors = {TENSOR: ("F32", [SIDE, SIDE], weights), "bias": ("F32", [SIDE], bias)}
    write(folder / "weights.safetensors", tensors)
    grid = SIDE // BLOCK
    recipe = [
        "model: drive",
        "output: model.mesh",
        "weights: weights.safetensors",
        f"block: {{rows: {BLOCK}, cols: {BLOCK}}}",
        f"prune: {{include: [{TENSOR}]}}",
        "tasks:",
    ]
    for task in TASKS:
        # A quarter of the blocks, and few in common: every switch has to read.
        mask = bytes(source.random() < 0.25 for _ in range(grid * grid))
        write(folder / f"{task}.safetensors", {TENSOR: ("U8", [grid, grid], mask)})
        recipe.append(f"- {{name: {task}, mask: {task}.safetensors}}")
    (folder / "recipe.yaml").write_text("\n".join(recipe) + "\n")


if __name__ == "__main__":
    main()
