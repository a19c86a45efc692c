"""Sums aligned to the largest exponent, as tensor cores add: by fractions, by hand, and against a model of the H100."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import precc
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS, parse_accumulator
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.backends.cpp.accumulate import accumulate
from precc.errors import FormatError
from precc.formats import FloatFormat
from tests.exact_sums import KEY, SLOT, by_fractions, same_bits
from tests.test_accumulate import ROUNDINGS, operands

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FAST, PROMOTED = ACCUMULATORS["hopper_fp8"], ACCUMULATORS["hopper_fp8_promoted"]


def scattered(dtype: torch.dtype, *shape: int, low: int = -16, high: int = 9) -> Tensor:
    """Values of fp8 with exponents far apart, subnormals and zeros among them."""
    values = torch.ldexp(torch.randn(shape), torch.randint(low, high, shape))
    return values.clamp(-448, 448).to(dtype).float() * (torch.rand(shape) > 0.1)


def fp8_pairs(rows: int, depth: int, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    for left, right in itertools.product((E4M3, E5M2), repeat=2):
        yield scattered(left, rows, depth), scattered(right, depth, columns)
        yield scattered(left, rows, depth, low=-12, high=-4), scattered(right, depth, columns, low=-1, high=3)
    a, b = scattered(E4M3, rows, depth), scattered(E4M3, depth, columns)
    a[:, 1::2], b[1::2] = a[:, ::2][:, : depth // 2], -b[::2][: depth // 2]  # every term and its negative
    yield a, b
    yield torch.zeros(rows, depth), -torch.ones(depth, columns)


def aligned(**options: Any) -> Accumulator:
    chosen: dict[str, Any] = {"block": 4, "fraction_bits": 7, "operands": "e4m3"} | options
    return Accumulator(order="aligned", **chosen)


SUMS = (
    FAST,
    PROMOTED,
    ACCUMULATORS["hopper_fp8_e4m3_e5m2"],
    ACCUMULATORS["hopper_fp8_e5m2"],
    *(aligned(format="e5m10", rounding=rounding) for rounding in ROUNDINGS),
    *(aligned(format="e4m3", rounding=rounding, fraction_bits=3, block=3) for rounding in ROUNDINGS),
    aligned(format="e5m2fnuz", rounding="stochastic", block=1),
    aligned(format="float32", fraction_bits=48, block=5, operands="float32"),
    aligned(format="e8m13", rounding="toward_zero", fraction_bits=1, operands=("e5m2", "float32")),
    aligned(format=FloatFormat(name="e5m10nan", exponent_bits=5, mantissa_bits=10, overflow="nan"), block=2),  # type: ignore[arg-type]
    Accumulator(format="bf16", order="blocked", block=4, rounding="stochastic", inner=aligned(format="e6m9", block=2)),
    Accumulator(format="fixed31.12", order="blocked", block=3, inner=Accumulator(format="e5m10", product="e4m3")),
    Accumulator(
        format="float32",
        order="blocked",
        block=5,
        inner=Accumulator(format="e5m2", rounding="stochastic:4", product="e5m2", chunk=2),
    ),
    Accumulator(
        format="e6m9",
        order="blocked",
        block=8,
        rounding="stochastic:6",
        inner=aligned(format="e5m10", rounding="stochastic", block=4),
    ),
)


@pytest.mark.parametrize("accumulator", SUMS, ids=str)
def test_small_products_equal_fractions(accumulator: Accumulator) -> None:
    for a, b in itertools.chain(operands(), fp8_pairs(3, 23, 3)):
        twin = accumulate_tensor_ops(a, b, accumulator, KEY, slot=SLOT)
        assert same_bits(twin, by_fractions(a, b, accumulator)), (a, b)
        assert same_bits(accumulate(a, b, accumulator, KEY, slot=SLOT), twin), (a, b)
        assert same_bits(accumulate(a.double(), b.double(), accumulator, KEY, slot=SLOT).float(), twin)


@pytest.mark.parametrize("accumulator", [FAST, PROMOTED, SUMS[4], SUMS[7], SUMS[-1]], ids=str)
@pytest.mark.parametrize("depth", [1, 31, 33, 300])
def test_large_products_and_batches_equal_tensor_operations(accumulator: Accumulator, depth: int) -> None:
    a, b = scattered(E4M3, 2, 37, depth), scattered(E4M3, 2, depth, 21)
    a[0, 3, depth // 2], b[1, depth // 3, 5] = math.nan, math.inf
    whole = accumulate(a, b, accumulator, KEY)
    assert same_bits(whole, accumulate_tensor_ops(a, b, accumulator, KEY))
    assert same_bits(whole[1], accumulate(a[1], b[1], accumulator, KEY, first=37 * 21))
    assert bool(whole[0, 3].isnan().all())
    assert not bool(whole[0, :, :5].isnan()[:3].any())


TINY = 2.0**-7
#: Terms of a and b, then the sum with fast accumulation and with promotion.
BY_HAND: dict[str, tuple[list[float], list[float], float, float]] = {
    "bit 13 is kept": ([1, TINY], [1, 2.0**-6], 1 + 2.0**-13, 1 + 2.0**-13),
    "bit 14 is lost in every term": ([1] + [TINY] * 31, [1] + [TINY] * 31, 1.0, 1.0),
    "of negative terms too": ([1] + [TINY] * 31, [1] + [-TINY] * 31, 1.0, 1.0),
    "the sum takes part": ([1] + [0] * 31 + [TINY] * 96, [1] + [TINY] * 127, 1.0, 1.0),
    "128 terms are promoted": ([1] + [0] * 127 + [TINY] * 128, [1] + [TINY] * 255, 1.0, 1 + 2.0**-7),
    "significands are not normalised": ([1.75] + [TINY] * 2, [1.75] + [2 * TINY] * 2, 3.0625 + 2**-12, 3.0625 + 2**-12),
    "nor are subnormals": ([2.0**-9, 2.0**-9], [4, 2.0**-9], 2.0**-7, 2.0**-7),
    "zeros have no exponent": ([0, 2.0**-9], [448, 2.0**-9], 2.0**-18, 2.0**-18),
    "the sum is truncated to 14 bits": ([1] * 2 + [TINY], [1] * 2 + [2.0**-6], 2.0, 2.0),
    "and so is a negative one": ([-1] * 2 + [TINY], [1] * 2 + [-(2.0**-6)], -2.0, -2.0),
    "what cancels is +0": ([1, 1, -0.0], [-1, 1, 1], 0.0, 0.0),
    "the largest sum": ([448] * 64, [448] * 64, 64 * 448.0**2, 64 * 448.0**2),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_sums_by_hand(case: str) -> None:
    a, b, fast, promoted = BY_HAND[case]
    left, right = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32).t()
    for accumulator, expected in ((FAST, fast), (PROMOTED, promoted)):
        for total in (accumulate(left, right, accumulator), accumulate_tensor_ops(left, right, accumulator)):
            assert (total.item(), math.copysign(1, total.item())) == (expected, math.copysign(1, expected))


def test_the_order_inside_a_block_does_not_matter() -> None:
    a, b = scattered(E4M3, 20, 32), scattered(E4M3, 32, 20)
    order = torch.randperm(32)
    assert same_bits(accumulate(a, b, FAST), accumulate(a[:, order].contiguous(), b[order], FAST))


def test_subnormal_operands_have_the_exponent_of_their_format() -> None:
    """2**-9 is subnormal in e4m3 and normal in e5m2: beside it a smaller term keeps fewer or more bits."""
    a, b = torch.tensor([[2.0**-9, 2.0**-9]]), torch.tensor([[4.0], [2.0**-9]])
    sums = {name: precc.matmul(a, b, name).item() for name in ACCUMULATORS if not name.endswith("promoted")}
    assert sums["hopper_fp8"] == 2.0**-7
    assert sums["hopper_fp8_e5m2"] == sums["hopper_fp8_e5m2_e4m3"] == 2.0**-7 + 2.0**-18


def test_extremes_of_float64() -> None:
    accumulator = aligned(format="e11m40", operands="float64", fraction_bits=40)
    for terms in ([2.0**1000, 2.0**-1000], [1e-300, 1e-300], [5e-324, 1.0], [1e300, -1e300], [1e308, 1e308]):
        a, b = torch.tensor([terms], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
        for x, y in ((a, b), (a, a.t().contiguous())):
            assert same_bits(accumulate(x, y, accumulator), accumulate_tensor_ops(x, y, accumulator))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("pair", list(itertools.product((E4M3, E5M2), repeat=2)), ids=str)
def test_hopper_equals_mmaemu(pair: tuple[torch.dtype, torch.dtype], fast: bool) -> None:
    """Mmaemu 0.1.0 (Apache 2.0), whose model agrees with recordings of an H100: 16,000 sums in all."""
    mmaemu = pytest.importorskip("mmaemu")
    words = [{E4M3: "e4m3", E5M2: "e5m2"}[dtype] for dtype in pair]
    accumulator = next(own for own in (FAST, *ACCUMULATORS.values()) if own.operand_formats == _formats(*words))
    accumulator = accumulator if fast else Accumulator(format="float32", order="blocked", block=128, inner=accumulator)
    for depth, low in itertools.product((32, 77, 128, 200, 256), (-12, -3)):
        a, b = scattered(pair[0], 20, depth, low=low, high=low + 6), scattered(pair[1], depth, 10, low=-2, high=3)
        left, right = a.to(pair[0]), b.t().contiguous().to(pair[1])
        theirs = mmaemu.accumulate(left, right, use_fast_accum=fast, profile="hopper", splitk=1)
        assert same_bits(accumulate(a, b, accumulator), theirs)


def _formats(*names: str) -> tuple[Any, ...]:
    return tuple(precc.parse_format(name) for name in names)


def test_long_sums_lose_what_promotion_keeps() -> None:
    """Errors of 7% and 0.06%; DeepSeek-AI (2024, V3, section 3.3.2) found nearly 2% in other matrices with K = 4096."""
    a, b = (torch.rand(shape).to(E4M3).float() for shape in ((64, 4096), (4096, 64)))
    exact = a.double() @ b.double()
    fast, promoted = (((accumulate(a, b, own) - exact) / exact).abs().max() for own in (FAST, PROMOTED))
    assert 0.06 < fast < 0.08
    assert promoted < 0.001


def test_names_and_formats_mean_accumulators() -> None:
    assert parse_accumulator("e5m10") == Accumulator(format="e5m10")
    assert parse_accumulator(precc.parse_format("bf16")) == Accumulator(format="bf16")
    assert parse_accumulator(PROMOTED) is PROMOTED
    for accumulator in ACCUMULATORS.values():
        assert eval(repr(accumulator), {"Accumulator": Accumulator, **_ROUNDINGS}) == accumulator
    with pytest.raises(FormatError, match="(?s)unknown accumulator 'hopper'.*'hopper_fp8'.*or a format's name.*'fp32'"):
        parse_accumulator("hopper")


_ROUNDINGS = {name: name for name in ROUNDINGS}


def test_values_that_the_operands_have_not_are_errors() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[math.nan], [448.0]])
    assert precc.matmul(a, b, "hopper_fp8").isnan().item()
    for x, y, message in ((a / 3, b, "a has values .* such as 0.3333"), (a, b * 2, "b has values .* such as 896.0")):
        with pytest.raises(FormatError, match=message):
            precc.matmul(x, y, "hopper_fp8_promoted")
    with pytest.raises(FormatError, match="such as inf"):
        precc.matmul(a * math.inf, b, "hopper_fp8")
    assert precc.matmul(a * math.inf, torch.ones(2, 1), "hopper_fp8_e5m2").item() == math.inf


def test_tensors_without_values_or_elements() -> None:
    for name in ("hopper_fp8", "hopper_fp8_promoted"):
        assert precc.matmul(torch.ones(3, 40, device="meta"), torch.ones(40, 2, device="meta"), name).shape == (3, 2)
        assert torch.equal(precc.matmul(torch.ones(3, 0), torch.ones(0, 2), name), torch.zeros(3, 2))
        assert precc.matmul(torch.ones(0, 40), torch.ones(40, 2), name).shape == (0, 2)


def test_a_seed_is_for_either_of_two_roundings() -> None:
    inner = Accumulator(format="e5m10", rounding="stochastic")
    accumulator = Accumulator(format="float32", order="blocked", block=2, inner=inner)
    x = torch.rand(4, 8)
    assert torch.equal(precc.matmul(x, x.t(), accumulator, seed=3), precc.matmul(x, x.t(), accumulator, seed=3))
    with pytest.raises(FormatError, match="a seed is for roundings that draw"):
        precc.matmul(x.to(E4M3).float(), x.t().to(E4M3).float(), "hopper_fp8_promoted", seed=3)


_OPTIONS: dict[str, Any] = {"format": "e8m13", "order": "aligned", "block": 32, "fraction_bits": 13, "operands": "e4m3"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "need a block"),
        ({"fraction_bits": 0}, "needs fraction_bits"),
        ({"fraction_bits": True}, "needs fraction_bits"),
        ({"operands": None}, "the format of the operands"),
        ({"operands": ("e4m3",)}, "operands are a float format"),
        ({"operands": "int8"}, "operands are a float format"),
        ({"operands": 3}, "a format is a Format or its name"),
        ({"format": "fixed31.12"}, "no fixed point"),
        ({"product": "e5m10"}, "no product"),
        ({"fraction_bits": 46}, "float64 cannot hold the sum of 32 products of 46"),
        ({"fraction_bits": 10**9}, "float64 cannot hold"),
        ({"chunk": 2}, "go with order 'sequential'"),
        ({"compensated": True}, "go with order 'sequential'"),
        ({"order": "sequential", "block": 0}, "go with order 'aligned'"),
        ({"inner": FAST}, "inner goes with order 'blocked'"),
    ],
)
def test_aligned_sums_that_make_no_sense_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Accumulator(**(_OPTIONS | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": "hopper_fp8"}, "inner is an Accumulator, not str"),
        ({"inner": FAST, "product": "e5m10"}, "that of the inner one"),
        ({"inner": PROMOTED}, "sequential, not compensated, or aligned"),
        ({"inner": Accumulator(format="e5m10", compensated=True)}, "sequential, not compensated, or aligned"),
        ({"inner": Accumulator(format="e5m10", order="pairwise")}, "sequential, not compensated, or aligned"),
    ],
)
def test_inner_accumulators_that_make_no_sense_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Accumulator(format="float32", order="blocked", block=128, **options)
