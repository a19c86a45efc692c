"""Rounding, bit for bit: against ml_dtypes, against exact rational arithmetic, in every backend."""

import itertools
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule

from precc.backends import BACKENDS
from precc.errors import FormatError, UnsupportedError
from precc.formats import FORMATS, FloatFormat, parse_format
from precc.round_op import ROUND
from precc.rounding import Row, round_to
from tests.exact import exact_round

# (our format, an independent implementation of the same rounding)
PEERS: list[tuple[FloatFormat, Any]] = [
    (parse_format("e4m3").with_overflow("nan"), ml_dtypes.float8_e4m3fn),
    (parse_format("e5m2"), ml_dtypes.float8_e5m2),
    (parse_format("e3m4"), ml_dtypes.float8_e3m4),
    (FloatFormat(name="ieee_e4m3", exponent_bits=4, mantissa_bits=3), ml_dtypes.float8_e4m3),
    (parse_format("fp16"), np.float16),
    (parse_format("bf16"), ml_dtypes.bfloat16),
    (parse_format("e3m2"), ml_dtypes.float6_e3m2fn),
    (parse_format("e2m3"), ml_dtypes.float6_e2m3fn),
    (parse_format("e2m1"), ml_dtypes.float4_e2m1fn),
]
EIGHT_BITS = [pair for pair in PEERS if pair[0].bits == 8]


def patterns(fmt: FloatFormat, count: int = 100_000) -> Tensor:
    """Random float32 bit patterns, with the format's values, ties, their neighbours, and all special values."""
    bits = np.random.default_rng(7).integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    values = np.array(
        [
            step * 2.0 ** (e - fmt.mantissa_bits - 1)
            for e in range(fmt.emin, min(fmt.emax + 2, fmt.emin + 24))
            for step in range(0, min(2 ** (fmt.mantissa_bits + 2), 64))
        ],
    )
    top = min(fmt.max, 1e38) * np.array([1.0, 1 + fmt.unit_roundoff / 2, 1 + fmt.unit_roundoff, 1.04, 1.1])
    near = np.concatenate([values, top])
    near = near[near < 3.4e38].astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    special = np.array([0.0, np.inf, np.nan, 1e-45, 1.1e-38, 1.17549435e-38, 3.4028235e38], dtype=np.float32)
    everything = np.concatenate([bits.view(np.float32), near, special])
    return torch.from_numpy(np.concatenate([everything, -everything]))


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    both_nan = ours.isnan() & theirs.isnan()
    return bool(((ours.view(torch.int32) == theirs.view(torch.int32)) | both_nan).all())


def peer_rounding(x: Tensor, dtype: Any) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))


def rounded_by_backend(name: str, x: Tensor, fmt: FloatFormat) -> Tensor:
    """Through a graph of one rounding node, compiled by a backend, with a live plan."""
    plan = torch.tensor([Row.of(fmt).values], dtype=torch.float64)
    graph = Graph()
    nodes = [graph.placeholder("x"), graph.placeholder("plan")]
    graph.output((graph.call_function(ROUND, (*nodes, 0)),))
    with FakeTensorMode() as mode:
        inputs: Sequence[Any] = [mode.from_tensor(x), mode.from_tensor(plan)]
    module = GraphModule(torch.nn.Module(), graph)
    run = BACKENDS[name].compile(module, inputs, visible_outputs=1, backward=False)
    (result,) = run([x, plan])
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize(("fmt", "dtype"), PEERS, ids=lambda value: getattr(value, "name", None) or "")
def test_float32_patterns_round_as_ml_dtypes(fmt: FloatFormat, dtype: Any) -> None:
    x = patterns(fmt)
    if not fmt.has_inf and fmt.specials.value == "none":
        x = x[~x.isnan()]  # these formats have no NaN: ml_dtypes makes it a number, we keep it
    assert same_bits(round_to(x, fmt), peer_rounding(x, dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("fmt", "dtype"), PEERS[:6], ids=lambda value: getattr(value, "name", None) or "")
def test_backends_round_as_ml_dtypes(backend: str, fmt: FloatFormat, dtype: Any) -> None:
    x = patterns(fmt)
    assert same_bits(rounded_by_backend(backend, x, fmt), peer_rounding(x, dtype))


@pytest.mark.parametrize("backend", ["round_to", *BACKENDS])
@pytest.mark.parametrize(("fmt", "dtype"), EIGHT_BITS, ids=lambda value: getattr(value, "name", None) or "")
def test_all_256_codes_are_fixed_points(backend: str, fmt: FloatFormat, dtype: Any) -> None:
    codes = torch.from_numpy(np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32))
    ours = round_to(codes, fmt) if backend == "round_to" else rounded_by_backend(backend, codes, fmt)
    assert same_bits(ours, codes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["e4m3", "e2m1", "e5m10", "e8m0", "e2m0", "e8m22", "e4m5", "fp32", "fp64"])
def test_backends_agree_bit_for_bit(backend: str, name: str) -> None:
    fmt = parse_format(name)
    x = patterns(fmt, 20_000)
    assert same_bits(rounded_by_backend(backend, x, fmt), round_to(x, fmt))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "bf16", "fp32"])
def test_backends_agree_on_other_carriers(dtype: torch.dtype, name: str) -> None:
    x = patterns(parse_format("fp32"), 5_000).to(dtype)
    expected = round_to(x, name)
    for backend in BACKENDS:
        result = rounded_by_backend(backend, x, parse_format(name))
        assert result.dtype == dtype
        assert torch.equal(result.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0)), backend


FORMATS_TRIED = [
    *FORMATS.values(),
    *(parse_format(f"e{e}m{m}") for e, m in itertools.product((2, 5, 8), (0, 1, 6, 22))),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS_TRIED), st.floats(width=32), st.sampled_from(["float32", "float64"]))
def test_rounding_is_exact(fmt: FloatFormat, x: float, dtype: str) -> None:
    assume(fmt.name != "float64")
    ours = round_to(torch.tensor([x], dtype=getattr(torch, dtype)), fmt)
    expected = torch.tensor([exact_round(x, fmt)], dtype=ours.dtype)
    assert same_bits(ours.float(), expected.float()), (fmt, x, ours, expected)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS_TRIED), st.floats(width=64))
def test_rounding_of_doubles_is_exact(fmt: FloatFormat, x: float) -> None:
    ours = round_to(torch.tensor([x], dtype=torch.float64), fmt).item()
    expected = exact_round(x, fmt)
    assert ours == expected or (ours != ours and expected != expected), (fmt, x)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS_TRIED),
    st.floats(width=32, allow_nan=False),
    st.floats(width=32, allow_nan=False),
)
def test_rounding_is_monotone_odd_and_idempotent(fmt: FloatFormat, x: float, y: float) -> None:
    low, high = round_to(torch.tensor(sorted([x, y])), fmt).tolist()
    assert low <= high
    values = torch.tensor([x, y])
    once = round_to(values, fmt)
    assert torch.equal(round_to(-values, fmt), -once)
    if not (once.isinf().any() and fmt.overflow.value != "inf"):
        assert torch.equal(round_to(once, fmt), once)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FORMATS_TRIED), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_relative_error_is_at_most_u_in_the_normal_range(fmt: FloatFormat, x: float) -> None:
    if fmt.smallest_normal <= abs(x) <= fmt.max:
        rounded = round_to(torch.tensor([x], dtype=torch.float64), fmt).item()
        assert abs(rounded - x) <= fmt.unit_roundoff * abs(x)


def test_default_overflow_is_inf_where_there_is_one_else_saturation() -> None:
    x = torch.tensor([1e9, -1e9, float("inf"), float("nan")])
    assert round_to(x, "e5m2").tolist()[:3] == [float("inf"), -float("inf"), float("inf")]
    assert round_to(x, "e4m3").tolist()[:3] == [448.0, -448.0, 448.0]
    saturating = parse_format("e5m2").with_overflow("saturate")
    assert round_to(x, saturating).tolist()[:3] == [57344.0, -57344.0, 57344.0]
    assert round_to(x, saturating)[3].isnan()


def test_a_saturating_float32_is_no_identity() -> None:
    saturating = parse_format("fp32").with_overflow("saturate")
    assert round_to(torch.tensor([float("inf")]), saturating).item() == torch.finfo(torch.float32).max


def test_out_receives_the_result_and_may_be_the_input() -> None:
    x = torch.tensor([1.06, 3.3])
    out = torch.empty(2)
    assert round_to(x, "e4m3", out=out) is out
    assert out.tolist() == [1.0, 3.25]
    round_to(x, "e4m3", out=x)
    assert x.tolist() == [1.0, 3.25]


def test_rounding_gives_a_new_tensor_of_the_same_shape() -> None:
    x = torch.randn(3, 4, 5).transpose(0, 2)
    for name in ("fp32", "e4m3"):
        y = round_to(x, name)
        assert y.shape == x.shape
        assert y.data_ptr() != x.data_ptr()
    assert round_to(torch.empty(0, 3), "e4m3").shape == (0, 3)
    assert round_to(torch.tensor(1.06), "e4m3").item() == 1.0


def test_lazily_negated_tensors() -> None:
    negated = torch.tensor([1.06 + 1.06j]).conj().imag
    assert negated.is_neg()
    assert round_to(negated, "e4m3").tolist() == [-1.0]


def test_bad_arguments_are_errors_of_ours() -> None:
    x = torch.zeros(2)
    with pytest.raises(FormatError, match=r"unknown rounding 'stochastic'.*'nearest_even'"):
        round_to(x, "e4m3", rounding="stochastic")
    with pytest.raises(UnsupportedError, match="seed"):
        round_to(x, "e4m3", seed=1)
    with pytest.raises(FormatError, match=r"int64.*float64, float32"):
        round_to(torch.zeros(2, dtype=torch.int64), "e4m3")
    with pytest.raises(FormatError, match="takes a tensor"):
        round_to([1.0], "e4m3")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no derivative"):
        round_to(torch.zeros(2, requires_grad=True), "e4m3")
    with pytest.raises(FormatError, match="sparse"):
        round_to(x.to_sparse(), "e4m3")
    with pytest.raises(FormatError, match="out records gradients"):
        round_to(x, "e4m3", out=torch.zeros(2, requires_grad=True))
    for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
        with pytest.raises(FormatError, match="out is"):
            round_to(x, "e4m3", out=wrong)
