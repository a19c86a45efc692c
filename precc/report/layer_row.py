"""One op of a layer in a report."""

from dataclasses import dataclass

from precc.report.error_figures import ErrorFigures
from precc.source_places import Place

__all__ = ["LayerRow"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One op of a layer: the formats of its operands and sums in fprop, dgrad and wgrad, its work, and its errors.

    `formats` holds one text a column; a product that the net has not captured is ``-``. For a product of two
    activations the columns dgrad and wgrad are the gradients with respect to its first and second operand.
    Where results are stored in a format, it stands behind; a sum of two activations has nothing else, and is listed
    only then. What is not known is None.

    Args:
        layer: path of the module.
        op: its op, such as ``product#1``.
        formats: of fprop, dgrad and wgrad.
        multiply_adds: of one step.
        share: the op's part of all multiply-adds, from 0 to 1.
        amin: smallest magnitude that is not 0, of all its operands.
        amax: the largest.
        condition: the largest of the medians of its products' condition numbers.
        predicted: error of the step if this op alone rounds.
        measured: the same, observed.
        cost: the op's part of what the step costs, from 0 to 1.
        why: what its formats rest on, in a clause.
        place: the line of the model that computes it.
    """

    layer: str
    op: str
    formats: tuple[str, str, str]
    multiply_adds: int
    share: float
    amin: float | None = None
    amax: float | None = None
    condition: float | None = None
    predicted: ErrorFigures | None = None
    measured: ErrorFigures | None = None
    cost: float | None = None
    why: str = ""
    place: Place | None = None

    @property
    def name(self) -> str:
        """Of the op, as slots have it: ``conv2/product``."""
        return f"{self.layer}/{self.op}" if self.layer else self.op
