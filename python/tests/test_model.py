"""What is wrong with an index is refused before anything of it is used."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import image
from inputs import Inputs

from synchromesh import ABSENT, Model, ProtocolError

Header = dict[str, Any]


def read(image: bytes, folder: Path) -> Model:
    """What an image says."""
    (folder / "image").write_bytes(image)
    with open(folder / "image", "rb") as file:
        return Model(file.fileno())


def rewritten(bundle: Path, change: Callable[[Header, Header], None]) -> bytes:
    """A bundle's image with another header: `change` gets the header and the metadata."""
    raw = image(bundle.read_bytes())
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["synchromesh"])
    change(header, meta)
    if "__metadata__" in header:
        header["__metadata__"]["synchromesh"] = json.dumps(meta)
    text = json.dumps(header).encode().ljust(length)
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def test_an_unchanged_image_is_read(any_model: Inputs, tmp_path: Path) -> None:
    assert read(rewritten(any_model.bundle, lambda _header, _meta: None), tmp_path).name == any_model.name


FAULTS: dict[str, Callable[[Header, Header], Any]] = {
    "no metadata": lambda header, _: header.pop("__metadata__"),
    "another format": lambda _, meta: meta.update(format=2),
    "no tasks": lambda _, meta: meta.update(tasks=[]),
    "too many tasks": lambda _, meta: meta.update(tasks=meta["tasks"] * 20),
    "a task without a set": lambda header, _: header.pop("tasks/fog"),
    "a tensor without a grid": lambda header, _: header.pop("grid/layer.0.weight"),
    "no blocks": lambda header, _: header.pop("blocks"),
    "blocks of another shape": lambda header, _: header["blocks"].update(shape=[9, 64, 16]),
    "a tensor of another shape": lambda _, meta: meta["tensors"][0].update(shape=[9999, 128]),
    "an empty tensor": lambda _, meta: meta["tensors"][0].update(shape=[0, 128]),
    "a grid of another type": lambda header, _: header["grid/layer.0.weight"].update(dtype="I32"),
    "an own grid of another shape": lambda header, _: header["own/rain/layer.0.weight"].update(shape=[1, 1]),
    "a grid past the end": lambda header, _: header["grid/layer.0.weight"].update(data_offsets=[1 << 40, 1 << 41]),
    "a grid before the start": lambda header, _: header["grid/layer.0.weight"].update(data_offsets=[-4096, -4048]),
    "a grid of another length": lambda header, _: header["grid/layer.0.weight"].update(data_offsets=[4096, 4100]),
    "an unknown type of blocks": lambda _, meta: meta["block"].update(dtype="F4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_header_is_refused(any_model: Inputs, tmp_path: Path, fault: str) -> None:
    with pytest.raises(ProtocolError):
        read(rewritten(any_model.bundle, FAULTS[fault]), tmp_path)


WRONG_IMAGES = {
    "empty": b"",
    "no header": bytes(8),
    "no index": struct.pack("<Q", 52) + b'{"__metadata__": {"synchromesh": "{\\"format\\": 1}"}}',
    "a length past the end": struct.pack("<Q", 1 << 20) + b"{}",
    "a length past the limit": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"\xff\xfe{}",
    "no object": struct.pack("<Q", 2) + b"[]",
    "a key twice": struct.pack("<Q", 17) + b'{"a": 1, "a": 2} ',
    "too deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("fault", WRONG_IMAGES)
def test_what_is_no_header_is_refused(tmp_path: Path, fault: str) -> None:
    with pytest.raises(ProtocolError):
        read(WRONG_IMAGES[fault], tmp_path)


def test_the_rules_for_a_place_are_the_page_s(any_model: Inputs, tmp_path: Path) -> None:
    model = read(image(any_model.bundle.read_bytes()), tmp_path)
    owned = 0
    for name in model.tensors:
        for task in model.tasks:
            has = np.unpackbits(model.task_set(task), bitorder="little")
            grid, own, placed = model.grid(name), model.own_grid(task, name), model.placed(task, name)
            for place, block in np.ndenumerate(grid):
                if own is not None and own[place] != ABSENT:
                    assert placed[place] == own[place]
                    owned += 1
                else:
                    assert placed[place] == (block if block != ABSENT and has[block] else ABSENT)
    assert owned > 0
