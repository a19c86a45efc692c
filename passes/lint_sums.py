"""Checks of the lengths of sums: n u >= 1 leaves the error of a sum without a bound below its terms.

With unit roundoff u, a sum of n terms, one after the other, has an error up to ``gamma(n - 1) * sum(|x|)``, about n u;
pairwise it is log2(n) u, by blocks of b (b + n / b) u, compensated 2 u + n u^2 (Higham 2002, sections 4.2 and 4.3);
rounded at random about sqrt(n) u (Connolly, Higham & Mary 2021). Above 1 the sum stagnates: what is added is lost.

PyTorch's own kernels keep float32 sums of bfloat16 and float16 tensors, which a kernel or an export in the dtype of the
tensors does not. So reductions are told by the dtype of their result; products only where a plan has an accumulator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.two_passes import TwoPasses
from precc.annotations import Product
from precc.formats import FixedPoint, FloatFormat, parse_format
from precc.passes.lint_check import Remark, Scope
from precc.passes.lint_patterns import format_of, value_of
from precc.rounding import RoundingMode
from precc.stored_nodes import op_name

__all__ = ["error_bound", "long_product", "long_reduction"]

_FLOAT32 = parse_format("float32")

_NEAREST = frozenset({RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_AWAY})


def _folded(node: Node) -> int:
    """Elements of the first argument for each one of the result."""
    result = value_of(node)
    return 0 if result is None or not result.numel() else _numel(node, 0) // result.numel()


def _along(node: Node) -> int:
    """Length of the dimension that is the second argument."""
    dim: Any = node.args[1]
    shape = _shape(node, 0)
    return shape[dim] if shape else 1


def _normalized(node: Node) -> int:
    shape: Any = node.args[1]
    return math.prod(shape)


def _of_batch(node: Node) -> int:
    """Of a batch norm that computes statistics, the elements of a channel."""
    schema: Any = node.target._schema  # type: ignore[union-attr]  # an ATen op
    position = next((k for k, own in enumerate(schema.arguments) if own.name == "training"), None)
    training = position is None or bool(node.args[position])
    shape = _shape(node, 0)
    return math.prod(shape) // max(shape[1], 1) if training else 0


def _of_group(node: Node) -> int:
    _, _, _, _, channels, places, groups, _ = node.args
    return int(channels) * int(places) // int(groups)  # type: ignore[arg-type]  # numbers


def _of_targets(node: Node) -> int:
    """Of a loss that is averaged or added up, its targets."""
    return _numel(node, 1) if node.args[3] else 1


@dataclass(frozen=True, slots=True)
class _Sum:
    """How many terms an op adds, and the form that adds them in float32."""

    length: Callable[[Node], int]
    better: str


_WITH_DTYPE = {
    "sum": "x.sum(dim, dtype=torch.float32)",
    "nansum": "x.nansum(dim, dtype=torch.float32)",
    "mean": "x.mean(dim, dtype=torch.float32)",
    "linalg_vector_norm": "torch.linalg.vector_norm(x, dim=dim, dtype=torch.float32)",
}
_IN_FLOAT32 = {
    "logsumexp": "torch.logsumexp(x.float(), dim)",
    "std": "x.float().std(dim)",
    "std_mean": "torch.std_mean(x.float(), dim)",
    "var": "x.float().var(dim)",
    "var_mean": "torch.var_mean(x.float(), dim)",
    "mse_loss": "F.mse_loss(x.float(), target.float())",
    "smooth_l1_loss": "F.smooth_l1_loss(x.float(), target.float())",
    "huber_loss": "F.huber_loss(x.float(), target.float())",
    "binary_cross_entropy": "F.binary_cross_entropy(x.float(), target.float())",
    "binary_cross_entropy_with_logits": "F.binary_cross_entropy_with_logits(x.float(), target.float())",
    "_adaptive_avg_pool2d": "F.adaptive_avg_pool2d(x.float(), size)",
    "_adaptive_avg_pool3d": "F.adaptive_avg_pool3d(x.float(), size)",
}
_ALONG = {
    "_softmax": "torch.softmax(x, dim, dtype=torch.float32)",
    "_safe_softmax": "torch.softmax(x, dim, dtype=torch.float32)",
    "_log_softmax": "F.log_softmax(x, dim, dtype=torch.float32)",
    "cumsum": "x.cumsum(dim, dtype=torch.float32)",
    "logcumsumexp": "torch.logcumsumexp(x.float(), dim)",
}
_BATCH_NORM = "F.batch_norm(x.float(), ...), with weight, bias and statistics in float32"
_BATCH_NORMS = (
    "_batch_norm_with_update _batch_norm_with_update_functional _native_batch_norm_legit "
    "_native_batch_norm_legit_functional native_batch_norm"
)
#: Every op that adds, by name.
_SUMS: dict[str, _Sum] = {
    **{f"aten.{name}": _Sum(_folded, better) for name, better in {**_WITH_DTYPE, **_IN_FLOAT32}.items()},
    **{f"aten.{name}": _Sum(_along, better) for name, better in _ALONG.items()},
    **{f"aten.{name}": _Sum(_of_batch, _BATCH_NORM) for name in _BATCH_NORMS.split()},
    "aten.native_layer_norm": _Sum(_normalized, "F.layer_norm(x.float(), shape, weight.float(), bias.float(), eps)"),
    "aten._fused_rms_norm": _Sum(_normalized, "F.rms_norm(x.float(), shape, weight.float(), eps)"),
    "aten.native_group_norm": _Sum(_of_group, "F.group_norm(x.float(), groups, weight.float(), bias.float(), eps)"),
    "aten.nll_loss_forward": _Sum(_of_targets, "F.cross_entropy(x.float(), target)"),
    "aten.nll_loss2d_forward": _Sum(_of_targets, "F.cross_entropy(x.float(), target)"),
}


def _shape(node: Node, position: int) -> tuple[int, ...]:
    argument = node.args[position]
    value = value_of(argument) if isinstance(argument, Node) else None
    return () if value is None else tuple(int(size) for size in value.shape)


def _numel(node: Node, position: int) -> int:
    return math.prod(_shape(node, position))


def long_reduction(node: Node, scope: Scope) -> Remark | None:
    """A reduction of n terms with n u >= 1 in the dtype of its result, which is narrower than float32."""
    own, fmt = _SUMS.get(op_name(node)), format_of(node)
    if own is None or fmt is None or not _is_narrow(fmt):
        return None
    n, u = own.length(node), fmt.unit_roundoff
    if n * u < 1:
        return None
    op = op_name(node).removeprefix("aten.")
    problem = f"{op} adds n = {n} terms in {fmt.name}: n u = {n * u:.3g} >= 1, u = {u:.3g}"
    return Remark(problem, own.better)


def _is_narrow(fmt: FloatFormat) -> bool:
    assert isinstance(_FLOAT32, FloatFormat)
    return fmt.unit_roundoff > _FLOAT32.unit_roundoff


def long_product(node: Node, scope: Scope) -> Remark | None:
    """A product whose accumulator under the plan has no error bound below 1 for its length."""
    product = scope.products.get(node)
    accumulator = None if product is None or scope.plan is None else product.sums(scope.plan)
    if product is None or accumulator is None or isinstance(accumulator, TwoPasses):
        return None  # the second pass is there for the sums that the first one loses
    n = _contracted(node, product)
    bound = error_bound(accumulator, n)
    if bound < 1:
        return None
    (slot,) = product.accumulators
    problem = (
        f"{product.op}/{product.role.value} adds n = {n} products in {accumulator}: its error may reach {bound:.3g} "
        f">= 1 times their magnitudes, u = {_unit(accumulator):.3g}"
    )
    return Remark(problem, f"accumulators={{{slot.name!r}: {_as_code(_better(accumulator, n))}}}")


def _as_code(accumulator: Accumulator) -> str:
    """An expression for it; its printed form has the rounding without quotes."""
    return repr(accumulator).replace(f"rounding={accumulator.rounding}", f"rounding={str(accumulator.rounding)!r}")


def _contracted(node: Node, product: Product) -> int:
    """The mean number of terms of a sum."""
    value = node.meta["val"]
    results = [own for own in value if own is not None] if isinstance(value, tuple | list) else [value]
    return math.ceil(int(product.multiply_adds) / max(int(results[0].numel()), 1))


def _better(accumulator: Accumulator, n: int) -> Accumulator:
    """Blocks in the same format where these suffice, or else the format float32."""
    block = 1 << round(math.log2(n) / 2)
    kept = accumulator.order is Order.SEQUENTIAL and not accumulator.compensated
    blocked = replace(accumulator, order=Order.BLOCKED, block=block, chunk=1) if kept else accumulator
    return blocked if error_bound(blocked, n) < 1 else Accumulator(format="float32")


def error_bound(accumulator: Accumulator, n: int) -> float:
    """Relative to the sum of magnitudes, in first order; 0 of fixed point, whose errors are absolute.

    >>> error_bound(Accumulator(format="bfloat16"), 1024)
    4.0
    >>> error_bound(Accumulator(format="bfloat16", order="blocked", block=32), 1024)
    0.25
    """
    u = _unit(accumulator)
    match accumulator.order:
        case Order.SEQUENTIAL:
            steps = math.ceil(n / accumulator.chunk)
            return 2 * u + n * u**2 if accumulator.compensated else _of_steps(accumulator, steps)
        case Order.PAIRWISE:
            return math.ceil(math.log2(max(n, 1)) + 1) * u
        case Order.BLOCKED:
            length = min(n, accumulator.block)
            inner = accumulator.inner or Accumulator(format=accumulator.format, rounding=accumulator.rounding)
            return error_bound(inner, length) + _of_steps(accumulator, math.ceil(n / accumulator.block))
        case Order.ALIGNED:
            truncations = (accumulator.block + 1) * 2.0**-accumulator.fraction_bits
            steps = math.ceil(n / accumulator.block)
            return _of_steps(accumulator, steps) + steps * truncations


def _of_steps(accumulator: Accumulator, steps: int) -> float:
    average = accumulator.rounding.mode is RoundingMode.STOCHASTIC
    return (math.sqrt(steps) if average else steps) * _unit(accumulator)


def _unit(accumulator: Accumulator) -> float:
    """The largest relative error of one of its roundings."""
    if isinstance(accumulator.format, FixedPoint):
        return 0.0
    nearest = accumulator.rounding.mode in _NEAREST
    return accumulator.format.unit_roundoff * (1 if nearest else 2)
