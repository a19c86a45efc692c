"""Whether a product is faster in narrow operands, the casts before it included."""

from dataclasses import dataclass

from precc.backends.triton.device import Device
from precc.devices.figures import DeviceFigures
from precc.devices.published import PUBLISHED
from precc.devices.timed_work import PairRate

__all__ = ["LowSize", "low_pays"]

#: Bytes of a value where it is not narrow, and of a result.
_WIDE = 2


@dataclass(frozen=True, slots=True)
class LowSize:
    """An m x k matrix times a k x n one.

    Args:
        cast: elements of operands that are cast before the product, and for no other.
    """

    m: int
    n: int
    k: int
    cast: int = 0


def low_pays(size: LowSize, first: str, second: str, device: Device) -> bool:
    """Whether a device multiplies two 8-bit formats, and casts to them, in less time than it multiplies bfloat16.

    By published figures; of a device without them True: nothing says that it does not.
    """
    figures = next((own for own in PUBLISHED.values() if own.target == device.name), None)
    if figures is None:
        return True
    low, wide = _rate(figures, first, second), _rate(figures, "bfloat16", "bfloat16")
    if low is None or wide is None:
        return True
    casts = figures.seconds(size.cast * (_WIDE + 1)) if size.cast else 0.0
    return casts + _seconds(figures, size, low, 1) < _seconds(figures, size, wide, _WIDE)


def _rate(figures: DeviceFigures, *pair: str) -> float | None:
    wanted = PairRate(pair[0], pair[1], 1.0).formats
    return next((own.flops for own in figures.rates if own.formats in (wanted, wanted[::-1])), None)


def _seconds(figures: DeviceFigures, size: LowSize, rate: float, width: int) -> float:
    moved = width * size.k * (size.m + size.n) + _WIDE * size.m * size.n
    return figures.seconds(moved, flops=2.0 * size.m * size.n * size.k, rate=rate)
