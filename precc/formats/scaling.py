"""Which values share a scale, and how it is found."""

from dataclasses import dataclass
from enum import Enum

from precc.errors import FormatError, member_of
from precc.formats.float_format import FloatFormat

__all__ = ["MAX_HISTORY", "Granularity", "ScaleRule", "Scaling", "parse_scaling"]

#: The longest history of a delayed scale.
MAX_HISTORY = 1024


class Granularity(Enum):
    """What has one scale. `axis` is the contracted dimension of a product's operand, or the one that is given."""

    STATIC = "static"  #: everything: a number that is given
    TENSOR = "tensor"  #: the whole tensor
    CHANNEL = "channel"  #: each index of the channel dimension: 0 of a weight, 1 of another operand, or `axis`
    ROW = "row"  #: each vector along `axis`
    BLOCK = "block"  #: each `size` neighbours along `axis`; the last block may be shorter
    TILE = (
        "tile"  #: each rectangle ``size = (rows, columns)`` of `axis` and the dimension before it (after, if it is 0)
    )


class ScaleRule(Enum):
    """The scale of values of largest magnitude `a`, for elements of largest value `E`."""

    FLOOR = "floor"  #: ``2**(floor(log2 a) - floor(log2 E))`` (OCP MX 1.0, 6.3; block floating point)
    CEIL = "ceil"  #: ``2**ceil(log2(a / E))``, the smallest power of two at which nothing saturates
    NEAREST = "nearest"  #: ``a / E`` rounded to the scale's format, ties to even


@dataclass(frozen=True, slots=True)
class Scaling:
    """``Q(x / s) * s`` with one scale `s` for each group of values; quotient and product are rounded to the carrier.

    With ``two_level`` (NVFP4) the scale is ``s * t``, ``t = A / (E * S)`` with the tensor's largest magnitude `A` and
    the scale format's largest value `S`, ``s = (a / E) / t`` rounded to the scale's format; each of these operations
    is rounded to the carrier (float32, for tensors of float32 and less). A group of zeros stays zero; one that holds a
    NaN or an infinity becomes NaN as a whole, with two levels the whole tensor does.

    With a `history` the scale of a tensor is delayed: the largest magnitude that counts is not its own but the largest
    of the last `history` ones that its slot recorded in earlier forwards of a net, so that it is known before the
    tensor is. As long as there is none, it is the tensor's own. Values that have outgrown it saturate; NaN stays NaN.
    (Micikevicius et al. 2022; the recipe DelayedScaling of NVIDIA's Transformer Engine has 1024 and the maximum.)

    Args:
        granularity: what has one scale.
        size: of a block (a number) or a tile (rows, columns).
        axis: default: the contracted dimension of the operand; for `precc.round_to` the last.
        scale_format: the scale's own format; ``"e8m0"`` are powers of two.
        rule: of the scale `s` of values of largest magnitude `a`, for elements of largest value `E`: ``"floor"``,
            ``2**(floor(log2 a) - floor(log2 E))``, at which values in the top part of an octave saturate (as in MX);
            ``"ceil"``, the smallest power of two at which none does; ``"nearest"``, ``a / E`` rounded to the scale's
            format. Default: floor for powers of two, else nearest. ``scale_format="float32"`` is the usual scaling of
            whole tensors.
        two_level: with a float32 scale for the tensor above the others.
        value: the scale of ``"static"``.
        history: of ``"tensor"``, in a net: how many records count, at most 1024; 0 is current scaling.

    Raises:
        FormatError: sizes that make no group, a scale format, rule or history that does not fit.

    >>> Scaling("block", size=32)
    Scaling('block', size=32, scale_format='float8_e8m0fnu', rule='floor')
    """

    granularity: Granularity
    size: tuple[int, int]
    axis: int | None
    scale_format: FloatFormat
    rule: ScaleRule
    two_level: bool
    value: float
    history: int

    def __init__(
        self,
        granularity: Granularity | str,
        *,
        size: int | tuple[int, int] | None = None,
        axis: int | None = None,
        scale_format: FloatFormat | str = "e8m0",
        rule: ScaleRule | str | None = None,
        two_level: bool = False,
        value: float | None = None,
        history: int = 0,
    ) -> None:
        chosen = member_of(Granularity, granularity, "scaling: unknown granularity")
        scale = _scale_format(scale_format)
        default = ScaleRule.FLOOR if scale.mantissa_bits == 0 else ScaleRule.NEAREST
        object.__setattr__(self, "granularity", chosen)
        object.__setattr__(self, "size", _group_size(chosen, size))
        object.__setattr__(self, "axis", _checked_axis(axis))
        object.__setattr__(self, "scale_format", scale)
        object.__setattr__(
            self, "rule", default if rule is None else member_of(ScaleRule, rule, "scaling: unknown rule")
        )
        object.__setattr__(self, "two_level", two_level)
        object.__setattr__(self, "value", _static_value(chosen, value))
        object.__setattr__(self, "history", history)
        if self.rule is not ScaleRule.NEAREST and scale.mantissa_bits:
            raise FormatError(f"scaling: the rule {self.rule.value!r} makes powers of two: give it scale_format='e8m0'")
        if type(two_level) is not bool or (two_level and self.rule is not ScaleRule.NEAREST):
            raise FormatError("scaling: two_level is True or False, and goes with the rule 'nearest'")
        if type(history) is not int or not 0 <= history <= MAX_HISTORY:
            raise FormatError(f"scaling: a history is a number of forwards from 0 to {MAX_HISTORY}, not {history!r}")
        if history and (chosen is not Granularity.TENSOR or two_level):
            raise FormatError("scaling: a history goes with 'tensor' and one level of scales")

    @property
    def bits(self) -> float:
        """Storage bits of the scale for each value; 0 where a group's size depends on the tensor."""
        if self.granularity not in (Granularity.BLOCK, Granularity.TILE):
            return 0.0
        return self.scale_format.bits / (self.size[0] * self.size[1])

    def __str__(self) -> str:
        """A short form: granularity and size or history, and what is not a power of two by the rule floor."""
        rows, columns = self.size
        size = {Granularity.BLOCK: f"{columns}", Granularity.TILE: f"{rows}x{columns}"}.get(self.granularity, "")
        if self.granularity is Granularity.STATIC:
            size = f"({self.value:g})"
        elif self.history:
            size = f"(history={self.history})"
        scale = "" if self.scale_format.name == "float8_e8m0fnu" else f":{self.scale_format.name}"
        default = self.rule is (ScaleRule.NEAREST if self.scale_format.mantissa_bits else ScaleRule.FLOOR)
        return f"{self.granularity.value}{size}{scale}" + ("" if default else f":{self.rule.value}")

    def __repr__(self) -> str:
        if self.granularity is Granularity.STATIC:
            return f"Scaling('static', value={self.value!r})"
        rows, columns = self.size
        size = {Granularity.BLOCK: f"size={columns}", Granularity.TILE: f"size=({rows}, {columns})"}
        parts = [repr(self.granularity.value), size.get(self.granularity, "")]
        parts += [f"axis={self.axis}"] * (self.axis is not None)
        parts += [f"scale_format={self.scale_format.name!r}", f"rule={self.rule.value!r}"]
        parts += ["two_level=True"] * self.two_level
        parts += [f"history={self.history}"] * (self.history > 0)
        return f"Scaling({', '.join(part for part in parts if part)})"


def parse_scaling(scaling: Scaling | str | None) -> Scaling | None:
    """A scaling as it is; ``"tensor"``, ``"channel"`` or ``"row"`` means that granularity with power-of-two scales.

    Raises:
        FormatError: an unknown name, or one that needs more than its name.
    """
    return Scaling(scaling) if isinstance(scaling, (str, Granularity)) else _checked_scaling(scaling)


def _checked_scaling(scaling: Scaling | None) -> Scaling | None:
    if scaling is not None and not isinstance(scaling, Scaling):
        raise FormatError(f"a scaling is a Scaling, the name of one or None, not {scaling!r}")
    return scaling


def _scale_format(scale_format: FloatFormat | str) -> FloatFormat:
    from precc.formats.names import parse_format

    fmt = parse_format(scale_format)
    if not isinstance(fmt, FloatFormat) or fmt.scale != 1.0:
        raise FormatError(f"scaling: a scale is a float with an integer bias, not {fmt!r}")
    return fmt


def _group_size(granularity: Granularity, size: object) -> tuple[int, int]:
    if granularity is Granularity.BLOCK:
        sizes: tuple[object, ...] = (1, size)
    elif granularity is Granularity.TILE:
        sizes = size if isinstance(size, tuple) else (size, size)
    elif size is not None:
        raise FormatError(f"scaling: {granularity.value!r} has no size; got {size!r}")
    else:
        sizes = (1, 1)
    if len(sizes) != 2 or not all(type(n) is int and 1 <= n < 2**31 for n in sizes):
        raise FormatError(f"scaling: {granularity.value!r} needs a size of at least 1, got {size!r}")
    return int(sizes[0]), int(sizes[1])  # type: ignore[call-overload]


def _checked_axis(axis: object) -> int | None:
    if axis is not None and type(axis) is not int:
        raise FormatError(f"scaling: axis is the number of a dimension, not {axis!r}")
    return axis


def _static_value(granularity: Granularity, value: object) -> float:
    if (granularity is Granularity.STATIC) != (value is not None):
        raise FormatError(f"scaling: a value goes with 'static', and 'static' with a value; got {value!r}")
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not 0 < value < 2**1000:  # type: ignore[operator]
        raise FormatError(f"scaling: a static scale is a positive number, not {value!r}")
    return float(value)  # type: ignore[arg-type]
