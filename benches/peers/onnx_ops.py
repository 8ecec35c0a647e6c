"""Single operators of ONNX Runtime, with inputs and outputs bound once to memory of their own."""

import itertools

import onnxruntime
from onnx import helper


def operator(threads, name, operands, **attributes):
    """A function that computes one of `operands` after the other: pairs of inputs and outputs, which are dictionaries of NumPy
    arrays. `name` may begin with a domain, as in `com.microsoft/QuickGelu`. An array that is input and output is updated in
    place."""
    def values(arrays):
        return [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                for key, x in arrays.items()]

    domain, _, op = name.rpartition("/")
    inputs, outputs = operands[0]
    node = helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes)
    graph = helper.make_graph([node], op, values(inputs), values(outputs))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def bound(inputs, outputs):
        binding, known = session.io_binding(), {}
        for arrays, bind in ((inputs, binding.bind_ortvalue_input), (outputs, binding.bind_ortvalue_output)):
            for key, x in arrays.items():
                bind(key, known.setdefault(id(x), onnxruntime.OrtValue.ortvalue_from_numpy(x)))
        return binding

    turn = itertools.cycle([bound(*pair) for pair in operands])
    # The arrays are kept as long as the function: what is bound is their memory.
    return lambda held=operands: session.run_with_iobinding(next(turn))
