"""Writes a small model with two masked tasks, and the checksum that matmul must print for each.

    python3 model.py FOLDER F32|BF16

Weights and inputs are small whole numbers: all sums are exact, in any order. Python's own library only.
"""

import json
import random
import struct
import sys
from pathlib import Path

ROWS, COLUMNS, BATCH = 150, 200, 3
BLOCKS = {"F32": (32, 32), "BF16": (32, 64)}
TASKS = ("day", "night")
TENSOR = "layer.weight"


def packed(dtype: str, values: list[float]) -> bytes:
    """Elements as they lie; BF16 is the upper half of F32."""
    floats = struct.pack(f"<{len(values)}f", *values)
    if dtype == "F32":
        return floats
    return b"".join(floats[at + 2 : at + 4] for at in range(0, len(floats), 4))


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


def checksum(weights: list[list[float]], kept: list[list[int]], block: tuple[int, int]) -> float:
    """What matmul prints, computed of the weights and the mask alone."""
    x = [[float((n * COLUMNS + col) % 7 - 3) for col in range(COLUMNS)] for n in range(BATCH)]
    total = 0.0
    for n in range(BATCH):
        for row in range(ROWS):
            mask = kept[row // block[0]]
            terms = (x[n][col] * weights[row][col] for col in range(COLUMNS) if mask[col // block[1]])
            total += sum(terms) * ((n * ROWS + row) % 11 + 1)
    return total


def main() -> None:
    """Writes weights, masks, recipe and checksums into a folder."""
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    block = BLOCKS[dtype]
    grid = [-(-ROWS // block[0]), -(-COLUMNS // block[1])]
    source = random.Random(7)
    weights = [[float(source.randint(-3, 3)) for _ in range(COLUMNS)] for _ in range(ROWS)]
    flat = packed(dtype, [value for row in weights for value in row])
    bias = packed("F32", [float(i) for i in range(ROWS)])
    tensors = {TENSOR: (dtype, [ROWS, COLUMNS], flat), "bias": ("F32", [ROWS], bias)}
    write(folder / "weights.safetensors", tensors)
    recipe = [
        "model: cpp",
        "output: cpp.mesh",
        "weights: weights.safetensors",
        f"block: {{rows: {block[0]}, cols: {block[1]}}}",
        f"prune: {{include: [{TENSOR}]}}",
        "tasks:",
    ]
    expected = {}
    for task in TASKS:
        kept = [[source.randint(0, 1) for _ in range(grid[1])] for _ in range(grid[0])]
        kept[0][0] = 1
        mask = bytes(place for row in kept for place in row)
        write(folder / f"{task}.safetensors", {TENSOR: ("U8", grid, mask)})
        recipe.append(f"- {{name: {task}, mask: {task}.safetensors}}")
        expected[task] = checksum(weights, kept, block)
    (folder / "recipe.yaml").write_text("\n".join(recipe) + "\n")
    lines = [f"{task} {total:.10g}" for task, total in expected.items()]
    (folder / "expected").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
