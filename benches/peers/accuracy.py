#!/usr/bin/env python3
"""How far Gable and llama.cpp are from exact numbers, on four texts.

    pip install llama-cpp-python numpy
    cargo build --release
    python3 benches/peers/accuracy.py ~/.cache/gable/smollm2.gguf ~/.cache/gable/gemma3.gguf

The yardstick is the same file with f32 everywhere (`gable logits --numerics exact`). Every row is the KL divergence from it
over all positions of a text: `gable perplexity --vs exact` for `fast` and `precise`, llama.cpp through its C interface on the
same tokens. `prompt` reads passes of 512 tokens, `decode` one token at a time, each with the attention and the cache
that people get: f16, and q8_0 in a row of its own. Results, not times: the machine may be busy.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from vs_llama_cpp import Peer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TEXTS = {
    "prose": ROOT / "model/tests/data/golden/passage.txt",  # King James Bible
    "code": ROOT / "model/src/batch.rs",
    "chat": HERE / "texts/chat.txt",
    "other languages": HERE / "texts/other_languages.txt",  # Kafka, Cervantes, Proust, Dante
}
BATCH = 512


def call(*command):
    command = [str(part) for part in command]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def exact_logits(args, model, text, folder):
    """Ids, and the yardstick's logits as a mapped array."""
    ids = json.loads(call(args.gable, "tokenize", "-m", model, "--json", "-f", text))["ids"][:args.tokens]
    (folder / "ids.json").write_text(json.dumps(ids))
    out = folder / "exact.npy"
    call(args.gable, "logits", "-m", model, "--ids", folder / "ids.json", "--all", "-o", out, "--numerics", "exact",
         "-c", len(ids), "-t", args.threads)
    return ids, np.load(out, mmap_mode="r")


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def divergence(exact, logits):
    """Of each row."""
    p, q = log_softmax(exact), log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(axis=1)


def peer_divergences(peer, ids, exact, step):
    """llama.cpp's, of all positions but the last, reading `step` tokens at a time."""
    peer.fill(0)
    batch, found = peer.lib.llama_batch_init(step, 0, 1), []
    for start in range(0, len(ids), step):
        piece = ids[start:start + step]
        batch.n_tokens = len(piece)
        for i, token in enumerate(piece):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        if peer.lib.llama_decode(peer.context, batch):
            sys.exit("llama_decode failed")
        logits = np.ctypeslib.as_array(peer.lib.llama_get_logits(peer.context), (len(piece), peer.vocab_size))
        for i in range(0, len(piece), 32):
            found.append(divergence(exact[start + i:start + len(piece)][:32], logits[i:i + 32]))
    peer.lib.llama_batch_free(batch)
    return np.concatenate(found)[:-1]


def measure(args, model):
    """Rows: text, tokens, phase, engine, mean, 99th percentile, maximum."""
    for name, text in TEXTS.items():
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            ids, exact = exact_logits(args, model, text, Path(folder))
            peer = Peer(model, args.threads, len(ids))
            for phase in args.phases:
                kl = peer_divergences(peer, ids, exact, BATCH if phase == "prompt" else 1)
                yield name, len(ids), phase, "llama.cpp", kl.mean(), np.quantile(kl, 0.99), kl.max()
                ways = {"fast": [], "precise": ["--numerics", "precise"],
                        "q8_0 cache": ["--numerics", "precise", "-ctk", "q8_0", "-ctv", "q8_0"]}
                for way, flags in ways.items():
                    # Token by token `precise` computes what `fast` does.
                    if way == "precise" and phase == "decode":
                        continue
                    said = call(args.gable, "perplexity", "-m", model, "-f", text, "--tokens", len(ids), "--whole", "--vs",
                                "exact", "--phase", phase, "--json", "-t", args.threads, *flags)
                    kl = [json.loads(said)[f"kl_{key}"] for key in ("mean", "p99", "max")]
                    yield name, len(ids), phase, way, *kl
            peer.lib.llama_free(peer.context)
            peer.lib.llama_model_free(peer.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="GGUF files")
    parser.add_argument("--gable", default=ROOT / "target/release/gable")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text")
    parser.add_argument("--phases", nargs="+", choices=["prompt", "decode"], default=["prompt", "decode"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where the exact logits lie meanwhile: up to 2 GB")
    args = parser.parse_args()
    import llama_cpp

    print(f"llama-cpp-python {llama_cpp.__version__}, {args.tokens} tokens of each text\n")
    print("| model | text | tokens | phase | engine | mean KL | 99 % | maximum |\n|---|---|---|---|---|---|---|---|")
    for model in args.models:
        for name, n, phase, engine, *kl in measure(args, model):
            values = " | ".join(f"{value:.2g}" for value in kl)
            print(f"| {Path(model).stem} | {name} | {n} | {phase} | {engine} | {values} |", flush=True)


if __name__ == "__main__":
    main()
