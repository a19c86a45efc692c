"""Products of matrices in two passes by one kernel."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.accumulation.kernels import Kernels
from precc.accumulation.magnitudes import Numerator, vector_norms
from precc.accumulation.product_arithmetic import ProductArithmetic
from precc.accumulation.two_pass_rule import Choice, Problem, TwoPass, slot_of
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.load import launch
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.accumulate import Shape, grid_of_programs
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.backends.triton.templates.two_pass import Passes, Question, two_pass_source, two_pass_values
from precc.backends.triton.toolchain import device_of
from precc.formats import Granularity
from precc.rounding import Row

__all__ = ["two_pass", "why_not_fused"]


def why_not_fused(problem: Problem, choice: Choice) -> str:
    """Why no kernel has both passes of a product, which is then one kernel each; empty where there is one."""
    last = problem.operands[0].dim() - 1
    if problem.axes != ((last, last - 1), (last - 1, last)) or last not in (1, 2):
        return "a convolution in two passes is a kernel each"
    if not problem.terms:
        return "there is nothing to sum"
    if choice.select is None and not isinstance(choice.activation, str):
        return "an activation that is a function of the user has its condition numbers by tensor operations"
    return ""


def two_pass(
    problem: Problem, low: ProductArithmetic, high: ProductArithmetic, choice: Choice, key: int, kernels: Kernels
) -> TwoPass | None:
    """`precc.accumulation.two_pass_rule.compute` by one kernel; None where `why_not_fused` says why there is none.

    Operands that are rounded with scales found from their values, and those whose norms are asked for, are rounded
    before, by `kernels`; others in the kernel.
    """
    if why_not_fused(problem, choice):
        return None
    batched = len(problem.shape) == 3
    shape = problem.shape if batched else (1, *problem.shape)
    result = problem.operands[0].new_zeros(problem.shape)
    again = torch.zeros(problem.shape, dtype=torch.bool, device=result.device)
    condition = None
    if choice.select is None:
        condition = torch.full(problem.shape, 0.0, dtype=torch.float64, device=result.device)
    if not result.numel():
        return TwoPass(result, again, condition)
    norms = choice.select is None and choice.numerator is Numerator.NORMS
    of_low = _rounded(problem, low, "low", key, kernels, before=norms)
    of_high = _rounded(problem, high, "high", key, kernels, before=False)
    passes = Passes(low.accumulator, high.accumulator, _texts(of_low), _texts(of_high))
    sizes = Shape(shape[0], shape[0], shape[1], shape[2], problem.terms)
    question = Question(True)
    if choice.select is None:
        assert isinstance(choice.activation, str)
        question = Question(False, choice.activation, norms, problem.factor, problem.bias is not None)
    source = two_pass_source(passes, question, sizes, device_of(result), first=problem.first)
    args: list[Any] = [value for own in (*of_low, *of_high) for value in own.values(key)]
    args += [result, again, *_asked(problem, choice, condition, norms, of_low, shape)]
    sums = (
        LiveRow(None, low.accumulator, key, slot_of("low.sum")),
        LiveRow(None, high.accumulator, key, slot_of("high.sum")),
    )
    args += two_pass_values(passes, sizes, sums, result.device, problem.first)
    launch(source, grid_of_programs(sizes, dict(source.tile)), args)
    return TwoPass(result, again, condition)


def _asked(
    problem: Problem,
    choice: Choice,
    condition: Tensor | None,
    norms: bool,
    of_low: "tuple[_Rounded, _Rounded]",
    shape: tuple[int, ...],
) -> list[Any]:
    """The values of what a kernel is given to decide."""
    if condition is None:
        assert choice.select is not None
        return [choice.select.contiguous()]
    args: list[Any] = [condition, torch.tensor([choice.tau], dtype=torch.float64, device=condition.device)]
    if norms:
        a, b = (own.x.double() for own in of_low)
        args += [vector_norms(a.transpose(1, 2)), vector_norms(b)]
    if problem.bias is not None:
        bias = problem.bias.expand(problem.shape).expand(shape)
        args += [bias, *bias.stride()]
    return args


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """An operand of one pass, as [items, ...]; the row to which the kernel rounds it, None where it need not."""

    x: Tensor
    row: Row | None

    @property
    def text(self) -> Operand:
        if self.row is None:
            return Operand(self.x.dtype)
        return Operand(self.x.dtype, rounding_text(self.row, self.x.dtype, self.x.numel() > 1 << 32), self._scaled)

    @property
    def _scaled(self) -> bool:
        return self.row is not None and self.row.granularity is not None

    def values(self, key: int) -> list[Any]:
        """Of its arguments."""
        found: list[Any] = [self.x, *self.x.stride()]
        if self.row is None:
            return found
        live = LiveRow(self.row, None, key, self.row.slot)
        return [*found, live.on(self.x.device)] if self.text.reads_numbers else found


def _texts(operands: tuple[_Rounded, _Rounded]) -> tuple[Operand, Operand]:
    return operands[0].text, operands[1].text


def _rounded(
    problem: Problem, arithmetic: ProductArithmetic, name: str, key: int, kernels: Kernels, before: bool
) -> tuple[_Rounded, _Rounded]:
    rows = problem.rows(arithmetic, name)
    before = before or not all(_fits(row) for row in rows)
    values = problem.rounded(arithmetic, kernels, key, name) if before else problem.operands
    first, second = (
        _Rounded(
            x.resolve_neg() if x.dim() == 3 else x.resolve_neg()[None],
            None if before or row.is_identity(x.dtype) else row,
        )
        for x, row in zip(values, rows, strict=True)
    )
    return first, second


def _fits(row: Row) -> bool:
    """Whether elements are rounded one by one, with a scale that is given at most."""
    given = row.granularity in (None, Granularity.STATIC) and not row.finds_scales and not row.lacks_history
    return given and row.transform is None and not row.mode_needs_state
