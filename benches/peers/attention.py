#!/usr/bin/env python3
"""Attention: Gable beside PyTorch's scaled_dot_product_attention and ONNX Runtime's GroupQueryAttention, everybody in turn in
every round.

    pip install numpy torch onnx onnxruntime
    python benches/peers/attention.py [--threads N] [--rounds N] [--filter decode] [--output table.md]

Prompts in GFLOP/s of the visible half and as a share of the measured peak of the type that Gable multiplies; single rows
in GB/s of the cache they read, over more layers than caches hold, and as a share of the measured read bandwidth.
ONNX Runtime's operator appends the new keys and values to the cache too, as models that it runs do.
"""

import itertools

import served

args = served.arguments(__doc__)

import numpy as np  # noqa: E402  (the number of threads is set before)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from onnx_ops import operator  # noqa: E402

torch.set_num_threads(args.threads)
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

ONNX = {"f32": np.float32, "f16": np.float16}
PEERS = [*TYPES, *(f"onnx {kind}" for kind in ONNX)]

# Query heads, key heads, elements of a head, positions, window (0: none).
PROMPTS = [(9, 3, 64, 512, 0), (12, 12, 128, 1024, 0), (12, 12, 128, 4096, 0), (4, 1, 256, 2048, 512)]
DECODES = [(9, 3, 64, depth, 0) for depth in (1024, 4096, 16384)]
BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}


def torch_turn(kind, shape, rows, layers):
    heads, kv_heads, dim, depth, window = shape
    kind = TYPES[kind]
    q = torch.rand(1, heads, rows, dim).to(kind)
    kv = [torch.rand(2, 1, kv_heads, depth, dim).to(kind) for _ in range(layers)]
    options = {"is_causal": rows > 1, "enable_gqa": heads != kv_heads}
    if window:
        i = torch.arange(depth)
        distance = i[:, None] - i[None, :]
        options.update(is_causal=False, attn_mask=(distance >= 0) & (distance < window))
    turn = itertools.cycle(kv)

    def run():
        k, v = next(turn)
        F.scaled_dot_product_attention(q, k, v, **options)

    with torch.no_grad():
        return served.timed(run)


def onnx_turn(kind, shape, rows, layers):
    heads, kv_heads, dim, depth, window = shape
    random = np.random.default_rng(1)

    def values(*shape):
        return random.random(shape, np.float32).astype(kind)

    def layer():
        inputs = {"q": values(1, rows, heads * dim), "k": values(1, rows, kv_heads * dim)}
        # What lies before the rows; a prompt begins an empty cache, a decoded row is appended in place.
        past = [values(1, kv_heads, depth if rows == 1 else 0, dim) for _ in range(2)]
        present = past if rows == 1 else [values(1, kv_heads, depth, dim) for _ in range(2)]
        inputs.update({"v": inputs["k"].copy(), "past k": past[0], "past v": past[1],
                       "last": np.array([depth - 1], np.int32), "total": np.array(depth, np.int32)})
        outputs = {"y": values(1, rows, heads * dim), "present k": present[0], "present v": present[1]}
        return inputs, outputs

    return served.timed(operator(args.threads, "com.microsoft/GroupQueryAttention", [layer() for _ in range(layers)],
                                 num_heads=heads, kv_num_heads=kv_heads, local_window_size=window or -1))


def visible(rows, depth, window):
    return sum(min(p + 1, window or depth) for p in range(depth - rows, depth))


def row(programs, products, shape, decode):
    heads, kv_heads, dim, depth, window = shape
    rows = 1 if decode else depth
    kinds = [("f16", "f32"), ("q8_0", "f32")] if decode else [("f16", products), ("f32", "f32"), ("bf16", products)]
    distinct = served.DISTINCT if decode else 0

    def cached(kind):
        return 2 * kv_heads * depth * dim * BYTES[kind]

    turns, errors = {}, []
    for i, (cache, x) in enumerate(kinds):
        request = f"{cache} {x} {heads} {kv_heads} {dim} {depth} {rows} {window} {distinct}"
        errors.append(float(programs[i].ask(f"error {request}")))
        turns[f"gable {i}"] = programs[i].seconds(request)
    for kind in TYPES:
        layers = max(1, int(distinct / cached(kind)))
        turns[kind] = torch_turn(kind, shape, rows, layers)
        if kind in ONNX:
            turns[f"onnx {kind}"] = onnx_turn(ONNX[kind], shape, rows, layers)
    limit = "read" if decode else f"peak {products}"
    seconds, best = served.rounds(args, turns, lambda: float(programs[-1].ask(limit)))
    operations = 4.0 * heads * dim * visible(rows, depth, window)
    work = [cached(cache) if decode else operations for cache, _ in kinds]
    speeds = [w / seconds[f"gable {i}"] / 1e9 for i, w in enumerate(work)]
    others = [(cached(peer.split()[-1]) if decode else operations) / seconds[peer] / 1e9 for peer in PEERS]
    name = f"{'decode' if decode else 'prompt'} {heads}/{kv_heads} d {dim} depth {depth}"
    return [
        name + (f" window {window}" if window else ""),
        served.figure(best / 1e9),
        *(served.figure(speed, 1) for speed in speeds[:2]),
        f"{100e9 * speeds[0] / best:.0f} %",
        *(served.figure(speed, 1) for speed in others),
        *(served.ratio(seconds[f"gable {i}"], [seconds[peer] for peer in PEERS]) for i in range(2)),
        "-" if decode else f"{seconds['gable 2'] / seconds['gable 0']:.2f}",
        " / ".join(f"{error:.0e}" for error in errors),
    ]


def main():
    served.build("attention")
    programs = [served.Served("attention", args) for _ in range(4)]
    isa = programs[-1].ask("isa")
    products = "bf16" if isa == "avx512bf16" else "f32"
    rows = []
    for shape, decode in [(s, False) for s in PROMPTS] + [(s, True) for s in DECODES]:
        name = f"{'decode' if decode else 'prompt'} {shape[3]}"
        if args.filter in name:
            rows.append(row(programs, products, shape, decode))
            print(" | ".join(rows[-1]), flush=True)
    head = ["heads", "limit", "gable f16 cache", "gable f32 (decode: q8_0) cache", "of limit", "torch f32", "torch bf16",
            "torch f16", "ONNX Runtime f32", "ONNX Runtime f16", "f16 / best other", "f32 (q8_0) / best other",
            "f16 / bf16 cache", "error of f16 / f32 (q8_0) / bf16"]
    note = (f"Gable on {isa}, {products} products in prompts over the f16 cache. Prompts: GFLOP/s of visible keys; decode: "
            "GB/s of the cache, one row, over distinct layers. Ratios are of times. Errors: length of the difference "
            "to the definition in f64 as a share of the last row's.")
    served.report(args, "Attention", note, head, rows)
    for program in programs:
        program.close()


if __name__ == "__main__":
    main()
