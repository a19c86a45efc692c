"""The arithmetic by hand, with tensors and arguments that are out of the ordinary."""

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import precc
from precc import Accumulator, FloatFormat, matmul, parse_format, round_to
from precc.backends.cpp import round_compiled
from precc.errors import FormatError
from precc.rounding import Row, parse_rounding, quantize, row_of
from precc.rounding.row import parse_row

INF = math.inf


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("qpytorch_e8m23", [1.0, 3e38, INF]),  # its largest value is beyond float32's
        ("qpytorch_e9m30", [1.0, 3e38, INF]),
        ("fixed32.-100", [0.0, 2.9999999e38, INF]),
        ("fixed8.-122", [0.0, 2.9774707e38, INF]),  # a quantum whose constant is beyond float32's
        ("fixed8.-900", [0.0, 0.0, INF]),
    ],
)
def test_formats_that_go_beyond_the_carrier(name: str, wanted: list[float]) -> None:
    x = torch.tensor([1.0, 3e38, INF])
    row = row_of(parse_format(name))
    for implementation in (quantize, round_compiled):
        torch.testing.assert_close(implementation(x, row), torch.tensor(wanted), rtol=1e-2, atol=0)
        double = implementation(x.double(), row).float()
        assert torch.equal(implementation(x, row), double), implementation.__name__


@pytest.mark.parametrize("name", ["fixed16.149", "fixed16.150", "qpytorch_e8m23", "float32"])
def test_values_at_the_end_of_the_carrier_stay_to_nearest_away(name: str) -> None:
    x = torch.tensor([-0.0, 0.0, 2.0**-149, -3 * 2.0**-149])
    row = row_of(parse_format(name), parse_rounding("nearest_away"))
    for implementation in (quantize, round_compiled):
        assert torch.equal(implementation(x, row), x)


def test_the_largest_value_of_a_real_valued_bias_is_finite() -> None:
    for step in range(1, 300):
        fmt = FloatFormat(name="real", exponent_bits=4, mantissa_bits=3, bias=step / 30)
        assert round_to(torch.tensor([fmt.max], dtype=torch.float64), fmt).isfinite()


def test_equal_rows_are_found_again_also_with_a_nan() -> None:
    row = row_of(FloatFormat(name="nan", exponent_bits=4, mantissa_bits=3, specials="nan", overflow="nan"))  # type: ignore[arg-type]
    values = torch.tensor(row.values, dtype=torch.float64)
    first, second = (parse_row(values.tolist())[0] for _ in range(2))
    assert isinstance(first, Row)
    assert first is second
    assert first.values[:5] == row.values[:5]


def overlapping(function: Callable[[Tensor, Tensor], Any]) -> None:
    for shift in (1, 5000):
        memory = torch.randn(20_000)
        x, out = memory[:-shift], memory[shift:]
        wanted = round_to(x.clone(), "e4m3")
        function(x, out)
        assert torch.equal(out, wanted)


def test_an_out_that_overlaps_the_input_gets_the_right_values() -> None:
    overlapping(lambda x, out: round_to(x, "e4m3", out=out))
    a = torch.randn(4, 4)
    wanted = matmul(a.clone(), a.clone(), "e5m10")
    matmul(a, a, "e5m10", out=a)
    assert torch.equal(a, wanted)


def test_autograd_knows_that_out_was_written() -> None:
    for write in (lambda y: round_to(torch.randn(4, 4), "e4m3", out=y), lambda y: matmul(y, y, "e5m10", out=y)):
        y = torch.randn(4, 4, requires_grad=True) * 1
        loss = (y * y).sum()
        write(y.detach())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_lazily_negated_tensors_as_input_and_out() -> None:
    negated = torch._neg_view(torch.ones(4, 4))
    assert matmul(negated, torch.ones(4, 4), "e5m10")[0, 0].item() == -4.0
    for call in (
        lambda out: round_to(torch.ones(4, 4), "e4m3", out=out),
        lambda out: matmul(negated, negated, "e5m10", out=out),
    ):
        out = torch._neg_view(torch.zeros(4, 4))
        result = call(out)
        assert result is out
        assert out[0, 0].item() in (1.0, 4.0)


def test_fake_traced_and_mapped_tensors() -> None:
    with FakeTensorMode():
        assert round_to(torch.randn(4, 8), "e4m3").shape == (4, 8)
    traced = make_fx(lambda x: round_to(x, "e4m3"))(torch.randn(4))
    assert traced(torch.tensor([1.06, 2.0, 3.3, 500.0])).tolist() == [1.0, 2.0, 3.25, 448.0]
    if torch.__version__.startswith("2.11"):
        return  # it cannot map a view of another dtype
    x = torch.randn(3, 5)
    assert torch.equal(torch.vmap(lambda v: round_to(v, "e4m3"))(x), round_to(x, "e4m3"))


def test_a_default_device_changes_nothing() -> None:
    x, a = torch.randn(8), torch.randn(3, 3)
    net = precc.compile(torch.nn.Linear(3, 2), policy=precc.Uniform("e4m3", rounding="stochastic"), backend="cpp")
    torch.set_default_device("meta")
    try:
        assert round_to(x, "e4m3", rounding="stochastic").device.type == "cpu"
        assert matmul(a, a, "e5m10").device.type == "cpu"
        assert net(a).device.type == "cpu"
    finally:
        torch.set_default_device(None)


def test_a_static_scale_that_float32_cannot_hold_is_taken_in_float64() -> None:
    scaling = precc.Scaling("static", value=1e-60)
    assert round_to(torch.tensor([1e-59], dtype=torch.float64), "e4m3", scaling=scaling).item() == pytest.approx(1e-59)


A = torch.ones(2, 2)
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "meta out": (lambda: matmul(A, A, "e5m10", out=torch.zeros(2, 2, device="meta")), "on meta"),
    "wrong dtype": (lambda: matmul(A, A, "e5m10", out=torch.zeros(2, 2, dtype=torch.int32)), "out is"),
    "wrong shape": (lambda: matmul(A, A, "e5m10", out=torch.zeros(3, 2, 2)), "out is"),
    "gradients": (lambda: matmul(A.clone().requires_grad_(), A, "e5m10"), "no derivative"),
    "out gradients": (lambda: matmul(A, A, "e5m10", out=torch.zeros(2, 2, requires_grad=True)), "records gradients"),
    "list": (lambda: matmul([1], A, "e5m10"), "takes tensors"),  # type: ignore[arg-type]
    "shapes": (lambda: matmul(A, torch.ones(3, 2), "e5m10"), "a product takes"),
    "half": (lambda: matmul(A.half(), A.half(), "e5m10"), "float32"),
    "seed": (lambda: matmul(A, A, "e5m10", seed=1), "a seed is for roundings that draw"),
    "chunk": (lambda: Accumulator(format="fp16", chunk=2**64), "2\\*\\*31 - 1"),
    "block": (lambda: Accumulator(format="fp16", order="blocked", block=2**63), "2\\*\\*31 - 1"),
    "own overlap": (lambda: round_to(A, "e4m3", out=torch.zeros(10).as_strided((2, 2), (1, 1))), "share one place"),
    "axis": (lambda: round_to(torch.tensor(1.0), "mxfp8", axis=7), "no axis 7"),
    "previous": (lambda: round_to(A, "e4m3", rounding="hysteresis", previous=[1]), "needs previous"),  # type: ignore[arg-type]
    "variance": (lambda: round_to(A, "e4m3", rounding="variance_corrected", variance=torch.ones(3)), "shape"),
    "no variance": (lambda: round_to(A, "e4m3", rounding="variance_corrected", variance="x"), "a variance is"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_errors_of_ours(case: str) -> None:
    call, message = BAD[case]
    state = torch.get_rng_state()
    with pytest.raises(FormatError, match=message):
        call()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_product_of_extreme_numbers() -> None:
    large = torch.tensor([[2.0**486]], dtype=torch.float64)
    assert matmul(large, large, "e11m10").item() == 2.0**972


@pytest.mark.skipif("PRECC_LARGE" not in os.environ, reason="takes 9 GB of memory: set PRECC_LARGE")
@pytest.mark.parametrize("name", ["e4m3", "mxfp4"])
def test_more_than_2_to_the_31_elements(name: str) -> None:
    x = torch.zeros(2**31 + 37)
    x[:3], x[2**31 - 2 :] = 1.06, 1.06
    round_to(x, name, out=x)
    assert set(x[:3].tolist()) == set(x[2**31 - 2 :].tolist()) == {1.0}
    assert x[1000].item() == 0.0
