"""Precisions to choose from."""

from collections.abc import Sequence

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.errors import PlanError
from precc.formats import ElementFormat, Format, Scaling, parse_format
from precc.precision import Precision

__all__ = ["ACCUMULATOR_CANDIDATES", "CANDIDATES", "parse_accumulators", "parse_candidates", "scaled"]

#: One scale for the whole tensor, at which its largest magnitude becomes the format's: nothing overflows.
_SCALING = Scaling("tensor", scale_format="float32")


def scaled(choice: Format | str) -> Precision:
    """A format as a candidate: with one scale a tensor, if it has fewer than 16 bits and no scales of its own.

    >>> print(scaled("e4m3"), scaled("bf16"), scaled("mxfp4"), sep=", ")
    float8_e4m3fn/tensor:float32, bfloat16, mxfp4_e2m1
    """
    fmt = parse_format(choice)
    return Precision(fmt, scaling=_SCALING if isinstance(fmt, ElementFormat) and fmt.bits < 16 else None)


#: What policies choose from if they are not told.
CANDIDATES: tuple[Precision, ...] = tuple(
    scaled(name)
    for name in ("e2m1", "e2m3", "e3m2", "e3m4", "e4m3", "e5m2", "e4m5", "e5m4", "float16", "bfloat16", "float32")
)

#: Sums to choose from, for a policy's ``accumulators``; None is the tensors' own arithmetic.
ACCUMULATOR_CANDIDATES: tuple[Accumulator | None, ...] = (
    None,
    parse_accumulator("float16"),
    parse_accumulator("e6m9"),
    parse_accumulator("bfloat16"),
    parse_accumulator("fixed31.16"),
    Accumulator(format="e5m10", order="blocked", block=64),
)


def parse_candidates(candidates: Sequence[Precision | Format | str]) -> tuple[Precision, ...]:
    """Precisions as they are; a format or its name is `scaled`.

    Raises:
        FormatError: an unknown name.
        PlanError: none, or something else than a sequence.
    """
    if isinstance(candidates, (str, Format, Precision)) or not isinstance(candidates, Sequence) or not candidates:
        raise PlanError(f"candidates is a sequence of formats or precisions, not {candidates!r}")
    return tuple(dict.fromkeys(own if isinstance(own, Precision) else scaled(own) for own in candidates))


def parse_accumulators(choices: Sequence[Accumulator | Format | str | None]) -> tuple[Accumulator | None, ...]:
    """Accumulators to choose from.

    Raises:
        FormatError: an unknown name.
        PlanError: none, or something else than a sequence.
    """
    if isinstance(choices, (str, Format, Accumulator)) or not isinstance(choices, Sequence) or not choices:
        raise PlanError(f"accumulators is a sequence of accumulators, formats or None, not {choices!r}")
    return tuple(dict.fromkeys(None if own is None else parse_accumulator(own) for own in choices))
