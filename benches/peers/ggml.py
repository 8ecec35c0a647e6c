"""ggml's products of quantized weights through its C interface, as llama.cpp computes them: weights in the buffer type that
llama.cpp would choose (repacked where the CPU backend has that for the format), one graph for many layers.

ggml is the one that llama-cpp-python brings.
"""

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import llama_cpp
import numpy as np

TYPES = {"F32": 0, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
         "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23}
DEVICE_CPU, ALIGNMENT, GRAPH = 0, 64, 16384
P = c_void_p
# Results and arguments of the functions used.
FUNCTIONS = {
    "base": {
        "ggml_init": (P, [c_size_t, P, c_bool]), "ggml_free": (None, [P]),
        "ggml_new_tensor_2d": (P, [P, c_int, c_int64, c_int64]), "ggml_mul_mat": (P, [P, P, P]),
        "ggml_new_graph_custom": (P, [P, c_size_t, c_bool]), "ggml_build_forward_expand": (None, [P, P]),
        "ggml_row_size": (c_size_t, [c_int, c_int64]),
        "ggml_quantize_chunk": (c_size_t, [c_int, P, P, c_int64, c_int64, c_int64, P]),
        "ggml_get_type_traits": (P, [c_int]),
        "ggml_backend_alloc_ctx_tensors_from_buft": (P, [P, P]), "ggml_backend_buft_name": (c_char_p, [P]),
        "ggml_backend_buft_alloc_buffer": (P, [P, c_size_t]), "ggml_backend_buffer_free": (None, [P]),
        "ggml_backend_buffer_get_base": (P, [P]), "ggml_backend_tensor_alloc": (c_int, [P, P, P]),
        "ggml_backend_tensor_set": (None, [P, P, c_size_t, c_size_t]),
        "ggml_backend_tensor_get": (None, [P, P, c_size_t, c_size_t]),
        "ggml_backend_dev_backend_reg": (P, [P]), "ggml_backend_dev_supports_op": (c_bool, [P, P]),
        "ggml_backend_dev_buffer_type": (P, [P]), "ggml_backend_dev_init": (P, [P, c_char_p]),
        "ggml_backend_reg_get_proc_address": (P, [P, c_char_p]), "ggml_backend_graph_compute": (c_int, [P, P]),
    },
    "cpu": {"ggml_backend_cpu_set_n_threads": (None, [P, c_int])},
    "": {"ggml_backend_dev_by_type": (P, [c_int])},
}


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", P), ("no_alloc", c_bool)]


class TypeTraits(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("block", c_int64), ("interleave", c_int64), ("size", c_size_t),
                ("quantized", c_bool), ("to_float", ctypes.CFUNCTYPE(None, P, P, c_int64))]


def library():
    """All functions in one object."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = type("Ggml", (), {})()
    for part, functions in FUNCTIONS.items():
        dll = ctypes.CDLL(str(folder / f"libggml{'-' * bool(part)}{part}.so"))
        for name, (result, arguments) in functions.items():
            function = getattr(dll, name)
            function.restype, function.argtypes = result, arguments
            setattr(found, name.removeprefix("ggml_"), function)
    found.init.argtypes = [InitParams]
    return found


lib = library()
silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # Every repacked tensor would be a line.
llama_cpp.llama_log_set(silent, None)


def pointer(array):
    return array.ctypes.data_as(P)


def quantize(kind, values):
    """Rows of floats as blocks, in bytes."""
    rows, k = values.shape
    out = np.empty((rows, lib.row_size(TYPES[kind], k)), np.uint8)
    lib.quantize_chunk(TYPES[kind], pointer(np.ascontiguousarray(values, np.float32)), pointer(out), 0, rows, k, None)
    return out


def dequantize(kind, blocks, k):
    """And back."""
    out = np.empty((len(blocks), k), np.float32)
    traits = ctypes.cast(lib.get_type_traits(TYPES[kind]), POINTER(TypeTraits)).contents
    traits.to_float(pointer(blocks), pointer(out), out.size)
    return out


class Backend:
    """The CPU with a number of threads."""

    def __init__(self, threads):
        self.device = lib.backend_dev_by_type(DEVICE_CPU)
        self.backend = lib.backend_dev_init(self.device, None)
        lib.backend_cpu_set_n_threads(self.backend, threads)
        self.plain = lib.backend_dev_buffer_type(self.device)
        registry = lib.backend_dev_backend_reg(self.device)
        extra = lib.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        self.extra = []
        if extra:
            listed = ctypes.CFUNCTYPE(POINTER(P), P)(extra)(self.device)
            while listed[len(self.extra)]:
                self.extra.append(listed[len(self.extra)])

    def buffer_type(self, kind, k, n):
        """The first of the extra buffer types that can multiply such weights, or the plain one: llama.cpp's choice."""
        for buft in self.extra:
            weights, context = new_context(), new_context()
            w = lib.new_tensor_2d(weights, TYPES[kind], k, n)
            buffer = lib.backend_alloc_ctx_tensors_from_buft(weights, buft)
            product = lib.mul_mat(context, w, lib.new_tensor_2d(context, TYPES["F32"], k, 512))
            supported = buffer and lib.backend_dev_supports_op(self.device, product)
            if buffer:
                lib.backend_buffer_free(buffer)
            lib.free(weights)
            lib.free(context)
            if supported:
                return buft
        return self.plain


def new_context():
    return lib.init(InitParams(64 << 20, None, True))


class Layers:
    """Copies of a layer's matrices, all multiplied with the same x, one after the other."""

    def __init__(self, backend, kind, matrices, x, copies):
        self.backend, self.rows, self.n = backend, len(x), [len(w) for w in matrices]
        k = x.shape[1]
        chosen = backend.buffer_type(kind, k, min(self.n))
        self.repacked = lib.backend_buft_name(chosen).decode() if chosen != backend.plain else ""
        self.contexts = [new_context(), new_context()]
        tensors = [[lib.new_tensor_2d(self.contexts[0], TYPES[kind], k, n) for n in self.n] for _ in range(copies)]
        self.buffers = [lib.backend_alloc_ctx_tensors_from_buft(self.contexts[0], chosen)]
        for layer in tensors:
            for tensor, blocks in zip(layer, matrices):
                lib.backend_tensor_set(tensor, pointer(blocks), 0, blocks.nbytes)
        # x and the results: those of all layers in the same place, as in a model's pass.
        context, sizes = self.contexts[1], [x.nbytes, *(4 * self.rows * n for n in self.n)]
        places = np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)])
        self.buffers.append(lib.backend_buft_alloc_buffer(backend.plain, int(places[-1])))
        base = lib.backend_buffer_get_base(self.buffers[1])

        def place(tensor, at):
            lib.backend_tensor_alloc(self.buffers[1], tensor, base + int(at))
            return tensor

        self.x = place(lib.new_tensor_2d(context, TYPES["F32"], k, self.rows), 0)
        lib.backend_tensor_set(self.x, pointer(x), 0, x.nbytes)
        self.graph = lib.new_graph_custom(context, GRAPH, False)
        for layer in tensors:
            self.out = [place(lib.mul_mat(context, w, self.x), at) for w, at in zip(layer, places[1:])]
            for out in self.out:
                lib.build_forward_expand(self.graph, out)

    def run(self):
        if lib.backend_graph_compute(self.backend.backend, self.graph):
            raise RuntimeError("ggml_backend_graph_compute failed")

    def results(self):
        found = [np.empty((self.rows, n), np.float32) for n in self.n]
        for out, to in zip(self.out, found):
            lib.backend_tensor_get(out, pointer(to), 0, to.nbytes)
        return found

    def free(self):
        for buffer in self.buffers:
            lib.backend_buffer_free(buffer)
        for context in self.contexts:
            lib.free(context)
