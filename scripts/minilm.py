"""all-MiniLM-L6-v2 in numpy, and texts of six kinds from an ordinary Debian machine: what scripts/minilm-*.py share."""

import gzip
import json
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

try:
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
except ImportError as missing:
    sys.exit(f"{Path(sys.argv[0]).stem}: {missing}: run `pip install numpy tokenizers safetensors`")

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

SEQUENCE_TOKENS = 128
SEED = 0
# Short pieces of many files tell more about a domain than long pieces of few.
EXCERPT_CHARS = 600
# What gelu works on at once, so that its many steps stay in the cache.
GELU_ELEMENTS = 1 << 15


def fail(message: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).stem}: {message}")


def erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun 7.1.26, right to 1.5e-7: numpy has none, and an f32 holds no more."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.copysign(1 - series * np.exp(-x * x), x)


def gelu(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1)
    grown = np.empty_like(flat)
    for start in range(0, len(flat), GELU_ELEMENTS):
        part = flat[start : start + GELU_ELEMENTS]
        grown[start : start + GELU_ELEMENTS] = 0.5 * part * (1 + erf(part * np.float32(0.5**0.5)))
    return grown.reshape(x.shape)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Stage(NamedTuple):
    """Linears of one layer that have the same input."""

    layer: str
    parts: tuple[str, ...]

    @property
    def weights(self) -> list[str]:
        return [f"{self.layer}.{part}.weight" for part in self.parts]

    @property
    def adds(self) -> bool:
        """Whether its output goes to the residual stream."""
        return self.parts[0].endswith("output.dense")


ATTENTION = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
STAGES = (ATTENTION, ("attention.output.dense",), ("intermediate.dense",), ("output.dense",))


class Encoder:
    """BERT's encoder without padding, so without attention mask, stage by stage or as a whole.

    `observe` sees each Linear's weight's name and input.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        if (kind := (config["model_type"], config["hidden_act"])) != ("bert", "gelu"):
            raise ValueError(f"a model of kind {kind}, where BERT with gelu is needed")
        layers, self.heads, self.epsilon = (
            config[key] for key in ("num_hidden_layers", "num_attention_heads", "layer_norm_eps")
        )
        self.stages = [Stage(f"encoder.layer.{index}", parts) for index in range(layers) for parts in STAGES]
        self.weights = load_file(folder / "model.safetensors")
        self.observe: Callable[[str, np.ndarray], None] = lambda _name, _x: None

    def forward(self, ids: np.ndarray) -> np.ndarray:
        x = self.embed(ids)
        for stage in self.stages:
            x = self.finish(stage, x, self.inputs(stage, x))
        return x

    def embed(self, ids: np.ndarray) -> np.ndarray:
        words, positions, types = (
            self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
        )
        return self.normalise("embeddings", words[ids] + positions[: ids.shape[1]] + types[0])

    def inputs(self, stage: Stage, x: np.ndarray) -> np.ndarray:
        """The input of the stage's Linears, where the residual stream is `x`."""
        match stage.parts:
            case ("attention.output.dense",):
                return self.attend(f"{stage.layer}.attention.self", x)
            case ("output.dense",):
                return gelu(self.linear(f"{stage.layer}.intermediate.dense", x))
            case _:
                return x

    def finish(self, stage: Stage, x: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """The residual stream behind the stage: only two of the four add to it."""
        if not stage.adds:
            return x
        name = f"{stage.layer}.{stage.parts[0]}"
        return self.normalise(name.removesuffix(".dense"), x + self.linear(name, inputs))

    def attend(self, name: str, x: np.ndarray) -> np.ndarray:
        def split(part: str) -> np.ndarray:
            return self.linear(f"{name}.{part}", x).reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

        query, key, value = map(split, ("query", "key", "value"))
        scores = query @ key.swapaxes(2, 3) / np.float32(query.shape[-1] ** 0.5)
        return (softmax(scores) @ value).swapaxes(1, 2).reshape(x.shape)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        self.observe(f"{name}.weight", x)
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


def sequences(tokenizer: Tokenizer, root: Path, domain: str, count: int) -> np.ndarray:
    """The domain's excerpts, one after another, cut into sequences that each fill the window: none needs padding."""
    wanted = count * (SEQUENCE_TOKENS - 2)
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
    body = np.array(ids[:wanted]).reshape(count, -1)
    first, last = (np.full((count, 1), tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]"))
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
