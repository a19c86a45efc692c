"""Export the forward graph to ONNX with every rounding of a plan in it.

Metadata of the model: ``precc``, the JSON of an `OnnxDocument`, backward's formats included, which a runtime hands back
(``session.get_modelmeta().custom_metadata_map`` in onnxruntime). On each node that computes a product or a stored sum:
``precc.op``, and for each of its slots ``precc.<role>.<operand>``, the precision, with what an analysis knows of it
behind further dots; ``precc.<role>.accumulator`` (JSON, as in the plan) where its sum is rounded.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from precc.backends.onnx.document import OnnxDocument
from precc.backends.onnx.document_json import document_to_json
from precc.backends.onnx.dynamic_shapes import DynamicShapes
from precc.backends.onnx.expand_markers import expand_markers
from precc.backends.onnx.flavors import Flavor, parse_flavor
from precc.backends.onnx.node_metadata import annotate_nodes
from precc.backends.onnx.opsets import checked_opset
from precc.backends.onnx.refusals import check_expressible
from precc.backends.onnx.slot_coverage import check_coverage
from precc.backends.onnx.slot_facts import facts_of
from precc.backends.onnx.slot_markers import insert_markers
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.translation import translate
from precc.backends.onnx.write_model import require_writable, write_model
from precc.errors import BackendError, CaptureError, expected_one_of
from precc.extras import imported
from precc.module import PrecisionModule, original, session_of

__all__ = ["UNSUPPORTED", "export_onnx", "onnx_model"]

_NONE: Mapping[str, Any] = MappingProxyType({})
#: What becomes of slots that qdq cannot express.
UNSUPPORTED = ("error", "portable")


def export_onnx(
    net: PrecisionModule,
    args: tuple[Any, ...],
    path: str | Path,
    *,
    kwargs: Mapping[str, Any] = _NONE,
    flavor: str = "portable",
    opset: int | None = None,
    dynamic_shapes: Any = None,
    unsupported: str = "error",
    external_data: bool | None = None,
    sidecar: bool = True,
) -> None:
    """Write the net's forward graph, in eval mode, as an ONNX file that computes what its plan says.

    Flavors: ``"portable"``: each rounding is a node ``FloatQuant`` or ``IntQuant`` of QONNX with its body in the file,
    so that stock onnxruntime, ``onnx.reference`` and QONNX compute precc's rounding bit for bit (sums of products are
    in the runtime's order). ``"qdq"``: Cast, QuantizeLinear and DequantizeLinear with ONNX's own types, for TensorRT
    and others. ``"annotate"``: the plain float32 graph, formats as metadata alone. In the first two, weights are stored
    rounded, in the narrowest type that holds them. The file describes itself to `precc.load_plan`, `precc.verify_onnx`
    and `precc.model_explorer_data`.

    Args:
        net: a net made by `precc.compile`.
        args: example inputs, as the net takes them.
        path: of the file.
        kwargs: example inputs by name, after those.
        flavor: as above.
        opset: of ONNX, from 18; by default 26 (portable: below it roundings are slower), 20 (annotate), or the
            first that has the plan's types (qdq).
        dynamic_shapes: which dimensions may change: ``"batch"``: the first of every tensor, by this name;
            ``{0: "batch", 1: "length"}``: these of every tensor that has them; else as torch.export takes it, by
            input, where a name may stand for a dimension. Example inputs have at least 2 in them.
        unsupported: slots that qdq cannot express: ``"error"``, or ``"portable"``: those alone are written so.
        external_data: whether tensors go to a file ``<path>.<8 digits>.data`` beside it; by default if they exceed
            2 GiB. That of the file that is replaced goes.
        sidecar: whether ``<path>.precc.json`` repeats what the file says of itself, for when a tool drops it.

    Raises:
        CaptureError: not a compiled net, or one that torch.export cannot trace.
        PlanError: the exported graph has slots that the trained one has not, or the other way round, or the plan names
            slots of another model.
        BackendError: an unknown flavor or opset, an operator that has no ONNX form, slots that the flavor cannot
            express (all are named), or a model that does not fit one file where external_data is False.
        ExtraError: the extra 'onnx' is not installed.
        OSError: the file cannot be written; what was there before is as it was.
    """
    if not (external_data is None or type(external_data) is bool) or type(sidecar) is not bool:
        raise BackendError("external_data is None, True or False, and sidecar True or False")
    if not isinstance(path, (str, Path)):
        raise BackendError(f"path is that of a file, as text or pathlib.Path, not {path!r:.60}")
    require_writable(Path(path))
    options = {"kwargs": kwargs, "flavor": flavor, "opset": opset, "dynamic_shapes": dynamic_shapes}
    model, document = onnx_model(net, args, unsupported=unsupported, **options)
    write_model(model, Path(path), document_to_json(document) if sidecar else None, external_data=external_data)


def onnx_model(
    net: PrecisionModule,
    args: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] = _NONE,
    flavor: str = "portable",
    opset: int | None = None,
    dynamic_shapes: Any = None,
    unsupported: str = "error",
) -> tuple[Any, OnnxDocument]:
    """The ``onnx_ir.Model`` that `export_onnx` writes, and what it says of itself; its arguments and errors."""
    _check_arguments(net, args, kwargs)
    written = _flavors(flavor, unsupported)
    for module in ("onnx", "onnxscript", "onnx_ir"):
        imported(module, "onnx")
    with opened_for_export(net):
        shapes = DynamicShapes.of(dynamic_shapes, original(net), args, kwargs)
        traced = TracedNet.of(net, args, kwargs, shapes.traced)
        check_coverage(net, traced)
        plan = traced.plan(net)
        markers = insert_markers(net, traced, plan)
        roundings = [own.rounding for own in markers.values() if own.is_rounded]
        chosen = checked_opset(written[0].opset(roundings) if opset is None else opset)
        flavor_of = check_expressible(written, traced, markers, plan, chosen)
        model = translate(traced.program, chosen, shapes.named)
    facts = facts_of(session_of(net).analysis, plan)
    places = expand_markers(model, markers, flavor_of, chosen, facts)
    document = OnnxDocument(written[0].name, chosen, plan, places)
    annotate_nodes(model, traced, document)
    return model, document


def _check_arguments(net: PrecisionModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if not isinstance(net, PrecisionModule):
        raise CaptureError(f"export_onnx takes a net made by precc.compile, not {type(net).__name__}")
    if not isinstance(args, tuple):
        raise CaptureError(f"args is the tuple of the net's inputs, such as (x,), not {type(args).__name__}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise CaptureError(f"kwargs has the net's inputs by name, and is no {type(kwargs).__name__} of that form")


def _flavors(flavor: str, unsupported: str) -> tuple[Flavor, ...]:
    """The flavor, and the one that takes its place for slots that it cannot express."""
    if not isinstance(unsupported, str) or unsupported not in UNSUPPORTED:
        raise BackendError(f"unsupported is {unsupported!r:.60}: {expected_one_of(UNSUPPORTED)}")
    return tuple(
        dict.fromkeys((parse_flavor(flavor), *(() if unsupported == "error" else (parse_flavor(unsupported),))))
    )
