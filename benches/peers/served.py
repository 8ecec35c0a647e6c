"""What the scripts of this folder share: Gable's kernels as served by the programs of benches/src/bin, rounds in which
everybody has a turn, and tables.

A program answers each line with one figure (benches/src/serve.rs says which lines there are). It keeps one request's
operands, so every candidate gets a process of its own, which sleeps while others compute.
"""

import argparse
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Distinct operands in turn, where caches must not help.
DISTINCT = 160 << 20


def arguments(description, **flags):
    """The command line that all scripts have, and flags with their help; threads are set for the libraries imported after
    this."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pause", type=float, default=0.05,
                        help="seconds before each turn, in which the threads of the one before stop spinning")
    parser.add_argument("--isa", help="Gable's instruction set")
    parser.add_argument("--filter", default="", help="only rows whose names contain this")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    args = parser.parse_args()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MATMUL_NUM_THREADS", "RAYON_NUM_THREADS",
                 "CANDLE_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    return args


def physical_cores():
    """As many as hold all CPUs of this process."""
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list")
        siblings.add(path.read_text() if path.exists() else str(cpu))
    return len(siblings)


class Served:
    """One of the programs, answering requests."""

    def __init__(self, program, args):
        program = ROOT / "target" / "release" / program  # A path from the root stays what it is.
        command = [str(program), "--serve", "--threads", str(args.threads)]
        command += ["--isa", args.isa] if args.isa else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        print(request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{request}: {answer or 'the program ended'}")
        return answer

    def seconds(self, request):
        return lambda: float(self.ask(request))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build(program):
    """Compiles the programs."""
    subprocess.run(["cargo", "build", "--release", "-p", "gable-benches", "--bin", program], cwd=ROOT, check=True)


def timed(function):
    """A candidate of a Python function: seconds of one call, of as many as take 20 ms, when threads are awake."""
    def once():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    repeats = max(1, int(0.02 / max(min(once() for _ in range(5)), 1e-9)))

    def turn():
        function()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats

    return turn


def rounds(args, candidates, limit):
    """Medians of all candidates' seconds, and the best of `limit`, which is asked for in every round."""
    times = {name: [] for name in candidates}
    best = 0.0
    for _ in range(args.rounds):
        time.sleep(args.pause)
        best = max(best, limit())
        for name, turn in candidates.items():
            time.sleep(args.pause)
            times[name].append(turn())
    return {name: statistics.median(t) for name, t in times.items()}, best


def ratio(ours, peers):
    """How many times as fast as the fastest of the peers."""
    known = [seconds for seconds in peers if seconds]
    return f"{min(known) / ours:.2f}" if known and ours else "-"


def figure(value, digits=0):
    """A number of a table; small ones with a digit more."""
    if value is None:
        return "-"
    return f"{value:.{max(digits, 1) if value < 10 else digits}f}"


def report(args, title, note, head, rows):
    """Prints the table, and writes it with machine and command."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join(lines)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    command = shlex.join(["python", f"benches/peers/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    about = (
        f"{cpu()}, {args.threads} threads, {args.rounds} rounds, medians. {versions()}, commit {commit.stdout.strip()}. "
        f"{note}\n\nCommand: `{command}`"
    )
    text = f"# {title}\n\n{about}\n\n{table}\n"
    print(text)
    if args.output:
        args.output.write_text(text)


def versions():
    """Of the libraries that take part."""
    known = {"numpy": "NumPy", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "llama_cpp": "llama-cpp-python"}
    return ", ".join(f"{text} {sys.modules[name].__version__}" for name, text in known.items() if name in sys.modules)


def cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
