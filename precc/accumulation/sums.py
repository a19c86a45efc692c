"""How a product sums in a plan: in an accumulator, or in two passes that have one each."""

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.accumulation.two_passes import TwoPasses
from precc.errors import UnsupportedError
from precc.formats import Format

__all__ = ["Sums", "one_pass", "parse_sums"]

Sums = Accumulator | TwoPasses


def parse_sums(choice: Sums | Format | str) -> Sums:
    """As `parse_accumulator`; two passes are returned as they are.

    Raises:
        FormatError: neither.
    """
    return choice if isinstance(choice, TwoPasses) else parse_accumulator(choice)


def one_pass(choice: Sums | None, what: str) -> Accumulator | None:
    """An accumulator, or None, for what knows nothing else.

    Raises:
        UnsupportedError: two passes.
    """
    if isinstance(choice, TwoPasses):
        raise UnsupportedError(f"{what} of a product in two passes is not known, for it depends on values: {choice}")
    return choice
