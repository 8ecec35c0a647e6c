#!/usr/bin/env python3
"""Makes quantize/: blocks of floats and their bytes in the legacy formats.

    input.f32           64 blocks of 32 little-endian f32: ordinary ones from 1e-30 to 1e4, zeros, constants, ties of the
                        largest magnitude, one-sided ranges, denormals
    <format>.blocks     the same by `gguf.quants.quantize`

    pip install numpy gguf
    python3 kernels/tests/data/make_quantize.py

The output is committed; tests never run this script. It was written with gguf 0.19.
"""

from pathlib import Path

import gguf
import numpy as np


def main():
    folder = Path(__file__).resolve().parent / "quantize"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    blocks = random.normal(0, 1, (64, 32)) * np.logspace(-8, 4, 64)[:, None]
    blocks[0] = 0
    blocks[1] = -3.25
    blocks[2] = np.where(np.arange(32) % 2, 1.5, -1.5)
    blocks[3] = np.abs(blocks[3])
    blocks[4] = -np.abs(blocks[4])
    blocks[5] = np.arange(32) - 15.5
    blocks[6] = random.integers(-8, 8, 32) * 0.5
    blocks[7] *= 1e-30 / np.abs(blocks[7]).max()
    blocks[8, 3:] = 0
    blocks[9] = np.linspace(65504, -65504, 32)
    x = blocks.astype(np.float32)
    (folder / "input.f32").write_bytes(x.astype("<f4").tobytes())
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
        out = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
        (folder / f"{name}.blocks").write_bytes(out.tobytes())


if __name__ == "__main__":
    main()
