"""Convolutions and their gradients as batched matrix products, for whoever multiplies in his own way.

Each function calls ``multiply(a, b, first)`` with a tensor ``a`` [A, M, K] and `Patches` ``b`` [B, K, N], A a divisor
of B: matrix i of ``b`` meets ``a[i % A]``. It returns [B, M, N]; `first` is the number of its first element in the
result.

Terms that meet the padding, or the zeros between the values of a gradient with a stride (of a transposed convolution,
of the input), are zeros and count as terms: chunks and blocks of an accumulator begin at the same places in all sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from precc.accumulation.patches import Extents, Patches
from precc.errors import FormatError

__all__ = ["Geometry", "Multiply", "checked_size", "dgrad", "fprop", "wgrad"]

Multiply = Callable[[Tensor, Patches, int], Tensor]

#: Elements of the patches of one call of `multiply`, which may lay them out; it has at least one sample of the batch.
_MOST_PATCHES = 2**24


@dataclass(frozen=True, slots=True)
class Geometry:
    """What ATen's ``convolution`` takes beside its tensors; one number a spatial dimension.

    Args:
        stride, padding, dilation: as in `torch.nn.functional.conv2d`.
        transposed: whether it is a transposed convolution, whose weight is [in, out / groups, *kernel].
        output_padding: of a transposed one.
        groups: of channels.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls,
        dims: int,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> "Geometry":
        """For `dims` spatial dimensions; a list of one number counts for all, as in ATen."""
        own = [tuple(entry) * (dims if len(entry) == 1 else 1) for entry in (stride, padding, dilation, output_padding)]
        return cls(own[0], own[1], own[2], transposed, own[3], groups)

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the result.

        >>> Geometry((2, 2), (1, 1), (1, 1), False, (0, 0), 1).output_size((32, 32), (3, 3))
        (16, 16)
        """
        reach = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
        each = zip(size, reach, self.stride, self.padding, self.output_padding, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + r + extra + 1 for n, r, s, p, extra in each)
        return tuple((n + 2 * p - r - 1) // s + 1 for n, r, s, p, _ in each)


def fprop(x: Tensor, weight: Tensor, geometry: Geometry, multiply: Multiply) -> Tensor:
    """The convolution, [N, out, *spatial], without its bias.

    The sum of an output ascends over (c, *kernel); of a transposed one over (c, *positions of x). Outputs are numbered
    row-major.

    Raises:
        FormatError: shapes that do not fit.

    >>> ones = torch.ones(1, 1, 3, 3)
    >>> plain = Geometry((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    >>> fprop(ones, ones, plain, lambda a, b, first: a @ b.matrices()).item()
    9.0
    """
    size = checked_size(x, weight, geometry)
    if geometry.transposed:
        return _spread(x, weight, size, geometry, multiply)
    return _correlated(x, weight, size, geometry, multiply)


def dgrad(gradient: Tensor, weight: Tensor, size: Sequence[int], geometry: Geometry, multiply: Multiply) -> Tensor:
    """The gradient with respect to the input, whose spatial size is given.

    Sums ascend over (channels of the gradient, *its positions), zeros between them included, which makes as many terms
    as channels times the kernel's size; of a transposed convolution over (channels, *kernel).
    """
    if geometry.transposed:
        return _correlated(gradient, weight, tuple(size), geometry, multiply)
    return _spread(gradient, weight, tuple(size), geometry, multiply)


def wgrad(gradient: Tensor, x: Tensor, kernel: Sequence[int], geometry: Geometry, multiply: Multiply) -> Tensor:
    """The gradient with respect to the weight, whose kernel size is given.

    Sums ascend over (samples, *positions of the gradient); of a transposed convolution those of its input.
    """
    small, large = (x, gradient) if geometry.transposed else (gradient, x)
    groups, positions = geometry.groups, small.shape[2:]
    channels, outputs = large.shape[1] // groups, small.shape[1] // groups
    view = _patches(_padded(large, geometry), tuple(kernel), positions, geometry)
    patches = Patches(
        view.base,
        batch=((groups, channels * view.channel),),
        depth=((large.shape[0], view.sample), *view.positions),
        width=((channels, view.channel), *view.kernel),
    )
    left = small.unflatten(1, (groups, outputs)).flatten(3).permute(1, 2, 0, 3).reshape(groups, outputs, -1)
    return multiply(left, patches, 0).reshape(groups * outputs, channels, *kernel)


def checked_size(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, ...]:
    """Spatial size of the result of a convolution.

    Raises:
        FormatError: shapes that do not fit, or no spatial extent.
    """
    channels = weight.shape[0] if geometry.transposed else weight.shape[1] * geometry.groups
    if x.dim() != weight.dim() or x.dim() < 3 or x.shape[1] != channels or weight.shape[0] % geometry.groups:
        raise FormatError(
            f"a convolution takes [N, C, *spatial] with a weight of as many dimensions and fitting channels; got "
            f"{list(x.shape)} with {list(weight.shape)} in {geometry.groups} group(s)"
        )
    size = geometry.output_size(x.shape[2:], weight.shape[2:])
    if min(*size, *weight.shape[2:]) < 1:
        raise FormatError(f"a convolution of {list(x.shape)} with {list(weight.shape)} has no spatial extent: {size}")
    return size


def _padded(x: Tensor, geometry: Geometry) -> Tensor:
    if not any(geometry.padding):
        return x.contiguous()
    sides = [(p, p) for p in geometry.padding]
    return F.pad(x, [side for pair in reversed(sides) for side in pair]).contiguous()


@dataclass(frozen=True, slots=True)
class _View:
    """What each output position sees of a padded input: strides of samples and channels, and the other dimensions."""

    base: Tensor
    sample: int
    channel: int
    kernel: Extents
    positions: Extents


def _patches(padded: Tensor, kernel: Sequence[int], size: Sequence[int], geometry: Geometry) -> _View:
    sample, channel, *steps = padded.stride()
    by_kernel = tuple((k, d * step) for k, d, step in zip(kernel, geometry.dilation, steps, strict=True))
    by_output = tuple((n, s * step) for n, s, step in zip(size, geometry.stride, steps, strict=True))
    return _View(padded, sample, channel, by_kernel, by_output)


def _correlated(x: Tensor, weight: Tensor, size: tuple[int, ...], geometry: Geometry, multiply: Multiply) -> Tensor:
    groups, outputs, channels = geometry.groups, weight.shape[0], weight.shape[1]
    filters = weight.reshape(groups, outputs // groups, prod(weight.shape[1:]))
    result, padded = x.new_empty(x.shape[0], outputs, *size), _padded(x, geometry)
    step = max(1, _MOST_PATCHES // max(1, groups * filters.shape[2] * prod(size)))
    for begin in range(0, x.shape[0], step):
        view = _patches(padded[begin : begin + step], weight.shape[2:], size, geometry)
        samples = view.base.shape[0]
        patches = Patches(
            view.base,
            batch=((samples, view.sample), (groups, channels * view.channel)),
            depth=((channels, view.channel), *view.kernel),
            width=view.positions,
        )
        sums = multiply(filters, patches, begin * outputs * prod(size))
        result[begin : begin + step] = sums.reshape(samples, outputs, *size)
    return result


def _spread(x: Tensor, weight: Tensor, size: tuple[int, ...], geometry: Geometry, multiply: Multiply) -> Tensor:
    """The adjoint of `_correlated`: it slides mirrored filters over `x` with ``stride - 1`` zeros between values."""
    kernel, groups = weight.shape[2:], geometry.groups
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, kernel, strict=True)]
    wide = _stuffed(x, geometry.stride)
    before = [r - p for r, p in zip(reach, geometry.padding, strict=True)]
    after = [n + r - have - b for n, r, have, b in zip(size, reach, wide.shape[2:], before, strict=True)]
    sides = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
    mirrored = weight.flip(tuple(range(2, weight.dim()))).unflatten(0, (groups, weight.shape[0] // groups))
    mirrored = mirrored.transpose(1, 2).flatten(0, 1)
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    plain = Geometry(ones, zeros, geometry.dilation, False, zeros, groups)
    return _correlated(F.pad(wide, sides), mirrored, size, plain, multiply)


def _stuffed(x: Tensor, stride: Sequence[int]) -> Tensor:
    """`x` with ``stride - 1`` zeros between neighbours."""
    for dim, step in enumerate(stride, start=2):
        if step > 1:
            wide = torch.stack([x, *[torch.zeros_like(x)] * (step - 1)], dim + 1).flatten(dim, dim + 1)
            x = wide.narrow(dim, 0, wide.shape[dim] - step + 1)
    return x
