"""What the passes find of a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.component_conditions import ComponentConditions
from precc.analysis.condition import Condition
from precc.analysis.error_gains import ErrorGains
from precc.analysis.finding import Finding
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.traced_step import TracedStep
from precc.analysis.unknown_slots import UnknownDerivative
from precc.analysis.value_range import ValueRange
from precc.plan import PrecisionPlan

__all__ = ["Analyzer", "Findings"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Findings:
    """What the passes find.

    Args:
        sensitivities: of loss and gradient.
        gains: of the forward part.
        ranges: by slot.
        conditions: by name of the node.
        components: of products of the forward, by op; not of fused attention or grouped rows.
        lint: formulas, sums and eps that lose digits.
        jumps: operators that are not continuous, past which errors are not predicted.
        nonfinite: where a value first is infinite or NaN; empty if the loss and the gradient are finite.
    """

    sensitivities: Sensitivities
    gains: ErrorGains
    ranges: Mapping[str, ValueRange]
    conditions: Mapping[str, Condition]
    components: Mapping[str, ComponentConditions]
    lint: tuple[Finding, ...]
    jumps: tuple[Finding, ...] = ()
    nonfinite: str = ""

    @property
    def unknown(self) -> tuple[UnknownDerivative, ...]:
        """Operators without a derivative, and the slots whose errors reach loss or gradient past them."""
        return self.sensitivities.unknown


#: Of a step, how to look at it, and the plan in force.
Analyzer = Callable[[TracedStep, AnalysisOptions, PrecisionPlan], Findings]
