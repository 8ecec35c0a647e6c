#!/usr/bin/env python3
"""Inspects the machine code of the kernel tables: are the hot loops what the source promises?

    cargo build --release -p gable-kernels --example tables
    python3 scripts/check_asm.py target/release/examples/tables

Each wrapper of each table except PORTABLE (kernels/src/table.rs) is disassembled, its control flow rebuilt, and its
innermost loops found: cycles that hold no other cycle. Those that compute on vectors are the hot ones. In them

- there may be no call: everything must have melted into the wrapper. (A call that does not return, to report a
  panic, is not part of any cycle, so bounds checks do not count here.)
- no vector register may be spilled: stored to a fixed place in the frame and read back from it in the same loop.

And somewhere in the hot loops of each table its defining instruction must occur; a table that lacks it merely
repeats another. Exceptions go into ALLOWED, with a reason. Works on x86-64 and, with an objdump that can read it,
on aarch64. Exit code: 0 clean, 1 violations (with the code in question), 2 wrong use.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

# (table, wrapper, what, how many at most, why); what is "calls" or "spills"; names may hold wildcards.
ALLOWED = [
    ("*", "vocabulary", "calls", 10_000, "compares the token's operations with their definitions: a check, not a kernel"),
    ("*", "vocabulary", "spills", 10_000, "as above"),
    ("*", "attention_finish", "calls", 2, "copies the last few lanes of a head: once per head, not per key"),
    ("*", "attention_weights", "calls", 2, "only for a tap: copies the last few lanes of a row"),
    ("*", "attention_weights", "spills", 3, "only for a tap: the stack copy of the last few lanes"),
    ("*", "cache_rows_*", "calls", 5, "appends a few rows to a page through a block in the stack; bound by its stores"),
    ("*", "cache_rows_*", "spills", 100, "the block in the stack is written and read on purpose"),
    ("*", "cache_rows_q8", "calls", 9, "as above, in groups of 32 elements"),
    ("*", "attention_chunk_q8", "calls", 2, "rounds the queries, by a copy per 32 elements: once per chunk, not per key"),
    ("AVX2*", "attention_chunk_q8", "spills", 12, "the stack copy of 32 elements of a query, as above"),
    ("AVX512*", "quantize_row", "spills", 15, "partial results of four stripes, written to be read by quarters: on purpose"),
    ("AVX2*", "softmax_rows", "spills", 2, "the sum, beside the constants of the exponential at the edge of 16 registers"),
    ("AVX2*", "decode", "spills", 70, "sums and scales of most block formats (1 to 9 a loop) at the edge of 16 registers"),
    # To be made again one by one: written to the panel as they are found, they need no sixteen registers.
    ("AVX2", "prompt", "spills", 100, "98 of scales and minima of four sub-blocks in sixteen rows, once per 128 unpacked values; Q6_K, an "
     "accumulator in a loop over two cells: 11 % faster than one cell at a time"),
    ("AVX2_VNNI", "prompt", "spills", 71, "scales and minima, as above; none in a tile"),
    ("AVX512", "decode", "spills", 2, "INT4 with three rows in two terms, without VNNI: two of 32 registers' accumulators"),
    ("AVX2*", "dense_store", "spills", 31, "SiLU and GELU between the constants of a store, at the edge of 16 registers: once per element of C"),
    ("AVX2*", "attention_chunk_*", "spills", 5, "2 and 3 vectors of a score tile at the edge of 16 registers: to be retiled"),
]

# Table -> (pattern of one instruction, how it is called in messages).
DEFINING = {
    "AVX512_BF16": (r"vdpbf16ps\s+zmm", "vdpbf16ps on zmm"),
    "AVX512_VNNI": (r"vpdpbusd\s+zmm", "vpdpbusd on zmm"),
    "AVX512": (r"vpmaddubsw\s+zmm", "vpmaddubsw on zmm"),
    "AVX2_VNNI": (r"\{vex\}\s+vpdpbusd\s+ymm", "VEX-coded vpdpbusd on ymm"),
    "AVX2": (r"vpmaddubsw\s+ymm", "vpmaddubsw on ymm"),
    "NEON": (r"sdot\s+v", "sdot"),
}

WRAPPER = re.compile(r"gable_kernels(?:\[\w+\])?::table::([A-Z][A-Z0-9_]*)::([a-z]\w*)")
NEVER_RETURNS = re.compile(
    r"panic|unwrap_failed|expect_failed|assert_failed|slice_\w*fail|_fail\b|len_mismatch|handle_alloc_error"
    r"|capacity_overflow|_Unwind_Resume|abort"
)
# Arithmetic on whole vectors: what makes a loop a hot one.
COMPUTES = re.compile(
    r"v(?:f[n]?m(?:add|sub)\w*p[sd]|dpbf16ps|pdpbusd|pdpwssd|pmadd\w+|(?:add|sub|mul|div|max|min|sqrt)p[sd]"
    r"|pmul\w+|padd[bwdq]|psub[bwdq]|cvt\w*(?:dq2ps|ps2dq|ph2ps|ps2ph))\b"
    r"|(?:fmla|fmul|fadd|fmax|fmin|sdot|smmla|mla|mul|scvtf|fcvtl|fcvtn)\s+v\d"
)


@dataclass
class Instruction:
    address: int
    text: str
    target: int | None = None  # of a direct branch
    callee: str | None = None  # of a call, "" if unknown
    ends: bool = False  # control does not fall through
    branches: bool = False


@dataclass
class Loop:
    instructions: list
    calls: list = field(default_factory=list)
    spills: list = field(default_factory=list)
    reloads: int = 0


class X86:
    # A vector at a fixed place in the frame: written, or the last operand of anything that reads.
    STORE = re.compile(r"^vmov\w+ ([XYZ])MMWORD PTR \[(rsp|rbp)([+-]0x[0-9a-f]+)?\](?:\{k\d\})?,[xyz]mm")
    LOAD = re.compile(r",([XYZ])MMWORD PTR \[(rsp|rbp)([+-]0x[0-9a-f]+)?\]")
    BYTES = {"X": 16, "Y": 32, "Z": 64}

    def prepare(self, body):
        # Most functions have no frame pointer; rbp is a register like any other there.
        framed = any(i.text == "mov rbp,rsp" for i in body[:16])
        self.bases = ("rsp", "rbp") if framed else ("rsp",)

    def decode(self, i, slots):
        mnemonic, _, operands = i.text.partition(" ")
        if mnemonic in ("bnd", "notrack"):
            mnemonic, _, operands = operands.strip().partition(" ")
        if mnemonic == "call":
            slot = re.search(r"\[rip\+.*# ([0-9a-f]+)", operands)
            symbol = re.search(r"<([^>].*)>", operands)
            i.callee = slots.get(int(slot.group(1), 16), "") if slot else symbol.group(1) if symbol else ""
            i.ends = bool(NEVER_RETURNS.search(i.callee))
            if slot:
                i.text += f" = {i.callee}"
        elif mnemonic.startswith("j"):
            i.branches = True
            i.ends = mnemonic == "jmp"
            target = re.match(r"\s*([0-9a-f]+)\b", operands)
            i.target = int(target.group(1), 16) if target else None
        elif mnemonic in ("ret", "ud2", "hlt", "int3"):
            i.ends = True

    def span(self, m):
        if not m or m.group(2) not in self.bases:
            return None
        start = int(m.group(3), 16) if m.group(3) else 0
        return m.group(2), start, start + self.BYTES[m.group(1)]

    def frame_store(self, text):
        return self.span(self.STORE.match(text))

    def frame_load(self, text):
        return self.span(self.LOAD.search(text))


class Aarch64:
    STORE = re.compile(r"^(str|stp|stur)\s+q\d+,(?:\s*q\d+,)?\s*\[(sp|x29)(?:,\s*#(-?\w+))?\]$")
    LOAD = re.compile(r"^(ldr|ldp|ldur)\s+q\d+,(?:\s*q\d+,)?\s*\[(sp|x29)(?:,\s*#(-?\w+))?\]$")

    def prepare(self, body):
        pass

    def decode(self, i, slots):
        mnemonic, _, operands = i.text.partition(" ")
        if mnemonic in ("bl", "blr"):
            symbol = re.search(r"<([^>].*)>", operands)
            i.callee = symbol.group(1) if symbol else ""
            i.ends = bool(NEVER_RETURNS.search(i.callee))
        elif mnemonic == "b" or mnemonic.startswith("b.") or mnemonic in ("cbz", "cbnz", "tbz", "tbnz", "br"):
            i.branches = True
            i.ends = mnemonic in ("b", "br")
            target = re.search(r"(?:^|[\s,])(?:0x)?([0-9a-f]+)\s*<", operands)
            i.target = int(target.group(1), 16) if target else None
        elif mnemonic in ("ret", "brk", "udf"):
            i.ends = True

    def span(self, m):
        if not m:
            return None
        start = int(m.group(3), 0) if m.group(3) else 0
        return m.group(2), start, start + (32 if m.group(1).endswith("p") else 16)

    def frame_store(self, text):
        return self.span(self.STORE.match(text))

    def frame_load(self, text):
        return self.span(self.LOAD.match(text))


def disassembler(path):
    """objdump and the dialect of the binary, from the machine field of its ELF header."""
    with open(path, "rb") as f:
        head = f.read(20)
    machine = int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None
    if machine == 62:
        candidates, arch, options = ["objdump"], X86(), ["-M", "intel"]
    elif machine == 183:
        candidates, arch, options = ["aarch64-linux-gnu-objdump", "llvm-objdump"], Aarch64(), []
    else:
        sys.exit(f"{path}: not an ELF file of x86-64 or aarch64")
    for name in [os.environ.get("OBJDUMP"), *candidates]:
        if name and shutil.which(name):
            if "llvm" in name:
                options = [*options, "--mattr=+dotprod,+i8mm,+bf16"]
            return [name, "-d", "-C", "--no-show-raw-insn", *options, path], arch
    sys.exit(f"none of {', '.join(candidates)} found: install binutils or set OBJDUMP")


def wrappers(path):
    """(table, wrapper) -> instructions, and the dialect."""
    command, arch = disassembler(path)
    found, current, functions = {}, None, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.endswith(">:\n"):
                address, _, name = line.rstrip(">:\n").partition(" <")
                functions[int(address, 16)] = name
                symbol = WRAPPER.search(line.partition("<")[2])
                # Closures and other things inside a wrapper have symbols of their own.
                whole = symbol and re.fullmatch(r"(::h[0-9a-f]{16})?>:\n?", line.partition("<")[2][symbol.end():])
                current = found.setdefault(symbol.groups(), []) if whole else None
            elif current is not None and line.startswith(" "):
                address, _, text = line.partition(":")
                text = " ".join(text.split())
                if text:
                    current.append(Instruction(int(address, 16), text))
    if process.returncode:
        sys.exit(f"{command[0]} failed on {path}")
    slots = call_slots(command[0], path, functions)
    for body in found.values():
        for i in body:
            arch.decode(i, slots)
    return found, arch


def call_slots(objdump, path, functions):
    """Address of a relocated pointer -> the function it will hold: what `call [rip+...]` calls."""
    slots = {}
    for line in subprocess.run([objdump, "-R", path], capture_output=True, text=True).stdout.splitlines():
        fields = line.split(maxsplit=2)
        if len(fields) == 3 and re.fullmatch(r"[0-9a-f]{8,16}", fields[0]):
            local = re.fullmatch(r"\*ABS\*\+0x([0-9a-f]+)", fields[2])
            slots[int(fields[0], 16)] = functions.get(int(local.group(1), 16), "") if local else fields[2]
    return slots


def blocks_of(body):
    """Basic blocks as lists of instructions, and for each the indices of those that follow it."""
    inside = {i.address for i in body}
    leaders = {body[0].address} | {i.target for i in body if i.target in inside}
    blocks, start_new = [], True
    for i in body:
        if start_new or i.address in leaders:
            blocks.append([])
        blocks[-1].append(i)
        start_new = i.branches or i.ends
    index = {b[0].address: n for n, b in enumerate(blocks)}
    follow = []
    for n, block in enumerate(blocks):
        last = block[-1]
        out = [index[last.target]] if last.branches and last.target in index else []
        if not last.ends and n + 1 < len(blocks):
            out.append(n + 1)
        follow.append(out)
    return blocks, follow


def components(nodes, follow):
    """Strongly connected components of a part of the graph that hold a cycle (Tarjan, without recursion)."""
    order, low, stack, on_stack, out = {}, {}, [], set(), []
    for root in sorted(nodes):
        if root in order:
            continue
        work = [(root, iter(follow[root]))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for child in rest:
                if child not in nodes:
                    continue
                if child not in order:
                    order[child] = low[child] = len(order)
                    stack.append(child)
                    on_stack.add(child)
                    work.append((child, iter(follow[child])))
                    break
                if child in on_stack:
                    low[node] = min(low[node], order[child])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    part = set()
                    while node not in part:
                        part.add(stack.pop())
                    on_stack -= part
                    if len(part) > 1 or node in follow[node]:
                        out.append(part)
    return out


def innermost(nodes, follow, enter):
    """Cycles that hold no other cycle: take the entry out of a component and see whether a cycle is left."""
    found = []
    for part in components(nodes, follow):
        entries = [n for n in part if enter[n] - part]
        header = min(entries or part)
        inner = innermost(part - {header}, follow, enter)
        found += inner or [part]
    return found


def loops_of(body, arch):
    arch.prepare(body)
    blocks, follow = blocks_of(body)
    enter = [set() for _ in blocks]
    for n, out in enumerate(follow):
        for target in out:
            enter[target].add(n)
    for part in innermost(set(range(len(blocks))), follow, enter):
        loop = Loop([i for n in sorted(part) for i in blocks[n]])
        if not any(COMPUTES.search(i.text) for i in loop.instructions):
            continue
        stores = {}
        for i in loop.instructions:
            if i.callee is not None:
                loop.calls.append(i)
            elif span := arch.frame_store(i.text):
                stores[span] = i
        read_back = set()
        for i in loop.instructions:
            if arch.frame_store(i.text) or not (span := arch.frame_load(i.text)):
                continue
            loop.reloads += 1
            read_back |= {s for s in stores if s[0] == span[0] and s[1] < span[2] and span[1] < s[2]}
        loop.spills = [stores[s] for s in read_back]
        yield loop


def allowed(table, wrapper, what):
    most = [n for t, w, x, n, _ in ALLOWED if x == what and fnmatch.fnmatch(table, t) and fnmatch.fnmatch(wrapper, w)]
    return max(most, default=0)


def inlined_at(binary, addresses):
    """Address -> the chain of functions inlined there, innermost first, where addr2line and line tables are at hand."""
    if not shutil.which("addr2line") or not addresses:
        return {}
    command = ["addr2line", "-a", "-f", "-C", "-i", "-e", binary]
    asked = "".join(f"{a:x}\n" for a in addresses)
    lines = subprocess.run(command, input=asked, capture_output=True, text=True).stdout.splitlines()
    chains, chain = {}, None
    for line in lines:
        if re.fullmatch(r"0x[0-9a-f]+", line):
            chain = chains.setdefault(int(line, 16), [])
        elif chain is not None and "::" in line and "core_arch" not in line and not line.startswith("core::"):
            chain.append(re.sub(r"\b[a-z]\w*::(?=\w)", "", line))
    return chains


def show(loop, offending, context=2):
    marked = {i.address for i in offending}
    at = [n for n, i in enumerate(loop.instructions) if i.address in marked]
    wanted = sorted({m for n in at for m in range(n - context, n + context + 1) if 0 <= m < len(loop.instructions)})
    previous = None
    for n in wanted:
        if previous is not None and n != previous + 1:
            print("        ...")
        i = loop.instructions[n]
        print(f"    {'>' if i.address in marked else ' '}  {i.address:8x}: {i.text}")
        previous = n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="release binary that holds the kernel tables, with its symbols")
    parser.add_argument("--tables", help="comma-separated tables that must be there (default: all of the machine)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no code")
    args = parser.parse_args()
    found, arch = wrappers(args.binary)
    expected = args.tables.split(",") if args.tables else [
        t for t in DEFINING if (t == "NEON") == isinstance(arch, Aarch64)]
    problems = []
    print(f"{'table':12} {'wrapper':20} {'instr.':>7} {'hot loops':>9} {'calls':>6} {'spills':>6} {'reloads':>7}")
    for table in expected:
        defining, spelled = DEFINING[table]
        defined = False
        bodies = {wrapper: body for (t, wrapper), body in sorted(found.items()) if t == table}
        if not bodies:
            problems.append(f"{table}: no wrapper found in {args.binary}")
        for wrapper, body in bodies.items():
            loops = list(loops_of(body, arch))
            calls, spills = sum(len(x.calls) for x in loops), sum(len(x.spills) for x in loops)
            defined |= any(re.search(defining, i.text) for x in loops for i in x.instructions)
            reloads = sum(x.reloads for x in loops)
            print(f"{table:12} {wrapper:20} {len(body):7} {len(loops):9} {calls:6} {spills:6} {reloads:7}")
            for what, count in (("calls", calls), ("spills", spills)):
                if count > allowed(table, wrapper, what):
                    bad = [(x, getattr(x, what)) for x in loops if getattr(x, what)]
                    problems.append((table, wrapper, what, bad))
        if bodies and not defined:
            problems.append(f"{table}: no hot loop has its defining instruction, {spelled}")
    for problem in problems:
        if isinstance(problem, str):
            print(f"\nerror: {problem}")
            continue
        table, wrapper, what, bad = problem
        print(f"\nerror: {table}::{wrapper}: {what} in {len(bad)} hot loop(s)")
        chains = inlined_at(args.binary, [i.address for _, offending in bad for i in offending])
        for loop, offending in bad:
            first, last = loop.instructions[0].address, loop.instructions[-1].address
            print(f"  loop {first:x}..{last:x}, {len(loop.instructions)} instructions, {len(offending)} {what}")
            if chain := max((chains.get(i.address, []) for i in offending), key=len):
                print(f"    in {' < '.join(chain)}")
            if not args.quiet:
                show(loop, offending)
    print(f"\n{len(problems)} problem(s)" if problems else "\nhot loops are clean")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
