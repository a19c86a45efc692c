"""The formats of a page, numbered."""

from collections.abc import Iterable
from typing import Any

from precc.report.page.colours import bits_of, colour_of
from precc.report.precision_report import PrecisionReport
from precc.report.short_names import short_formats

__all__ = ["FormatList", "format_of_label"]


def format_of_label(label: str) -> str:
    """The name of the format in the text of a precision.

    >>> format_of_label("float8_e4m3fn/tensor:float32 stochastic")
    'float8_e4m3fn'
    """
    return label.partition(" ")[0].partition("/")[0]


class FormatList:
    """The formats that reports and a film name, by bits, the widest first.

    Args:
        reports: whose slots and choices count.
        names: further ones.
    """

    def __init__(self, reports: Iterable[PrecisionReport], names: Iterable[str] = ()) -> None:
        bits: dict[str, float] = {}
        for report in reports:
            bits |= {row.format: row.bits for row in report.slots}
            if report.choices is not None:
                labels = map(format_of_label, report.choices.labels)
                bits |= dict(zip(labels, report.choices.bits, strict=True))
        named = {name: bits_of(name) for name in (*bits, *names)}
        self._bits = {name: bits.get(name, 0.0) if own is None else own for name, own in named.items()}
        self.names = sorted(self._bits, key=lambda name: (-self._bits[name], name))
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def number(self, name: str) -> int:
        """The position of a format."""
        return self._numbers[name]

    def payload(self) -> list[dict[str, Any]]:
        """Name, short name, bits and colour of each."""
        return [
            {"name": name, "short": short_formats(name), "bits": own, "colour": colour_of(name, own)}
            for name, own in ((name, self._bits[name]) for name in self.names)
        ]
