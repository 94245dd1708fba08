"""A reader of bundles, written from docs/format.md and nothing else."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from safetensors import safe_open

ABSENT = 0xFFFFFFFF
BASE_TAG = 1 << 63
# CRC-64/NVME's polynomial, bits reversed: the checksum is a reflected one.
POLYNOMIAL = int(f"{0xAD93D23594C93659:064b}"[::-1], 2)
ONES = (1 << 64) - 1


def crc_table() -> list[int]:
    """What each value of a byte does to the register."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc64_nvme(data: bytes) -> int:
    """CRC-64/NVME."""
    register = ONES
    for byte in data:
        register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ ONES


class Mesh:
    """An open bundle."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", self.raw)
        self.data_start = 8 + length
        self.header: dict[str, Any] = json.loads(self.raw[8 : self.data_start])
        with safe_open(path, "numpy") as file:
            self.meta: dict[str, Any] = json.loads(file.metadata()["synchromesh"])
            names = file.keys()
            self.tensors: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in names}
        self.blocks = self.tensors["blocks"]
        self.id = bytes.fromhex(self.meta["bundle_id"])

    def names(self, prefix: str) -> list[str]:
        """The tensors of a kind, without the prefix, in the order of the file."""
        names = [name for name in self.header if name.startswith(prefix) and name != "__metadata__"]
        names.sort(key=lambda name: self.header[name]["data_offsets"])
        return [name.removeprefix(prefix) for name in names]

    def offsets(self, name: str) -> tuple[int, int]:
        """Where a tensor begins and ends in the file."""
        begin, end = self.header[name]["data_offsets"]
        return self.data_start + begin, self.data_start + end

    def stored(self, name: str) -> bytes:
        """A tensor's bytes in the file."""
        begin, end = self.offsets(name)
        return self.raw[begin:end]

    def block_bytes(self, index: int) -> bytes:
        """A block's bytes, by arithmetic alone."""
        size = self.blocks[0].nbytes
        start = self.data_start + index * size
        return self.raw[start : start + size]

    def checksum(self, tag: int, data: bytes) -> int:
        """The checksum of bytes of this bundle."""
        return crc64_nvme(self.id + struct.pack("<Q", tag) + data)

    def digest(self) -> bytes:
        """The digest that the header and the index should have."""
        index = [name for name in self.header if name.startswith(("index/", "grid/", "own/", "tasks/"))]
        start = min(self.offsets(name)[0] for name in index)
        end, _ = self.offsets("index/digest")
        return blake3(self.raw[: self.data_start] + self.raw[start:end]).digest()

    def task_set(self, task: str) -> np.ndarray:
        """By block, whether the task has it."""
        bits = np.unpackbits(self.tensors[f"tasks/{task}"], bitorder="little")
        assert not bits[len(self.blocks) :].any(), "no bit past the last block"
        return bits[: len(self.blocks)].astype(bool)

    def placed(self, task: str, tensor: str) -> np.ndarray:
        """The block that the task has at each place of a tensor, or ABSENT."""
        shared = self.tensors[f"grid/{tensor}"]
        has = np.append(self.task_set(task), False)
        grid = np.where(has[np.minimum(shared, len(self.blocks))], shared, ABSENT)
        own = self.tensors.get(f"own/{task}/{tensor}")
        return grid if own is None else np.where(own != ABSENT, own, grid)

    def dense(self, task: str, tensor: str, shape: tuple[int, int]) -> np.ndarray:
        """A tensor as the task has it."""
        zeros = np.zeros((1, *self.blocks.shape[1:]), self.blocks.dtype)
        places = np.minimum(self.placed(task, tensor), len(self.blocks))
        tiles = np.concatenate([self.blocks, zeros])[places]
        rows, cols, height, width = tiles.shape
        return tiles.swapaxes(1, 2).reshape(rows * height, cols * width)[: shape[0], : shape[1]]
