#!/usr/bin/env python3
"""Row-wise kernels: Gable beside PyTorch, ONNX Runtime and the crate `rten-vecmath`, everybody in turn in every round, in
GB/s read and written.

    pip install numpy torch onnx onnxruntime
    python benches/peers/rowwise.py [--threads N] [--rounds N] [--filter softmax] [--output table.md]

`rten-vecmath` leaves threads to its callers: rows are spread over as many as the others have, and a single row has one.
"""

import served

args = served.arguments(__doc__)

import numpy as np  # noqa: E402  (the number of threads is set before)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from onnx_ops import operator  # noqa: E402

torch.set_num_threads(args.threads)
SHAPES = [(512, 512), (64, 49152), (1, 262144)]
ONNX = {
    "softmax": ("Softmax", 0, {"axis": -1}),
    "rms_norm": ("SimplifiedLayerNormalization", 1, {"axis": -1, "epsilon": 1e-6}),
    "layer_norm": ("LayerNormalization", 2, {"axis": -1, "epsilon": 1e-5}),
    "exp": ("Exp", 0, {}),
    "silu": ("com.microsoft/QuickGelu", 0, {"alpha": 1.0}),
    "gelu": ("Gelu", 0, {}),
}
PEERS = ["torch", "ONNX Runtime", "rten"]


def torch_turn(op, rows, cols):
    x, weight = torch.rand(rows, cols), torch.rand(cols)
    out = torch.empty_like(x)
    calls = {
        "softmax": lambda: torch.softmax(x, -1, out=out),
        "rms_norm": lambda: F.rms_norm(x, (cols,), weight, 1e-6),
        "layer_norm": lambda: F.layer_norm(x, (cols,), weight, weight, 1e-5),
        "exp": lambda: torch.exp(x, out=out),
        "silu": lambda: F.silu(x, inplace=True),
        "gelu": lambda: torch.ops.aten.gelu_(x),
    }
    return served.timed(calls[op])


def onnx_turn(op, rows, cols):
    name, weights, attributes = ONNX[op]
    random = np.random.default_rng(1)
    inputs = {"x": random.random((rows, cols), np.float32)}
    inputs.update({f"weight{i}": random.random(cols, np.float32) for i in range(weights)})
    outputs = {"y": np.empty((rows, cols), np.float32)}
    return served.timed(operator(args.threads, name, [(inputs, outputs)], **attributes))


def main():
    served.build("rowwise")
    programs = {name: served.Served("rowwise", args) for name in ("gable", "rten")}
    rows = []
    for op in ONNX:
        for n_rows, cols in SHAPES:
            name = f"{op} {n_rows}x{cols}"
            if args.filter not in name:
                continue
            limits = served.Served("rowwise", args)
            turns = {who: program.seconds(f"{who} {op} {n_rows} {cols}") for who, program in programs.items()}
            turns.update({"torch": torch_turn(op, n_rows, cols), "ONNX Runtime": onnx_turn(op, n_rows, cols)})
            seconds, read = served.rounds(args, turns, lambda: float(limits.ask("read")))
            limits.close()
            bytes_used = 8.0 * n_rows * cols
            speeds = [bytes_used / seconds[who] / 1e9 for who in ["gable", *PEERS]]
            rows.append([name, served.figure(read / 1e9, 1), *(served.figure(s, 1) for s in speeds),
                         *(served.ratio(seconds["gable"], [seconds[peer]]) for peer in PEERS)])
            print(" | ".join(rows[-1]), flush=True)
    note = (f"rten-vecmath 0.27.0. Gable on {programs['gable'].ask('isa')}; DRAM is what all threads read of it in the same "
            "rounds.")
    head = ["operation", "DRAM", "gable", *PEERS, *(f"/ {peer}" for peer in PEERS)]
    served.report(args, "Row-wise kernels, GB/s read and written", note, head, rows)
    for program in programs.values():
        program.close()


if __name__ == "__main__":
    main()
