"""The operators that compute a product with a rounded sum in a lowered graph: ``precc::mm`` and its kin.

Each takes the arguments of its ATen op, then the live plan and the row of the product's accumulator. Where that row
names none, it is the ATen op itself. A bias is added to the sum afterwards, in the tensors' own arithmetic. Values of
float16 and bfloat16 are multiplied as float32 and the sum is rounded to their dtype in the end. Results are contiguous.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from precc.accumulation.convolution import Geometry, checked_size, dgrad, fprop, wgrad
from precc.accumulation.kernels import TENSOR_OPS, Kernels
from precc.accumulation.patches import Patches
from precc.accumulation.rows import parse_accumulator_row
from precc.accumulation.tensor_ops import product_shape
from precc.accumulation.two_pass_rule import MatrixProduct, Problem
from precc.accumulation.two_pass_run import in_two_passes
from precc.accumulation.two_passes import TwoPasses
from precc.grouped_product import GROUPED_PRODUCT, by_group

__all__ = ["PRODUCT_OPS", "Reader", "Multiplier", "define_products", "multiplying", "product_functions"]

_aten = torch.ops.aten

#: Dimensions of the operands of a convolution's gradients, which are rounded before.
_ALONG = ((1, 1), (1, 1))

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


def define_products(prefix: str, kernels: Kernels) -> dict[str, torch._ops.OpOverload]:
    """The operators ``precc::<prefix><name>`` by name, computed by these kernels."""
    functions = product_functions(partial(_sums, kernels))
    return {name: _define(f"{prefix}{name}", name, function) for name, function in functions.items()}


def product_functions(read: "Reader") -> dict[str, Callable[..., Tensor]]:
    """What the operators compute, by name; ``read(plan, row, swapped=...)`` says how the product of a row sums.

    It returns a function from the `Problem` to the product, or None for the tensors' own arithmetic; `swapped`: the
    second operand is the first one of matrix products.
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


Multiplier = Callable[[Problem], Tensor]
Reader = Callable[..., Multiplier | None]


def multiplying(multiply: MatrixProduct) -> Multiplier:
    """The sums of whoever multiplies matrices in his own way."""
    return lambda problem: problem.product(*problem.operands, multiply)


def _sums(kernels: Kernels, plan: Tensor, row: int, *, swapped: bool = False) -> Multiplier | None:
    """How the product of this row sums; None where nothing is rounded."""
    accumulator, key, slot = parse_accumulator_row(plan[row].tolist())
    if accumulator is None:
        return None
    if isinstance(accumulator, TwoPasses):
        return partial(in_two_passes, accumulator, kernels, slot)
    accumulator = accumulator.transposed if swapped else accumulator

    def multiply(a: Tensor, b: Tensor | Patches, first: int = 0) -> Tensor:
        carrier = torch.promote_types(a.dtype, torch.float32)
        return kernels.accumulate(a.to(carrier), b.to(carrier), accumulator, key, slot=slot, first=first).to(a.dtype)

    return multiplying(multiply)


def _matrices(a: Tensor, b: Tensor, *, bias: Tensor | None = None, factor: float = 1.0, first: int = 0) -> Problem:
    last = a.dim() - 1

    def product(left: Tensor, right: Tensor, multiply: MatrixProduct) -> Tensor:
        batched = left.dim() == 3
        return multiply(left, right, first) if batched else multiply(left[None], right[None], first)[0]

    return Problem(
        (a, b),
        ((last, last - 1), (last - 1, last)),
        product_shape(a, b),
        product,
        last,
        a.shape[-1],
        bias,
        factor,
        first,
    )


def _matrix(read: Reader, plain: Callable[..., Tensor], a: Tensor, b: Tensor, plan: Tensor, row: int) -> Tensor:
    sums = read(plan, row)
    return (plain(a, b) if sums is None else sums(_matrices(a, b))).contiguous()


def _grouped(read: Reader, a: Tensor, b: Tensor, offs: Tensor, plan: Tensor, row: int) -> Tensor:
    sums = read(plan, row)
    if sums is None:
        plain: Tensor = GROUPED_PRODUCT(a, b, offs)
        return plain
    return by_group(a, b, offs, lambda left, right, first: sums(_matrices(left, right, first=first)))


def _with_bias(
    read: Reader,
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
    sums = read(plan, row)
    if sums is None:
        return plain(bias, a, b, beta=beta, alpha=alpha).contiguous()
    added = None if beta == 0 else bias if beta == 1 else bias * beta
    total = sums(_matrices(a, b, bias=added, factor=alpha))
    total = total if alpha == 1 else total * alpha
    return total if beta == 0 else torch.add(total, bias, alpha=beta)


def _geometry(x: Tensor, options: Sequence[Any]) -> Geometry:
    return Geometry.of(x.dim() - 2, *options)


def _convolution(read: Reader, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    *sizes, plan, row = options
    sums = read(plan, row, swapped=True)
    if sums is None:
        plain: Tensor = _aten.convolution(x, weight, bias, *sizes)
        return plain.contiguous()
    geometry = _geometry(x, sizes)
    added = None if bias is None else bias.reshape(-1, *(1,) * (x.dim() - 2))
    channels = weight.shape[1] * geometry.groups if geometry.transposed else weight.shape[0]
    shape = (x.shape[0], channels, *checked_size(x, weight, geometry))
    terms = weight.numel() // max(1, channels)
    axes = ((1, 1), (0, 1) if geometry.transposed else (1, 0))
    product = partial(_fprop, geometry)
    result = sums(Problem((x, weight), axes, shape, product, 1, terms, added))
    return result if added is None else result + added


def _fprop(geometry: Geometry, x: Tensor, weight: Tensor, multiply: MatrixProduct) -> Tensor:
    return fprop(x, weight, geometry, multiply)


def _dgrad(read: Reader, gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    *sizes, plan, row = options
    sums, geometry = read(plan, row, swapped=True), _geometry(x, sizes)
    if sums is None:
        return _gradient(0, gradient, x, weight, sizes)

    def product(left: Tensor, right: Tensor, multiply: MatrixProduct) -> Tensor:
        return dgrad(left, right, x.shape[2:], geometry, multiply)

    return sums(Problem((gradient, weight), _ALONG, tuple(x.shape), product, 1, 0))


def _wgrad(read: Reader, gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    *sizes, plan, row = options
    geometry = _geometry(x, sizes)
    sums = read(plan, row, swapped=geometry.transposed)
    if sums is None:
        return _gradient(1, gradient, x, weight, sizes)

    def product(left: Tensor, right: Tensor, multiply: MatrixProduct) -> Tensor:
        return wgrad(left, right, weight.shape[2:], geometry, multiply)

    return sums(Problem((gradient, x), _ALONG, tuple(weight.shape), product, 0, 0))


def _gradient(index: int, gradient: Tensor, x: Tensor, weight: Tensor, sizes: Sequence[Any]) -> Tensor:
    mask = [index == 0, index == 1, False]
    both: tuple[Tensor, ...] = _aten.convolution_backward(gradient, x, weight, None, *sizes, mask)
    return both[index].contiguous()


#: What the operators are where nothing is rounded, which gives the shapes of their results too.
_PLAIN = product_functions(lambda plan, row, swapped=False: None)

#: The operators that `precc.passes.place_accumulators` puts into a graph; a backend may put its own in their place.
PRODUCT_OPS = define_products("", TENSOR_OPS)
