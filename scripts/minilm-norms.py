#!/usr/bin/env python3
"""How strongly each input channel of all-MiniLM-L6-v2 answers to six kinds of text, for the end-to-end test.

For each domain one safetensors file holds, under the name of each Linear weight of the encoder, the root mean square
over tokens of that weight's input channels: Wanda's activation norm, apart from a factor common to all channels.
The texts are those of an ordinary Debian machine, so nothing but the model is fetched.

    pip install numpy tokenizers safetensors
    scripts/fetch-minilm.sh && scripts/minilm-norms.py
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

try:
    import numpy as np
    from safetensors.numpy import load_file, save
    from tokenizers import Tokenizer
except ImportError as missing:
    sys.exit(f"minilm-norms: {missing}: run `pip install numpy tokenizers safetensors`")

ROOT = Path(__file__).resolve().parent.parent

WHOLE = re.compile(r"(?s).+")
DESCRIPTION = re.compile(r"(?m)^Description: (.*\n(?: .*\n)*)")
# Each domain: the files of a Debian system that hold its texts, and what is one text in them.
# Chosen to differ in words and in form. Manuals without section 1: one vendor's command line can be most of it.
DOMAINS = {
    "c-headers": (["usr/include/**/*.h"], WHOLE),
    "changelogs": (["usr/share/doc/*/changelog*.gz"], WHOLE),
    "licences": (["usr/share/doc/*/copyright", "usr/share/common-licenses/*"], WHOLE),
    "manuals": (["usr/share/man/man[2-8]/*.gz"], WHOLE),
    "packages": (["var/lib/dpkg/status"], DESCRIPTION),
    "python": (["usr/lib/python3.*/**/*.py"], WHOLE),
}

SEQUENCES = 256
SEQUENCE_TOKENS = 128
BATCH = 32
SEED = 0
# Short pieces of many files tell more about a domain than long pieces of few.
EXCERPT_CHARS = 600


def fail(message: str) -> NoReturn:
    sys.exit(f"minilm-norms: {message}")


def erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun 7.1.26, right to 1.5e-7: numpy has none, and an f32 holds no more."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.copysign(1 - series * np.exp(-x * x), x)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x * np.float32(0.5**0.5)))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Encoder:
    """BERT's encoder without padding, so without attention mask. Each Linear adds up its input's squares."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        if (kind := (config["model_type"], config["hidden_act"])) != ("bert", "gelu"):
            raise ValueError(f"a model of kind {kind}, where BERT with gelu is needed")
        self.layers, self.heads, self.epsilon = (
            config[key] for key in ("num_hidden_layers", "num_attention_heads", "layer_norm_eps")
        )
        self.weights = load_file(folder / "model.safetensors")
        self.forget()

    def forget(self):
        self.tokens = 0
        self.squares = defaultdict(float)

    def norms(self) -> dict[str, np.ndarray]:
        return {name: np.sqrt(sums / self.tokens).astype(np.float32) for name, sums in self.squares.items()}

    def forward(self, ids: np.ndarray) -> np.ndarray:
        self.tokens += ids.size
        x = self.embed(ids)
        for index in range(self.layers):
            x = self.layer(f"encoder.layer.{index}", x)
        return x

    def embed(self, ids: np.ndarray) -> np.ndarray:
        words, positions, types = (
            self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
        )
        return self.normalise("embeddings", words[ids] + positions[: ids.shape[1]] + types[0])

    def layer(self, name: str, x: np.ndarray) -> np.ndarray:
        attended = self.linear(f"{name}.attention.output.dense", self.attend(f"{name}.attention.self", x))
        x = self.normalise(f"{name}.attention.output", x + attended)
        grown = gelu(self.linear(f"{name}.intermediate.dense", x))
        return self.normalise(f"{name}.output", x + self.linear(f"{name}.output.dense", grown))

    def attend(self, name: str, x: np.ndarray) -> np.ndarray:
        def split(part: str) -> np.ndarray:
            return self.linear(f"{name}.{part}", x).reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

        query, key, value = map(split, ("query", "key", "value"))
        scores = query @ key.swapaxes(2, 3) / np.float32(query.shape[-1] ** 0.5)
        return (softmax(scores) @ value).swapaxes(1, 2).reshape(x.shape)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        self.squares[f"{name}.weight"] += np.square(x, dtype=np.float64).sum(axis=(0, 1))
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalise(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self.epsilon)
        return scaled * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]


def text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="ignore")
    except (OSError, EOFError, zlib.error) as error:
        fail(f"{path}: cannot be read ({error}): mend it, or name another system's root with --texts")


def excerpts(root: Path, domain: str) -> Iterator[str]:
    """Pieces from the middle of each text, away from licence headers, in an order that only the seed decides."""
    patterns, one_text = DOMAINS[domain]
    # Links name a text twice, or one outside the root.
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file() and not path.is_symlink()}
    shuffle = random.Random(SEED)
    seen = set()
    for path in shuffle.sample(sorted(found), len(found)):
        texts = one_text.findall(text_of(path))
        for text in shuffle.sample(texts, len(texts)):
            start = max(0, len(text) - EXCERPT_CHARS) // 2
            excerpt = text[start : start + EXCERPT_CHARS]
            # Packages built from one source repeat its changelog and its licence.
            if excerpt not in seen:
                seen.add(excerpt)
                yield excerpt


def sequences(tokenizer: Tokenizer, root: Path, domain: str) -> np.ndarray:
    """The domain's excerpts, one after another, cut into sequences that each fill the window: none needs padding."""
    wanted = SEQUENCES * (SEQUENCE_TOKENS - 2)
    ids = []
    for excerpt in excerpts(root, domain):
        ids += tokenizer.encode(excerpt, add_special_tokens=False).ids
        if len(ids) >= wanted:
            break
    else:
        patterns = ", ".join(DOMAINS[domain][0])
        fail(
            f"{domain}: only {len(ids)} of {wanted} tokens in {patterns} under {root}: "
            "slim images leave such files out; name a fuller system's root with --texts"
        )
    body = np.array(ids[:wanted]).reshape(SEQUENCES, -1)
    first, last = (np.full((SEQUENCES, 1), tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]"))
    return np.hstack([first, body, last])


def load_model(folder: Path) -> tuple[Tokenizer, Encoder]:
    try:
        encoder = Encoder(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 -- the tokenizer's library raises nothing more exact
        fail(f"{folder}: no usable model there ({error}): run scripts/fetch-minilm.sh, or name its folder with --model")
    # The file asks for sentences of one length; here the texts are cut afterwards.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, encoder


def provenance(domain: str, ids: np.ndarray, model: str) -> dict[str, str]:
    facts = {
        "made_by": "scripts/minilm-norms.py",
        "model": "all-MiniLM-L6-v2",
        "model_sha256": model,
        "domain": domain,
        "texts": DOMAINS[domain][0],
        "value": "root mean square over tokens of each input channel",
        "sequences": len(ids),
        "tokens": ids.size,
        "token_ids_sha256": hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest(),
    }
    # One key: the writer's order of several is not fixed, and the same texts should give the same bytes.
    return {"provenance": json.dumps(facts)}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]):
    """Beside the target, then renamed: a file is there whole, or not at all."""
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(save(tensors, metadata))
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", default=ROOT / "target/minilm", help="the fetched model")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "tests/data/minilm", help="one file a domain")
    parser.add_argument("--texts", type=Path, metavar="DIR", default=Path("/"), help="root of the system to read")
    args = parser.parse_args()

    tokenizer, encoder = load_model(args.model)
    model = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()
    args.out.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        ids = sequences(tokenizer, args.texts, domain)
        encoder.forget()
        for start in range(0, SEQUENCES, BATCH):
            encoder.forward(ids[start : start + BATCH])
        path = args.out / f"{domain}.safetensors"
        write(path, encoder.norms(), provenance(domain, ids, model))
        print(f"{path}: {len(ids)} sequences, {ids.size} tokens")


if __name__ == "__main__":
    main()
