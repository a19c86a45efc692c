"""Small ONNX graphs around what is to be tested, run by onnxruntime and by the reference evaluator."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_ir.tape import Tape
from torch import Tensor

from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN
from precc.backends.onnx.roundings.quant_functions import portable_functions
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.precision import Precision

__all__ = [
    "a_weight",
    "by_onnxruntime",
    "by_qonnx",
    "by_reference",
    "constant_bytes",
    "graph_of",
    "input_like",
    "slot",
    "whole",
]


def slot(precision: Precision, axis: int = 1, channel: int = 0, operand: str = "weight") -> SlotRounding:
    """Of a layer fc."""
    return SlotRounding(f"fc/product/fprop.{operand}", precision, axis, channel)


def a_weight(*shape: int) -> Tensor:
    """Values of a net's size and of every other, zeros of both signs, a block of zeros."""
    generator = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(shape, generator=generator) * torch.exp2(torch.randn(shape, generator=generator) * 4)
    flat = weight.view(-1)
    flat[:64] = 0.0
    flat[:32] = -0.0
    flat[70:74] = torch.tensor([1e30, -1e-30, 3e-45, -65520.0])
    return weight


def input_like(x: Tensor, *symbolic: int) -> ir.Value:
    """The graph's input, whose length in these dimensions is open."""
    dims = [f"n{dim}" if dim in symbolic else size for dim, size in enumerate(x.shape)]
    return ir.Value(name="x", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))


def graph_of(build: Callable[[Tape], ir.Value], opset: int, inputs: tuple[ir.Value, ...] = ()) -> onnx.ModelProto:
    """A checked model whose one output is what `build` returns."""
    tape = Tape()
    built = build(tape)
    # the graph's output is a node's: neither a constant nor an input
    output = tape.op("Identity", [built], output=ir.Value(name="y", shape=built.shape, type=built.type))
    return whole(tape, inputs, [output], opset)


def whole(tape: Tape, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], opset: int) -> onnx.ModelProto:
    """A checked model of what a tape holds, with the bodies of its quantisers."""
    functions = portable_functions(tape.nodes, opset)
    imports = {"": opset, **({QUANT_DOMAIN: 1} if functions else {})}
    constants = list(tape.initializers)
    graph = ir.Graph(inputs, outputs, nodes=tape.nodes, initializers=constants, opset_imports=imports, name="g")
    version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=max(8, version), functions=functions))
    onnx.checker.check_model(model, full_check=True)
    return model


def constant_bytes(model: onnx.ModelProto) -> int:
    """What its constants take in a file."""
    return sum(len(entry.raw_data) for entry in model.graph.initializer)


def by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Tensor] | None = None, level: int = 99) -> list[Tensor]:
    """Its outputs, at a level of optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _tensors(session.run(None, _arrays(feeds)))


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """Its outputs."""
    with np.errstate(all="ignore"):
        return _tensors(ReferenceEvaluator(model).run(None, _arrays(feeds)))


def by_qonnx(model: onnx.ModelProto, x: Tensor) -> Tensor:
    """Its output by QONNX's executor, which wants the shape of every value."""
    pytest.importorskip("qonnx")
    wrapper = importlib.import_module("qonnx.core.modelwrapper").ModelWrapper
    wrapped = wrapper(onnx.shape_inference.infer_shapes(model))
    wrapped.check_all_tensor_shapes_specified(fix_missing_init_shape=True)
    with np.errstate(all="ignore"):
        found = importlib.import_module("qonnx.core.onnx_exec").execute_onnx(wrapped, {"x": x.numpy()})
    return torch.from_numpy(found[model.graph.output[0].name])


def _arrays(feeds: Mapping[str, Tensor] | None) -> dict[str, Any]:
    return {name: value.numpy() for name, value in (feeds or {}).items()}


def _tensors(outputs: Any) -> list[Tensor]:
    return [torch.from_numpy(np.array(output)) for output in outputs]
