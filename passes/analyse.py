"""All analysis passes over one step, as far as they can in one run of it."""

import math

from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.findings import Findings
from precc.analysis.magnitude_counts import TENSOR_OPS, Counting
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.traced_step import TracedStep
from precc.passes.component_conditions import ComponentConditionNumbers
from precc.passes.condition import ConditionNumbers
from precc.passes.forward_error import ForwardError
from precc.passes.jumps import jumps
from precc.passes.lint import lint
from precc.passes.nonfinite import described, first_nonfinite
from precc.passes.sensitivity import Sensitivity
from precc.passes.value_range import USUAL_CANDIDATES, ValueRanges
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["analyse"]


def analyse(
    step: TracedStep, options: AnalysisOptions, plan: PrecisionPlan | None = None, *, counting: Counting = TENSOR_OPS
) -> Findings:
    """What the passes find; of lint, under a plan's accumulators.

    Args:
        step: the step.
        options: how it is analysed.
        plan: in force.
        counting: by what magnitudes are counted.
    """
    candidates = tuple(Precision.of(choice) for choice in options.candidates)
    sensitivity = Sensitivity(
        probes=options.probes,
        samples=options.samples,
        sums=options.sums,
        metric=options.metric,
        seed=options.seed,
        candidates=candidates,
    )
    ranges = ValueRanges((*USUAL_CANDIDATES, *candidates), counting).watcher(step)
    conditions = ConditionNumbers(seed=options.seed).watcher(step)
    components, gains = ComponentConditionNumbers().watcher(step), ForwardError(options.seed).watcher(step)
    found = sensitivity.run(step, [ranges.watch, conditions.watch, components.watch, gains.watch])
    by_name = {node.name: own for node, own in conditions.result().items()}
    return Findings(
        found,
        gains.result(),
        ranges.result(),
        by_name,
        components.found,
        lint(step, plan),
        jumps(step),
        _first_nonfinite(step, found),
    )


def _first_nonfinite(step: TracedStep, found: Sensitivities) -> str:
    """In words; it costs a run of the step where loss or gradient are not finite."""
    if math.isfinite(found.loss) and math.isfinite(found.gradient_norm):
        return ""
    first = first_nonfinite(step)
    return described(first) if first is not None else ""
