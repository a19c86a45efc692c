"""Small ONNX graphs around what is to be tested, run by onnxruntime and by the reference evaluator."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

__all__ = ["by_onnxruntime", "by_reference", "graph_of", "input_like"]


def input_like(x: Tensor, *symbolic: int) -> ir.Value:
    """The graph's input, whose length in these dimensions is open."""
    dims = [f"n{dim}" if dim in symbolic else size for dim, size in enumerate(x.shape)]
    return ir.Value(name="x", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))


def graph_of(
    build: Callable[[ir.tape.Tape], ir.Value], opset: int, inputs: tuple[ir.Value, ...] = ()
) -> onnx.ModelProto:
    """A checked model whose one output is what `build` returns."""
    tape = ir.tape.Tape()
    built = build(tape)
    # the graph's output is a node's: neither a constant nor an input
    output = tape.op("Identity", [built], output=ir.Value(name="y", shape=built.shape, type=built.type))
    initializers = tape.initializers
    graph = ir.Graph(inputs, [output], nodes=tape.nodes, initializers=initializers, opset_imports={"": opset}, name="g")
    version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=max(8, version)))
    onnx.checker.check_model(model, full_check=True)
    return model


def by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Tensor] | None = None) -> Tensor:
    """Its output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _tensor(session.run(None, _arrays(feeds)))


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Tensor] | None = None) -> Tensor:
    """Its output."""
    with np.errstate(all="ignore"):
        return _tensor(ReferenceEvaluator(model).run(None, _arrays(feeds)))


def _arrays(feeds: Mapping[str, Tensor] | None) -> dict[str, Any]:
    return {name: value.numpy() for name, value in (feeds or {}).items()}


def _tensor(outputs: Any) -> Tensor:
    return torch.from_numpy(np.array(outputs[0]))
