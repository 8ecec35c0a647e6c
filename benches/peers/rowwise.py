#!/usr/bin/env python3
"""Softmax and norms: Gable beside PyTorch, both in turn in every round, in GB/s read and written.

    pip install numpy torch
    python benches/peers/rowwise.py [--threads N] [--rounds N] [--filter softmax] [--output table.md]
"""

import served

args = served.arguments(__doc__)

import torch  # noqa: E402  (the number of threads is set before)
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(args.threads)
SHAPES = [(512, 512), (64, 49152), (1, 262144)]


def torch_turn(op, rows, cols):
    x, weight = torch.rand(rows, cols), torch.rand(cols)
    out = torch.empty_like(x)
    calls = {
        "softmax": lambda: torch.softmax(x, -1, out=out),
        "rms_norm": lambda: F.rms_norm(x, (cols,), weight, 1e-6),
        "layer_norm": lambda: F.layer_norm(x, (cols,), weight, weight, 1e-5),
    }
    return served.timed(calls[op])


def main():
    served.build("rowwise")
    program = served.Served("rowwise", args)
    rows = []
    for op in ("softmax", "rms_norm", "layer_norm"):
        for n_rows, cols in SHAPES:
            name = f"{op} {n_rows}x{cols}"
            if args.filter not in name:
                continue
            limits = served.Served("rowwise", args)
            turns = {"gable": program.seconds(f"{op} {n_rows} {cols}"), "torch": torch_turn(op, n_rows, cols)}
            seconds, read = served.rounds(args, turns, lambda: float(limits.ask("read")))
            limits.close()
            bytes_used = 8.0 * n_rows * cols
            speeds = [bytes_used / seconds[name] / 1e9 for name in turns]
            rows.append([name, served.figure(read / 1e9, 1), *(served.figure(s, 1) for s in speeds),
                         served.ratio(seconds["gable"], [seconds["torch"]])])
            print(" | ".join(rows[-1]), flush=True)
    note = f"Gable on {program.ask('isa')}; DRAM is what all threads read of it in the same rounds."
    head = ["operation", "DRAM", "gable", "torch", "gable / torch"]
    served.report(args, "Row-wise kernels, GB/s read and written", note, head, rows)
    program.close()


if __name__ == "__main__":
    main()
