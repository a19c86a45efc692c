"""Convolutions as matrix products, against torch's own in float64, where sums of small integers are exact."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import precc
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.convolution import Geometry, dgrad, fprop, wgrad
from precc.accumulation.patches import Patches
from precc.backends.cpp.accumulate import accumulate
from precc.errors import FormatError

_aten = torch.ops.aten

CASES: tuple[dict[str, Any], ...] = (
    *(
        {
            "dims": dims,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "transposed": turned,
        }
        for dims, stride, padding, dilation, groups, turned in itertools.product(
            (1, 2), (1, 2), (0, 2), (1, 2), (1, 2), (False, True)
        )
    ),
    {"dims": 3, "stride": 2, "padding": 1, "dilation": 1, "groups": 1, "transposed": False},
    {"dims": 3, "stride": 3, "padding": 0, "dilation": 1, "groups": 3, "transposed": True},
    {"dims": 2, "stride": 1, "padding": 0, "dilation": 1, "groups": 6, "transposed": False},
)


def _multiply(a: Tensor, b: Patches, first: int) -> Tensor:
    return a.repeat(b.shape[0] // a.shape[0], 1, 1) @ b.matrices()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_fprop_dgrad_wgrad(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precc.accumulation.convolution._MOST_PATCHES", 2000)  # several parts
    dims, groups, turned = case["dims"], case["groups"], case["transposed"]
    channels, outputs, kernel, size = 6, 12, (3, 2, 3)[:dims], (7, 8, 5)[:dims]
    stride, padding, dilation = ([case[name]] * dims for name in ("stride", "padding", "dilation"))
    extra = [case["stride"] - 1 if turned else 0] * dims
    geometry = Geometry.of(dims, stride, padding[:1], dilation, turned, extra, groups)
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (3, channels, *size), generator=generator).double()
    shape = (channels, outputs // groups) if turned else (outputs, channels // groups)
    weight = torch.randint(-4, 5, (*shape, *kernel), generator=generator).double()
    options = (stride, padding, dilation, turned, extra, groups)
    expected = _aten.convolution(x, weight, None, *options)
    assert torch.equal(fprop(x, weight, geometry, _multiply), expected)
    gradient = torch.randint(-4, 5, expected.shape, generator=generator).double()
    by_x, by_weight, _ = _aten.convolution_backward(gradient, x, weight, None, *options, [True, True, False])
    assert torch.equal(dgrad(gradient, weight, size, geometry, _multiply), by_x)
    assert torch.equal(wgrad(gradient, x, kernel, geometry, _multiply), by_weight)


def test_numbers_of_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`first` is where the part that is asked for begins in the result, row-major."""
    monkeypatch.setattr("precc.accumulation.convolution._MOST_PATCHES", 200)
    calls = []

    def numbered(a: Tensor, b: Patches, first: int) -> Tensor:
        count = b.shape[0] * a.shape[1] * b.shape[2]
        calls.append(first)
        return torch.arange(first, first + count, dtype=a.dtype).reshape(b.shape[0], a.shape[1], b.shape[2])

    x, weight = torch.zeros(5, 4, 6, 6, dtype=torch.float64), torch.zeros(8, 2, 3, 3, dtype=torch.float64)
    geometry = Geometry.of(2, [1], [1], [1], False, [0], 2)
    numbers = fprop(x, weight, geometry, numbered)
    assert torch.equal(numbers.flatten(), torch.arange(numbers.numel(), dtype=torch.float64))
    assert len(calls) == 5


def test_shapes_that_do_not_fit() -> None:
    geometry = Geometry.of(2, [1], [0], [1], False, [0], 1)
    with pytest.raises(FormatError, match="fitting channels"):
        fprop(torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 3, 3), geometry, _multiply)


def test_empty_batch() -> None:
    geometry = Geometry.of(2, [1], [0], [1], False, [0], 1)
    empty, weight = torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, 3, 3)
    assert fprop(empty, weight, geometry, _multiply).shape == (0, 2, 2, 2)
    gradient = torch.zeros(0, 2, 2, 2)
    assert wgrad(gradient, empty, (3, 3), geometry, _multiply).eq(0).all()
    assert dgrad(gradient, weight, (4, 4), geometry, _multiply).shape == (0, 3, 4, 4)


def test_a_result_without_extent_is_an_error() -> None:
    geometry = Geometry.of(2, [2], [5, 2], [3], True, [0, 2], 1)
    with pytest.raises(FormatError, match="no spatial extent"):
        fprop(torch.zeros(1, 2, 1, 1), torch.zeros(2, 1, 4, 4), geometry, _multiply)


def by_definition(x: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator) -> Tensor:
    """A convolution of one spatial dimension, output by output: the terms in order, zeros included."""
    size = geometry.output_size(x.shape[2:], weight.shape[2:])[0]
    groups, stride, padding, dilation = geometry.groups, geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    inputs, kernel, length = x.shape[1] // groups, weight.shape[2], x.shape[2]
    outputs = weight.shape[1] if geometry.transposed else weight.shape[0] // groups
    result = torch.zeros(x.shape[0], groups * outputs, size)
    for n, g, o, p in itertools.product(range(x.shape[0]), range(groups), range(outputs), range(size)):
        terms = []
        for c, step in itertools.product(range(inputs), range(kernel)):
            if geometry.transposed:  # positions of x ascend where those of the kernel descend
                k = kernel - 1 - step
                place, factor = p + padding - k * dilation, weight[g * inputs + c, o, k]
                at = place // stride if place % stride == 0 else -1
            else:
                at, factor = p * stride - padding + step * dilation, weight[g * outputs + o, c, step]
            terms.append((x[n, g * inputs + c, at] if 0 <= at < length else torch.zeros(()), factor))
        left, right = (torch.stack(side) for side in zip(*terms, strict=True))
        result[n, g * outputs + o, p] = precc.matmul(left[None], right[:, None], accumulator)
    return result


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (3, 2, 1), (2, 3, 2)])
def test_the_order_of_terms(stride: int, dilation: int, groups: int, turned: bool) -> None:
    """Sums in e4m3, or in blocks of 4 terms, depend on it."""
    geometry = Geometry.of(1, [stride], [1], [dilation], turned, [0], groups)
    torch.manual_seed(0)
    weight = torch.randn(*((4, 6 // groups) if turned else (6, 4 // groups)), 3)
    length = 2 * stride + 2 * dilation - 1  # so that a gradient of the result's size comes from this size alone
    x = torch.randn(2, 4, length)
    for accumulator in (Accumulator(format="e4m3"), Accumulator(format="e4m3", order="blocked", block=4)):

        def multiply(a: Tensor, b: Patches, first: int, accumulator: Accumulator = accumulator) -> Tensor:
            return accumulate(a, b, accumulator, first=first)

        found = fprop(x, weight, geometry, multiply)
        assert torch.equal(found, by_definition(x, weight, geometry, accumulator))
        back = Geometry.of(1, [stride], [1], [dilation], not turned, [0], groups)  # the gradient of one is the other
        assert back.output_size(found.shape[2:], (3,)) == (length,)
        gradient = torch.randn_like(found)
        by_gradient = dgrad(gradient, weight, (length,), geometry, multiply)
        assert torch.equal(by_gradient, by_definition(gradient, weight, back, accumulator))
