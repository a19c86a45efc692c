"""Products with a rounded sum, bit for bit: a scalar loop of fractions, tensor operations, the compiled kernel."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from precc.accumulation import tensor_ops
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.integer_sums import int_matmul, safe_chain_length
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.backends.cpp import accumulate as kernel
from precc.backends.cpp.accumulate import accumulate
from precc.backends.cpp.accumulate_paths import FLOAT32, FLOAT64, Facts, Path, choose_path, kind_of
from precc.errors import FormatError
from precc.formats import FloatFormat
from precc.rounding.random_bits import hashed, hashed_at
from tests.exact_sums import KEY, SLOT, by_fractions, same_bits

FORMATS = (
    "e5m10",
    "e4m3",
    "e6m9",
    "bf16",
    "float32",
    "e8m7",
    "fixed31.12",
    "fixed16.8",
    "e5m2",
    "fixed8.4",
    "e5m2fnuz",
)
ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero", "stochastic", "stochastic:3")
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"product": "e5m10"},
    {"product": "e4m3"},
    {"product": "fixed16.8"},
    {"chunk": 3},
    {"chunk": 8, "product": "bf16"},
    {"order": "pairwise"},
    {"order": "pairwise", "product": "e6m9"},
    {"order": "blocked", "block": 4},
    {"order": "blocked", "block": 3, "product": "e5m10"},
    {"compensated": True},
    {"compensated": True, "product": "e4m3"},
)


def narrow(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(dtype).float()


def spread(*shape: int, low: int = -126, high: int = 127) -> Tensor:
    """Full float32 significands with exponents far apart."""
    return torch.ldexp(torch.rand(shape) + 1, torch.randint(low, high, shape)) * torch.randint(0, 2, shape).mul(2).sub(
        1
    )


def cancelling(rows: int, depth: int, columns: int) -> tuple[Tensor, Tensor]:
    a, b = spread(rows, depth, low=-20, high=20), spread(depth, columns, low=-20, high=20)
    a[:, 1::2], b[1::2] = a[:, ::2][:, : depth // 2], -b[::2][: depth // 2]
    b[1::4] *= 1 + 2.0**-20
    return a, b


def special(rows: int, depth: int, columns: int) -> tuple[Tensor, Tensor]:
    values = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 1e-45, -3e-42, 2.0**-24, -(2.0**-15), 3e38, -3e38, 1e-3])
    a, b = values[torch.randint(0, 13, (rows, depth))], values[torch.randint(0, 13, (depth, columns))]
    a[0, 1], a[1, 2], b[3, 0], b[0, 1] = math.inf, math.nan, -math.inf, math.inf
    if torch.rand(()) < 0.5:
        a[1, 2], b[3, 0] = 1.0, 2.0
    return a, b


def operands(rows: int = 2, depth: int = 9, columns: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of matrices of many kinds."""
    a_shape, b_shape = (rows, depth), (depth, columns)
    yield narrow(torch.float8_e4m3fn, *a_shape), narrow(torch.float8_e4m3fn, *b_shape)
    yield narrow(torch.float8_e4m3fn, *a_shape, scale=150.0), narrow(torch.float8_e4m3fn, *b_shape, scale=150.0)
    yield narrow(torch.float8_e5m2, *a_shape, scale=1e-3), narrow(torch.float8_e5m2, *b_shape, scale=0.1)
    yield spread(*a_shape), spread(*b_shape)
    yield spread(*a_shape, low=-12, high=4), spread(*b_shape, low=-12, high=4)
    yield cancelling(rows, depth, columns)
    yield special(rows, depth, columns)


def some_formats(kind: dict[str, Any], rounding: str) -> tuple[str, ...]:
    """A quarter of the formats for each combination, all of them for the plain ones."""
    start = KINDS.index(kind) + ROUNDINGS.index(rounding)
    return FORMATS if not kind and rounding in ("nearest_even", "stochastic") else FORMATS[start % 4 :: 4]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(value) for value in kind.values()) or "fused")
def test_small_products_equal_fractions(kind: dict[str, Any], rounding: str) -> None:
    for fmt, (a, b) in itertools.product(some_formats(kind, rounding), operands()):
        accumulator = Accumulator(format=fmt, rounding=rounding, **kind)
        twin = accumulate_tensor_ops(a, b, accumulator, KEY, slot=SLOT)
        assert same_bits(twin, by_fractions(a, b, accumulator)), (fmt, a, b)
        assert same_bits(accumulate(a, b, accumulator, KEY, slot=SLOT), twin), (fmt, a, b)


def test_float64_accumulator_and_other_overflow_rules_equal_fractions() -> None:
    e5m10 = FloatFormat(name="e5m10", exponent_bits=5, mantissa_bits=10)
    options: list[dict[str, Any]] = [{"format": "float64"}, {"format": e5m10.with_overflow("saturate")}]
    options += [{"format": e5m10.with_overflow("nan"), "rounding": mode} for mode in ROUNDINGS]
    for option, (a, b) in itertools.product(options, operands()):
        accumulator = Accumulator(**option)
        twin = accumulate_tensor_ops(a, b, accumulator, KEY, slot=SLOT)
        assert same_bits(twin, by_fractions(a, b, accumulator)), option
        assert same_bits(accumulate(a, b, accumulator, KEY, slot=SLOT), twin), option


def test_sum_beside_a_tie_needs_the_rounding_to_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 2**-21 is halfway between two values of e11m20, 2**-60 more is above it, and float64 cannot hold that."""
    accumulator = Accumulator(format="e11m20")
    a, b = torch.tensor([[2.0**-30, 1.0 + 2.0**-21]]), torch.tensor([[2.0**-30], [1.0]])
    assert by_fractions(a, b, accumulator).item() == 1 + 2.0**-20
    assert accumulate_tensor_ops(a, b, accumulator).item() == accumulate(a, b, accumulator).item() == 1 + 2.0**-20
    monkeypatch.setattr(tensor_ops, "_odd_sum", lambda x, y: x + y)
    assert accumulate_tensor_ops(a, b, accumulator).item() == 1.0


@pytest.mark.parametrize(
    ("fmt", "terms", "expected"),
    [
        ("e8m10", [2.0**-40, 1 + 2.0**-11], 1 + 2.0**-10),  # float32 loses the first term, and the product is a tie
        ("e8m11", [(2**12 - 1) * 2.0**-24, 1 + 2.0**-11], 1 + 2.0**-11),  # float32 rounds the sum up to a tie
        ("e8m25", [2.0**-60, 1 + 2.0**-26], 1 + 2.0**-25),  # float64 likewise
        ("e8m26", [(2**27 - 1) * 2.0**-54, 1 + 2.0**-26], 1 + 2.0**-26),
    ],
)
def test_sums_that_the_machine_rounds_to_a_tie(fmt: str, terms: list[float], expected: float) -> None:
    accumulator = Accumulator(format=fmt)
    for dtype in (torch.float32, torch.float64):
        a, b = torch.tensor([terms], dtype=torch.float64), torch.ones(2, 1, dtype=dtype)
        if torch.equal(a.to(dtype).double(), a):
            assert accumulate(a.to(dtype), b, accumulator).item() == expected
            assert accumulate_tensor_ops(a.to(dtype), b, accumulator).item() == expected


def beside_ties(count: int) -> tuple[Tensor, Tensor]:
    """Three terms each: a value of e5m10, half a quantum or nearly so, and what float64 loses beside them."""
    value = torch.ldexp(torch.randint(1024, 2048, (count,)).double() / 1024, torch.randint(-12, 14, (count,)))
    half = torch.exp2(torch.floor(torch.log2(value)) - 11)
    signs = torch.randint(0, 2, (3, count)).double() * 2 - 1
    nearly = 1 + torch.randint(-1, 2, (count,)).double() * 2.0**-23
    terms = torch.stack([value * signs[0], half * signs[1] * nearly, half * signs[2] * 2.0**-60], 1)
    factors = torch.stack([torch.ones(count), 2 - nearly, torch.ones(count)], 1)
    return terms.float()[:, None], factors.float()[:, :, None]


@pytest.mark.parametrize("options", [{}, {"product": "e11m49"}, {"order": "blocked", "block": 2}], ids=str)
def test_sums_beside_a_tie_are_looked_at_again(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = beside_ties(4000)
    accumulator = Accumulator(format="e5m10", **options)
    path = choose_path(kind_of(accumulator), kernel._facts(a), kernel._facts(b), 3, FLOAT32)
    assert path is not None
    assert path.ties
    total = accumulate(a, b, accumulator)
    assert same_bits(total, accumulate_tensor_ops(a, b, accumulator))
    few = slice(0, 150)
    by_hand = [by_fractions(x, y, accumulator) for x, y in zip(a[few], b[few], strict=True)]
    assert same_bits(total[few], torch.stack(by_hand))
    monkeypatch.setattr(kernel, "choose_path", lambda *_: Path(FLOAT64, path.limit, ties=False))
    assert not same_bits(accumulate(a, b, accumulator), total)


def test_products_of_zeros_are_zero_unless_they_meet_an_infinity() -> None:
    zeros, ones = torch.zeros(3, 5), -torch.ones(5, 4)
    for fmt, order in itertools.product(("e5m10", "fixed16.8"), ({}, {"order": "pairwise"})):
        accumulator = Accumulator(format=fmt, **order)
        for a, b in ((zeros, ones), (-zeros, ones), (ones.T[:3], -torch.zeros(5, 4))):
            assert same_bits(accumulate(a, b, accumulator), accumulate_tensor_ops(a, b, accumulator))
    ones[0, 0] = math.inf
    assert accumulate(zeros, ones, Accumulator(format="e5m10"))[:, 0].isnan().all()


def path_of(a: Tensor, b: Tensor, accumulator: Accumulator) -> Any:
    carrier = FLOAT64 if a.dtype is torch.float64 else FLOAT32
    facts = kernel._facts(a.contiguous()), kernel._facts(b.contiguous())
    path = choose_path(kind_of(accumulator), *facts, a.shape[-1], carrier)
    return None if path is None else (path.carrier.dtype, path.limit, *["ties"] * path.ties)


E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
# options, operands' dtype, their scale, the expected path: 0 nothing to limit, 1 saturation, 2 tiles computed again
LARGE: list[tuple[dict[str, Any], torch.dtype, float, Any]] = [
    ({"format": "e5m10"}, E4M3, 1.0, (torch.float32, 0)),
    ({"format": "e5m10"}, E4M3, 60.0, (torch.float32, 2)),
    ({"format": "e6m9"}, E4M3, 60.0, (torch.float32, 0)),
    ({"format": "e5m10", "product": "e5m10"}, E4M3, 1.0, (torch.float32, 0)),
    ({"format": "e5m10", "product": "e5m10"}, E4M3, 90.0, (torch.float32, 2)),
    ({"format": "bf16", "product": "e4m3"}, E4M3, 3.0, (torch.float32, 0)),
    ({"format": "qpytorch_e5m10", "product": "qpytorch_e4m3"}, E4M3, 60.0, (torch.float32, 1)),
    ({"format": "e5m10", "order": "blocked", "block": 64}, E4M3, 60.0, (torch.float32, 2)),
    ({"format": "bf16", "order": "blocked", "block": 7, "product": "bf16"}, E4M3, 1.0, (torch.float32, 0)),
    ({"format": "fixed16.8"}, E4M3, 1.0, (torch.float64, 1)),
    ({"format": "fixed31.12"}, E4M3, 60.0, (torch.float64, 1)),
    ({"format": "e4m3"}, E4M3, 1.0, (torch.float64, 1)),
    ({"format": "float32"}, BF16, 1.0, (torch.float64, 0)),
    ({"format": "float32"}, torch.float32, 1.0, (torch.float64, 0, "ties")),
    ({"format": "bf16", "product": "float32"}, torch.float32, 1.0, (torch.float64, 0, "ties")),
    ({"format": "e5m10"}, torch.float32, 300.0, (torch.float64, 2, "ties")),
    ({"format": "fixed31.12"}, torch.float32, 300.0, (torch.float64, 1, "ties")),
    ({"format": "e4m3", "order": "blocked", "block": 100}, torch.float32, 30.0, (torch.float64, 1, "ties")),
    ({"format": "bf16", "rounding": "nearest_away"}, torch.float32, 1.0, None),
    ({"format": "e5m10", "rounding": "stochastic"}, E4M3, 1.0, (torch.float64, 2)),
    ({"format": "e5m10", "rounding": "stochastic"}, E4M3, 60.0, (torch.float64, 2)),
    ({"format": "e5m10", "rounding": "stochastic:5", "product": "e5m10"}, E4M3, 60.0, (torch.float64, 2)),
    ({"format": "e4m3", "rounding": "stochastic", "order": "blocked", "block": 100}, E4M3, 2.0, (torch.float64, 1)),
    ({"format": "fixed16.8", "rounding": "stochastic"}, E4M3, 1.0, None),
    ({"format": "e5m10", "rounding": "toward_zero"}, E4M3, 1.0, None),
    ({"format": "e5m10", "order": "pairwise", "rounding": "nearest_away"}, E4M3, 1.0, None),
]


@pytest.mark.parametrize(("options", "dtype", "scale", "path"), LARGE, ids=lambda value: str(value))
def test_large_products_of_every_path_equal_tensor_operations(
    options: dict[str, Any], dtype: torch.dtype, scale: float, path: Any
) -> None:
    a, b, accumulator = narrow(dtype, 45, 277, scale=scale), narrow(dtype, 277, 67, scale=scale), Accumulator(**options)
    assert path_of(a, b, accumulator) == path
    expected = accumulate_tensor_ops(a, b, accumulator, KEY, slot=SLOT)
    assert same_bits(accumulate(a, b, accumulator, KEY, slot=SLOT), expected)
    of_double = accumulate(a.double(), b.double(), accumulator, KEY, slot=SLOT)
    assert same_bits(of_double.float(), expected)


def test_one_large_product_equals_tensor_operations() -> None:
    a, b = narrow(E4M3, 130, 257, scale=20.0), narrow(E4M3, 257, 67, scale=20.0)
    for options in ({}, {"product": "e5m10"}, {"rounding": "stochastic"}, {"order": "pairwise"}, {"compensated": True}):
        accumulator = Accumulator(format="e5m10", **options)
        assert same_bits(accumulate(a, b, accumulator, KEY), accumulate_tensor_ops(a, b, accumulator, KEY))


@pytest.mark.parametrize(
    ("fmt", "bits"), [("e8m9", 10), ("e8m9", 9), ("e8m10", 10), ("e8m7", 8), ("e8m22", 23), ("e8m24", 24)]
)
def test_sums_of_terms_far_apart_have_no_false_ties(fmt: str, bits: int) -> None:
    """Significands of the most bits that the fast paths take, near ties, at all distances of exponents."""
    most = 2 ** (bits - 1)
    chosen = torch.tensor([1, 2, 3, 5, most // 2, most // 2 + 1, most - 2, most - 1], dtype=torch.float32)
    significands = torch.cat([chosen, -chosen, torch.randint(1, most, (24,))])
    a = torch.cartesian_prod(significands, significands, significands[:6])
    b = torch.stack([torch.ones(121), 2.0 ** torch.arange(-60, 61), 2.0 ** torch.arange(60, -61, -1).div(2).floor()])
    accumulator = Accumulator(format=fmt)
    assert path_of(a, b, accumulator) == ((torch.float32 if bits <= 11 else torch.float64), 0)
    assert same_bits(accumulate(a, b, accumulator), accumulate_tensor_ops(a, b, accumulator))


def test_paths_are_refused_where_sums_could_round_twice() -> None:
    def chosen(fmt: str, facts: Facts, own: Any = FLOAT32) -> Any:
        path: Path | None = choose_path(kind_of(Accumulator(format=fmt)), facts, Facts(0, 1, 2.0), 9, own)
        return None if path is None else (path.carrier, path.ties)

    wide = [chosen("e8m10", Facts(-60, width, 2.0**40)) for width in (10, 11, 52, 53)]
    assert wide == [(FLOAT32, False), (FLOAT64, True), (FLOAT64, True), None]
    assert chosen("e8m11", Facts(-60, 9, 2.0**40)) == (FLOAT64, False)
    assert chosen("e8m10", Facts(-127, 1, 1.0)) == (FLOAT64, False)
    assert chosen("e11m30", Facts(-60, 11, 2.0**40)) is None
    assert chosen("e8m10", Facts(-2000, 1, 1.0), FLOAT64) is None
    assert chosen("e8m10", Facts(0, 1, math.inf), FLOAT64) is None
    assert chosen("e8m10", Facts(0, 1, math.nan), FLOAT64) is None


def test_facts_are_those_of_the_values() -> None:
    for dtype, tiny in ((torch.float32, 2.0**-149), (torch.float64, 2.0**-1074)):
        x = torch.tensor([0.0, -0.0, 0.75, -12.0, 5.0], dtype=dtype)
        assert kernel._facts(x) == Facts(-2, 3, 12.0)
        assert kernel._facts(torch.cat([x, torch.tensor([tiny], dtype=dtype)])).least_bit == math.frexp(tiny)[1] - 1
        assert kernel._facts(torch.full((20,), -math.inf, dtype=dtype)).amax == math.inf
        assert math.isnan(kernel._facts(torch.tensor([1.0, math.nan], dtype=dtype)).amax)


@pytest.mark.parametrize("options", [{}, {"rounding": "stochastic"}, {"rounding": "stochastic", "compensated": True}])
def test_results_do_not_depend_on_threads(options: dict[str, Any]) -> None:
    a, b, accumulator = narrow(E4M3, 70, 50), narrow(E4M3, 50, 90), Accumulator(format="e5m10", **options)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(accumulate(a, b, accumulator, KEY))
    finally:
        torch.set_num_threads(threads)
    assert same_bits(*results)


def test_batches_and_parts_draw_the_numbers_of_the_whole() -> None:
    a, b = narrow(E4M3, 3, 5, 20), narrow(E4M3, 3, 20, 40)
    for rounding in ("nearest_even", "stochastic"):
        accumulator = Accumulator(format="e5m10", rounding=rounding)
        whole = accumulate(a, b, accumulator, KEY)
        assert same_bits(whole, accumulate_tensor_ops(a, b, accumulator, KEY))
        for item in range(3):
            assert same_bits(whole[item], accumulate(a[item], b[item], accumulator, KEY, first=item * 200))


def test_a_left_operand_can_be_shared() -> None:
    """Matrix i of a batch meets ``a[i % A]``, as filters meet samples."""
    a, b = narrow(torch.float8_e4m3fn, 3, 5, 40), narrow(torch.float8_e4m3fn, 12, 40, 37)
    for options in ({}, {"rounding": "stochastic"}, {"order": "pairwise"}):
        accumulator = Accumulator(format="e5m10", **options)
        repeated = accumulate(a.repeat(4, 1, 1), b, accumulator, KEY)
        assert same_bits(accumulate(a, b, accumulator, KEY), repeated)
        assert same_bits(accumulate_tensor_ops(a, b, accumulator, KEY), repeated)
    with pytest.raises(FormatError, match="a product takes"):
        accumulate(a, b[:11], Accumulator(format="e5m10"))


@pytest.mark.parametrize(
    "options", [{"format": "e5m10"}, {"format": "e5m10", "order": "pairwise"}, {"format": "fixed31.12"}]
)
def test_streams_go_on_beyond_32_bits(options: dict[str, Any]) -> None:
    a, b = narrow(E4M3, 6, 30), narrow(E4M3, 30, 21)
    accumulator = Accumulator(rounding="stochastic", **options)
    for first in (2**32 // 30 - 50, 2**34 // 30 - 20, 2**40):
        ours = accumulate(a, b, accumulator, KEY, first=first)
        assert same_bits(ours, accumulate_tensor_ops(a, b, accumulator, KEY, first=first))
    index = torch.arange(2**32 - 40, 2**32 + 40)
    assert torch.equal(hashed_at(index, KEY, SLOT), hashed(80, KEY, SLOT, index.device, 2**32 - 40))


def test_any_strides_and_shapes() -> None:
    accumulator = Accumulator(format="e5m10")
    a, b = narrow(E4M3, 20, 7).t(), narrow(E4M3, 1, 33).expand(20, 33)
    assert same_bits(accumulate(a, b, accumulator), accumulate(a.contiguous(), b.contiguous(), accumulator))
    for rows, depth, columns in ((0, 3, 4), (3, 3, 0), (3, 0, 4), (1, 1, 1)):
        for options in ({}, {"order": "pairwise"}, {"compensated": True, "rounding": "stochastic"}):
            x, y, other = torch.ones(rows, depth), torch.ones(depth, columns), Accumulator(format="e5m10", **options)
            expected = torch.full((rows, columns), float(depth))
            assert torch.equal(accumulate(x, y, other), expected)
            assert torch.equal(accumulate_tensor_ops(x, y, other), expected)


def test_out_receives_the_result() -> None:
    a, b, accumulator = narrow(E4M3, 9, 9), narrow(E4M3, 9, 9), Accumulator(format="e5m10")
    expected = accumulate(a, b, accumulator)
    for out in (torch.empty(9, 9), torch.empty(9, 18)[:, ::2], torch.empty(9, 9, dtype=torch.float64), a):
        assert accumulate(a.clone() if out is not a else a, b, accumulator, out=out) is out
        assert torch.equal(out.float(), expected)


def test_stochastic_sums_are_unbiased() -> None:
    a, b = torch.ones(1, 200), torch.full((200, 4000), 0.3)
    sums = accumulate(a, b, Accumulator(format="e5m2", rounding="stochastic"), KEY)
    assert accumulate(a, b, Accumulator(format="e5m2")).max() < 5
    assert abs(sums.mean() - 60) < 5 * sums.std() / 4000**0.5


def test_compensated_and_blocked_sums_err_less() -> None:
    a, b = torch.ones(1, 4096), torch.rand(4096, 8)
    exact = a.double() @ b.double()
    errors = [
        float((accumulate(a, b, Accumulator(format="e6m9", **options)) - exact).abs().max())
        for options in ({}, {"order": "blocked", "block": 64}, {"order": "pairwise"}, {"compensated": True})
    ]
    assert errors[0] > 4 * errors[1] > errors[2]
    assert errors[3] <= 4  # half a quantum at 2048 is 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "mxfp8"}, "a running sum is a float or fixed point"),
        ({"format": "ue5m3"}, "has a sign"),
        ({"format": "e11m52", "rounding": "stochastic"}, "53 significand bits"),
        ({"format": "fixed53.0"}, "52 significand bits"),
        ({"format": "e5m10", "product": "int99"}, "supported"),
        ({"format": "e5m10", "rounding": "hysteresis"}, "needs more than a value"),
        ({"format": "e5m10", "chunk": 0}, "a chunk has from 1 to"),
        ({"format": "e5m10", "order": "random"}, "expected one of 'sequential', 'pairwise', 'blocked', 'aligned'"),
        ({"format": "e5m10", "order": "blocked"}, "need a block"),
        ({"format": "e5m10", "block": 3}, "only they have one"),
        ({"format": "e5m10", "order": "pairwise", "chunk": 2}, "go with order 'sequential'"),
        ({"format": "e5m10", "compensated": True, "chunk": 2}, "leave chunk at 1"),
        ({"format": "e5m10", "compensated": 1}, "True or False"),
    ],
)
def test_accumulators_that_make_no_sense_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Accumulator(**options)


def test_operands_that_do_not_fit_are_errors() -> None:
    accumulator, a = Accumulator(format="e5m10"), torch.ones(2, 3)
    for run in (accumulate, accumulate_tensor_ops):
        for b in (a, a.t().double(), torch.ones(3), torch.ones(1, 3, 2), a.t().half()):
            with pytest.raises(FormatError, match="takes"):
                run(a, b, accumulator)


@pytest.mark.parametrize(
    ("dtype", "bits", "width"), [(torch.int8, 8, 20), (torch.int8, 8, 23), (torch.int16, 16, 40), (torch.int32, 32, 62)]
)
def test_integer_sums_overflow_exactly_beyond_the_bound(dtype: torch.dtype, bits: int, width: int) -> None:
    length = safe_chain_length(bits, bits, width)
    worst = torch.full((1, length + 1), -(2 ** (bits - 1)), dtype=dtype)
    safe, overflowed = int_matmul(worst[:, 1:], worst[:, 1:].t(), width)
    assert safe.item() == length * 2 ** (2 * bits - 2)
    assert not overflowed.item()
    wrapped, overflowed = int_matmul(worst, worst.t(), width)
    assert wrapped.item() == (length + 1) * 2 ** (2 * bits - 2) - 2**width
    assert overflowed.item()


def test_integer_sums_wrap_and_say_so() -> None:
    a = torch.tensor([[100, 100, -100]], dtype=torch.int8)
    b = torch.tensor([[100, 1], [100, 1], [100, 1]], dtype=torch.int8)
    total, overflowed = int_matmul(a, b, 15)
    assert total.tolist() == [[10000, 100]]  # 20000 wraps to -12768, and back
    assert overflowed.tolist() == [[True, False]]
    assert safe_chain_length(8, 8) == 131071
    x, y = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((2, 5, 40), (2, 40, 6)))
    assert torch.equal(int_matmul(x, y)[0], x.long() @ y.long())
    for left, right, bits in ((a.float(), b, 32), (a, a, 32), (a, b, 63)):
        with pytest.raises(FormatError, match="int_matmul|a product takes"):
            int_matmul(left, right, bits)
    with pytest.raises(FormatError, match="a_bits"):
        safe_chain_length(0, 8)
