#!/usr/bin/env python3
"""Does a test find each of the deliberate faults in the kernels?

    python3 scripts/mutants.py              all faults
    python3 scripts/mutants.py "NAME"...    only these
    python3 scripts/mutants.py --list

A fault is a call `mutant("name")` in kernels/src (see mutant.rs there). The property tests are built once, with all
faults in them, and run once without any, which must pass, and once for each fault, which must fail: the list names the
test that found it. Exit code: 0 all were found, 1 one survived, 2 wrong use.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Where a fault is likely to be found first.
TESTS = ["dequant", "int4", "fused", "rowwise", "matmul", "attention"]
LIMIT = 300  # seconds per program: a fault may also hang


def faults():
    names = []
    for path in sorted((ROOT / "kernels/src").rglob("*.rs")):
        names += re.findall(r'\bmutant\("([^"]+)"\)', path.read_text())
    if repeated := {name for name in names if names.count(name) > 1}:
        sys.exit(f"these names stand for two faults each: {', '.join(sorted(repeated))}")
    return names


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in ("GABLE_ISA", "GABLE_MUTANT")}
    return kept | more


def build():
    """The test programs."""
    command = ["cargo", "--config", "profile.release.package.gable-kernels.codegen-units = 8"]
    command += ["--config", "profile.release.debug = 0", "test", "--release", "-p", "gable-kernels", "--no-run"]
    command += [argument for test in TESTS for argument in ("--test", test)]
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "mutants"
    command += ["--target-dir", str(target), "--message-format=json"]
    flags = f"{os.environ.get('RUSTFLAGS', '')} --cfg gable_mutants".strip()
    done = subprocess.run(command, cwd=ROOT, env=environment(RUSTFLAGS=flags), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the tests do not build")
    programs = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] in TESTS:
            programs[message["target"]["name"]] = message["executable"]
    return [(test, programs[test]) for test in TESTS]


def first_failure(programs, fault=None):
    """The first test that fails, or None."""
    # Elsewhere, proptest does not find the sources, beside which it would note the cases that failed.
    with tempfile.TemporaryDirectory() as elsewhere:
        return first_failure_in(elsewhere, programs, fault)


def first_failure_in(folder, programs, fault):
    for test, program in programs:
        env = environment(GABLE_MUTANT=fault) if fault else environment()
        try:
            done = subprocess.run([program], cwd=folder, env=env, timeout=LIMIT, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return f"{test} (not finished after {LIMIT} s)"
        if done.returncode:
            failed = re.search(r"^test (\S+) .*FAILED$", done.stdout, re.MULTILINE)
            return f"{test}::{failed.group(1)}" if failed else f"{test} (exit code {done.returncode})"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to try (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    args = parser.parse_args()
    known = faults()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no such fault: {', '.join(unknown)}; --list names those there are")
    if args.list:
        print("\n".join(known))
        return 0
    programs = build()
    if failure := first_failure(programs):
        print(f"without any fault, {failure} fails", file=sys.stderr)
        return 1
    survived = 0
    for name in args.names or known:
        found = first_failure(programs, name)
        survived += found is None
        print(f"{name:56} {found or 'SURVIVED'}", flush=True)
    total = len(args.names or known)
    print(f"\n{total - survived} of {total} faults found" + (f", {survived} survived" if survived else ""))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
