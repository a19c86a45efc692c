"""AdaPT's rule: word and fraction length of each weight tensor in fixed point, as short as its training can bear.

*PushDown* takes the shortest lengths at which rounding leaves the distribution of the weights as it is. *PushUp* then
adds fraction bits for gradients to have an effect: with the diversity D of the last gradients and ``L = ln D - 1``,

    s = 1 where L <= 0 or D is infinite; else the smaller, the mean rounded up, or the larger, by strategy, of
    s1 = max(ceil(1 / L**2), 1)      s2 = max(min(ceil(32 L**2), 32) - FL, 0)
    FL <- min(FL + s, 32)            WL <- min(max(WL, FL) + 1, 32)
    FL <- min(FL, 32 - b)            WL <- max(min(FL + b, 32), WL)        with b bits of buffer

The *lookback*, how many gradients are awaited, follows the diversity; the *resolution*, bins of the histogram, follows
the lookback; the *strategy* follows the loss.

Source: Kummer, Sidak, Reichmann, Gansterer, Adaptive Precision Training (2021), and what its code computes where the
paper is not exact. That code's divergence of raw probabilities, of one row of the weight, and its bisection, which
evaluates an end and never the middle, are not copied.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from precc.checks import checked_count, checked_positive
from precc.errors import ControllerError

__all__ = ["AdaPTReading", "AdaPTRule", "Lengths", "Strategy", "TensorState", "smallest"]

#: Word and fraction length in bits.
Lengths = tuple[int, int]

#: Above it the steps of PushUp reach the longest fraction anyway.
_ENOUGH = 64.0

#: Of a mean of lookbacks, in float64: a whole one is not rounded up for it.
_NOISE = 1e-9


class Strategy(Enum):
    """Which of two numbers of bits PushUp takes."""

    MIN = "min"
    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class TensorState:
    """Of one weight tensor: bits of the word, of them after the point, gradients awaited, bins of the histogram."""

    word: int
    fraction: int
    lookback: int
    resolution: int


@dataclass(frozen=True, slots=True)
class AdaPTReading:
    """Of one weight tensor, after a step.

    Args:
        count: gradients since the last decision.
        diversity: of them.
        strategy: of PushUp.
        loses: divergence of the weights rounded to a word of so many bits, so many of them after the point, in a
            histogram of so many bins.
    """

    count: int
    diversity: float
    strategy: Strategy
    loses: Callable[[int, int, int], float]


def smallest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from `low` to `high` that holds, by bisection; `high` if none does.

    `holds` is taken to be monotone. If it is not, it does not hold just below the number.

    >>> smallest(0, 32, lambda bits: bits >= 11), smallest(0, 32, lambda bits: False)
    (11, 32)
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaPTRule:
    """The constants, by default those of the source's ResNet on CIFAR-10.

    Args:
        word, fraction: of the first format.
        lookback: least and most gradients that are awaited.
        resolution: least and most bins.
        buffer: bits before the point that a result needs beside its operands' (b).
        momentum: weight of the new lookback against the old one, above 0 and up to 1.
        zero: divergence in nats that counts as none. Two samples of n values from one distribution are about
            ``(r - 1) / n`` apart in r bins: that far with 100,000 values in 100 bins.

    Raises:
        ControllerError: a number outside its range.

    >>> rule = AdaPTRule()
    >>> rule.push_up((9, 8), math.exp(2.0), Strategy.MIN)  # L = 1: s1 = 1, s2 = 32 - 8
    (17, 9)
    """

    word: int = 8
    fraction: int = 4
    lookback: tuple[int, int] = (25, 100)
    resolution: tuple[int, int] = (50, 150)
    buffer: int = 8
    momentum: float = 1.0
    zero: float = 1e-3
    longest: int = 32

    def __post_init__(self) -> None:
        longest = checked_count("longest", self.longest, 2)
        lengths = checked_count("word", self.word, 2), checked_count("fraction", self.fraction, 0)
        if max(*lengths, checked_count("buffer", self.buffer, 0)) > longest:
            raise ControllerError(f"word, fraction and buffer are at most {longest} bits, got {lengths}, {self.buffer}")
        for name, ends in (("lookback", self.lookback), ("resolution", self.resolution)):
            if len(ends) != 2 or checked_count(name, ends[1], 1) < checked_count(name, ends[0], 1):
                raise ControllerError(f"{name} has a least and a most, got {ends!r}")
        if checked_positive("momentum", self.momentum) > 1:
            raise ControllerError(f"momentum is at most 1, got {self.momentum}")
        checked_positive("zero", self.zero)

    def init(self) -> TensorState:
        return TensorState(self.word, self.fraction, self.lookback[0], self.resolution[0])

    def step(self, reading: AdaPTReading, state: TensorState) -> tuple[Lengths | None, TensorState]:
        """The lengths decided, None while gradients are awaited, and the state after it: `observe`, then `decide`.

        `precc.control.adapt.AdaPT` calls these apart, before and after the step of its optimizer.
        """
        state = self.observe(reading.diversity, state)
        if reading.count < state.lookback:
            return None, state
        bins = state.resolution

        def loses(word: int, fraction: int) -> float:
            return reading.loses(word, fraction, bins)

        after = self.decide(loses, reading.diversity, reading.strategy, state)
        return (after.word, after.fraction), after

    def observe(self, diversity: float, state: TensorState) -> TensorState:
        """The state after a gradient: lookback ``ceil(m * clip(most / D) + (1 - m) * lookback)``, and resolution."""
        least, most = self.lookback
        new = min(max(most / diversity, least), most)
        lookback = math.ceil(self.momentum * new + (1.0 - self.momentum) * state.lookback - _NOISE)
        step = (lookback == most) - (lookback == least)
        resolution = min(max(state.resolution + step, self.resolution[0]), self.resolution[1])
        return replace(state, lookback=lookback, resolution=resolution)

    def decide(
        self, loses: Callable[[int, int], float], diversity: float, strategy: Strategy, state: TensorState
    ) -> TensorState:
        """New lengths: PushDown, then PushUp.

        Args:
            loses: divergence of the weights rounded to a word of so many bits, so many of them after the point.
            diversity: of the gradients since the last decision.
            strategy: of PushUp.
            state: its resolution is that of `loses`.
        """
        word, fraction = self.push_up(self.push_down(loses), diversity, strategy)
        return replace(state, word=word, fraction=fraction)

    def push_down(self, loses: Callable[[int, int], float]) -> Lengths:
        """The shortest fraction without loss in a word that clips nothing, then the shortest word with it."""
        widest = self.longest + 21  # what float64 holds
        fraction = smallest(0, self.longest, lambda bits: loses(widest, bits) <= self.zero)
        return smallest(1, self.longest, lambda bits: loses(bits, fraction) <= self.zero), fraction

    def push_up(self, lengths: Lengths, diversity: float, strategy: Strategy) -> Lengths:
        """The formulas above."""
        word, fraction = lengths
        fraction = min(fraction + self.steps_up(diversity, fraction, strategy), self.longest)
        word = min(max(word, fraction) + 1, self.longest)
        fraction = min(fraction, self.longest - self.buffer)
        return max(min(fraction + self.buffer, self.longest), word), fraction

    def steps_up(self, diversity: float, fraction: int, strategy: Strategy) -> int:
        """How many fraction bits PushUp adds."""
        logarithm = math.log(diversity) - 1.0
        if logarithm <= 0.0 or math.isinf(diversity):
            return 1
        square = max(logarithm**2, 1.0 / _ENOUGH)  # a larger s1 would change nothing
        first = max(math.ceil(1.0 / square), 1)
        second = max(min(math.ceil(self.longest * logarithm**2), self.longest) - fraction, 0)
        mean = math.ceil(0.5 * (first + second))
        return {Strategy.MIN: min(first, second), Strategy.MEAN: mean, Strategy.MAX: max(first, second)}[strategy]

    @staticmethod
    def strategy_after(loss: float, losses: Sequence[float], strategy: Strategy, lookback: int) -> Strategy:
        """The strategy after a loss: back to min if ``|loss|`` is below the mean of the last ones, else one further.

        Args:
            loss: if it is not finite, the strategy stays.
            losses: before it; those that are not finite do not count.
            strategy: before it.
            lookback: mean one over the tensors; with fewer losses than that, the strategy stays.
        """
        last = [own for own in losses if math.isfinite(own)][-max(lookback, 1) :]
        if len(last) < max(lookback, 1) or not math.isfinite(loss):
            return strategy
        if abs(loss) < math.fsum(abs(own) for own in last) / len(last):
            return Strategy.MIN
        return {Strategy.MIN: Strategy.MEAN}.get(strategy, Strategy.MAX)
