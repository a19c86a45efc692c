"""Products in two passes: all components in low precision, then in high precision those that are badly conditioned."""

from collections.abc import Sequence

import torch
from torch import Tensor

from precc.accumulation.convolution import Geometry, checked_size, fprop
from precc.accumulation.kernels import Kernels
from precc.accumulation.magnitudes import Numerator
from precc.accumulation.product_arithmetic import Arithmetic, ProductArithmetic
from precc.accumulation.tensor_ops import product_shape
from precc.accumulation.two_pass_rule import Choice, MatrixProduct, Problem, TwoPass, compute
from precc.backends.cpp import compiled_or_tensor_ops
from precc.by_hand.numerics import accumulated, checked_key
from precc.by_hand.selected_products import selected_product
from precc.condition_numbers import Activation
from precc.errors import FormatError

__all__ = ["TwoPass", "convolution_two_pass", "matmul_two_pass"]

_KERNELS = Kernels(compiled_or_tensor_ops, accumulated, selected_product)


def matmul_two_pass(
    a: Tensor,
    b: Tensor,
    low: Arithmetic,
    high: Arithmetic,
    tau: float | None = None,
    *,
    select: Tensor | None = None,
    activation: Activation = "identity",
    numerator: Numerator | str = "absolute",
    seed: int | None = None,
) -> TwoPass:
    """``a @ b`` in low precision, and in high precision where ``kappa_phi * kappa_v > tau``.

    Each dot product has a precision of its own (El Arar, Filip, Mary, Riccietti 2025, arXiv 2503.15568): 1. all
    components v in low precision; 2. from that result ``kappa_v = |a| |b| / |v|`` and ``kappa_phi`` of the activation
    that follows; 3. again, in high precision, the components where their product is above `tau`.

    The condition is infinite where the low result says nothing: it is infinite, NaN, at an end of the low accumulator's
    format (where that may have saturated), or 0 while terms are not. Without any terms other than 0 kappa_v is 1. Not
    seen are operands that low precision rounds to 0 or saturates, sums and products that saturated on the way, and
    small terms that were lost beside large sums.

    Both operands are rounded, with scalings along the contracted dimension, then summed. `numerator` is found from
    the low operands. Everything is specified to the bit, on every device, if the activation is: a scalar loop gives
    the same. Stochastic bits of operands and sums come from slots of their own, and do not depend on what is
    selected: a component that is recomputed has the bits of the product that is high throughout.

    Args:
        a: float32 or float64, [M, K] or [B, M, K].
        b: of the same dtype, [K, N] or [B, K, N].
        low: a `ProductArithmetic`; or a format, for operands and sums.
        high: likewise.
        tau: the largest condition that stays low; 0 or more; ``math.inf`` recomputes nothing.
        select: in the place of `tau`: bool, in the shape of the result, which components are recomputed.
        activation: what follows, for kappa_phi: a name in `precc.condition_numbers.ACTIVATIONS`, or a function.
        numerator: ``"absolute"``, the definition, costs a second product; ``"norms"``, ``||a_i|| ||b_j||``, two sums a
            row and column, and as it is never less recomputes at least as much.
        seed: for stochastic rounding, as in `precc.round_to`.

    Raises:
        FormatError: arguments that do not fit; both of `tau` and `select`, or none; operands that record gradients.

    >>> a, b = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[9.0], [8.5]])
    >>> found = matmul_two_pass(a, b, "e4m3", "float32", tau=10)  # in e4m3 8.5 is 8, 9 + 8 is 16, 9 - 8 is 1
    >>> found.result.flatten().tolist(), found.condition.flatten().tolist()
    ([16.0, 0.5], [1.0625, 17.0])
    """
    _check_tensors("matmul_two_pass", a, b)
    shape = product_shape(a, b)
    batched = a.dim() == 3

    def product(left: Tensor, right: Tensor, multiply: MatrixProduct) -> Tensor:
        return multiply(left, right, 0) if batched else multiply(left[None], right[None], 0)[0]

    last = a.dim() - 1
    problem = Problem((a, b), ((last, last - 1), (last - 1, last)), shape, product, last, a.shape[last])
    return _computed(problem, low, high, Choice.of(tau, select, activation, numerator, problem), seed)


def convolution_two_pass(
    x: Tensor,
    weight: Tensor,
    low: Arithmetic,
    high: Arithmetic,
    tau: float | None = None,
    *,
    select: Tensor | None = None,
    activation: Activation = "identity",
    numerator: Numerator | str = "absolute",
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    seed: int | None = None,
) -> TwoPass:
    """The convolution of `x` with `weight`, without bias, as `matmul_two_pass` computes a product.

    The terms of an output ascend over (channel, *position in the kernel); those at the padding are zeros and count.

    Args:
        x: float32 or float64, [N, C, *spatial], of one spatial dimension or more.
        weight: of the same dtype, [out, C / groups, *kernel]; the result is [N, out, *spatial of the result].
        low: as in `matmul_two_pass`, as are high, tau, select, activation, numerator and seed.
        high: see low.
        tau: see low.
        select: see low.
        activation: see low.
        numerator: see low.
        stride: as in `torch.nn.functional.conv2d`: one number, or one a spatial dimension.
        padding: likewise, of zeros.
        dilation: likewise.
        groups: likewise.
        seed: see low.

    Raises:
        FormatError: arguments that do not fit, as in `matmul_two_pass`; a result without spatial extent.

    >>> x, weight = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
    >>> found = convolution_two_pass(x, weight, "e4m3", "float32", tau=1.5)
    >>> found.result[0, 0, 0, 0].item(), found.share  # in e4m3 16 + 1 is 16, and 27 / 16 is above tau
    (27.0, 1.0)
    """
    _check_tensors("convolution_two_pass", x, weight)
    geometry = _geometry(x, weight, stride, padding, dilation, groups)
    size = checked_size(x, weight, geometry)

    def product(left: Tensor, right: Tensor, multiply: MatrixProduct) -> Tensor:
        return fprop(left, right, geometry, multiply)

    problem = Problem(
        (x, weight), ((1, 1), (1, 0)), (x.shape[0], weight.shape[0], *size), product, 1, weight[:1].numel()
    )
    return _computed(problem, low, high, Choice.of(tau, select, activation, numerator, problem), seed)


def _computed(problem: Problem, low: Arithmetic, high: Arithmetic, choice: Choice, seed: int | None) -> TwoPass:
    low, high = ProductArithmetic.of(low), ProductArithmetic.of(high)
    draws = low.is_stochastic or high.is_stochastic
    if seed is not None and not draws:
        raise FormatError("a seed is for roundings that draw; neither low nor high does")
    return compute(problem, low, high, choice, checked_key(seed) if draws else 0, _KERNELS)


def _check_tensors(name: str, a: Tensor, b: Tensor) -> None:
    for operand in (a, b):
        if not isinstance(operand, Tensor) or operand.layout is not torch.strided:
            raise FormatError(f"{name} takes dense tensors, not {getattr(operand, 'layout', type(operand).__name__)}")
        if operand.requires_grad and torch.is_grad_enabled():
            raise FormatError(f"{name} has no derivative: pass operands.detach(), or call it under torch.no_grad()")
    if a.dtype is not b.dtype or a.dtype not in (torch.float32, torch.float64):
        raise FormatError(f"{name} takes two float32 or two float64 tensors, not {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise FormatError(f"{name} takes tensors on one device; got {a.device} and {b.device}")


def _geometry(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    dims = x.dim() - 2
    if dims < 1 or weight.dim() != x.dim():
        raise FormatError(f"a convolution takes [N, C, *spatial] with a weight of as many dimensions; got {dims + 2}")
    if type(groups) is not int or groups < 1:
        raise FormatError(f"groups is a number of at least 1, not {groups!r}")
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise FormatError(f"{list(x.shape)} does not fit a weight of {list(weight.shape)} in {groups} group(s)")
    spatial = [
        _one_each(name, choice, dims, least)
        for name, choice, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    ]
    return Geometry(spatial[0], spatial[1], spatial[2], False, (0,) * dims, groups)


def _one_each(name: str, choice: int | Sequence[int], dims: int, least: int) -> tuple[int, ...]:
    each = choice if isinstance(choice, (tuple, list)) else (choice,) * dims
    numbers = tuple(each)
    if len(numbers) != dims or any(type(number) is not int or not least <= number < 2**31 for number in numbers):
        raise FormatError(f"{name} is an integer of at least {least}, or one for each of {dims} dimensions: {choice!r}")
    return numbers
