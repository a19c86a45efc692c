"""A precision: the format, the rounding into it, the scaling and the transform before it, of one slot."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precc.errors import FormatError, UnsupportedError
from precc.formats import (
    BlockFormat,
    ElementFormat,
    FloatFormat,
    Format,
    Granularity,
    Scaling,
    Transform,
    format_of_dtype,
    parse_format,
    parse_scaling,
    parse_transform,
)
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode, Row, parse_rounding, row_of

__all__ = ["AS_STORED", "Precision", "misfit"]


@dataclass(frozen=True, slots=True)
class Precision:
    """A slot's choice.

    Args:
        format: a format, or its name.
        rounding: the rounding into it, a mode, or the name of one.
        scaling: for a format of single values, or its name; a block format has its own.
        transform: ``"hadamard"``, for both operands of a product, ``"shift_and_squeeze"``, or None.

    Raises:
        FormatError: the format cannot be scaled.
        UnsupportedError: a rounding that needs more than the value, which a slot does not have.

    >>> print(Precision("e4m3"), Precision("e5m2", "stochastic", "tensor"), sep="; ")
    float8_e4m3fn; float8_e5m2/tensor stochastic
    """

    format: Format
    rounding: Rounding
    scaling: Scaling | None
    transform: Transform | None

    def __init__(
        self,
        format: Format | str,
        rounding: Rounding | RoundingMode | str = NEAREST_EVEN,
        scaling: Scaling | str | None = None,
        transform: Transform | str | None = None,
    ) -> None:
        object.__setattr__(self, "format", parse_format(format))
        object.__setattr__(self, "rounding", parse_rounding(rounding))
        object.__setattr__(self, "scaling", parse_scaling(scaling))
        object.__setattr__(self, "transform", parse_transform(transform))
        self._check()

    def _check(self) -> None:
        if self.rounding.needs_state:
            raise UnsupportedError(
                f"a slot cannot round by {self.rounding}: it needs what came before; precc.round_to takes it"
            )
        if self.scaling is not None:
            if not isinstance(self.format, ElementFormat):
                raise FormatError(f"{self.format.name!r} has a scaling of its own: {self.format.scaling!r}")
            BlockFormat(name=self.format.name, element=self.format, scaling=self.scaling)  # or it says why not

    @classmethod
    def of(cls, choice: "Precision | Format | str") -> "Precision":
        """A precision as it is; a format or its name means that format, to nearest even.

        Raises:
            FormatError: neither.
        """
        return choice if isinstance(choice, Precision) else cls(parse_format(choice))

    @property
    def bits(self) -> float:
        """Storage bits of a value, with its share of the scale."""
        return self.format.bits + (self.scaling.bits if self.scaling is not None else 0.0)

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self.rounding.mode is RoundingMode.STOCHASTIC

    @property
    def element(self) -> ElementFormat:
        """The format of single values."""
        return self.format.element if isinstance(self.format, BlockFormat) else self.format

    @property
    def own_scaling(self) -> Scaling | None:
        """The scaling that is said beside the format, or the format's own."""
        return self.format.scaling if isinstance(self.format, BlockFormat) else self.scaling

    @property
    def granularity(self) -> Granularity | None:
        """What has one scale."""
        return self.own_scaling.granularity if self.own_scaling is not None else None

    @property
    def history(self) -> int:
        """How many records of its slot a delayed scale comes from; 0 where none is delayed."""
        return self.own_scaling.history if self.own_scaling is not None else 0

    def row(self, *, axis: int = -1, channel: int = -1, slot: int = 0, signs: int = 0) -> Row:
        """The numbers that a kernel reads; see `precc.rounding.row_of`."""
        options = {"axis": axis, "channel": channel, "slot": slot, "signs": signs}
        return row_of(self.format, self.rounding, self.scaling, transform=self.transform, **options)

    def changes(self, dtype: torch.dtype) -> bool:
        """Whether it changes any value that a tensor of this dtype can hold."""
        return self.transform is not None or not self.row().is_identity(dtype)

    def kept_in(self, dtype: torch.dtype) -> "Precision":
        """Itself, or the format of the dtype, if it leaves all values of such a tensor as they are.

        >>> print(Precision("float32").kept_in(torch.bfloat16), Precision("e4m3").kept_in(torch.bfloat16), sep=", ")
        bfloat16, float8_e4m3fn
        """
        own = format_of_dtype(dtype)
        return self if own is None or self.changes(dtype) else Precision(own)

    def gives(self, fmt: FloatFormat) -> bool:
        """Whether its values are those of a format, neither scaled nor transformed; what overflows does not matter."""
        if self.scaling is not None or self.transform is not None or not isinstance(self.format, FloatFormat):
            return False
        return self.format.with_overflow("saturate") == fmt.with_overflow("saturate")  # which every format can

    def __str__(self) -> str:
        scaled = f"/{self.scaling}" if self.scaling is not None else ""
        rounded = f" {self.rounding}" if self.rounding != NEAREST_EVEN else ""
        after = f" after {self.transform.value}" if self.transform is not None else ""
        return f"{self.format.name}{scaled}{rounded}{after}"


#: Of a result that no plan rounds: no tensor has wider values.
AS_STORED = Precision("float64")


def misfit(operands: Sequence[Precision], formats: Sequence[FloatFormat] | None) -> str:
    """Why two operands are not those that an accumulator multiplies; empty if they are, or it multiplies any."""
    pairs = zip(operands, formats or (), strict=False)
    wrong = next(((own, fmt) for own, fmt in pairs if not own.gives(fmt)), None)
    return "" if wrong is None else f"which multiplies plain {wrong[1].name} values, not {wrong[0]}"
