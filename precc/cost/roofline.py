"""Roofline: the seconds that a device takes, from figures that are measured on it."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from precc.accumulation.accumulator import Accumulator
from precc.checks import require_number
from precc.cost.cast_kernels import cast_kernels, is_weight, layouts_of
from precc.cost.native_formats import bytes_of, holds, narrowest
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.devices.at_hand import device_at_hand, gpus_at_hand
from precc.devices.figures import DeviceFigures
from precc.devices.published import PUBLISHED
from precc.devices.timed_work import PairRate
from precc.errors import PlanError, expected_one_of
from precc.formats import Format
from precc.precision import Precision
from precc.target import TARGETS, Target, multiplied

__all__ = ["Roofline"]

_DTYPES = {
    str(own).removeprefix("torch."): own for own in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}
_NARROW = 8

#: What sums that are promoted cost beside others (8192^3: pytorch/FBGEMM#2546).
_PROMOTION = 1126 / 870 - 1


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Roofline:
    """Seconds of the products of a step and of the casts before them: ``max(launch, flops / rate, bytes / bandwidth)``
    for each kernel, one after another.

    A product reads its operands and writes its results. It runs in the pair of formats, of those that the device
    multiplies, that holds both operands and takes the least time: its own, or wider ones as emulation has it
    (`precc.cost.native_formats.holds`). Sums as the device adds them cost nothing more; ``"hopper_fp8_promoted"`` and
    its kin take `promotion` times the product's time more on sm_90, and sums that the device has only in emulation are
    not for sale: their cost is infinite.

    A result with a slot is read once more by the kernel behind its product, in the width that it is stored in; that it
    is written is part of the product's time, in `tensors`, which is too much, by the difference of the widths, where a
    product waits for memory and its result is narrower. Operands in its precision read it as it is.

    A tensor is cast once for each precision that reads it, to the narrowest format of the device that holds it; nothing
    where that leaves `tensors` as they are. 8-bit operands of k-major targets have a copy for each dimension that their
    readers contract, and scales need passes of their own (`precc.cost.cast_kernels`). Elementwise operations,
    optimizers and what no product reads are not counted: no plan changes them.

    Args:
        device: figures, the file that ``precc calibrate`` wrote, or the name of published ones: "H100-SXM-published",
            "H200-SXM-published".
        tensors: dtype of what is cast, and of results: "bfloat16", "float16", "float32" or "float64".
        fused: whether the first pass over an activation or a gradient finds it where the kernel that makes it has it,
            and reads nothing.
        promotion: 870e12 flop/s with blocks of 128 terms promoted, beside 1126e12 (8192^3: pytorch/FBGEMM#2546).
        anywhere: whether to plan with a file of another machine; see `target_problem`.

    Raises:
        PlanError: no such figures, a file that is damaged, or an option that makes no sense.

    >>> model = Roofline("H100-SXM-published")
    >>> model, model.unit
    (Roofline('H100-SXM-published'), 's')
    """

    device: DeviceFigures
    tensors: str
    fused: bool
    promotion: float
    anywhere: bool

    def __init__(
        self,
        device: DeviceFigures | Path | str,
        *,
        tensors: str = "bfloat16",
        fused: bool = False,
        promotion: float = _PROMOTION,
        anywhere: bool = False,
    ) -> None:
        if not isinstance(tensors, str) or tensors not in _DTYPES:
            raise PlanError(f"tensors have the dtype {tensors!r}: {expected_one_of(_DTYPES)}")
        require_number(promotion, "promotion, a share of a product's time,", zero=True)
        object.__setattr__(self, "device", _figures(device))
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "fused", bool(fused))
        object.__setattr__(self, "promotion", float(promotion))
        object.__setattr__(self, "anywhere", bool(anywhere))

    @property
    def unit(self) -> str:
        return "s"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        """Raises PlanError if no pair of the device holds both operands."""
        formats = multiplied(first), multiplied(second)
        ways = _ways(self.device.rates, *formats)
        if not ways:
            names = " x ".join(own.name for own in formats)
            raise PlanError(f"{self.device.name} multiplies no formats that hold {names}")
        flops = 2 * work.multiply_adds / len(work.pairs)
        results = work.outputs * _DTYPES[self.tensors].itemsize
        sizes = [work.elements[position] for position in pair]
        sizes[1] *= pair[0] != pair[1]  # the backward of fused attention is known by one operand
        return min(
            self.device.seconds(results + sizes[0] * own + sizes[1] * other, flops=flops, rate=rate)
            for own, other, rate in ways
        )

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        if accumulator is None:
            return 0.0
        target = TARGETS.get(self.device.target)
        operands = [own[1:] for own in (target.accumulators if target else ()) if own[0] == accumulator]
        if not operands:
            return math.inf
        if accumulator.inner is None:
            return 0.0
        rate = max(rate for _, _, rate in _ways(self.device.rates, *operands[0]))
        return self.promotion * 2 * work.multiply_adds / rate

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        """Raises PlanError if the device has no format that holds the copy."""
        dtype = _DTYPES[self.tensors]
        if tensor.result is not None:
            return self._stored(tensor, precision, dtype)
        if not precision.changes(dtype):
            return 0.0
        native = narrowest(self.device.natives, multiplied(precision))
        if native is None:
            raise PlanError(f"{self.device.name} multiplies no format that holds {multiplied(precision).name}")
        read, written = (float(size * tensor.elements) for size in (dtype.itemsize, bytes_of(native)))
        k_major = native.bits <= _NARROW and self._is_k_major
        first, *rest = cast_kernels(tensor, precision, read, written, k_major=k_major)
        found = self.fused and not is_weight(tensor)
        return sum(map(self.device.seconds, [first - read * found, *rest]))

    def _stored(self, tensor: TensorWork, precision: Precision, dtype: torch.dtype) -> float:
        """Of a result: it is read, and laid out another time if operands need it along and across."""
        native = narrowest(self.device.natives, multiplied(precision)) if precision.changes(dtype) else None
        if native is None and precision.changes(dtype):
            raise PlanError(f"{self.device.name} has no format that holds results in {multiplied(precision).name}")
        size = tensor.elements * (dtype.itemsize if native is None else bytes_of(native))
        k_major = native is not None and native.bits <= _NARROW and self._is_k_major
        readers = replace(tensor, slots=tuple(slot for slot in tensor.slots if not slot.is_result))
        again = layouts_of(readers, precision, k_major=k_major) - 1
        return self.device.seconds(size) + (self.device.seconds(size * (1 + again)) if again > 0 else 0.0)

    def constant(self, step: StepWork) -> float:
        return 0.0

    def target_problem(self, target: Target) -> str:
        """Why these are not the times of a plan's target; empty if they are.

        A target of `precc.TARGETS` is to be the device's own; one of the user's own is taken to be the device. Figures
        of a file are to be those of this machine, if it has a device that runs the target, unless `anywhere` says that
        the plan is for another one.
        """
        device = self.device
        if target.name in TARGETS and target.name != device.target:
            way = f"give target={device.target!r}" if device.target in TARGETS else "give a precc.Target of its own"
            return f"{self!r} has the times of {device.target}, not of {target.name}: {way}, or another cost"
        if self.anywhere or device.kind == "published":
            return ""
        here = [device_at_hand("cpu").name] if device.kind == "cpu" else gpus_at_hand(device.target)
        if not here or device.name in here:
            return ""
        return (
            f"the figures are of {device.name!r}, and this machine has {' and '.join(map(repr, here))}: "
            "measure it with `precc calibrate`, or plan for the other one with Roofline(..., anywhere=True)"
        )

    @property
    def _is_k_major(self) -> bool:
        target = TARGETS.get(self.device.target)
        return target is not None and target.layout == "k-major"

    def __repr__(self) -> str:
        dated = f"{self.device.name} of {self.device.date}" if self.device.date else self.device.name
        options = [f"tensors={self.tensors!r}"] * (self.tensors != "bfloat16") + ["fused=True"] * self.fused
        options += [f"promotion={self.promotion:g}"] * (self.promotion != _PROMOTION)
        return f"Roofline({', '.join([repr(dated), *options])})"


def _figures(device: object) -> DeviceFigures:
    if isinstance(device, DeviceFigures):
        return device
    if isinstance(device, str) and device in PUBLISHED:
        return PUBLISHED[device]
    if not isinstance(device, (str, Path)):
        raise PlanError(f"a device is its figures, a file of them, or {expected_one_of(PUBLISHED)}; not {device!r:.60}")
    try:
        return DeviceFigures.load(device)
    except PlanError as error:
        known = "" if Path(device).exists() else f"; published figures: {', '.join(map(repr, PUBLISHED))}"
        raise PlanError(f"{error}{known}") from error


@lru_cache(maxsize=4096)
def _ways(rates: tuple[PairRate, ...], first: Format, second: Format) -> tuple[tuple[float, float, float], ...]:
    """Bytes of a value of each operand, and the rate, of each pair of a device that holds both."""
    turns = [(pair, own.flops) for own in rates for pair in dict.fromkeys([own.formats, own.formats[::-1]])]
    return tuple((bytes_of(a), bytes_of(b), rate) for (a, b), rate in turns if holds(a, first) and holds(b, second))
