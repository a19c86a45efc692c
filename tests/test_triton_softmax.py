"""The softmax in two passes: by tensor operations, by Triton's kernel, against float64 and against torch."""

import math

import pytest
import torch
from torch import Tensor

from precc import softmax_two_pass
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER
from precc.backends.triton.emit.device_functions import JIT
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.templates.softmax import SOFTMAX_FUNCTION, softmax_rows, softmax_source
from precc.errors import FormatError
from tests.exact_sums import same_bits
from tests.golden import check_golden

#: Units in the last place, of results that are normal numbers.
MOST = 3.0


def ulps(y: Tensor, x: Tensor) -> float:
    exact = torch.softmax(x.double(), -1)
    unit = torch.exp2(torch.floor(torch.log2(exact.clamp(min=2.0**-126))) - 23)
    return float(((y.double() - exact).abs() / unit).max())


def inputs() -> dict[str, Tensor]:
    return {
        "normal": torch.randn(30, 700),
        "wide": torch.randn(30, 700) * 30,
        "offset": torch.randn(30, 300) * 5 + 1e4,
        "beyond_2**24": torch.randint(-20, 20, (20, 300)) * 2.0 + 2.0**24 + 2,
        "beyond_2**30": torch.randint(-3, 3, (20, 300)) * 64.0 + 2.0**30,
        "neighbours_of_2**40": torch.randint(0, 2, (20, 9)) * 2.0**17 + 2.0**40,
        "huge": torch.randn(20, 30) * 1e30,
        "equal": torch.full((3, 7), -1e30),
        "long": torch.randn(2, 40_000) * 3,
        "alone": torch.randn(5, 1) * 100,
    }


@pytest.mark.parametrize("name", inputs())
def test_results_are_within_three_units_of_the_exact_ones(name: str) -> None:
    x = inputs()[name]
    y = softmax_two_pass(x)
    assert ulps(y, x) <= MOST
    assert torch.allclose(y, torch.softmax(x, -1), rtol=2e-5, atol=1e-30)
    by_kernel = softmax_rows(x, INTERPRETER)
    assert ulps(by_kernel, x) <= MOST
    assert float((by_kernel != y).double().mean()) < 1e-3  # where the order of a sum decides a last bit


def test_what_is_not_finite_is_as_in_torch() -> None:
    inf = math.inf
    rows = [[0.0, -inf, 1], [-inf] * 3, [inf, 0, 1], [math.nan, 0, 1], [-1e30, 1e30, 1e30], [-3.4e38, -3.4e38, -inf]]
    x = torch.tensor(rows)
    wanted = torch.softmax(x, -1)
    for y in (softmax_two_pass(x), softmax_rows(x, INTERPRETER)):
        assert torch.equal(y.isnan(), wanted.isnan())
        assert torch.allclose(y, wanted, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    x = (torch.randn(30, 200) * 4).to(dtype)
    exact = torch.softmax(x.double(), -1).to(dtype)
    for y in (softmax_two_pass(x), softmax_rows(x, INTERPRETER)):
        assert y.dtype is dtype
        assert float((y != exact).double().mean()) < 1e-3  # halfway between two values


def test_every_bfloat16_against_a_zero() -> None:
    """A pair of values, the second 0: the logistic function."""
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    x = torch.stack([patterns, torch.zeros_like(patterns)], 1)
    y = softmax_two_pass(x)
    assert torch.equal(y.isnan(), torch.softmax(x, -1).isnan())
    finite = x[:, 0].isfinite()
    assert ulps(y[finite], x[finite]) <= MOST
    assert same_bits(softmax_rows(x, INTERPRETER), y)


def test_any_dimension_and_empty_tensors() -> None:
    x = torch.randn(3, 4, 5)
    for dim in (0, 1, 2, -1, -3):
        assert torch.allclose(softmax_two_pass(x, dim), torch.softmax(x, dim), rtol=1e-5)
    assert softmax_two_pass(torch.tensor(3.0)).item() == 1
    assert softmax_two_pass(x[:0]).shape == (0, 4, 5)
    assert softmax_rows(x[0, :0], INTERPRETER).shape == (0, 5)


def test_bad_arguments_are_named() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(FormatError, match=r"not torch.float64"):
        softmax_two_pass(x.double())
    with pytest.raises(FormatError, match=r"shape \[2, 3\] has no dimension 2"):
        softmax_two_pass(x, 2)
    with pytest.raises(FormatError, match="no derivative"):
        softmax_two_pass(x.requires_grad_())
    with pytest.raises(FormatError, match="not list"):
        softmax_two_pass([1.0])  # type: ignore[arg-type]


def test_the_function_of_whole_rows() -> None:
    text = f"""import triton
import triton.language as tl


{SOFTMAX_FUNCTION}

{JIT}def rows(x_ptr, y_ptr, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)[None, :]
    place = tl.arange(0, ROWS)[:, None] * columns + column
    x = tl.load(x_ptr + place, mask=column < columns, other=float("-inf"))
    tl.store(y_ptr + place, softmax(x), mask=column < columns)
"""
    arguments = (Argument("x_ptr", "*fp32"), Argument("y_ptr", "*fp32"), Argument("columns", "i32"))
    source = KernelSource("rows", "test", text, arguments, {"ROWS": 4, "COLUMNS": 32})
    x = torch.randn(4, 21) * 10
    y = torch.empty_like(x)
    launch(source, (1,), (x, y, 21))
    assert ulps(y, x) <= MOST


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_compile_without_spills(device: str) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    kernels = [softmax_source(dtypes[n], columns, DEVICES[device]) for n, columns in enumerate((40_000, 5, 1000))]
    for facts in compiled(kernels, DEVICES[device]):
        assert isinstance(facts, CompiledFacts), facts
        assert not facts.spills


def test_the_text_of_the_kernel() -> None:
    check_golden("triton_softmax.txt", softmax_source(torch.bfloat16, 1000, DEVICES["sm_90"]).text.rstrip())
