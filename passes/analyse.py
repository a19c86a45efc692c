"""All analysis passes over one step, as far as they can in one run of it."""

from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.findings import Findings
from precc.analysis.traced_step import TracedStep
from precc.passes.condition import ConditionNumbers
from precc.passes.forward_error import ForwardError
from precc.passes.jumps import jumps
from precc.passes.lint import lint
from precc.passes.sensitivity import Sensitivity
from precc.passes.value_range import USUAL_CANDIDATES, ValueRanges, described
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["analyse"]


def analyse(step: TracedStep, options: AnalysisOptions, plan: PrecisionPlan | None = None) -> Findings:
    """What the passes find; of lint, under a plan's accumulators."""
    candidates = tuple(Precision.of(choice) for choice in options.candidates)
    sensitivity = Sensitivity(
        probes=options.probes,
        samples=options.samples,
        sums=options.sums,
        metric=options.metric,
        seed=options.seed,
        candidates=candidates,
    )
    ranges = ValueRanges((*USUAL_CANDIDATES, *candidates)).watcher(step)
    conditions = ConditionNumbers(seed=options.seed).watcher(step)
    gains = ForwardError(options.seed).watcher(step)
    found = sensitivity.run(step, [ranges.watch, conditions.watch, gains.watch])
    by_name = {node.name: own for node, own in conditions.result().items()}
    first = ranges.first_nonfinite
    nonfinite = described(first) if first is not None else ""
    return Findings(found, gains.result(), ranges.result(), by_name, lint(step, plan), jumps(step), nonfinite)
