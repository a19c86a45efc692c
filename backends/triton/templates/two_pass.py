"""The kernel of a product in two passes: the low one, its condition numbers, and again what has a large one."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator, Order
from precc.backends.triton.device import Device
from precc.backends.triton.emit.activations import activation_text
from precc.backends.triton.emit.conversions import POINTERS, to_dtype
from precc.backends.triton.emit.device_functions import joined, literal
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.accumulate import (
    SIZES,
    Shape,
    addresses,
    check_depth,
    loaded,
    module_text,
    placed,
    sums_of_thread,
    tile_for,
    warps_of,
)
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.backends.triton.templates.accumulate_orders import ZEROS, Sum, levels_of

__all__ = ["Passes", "Question", "two_pass_source", "two_pass_values"]


@dataclass(frozen=True, slots=True)
class Passes:
    """Both passes: how each sums, and its operands."""

    low: Accumulator
    high: Accumulator
    low_operands: tuple[Operand, Operand]
    high_operands: tuple[Operand, Operand]

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands and the result: float32 or float64."""
        return self.low_operands[0].dtype

    def sums(self, wide: bool, depth: int) -> tuple[Sum, Sum]:
        """The text of the low and the high sum."""
        low, high = (
            Sum(own, wide, levels_of(depth) if own.order is Order.PAIRWISE else 0, prefix)
            for own, prefix in ((self.low, ""), (self.high, "high_"))
        )
        return low, high


@dataclass(frozen=True, slots=True)
class Question:
    """How a kernel decides what it computes again: by a mask that it is given, or by the condition numbers.

    Args:
        given: whether it is a mask.
        activation: its name, for kappa_phi.
        norms: whether the magnitude of the terms is the product of norms, which are given; else the sum of magnitudes.
        factor: of the sums, before the bias.
        bias: whether one is added to what the activation sees.
    """

    given: bool
    activation: str = "identity"
    norms: bool = False
    factor: float = 1.0
    bias: bool = False


def two_pass_source(
    passes: Passes, question: Question, shape: Shape, device: Device, *, first: int = 0, slots: tuple[str, ...] = ()
) -> KernelSource:
    """The kernel, `precc.accumulation.two_pass_rule.compute` bit for bit, for matrices.

    At run time it is given the arguments of the low operands (``a``, ``b``), of the high ones (``a_high``, ``b_high``),
    ``c_ptr`` and ``again_ptr`` (bool), both contiguous; ``selected_ptr`` (bool), or ``condition_ptr`` (float64),
    ``tau_ptr`` (one float64), the norms of rows and columns ([A, M] and [B, N], float64) and the bias with three
    strides; and `two_pass_values`.

    Raises:
        BackendError: a pairwise sum of too many terms.
    """
    for accumulator in (passes.low, passes.high):
        check_depth(accumulator, shape.depth)
    draws = passes.low.is_stochastic or passes.high.is_stochastic
    wide = draws and (first + shape.outputs) * shape.depth > 1 << 32
    levels = shape.depth if Order.PAIRWISE in (passes.low.order, passes.high.order) else 1
    text, arguments = _text(passes, question, wide, levels)
    both = passes.low, passes.high
    warps = min(warps_of(own) for own in both)
    each = min(sums_of_thread(own, levels_of(shape.depth)) for own in both)
    return KernelSource(
        name="two_pass",
        template="two_pass",
        text=text,
        arguments=arguments,
        tile=tile_for(shape, device, 32 * warps * max(1, each // 2)),  # half of the registers are for the other sum
        num_warps=warps,
        num_stages=1,
        slots=slots,
        bytes=(shape.lefts * shape.rows + shape.items * shape.columns) * shape.depth * 2 * passes.dtype.itemsize
        + shape.outputs * (passes.dtype.itemsize + 9),
        flops=4 * shape.outputs * shape.depth,
    )


def two_pass_values(
    passes: Passes, shape: Shape, live: tuple[LiveRow, LiveRow], device: torch.device, first: int
) -> tuple[Tensor | int, ...]:
    """The last arguments: sizes, number of the first output, and the numbers of the rows of both sums, if any."""
    both = zip(passes.sums(False, 1), live, strict=True)
    numbers = (row.on(device) for own, row in both for _ in own.arguments)
    return (*(getattr(shape, name) for name in SIZES), first, *numbers)


@lru_cache(maxsize=256)
def _text(passes: Passes, question: Question, wide: bool, depth: int) -> tuple[str, tuple[Argument, ...]]:
    low, high = passes.sums(wide, depth)
    arguments = (
        *(argument for own, name in zip(passes.low_operands, "ab", strict=True) for argument in own.arguments(name)),
        *(
            argument
            for own, name in zip(passes.high_operands, ("a_high", "b_high"), strict=True)
            for argument in own.arguments(name)
        ),
        Argument("c_ptr", POINTERS[passes.dtype]),
        Argument("again_ptr", "*i1"),
        *_asked(question, passes.dtype),
        *(Argument(name, "i32") for name in SIZES),
        Argument("first_output", "i64"),
        *low.arguments,
        *high.arguments,
    )
    converted = to_dtype("tl.float64", passes.dtype).of("total")
    body = [
        f"# each sum in {passes.low}; again in {passes.high} {_when(question)}",
        *placed(),
        *addresses(*passes.low_operands),
        *addresses(*passes.high_operands, "_high"),
        *low.before,
        *high.before,
        *low.lines(lambda k: loaded(*passes.low_operands, k)),
        f"c = {converted}",
        *(_mask() if question.given else _condition(passes, question)),
        "depth = tl.where(tl.max((again & inside).to(tl.int32)) > 0, depth, 0)  # nothing again: no more terms",
        *high.lines(lambda k: loaded(*passes.high_operands, k, "_high")),
        f"c = tl.where(again, {converted}, c)",
        "tl.store(c_ptr + place, c, mask=inside)",
        "tl.store(again_ptr + place, again, mask=inside)",
    ]
    operands = (own.functions for own in (*passes.low_operands, *passes.high_operands))
    asked = [] if question.given else [activation_text(question.activation)[1]]
    functions = joined(*operands, low.functions, high.functions, *asked)
    return module_text("two_pass", functions, arguments, body), arguments


def _asked(question: Question, dtype: torch.dtype) -> list[Argument]:
    if question.given:
        return [Argument("selected_ptr", "*i1")]
    found = [Argument("condition_ptr", "*fp64"), Argument("tau_ptr", "*fp64")]
    found += [Argument("row_norms_ptr", "*fp64"), Argument("column_norms_ptr", "*fp64")] * question.norms
    if question.bias:
        strides = [Argument(f"bias_{part}", "i64") for part in ("item", "row", "column")]
        found += [Argument("bias_ptr", POINTERS[dtype]), *strides]
    return found


def _when(question: Question) -> str:
    if question.given:
        return "where it is asked for"
    return f"where kappa_v = {_magnitude_formula(question)} / |v|, times that of {question.activation}, is above tau"


def _magnitude_formula(question: Question) -> str:
    return "|row| |column|" if question.norms else "sum |a b|"


def _mask() -> list[str]:
    return ["again = tl.load(selected_ptr + place, mask=inside, other=0) != 0"]


def _condition(passes: Passes, question: Question) -> list[str]:
    """Lines for `condition` and `again`, from the low sums `c`."""
    low, high = (literal(torch.tensor(bound, dtype=passes.dtype).item()) for bound in _ends(passes.low))
    factor = literal(torch.tensor(question.factor, dtype=passes.dtype).item())
    shown = "c" if question.factor == 1 else f"c * {factor}"
    lines = [f"shown = {shown}"]
    if question.bias:
        address = "bias_ptr + item.to(tl.int64) * bias_item + row.to(tl.int64) * bias_row"
        address += " + column.to(tl.int64) * bias_column"
        lines = [f"shown = {shown} + tl.load({address}, mask=inside, other=0.0)"]
    kappa = activation_text(question.activation)[0]
    return [
        *_magnitude(passes, question),
        *lines,
        f"v = shown{'' if passes.dtype is torch.float64 else '.to(tl.float64)'}",
        "quotient = magnitude / tl.abs(v)",
        'quotient = tl.where((v - v == 0.0) & (quotient == quotient), quotient, float("inf"))',
        "quotient = tl.where((v == 0.0) & (magnitude == 0.0), 1.0, quotient)",
        f"condition = {kappa}(v) * quotient",
        f"known = (c > {low}) & (c < {high}) & (condition == condition)  # not what may have saturated",
        'condition = tl.where(known, condition, float("inf"))',
        "tl.store(condition_ptr + place, condition, mask=inside)",
        "again = condition > tl.load(tau_ptr)",
    ]


def _ends(accumulator: Accumulator) -> tuple[float, float]:
    return accumulator.format.low, accumulator.format.max


def _magnitude(passes: Passes, question: Question) -> list[str]:
    """Lines for `magnitude`, of the terms."""
    factor = f" * {literal(abs(question.factor))}" if question.factor != 1 else ""
    if question.norms:
        return [
            "row_norms = tl.load(row_norms_ptr + (item % lefts).to(tl.int64) * rows + row, mask=of_a, other=0.0)",
            "column_norms = tl.load(column_norms_ptr + item.to(tl.int64) * columns + column, mask=of_b, other=0.0)",
            f"magnitude = (row_norms * column_norms){factor}",
        ]
    return [
        f"magnitude = {ZEROS}",
        "for k in range(0, depth):",
        *(f"    {line}" for line in loaded(*passes.low_operands, "k")),
        "    magnitude = magnitude + tl.abs(a * b)",
        *([f"magnitude = magnitude{factor}"] if factor else []),
    ]
