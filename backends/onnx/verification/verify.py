"""Whether an exported file computes what precc computes: weights, roundings, products, and what is between them.

What is between is compared with torch, from the same rounded values on (`segment_checks`); so are the outputs. Each
rounding is compared bit for bit three times: on the values that it has in the model, on probe values alone, and on
probe values as the product shows them (`product_probes`), where the runtime is not asked for the rounded values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.exported_program import eval_mode
from precc.backends.onnx.flavors import parse_flavor
from precc.backends.onnx.load_plan import contradictions, model_document, read_model
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.verification.document_checks import check_document
from precc.backends.onnx.verification.findings import Findings, Runtime
from precc.backends.onnx.verification.forced_values import ForcedValues, input_names
from precc.backends.onnx.verification.net_checks import check_captured, check_constants, check_net, own_weights
from precc.backends.onnx.verification.runtime_checks import RuntimeChecks
from precc.backends.onnx.verification.runtimes import RUNTIMES, Arrays, runtimes_named
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.backends.onnx.verification.structure import check_places
from precc.backends.onnx.verification.tensor_arrays import array_of
from precc.backends.onnx.verification.verification import OnnxVerification
from precc.errors import CaptureError
from precc.module import PrecisionModule, original

__all__ = ["verify_onnx"]


def verify_onnx(
    path: str | Path,
    net: PrecisionModule,
    inputs: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    runtimes: str | Sequence[str] = tuple(RUNTIMES),
) -> OnnxVerification:
    """Compare a file of `precc.export_onnx` with the net that it was made from.

    Args:
        path: of the file.
        net: made by `precc.compile`, with the plan that it was exported with.
        inputs: example inputs, as the net takes them; they stay as they are.
        kwargs: inputs by name, after those.
        runtimes: what is to run the file: ``"onnxruntime"``, on the CPU, and ``"reference"``, the evaluator of onnx;
            or one of them.

    Raises:
        PlanError: the file cannot be read, is no ONNX file, or not one of precc's.
        CaptureError: the net is not a compiled one, or torch.export cannot trace it.
        BackendError: an unknown runtime, or none.
        ExtraError: onnx or a runtime is not installed.
    """
    example = _Example.of(net, inputs, {} if kwargs is None else kwargs)
    chosen = runtimes_named(runtimes)
    model = read_model(path, weights=True)
    document = model_document(model, path)
    parts = ModelParts(model)
    findings = Findings(filter(_is_comparable, document.places.values()), chosen)
    if not parse_flavor(document.flavor).rounds:
        findings.note(
            f"flavor {document.flavor!r}: the file computes no rounding, and is compared with the plain model"
        )
    for text in contradictions(model, document):
        findings.problem(text)
    with opened_for_export(net):
        traced = TracedNet.of(net, *example.copied(), None)
    check_net(net, traced, document, findings)
    check_constants(traced, parts, findings)
    check_document(model, document, findings)
    places = check_places(parts, document, findings)
    feeds = _feeds(parts, dict(zip(input_names(traced), example.leaves, strict=True)), findings)
    own = _outputs_of(net if document.flavor != "annotate" else original(net), *example.copied())
    check_captured(net, document, findings)
    rows = {slot: place.rounding.row for slot, place in places.items() if is_rounded(place)}
    forced = ForcedValues.of(traced, rows, example.leaves)
    _check_outputs(parts, len(forced.outputs), findings)
    if feeds is not None:
        weights = own_weights(traced)
        for name, prepare in chosen.items():
            runtime = Runtime(name, prepare, findings)
            RuntimeChecks(parts, places, weights, document.flavor, forced, runtime, findings).run(feeds, own)
    findings.close()
    return OnnxVerification(str(path), findings.rows, tuple(findings.problems), tuple(findings.notes))


@dataclass(frozen=True, slots=True, eq=False)
class _Example:
    """Inputs of the net, which a net that changes its inputs gets copies of."""

    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, net: Any, inputs: Any, kwargs: Any) -> "_Example":
        if not isinstance(net, PrecisionModule):
            raise CaptureError(f"verify_onnx takes a net made by precc.compile, not {type(net).__name__}")
        if not isinstance(inputs, tuple):
            raise CaptureError(f"inputs is the tuple of the net's inputs, such as (x,), not {type(inputs).__name__}")
        if not isinstance(kwargs, Mapping):
            raise CaptureError(f"kwargs has the net's inputs by name, and is no {type(kwargs).__name__}")
        return cls(inputs, dict(kwargs))

    @property
    def leaves(self) -> list[Any]:
        return _pytree.tree_leaves((self.inputs, self.kwargs))

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = {id(leaf): leaf.detach().clone() for leaf in self.leaves if isinstance(leaf, Tensor)}
        copies = [own.get(id(leaf), leaf) for leaf in self.leaves]  # what is one tensor stays one
        made: tuple[tuple[Any, ...], dict[str, Any]]
        made = _pytree.tree_unflatten(copies, _pytree.tree_structure((self.inputs, self.kwargs)))
        return made


def _is_comparable(place: SlotPlace) -> bool:
    """Whether its rounding shows, or that there is none: a result is what it is."""
    return is_rounded(place) or not place.result


def _feeds(parts: ModelParts, inputs: Mapping[str, Any], findings: Findings) -> Arrays | None:
    """The net's tensors by the names of its forward, which are those of the file's inputs."""
    tensors = {name: own for name, own in inputs.items() if isinstance(own, Tensor)}
    for name in sorted(set(parts.inputs) - set(tensors)):
        findings.problem(f"the file has an input {name!r}, and the net was given no such tensor")
    for name in sorted(set(tensors) - set(parts.inputs)):
        findings.problem(f"the net was given a tensor {name!r}, and the file has no such input")
    if set(tensors) != set(parts.inputs):
        return None
    return {name: array_of(tensors[name].clone()) for name in parts.inputs}


def _outputs_of(net: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    with _as_it_is(net), torch.no_grad():
        leaves = _pytree.tree_leaves(net(*inputs, **kwargs))
    return [array_of(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


def _check_outputs(parts: ModelParts, count: int, findings: Findings) -> None:
    names = [output.name for output in parts.model.graph.output]
    for number in range(len(names), count):
        findings.problem(f"output {number} of the net is none of the file, which has {len(names)}")
    for name in names[count:]:
        findings.problem(f"the output {name!r} of the file is none of the net, which has {count}")


@contextmanager
def _as_it_is(net: nn.Module) -> Iterator[None]:
    """Run a net in eval mode; its modes and buffers are then what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        with eval_mode(net):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
