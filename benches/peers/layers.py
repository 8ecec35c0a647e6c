#!/usr/bin/env python3
"""Whole quantized layers: Gable beside ggml (llama.cpp's products) and candle, everybody in turn in every round.

    pip install numpy llama-cpp-python
    python benches/peers/layers.py [--threads N] [--rounds N] [--filter 'smollm2 down Q4_1'] [--candle] [--output table.md]

One row of activations in GB/s of the file's weights, over more distinct layers than caches hold; prompts in GOP/s. Activations
are f32 and everybody's own quantization of them is timed. ggml's weights lie in the buffer type that llama.cpp chooses. Errors
are those of the results to an f64 product of the same activations with the dequantized weights, relative, in the 2-norm.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import served

args = served.arguments(__doc__, candle="candle's products too: compiles the crate first, which takes minutes")

import numpy as np  # noqa: E402  (the number of threads is set before)

import ggml  # noqa: E402

# Layer, K, and N of the matrices that read the same activations.
LAYERS = [
    ("smollm2 qkv", 576, [576, 192, 192]),
    ("smollm2 gate+up", 576, [1536, 1536]),
    ("smollm2 down", 1536, [576]),
    ("qwen-1.5b gate", 1536, [8960]),
    ("qwen-1.5b down", 8960, [1536]),
]
BLOCKS = {"Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "IQ4_NL": 32, "Q2_K": 256, "Q3_K": 256,
          "Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "IQ4_XS": 256}
ROWS = [1, 128, 512]
CANDLE = [kind for kind in BLOCKS if not kind.startswith("IQ")]
# Weight rows that are really quantized; larger matrices repeat them.
DISTINCT_ROWS = 192
# Operations of a run at least.
OPERATIONS = 1e9


def error(results, wanted):
    """Of the columns that are known."""
    difference = sum(np.square(y[:, : w.shape[1]] - w).sum() for y, w in zip(results, wanted))
    return float(np.sqrt(difference / sum(np.square(w).sum() for w in wanted)))


def from_file(path, m, n):
    y = np.fromfile(path, np.float32)
    return [part.reshape(m, -1) for part in np.split(y, np.cumsum([m * i for i in n])[:-1])]


class Layer:
    """Weights of a layer in one format, in the memory of Python and in a file."""

    def __init__(self, kind, k, n, folder):
        self.kind, self.k, self.n, self.folder = kind, k, n, folder
        self.random = np.random.default_rng(1)
        blocks = ggml.quantize(kind, self.random.standard_normal((DISTINCT_ROWS, k)) / np.sqrt(k))
        self.matrices = [np.ascontiguousarray(np.resize(blocks, (rows, blocks.shape[1]))) for rows in n]
        self.known = ggml.dequantize(kind, blocks, k).astype(np.float64)
        np.concatenate(self.matrices).tofile(folder / "weights")

    def measure(self, backend, programs, m):
        """Speeds by name, the limit beside them, errors by name, and ggml's buffer type."""
        operations = 2.0 * m * self.k * sum(self.n)
        size = sum(matrix.nbytes for matrix in self.matrices)
        copies = -(-served.DISTINCT // size) if m == 1 else max(1, int(OPERATIONS / operations))
        x = self.random.standard_normal((m, self.k)).astype(np.float32)
        x.tofile(self.folder / "x")
        request = f"{self.kind} {m} {self.k} {copies} {self.folder} {' '.join(map(str, self.n))}"
        layers = ggml.Layers(backend, self.kind, self.matrices, x, copies)
        turns = {"gable": programs["gable"].seconds(request), "ggml": served.timed(layers.run)}
        if "candle" in programs and self.kind in CANDLE:
            turns["candle"] = programs["candle"].seconds(request)
        limit = "read" if m == 1 else "peak int8"
        seconds, best = served.rounds(args, turns, lambda: float(programs["limits"].ask(limit)))
        wanted = [x.astype(np.float64) @ self.known.T] * len(self.n)
        errors = {name: error(from_file(self.folder / name, m, self.n), wanted) for name in turns if name != "ggml"}
        errors["ggml"] = error(layers.results(), wanted)
        repacked = layers.repacked
        layers.free()
        work = copies * (size if m == 1 else operations)
        return {name: work / s / 1e9 for name, s in seconds.items()}, best / 1e9, errors, repacked


def row(layer, backend, programs, name):
    cells, errors, repacked = [], {}, ""
    for m in ROWS:
        speeds, best, errors[m], repacked = layer.measure(backend, programs, m)
        peers = [speeds.get(peer) for peer in PEERS]
        cells += [served.figure(best), served.figure(speeds["gable"], 1), *(served.figure(s, 1) for s in peers)]
        cells += [f"{speeds['gable'] / s:.2f}" if s else "-" for s in peers]
    cells += [" / ".join(f"{errors[m][who]:.0e}" for who in ("gable", "ggml")) for m in (1, 128)]
    return [name, "yes" if repacked else "no", *cells]


PEERS = ["ggml", "candle"] if args.candle else ["ggml"]


def start():
    served.build("layers")
    programs = {name: served.Served("layers", args) for name in ("gable", "limits")}
    if args.candle:
        target = served.ROOT / "target" / "candle"
        manifest = served.ROOT / "benches/peers/candle/Cargo.toml"
        # candle chooses its instructions while it is compiled.
        subprocess.run(["cargo", "build", "--release", "--manifest-path", manifest, "--target-dir", target], check=True,
                       env={**os.environ, "RUSTFLAGS": "-C target-cpu=native"})
        programs["candle"] = served.Served(target / "release" / "candle-served", args)
    return programs


def main():
    programs, backend, rows = start(), ggml.Backend(args.threads), []
    # Shared memory where there is some: what is handed over need not be written to a disk.
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        for layer, k, n in LAYERS:
            for kind in (kind for kind, block in BLOCKS.items() if k % block == 0):
                if args.filter in f"{layer} {kind}":
                    rows.append(row(Layer(kind, k, n, folder), backend, programs, f"{layer} {kind}"))
                    print(" | ".join(rows[-1]), flush=True)
    finally:
        shutil.rmtree(folder)
    head = ["layer", "repacked"]
    for m in ROWS:
        head += [f"M = {m}: limit", "gable", *PEERS, *(f"/ {peer}" for peer in PEERS)]
    head += ["error at 1", "error at 128: gable / ggml"]
    system = ggml.llama_cpp.llama_print_system_info().decode()
    isa = " ".join(word.split("=")[0].strip(" |:") for word in system.split("|") if word.strip().endswith("= 1"))
    note = (f"Gable on {programs['gable'].ask('isa')}, `fast` numerics; ggml with {isa}. M = 1: GB/s, beside what all threads "
            "read of memory; prompts: GOP/s, beside the int8 peak. `repacked`: whether llama.cpp repacks such weights when "
            "it loads them.")
    served.report(args, "Quantized layers", note, head, rows)
    for program in programs.values():
        program.close()


if __name__ == "__main__":
    main()
