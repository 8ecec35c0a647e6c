#!/usr/bin/env python3
"""`gable quantize` beside llama.cpp: tensor types, error, and whether llama.cpp reads and runs the result.

    pip install llama-cpp-python==0.3.36 gguf numpy
    cargo build --release
    python3 benches/peers/quantize_vs_llama_cpp.py MODEL.gguf [TYPE ...]      (types: all)

MODEL is best an F32, F16 or BF16 file; a quantized one is requantized by both. For every type, both programs write a
file; the types of all tensors must agree, and where the bytes differ, the errors against MODEL are compared:

    rmse    ours over llama.cpp's, over all converted tensors; above 1.01 is a failure
    nll     what llama.cpp makes of a short text with either file, per token
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GABLE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "gable"
TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17,
         "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "F16": 1, "BF16": 32}
TEXT = ("The sun rises in the east and sets in the west. Water boils at one hundred degrees Celsius at sea level. Paris "
        "is the capital of France, and Rome is the capital of Italy. Plants turn light into sugar, and animals eat plants.")


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(-1)


def nll(path):
    model = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=2)
    ids = model.tokenize(TEXT.encode())
    model.eval(ids)
    logits = np.asarray(model.scores[: len(ids)], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -np.mean([logprobs[i, ids[i + 1]] for i in range(len(ids) - 1)])


def theirs(source, target, number):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = number
    params.allow_requantize = True
    params.nthread = 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp could not quantize to type {number}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("types", nargs="*", default=list(TYPES))
    args = parser.parse_args()
    source, failed = tensors(args.model), []
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.types:
            ours_path, theirs_path = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
            command = [GABLE, "quantize", "--allow-requantize", args.model, ours_path, name, "2"]
            subprocess.run(command, check=True, capture_output=True)
            theirs(args.model, theirs_path, TYPES[name])
            ours_tensors, theirs_tensors = tensors(ours_path), tensors(theirs_path)
            types = [n for n in source if ours_tensors[n].tensor_type != theirs_tensors[n].tensor_type]
            equal, errors = 0, np.zeros(2)
            for n in source:
                pair = ours_tensors[n], theirs_tensors[n]
                if np.array_equal(pair[0].data, pair[1].data):
                    equal += 1
                    continue
                want = values(source[n])
                errors += [np.sum((values(t).astype(np.float64) - want) ** 2) for t in pair]
            ratio = np.sqrt(errors[0] / errors[1]) if errors[1] else 1.0
            verdict = "ok" if not types and ratio <= 1.01 else "FAILED"
            print(f"{name:7} {len(source)} tensors, {len(types)} of other types, {equal} equal bytes, "
                  f"rmse {ratio:.4f}, nll {nll(ours_path):.4f} (theirs {nll(theirs_path):.4f})  {verdict}", flush=True)
            for n in types[:5]:
                print(f"    {n}: {ours_tensors[n].tensor_type.name}, theirs {theirs_tensors[n].tensor_type.name}")
            if verdict != "ok":
                failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
