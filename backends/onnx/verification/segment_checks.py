"""What an exported file computes from one rounding to the next, compared with torch: no format's roundoff is between.

The graph is cut at every rounded tensor, and fed there with what torch rounds. A rounding can thus neither hide nor
enlarge what is wrong before it: an activation, a bias, a norm, padding, or an output that was changed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.verification.findings import Findings, Runtime
from precc.backends.onnx.verification.forced_values import ForcedValue, ForcedValues, is_within
from precc.backends.onnx.verification.runtimes import Arrays
from precc.backends.onnx.verification.slot_graphs import FED, TAP, ModelParts

__all__ = ["SegmentChecks"]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentChecks:
    """On one runtime.

    Args:
        parts: of the model.
        places: of the slots, by slot.
        forced: what torch computes.
        runtime: what is to be compared.
        findings: where what is found goes.
    """

    parts: ModelParts
    places: Mapping[str, SlotPlace]
    forced: ForcedValues
    runtime: Runtime
    findings: Findings

    def run(self, feeds: Arrays, tapped: Arrays) -> None:
        """Compare what is rounded, and the outputs.

        Args:
            feeds: inputs of the model by name.
            tapped: values of the tensors in one run of the model, for their types.
        """
        cuts = dict(self._cuts(tapped))
        wanted = dict(self._wanted(cuts))
        fed = {f"{FED}{name}": value for name, value in cuts.items()}
        found = self.runtime.run(self.parts.forced(cuts, wanted), {**feeds, **fed}, "the model from rounded values")
        for name, (what, expected) in wanted.items() if found is not None else ():
            assert found is not None
            self._compare(what, expected, found[f"{TAP}{name}"])

    def _cuts(self, tapped: Arrays) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for slot, place in self.places.items():
            value, known = self.forced.after.get(slot), tapped[place.rounded]
            if value is None:
                continue
            if value.shape != known.shape:
                text = f"{slot}: the shape of {place.rounded!r} is {list(known.shape)}, not {list(value.shape)}"
                self.findings.problem(text)
                continue
            yield place.rounded, value.cpu().numpy().astype(known.dtype)

    def _wanted(self, cuts: Arrays) -> Iterator[tuple[str, tuple[str, ForcedValue]]]:
        """By the name of a tensor what it is, and what torch computes."""
        for slot, place in self.places.items():
            if place.source and slot in self.forced.before:
                yield place.source, (f"what {slot} is rounded from", self.forced.before[slot])
        pairs = zip(self.parts.model.graph.output, self.forced.outputs, strict=False)
        for number, (output, expected) in enumerate(pairs):
            if output.name not in cuts:
                yield output.name, (f"output {number}", expected)

    def _compare(self, what: str, expected: ForcedValue, found: npt.NDArray[Any]) -> None:
        own = expected.value
        if own.shape != found.shape:
            text = f"{self.runtime.name}: {what} has the shape {list(found.shape)}, not {list(own.shape)}"
            self.findings.problem(text)
            return
        if not own.numel():
            self.findings.note(f"{what} is empty with these inputs: what computes it is not compared")
            return
        within, off = is_within(torch.from_numpy(np.ascontiguousarray(found)).reshape(own.shape), expected)
        if not within:
            self.findings.problem(
                f"{self.runtime.name}: {what} is off by {off:.3g} from what the net computes from the same rounded "
                f"values; float arithmetic in another order explains {expected.tolerance:.3g}"
            )
