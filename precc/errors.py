"""Every error that precc raises on purpose: what was wrong, with its name and value, and the way out."""

from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

__all__ = [
    "AnalysisError",
    "BackendError",
    "CaptureError",
    "ClosureError",
    "ControllerError",
    "DataError",
    "DeviceError",
    "ExtraError",
    "FormatError",
    "InfeasibleError",
    "NoLossError",
    "PlanError",
    "PreccError",
    "PrecisionWarning",
    "RecompileLimitError",
    "UnsupportedError",
    "expected_one_of",
    "member_of",
]


class PreccError(Exception):
    """Base of all errors of precc."""


class FormatError(PreccError, ValueError):
    """A number format, rounding or scaling is unknown, malformed, or does not fit a tensor."""


class PlanError(PreccError, ValueError):
    """A plan or policy cannot be read, or does not fit the graph."""


class LimitReachedError(PlanError):
    """A solver found nothing within the work that it may do."""


class InfeasibleError(PlanError):
    """No plan is within the budgets; the message says which one binds, and what is feasible."""


class AnalysisError(PreccError, ValueError):
    """A step cannot be analysed, or what is asked of an analysis is not in it."""


class CaptureError(PreccError, RuntimeError):
    """A model, or a call of it, cannot be turned into a graph."""


class NoLossError(CaptureError):
    """A task has no loss, and neither has the output of its model."""


class RecompileLimitError(CaptureError):
    """The compiler will build no further graph of this net; those it has keep working."""


class DeviceError(PreccError, RuntimeError):
    """Tensors of one call lie on devices that cannot meet."""


class BackendError(PreccError, RuntimeError):
    """A backend is unknown, not installed, or failed on a graph."""


class ClosureError(PreccError, ValueError):
    """The closure given to an optimizer does not return what the algorithm needs."""


class ControllerError(PreccError, ValueError):
    """A controller's option, net, optimizer or state does not fit."""


class ExtraError(PreccError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class DataError(PreccError, OSError):
    """A data file is missing or damaged."""


class UnsupportedError(PreccError, NotImplementedError):
    """A thing that exists in principle and that this version does not do."""


class PrecisionWarning(UserWarning):
    """Something runs in another precision than the plan says, or much slower than it could, and goes on."""


def expected_one_of(names: Iterable[str]) -> str:
    """The tail of an error message that lists the valid names.

    >>> expected_one_of(["a", "b"])
    "expected one of 'a', 'b'"
    """
    return "expected one of " + ", ".join(repr(name) for name in names)


_Member = TypeVar("_Member", bound=Enum)


def member_of(kind: type[_Member], choice: object, what: str) -> _Member:
    """The member of an enumeration that a value means.

    Raises:
        FormatError: it means none; the message says what was asked for, and lists the values that mean one.
    """
    try:
        return kind(choice)
    except ValueError:
        valid = expected_one_of(str(member.value) for member in kind)
        raise FormatError(f"{what} {choice!r}: {valid}") from None
