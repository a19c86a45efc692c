"""Accumulators of hardware by name."""

from precc.accumulation.accumulator import Accumulator
from precc.errors import FormatError, expected_one_of
from precc.formats import Format, parse_format

__all__ = ["ACCUMULATORS", "parse_accumulator"]


def _hopper(a: str, b: str) -> Accumulator:
    """One ``wgmma`` instruction adds 32 products."""
    return Accumulator(
        format="e8m13", rounding="toward_zero", order="aligned", block=32, fraction_bits=13, operands=(a, b)
    )


def _promoted(inner: Accumulator) -> Accumulator:
    return Accumulator(format="float32", order="blocked", block=128, inner=inner)


_HOPPER = {
    "hopper_fp8": _hopper("e4m3", "e4m3"),
    "hopper_fp8_e4m3_e5m2": _hopper("e4m3", "e5m2"),
    "hopper_fp8_e5m2_e4m3": _hopper("e5m2", "e4m3"),
    "hopper_fp8_e5m2": _hopper("e5m2", "e5m2"),
}

#: By name. ``"hopper_fp8"`` and its variants for other operands: the fp8 tensor cores of NVIDIA's Hopper as matrix
#: products run on them (``wgmma``; cuBLAS's "fast accumulation"): 32 products and the sum are truncated to 13 bits
#: below the largest exponent, and the sum of those to e8m13 (13 bits: SageAttention2, Zhang et al. 2024; the whole
#: step: Khattak and Mikaitis 2025). It is not Hopper's ``mma.sync``, which differs. ``"..._promoted"``: such sums of
#: 128 terms are added in float32 (DeepSeek-AI 2024, V3, section 3.3.2; DeepGEMM; cuBLAS without fast accumulation),
#: without the scales that DeepGEMM multiplies in there.
ACCUMULATORS: dict[str, Accumulator] = _HOPPER | {f"{name}_promoted": _promoted(own) for name, own in _HOPPER.items()}


def parse_accumulator(accumulator: Accumulator | Format | str) -> Accumulator:
    """The accumulator that a name means; an accumulator is returned as it is.

    A format or its name means: rounded to it, to nearest even, after every fused multiply-add.

    Raises:
        FormatError: a name that is neither an accumulator's nor a format's, or a format that cannot hold a sum.

    >>> parse_accumulator("e5m10")
    Accumulator(format='float16', rounding=nearest_even)
    >>> parse_accumulator("hopper_fp8_promoted").inner == parse_accumulator("hopper_fp8")
    True
    """
    if isinstance(accumulator, Accumulator):
        return accumulator
    if isinstance(accumulator, str):
        if accumulator in ACCUMULATORS:
            return ACCUMULATORS[accumulator]
        try:
            parse_format(accumulator)
        except FormatError as error:
            raise FormatError(
                f"unknown accumulator {accumulator!r}: {expected_one_of(ACCUMULATORS)}; or a format's name ({error})"
            ) from None
    return Accumulator(format=accumulator)  # type: ignore[arg-type]  # checked there
