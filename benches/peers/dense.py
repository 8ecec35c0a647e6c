#!/usr/bin/env python3
"""Dense products: Gable beside NumPy (OpenBLAS), PyTorch and Rust crates, everybody in turn in every round.

    pip install numpy torch
    python benches/peers/dense.py [--threads N] [--rounds N] [--filter 'bf16 4x'] [--output table.md]

All figures are GFLOP/s (GOP/s for int8); the peak is the best of the same rounds. Packing is not part of `packed`.
"""

import served

args = served.arguments(__doc__)

import numpy as np  # noqa: E402  (the number of threads is set before)
import torch  # noqa: E402

torch.set_num_threads(args.threads)

# M, K, N
SHAPES = [
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (128, 576, 1536),
    (512, 576, 1536),
    (128, 2048, 2048),
    (512, 4096, 4096),
    (4, 2048, 2048),
    (1, 4096, 4096),
]
PEAKS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "i8": "int8"}
CRATES = {"f32": ["gemm", "gemmkit", "matrixmultiply", "faer"], "f16": ["gemm", "gemmkit"],
          "bf16": ["gemmkit"], "i8": ["gemmkit"]}
TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def peers(kind, m, k, n):
    """What Python libraries have for this type."""
    random = np.random.default_rng(1)
    a = random.uniform(-1, 1, (m, k)).astype(np.float32)
    b = random.uniform(-1, 1, (k, n)).astype(np.float32)
    found = {}
    if kind == "f32":
        c = np.empty((m, n), np.float32)
        found["numpy"] = lambda: np.matmul(a, b, out=c)
    if kind == "i8":
        a8, b8 = (torch.from_numpy((x * 127).astype(np.int8)) for x in (a, b))
        found["torch"] = lambda: torch._int_mm(a8, b8)
    else:
        ta, tb = (torch.from_numpy(x).to(TORCH[kind]) for x in (a, b))
        out = torch.empty((m, n), dtype=TORCH[kind])
        found["torch"] = lambda: torch.matmul(ta, tb, out=out)
    return {name: served.timed(f) for name, f in found.items()}


def row(programs, kind, m, k, n):
    ours = ["gable-packed", "gable"] + (["gable-streamed"] if m <= 8 and kind != "i8" else [])
    names = ours + CRATES[kind]
    turns = {name: programs[name].seconds(f"{kind} {m} {k} {n} {name}") for name in names}
    others = peers(kind, m, k, n)
    packing = programs["limits"].seconds(f"{kind} {m} {k} {n} gable-pack")
    seconds, peak = served.rounds(args, {**turns, **others, "pack": packing},
                                  lambda: float(programs["limits"].ask(f"peak {PEAKS[kind]}")))
    operations = 2.0 * m * k * n

    def speed(name):
        return operations / seconds[name] / 1e9 if name in seconds else None

    compared = [seconds[name] for name in [*others, *CRATES[kind]]]
    best = min(seconds[name] for name in ours if name != "gable")
    return [
        f"{kind} {m} x {k} x {n}",
        served.figure(peak / 1e9),
        served.figure(speed("gable-packed")),
        served.figure(speed("gable")),
        served.figure(speed("gable-streamed")),
        f"{100 * operations / best / peak:.0f} %",
        *(served.figure(speed(name)) for name in COLUMNS),
        served.ratio(best, compared),
        served.ratio(seconds["gable"], compared),
        f"{1e3 * seconds['pack']:.2f}",
    ]


COLUMNS = ["numpy", "torch", "gemm", "gemmkit", "matrixmultiply", "faer"]


def main():
    served.build("dense")
    names = ["limits", "gable-packed", "gable", "gable-streamed", "gemm", "gemmkit", "matrixmultiply", "faer"]
    programs = {name: served.Served("dense", args) for name in names}
    head = ["M x K x N", "peak", "packed", "loose", "streamed", "of peak", *COLUMNS, "packed / best", "loose / best",
            "packing, ms"]
    rows = []
    for kind in PEAKS:
        for shape in SHAPES:
            if args.filter in f"{kind} {'x'.join(map(str, shape))}":
                rows.append(row(programs, kind, *shape))
                print(" | ".join(rows[-1]), flush=True)
    note = (f"Gable on {programs['limits'].ask('isa')}; `of peak` and `packed / best` take the faster of packed and "
            "streamed, ratios are to the fastest of the others; `gemm` with its feature x86-v4, f16 and bf16 results "
            "in the type of the operands, int8 in i32.")
    served.report(args, "Dense products, GFLOP/s", note, head, rows)
    for program in programs.values():
        program.close()


if __name__ == "__main__":
    main()
