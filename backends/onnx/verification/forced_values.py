"""What torch computes from one rounding to the next, and by how much another order of float operations may be off.

The traced forward runs once in its own types, each rounding where the file has it; this gives the values. Then it runs
in float64, from the same rounded values on: as it is, and with every value on the way changed by a roundoff of its
type, up or down. How far values move is what float arithmetic explains, through sums that cancel, softmax and
norms too: no rounding of a format is between. What jumps (comparisons, indices, whole numbers) is what it was in the
first run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from precc.backends.onnx.traced_net import TracedNet
from precc.backends.onnx.verification.forced_run import ForcedRun, roundoff_of
from precc.errors import CaptureError
from precc.rounding import Row

__all__ = ["ForcedValue", "ForcedValues", "input_names", "is_within"]

#: A runtime's error may be so many times that of torch, or of the changed runs: the largest of these in the tensor.
_FACTOR = 16

#: And so many roundoffs of the largest value: short sums in torch can be exact by chance.
_ROUNDOFFS = 32

#: How often every value is changed.
_CHANGED_RUNS = 2


@dataclass(frozen=True, slots=True, eq=False)
class ForcedValue:
    """Of one tensor.

    Args:
        value: in the net's own type.
        tolerance: by how much another order of operations may be off.
    """

    value: Tensor
    tolerance: float


@dataclass(frozen=True, slots=True, eq=False)
class ForcedValues:
    """Of one net and its inputs.

    Args:
        before: what is rounded, by slot.
        after: what it is rounded to, by slot.
        outputs: the tensors that the net returns.
    """

    before: Mapping[str, ForcedValue]
    after: Mapping[str, Tensor]
    outputs: tuple[ForcedValue, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, traced: TracedNet, rows: Mapping[str, Row], leaves: Sequence[Any]) -> "ForcedValues":
        """Run the net.

        Args:
            traced: the net.
            rows: by which slots are rounded; the others are not.
            leaves: of its inputs, in their order.

        Raises:
            CaptureError: torch cannot run the traced forward by itself, or not in float64.
        """
        try:
            own = ForcedRun(traced, rows)
            outputs = own.outputs(leaves)
            runs = [ForcedRun(traced, rows, own, change) for change in range(_CHANGED_RUNS + 1)]
            wide = [run.outputs(leaves) for run in runs]
        except Exception as error:  # of any operator
            raise CaptureError(f"torch cannot run the traced forward by itself: {error}") from error
        before = {
            slot: ForcedValue(value, _tolerance(value, [run.before[slot] for run in runs]))
            for slot, value in own.before.items()
        }
        found = [ForcedValue(own, _tolerance(own, others)) for own, *others in zip(outputs, *wide, strict=True)]
        return cls(before, own.after, tuple(found))


def input_names(traced: TracedNet) -> tuple[str, ...]:
    """Of the net's inputs, in the order of their leaves."""
    specs = traced.program.graph_signature.input_specs
    return tuple(str(spec.arg.name) for spec in specs if spec.kind is InputKind.USER_INPUT)


def _tolerance(own: Tensor, wide: Sequence[Tensor]) -> float:
    """Of a tensor whose values are finite, by its run in float64 and those with changed values."""
    if not own.is_floating_point() or not own.numel():
        return 0.0
    exact, *changed = wide
    moved = torch.stack([(other.double() - exact).abs() for other in (own, *changed)])
    moved = torch.where(own.isfinite() & moved.isfinite(), moved, 0.0)
    largest = torch.where(own.isfinite(), own.double().abs(), 0.0).max()
    tiny = torch.finfo(own.dtype).tiny  # subnormal numbers may be taken for zero
    return float(_FACTOR * moved.max() + _ROUNDOFFS * roundoff_of(own) * largest) + tiny


def is_within(found: Tensor, expected: ForcedValue) -> tuple[bool, float]:
    """Whether values are within the tolerance, and by how much they are off; what is not finite is to be equal."""
    own = expected.value
    if not own.is_floating_point() or not found.is_floating_point():
        same = found.dtype == own.dtype and torch.equal(found, own)
        return same, 0.0 if same else math.nan
    found, own = found.double(), own.double()
    equal = (found == own) | (found.isnan() & own.isnan())
    off = float(torch.where(equal, 0.0, (found - own).abs()).max()) if own.numel() else 0.0
    return off <= expected.tolerance, off
