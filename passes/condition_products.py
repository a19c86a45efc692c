"""Rules of condition numbers of products: ``|A||B| / |A B|``, without what is added to them (Higham 2002, 3.1, 3.5).

Of a matrix product it is computed for some rows and columns, of a convolution for some places and channels, each sum
with all of its terms. A place of a convolution's result meets a patch of the input, found here by its coordinates.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from precc.grouped_product import GROUPED_PRODUCT
from precc.passes.condition_rules import Rule, in_two, ratio
from precc.passes.condition_sample import Sampler

__all__ = ["PRODUCT_RULES", "inner_products"]

_NAME = "inner products: |A||B| / |A B| (Higham 2002, 3.1)"

#: So many numbers of each operand are read at most, if that leaves `_LEAST` rows.
_READ = 2**16
_LEAST = 2


def inner_products(rows: Tensor, columns: Tensor) -> Tensor:
    """Condition numbers of all inner products of ``[..., m, k]`` with ``[..., n, k]``, as ``[..., m, n]``.

    >>> inner_products(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])).tolist()
    [[5.0]]
    """
    return _products(rows, columns.transpose(-1, -2))


def _products(rows: Tensor, columns: Tensor, **factors: float) -> Tensor:
    """The same with ``[..., k, n]``."""
    rows, columns = rows.double(), columns.double()
    return ratio(rows.abs() @ columns.abs(), rows @ columns)


def _side(sampler: Sampler, terms: int, dims: int = 2) -> int:
    """How many of each dimension of a result are taken whose elements are sums of so many terms."""
    root: float = sampler.samples ** (1 / dims)
    return max(_LEAST, min(math.ceil(root), _READ // max(terms, 1)))


def _chosen(sampler: Sampler, x: Tensor, dim: int, most: int) -> Tensor:
    count = x.shape[dim]
    return x if count <= most else x.index_select(dim, sampler.positions(count, most).to(x.device))


def _matrix(sampler: Sampler, y: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows and columns; what is added stands before them."""
    a, b = args[-2:]
    most = _side(sampler, a.shape[1])
    return _chosen(sampler, a, 0, most), _chosen(sampler, b, 1, most)


def _batch(sampler: Sampler, y: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
    items = _side(sampler, 1, 3)
    a, b = (_chosen(sampler, own, 0, items) for own in args[-2:])
    most = _side(sampler, a.shape[2] * max(1, len(a)), 3)
    return _chosen(sampler, a, 1, most), _chosen(sampler, b, 2, most)


def _grouped(sampler: Sampler, y: Tensor, a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    most = _side(sampler, b.shape[-2] * (len(b) if b.dim() == 3 else 1))
    if b.dim() == 3:  # rows of a are in groups: a group ends where it did among the rows that are taken
        taken = sampler.positions(len(a), most).to(a.device)
        offs, a = torch.searchsorted(taken, offs.long()), a[taken]
    else:
        a = _chosen(sampler, a, 0, most)
    a, b = a.double(), _chosen(sampler, b, b.dim() - 1, most).double()
    return ratio(GROUPED_PRODUCT(a.abs(), b.abs(), offs), GROUPED_PRODUCT(a, b, offs)).flatten()


@dataclass(frozen=True, slots=True)
class _Filter:
    """How places of a convolution's result meet those of its input, in each dimension of space.

    ``in = out * stride - padding + dilation * tap``; of a transposed one with in and out exchanged.
    """

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    groups: int

    def meets(self, dim: int, out: Tensor, taps: int, size: int) -> tuple[Tensor, Tensor]:
        """Places in the input, ``[places, taps]``, and which of them there are."""
        tap = torch.arange(taps, device=out.device) * self.dilation[dim]
        stride, padding = self.stride[dim], self.padding[dim]
        if not self.transposed:
            found = out[:, None] * stride - padding + tap
            return found.clamp(0, size - 1), (found >= 0) & (found < size)
        found = out[:, None] + padding - tap
        whole = found % stride == 0
        found = found.div(stride, rounding_mode="floor")
        return found.clamp(0, size - 1), whole & (found >= 0) & (found < size)

    def patches(self, x: Tensor, channels: Tensor, places: Sequence[Tensor], taps: Sequence[int]) -> Tensor:
        """What the filter meets at places ``(item, *space)``: ``[places, channels, *taps]`` in float64."""
        dims = len(taps)
        index = [places[0].view(-1, *[1] * (dims + 1)), channels.view(1, -1, *[1] * dims)]
        known = torch.ones((), dtype=torch.float64, device=x.device)
        for dim, (out, length) in enumerate(zip(places[1:], taps, strict=True)):
            shape = [len(out), 1, *(length if other == dim else 1 for other in range(dims))]
            found, inside = self.meets(dim, out, length, x.shape[2 + dim])
            index.append(found.view(shape))
            known = known * inside.view(shape)
        return x[tuple(index)].double() * known


def _convolved(sampler: Sampler, x: Tensor, weight: Tensor, shape: Sequence[int], own: _Filter) -> Tensor:
    """Of a convolution of `x`; the weight begins with channels of the result, of a transposed one of `x`."""
    taps, inputs = weight.shape[2:], x.shape[1] // own.groups
    outputs = shape[1] // own.groups
    groups = sampler.positions(own.groups, _side(sampler, 1, 3))
    side = _side(sampler, len(groups) * inputs * math.prod(taps), 2 if len(groups) == 1 else 3)
    channels = sampler.positions(outputs, side)
    count = shape[0] * math.prod(shape[2:])
    each = len(groups) * inputs * math.prod(taps)
    long = min(sampler.samples // (len(groups) * len(channels)), _READ // max(each, 1))
    flat = sampler.positions(count, max(side, long))
    places = torch.unravel_index(flat.to(x.device), (shape[0], *shape[2:]))
    of_group = (groups[:, None] * inputs + torch.arange(inputs)).flatten().to(x.device)
    rows = own.patches(x, of_group, places, taps).unflatten(1, (len(groups), inputs)).transpose(0, 1).flatten(2)
    columns = weight.unflatten(0, (own.groups, -1))[groups.to(x.device)]
    if own.transposed:
        columns = columns.transpose(1, 2)
    return inner_products(rows, columns[:, channels.to(x.device)].flatten(2)).flatten()


def _wgrad(sampler: Sampler, small: Tensor, large: Tensor, weight: Tensor, own: _Filter) -> Tensor:
    """``dW[i, j, tap] = sum small[n, i, p] large[n, j, p * stride - padding + dilation * tap]``, over n and p."""
    terms = len(small) * math.prod(small.shape[2:])
    first, second = weight.shape[0] // own.groups, weight.shape[1]
    side = _side(sampler, terms)
    groups = sampler.positions(own.groups, max(1, side // min(side, max(first, second))))
    one, two = (sampler.positions(count, side) for count in (first, second))
    taps = list(itertools.product(*(range(length) for length in weight.shape[2:])))
    most = min(sampler.samples // (len(one) * len(two)), 2 * _READ // (terms * (len(one) + len(two))))
    small, large = _channels(small, groups, one, first), _channels(large, groups, two, second)
    found = []
    for number in sampler.positions(len(taps), most).tolist():
        pair = _overlap(own, taps[number], small, large)
        rows, columns = (part.transpose(0, 2).transpose(0, 1).flatten(2) for part in pair)
        found.append(inner_products(rows, columns).flatten())
    return torch.cat(found)


def _channels(x: Tensor, groups: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Channels of groups as ``[n, groups, channels, *space]``."""
    index = (groups[:, None] * count + chosen).flatten().to(x.device)
    found: Tensor = x.index_select(1, index).unflatten(1, (len(groups), len(chosen)))
    return found


def _overlap(own: _Filter, tap: Sequence[int], small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of both that this tap brings together."""
    for dim, offset in enumerate(tap):
        stride, at = own.stride[dim], own.dilation[dim] * offset - own.padding[dim]
        low = max(0, -(at // stride))
        count = max(0, min(small.shape[3 + dim], (large.shape[3 + dim] - 1 - at) // stride + 1) - low)
        small = small.narrow(3 + dim, low, count) if count else small.narrow(3 + dim, 0, 0)
        first = low * stride + at if count else 0
        large = torch.ops.aten.slice(large, 3 + dim, first, first + (count - 1) * stride + 1 if count else 0, stride)
    return small, large


def _filter(dims: int, options: Sequence[Any]) -> _Filter:
    """Of the arguments of a convolution behind its tensors."""
    stride, padding, dilation = (list(own) * dims if len(own) == 1 else list(own) for own in options[:3])
    return _Filter(stride, padding, dilation, bool(options[3]), int(options[5]))


def _convolution(sampler: Sampler, y: Tensor, x: Tensor, weight: Tensor, bias: Any, *options: Any) -> Tensor:
    return _convolved(sampler, x, weight, y.shape, _filter(x.dim() - 2, options))


def _convolution_backward(
    sampler: Sampler, y: Any, grad: Tensor, x: Tensor, weight: Tensor, bias: Any, *options: Any
) -> tuple[Tensor | None, ...]:
    own, mask = _filter(x.dim() - 2, options), options[6]
    found: list[Tensor | None] = [None, None, None]
    if mask[0]:
        found[0] = _convolved(sampler, grad, weight, x.shape, replace(own, transposed=not own.transposed))
    if mask[1]:
        small, large = (x, grad) if own.transposed else (grad, x)
        found[1] = _wgrad(sampler, small, large, weight, own)
    if mask[2]:
        lines = sampler.lines(grad, [dim for dim in range(grad.dim()) if dim != 1])
        found[2] = ratio(lines.abs().sum(1).double(), lines.double().sum(1))
    return tuple(found)


_aten = torch.ops.aten

#: Rules by op.
PRODUCT_RULES: dict[Any, Rule] = {
    _aten.mm.default: in_two(_NAME, _matrix, _products),
    _aten.addmm.default: in_two(_NAME, _matrix, _products),
    _aten.bmm.default: in_two(_NAME, _batch, _products),
    _aten.baddbmm.default: in_two(_NAME, _batch, _products),
    _aten.convolution.default: Rule(_NAME, _convolution),
    _aten.convolution_backward.default: Rule(_NAME, _convolution_backward),
    GROUPED_PRODUCT: Rule(_NAME, _grouped),
}
