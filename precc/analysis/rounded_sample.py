"""The values of a sample in one precision: what the slots that read them have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from precc.analysis.error_gains import MeanSquare
from precc.analysis.loss_sums import LossSums, MagnitudeMeans
from precc.analysis.rounding_error import TENSOR, RoundingErrors, ScaleKey, rounding_errors, scale_key
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.precision import Precision

__all__ = ["RoundedSample", "RoundedSamples", "errors_of", "mean_square_of"]

#: Bytes that rounded samples of one analysis may take.
_ROOM = 1 << 28


@dataclass(frozen=True, eq=False)
class RoundedSample:
    """Errors at the sampled values.

    Args:
        sample: of values.
        magnitudes: of the sample.
        spread: as in `precc.analysis.rounding_error.RoundingErrors`, [samples].
        mean: likewise; None if it is 0 everywhere.
        variance: likewise.
        mean_square: of the errors; a rectifier may be next to a result, where those of values near 0 count.
        lost_share: of the sum of squares, what becomes 0 or lies beyond the ends.
    """

    sample: ValueSample
    magnitudes: MagnitudeMeans
    spread: Tensor
    mean: Tensor | None
    variance: Tensor | None
    mean_square: MeanSquare
    lost_share: float

    @classmethod
    def of(cls, sample: ValueSample, magnitudes: MagnitudeMeans, errors: RoundingErrors) -> "RoundedSample":
        """From all that is known of the errors."""
        mean, variance = (own if bool(own.any()) else None for own in (errors.mean, errors.variance))
        lost = errors.lost_share(sample.values, sample.weights)
        return cls(sample, magnitudes, errors.spread, mean, variance, mean_square_of(sample, errors), lost)

    @property
    def size(self) -> int:
        """Bytes that it takes, or about that."""
        return sum(own.nbytes for own in (self.spread, self.mean, self.variance) if own is not None)

    @cached_property
    def _by_magnitude(self) -> Tensor:
        """Sums of the relative errors and of their squares over the values of each magnitude that was drawn."""
        values = self.sample.values.double()
        v = torch.where(values == 0, 1.0, values)  # zeros have no error
        zero = torch.zeros_like(v)
        mean, variance = (zero if own is None else own for own in (self.mean, self.variance))
        squares = (mean.square() + self.spread.square() + variance) / v.square()
        return self.magnitudes.sums(torch.stack([mean / v, squares]))

    def by_magnitude(self, sums: LossSums) -> tuple[Tensor, Tensor]:
        """Means of the relative errors and of their squares, over the values of each magnitude of these sums."""
        mean, square = self.magnitudes.from_sums(self._by_magnitude, sums.numbers)
        return mean, square


def errors_of(sample: ValueSample, slot: SlotAdjoints, precision: Precision) -> RoundingErrors:
    """The rounding errors in one slot, at the sampled values."""
    amax: Mapping[ScaleKey, Tensor] = {TENSOR: sample.amax, **slot.amax}
    return rounding_errors(sample.values, precision, amax, axis=slot.axis, channel=slot.channel)


def mean_square_of(sample: ValueSample, errors: RoundingErrors) -> MeanSquare:
    """Of the errors of all values, and of those near 0."""
    near = errors.mean_square_near_zero(sample.values, sample.weights)
    return MeanSquare(errors.mean_square(sample.weights), near)


def _layout_of(slot: SlotAdjoints, precision: Precision) -> str:
    """The same for slots of a sample that err alike in a precision: its name, or nothing where one scale is for all."""
    return "" if scale_key(precision.row().current) in (None, TENSOR) else slot.name


@dataclass(eq=False)
class RoundedSamples:
    """Of one analysis, each found once, for plans mix few precisions in many ways; the oldest ones are forgotten.

    Args:
        room: bytes that they may take.
    """

    room: int = _ROOM
    _found: dict[tuple[ValueSample, Precision, str], RoundedSample] = field(default_factory=dict)
    _magnitudes: dict[ValueSample, MagnitudeMeans] = field(default_factory=dict)
    _taken: int = 0

    def of(self, sample: ValueSample, slot: SlotAdjoints, precision: Precision) -> RoundedSample:
        """A sample as a slot reads it.

        Raises:
            AnalysisError: the largest magnitudes for its scales are not known.
            UnsupportedError: the precision has a transform, which mixes values.
        """
        key = (sample, precision, _layout_of(slot, precision))
        if key not in self._found:
            if sample not in self._magnitudes:
                self._magnitudes[sample] = sample.magnitudes
            own = RoundedSample.of(sample, self._magnitudes[sample], errors_of(sample, slot, precision))
            self._keep(key, own)
        return self._found[key]

    def _keep(self, key: tuple[ValueSample, Precision, str], own: RoundedSample) -> None:
        self._found[key] = own
        self._taken += own.size
        while self._taken > self.room and len(self._found) > 1:
            self._taken -= self._found.pop(next(iter(self._found))).size
