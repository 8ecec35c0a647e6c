#!/usr/bin/env python3
"""What whole runs of `gable` take: from start to the first token, memory, batches, guesses, masks, and a taken core.

    cargo build --release
    python3 benches/peers/runner.py ~/.cache/gable/smollm2.gguf [load batch draft mask core]

    load    seconds from start to end of a run of one token behind five, the file in the page cache (median of 5) and not
            (median of 3, beside reading the file once just as cold), and the most memory that was resident
    batch   eight requests at the same time (`batch -np 8`) beside one after the other (`-np 1`), tokens/s
    draft   `run --draft 8` beside plain, tokens/s, on a text that repeats itself: code to be edited, a text to be summed up
    mask    `run -j` beside plain, tokens/s, for tokens under a schema that allows much
    core    tokens/s of generation with 2 threads while another process keeps the second core busy, beside the quiet machine

Everything but `load` takes turns, three of each, and gives medians.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The capital of France is"
CODE = '''```python
def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def variance(values):
    middle = mean(values)
    total = 0.0
    for value in values:
        total += (value - middle) ** 2
    return total / (len(values) - 1)
```
The same code with the variable `total` renamed to `result`:
```python
'''
TEXT = (ROOT / "model/tests/data/golden/passage.txt").read_text()[:1500]
SUMMARY = f"{TEXT}\n\nThe same text in fewer words, with its own sentences:\n\n"
SCHEMA = '{"type": "object", "properties": {"story": {"type": "string"}}, "required": ["story"]}'


def run(args, *flags, prompt=PROMPT):
    """Seconds by the clock, what was said on stderr, and the resource usage of a run."""
    command = [args.gable, "run", "-m", args.model, "--no-display-prompt", "--temp", "0", *map(str, flags), "-p", prompt]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        errors.seek(0)
        said = errors.read()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command} failed: {said}")
    return seconds, said, usage


def rate(said):
    return float(re.search(r"tokens generated:.*?([\d.]+) tokens/s", said).group(1))


def forget(path):
    """Takes the file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_once(path):
    buffer = bytearray(8 << 20)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def load(args):
    size = Path(args.model).stat().st_size
    read_once(args.model)
    warm = [run(args, "-n", 1) for _ in range(5)]
    cold, reading = [], []
    for _ in range(3):
        forget(args.model)
        cold.append(run(args, "-n", 1)[0])
        forget(args.model)
        reading.append(read_once(args.model))
    resident = max(usage.ru_maxrss for _, _, usage in warm) * 1024
    print(f"load: warm {statistics.median(s for s, _, _ in warm):.3f} s; cold {statistics.median(cold):.2f} s, reading the file "
          f"{statistics.median(reading):.2f} s; resident {resident / 1e6:.0f} MB, the file {size / 1e6:.0f} MB")


def in_turn(name, unit, ways):
    """Medians of three turns of each way, and the ratio of the second to the first."""
    found = {way: [] for way in ways}
    for _ in range(3):
        for way, measure in ways.items():
            found[way].append(measure())
    medians = {way: statistics.median(values) for way, values in found.items()}
    first, second = medians.values()
    print(f"{name}: " + ", ".join(f"{way} {value:.1f} {unit}" for way, value in medians.items())
          + f", ratio {second / first:.2f}", flush=True)


def batch(args):
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder, "in.jsonl")
        body = lambda i: {"prompt": f"{i} stories begin with", "max_tokens": 64, "temperature": 0}
        lines = [{"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body(i)} for i in range(8)]
        requests.write_text("".join(json.dumps(line) + "\n" for line in lines))

        def speed(width):
            out = Path(folder, "out.jsonl")
            out.unlink(missing_ok=True)
            command = [args.gable, "batch", "-m", args.model, "--ignore-eos", "-c", "256", "-np", str(width), requests, out]
            return rate(subprocess.run(command, check=True, capture_output=True, text=True).stderr)

        in_turn("batch of 8", "tokens/s", {"one by one": lambda: speed(1), "together": lambda: speed(8)})


def draft(args):
    for name, prompt in [("editing code", CODE), ("summing up", SUMMARY)]:
        in_turn(f"guesses, {name}", "tokens/s", {
            way: lambda flags=flags: rate(run(args, "-n", 128, "--ignore-eos", *flags, prompt=prompt)[1])
            for way, flags in {"plain": [], "--draft 8": ["--draft", 8]}.items()})


def mask(args):
    flags = {"plain": ["--ignore-eos"], "schema": ["-j", SCHEMA]}
    in_turn("mask", "tokens/s", {way: lambda f=f: rate(run(args, "-n", 128, *f)[1]) for way, f in flags.items()})


def spin():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while True:
        pass


def core(args):
    def taken():
        other = multiprocessing.Process(target=spin, daemon=True)
        other.start()
        try:
            return quiet()
        finally:
            other.kill()
            other.join()

    def quiet():
        return rate(run(args, "-n", 128, "--ignore-eos", "-t", 2)[1])

    in_turn("a core half taken", "tokens/s", {"quiet": quiet, "beside another": taken})


def main():
    measures = {"load": load, "batch": batch, "draft": draft, "mask": mask, "core": core}
    default = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "gable"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("measures", nargs="*", metavar="MEASURE", choices=[[], *measures], help=" ".join(measures))
    parser.add_argument("--gable", default=default)
    args = parser.parse_args()
    print(args.model)
    for name in args.measures or measures:
        measures[name](args)


if __name__ == "__main__":
    main()
