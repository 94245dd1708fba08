#!/usr/bin/env python3
"""How strongly each input channel of all-MiniLM-L6-v2 answers to six kinds of text, for the end-to-end test.

For each domain one safetensors file holds, under the name of each Linear weight of the encoder, the root mean square
over tokens of that weight's input channels: Wanda's activation norm, apart from a factor common to all channels.
The texts are those of an ordinary Debian machine, so nothing but the model is fetched.

    pip install numpy tokenizers safetensors
    scripts/fetch-minilm.sh && scripts/minilm-norms.py
"""

import argparse
import hashlib
import json
from pathlib import Path

import minilm  # First: it says what to install where something is missing.
import numpy as np
from calibrate import Recorder, write
from minilm import DOMAINS, ROOT

SEQUENCES = 256
BATCH = 32


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", default=ROOT / "target/minilm", help="the fetched model")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "tests/data/minilm", help="one file a domain")
    parser.add_argument("--texts", type=Path, metavar="DIR", default=Path("/"), help="root of the system to read")
    args = parser.parse_args()

    tokenizer, encoder = minilm.load_model(args.model)
    model = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()
    args.out.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        ids = minilm.sequences(tokenizer, args.texts, domain, SEQUENCES)
        recorder = Recorder(second=False)
        encoder.observe = recorder.observe
        for start in range(0, SEQUENCES, BATCH):
            encoder.forward(ids[start : start + BATCH])
        path = args.out / f"{domain}.safetensors"
        write(path, recorder.norms(), provenance(domain, ids, model))
        print(f"{path}: {len(ids)} sequences, {ids.size} tokens")


if __name__ == "__main__":
    main()
