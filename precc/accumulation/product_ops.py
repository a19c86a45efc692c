"""The operators that compute a product with a rounded sum in a lowered graph: ``precc::mm`` and its kin.

Each takes the arguments of its ATen op, then the live plan and the row of the product's accumulator. Where that row
names none, it is the ATen op itself. A bias is added to the sum afterwards, in the tensors' own arithmetic. Values of
float16 and bfloat16 are multiplied as float32 and the sum is rounded to their dtype in the end. Results are contiguous.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.convolution import Geometry, dgrad, fprop, wgrad
from precc.accumulation.patches import Patches
from precc.accumulation.rows import parse_accumulator_row
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.grouped_product import GROUPED_PRODUCT, by_group

__all__ = ["PRODUCT_OPS", "define_products", "product_functions"]

_aten = torch.ops.aten

_PLAN = "Tensor plan, int row"
_SIZES = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups"
_SCALARS = "*, Scalar beta=1, Scalar alpha=1"

#: Arguments of each operator; what is not a matrix product is a convolution or one of its two gradients.
_SCHEMAS = {
    "mm": f"Tensor a, Tensor b, {_PLAN}",
    "bmm": f"Tensor a, Tensor b, {_PLAN}",
    "grouped_mm": f"Tensor a, Tensor b, Tensor offs, {_PLAN}",
    "addmm": f"Tensor bias, Tensor a, Tensor b, {_PLAN}, {_SCALARS}",
    "baddbmm": f"Tensor bias, Tensor a, Tensor b, {_PLAN}, {_SCALARS}",
    "convolution": f"Tensor x, Tensor weight, Tensor? bias, {_SIZES}, {_PLAN}",
    "dgrad": f"Tensor gradient, Tensor x, Tensor weight, {_SIZES}, {_PLAN}",
    "wgrad": f"Tensor gradient, Tensor x, Tensor weight, {_SIZES}, {_PLAN}",
}


class Accumulate(Protocol):
    """A product with a rounded sum, as `precc.accumulation.tensor_ops.accumulate_tensor_ops`."""

    def __call__(
        self, a: Tensor, b: Tensor | Patches, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
    ) -> Tensor: ...


def define_products(prefix: str, accumulate: Accumulate) -> dict[str, torch._ops.OpOverload]:
    """The operators ``precc::<prefix><name>`` by name, with sums by `accumulate`."""
    functions = product_functions(partial(_multiplier, accumulate))
    return {name: _define(f"{prefix}{name}", name, function) for name, function in functions.items()}


def product_functions(read: "_Multiplier") -> dict[str, Callable[..., Tensor]]:
    """What the operators compute, by name; ``read(plan, row, swapped=...)`` says how the product of a row multiplies.

    It returns ``multiply(a, b, first)``, or None for the tensors' own arithmetic; `swapped`: b is the first operand.
    """
    return {
        "mm": partial(_matrix, read, _aten.mm),
        "bmm": partial(_matrix, read, _aten.bmm),
        "grouped_mm": partial(_grouped, read),
        "addmm": partial(_with_bias, read, _aten.addmm),
        "baddbmm": partial(_with_bias, read, _aten.baddbmm),
        "convolution": partial(_convolution, read),
        "dgrad": partial(_dgrad, read),
        "wgrad": partial(_wgrad, read),
    }


def _define(operator: str, name: str, function: Callable[..., Tensor]) -> torch._ops.OpOverload:
    qualified = f"precc::{operator}"
    torch.library.define(qualified, f"({_SCHEMAS[name]}) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])
    torch.library.impl(qualified, "CompositeExplicitAutograd", function)
    torch.library.register_fake(qualified, _PLAIN[name])
    overload: torch._ops.OpOverload = getattr(torch.ops.precc, operator).default
    return overload


_Product = Callable[..., Tensor]  # of a, b and perhaps the number of the first output
_Multiplier = Callable[..., _Product | None]


def _multiplier(accumulate: Accumulate, plan: Tensor, row: int, *, swapped: bool = False) -> _Product | None:
    """How the product of this row multiplies, perhaps with its operands swapped; None where nothing is rounded."""
    accumulator, key, slot = parse_accumulator_row(plan[row].tolist())
    if accumulator is None:
        return None
    accumulator = accumulator.transposed if swapped else accumulator

    def multiply(a: Tensor, b: Tensor | Patches, first: int = 0) -> Tensor:
        carrier = torch.promote_types(a.dtype, torch.float32)
        return accumulate(a.to(carrier), b.to(carrier), accumulator, key, slot=slot, first=first).to(a.dtype)

    return multiply


def _matrix(read: _Multiplier, plain: Callable[..., Tensor], a: Tensor, b: Tensor, plan: Tensor, row: int) -> Tensor:
    multiply = read(plan, row)
    return (plain(a, b) if multiply is None else multiply(a, b)).contiguous()


def _grouped(read: _Multiplier, a: Tensor, b: Tensor, offs: Tensor, plan: Tensor, row: int) -> Tensor:
    multiply = read(plan, row)
    plain: Tensor = GROUPED_PRODUCT(a, b, offs) if multiply is None else by_group(a, b, offs, multiply)
    return plain


def _with_bias(
    read: _Multiplier,
    plain: Callable[..., Tensor],
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    plan: Tensor,
    row: int,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    multiply = read(plan, row)
    if multiply is None:
        return plain(bias, a, b, beta=beta, alpha=alpha).contiguous()
    total = multiply(a, b)
    total = total if alpha == 1 else total * alpha
    return total if beta == 0 else torch.add(total, bias, alpha=beta)


def _geometry(x: Tensor, options: Sequence[Any]) -> Geometry:
    return Geometry.of(x.dim() - 2, *options)


def _convolution(read: _Multiplier, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    *sizes, plan, row = options
    multiply = read(plan, row, swapped=True)
    if multiply is None:
        plain: Tensor = _aten.convolution(x, weight, bias, *sizes)
        return plain.contiguous()
    result = fprop(x, weight, _geometry(x, sizes), multiply)
    return result if bias is None else result + bias.reshape(-1, *(1,) * (x.dim() - 2))


def _dgrad(read: _Multiplier, gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    *sizes, plan, row = options
    multiply = read(plan, row, swapped=True)
    if multiply is None:
        return _gradient(0, gradient, x, weight, sizes)
    return dgrad(gradient, weight, x.shape[2:], _geometry(x, sizes), multiply)


def _wgrad(read: _Multiplier, gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    *sizes, plan, row = options
    geometry = _geometry(x, sizes)
    multiply = read(plan, row, swapped=geometry.transposed)
    if multiply is None:
        return _gradient(1, gradient, x, weight, sizes)
    return wgrad(gradient, x, weight.shape[2:], geometry, multiply)


def _gradient(index: int, gradient: Tensor, x: Tensor, weight: Tensor, sizes: Sequence[Any]) -> Tensor:
    mask = [index == 0, index == 1, False]
    both: tuple[Tensor, ...] = _aten.convolution_backward(gradient, x, weight, None, *sizes, mask)
    return both[index].contiguous()


#: What the operators are where nothing is rounded, which gives the shapes of their results too.
_PLAIN = product_functions(lambda plan, row, swapped=False: None)

#: The operators that `precc.passes.place_accumulators` puts into a graph; a backend may put its own in their place.
PRODUCT_OPS = define_products("", accumulate_tensor_ops)
