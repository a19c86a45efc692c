"""Power-law grids, as data."""

import math
from dataclasses import dataclass, field

from precc.errors import FormatError

__all__ = ["PowerLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Values ``+-(i / n)**(1 / a)``, ``i = 0 ... n``, ``n = 2**(b - 1) - 1``: denser towards 0 for ``a < 1``.

    Quantising is ``i = round(n |x|**a)``, the nearest in the power domain, so the decision points are
    ``((i + 1/2) / n)**(1 / a)`` (NUPES, Yvinec et al. 2023; PowerQuant 2022). Values lie in [-1, 1]; give it
    ``Scaling("tensor", scale_format="float32")`` to make 1 the largest magnitude of a tensor (a power of two by the
    rule floor would cut the largest values off).

    Args:
        name: the one spelling used in plans and reports.
        word: b, the number of bits, 2 to 16.
        power: a, above 0.

    Raises:
        FormatError: widths or power out of range.

    >>> PowerLaw(name="power3_0.5", word=3, power=0.5).values
    (0.0, 0.1111111111111111, 0.4444444444444444, 1.0)
    """

    name: str = field(compare=False)
    word: int
    power: float

    def __post_init__(self) -> None:
        if type(self.word) is not int or not 2 <= self.word <= 16:
            raise FormatError(f"format {self.name!r}: a power-law grid has 2 to 16 bits, not {self.word!r}")
        if type(self.power) not in (int, float) or not 0.05 <= self.power <= 20:
            raise FormatError(f"format {self.name!r}: the power is from 0.05 to 20, not {self.power!r}")
        object.__setattr__(self, "power", float(self.power))

    @property
    def bits(self) -> int:
        """Storage width."""
        return self.word

    @property
    def max(self) -> float:
        """1."""
        return 1.0

    @property
    def low(self) -> float:
        """-1."""
        return -1.0

    @property
    def values(self) -> tuple[float, ...]:
        """The magnitudes, ascending."""
        top = int(2 ** (self.word - 1)) - 1
        return tuple(math.pow(index / top, 1 / self.power) for index in range(top + 1))

    @property
    def decision_points(self) -> tuple[float, ...]:
        """Between neighbouring magnitudes: where rounding to nearest, in the power domain, turns to the larger one."""
        top = int(2 ** (self.word - 1)) - 1
        return tuple(math.pow((index + 0.5) / top, 1 / self.power) for index in range(top))

    def __repr__(self) -> str:
        return f"{self.name} ({self.bits} bits, power {self.power:g}, smallest {self.values[1]:.3g})"
