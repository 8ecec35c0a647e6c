#!/usr/bin/env python3
"""Makes dequant/: random blocks of every block format and the values they stand for.

    <format>.blocks     8 blocks of random bytes whose f16 scales are finite and of ordinary size
    <format>.f32        their values by `gguf.quants.dequantize`, little-endian f32; those of INT4, which is no type of
                        GGUF, by numpy

    pip install numpy gguf
    python3 kernels/tests/data/make_dequant.py

The output is committed; tests never run this script. It was written with gguf 0.19.
"""

from pathlib import Path

import gguf
import numpy as np

BLOCKS = 8
# Byte offsets of the f16 scales in a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0], "INT4": [0]}


def int4_values(blocks):
    """d (q - z): f16 d, u8 z, 16 bytes with value i in the low and value i + 16 in the high nibble of byte i."""
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    q = np.concatenate([blocks[:, 3:] & 15, blocks[:, 3:] >> 4], axis=1)
    return scales * (q.astype(np.float32) - blocks[:, 2:3].astype(np.float32))


def main():
    folder = Path(__file__).resolve().parent / "dequant"
    folder.mkdir(exist_ok=True)
    for seed, (name, offsets) in enumerate(SCALES.items()):
        random = np.random.default_rng(seed)
        kind = None if name == "INT4" else gguf.GGMLQuantizationType[name]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind] if kind is not None else (32, 19)
        blocks = random.integers(0, 256, (BLOCKS, block_bytes), dtype=np.uint8)
        for offset in offsets:
            magnitude = np.exp(random.uniform(np.log(1e-4), np.log(0.5), BLOCKS))
            scales = (magnitude * random.choice([-1, 1], BLOCKS)).astype(np.float16)
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
        values = gguf.quants.dequantize(blocks, kind) if kind is not None else int4_values(blocks)
        assert values.shape == (BLOCKS, block_len) and np.isfinite(values).all()
        (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(values.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
