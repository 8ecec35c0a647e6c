#!/usr/bin/env python3
"""What `gable bench` says of generation beside what a user gets by the clock.

    cargo build --release
    python3 benches/peers/bench_vs_run.py ~/.cache/gable/smollm2.gguf

A run of 192 tokens takes longer than one of 64 by the time of 128 tokens, start and prompt being the same in both. `gable
bench -n 128` behind as many positions must say the same. Each round has one of the three after the other; the best of each is
kept, since neighbours only ever take time. The exit code says whether they are within --within of each other.
"""

import argparse
import json
import subprocess
import time

PROMPT = "The history of the lighthouse begins in a small town by the sea, where"


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gable", default="target/release/gable")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--within", type=float, default=0.03)
    args = parser.parse_args()
    run = [args.gable, "run", "-m", args.model, "--temp", "0", "--ignore-eos", "--no-display-prompt", "-p", PROMPT]
    depth = 64 + 15
    bench = [args.gable, "bench", "-m", args.model, "-p", "0", "-n", "128", "-d", str(depth), "-r", "1", "-o", "json"]
    seconds(run + ["-n", "64"])  # warms up
    short, long, said = [], [], []
    for _ in range(args.rounds):
        short.append(seconds(run + ["-n", "64"]))
        long.append(seconds(run + ["-n", "192"]))
        out = subprocess.run(bench, check=True, capture_output=True, text=True).stdout
        said.append(json.loads(out)[0]["avg_ts"])
        print(f"64 {short[-1]:.3f} s, 192 {long[-1]:.3f} s, bench {said[-1]:.1f} tokens/s", flush=True)
    ours, theirs = max(said), 128 / (min(long) - min(short))
    print(f"best: by the clock {theirs:.1f}, bench {ours:.1f} tokens/s: {ours / theirs - 1:+.1%}")
    raise SystemExit(abs(ours / theirs - 1) > args.within)


if __name__ == "__main__":
    main()
