"""Export the forward graph to ONNX with each slot's format, and the plan, as metadata.

On each node that computes a product: ``precc.op``, one ``precc.<role>.<operand>`` for each operand, with
the name of its format, and ``precc.<role>.accumulator`` (JSON, as in the plan) where its sum is rounded. In the model's
metadata: ``precc.plan``, the JSON of the whole plan, backward included, which a runtime hands back
(``session.get_modelmeta().custom_metadata_map`` in onnxruntime). The arithmetic is plain float32.
"""

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram, default_decompositions
from torch.fx import GraphModule

from precc.annotations import Operand, Product, products_of, unrounded_of
from precc.captured_graph import size_value
from precc.errors import BackendError, CaptureError, PlanError
from precc.files import write_whole
from precc.module import PrecisionModule, original, session_of
from precc.plan import PrecisionPlan
from precc.plan_json import sums_to_json
from precc.protocols import GraphContext
from precc.slots import CallNumbers, aliases_of
from precc.strict_dynamo import opened_products

__all__ = ["annotated_model", "export_onnx"]

_FX_NODE = "pkg.torch.onnx.fx_node"


def export_onnx(net: PrecisionModule, args: tuple[Any, ...], path: str | Path) -> None:
    """Write the net's forward graph, in eval mode, as an annotated ONNX file; whole or not at all.

    Args:
        net: a net made by `precc.compile`.
        args: example inputs, as the net takes them.
        path: of the file.

    Raises:
        CaptureError: not a compiled net, or one that torch.export cannot trace.
        PlanError: the exported graph has slots that the trained one has not.
        BackendError: the extra 'onnx' is not installed, or the model does not fit one file (2 GiB).
        OSError: the file cannot be written.
    """
    model = annotated_model(net, args)
    try:
        content = model.SerializeToString()
    except Exception as error:  # protobuf's own class of error depends on its version
        raise BackendError(f"the model does not fit one ONNX file: {error}") from error
    write_whole(Path(path), content)


def annotated_model(net: PrecisionModule, args: tuple[Any, ...]) -> Any:
    """The annotated graph as an ``onnx.ModelProto``; the errors of `export_onnx`."""
    if not isinstance(net, PrecisionModule):
        raise CaptureError(f"export_onnx takes a net made by precc.compile, not {type(net).__name__}")
    if not isinstance(args, tuple):
        raise CaptureError(f"args is the tuple of the net's inputs, such as (x,), not {type(args).__name__}")
    _require_onnx()
    with warnings.catch_warnings():
        # torch.export at itself: it copies its pytree specs in a way that it has deprecated, and
        # remarks on the weights that its own recurrent layers keep in a list
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*_flat_weights", category=UserWarning)
        with opened_products(fused_attention=session_of(net).options.fused_attention):
            program = _translate(_exported(net, args))
    translated = program.exported_program
    products = _products(net, translated)
    slots = {operand.slot.name: product for product in products.values() for operand in product.operands}
    session = session_of(net)
    known = session.graphs.multiply_adds
    if any(graph.training for graph in session.graphs.known) and (strange := sorted(set(slots) - set(known))):
        raise PlanError(
            f"torch.export sees {len(strange)} slot(s) that the trained graph has not, such as {strange[0]!r}: "
            "does the forward depend on training mode, or break the graph inside a module?"
        )
    plan = net.plan.resolve({name: size_value(product.multiply_adds, {}) for name, product in slots.items()})
    opaque = {node.name: record.reason for node, record in unrounded_of(translated.graph_module.graph)}
    annotated: set[str] = set()
    for node in program.model.graph:
        product = products.get(_fx_name(node.metadata_props))
        reason = opaque.get(_fx_name(node.metadata_props))
        if reason is not None and node.op_type in _PRODUCT_OPS | _RECURRENT_OPS:
            node.metadata_props["precc.not_annotated"] = f"{reason}; slots that it has in training are in precc.plan"
        if product is not None and node.op_type in _PRODUCT_OPS:
            annotated.add(product.op)
            node.metadata_props["precc.op"] = product.op
            for operand in (*product.operands, *_stored(product, plan)):
                key = f"precc.{operand.slot.role.value}.{operand.slot.operand}"
                node.metadata_props[key] = str(plan.precision(operand.slot.name))
            accumulator = product.sums(plan)
            if accumulator is not None:
                role = product.role.value
                node.metadata_props[f"precc.{role}.accumulator"] = json.dumps(sums_to_json(accumulator))
    lost = sorted({product.op for product in products.values()} - annotated)
    if lost:
        raise BackendError(
            f"torch.onnx translated the product {lost[0]!r} to none of {', '.join(sorted(_PRODUCT_OPS))}"
        )
    program.model.metadata_props["precc.plan"] = plan.to_json()
    return program.model_proto


def _stored(product: Product, plan: PrecisionPlan) -> tuple[Operand, ...]:
    """The result of a product, if a plan rounds it."""
    result = product.result
    return (result,) if result is not None and result.is_rounded(plan) else ()


#: ONNX ops that compute a product; an addition beside it, or a transpose, gets no annotation.
_PRODUCT_OPS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})

#: Ops with products inside, which have slots in training and one node here.
_RECURRENT_OPS = frozenset({"GRU", "LSTM", "RNN"})


def _products(net: PrecisionModule, program: ExportedProgram) -> dict[str, Product]:
    """The products of an exported program by node name, with the slots that they have in training."""
    graph: GraphModule = program.graph_module
    placeholders = [node.name for node in graph.graph.find_nodes(op="placeholder")]
    inputs = set(program.graph_signature.user_inputs)
    context = GraphContext(
        constants=frozenset(name for name in placeholders if name not in inputs),
        plan=None,
        layers={},
        aliases=aliases_of(net),
        frame=0,
        numbers=CallNumbers(),
    )
    session_of(net).options.naming.run(graph, context)
    captured = session_of(net).graphs.modules(net)
    found = [(node.name, product) for node, product in products_of(graph.graph)]
    return {name: product for name, product in found if product.operands[0].slot.layer in captured}


def _exported(net: PrecisionModule, args: tuple[Any, ...]) -> ExportedProgram:
    model = original(net)
    with _eval_mode(model):
        try:
            program = torch.export.export(model, args)
        except Exception as error:
            hint = ": set model.config.use_cache = False" if "Cache" in str(error) else ""
            raise CaptureError(f"torch.export cannot trace {type(model).__name__}: {error}{hint}") from error
    # these hide their products; training sees them opened
    hiding = [torch.ops.aten.einsum.default]
    if not session_of(net).options.fused_attention:
        hiding.append(torch.ops.aten.scaled_dot_product_attention.default)
    decompositions = default_decompositions()
    opened: ExportedProgram = program.run_decompositions({op: decompositions[op] for op in hiding})
    return opened


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _translate(program: ExportedProgram) -> Any:
    """Torch's translation, without its remarks on packages that precc does not use."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        # the optimizer folds batch norms into convolutions: the product would no longer be the one that was trained
        return torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
    except Exception as error:
        raise CaptureError(f"torch.onnx cannot translate the graph: {error}") from error
    finally:
        registration.setLevel(level)


def _fx_name(metadata: Mapping[str, str]) -> str:
    name = re.match(r"%(\w+)", metadata.get(_FX_NODE, ""))
    return name[1] if name else ""


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BackendError(f"export_onnx needs the extra 'onnx': pip install 'precc[onnx]' ({error})") from error
