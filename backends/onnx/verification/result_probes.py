"""Results that a file stores rounded, probed: what a sum or a product makes of probe values, rounded at last."""

from typing import Any

import numpy as np

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.verification.findings import Findings, Runtime
from precc.backends.onnx.verification.probes import ProbeLimits, probes_like
from precc.backends.onnx.verification.runtimes import Arrays, EvaluatorError, evaluated
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.slot_values import rounded_by_precc
from precc.errors import BackendError

__all__ = ["probe_result"]


def probe_result(
    parts: ModelParts,
    node: Any,
    place: SlotPlace,
    tapped: Arrays,
    limits: ProbeLimits,
    runtime: Runtime,
    findings: Findings,
) -> None:
    """Feed the sum that the node computes with probe values and zeros; a product, at its output.

    Args:
        parts: of the model.
        node: that computes the result (``onnx.NodeProto``).
        place: of the result.
        tapped: the values of tensors in one run of the model.
        limits: which probes are left out.
        runtime: that is to be compared.
        findings: where what is found goes.
    """
    slot, row = place.rounding.slot, place.rounding.row
    feeds = _fed(node, place, tapped, limits)
    try:
        exact = evaluated(parts.part(feeds, [place.source]), feeds)[place.source]
        part = parts.part(feeds, [place.rounded])
    except EvaluatorError as error:
        findings.excuse(slot, f"the result of {node.name!r} is not probed: {error}")
        return
    except BackendError as error:
        findings.problem(f"{slot}: the result of {node.name!r} cannot be probed: {error}")
        return
    found = runtime.run(part, feeds, f"the result of {node.name!r}")
    if found is not None:
        expected = rounded_by_precc(exact, row)
        findings.compare(slot, runtime.name, expected, found[place.rounded], f"the result of {node.name}", zeros=False)


def _fed(node: Any, place: SlotPlace, tapped: Arrays, limits: ProbeLimits) -> Arrays:
    # only an addition: another sum would have to be exact in any order
    names = list(dict.fromkeys(node.input)) if node.op_type in ("Add", "Sum") else [node.output[0]]
    first, *others = sorted(names, key=lambda name: -tapped[name].size)
    probes = probes_like(tapped[first].shape, place.rounding.row, finite=True, limits=limits)
    return {
        first: probes.numpy().astype(tapped[first].dtype),
        **{name: np.zeros_like(tapped[name]) for name in others},
    }
