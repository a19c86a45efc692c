"""The formats of the optimizer's step: gradient buffer, momentum, step and master weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from precc.errors import PlanError, expected_one_of
from precc.formats import Format
from precc.precision import AS_STORED, Precision
from precc.slots import UPDATES

__all__ = ["UpdateChoice", "UpdateFormats", "checked_update"]

Choice = Precision | Format | str


@dataclass(frozen=True, slots=True)
class UpdateFormats:
    """In what an optimizer keeps and adds what it does; None: as the tensors are.

    Args:
        gradient: the buffer that gradients are added up in, as the optimizer reads it: a precision, a format or its
            name.
        momentum: every state of the optimizer that has a number for each element of the parameter.
        step: what is added to the parameter.
        master: the parameter after that.

    Raises:
        FormatError: an unknown format.
        PlanError: a transform, or a scale that comes from earlier steps.

    >>> print(UpdateFormats(master="bf16", momentum="fp16"))
    momentum float16, master bfloat16
    """

    gradient: Precision | None
    momentum: Precision | None
    step: Precision | None
    master: Precision | None

    def __init__(
        self,
        *,
        gradient: Choice | None = None,
        momentum: Choice | None = None,
        step: Choice | None = None,
        master: Choice | None = None,
    ) -> None:
        given = {"gradient": gradient, "momentum": momentum, "step": step, "master": master}
        for name, choice in given.items():
            own = None if choice is None else checked_update(Precision.of(choice), f"the {name} of an update")
            object.__setattr__(self, name, None if own == AS_STORED else own)

    @classmethod
    def of(cls, choice: "UpdateChoice") -> "UpdateFormats":
        """Formats as they are; one for each of some, by name; one for all four; or None: all as stored.

        Raises:
            FormatError, PlanError: none of these.
        """
        if isinstance(choice, UpdateFormats):
            return choice
        if isinstance(choice, Mapping):
            strange = [name for name in choice if name not in UPDATES]
            if strange:
                raise PlanError(f"an update has no {strange[0]!r}: {expected_one_of(UPDATES)}")
            return cls(**choice)
        own = None if choice is None else Precision.of(choice)
        return cls(gradient=own, momentum=own, step=own, master=own)

    def precision(self, what: str) -> Precision:
        """That of one of the four; float64 rounds none."""
        own: Precision | None = getattr(self, what)
        return AS_STORED if own is None else own

    def __iter__(self) -> Iterator[tuple[str, Precision]]:
        """Those that have a format, by name."""
        return ((what, self.precision(what)) for what in UPDATES if getattr(self, what) is not None)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def __str__(self) -> str:
        return ", ".join(f"{what} {own}" for what, own in self) or "as stored"


#: What `UpdateFormats.of` takes.
UpdateChoice = UpdateFormats | Mapping[str, Choice] | Choice | None


def checked_update(own: Precision, where: str) -> Precision:
    """A precision of an update as it is.

    Raises:
        PlanError: it has a transform, or a scale that comes from earlier steps.
    """
    if own.transform is not None:
        raise PlanError(f"{where} cannot have the precision {own}: transforms are of operands")
    if own.history:
        raise PlanError(f"{where} cannot have the precision {own}: its scale would come from earlier steps")
    return own
