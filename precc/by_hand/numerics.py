"""precc's arithmetic by hand: rounding a tensor, and products whose sums are rounded."""

from collections.abc import Sequence

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.accumulation.patches import Patches
from precc.accumulation.tensor_ops import accumulate_tensor_ops, check_operands, product_shape
from precc.backends.cpp import compiled_or_tensor_ops, warn_without_kernels
from precc.backends.cpp.accumulate import accumulate
from precc.backends.cpp.memory import is_plain, overlaps_itself
from precc.errors import FormatError
from precc.formats import FixedPoint, FloatFormat, Format, Scaling, parse_format, parse_scaling
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode, Row, draw_key, parse_rounding, row_of
from precc.rounding.random_bits import checked_seed
from precc.rounding.stateful import round_corrected, round_with_hysteresis

__all__ = ["accumulated", "checked_key", "matmul", "round_to"]


def round_to(
    x: Tensor,
    format: Format | str,
    *,
    rounding: Rounding | RoundingMode | str = NEAREST_EVEN,
    scaling: Scaling | str | None = None,
    axis: int = -1,
    seed: int | None = None,
    previous: Tensor | None = None,
    variance: Tensor | float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Each element of `x` rounded to a number format, exactly; a tensor of the same dtype and shape.

    Args:
        x: float16, bfloat16, float32 or float64 tensor of any shape, with any strides.
        format: a format or its name.
        rounding: a `Rounding` or its name, such as ``"nearest_even"`` or ``"stochastic:8"``.
        scaling: which values share a scale; block formats such as ``"mxfp8"`` have their own.
        axis: the dimension of rows, blocks and tiles, where the scaling names none; of ``"channel"``, that of channels.
        seed: for roundings that draw: the same seed gives the same bits on every device and number of threads. Without
            one it is drawn from torch's default generator.
        previous: for ``"hysteresis"``: the previous rounding of the same values.
        variance: for ``"variance_corrected"``: the variance of the draw whose mean is `x`.
        out: a tensor of the shape, dtype and device of `x` that receives the result; may be `x` itself.

    Raises:
        FormatError: unknown format or rounding, a dtype that cannot be rounded, an argument that does not fit.

    NaN stays NaN, in every format: what is lost in a cast stays visible. Infinities and overflow follow
    ``format.overflow``; the sign of zero is kept where the format has one. A block with a NaN or an infinity becomes
    NaN as a whole. float16 and bfloat16 tensors are rounded in float32. Rounding has no useful derivative, so a tensor
    that records gradients is refused. Where no kernels can be compiled, tensor operations give the same bits, more
    slowly; a `PrecisionWarning` says so. With ``torch.set_flush_denormal(True)`` float32's subnormal numbers are lost.
    As with torch's own operations on several threads, a process that is forked after a call may hang in its next one.

    >>> round_to(torch.tensor([1.06, -0.0, 500.0, 1e-3]), "e4m3").tolist()
    [1.0, -0.0, 448.0, 0.001953125]
    >>> round_to(torch.tensor([0.9, -0.1, 0.02, 3.5]), "mxfp4").tolist()
    [1.0, -0.0, 0.0, 3.0]
    """
    mode = parse_rounding(rounding)
    row = row_of(parse_format(format), mode, parse_scaling(scaling), axis=axis, channel=axis)
    _check_tensor(x, axis)
    _check_out(out, x.shape, x)
    with torch.no_grad():
        values = x.resolve_neg()
        if mode.needs_state:
            rounded = _round_with_state(values, row, seed, previous, variance)
            return rounded if out is None else out.copy_(rounded)
        if previous is not None or variance is not None:
            raise FormatError(f"previous and variance are for 'hysteresis' and 'variance_corrected', not {str(mode)!r}")
        key = checked_key(seed) if row.is_stochastic else _refuse_seed(seed, mode)
        rounded = compiled_or_tensor_ops(values, row, key, out)
        if rounded is not values:
            return rounded
        return values.clone() if out is None else out.copy_(values)


def matmul(
    a: Tensor,
    b: Tensor,
    accumulator: Accumulator | FloatFormat | FixedPoint | str,
    *,
    seed: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The product of two matrices, or of two batches of them, whose sums are rounded as an `Accumulator` says.

    Args:
        a: float32 or float64, [M, K] or [B, M, K].
        b: of the same dtype, [K, N] or [B, K, N].
        accumulator: how sums are rounded; or the name of one, such as ``"hopper_fp8"`` (`ACCUMULATORS`); or a format,
            which means: to it, to nearest even, after every fused multiply-add.
        seed: for stochastic rounding, as in `round_to`.
        out: receives the result, of the dtype of `a`.

    Raises:
        FormatError: operands, accumulator or seed that do not fit; operands that record gradients, or have values that
            the operands' formats of the accumulator have not.

    >>> ones = torch.ones(1, 4096)
    >>> matmul(ones, ones.T, "e5m10").item(), matmul(ones, ones.T, "e4m3").item()
    (2048.0, 16.0)
    >>> [matmul(ones, 1.125 * ones.T, name).item() for name in ("float32", "hopper_fp8", "hopper_fp8_promoted")]
    [4608.0, 4324.0, 4608.0]
    """
    accumulator = parse_accumulator(accumulator)
    for operand in (a, b):
        if not isinstance(operand, Tensor):
            raise FormatError(f"matmul takes tensors, not {type(operand).__name__}")
        if operand.requires_grad and torch.is_grad_enabled():
            raise FormatError("matmul has no derivative: pass operands.detach(), or call it under torch.no_grad()")
    check_operands(a, b)
    _check_out(out, product_shape(a, b), a)
    key = checked_key(seed) if accumulator.is_stochastic else _refuse_seed(seed, accumulator.rounding)
    with torch.no_grad():
        for name, operand, fmt in zip("ab", (a, b), accumulator.operand_formats or (), strict=False):
            _check_values(name, operand, fmt)
        return accumulated(a, b, accumulator, key, out)


def accumulated(
    a: Tensor,
    b: Tensor | Patches,
    accumulator: Accumulator,
    key: int = 0,
    out: Tensor | None = None,
    *,
    slot: int = 0,
    first: int = 0,
) -> Tensor:
    """`precc.accumulation.tensor_ops.accumulate_tensor_ops` by the compiled kernel where it can run.

    A machine without kernels gives a `PrecisionWarning`; tensors of other devices, fake and traced ones have none.
    """
    plain = is_plain(a) and is_plain(b.base if isinstance(b, Patches) else b)
    if not plain or warn_without_kernels():
        result = accumulate_tensor_ops(a, b, accumulator, key, slot=slot, first=first)
        return result if out is None else out.copy_(result)
    return accumulate(a, b, accumulator, key, out, slot=slot, first=first)


def _check_values(name: str, operand: Tensor, fmt: FloatFormat) -> None:
    values = operand.resolve_neg()
    rounded = compiled_or_tensor_ops(values, row_of(fmt), 0, None)
    other = (rounded != values) & ~values.isnan()
    if not operand.is_meta and bool(other.any()):
        raise FormatError(
            f"matmul: {name} has values that {fmt.name!r} has not, such as {values[other][0].item()!r}; this "
            f"accumulator multiplies only those: round it first, precc.round_to({name}, {fmt.name!r})"
        )


def _round_with_state(
    x: Tensor, row: Row, seed: int | None, previous: Tensor | None, variance: Tensor | float | None
) -> Tensor:
    if row.mode is RoundingMode.HYSTERESIS:
        fits = isinstance(previous, Tensor) and previous.is_floating_point() and previous.shape == x.shape
        if previous is None or not fits or previous.device != x.device or variance is not None:
            raise FormatError("rounding='hysteresis' needs previous=, a tensor of floats like x, and no variance")
        _refuse_seed(seed, Rounding(row.mode))
        return round_with_hysteresis(x, row, previous)
    if variance is None or previous is not None:
        raise FormatError("rounding='variance_corrected' needs variance=, and no previous")
    if not isinstance(variance, (int, float, Tensor)) or (isinstance(variance, Tensor) and variance.is_complex()):
        raise FormatError(f"a variance is a number or a tensor, not {variance!r}")
    spread = torch.as_tensor(variance, device=x.device)
    if not bool((spread >= 0).all()):
        raise FormatError("the variance has negative or NaN elements")
    if spread.dim() and spread.shape != x.shape:
        raise FormatError(f"the variance has the shape {list(spread.shape)}, but x has {list(x.shape)}")
    return round_corrected(x, row, variance, checked_key(seed))


def checked_key(seed: int | None) -> int:
    """The key of random bits that a seed means; without one it is drawn from torch's default generator.

    Raises:
        FormatError: not an integer of 64 bits.
    """
    return draw_key() if seed is None else checked_seed(seed)


def _refuse_seed(seed: int | None, mode: Rounding) -> int:
    if seed is not None:
        raise FormatError(f"a seed is for roundings that draw; {mode} does not")
    return 0


def _check_tensor(x: Tensor, axis: int) -> None:
    if not isinstance(x, Tensor):
        raise FormatError(f"round_to takes a tensor, not {type(x).__name__}")
    if type(axis) is not int or not -max(1, x.dim()) <= axis < max(1, x.dim()):
        raise FormatError(f"a tensor of shape {list(x.shape)} has no axis {axis!r}")
    if x.requires_grad and torch.is_grad_enabled():
        raise FormatError(
            "round_to has no derivative: pass x.detach(), or call it under torch.no_grad(); "
            "to train through rounding use precc.compile"
        )
    if x.layout is not torch.strided:
        raise FormatError(f"cannot round a {x.layout} tensor: round its values()")


def _check_out(out: Tensor | None, shape: Sequence[int], like: Tensor) -> None:
    if out is None:
        return
    if not isinstance(out, Tensor):
        raise FormatError(f"out is a tensor, not {type(out).__name__}")
    if out.requires_grad and torch.is_grad_enabled():
        raise FormatError("out records gradients: call it under torch.no_grad(), or pass out.detach()")
    if (tuple(out.shape), out.dtype, out.device) != (tuple(shape), like.dtype, like.device):
        raise FormatError(
            f"out is {out.dtype}{list(out.shape)} on {out.device}, but the result is {like.dtype}{list(shape)} "
            f"on {like.device}"
        )
    if overlaps_itself(out):
        raise FormatError("several elements of out share one place in memory: it is expanded, or a view of that kind")
