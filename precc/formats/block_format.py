"""Block formats: elements that share a scale."""

from dataclasses import dataclass, field

from precc.errors import FormatError
from precc.formats.fixed_point import FixedPoint, NestedInteger
from precc.formats.float_format import FloatFormat, Overflow
from precc.formats.power_law import PowerLaw
from precc.formats.scaling import Scaling

__all__ = ["BlockFormat", "ElementFormat", "Format"]

#: A format of single values.
ElementFormat = FloatFormat | FixedPoint | NestedInteger | PowerLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """Elements of one format with the scales of one scaling: MX, NVFP4, block and dynamic fixed point.

    Args:
        name: the one spelling used in plans and reports; default: made of the element's and the scaling.
        element: the format of the scaled values; beyond its largest value it saturates.
        scaling: which values share a scale, and how it is found.

    Raises:
        FormatError: the element is not a format of single values, or cannot be scaled.

    >>> from precc import Scaling, parse_format
    >>> BlockFormat(element=parse_format("e2m1"), scaling=Scaling("block", size=8, scale_format="ue5m3")).name
    'float4_e2m1fn/block8:float8_ue5m3'
    """

    name: str = field(default="", compare=False)
    element: ElementFormat
    scaling: Scaling

    def __post_init__(self) -> None:
        if not self.name and isinstance(self.element, ElementFormat):
            object.__setattr__(self, "name", f"{self.element.name}/{self.scaling}")
        if not isinstance(self.element, ElementFormat):
            raise FormatError(
                f"format {self.name!r}: what is scaled is a format of single values, not {self.element!r}"
            )
        if not isinstance(self.scaling, Scaling):
            raise FormatError(f"format {self.name!r}: the scaling is a Scaling, not {self.scaling!r}")
        if isinstance(self.element, FloatFormat) and self.element.scale != 1.0:
            raise FormatError(f"format {self.name!r}: a real-valued bias is a scale already; use an integer bias")
        if isinstance(self.element, FloatFormat):
            object.__setattr__(self, "element", self.element.with_overflow(Overflow.SATURATE))

    @property
    def bits(self) -> float:
        """Storage bits of a value, with its share of the scale."""
        return self.element.bits + self.scaling.bits

    def __repr__(self) -> str:
        return f"{self.name} ({self.bits:g} bits, {self.element.name} elements, {self.scaling!r})"


#: Whatever a value can be rounded to.
Format = ElementFormat | BlockFormat
