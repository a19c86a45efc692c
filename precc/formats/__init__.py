"""Number formats as data."""

from precc.formats.block_format import BlockFormat, ElementFormat, Format
from precc.formats.fixed_point import FixedPoint, NestedInteger
from precc.formats.float_format import FloatFormat, Overflow, Specials
from precc.formats.names import ALIASES, FAMILIES, FORMATS, format_of_dtype, parse_format
from precc.formats.power_law import PowerLaw
from precc.formats.scaling import MAX_HISTORY, Granularity, ScaleRule, Scaling, parse_scaling
from precc.formats.transform import Transform, parse_transform

__all__ = [
    "ALIASES",
    "FAMILIES",
    "FORMATS",
    "MAX_HISTORY",
    "BlockFormat",
    "ElementFormat",
    "FixedPoint",
    "FloatFormat",
    "Format",
    "Granularity",
    "NestedInteger",
    "Overflow",
    "PowerLaw",
    "ScaleRule",
    "Scaling",
    "Specials",
    "Transform",
    "format_of_dtype",
    "parse_format",
    "parse_scaling",
    "parse_transform",
]
