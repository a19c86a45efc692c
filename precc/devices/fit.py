"""Figures of a roofline that fit what was measured."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from precc.devices.at_hand import DeviceAtHand
from precc.devices.figures import DeviceFigures
from precc.devices.timed_work import PairRate, TimedWork
from precc.errors import PlanError

__all__ = ["fit_roofline"]

#: Of what is missing, in a message.
_TOLD = 3


def fit_roofline(
    device: DeviceAtHand, work: Sequence[TimedWork], missing: Mapping[str, str], date: str
) -> DeviceFigures:
    """The figures at which the factors between modelled and measured times multiply to the least.

    ``sum |log(modelled / measured)|``, a fit that single outliers do not move: first of the smallest kernels, whose
    median is the launch, then of casts, which gives the bandwidth, then of the products of each pair of formats. In
    each step one figure is sought, and the best one is among those at which a time is met exactly, or the roofline has
    its corner: between them the sum is linear in the logarithm of the figure. (Least squares of a sum of three terms
    would be another model: a roofline is the largest of them.)

    Raises:
        PlanError: without a launch, a cast or a product there are no figures.
    """
    launches, casts, products = ([own for own in work if own.kind == kind] for kind in ("launch", "cast", "product"))
    if not (launches and casts and products):
        why = "".join(f"; not measured: {name}: {reason}" for name, reason in [*missing.items()][:_TOLD])
        raise PlanError(
            f"figures need a launch, casts and products; {len(work)} measurements have not all of them{why}"
        )
    launch = statistics.median(own.seconds for own in launches)
    candidates = [own.moved / seconds for own in casts for seconds in (own.seconds, launch)]
    bandwidth, error = _best(casts, candidates, lambda own, figure: max(launch, own.moved / figure))
    rates = []
    for name in dict.fromkeys(own.name for own in products):
        own = [point for point in products if point.name == name]
        first, second = name.split(" x ")
        rates.append(PairRate(first, second, *_rate(own, launch, bandwidth)))
    return DeviceFigures(
        device.name,
        device.kind,
        device.target,
        tuple(rates),
        bandwidth,
        launch,
        error,
        date,
        dict(device.versions),
        dict(missing),
        tuple(work),
    )


def _rate(work: Sequence[TimedWork], launch: float, bandwidth: float) -> tuple[float, float]:
    """Of one pair, and its error."""
    floors = [max(launch, own.moved / bandwidth) for own in work]
    candidates = [
        own.flops / seconds for own, floor in zip(work, floors, strict=True) for seconds in (own.seconds, floor)
    ]
    return _best(work, candidates, lambda own, figure: max(launch, own.moved / bandwidth, own.flops / figure))


def _best(
    work: Sequence[TimedWork], candidates: Sequence[float], modelled: Callable[[TimedWork, float], float]
) -> tuple[float, float]:
    """The figure of the least sum, and the median relative error of the times that it gives."""

    def factors(figure: float) -> float:
        return sum(abs(math.log(modelled(own, figure) / own.seconds)) for own in work)

    best = min(candidates, key=factors)
    return best, statistics.median(abs(modelled(own, best) / own.seconds - 1) for own in work)
