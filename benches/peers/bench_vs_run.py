#!/usr/bin/env python3
"""What `gable bench` says of generation beside what a user gets by the clock.

    cargo build --release
    python3 benches/peers/bench_vs_run.py ~/.cache/gable/smollm2.gguf

A run of 320 tokens takes longer than one of 64 by the time of 256 tokens, start and prompt being the same in both. `gable
bench -n 256` behind as many positions must say the same, but for the sampling that it leaves out, as llama-bench does.
Each round has the three one after the other, forwards and backwards in turn, and compares them with each other alone: memory
may be half as fast a minute later. The exit code says whether the median of the rounds' ratios is within --within.

The text goes to /dev/null: whoever reads a pipe, this script too, takes a core from the threads that compute.
"""

import argparse
import json
import re
import statistics
import subprocess
import time

PROMPT = "The history of the lighthouse begins in a small town by the sea, where"
SHORT, LONG = 64, 320


def run(args, tokens):
    """Seconds by the clock, and what the program itself says that generation took."""
    command = [args.gable, "run", "-m", args.model, "--ignore-eos", "--no-display-prompt", "-n", str(tokens)]
    command += args.sampling.split() + ["-p", PROMPT]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    return seconds, float(re.search(r"tokens generated: ([\d.]+) s", done.stderr).group(1))


def bench(args):
    command = [args.gable, "bench", "-m", args.model, "-p", "0", "-n", str(LONG - SHORT), "-d", str(SHORT + 15)]
    command += ["-r", "1", "-o", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]["avg_ts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gable", default="target/release/gable")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--within", type=float, default=0.03)
    parser.add_argument("--sampling", default="--temp 0", help="flags of `gable run`")
    args = parser.parse_args()
    run(args, SHORT)  # warms up
    clock, own, said = [], [], []
    for i in range(args.rounds):
        order = [lambda: run(args, SHORT), lambda: run(args, LONG), lambda: bench(args)]
        found = [step() for step in order] if i % 2 == 0 else [step() for step in order[::-1]][::-1]
        (short, own_short), (long, own_long), rate = found
        clock.append((LONG - SHORT) / (long - short))
        own.append((LONG - SHORT) / (own_long - own_short))
        said.append(rate)
        print(f"by the clock {clock[-1]:.1f}, run says {own[-1]:.1f}, bench {rate:.1f} tokens/s", flush=True)
    more = statistics.median(b / c for b, c in zip(said, clock)) - 1
    print(f"medians: by the clock {statistics.median(clock):.1f}, run says {statistics.median(own):.1f}, "
          f"bench {statistics.median(said):.1f} tokens/s; bench over clock, round by round: {more:+.1%}")
    raise SystemExit(abs(more) > args.within)


if __name__ == "__main__":
    main()
