"""AdaPT's rule by hand-computed cases, and on weights whose shortest format is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from precc.control.adapt_rule import AdaPTReading, AdaPTRule, Strategy, TensorState, smallest
from precc.control.gradient_diversity import GradientSum, gradient_diversity
from precc.control.histogram_divergence import histogram_divergence
from precc.errors import ControllerError
from precc.formats import FixedPoint

RULE = AdaPTRule()


def rounded(values: Tensor, word: int, fraction: int) -> Tensor:
    """In fixed point, to nearest even."""
    fmt = FixedPoint(name="own", word=word, fraction=fraction)
    return (torch.round(values.double() / fmt.quantum) * fmt.quantum).clamp(fmt.low, fmt.max)


def divergence(values: Tensor, bins: int = 100) -> object:
    return lambda word, fraction: histogram_divergence(values, rounded(values, word, fraction), bins)


@pytest.mark.parametrize(
    ("diversity", "fraction", "by_strategy"),
    [
        # L <= 0, or no direction: 1
        (1.0, 8, (1, 1, 1)),
        (math.e, 8, (1, 1, 1)),
        (math.inf, 8, (1, 1, 1)),
        # L = 1/2: s1 = 4, s2 = 8 - FL
        (math.exp(1.5), 6, (2, 3, 4)),
        (math.exp(1.5), 10, (0, 2, 4)),
        # L = 1: s1 = 1, s2 = 32 - FL
        (math.exp(2.0), 8, (1, 13, 24)),
        # L = 0.21: s1 = ceil(22.7), s2 = ceil(1.41) - FL
        (math.exp(1.21), 1, (1, 12, 23)),
        # L so small that s1 is beyond all bounds
        (math.exp(1.0 + 1e-9), 0, (1, 33, 64)),
    ],
)
def test_steps_of_push_up(diversity: float, fraction: int, by_strategy: tuple[int, int, int]) -> None:
    assert tuple(RULE.steps_up(diversity, fraction, own) for own in Strategy) == by_strategy


@pytest.mark.parametrize(
    ("lengths", "diversity", "after"),
    [
        ((5, 6), 1.0, (15, 7)),  # FL 7, WL 8, buffer: 7 + 8
        ((20, 6), 1.0, (21, 7)),
        ((30, 30), 1.0, (32, 24)),  # FL 31, then 32 - 8
        ((32, 0), 1.0, (32, 1)),
    ],
)
def test_push_up(lengths: tuple[int, int], diversity: float, after: tuple[int, int]) -> None:
    assert RULE.push_up(lengths, diversity, Strategy.MIN) == after


def test_the_cap_of_the_first_number_changes_no_length() -> None:
    for fraction in range(33):
        for strategy in (Strategy.MEAN, Strategy.MAX):
            assert RULE.push_up((8, fraction), math.exp(1.0 + 1e-12), strategy)[1] == 24


@given(st.integers(0, 32), st.integers(1, 32), st.floats(1.0, 1e9), st.sampled_from(Strategy), st.integers(0, 32))
def test_lengths_stay_within_the_longest(
    fraction: int, word: int, diversity: float, strategy: Strategy, buffer: int
) -> None:
    longer, point = AdaPTRule(buffer=buffer).push_up((word, fraction), diversity, strategy)
    assert word <= longer <= 32
    assert 0 <= point <= 32 - buffer
    assert longer >= point + buffer


def test_the_lookback_by_hand() -> None:
    state = TensorState(8, 4, lookback=50, resolution=60)
    assert RULE.observe(1.0, state) == TensorState(8, 4, 100, 61)  # one more bin at the most
    assert RULE.observe(3.0, state) == TensorState(8, 4, 34, 60)  # ceil(100 / 3)
    assert RULE.observe(10.0, state) == TensorState(8, 4, 25, 59)  # one less at the least
    assert RULE.observe(math.inf, state) == TensorState(8, 4, 25, 59)
    third = AdaPTRule(momentum=0.33)
    assert third.observe(3.0, state).lookback == 45  # ceil(11 + 0.67 * 50)
    assert third.observe(3.0, TensorState(8, 4, 40, 60)).lookback == 38  # ceil(11 + 26.8), 100 / 3 is not rounded up
    for momentum in (0.1, 0.33, 0.6, 0.7, 0.9):
        for own in (25, 47, 100):
            kept = AdaPTRule(momentum=momentum).observe(100 / own, TensorState(8, 4, own, 60))
            assert kept.lookback == own  # the mean of a number with itself
    assert RULE.observe(1.0, TensorState(8, 4, 50, 150)).resolution == 150
    assert RULE.observe(9.0, TensorState(8, 4, 50, 50)).resolution == 50


def test_a_step_by_hand() -> None:
    """The lookback is ceil(4 / 2): two gradients are enough. PushDown finds (7, 3), PushUp adds one bit, then 8."""
    rule = AdaPTRule(lookback=(1, 4), resolution=(20, 30))
    asked: set[int] = set()

    def loses(word: int, fraction: int, bins: int) -> float:
        asked.add(bins)
        return float(word < 7 or fraction < 3)

    waiting = rule.step(AdaPTReading(1, 1.0, Strategy.MIN, loses), rule.init())
    assert waiting == (None, TensorState(8, 4, 4, 21))
    assert not asked
    assert rule.step(AdaPTReading(2, 2.0, Strategy.MIN, loses), waiting[1]) == ((12, 4), TensorState(12, 4, 2, 21))
    assert asked == {21}


def test_the_strategy_by_hand() -> None:
    after = RULE.strategy_after
    losses = [9.0, 1.0, 2.0, 3.0]  # the mean of the last three is 2
    chain = [after(2.0, losses, own, 3) for own in Strategy]
    assert chain == [Strategy.MEAN, Strategy.MAX, Strategy.MAX]
    assert {after(1.99, losses, own, 3) for own in Strategy} == {Strategy.MIN}
    assert after(3.0, losses, Strategy.MAX, 4) is Strategy.MIN  # of all four it is 3.75
    assert after(9.0, losses, Strategy.MIN, 5) is Strategy.MIN  # too few losses
    for wrong in (math.nan, math.inf):
        assert [after(wrong, losses, own, 3) for own in Strategy] == list(Strategy)
        assert after(1.99, [*losses, wrong], Strategy.MAX, 3) is Strategy.MIN
        assert after(2.0, [*losses[1:], wrong], Strategy.MAX, 4) is Strategy.MAX  # three that count are too few
    assert after(-1.5, [-2.0], Strategy.MAX, 1) is Strategy.MIN


@given(st.integers(0, 40), st.integers(0, 40), st.integers(-1, 45))
def test_bisection(low: int, more: int, first: int) -> None:
    high = low + more
    calls: list[int] = []
    found = smallest(low, high, lambda bits: calls.append(bits) or bits >= first)  # type: ignore[func-returns-value]
    assert found == min(max(first, low), high)
    assert len(calls) <= more.bit_length()


@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        # multiples of 1/8 from -2 to 7/4 in 31 bins: 3 bits after the point, 2 before it with the sign's
        (torch.arange(-16, 15) / 8, (5, 3)),
        # and of 1/32 up to 1/2: the word is as long as the fraction
        (torch.arange(-16, 16) / 32, (5, 5)),
        (torch.zeros(10), (1, 0)),
        (torch.full((10,), 3.0), (3, 0)),
        (torch.full((10,), -0.25), (1, 2)),
        (torch.zeros(0), (1, 0)),
    ],
)
def test_push_down_finds_the_format_that_the_weights_are_in(values: Tensor, lengths: tuple[int, int]) -> None:
    found = AdaPTRule(zero=1e-9).push_down(divergence(values, bins=400))  # type: ignore[arg-type]
    assert found == lengths


def test_push_down_keeps_the_distribution_and_no_more() -> None:
    torch.manual_seed(0)
    weights = 0.05 * torch.randn(200, 100)
    loses = divergence(weights)
    word, fraction = RULE.push_down(loses)  # type: ignore[arg-type]
    assert loses(word, fraction) <= 1e-3 < loses(53, fraction - 1)  # type: ignore[operator]
    assert loses(word - 1, fraction) > 1e-3  # type: ignore[operator]
    assert 8 <= fraction <= 14
    # the whole tensor is looked at: in a planted row of large weights, bits before the point are needed
    weights[-1] = 3.0 * torch.randn(100)
    longer, _ = RULE.push_down(divergence(weights, bins=1000))  # type: ignore[arg-type]
    assert longer > word


def test_a_larger_scale_moves_the_point() -> None:
    torch.manual_seed(0)
    weights = torch.randn(2000)
    (word, fraction), (other, moved) = (RULE.push_down(divergence(own)) for own in (weights, weights / 16))  # type: ignore[arg-type]
    assert (other, moved) == (word, fraction + 4)


def test_the_divergence_by_hand() -> None:
    """Counts (2, 2) and (4, 0) with half a count more: 1/2 ln(2.5/4.5) + 1/2 ln(2.5/0.5)."""
    values = torch.tensor([0.0, 0.0, 1.0, 1.0])
    expected = 0.5 * math.log(2.5 / 4.5) + 0.5 * math.log(2.5 / 0.5)
    assert histogram_divergence(values, torch.zeros(4), 2) == pytest.approx(expected)
    beyond = torch.tensor([-5.0, 0.0, 1.0, 7.0])  # falls into the end bins
    assert histogram_divergence(values, beyond, 2) == 0.0


def test_two_samples_are_as_far_apart_as_the_rule_says() -> None:
    torch.manual_seed(0)
    found = [histogram_divergence(torch.rand(100_000), torch.rand(100_000), 100) for _ in range(20)]
    assert math.fsum(found) / 20 == pytest.approx(99 / 100_000, rel=0.15)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.integers(1, 20), st.integers(-2, 8))
def test_it_is_a_divergence(numbers: list[float], bins: int, fraction: int) -> None:
    values = torch.tensor(numbers)
    assert histogram_divergence(values, values, bins) == 0.0
    found = histogram_divergence(values, rounded(values, 8, fraction), bins)
    assert 0.0 <= found < math.inf


def test_diversity_by_hand() -> None:
    assert gradient_diversity(2, math.sqrt(2)) == pytest.approx(math.sqrt(2))
    own = GradientSum()
    assert own.add(torch.tensor([3.0, 0.0]))
    assert own.diversity == 1.0
    assert own.add(torch.tensor([0.0, 0.1]))  # its length does not count
    assert own.diversity == pytest.approx(math.sqrt(2))
    assert own.add(torch.zeros(2))
    assert own.count == 2
    assert not own.add(torch.tensor([math.nan, 1.0]))
    assert own.add(torch.tensor([-1.0, -1.0]) / 7)
    assert own.diversity == pytest.approx(3 / (math.sqrt(2) - 1))


@pytest.mark.parametrize("size", [1e-30, 1e30, 3e38])
def test_gradients_whose_squares_leave_float32(size: float) -> None:
    own = GradientSum()
    assert own.add(torch.tensor([size, 0.0]))
    assert own.add(torch.tensor([size, size]))
    assert own.count == 2
    assert own.diversity == pytest.approx(2 / math.sqrt((1 + math.sqrt(0.5)) ** 2 + 0.5))
    assert own.total is not None
    assert own.total.dtype == torch.float32


def test_independent_gradients_have_the_square_root_of_their_number() -> None:
    torch.manual_seed(0)
    own = GradientSum()
    for _ in range(100):
        own.add(torch.randn(10000))
    assert own.diversity == pytest.approx(10, rel=0.02)


def test_no_direction() -> None:
    assert GradientSum().diversity == math.inf


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"word": 1}, "word"),
        ({"word": 33}, "32 bits"),
        ({"fraction": -1}, "fraction"),
        ({"fraction": 33}, "32 bits"),
        ({"buffer": 33}, "32 bits"),
        ({"buffer": -1}, "buffer"),
        ({"lookback": (0, 5)}, "lookback"),
        ({"lookback": (6, 5)}, "lookback"),
        ({"lookback": (6,)}, "lookback"),
        ({"resolution": (150, 50)}, "resolution"),
        ({"momentum": 0.0}, "momentum"),
        ({"momentum": 1.1}, "momentum"),
        ({"zero": 0.0}, "zero"),
        ({"zero": math.nan}, "zero"),
        ({"longest": 1}, "longest"),
    ],
)
def test_constants_out_of_range(options: dict[str, object], what: str) -> None:
    with pytest.raises(ControllerError, match=what):
        AdaPTRule(**options)  # type: ignore[arg-type]
