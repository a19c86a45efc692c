"""What a device does in a second: figures of a roofline, published or fitted to measurements, and their file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from precc.checks import require_number
from precc.devices.document import arguments_of, text_of
from precc.devices.timed_work import PairRate, TimedWork
from precc.errors import PlanError
from precc.files import write_whole
from precc.formats import Format

__all__ = ["DeviceFigures"]


@dataclass(frozen=True)
class DeviceFigures:
    """A roofline: a kernel takes ``max(launch, flops / rate, bytes / bandwidth)`` seconds.

    (Williams, Waterman, Patterson 2009, Roofline: an insightful visual performance model for multicore architectures.)

    Args:
        name: of the device.
        kind: "cpu" or "cuda" if measured on one; "published" if from publications.
        target: what it runs, one of `precc.TARGETS` where precc knows it.
        rates: of pairs of formats that it multiplies.
        bandwidth: bytes a second that casts and copies achieve.
        launch: seconds that the smallest kernel takes.
        bandwidth_error: median relative error of the times of casts and copies, as in `PairRate`.
        date: of the measurement, YYYY-MM-DD.
        versions: of what ran it.
        missing: what was not measured, and why: work by name, or single sizes of it.
        measurements: that the figures are fitted to.

    Raises:
        PlanError: another kind, no rates, two of one pair, or numbers that are none.

    >>> tiny = DeviceFigures("tiny", "published", "sm_90", (PairRate("e4m3", "e4m3", 3.0),), bandwidth=10.0, launch=0.5)
    >>> tiny.seconds(20.0), tiny.seconds(20.0, flops=9.0, rate=3.0)
    (2.0, 3.0)
    """

    name: str
    kind: Literal["cpu", "cuda", "published"]
    target: str
    rates: tuple[PairRate, ...]
    bandwidth: float
    launch: float
    bandwidth_error: float = 0.0
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    missing: Mapping[str, str] = field(default_factory=dict, hash=False)
    measurements: tuple[TimedWork, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "cuda", "published"):
            raise PlanError(f"kind is {self.kind!r}, not 'cpu', 'cuda' or 'published'")
        pairs = [frozenset(own.formats) for own in self.rates]
        if not pairs:
            raise PlanError("rates are of no pair of formats: a device multiplies something")
        twice = next((own.name for k, own in enumerate(self.rates) if pairs[k] in pairs[:k]), None)
        if twice:
            raise PlanError(f"rates have {twice} twice")
        require_number(self.bandwidth, "bandwidth")
        require_number(self.launch, "launch")
        require_number(self.bandwidth_error, "bandwidth_error", zero=True)

    def seconds(self, moved: float, *, flops: float = 0.0, rate: float = 1.0) -> float:
        """Of a kernel that moves so many bytes, and multiplies at this rate."""
        return max(self.launch, moved / self.bandwidth, flops / rate)

    def seconds_of(self, work: TimedWork) -> float:
        """What the figures say of something that was measured.

        Raises:
            PlanError: they have no rate of its pair.
        """
        if work.kind != "product":
            return self.seconds(work.moved)
        rate = next((own.flops for own in self.rates if own.name == work.name), None)
        if rate is None:
            raise PlanError(f"the figures of {self.name} have no rate of {work.name}")
        return self.seconds(work.moved, flops=work.flops, rate=rate)

    @cached_property
    def natives(self) -> frozenset[Format]:
        """The formats that it multiplies."""
        return frozenset(fmt for own in self.rates for fmt in own.formats)

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(Path(path), text_of(self).encode())

    @classmethod
    def load(cls, path: str | Path) -> "DeviceFigures":
        """Read a file of figures, as `save` or ``precc calibrate`` writes it.

        Raises:
            PlanError: it cannot be read, is damaged, or holds something else; the message names file and entry.
        """
        try:
            return cls(**arguments_of(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(
                f"cannot read the figures of a device {str(path)!r}: {error}; `precc calibrate` measures them"
            ) from error
        except PlanError as error:
            raise PlanError(f"{str(path)!r} holds no figures of a device: {error}") from error
