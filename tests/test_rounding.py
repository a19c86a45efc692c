"""Rounding of single values, bit for bit: every small format on all its codes and midpoints, in every mode and backend.

References: exact rational arithmetic (tests/exact.py), ml_dtypes, gfloat.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import gfloat
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
from precc.backends.cpp import round_compiled
from precc.by_hand.numerics import round_to
from precc.errors import FormatError
from precc.formats import FORMATS, FixedPoint, FloatFormat, NestedInteger, PowerLaw, Scaling, Specials, parse_format
from precc.round_op import ROUND
from precc.rounding import KEY_COLUMNS, Rounding, RoundingMode, Row, key_halves, parse_rounding, quantize, row_of
from tests.exact import exact_hash, exact_round

MODES = ("nearest_even", "nearest_away", "toward_zero", "stochastic")
KEY, SLOT = 0x123456789ABCDEF, 0xFEDCBA9876543210

IEEE_E4M3 = FloatFormat(name="ieee_e4m3", exponent_bits=4, mantissa_bits=3)
OWN = [
    IEEE_E4M3,
    FloatFormat(name="no_subnormals", exponent_bits=4, mantissa_bits=3, subnormals=False),
    FloatFormat(name="biased", exponent_bits=3, mantissa_bits=3, bias=-20, specials=Specials.NONE),
    FloatFormat(name="tiny_values", exponent_bits=4, mantissa_bits=3, bias=140),
    FloatFormat(name="unsigned", exponent_bits=3, mantissa_bits=3, signed=False, specials=Specials.NONE),
    FloatFormat(name="one_exponent_bit", exponent_bits=1, mantissa_bits=4, specials=Specials.NONE),
    FixedPoint(name="symmetric", word=6, fraction=3, symmetric=True),
    FixedPoint(name="unsigned_fixed", word=7, fraction=2, signed=False),
    FixedPoint(name="coarse", word=5, fraction=-110),
    FixedPoint(name="fine", word=5, fraction=147),
]
_FAMILIES = """e5m0 e2m0 e4m2 e3m1 e6m1 fixed8.4 fixed8.0 fixed4.6 fixed1.0 int2 qpytorch_e4m3 qpytorch_e5m2
qpytorch_e2m5 binary8p1 binary8p2 binary8p3 binary8p4 binary8p5 binary8p6 binary8p7 binary8p3f
binary8p1f binary8p1u binary8p3u binary8p4uf binary8p8u binary8p8uf"""
#: Every kind of format of single values of 8 bits and less.
SMALL: list[FloatFormat | FixedPoint] = [
    fmt
    for fmt in (*FORMATS.values(), *map(parse_format, _FAMILIES.split()), *OWN)
    if isinstance(fmt, (FloatFormat, FixedPoint)) and fmt.bits <= 8
]


def named(value: object) -> str:
    return str(getattr(value, "name", value))


@cache
def points(fmt: FloatFormat | FixedPoint, dtype: torch.dtype = torch.float32) -> Tensor:
    """All values, all midpoints, their neighbours in the carrier, and what lies beyond the ends."""
    carrier = np.float64 if dtype is torch.float64 else np.float32
    codes = sorted({abs(value) for value in map(fmt.decode, range(2**fmt.bits)) if math.isfinite(value)})
    steps = [*codes, 2 * codes[-1] - codes[-2], 2 * codes[-1], 4 * codes[-1]]
    middle = [(low + high) / 2 for low, high in itertools.pairwise(steps)]
    quarters = [low + (high - low) / 4 for low, high in itertools.pairwise(steps)]
    with np.errstate(over="ignore"):
        exact = np.array([*steps, *middle, *quarters, codes[1] / 2, codes[1] / 3, 1e-30, 1e30], dtype=carrier)
    near = [np.nextafter(exact, carrier(np.inf)), np.nextafter(exact, carrier(0))]
    special = np.array([0.0, np.inf, np.nan, np.finfo(carrier).max, np.finfo(carrier).tiny, 1e-45], dtype=carrier)
    everything = np.concatenate([exact, *near, special])
    return torch.from_numpy(np.concatenate([everything, -everything]))


@cache
def drawn(index: int) -> int:
    """The random number of an element."""
    return exact_hash(KEY, SLOT, index) >> 1


@cache
def expected(fmt: FloatFormat | FixedPoint, mode: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """`points` rounded one by one in exact arithmetic."""
    values = points(fmt, dtype).tolist()
    chosen = RoundingMode(mode)
    draws = [drawn(index) if chosen is RoundingMode.STOCHASTIC else 0 for index in range(len(values))]
    rounded = [exact_round(x, fmt, chosen, draw) for x, draw in zip(values, draws, strict=True)]
    return torch.tensor(rounded, dtype=torch.float64).to(dtype)


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    integer = torch.int64 if ours.dtype is torch.float64 else torch.int32
    both_nan = ours.isnan() & theirs.isnan()
    return bool(((ours.view(integer) == theirs.view(integer)) | both_nan).all())


def different(x: Tensor, ours: Tensor, wanted: Tensor) -> list[tuple[float, float, float]]:
    return [own for own in zip(x.tolist(), ours.tolist(), wanted.tolist(), strict=True) if own[1] != own[2]]


def by_backend(name: str, x: Tensor, row: Row, key: int = KEY) -> Tensor:
    """Through a graph of one rounding node, compiled by a backend, with a live plan."""
    plan = torch.tensor([row.values], dtype=torch.float64)
    plan[0, KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = torch.tensor(key_halves(key), dtype=torch.float64)
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


def row_for(fmt: FloatFormat | FixedPoint, mode: str) -> Row:
    return row_of(fmt, parse_rounding(mode), slot=SLOT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fmt", SMALL, ids=named)
def test_all_codes_and_midpoints_of_small_formats(fmt: FloatFormat | FixedPoint, mode: str) -> None:
    """By the functions, and by the backends that run op by op."""
    row = row_for(fmt, mode)
    for dtype in (torch.float32, torch.float64):
        x, wanted = points(fmt, dtype), expected(fmt, mode, dtype)
        for implementation in (quantize, round_compiled):
            ours = implementation(x, row, KEY)
            assert same_bits(ours, wanted), (dtype, implementation.__name__, different(x, ours, wanted)[:5])
    for backend in ("reference", "cpp"):
        assert same_bits(by_backend(backend, points(fmt), row), expected(fmt, mode)), backend


def test_inductor_on_all_codes_and_midpoints() -> None:
    """One compiled graph for all formats and modes: they are live numbers."""
    size = max(len(points(fmt)) for fmt in SMALL)
    x, plan = torch.zeros(size), torch.zeros(1, len(row_for(SMALL[0], "stochastic").values), dtype=torch.float64)
    graph = Graph()
    nodes = [graph.placeholder("x"), graph.placeholder("plan")]
    graph.output((graph.call_function(ROUND, (*nodes, 0)),))
    with FakeTensorMode() as fake:
        inputs: Sequence[Any] = [fake.from_tensor(x), fake.from_tensor(plan)]
    module = GraphModule(torch.nn.Module(), graph)
    run = BACKENDS["inductor"].compile(module, inputs, visible_outputs=1, backward=False)
    for fmt, mode in itertools.product(SMALL, MODES):
        padded = torch.zeros(size)
        padded[: len(points(fmt))] = points(fmt)
        plan = torch.tensor([row_for(fmt, mode).values], dtype=torch.float64)
        plan[0, KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = torch.tensor(key_halves(KEY), dtype=torch.float64)
        (rounded,) = run([padded, plan])
        assert isinstance(rounded, Tensor)
        assert same_bits(rounded[: len(points(fmt))], expected(fmt, mode)), (fmt, mode)


def test_a_real_valued_bias_scales_the_grid() -> None:
    """LLM-FP4, eq. 5: ``x' = step * round(x / step)``; here ``x / s`` is rounded to the carrier first."""
    for bias in (1.3, 0.75, -2.5):
        fmt = FloatFormat(name="real", exponent_bits=2, mantissa_bits=1, bias=bias, specials=Specials.NONE)
        assert math.isclose(fmt.max, (2 - 2**-1) * 2 ** (2**2 - 1 - bias))
        x = torch.linspace(-1.2 * fmt.max, 1.2 * fmt.max, 999, dtype=torch.float64)
        clipped = x.clamp(-fmt.max, fmt.max)
        exponent = torch.floor(torch.log2(clipped.abs()) + bias).clamp(min=1)
        step = torch.exp2(exponent - 1 - bias)
        wanted = step * torch.round(clipped / step)
        for ours in (quantize(x, row_of(fmt)), round_compiled(x, row_of(fmt))):
            assert torch.allclose(ours, wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize("fmt", SMALL, ids=named)
def test_codes_are_fixed_points_in_every_mode(fmt: FloatFormat | FixedPoint) -> None:
    codes = torch.tensor([fmt.decode(code) for code in range(2**fmt.bits)])
    codes = codes[(codes >= fmt.low) & (codes <= fmt.max)]
    for mode in MODES:
        assert same_bits(quantize(codes, row_for(fmt, mode), KEY), codes), mode


# (our format, an independent implementation of the same rounding)
PEERS: list[tuple[FloatFormat, Any]] = [
    (parse_format("e4m3").with_overflow("nan"), ml_dtypes.float8_e4m3fn),  # type: ignore[union-attr]
    (parse_format("e5m2"), ml_dtypes.float8_e5m2),  # type: ignore[list-item]
    (parse_format("e4m3fnuz").with_overflow("nan"), ml_dtypes.float8_e4m3fnuz),  # type: ignore[union-attr]
    (parse_format("e5m2fnuz").with_overflow("nan"), ml_dtypes.float8_e5m2fnuz),  # type: ignore[union-attr]
    (parse_format("e4m3b11fnuz").with_overflow("nan"), ml_dtypes.float8_e4m3b11fnuz),  # type: ignore[union-attr]
    (parse_format("e3m4"), ml_dtypes.float8_e3m4),  # type: ignore[list-item]
    (IEEE_E4M3, ml_dtypes.float8_e4m3),
    (parse_format("e8m0").with_overflow("nan"), ml_dtypes.float8_e8m0fnu),  # type: ignore[union-attr]
    (parse_format("fp16"), np.float16),  # type: ignore[list-item]
    (parse_format("bf16"), ml_dtypes.bfloat16),  # type: ignore[list-item]
    (parse_format("e3m2"), ml_dtypes.float6_e3m2fn),  # type: ignore[list-item]
    (parse_format("e2m3"), ml_dtypes.float6_e2m3fn),  # type: ignore[list-item]
    (parse_format("e2m1"), ml_dtypes.float4_e2m1fn),  # type: ignore[list-item]
]


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


@pytest.mark.parametrize(("fmt", "dtype"), PEERS, ids=named)
def test_float32_patterns_round_as_ml_dtypes(fmt: FloatFormat, dtype: Any) -> None:
    x = patterns(fmt)
    if not fmt.has_nan:
        x = x[~x.isnan()]  # these formats have no NaN: ml_dtypes makes it a number, we keep it
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))
    if not fmt.zero:
        # ml_dtypes rounds float32's subnormal numbers above 2**-127 up, also those below the midpoint 1.5 * 2**-127
        disputed = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        assert set(theirs[disputed].tolist()) == {2.0**-126}
        assert set(round_to(x[disputed], fmt).tolist()) == {2.0**-127}
        x, theirs = x[~disputed], theirs[~disputed]
    assert same_bits(round_to(x, fmt), theirs)
    assert same_bits(quantize(x, row_of(fmt)), theirs)


GFLOAT_MODES = {
    "nearest_even": gfloat.RoundMode.TiesToEven,
    "nearest_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
}


def gfloat_format(fmt: FloatFormat) -> gfloat.FormatInfo:
    extended = fmt.has_inf
    top_nans = {Specials.INF_NAN: 2**fmt.mantissa_bits - 1, Specials.NAN: 1}.get(fmt.specials, 0)
    p3109 = fmt.specials in (Specials.P3109_EXTENDED, Specials.P3109_FINITE)
    return gfloat.FormatInfo(
        name=fmt.name,
        k=fmt.bits,
        precision=fmt.mantissa_bits + 1,
        bias=int(fmt.bias),
        has_nz=fmt.has_negative_zero,
        domain=gfloat.Domain.Extended if extended else gfloat.Domain.Finite,
        num_high_nans=1 if p3109 and not fmt.signed else top_nans,
        has_subnormals=fmt.subnormals,
        is_signed=fmt.signed,
        is_twos_complement=False,
    )


@pytest.mark.parametrize("mode", GFLOAT_MODES)
@pytest.mark.parametrize(
    "fmt",
    [fmt for fmt in SMALL if isinstance(fmt, FloatFormat) and fmt.scale == 1 and fmt.zero and fmt.subnormals],
    ids=named,
)
def test_small_floats_round_as_gfloat(fmt: FloatFormat, mode: str) -> None:
    info, saturates = gfloat_format(fmt), fmt.overflow.value == "saturate"
    x = points(fmt)
    x = x[~x.isnan()]
    if fmt.mantissa_bits == 0 and not fmt.ties_by_code:
        x = x[: len(x) // 2][:0]  # gfloat's ties of one significand bit go by code, as P3109's; ours are IEEE's
    if not fmt.signed:
        x = x[x >= 0]  # gfloat takes the magnitude of what an unsigned format cannot hold
    theirs = [gfloat.round_float(info, v, GFLOAT_MODES[mode], sat=saturates) for v in x.tolist()]
    assert same_bits(quantize(x, row_for(fmt, mode)), torch.tensor(theirs, dtype=torch.float64).float())


WIDE: list[FloatFormat | FixedPoint] = [
    *(fmt for fmt in FORMATS.values() if isinstance(fmt, (FloatFormat, FixedPoint)) and fmt.bits > 8),
    *(parse_format(f"e{e}m{m}") for e, m in itertools.product((2, 5, 8, 11), (0, 1, 9, 22, 40))),  # type: ignore[misc]
    *(parse_format(name) for name in ("fixed16.8", "fixed31.12", "fixed53.0", "fixed12.40", "qpytorch_e8m12")),  # type: ignore[misc]
    FloatFormat(name="beyond_float32", exponent_bits=8, mantissa_bits=10, bias=20),
    FloatFormat(name="below_float32", exponent_bits=8, mantissa_bits=10, bias=300),
]
_MODES = st.sampled_from(MODES)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL + WIDE), st.floats(width=32), _MODES)
def test_rounding_of_floats_is_exact(fmt: FloatFormat | FixedPoint, x: float, mode: str) -> None:
    wanted = torch.tensor([exact_round(x, fmt, RoundingMode(mode), exact_hash(KEY, SLOT, 0) >> 1)], dtype=torch.float64)
    for implementation in (quantize, round_compiled):
        ours = implementation(torch.tensor([x]), row_for(fmt, mode), KEY)
        if wanted.isfinite() and wanted.float().double() != wanted:
            # float32 cannot hold it: an end of the range becomes the next value towards zero, others are rounded
            inward = torch.nextafter(wanted.float(), torch.zeros(1))
            assert ours == wanted.float() or (wanted in (fmt.low, fmt.max) and ours == inward)
        else:
            assert same_bits(ours, wanted.float()), (fmt, x, ours, wanted)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL + WIDE), st.floats(width=64), _MODES)
def test_rounding_of_doubles_is_exact(fmt: FloatFormat | FixedPoint, x: float, mode: str) -> None:
    assume(not (isinstance(fmt, FloatFormat) and fmt.scale != 1.0))  # the quotient by the scale is rounded
    wanted = torch.tensor([exact_round(x, fmt, RoundingMode(mode), exact_hash(KEY, SLOT, 0) >> 1)], dtype=torch.float64)
    for implementation in (quantize, round_compiled):
        assert same_bits(implementation(torch.tensor([x], dtype=torch.float64), row_for(fmt, mode), KEY), wanted)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SMALL + WIDE),
    st.floats(width=32, allow_nan=False),
    st.floats(width=32, allow_nan=False),
    st.sampled_from(MODES[:3]),
)
def test_rounding_is_monotone_odd_and_idempotent(fmt: FloatFormat | FixedPoint, x: float, y: float, mode: str) -> None:
    row = row_for(fmt, mode)
    low, high = quantize(torch.tensor(sorted([x, y]), dtype=torch.float64), row).tolist()
    if not (math.isnan(low) or math.isnan(high)):  # an unsigned format may answer NaN
        assert low <= high
    values = torch.tensor([x, y], dtype=torch.float64)
    once = quantize(values, row)
    if fmt.low == -fmt.max:
        assert torch.equal(quantize(-values, row), -once)
    if not (once.isinf().any() and fmt.low != -math.inf) and not once.isnan().any():
        assert torch.equal(quantize(once, row), once)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([fmt for fmt in SMALL + WIDE if isinstance(fmt, FloatFormat) and fmt.scale == 1]),
    st.floats(width=64, allow_nan=False, allow_infinity=False),
    st.sampled_from(MODES[:2]),
)
def test_the_relative_error_is_at_most_u_in_the_normal_range(fmt: FloatFormat, x: float, mode: str) -> None:
    if fmt.smallest_normal <= (abs(x) if fmt.signed else x) <= fmt.max:
        rounded = quantize(torch.tensor([x], dtype=torch.float64), row_for(fmt, mode)).item()
        assert abs(rounded - x) <= fmt.unit_roundoff * abs(x)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["fixed8.4", "fixed16.8", "int8", "fixed31.12"]), st.floats(-1000, 1000, width=32))
def test_the_absolute_error_of_fixed_point_is_at_most_half_a_quantum(name: str, x: float) -> None:
    fmt = parse_format(name)
    assert isinstance(fmt, FixedPoint)
    if fmt.low <= x <= fmt.max:
        assert abs(round_to(torch.tensor([x]), fmt).item() - x) <= fmt.quantum / 2


# ---- stochastic rounding


def test_the_random_numbers_are_the_documented_hash() -> None:
    from precc.backends.cpp.kernels import random_numbers
    from precc.rounding.random_bits import hashed

    for start in (0, 1000, 2**31 - 3, 2**32 - 3, 5 * 2**32 - 2):
        wanted = [exact_hash(KEY, SLOT, index) for index in range(start, start + 6)]
        assert hashed(6, KEY, SLOT, torch.device("cpu"), start).tolist() == wanted
        assert random_numbers(KEY, SLOT, start, 6).tolist() == [number >> 1 for number in wanted]
        few = random_numbers(KEY, SLOT, start, 6, random_bits=5).tolist()
        assert few == [number >> 27 << 26 for number in wanted]


def test_the_random_numbers_are_uniform_and_uncorrelated() -> None:
    """2**20 numbers in 256 cells: chi-squared within 4 standard deviations, for neighbours, keys and slots."""
    from precc.backends.cpp.kernels import random_numbers

    count = 2**20
    streams = [random_numbers(key, slot, 0, count) for key, slot in ((1, 1), (2, 1), (1, 2), (1, 3))]
    first = streams[0]
    pairs = [first >> 23, first & 255, (first >> 27) * 16 + (first.roll(1) >> 27)]
    pairs += [(first ^ first.roll(lag)) >> 23 for lag in (1, 2, 16, 32, 1024, 4096)]
    pairs += [(first ^ other) >> 23 for other in streams[1:]]
    for cells in pairs:
        counts = torch.bincount(cells, minlength=256).double()
        chi_squared = ((counts - count / 256) ** 2 / (count / 256)).sum().item()
        assert abs(chi_squared - 255) < 4 * math.sqrt(2 * 255)


MAGNITUDES = [3.3 * 2.0**e for e in range(-13, 7)]  # of e4m3: the first eight are subnormal numbers and below


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "fixed8.4", "binary8p3", "power4_0.5", "nested8.4"])
@pytest.mark.parametrize("rounding", ["stochastic", "stochastic:12"])
def test_stochastic_rounding_is_unbiased(name: str, rounding: str) -> None:
    """The mean of 2**17 draws is within 4 standard errors (p = 6e-5 each) of the value, at 20 magnitudes.

    With k bits the probability of going up is truncated to them: at most 2**-k of a quantum is added.
    """
    count, chosen = 2**17, parse_rounding(rounding)
    fmt = parse_format(name)
    scale = 1 / 250 if name.startswith("power") else 1.0
    for index, magnitude in enumerate(MAGNITUDES):
        value = torch.tensor(magnitude * scale).item()
        if not value < fmt.max:  # type: ignore[union-attr]
            continue
        x = torch.full((count,), value)
        rounded = round_to(x, name, rounding=chosen, seed=index).double()
        quantum = 1.0 if name.startswith(("power", "nested")) else float(rounded.max() - rounded.min())
        assert rounded.unique().numel() <= 2 or name.startswith("nested")
        slack = 4 * float(rounded.std()) / math.sqrt(count) + quantum * 2.0**-chosen.random_bits
        assert abs(float(rounded.mean()) - value) <= slack + 1e-12, (value, rounded.unique())


def test_few_random_bits_truncate_the_probability() -> None:
    """T = 0.7 with 2 bits: up with probability 1/2, in exactly as many of all draws as the hash says."""
    x = torch.full((1000,), 1.0 + 0.7 / 8, dtype=torch.float64)
    ours = round_to(x, "e4m3", rounding="stochastic:2", seed=5)
    up = [(exact_hash(5, 0, index) >> 30) + 2 >= 4 for index in range(1000)]
    assert torch.equal(ours, torch.where(torch.tensor(up), 1.125, 1.0).double())


def test_the_bits_do_not_depend_on_threads_strides_or_blocks() -> None:
    x = torch.randn(301, 257)
    wanted = round_to(x, "e4m3", rounding="stochastic", seed=9)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(round_to(x, "e4m3", rounding="stochastic", seed=9), wanted)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(round_to(x.t().contiguous().t(), "e4m3", rounding="stochastic", seed=9), wanted)
    assert not torch.equal(round_to(x, "e4m3", rounding="stochastic", seed=10), wanted)


def test_without_a_seed_the_key_is_torchs() -> None:
    x = torch.randn(1000)
    torch.manual_seed(3)
    first, second = (round_to(x, "e4m3", rounding="stochastic") for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(round_to(x, "e4m3", rounding="stochastic"), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    round_to(x, "e4m3")
    assert torch.equal(torch.get_rng_state(), state)


# ---- roundings with state


@pytest.mark.parametrize("name", ["e4m3", "fixed8.4", "e3m4", "mxfp4"])
def test_hysteresis_keeps_what_hovers_about_a_midpoint(name: str) -> None:
    x = torch.randn(64) * 2
    down, up = round_to(x, name, rounding="hysteresis", previous=x - 9), None
    up = round_to(x, name, rounding="hysteresis", previous=x + 9)
    nearest = round_to(x, name)
    assert bool((down <= x).all() if name != "mxfp4" else True)
    assert torch.equal(torch.where(nearest <= x, nearest, down), down)
    assert torch.equal(torch.where(nearest >= x, nearest, up), up)
    value = torch.tensor([1.0625])  # a midpoint of e4m3, jittered: to nearest it flips, with hysteresis it does not
    state, flips = round_to(value, "e4m3"), 0
    for step in range(20):
        new = round_to(value + 0.001 * (-1) ** step, "e4m3", rounding="hysteresis", previous=state)
        flips += int(not torch.equal(new, state)) if step else 0
        state = new
    assert flips == 0


@pytest.mark.parametrize("variance", [0.0, 1e-4, 0.001, 0.01])
@pytest.mark.parametrize("mean", [0.0, 0.11, 0.06, -0.03])
def test_variance_corrected_draws_have_the_mean_and_the_variance(mean: float, variance: float) -> None:
    """2**18 draws in steps of 1/8: the mean within 4.5 standard errors; the variance too, unless below SR's own."""
    count, quantum = 2**18, 1 / 8
    drawn = round_to(
        torch.full((count,), mean), "fixed8.3", rounding="variance_corrected", variance=variance, seed=11
    ).double()
    assert abs(float(drawn.mean()) - mean) <= 4.5 * float(drawn.std()) / math.sqrt(count) + 1e-9
    rest = abs(mean) % quantum
    least = rest * (quantum - rest)
    fourth = float(((drawn - mean) ** 4).mean() - ((drawn - mean) ** 2).mean() ** 2)
    wanted = max(variance, least)
    assert abs(float(((drawn - mean) ** 2).mean()) - wanted) <= 4.5 * math.sqrt(fourth / count) + 0.02 * wanted + 1e-9


# ---- grids of other kinds


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0, 2.0])
def test_power_law_grids_round_to_nearest_in_the_power_domain(power: float) -> None:
    fmt = PowerLaw(name="power", word=4, power=power)
    x = torch.linspace(-1.2, 1.2, 4001, dtype=torch.float64)
    ours = round_to(x, fmt)
    steps = (7 * x.abs().clamp(max=1) ** power).round()
    wanted = (steps / 7) ** (1 / power) * x.sign()
    ties = ((7 * x.abs() ** power) % 1 - 0.5).abs() < 1e-9
    assert torch.allclose(ours[~ties], wanted[~ties], rtol=1e-12, atol=1e-12)
    assert set(ours.abs().tolist()) <= set(fmt.values)
    assert round_to(torch.tensor(float("nan")), fmt).isnan()


def test_a_power_below_one_suits_a_bell_shape() -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    scaling = Scaling("tensor", scale_format="float32")
    bent, straight = (round_to(x, f"power4_{power}", scaling=scaling) for power in (0.6, 1.0))
    assert float(((bent - x) ** 2).mean()) < float(((straight - x) ** 2).mean())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 8), st.floats(-5000, 5000, width=32))
def test_nested_integers_are_rounded_twice(low: int, shift: int, x: float) -> None:
    high = low + shift
    fmt = NestedInteger(name="nested", high_bits=high, low_bits=low)
    stored = min(max(round(x), -(2 ** (high - 1))), 2 ** (high - 1) - 1)
    wanted = min(max(round(stored / 2**shift), -(2 ** (low - 1))), 2 ** (low - 1) - 1) * 2**shift
    assert round_to(torch.tensor([x]), fmt).item() == wanted


def test_double_rounding_has_no_drift_where_a_shift_has_half_a_step() -> None:
    stored = torch.arange(-100, 100).float()
    assert abs(float((round_to(stored, "nested8.4") - stored).mean())) < 0.6
    assert abs(float(((stored / 16).floor() * 16 - stored).mean()) + 7.5) < 0.6


# ---- calls


def test_default_overflow_is_inf_where_there_is_one_else_saturation() -> None:
    x = torch.tensor([1e9, -1e9, float("inf"), float("nan")])
    assert round_to(x, "e5m2").tolist()[:3] == [float("inf"), -float("inf"), float("inf")]
    assert round_to(x, "e4m3").tolist()[:3] == [448.0, -448.0, 448.0]
    saturating = FORMATS["float8_e5m2"].with_overflow("saturate")  # type: ignore[union-attr]
    assert round_to(x, saturating).tolist()[:3] == [57344.0, -57344.0, 57344.0]
    assert round_to(x, saturating)[3].isnan()


def test_toward_zero_overflows_only_from_infinity() -> None:
    x = torch.tensor([1e9, -1e9, float("inf")])
    assert round_to(x, "e5m2", rounding="toward_zero").tolist() == [57344.0, -57344.0, float("inf")]


def test_qpytorch_saturates_at_480() -> None:
    assert round_to(torch.tensor([1e9, 470.0, 463.0]), "qpytorch_e4m3").tolist() == [480.0, 480.0, 448.0]


def test_a_saturating_float32_is_no_identity() -> None:
    saturating = FORMATS["float32"].with_overflow("saturate")  # type: ignore[union-attr]
    assert round_to(torch.tensor([float("inf")]), saturating).item() == torch.finfo(torch.float32).max


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "bf16", "fp32", "e2m1", "fixed8.4"])
def test_narrow_tensors_round_as_their_float32_values(dtype: torch.dtype, name: str) -> None:
    x = patterns(FORMATS["float32"], 5_000).to(dtype)  # type: ignore[arg-type]
    wanted = quantize(x.float(), row_of(parse_format(name))).to(dtype)
    for ours in (round_to(x, name), *(by_backend(backend, x, row_of(parse_format(name))) for backend in BACKENDS)):
        assert ours.dtype == dtype
        assert torch.equal(ours.nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0))


def test_out_receives_the_result_and_may_be_the_input() -> None:
    x = torch.tensor([1.06, 3.3])
    out = torch.empty(2)
    assert round_to(x, "e4m3", out=out) is out
    assert out.tolist() == [1.0, 3.25]
    assert round_to(x, "fp32", out=out) is out
    assert out.tolist() == x.tolist()
    strided = torch.empty(4)[::2]
    assert round_to(x, "e4m3", out=strided) is strided
    assert strided.tolist() == [1.0, 3.25]
    round_to(x, "e4m3", out=x)
    assert x.tolist() == [1.0, 3.25]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(0, 2),
    "sliced": lambda x: x[:, ::2],
    "flipped": lambda x: x.flip(1)[:, 1:],
    "expanded": lambda x: x[:, :1].expand(-1, 7, -1),
    "channels_last": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
    "empty": lambda x: x[:0],
    "scalar": lambda x: x[0, 0, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_any_strides_give_a_new_tensor_of_the_same_shape(layout: str, rounding: str) -> None:
    x = LAYOUTS[layout](torch.randn(5, 6, 7))
    for name in ("fp32", "e4m3", "mxfp4", "dfp8"):
        seed = 3 if rounding == "stochastic" else None
        ours = round_to(x, name, rounding=rounding, seed=seed)
        plain = round_to(x.contiguous().clone(), name, rounding=rounding, seed=seed)
        assert ours.shape == x.shape
        assert torch.equal(ours, plain), name
        assert not x.numel() or ours.data_ptr() != x.data_ptr()


def test_lazily_negated_tensors() -> None:
    negated = torch.tensor([1.06 + 1.06j]).conj().imag
    assert negated.is_neg()
    assert round_to(negated, "e4m3").tolist() == [-1.0]


def test_bad_arguments_are_errors_of_ours() -> None:
    x = torch.zeros(2)
    with pytest.raises(FormatError, match=r"unknown rounding 'stochastical'.*'nearest_even'"):
        round_to(x, "e4m3", rounding="stochastical")
    for bits in ("0", "32", "9999"):
        with pytest.raises(FormatError, match=r"random_bits is from 1 to 31|unknown rounding"):
            round_to(x, "e4m3", rounding=f"stochastic:{bits}")
    with pytest.raises(FormatError, match="random_bits goes with"):
        round_to(x, "e4m3", rounding="toward_zero:3")
    with pytest.raises(FormatError, match="unknown rounding 'up'"):
        Rounding("up")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="a seed is for roundings that draw"):
        round_to(x, "e4m3", seed=1)
    for seed in (-1, 2**64, 1.0):
        with pytest.raises(FormatError, match="a seed is an integer"):
            round_to(x, "e4m3", rounding="stochastic", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="needs previous="):
        round_to(x, "e4m3", rounding="hysteresis")
    with pytest.raises(FormatError, match="needs variance="):
        round_to(x, "e4m3", rounding="variance_corrected")
    with pytest.raises(FormatError, match="negative or NaN"):
        round_to(x, "e4m3", rounding="variance_corrected", variance=-1.0)
    with pytest.raises(FormatError, match="previous and variance are for"):
        round_to(x, "e4m3", previous=x)
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
    with pytest.raises(FormatError, match="share one place"):
        round_to(x, "e4m3", out=torch.zeros(1).expand(2))
    for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
        with pytest.raises(FormatError, match="out is"):
            round_to(x, "e4m3", out=wrong)
