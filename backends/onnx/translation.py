"""From an exported program to ONNX by torch's translation, at any opset."""

import logging
import warnings
from typing import Any

import torch
from torch.export import ExportedProgram

from precc.errors import CaptureError
from precc.extras import imported

__all__ = ["translate"]

#: Up to here torch's own converter is used; from here on operators of a graph only gained types and attributes, so a
#: higher number alone says the same.
_TRANSLATED = 23


def translate(program: ExportedProgram, opset: int, dynamic_shapes: Any) -> Any:
    """An ``onnx_ir.Model`` of the program; nothing is fused or computed ahead.

    Raises:
        CaptureError: torch.onnx has no translation; its error names the operator.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # remarks on packages that precc does not use
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*will not be used, since it shares the same shape constraints")
            # the optimizer folds batch norms into convolutions: the product would no longer be the one that was trained
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=min(opset, _TRANSLATED),
                dynamic_shapes=dynamic_shapes,
            )
    except Exception as error:
        raise CaptureError(f"torch.onnx cannot translate the graph: {_cause(error)}") from error
    finally:
        registration.setLevel(level)
    model: Any = exported.model  # type: ignore[union-attr]  # None is for the older exporter
    model.graph.opset_imports[""] = opset
    model.ir_version = _ir_version(opset)
    _tidy(model)
    return model


def _cause(error: BaseException) -> str:
    """The first line of the error by which the others were caused: theirs are pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]


def _drop_identities(model: Any) -> None:
    """Those of the graph itself; what a branch of an `If` gives must be made in the branch."""
    convenience = imported("onnx_ir.convenience", "onnx")
    for node in list(model.graph):
        if node.op_type == "Identity" and node.domain == "" and not node.outputs[0].is_graph_output():
            convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            model.graph.remove(node, safe=True)


def _ir_version(opset: int) -> int:
    onnx = imported("onnx", "onnx")
    found: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return max(10, found)  # the first with metadata of nodes


def _tidy(model: Any) -> None:
    """Take out what the translation leaves: identities, nodes of constants, and casts whose type only another tells.

    onnxruntime has no kernel for those, and says so each time that it loads the model.
    """
    passes = imported("onnx_ir.passes.common", "onnx")
    if any(node.op_type == "If" for node in model.graph):
        # of a condition that the shapes decide, as in embedding bags: onnxruntime 1.32 crashes on such a one
        imported("onnxscript.optimizer", "onnx").fold_constants(model)
    _drop_identities(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _as_casts(model)
    passes.RemoveUnusedNodesPass()(model)
    for node in model.graph:  # paths of the machine, and a third of a small file
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _as_casts(model: Any) -> None:
    """Casts to the type of another tensor as casts to that type."""
    ir = imported("onnx_ir", "onnx")
    for node in list(model.graph):
        if node.op_type == "CastLike" and node.domain == "" and node.inputs[1].dtype is not None:
            cast = ir.node("Cast", [node.inputs[0]], {"to": node.inputs[1].dtype}, name=node.name)
            cast.metadata_props.update(node.metadata_props)
            own, new = node.outputs[0], cast.outputs[0]
            new.name, new.type, new.shape = own.name, node.inputs[1].type, own.shape
            model.graph.insert_before(node, cast)
            ir.convenience.replace_all_uses_with(own, new, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
