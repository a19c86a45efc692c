"""What a net computes in at one step of its training, layer by layer, and how large its values are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from precc.history import History
from precc.report.film_strip import FilmStrip
from precc.session import Session
from precc.tracking.magnitudes import Magnitudes
from precc.tracking.net_formats import NetFormats

__all__ = ["StepFigures"]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Of the plan in force and of the tensors as they are now. Before the first call of a net most of it is empty.

    Args:
        work: share of the step's multiply-adds by the format of an operand, 0 to 1; its two operands count half.
        bits: storage bits of an operand, by layer, averaged by multiply-adds.
        average_bits: the same of the whole net; None before its work is known.
        weights: magnitudes of the trained parameters, by name, without lazy ones that have no values yet.
        gradients: likewise of their gradients, as they are: those that there are.
        present: the formats of the plan in force, a film of one plan.
        film: of those rows of the history that a picture shows.
    """

    work: Mapping[str, float]
    bits: Mapping[str, float]
    average_bits: float | None
    weights: Mapping[str, Magnitudes]
    gradients: Mapping[str, Magnitudes]
    present: FilmStrip
    film: FilmStrip

    @classmethod
    def of(cls, session: Session, formats: NetFormats, *, magnitudes: bool = True) -> "StepFigures":
        """Those of a net, of the formats of its graphs; without magnitudes nothing reads its tensors."""
        plan = session.plan
        values = _parameters(session) if magnitudes else ()
        trained = [(name, value) for name, value in values if value.requires_grad and not is_lazy(value)]
        bits = formats.bits(plan)
        work = sum(formats.work.values())
        return cls(
            formats.shares(plan),
            {layer: total / weighed for layer, (total, weighed) in bits.items() if weighed},
            sum(total for total, _ in bits.values()) / work if work else None,
            {name: Magnitudes.of(value) for name, value in trained},
            {name: Magnitudes.of(value.grad) for name, value in trained if value.grad is not None},
            formats.film(History(plans={"": plan})),
            formats.film(session.history),
        )


def _parameters(session: Session) -> Iterator[tuple[str, nn.Parameter]]:
    """Of the net, or of the copy of it, that was called last."""
    nets = (known() for known in reversed(session.nets))
    for net in nets:
        if net is not None:
            return net.named_parameters()
    return iter(())
