#!/usr/bin/env python3
"""Gable beside llama.cpp on the same file, in one run.

    pip install llama-cpp-python
    cargo build --release
    python3 benches/peers/vs_llama_cpp.py ~/.cache/gable/smollm2.gguf

The two take turns, each in a fresh process, so that clocks, page cache and neighbours are the same for both.
llama.cpp is driven through its C interface the way its own llama-bench does: random tokens, a prompt in one batch,
then tokens one by one, on an empty cache or, with `-d N`, on one that N tokens have filled; one run to warm up. Speeds are
medians of all samples.

A peer that was built badly makes anybody look fast. So llama.cpp's figure is compared with the one it is known to
reach (EXPECTED): below 0.9 of it, the row is void. The known figures come from another machine than yours; the
share is printed for you to judge.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Tokens/s of llama-cpp-python as pip builds it, 2 threads of a 2-core AVX-512 server (Zen 5, 2026).
EXPECTED = {
    "smollm2": {"pp512": 490, "tg64": 192},
    "gemma": {"pp512": 983, "tg64": 98},
    "qwen2.5-coder": {"pp512": 180, "tg64": 37.7},
}
VOID_BELOW = 0.9
BATCH = 2048


class Peer:
    """llama.cpp with one context, as llama-bench sets it up."""

    def __init__(self, model, threads, n_ctx):
        import llama_cpp

        self.lib = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch, params.n_ubatch = BATCH, 512
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = 1  # f16
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit("llama.cpp cannot make a context")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def fill(self, depth):
        """Begins anew with so many tokens in the cache, most of which may be there already."""
        memory = self.lib.llama_get_memory(self.context)
        if depth == 0 or self.lib.llama_memory_seq_pos_max(memory, 0) + 1 < depth:
            self.lib.llama_memory_clear(memory, True)
            for done in range(0, depth, BATCH):
                self.feed(min(BATCH, depth - done))
        elif not self.lib.llama_memory_seq_rm(memory, 0, depth, -1):
            sys.exit("llama.cpp cannot cut its cache")

    def feed(self, count):
        tokens = (self.lib.llama_token * count)(*(random.randrange(self.vocab_size) for _ in range(count)))
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, count)):
            sys.exit("llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def prompt(self, tokens, depth=0):
        self.fill(depth)
        start = time.perf_counter()
        for done in range(0, tokens, BATCH):
            self.feed(min(BATCH, tokens - done))
        return tokens / (time.perf_counter() - start)

    def generation(self, tokens, depth=0):
        self.fill(depth)
        start = time.perf_counter()
        for _ in range(tokens):
            self.feed(1)
        return tokens / (time.perf_counter() - start)


def tests(args):
    """Their names, as llama-bench writes them."""
    depth = f" @ d{args.depth}" if args.depth else ""
    return f"pp{args.prompt}{depth}", f"tg{args.generate}{depth}"


def measure_peer(args):
    """What the child process does: prints one JSON object."""
    import llama_cpp

    peer = Peer(args.model, args.threads, args.depth + args.prompt + args.generate)
    peer.prompt(args.prompt, args.depth)
    prompt, generation = tests(args)
    samples = {prompt: [peer.prompt(args.prompt, args.depth) for _ in range(args.repetitions)]}
    peer.generation(1, args.depth)
    samples[generation] = [peer.generation(args.generate, args.depth) for _ in range(args.repetitions)]
    info = llama_cpp.llama_print_system_info().decode()
    isa = [word.strip(" |").split(" = ")[0] for word in info.split("|") if word.strip().endswith("= 1")]
    json.dump({"version": llama_cpp.__version__, "isa": [i.replace("CPU : ", "") for i in isa], "samples": samples},
              sys.stdout)


def run_peer(args):
    command = [args.python, __file__, "--measure-peer", args.model, "-p", args.prompt, "-n", args.generate,
               "-d", args.depth, "-r", args.repetitions, "-t", args.threads]
    return json.loads(subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE).stdout)


def run_gable(args):
    """Runs `gable bench`, whose JSON has llama-bench's keys."""
    command = [args.gable, "bench", "-m", args.model, "-p", args.prompt, "-n", args.generate,
               "-d", args.depth, "-r", args.repetitions, "-t", args.threads, "-o", "json"]
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE)
    prompt, generation = tests(args)
    rows = json.loads(done.stdout)
    return {prompt if row["n_prompt"] else generation: row["samples_ts"] for row in rows}


def expected_for(path, test, threads):
    """The peer's known speed, if this is one of the known models at 2 threads."""
    if threads != 2:
        return None
    name = Path(path).name.lower()
    return next((speeds.get(test) for model, speeds in EXPECTED.items() if model in name), None)


def rows(args, gable, peer):
    for test in tests(args):
        if test not in gable:
            sys.exit(f"gable bench reported no {test}")
        ours, theirs = statistics.median(gable[test]), statistics.median(peer[test])
        expected = expected_for(args.model, test, args.threads)
        share = theirs / expected if expected else None
        yield {"test": test, "gable": ours, "llama_cpp": theirs, "ratio": ours / theirs, "expected_peer": expected,
               "peer_share": share, "void": share is not None and share < VOID_BELOW,
               "gable_samples": gable[test], "llama_cpp_samples": peer[test]}


def main():
    here = Path(__file__).resolve()
    default_gable = Path(os.environ.get("CARGO_TARGET_DIR", here.parents[2] / "target")) / "release" / "gable"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("-d", "--depth", type=int, default=0, help="tokens in the cache before")
    parser.add_argument("-r", "--repetitions", type=int, default=3, help="samples of each test per turn")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--gable", default=default_gable, help="the gable program")
    parser.add_argument("--python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--require-pp", type=float, help="exit with 1 below this prompt ratio, or if void")
    parser.add_argument("--require-tg", type=float, help="exit with 1 below this generation ratio, or if void")
    parser.add_argument("--json", action="store_true", help="results as JSON on standard output")
    parser.add_argument("--measure-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_peer:
        return measure_peer(args)
    if not Path(args.gable).exists():
        sys.exit(f"{args.gable} is not there: cargo build --release, or --gable")

    gable, peer, about = {}, {}, {}
    for turn in range(args.rounds):
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
        about = run_peer(args)
        for test, samples in about["samples"].items():
            peer.setdefault(test, []).extend(samples)
        for test, samples in run_gable(args).items():
            gable.setdefault(test, []).extend(samples)

    result = list(rows(args, gable, peer))
    if args.json:
        json.dump({"model": args.model, "threads": args.threads, "peer_version": about["version"],
                   "peer_isa": about["isa"], "rows": result}, sys.stdout, indent=2)
        print()
    else:
        print(f"{args.model}, {args.threads} threads, f16 cache, medians of {args.rounds * args.repetitions}")
        print(f"llama-cpp-python {about['version']}: {' '.join(about['isa'])}\n")
        print("| test | gable t/s | llama.cpp t/s | ratio | llama.cpp / its known figure | |")
        print("|---|---|---|---|---|---|")
        for row in result:
            share = f"{row['peer_share']:.2f} of {row['expected_peer']:g}" if row["expected_peer"] else "not known"
            print(f"| {row['test']} | {row['gable']:.1f} | {row['llama_cpp']:.1f} | {row['ratio']:.2f} | {share} | "
                  f"{'VOID: the peer is too slow here' if row['void'] else ''} |")
    wanted = {"pp": args.require_pp, "tg": args.require_tg}
    missed = [r for r in result if (least := wanted[r["test"][:2]]) is not None and (r["void"] or r["ratio"] < least)]
    for row in missed:
        print(f"{row['test']}: ratio {row['ratio']:.2f}{', void' if row['void'] else ''}; asked for "
              f"{wanted[row['test'][:2]]:g}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
