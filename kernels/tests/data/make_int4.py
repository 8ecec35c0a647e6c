#!/usr/bin/env python3
"""Makes int4/: a matrix of the ONNX operator MatMulNBits and the values that ONNX Runtime finds in it.

    nbits.b             random bytes, [N, K / G, G / 2] with N = 5, K = 96, G = 32
    nbits.scales        f32 that f16 holds, [N, K / G]
    nbits.zero_points   random bytes, [N, 2]: three zero points of 4 bits
    nbits.f32           the operator's product with a unit matrix, which is the matrix, [N, K]
    nbits_middle.f32    the same without zero points

    pip install numpy onnx onnxruntime
    python3 kernels/tests/data/make_int4.py

The output is committed; tests never run this script. It was written with onnxruntime 1.23.2.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

N, K, G = 5, 96, 32


def values(matrix):
    """The matrix as ONNX Runtime multiplies with it."""
    node = helper.make_node("MatMulNBits", ["a", *matrix], ["y"], domain="com.microsoft", K=K, N=N, bits=4, block_size=G)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, [K, K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [K, N])],
        [numpy_helper.from_array(array, name) for name, array in matrix.items()])
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": np.eye(K, dtype=np.float32)})[0].T.astype("<f4")


def main():
    folder = Path(__file__).resolve().parent / "int4"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(4)
    b = random.integers(0, 256, (N, K // G, G // 2), dtype=np.uint8)
    zero_points = random.integers(0, 256, (N * 2,), dtype=np.uint8)
    scales = random.uniform(-0.25, 0.25, (N * (K // G),)).astype(np.float16).astype(np.float32)
    matrix = {"b": b, "scales": scales}
    for name, array in [*matrix.items(), ("zero_points", zero_points)]:
        (folder / f"nbits.{name}").write_bytes(array.tobytes())
    (folder / "nbits.f32").write_bytes(values(matrix | {"zero_points": zero_points}).tobytes())
    (folder / "nbits_middle.f32").write_bytes(values(matrix).tobytes())


if __name__ == "__main__":
    main()
