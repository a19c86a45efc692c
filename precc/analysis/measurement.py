"""The error of a plan, observed: the step with and without it, over independent draws.

Nearest rounding repeated at one point is one draw. So in each draw the values that slots read are displaced at random
within one quantum, in the step without rounding just as in the step under the plan; a stochastic rounding draws new
bits instead. Values that a format holds exactly, that it flushes to zero or that overflow stay where they are: their
errors are no matter of chance. Operands of products whose sums are rounded are displaced by more, each one and all
together (`relative_quantum`): partial sums then move by a quantum of their own.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.accumulation.two_passes import TwoPasses
from precc.analysis.accumulator_sample import relative_quantum
from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.analysis.metric import metric_norm
from precc.analysis.neighbours import neighbours
from precc.analysis.slot_sites import SlotSite, groups_of, sites_of
from precc.analysis.traced_step import TracedStep
from precc.annotations import Operand, products_of, results_of
from precc.errors import AnalysisError
from precc.formats import Granularity
from precc.generators import Generators
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.plan_rows import plan_rows
from precc.precision import Precision
from precc.protocols import Backend, BoxedCallable, GraphContext
from precc.rounding import KEY_COLUMNS, ROW_WIDTH, key_halves
from precc.rounding.scales import divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of, round_elements
from precc.slots import CallNumbers

__all__ = ["Draws", "StepMeasurement", "quanta"]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What each draw gave.

    Args:
        loss: error of the loss, absolute, [draws].
        gradient: 2-norm of the gradient's error relative to the gradient's norm, [draws].
    """

    loss: Tensor
    gradient: Tensor

    @property
    def estimate(self) -> ErrorEstimate:
        """Mean and deviations over the draws."""
        n = len(self.loss)
        deviation = float(self.loss.std()) if n > 1 else math.nan
        squares = self.gradient.square()
        gradient = float(squares.mean().sqrt())
        of_gradient = float(squares.std()) / math.sqrt(n) / (2 * gradient) if n > 1 and gradient else math.nan
        errors = StandardErrors(deviation / math.sqrt(n), deviation / math.sqrt(2 * max(n - 1, 1)), of_gradient)
        return ErrorEstimate(float(self.loss.mean()), deviation, gradient, errors)


@dataclass(eq=False)
class StepMeasurement:
    """Runs a step under plans.

    Args:
        step: the step.
        backend: that computes it, eagerly.
        accumulating: passes for plans that round sums.
        gradient_norm: of the gradient without rounding.
        loss: without rounding, when the step was analysed.
        metric: weights of the squares in that norm, by name of the parameter; those that are not named have 1.
    """

    step: TracedStep
    backend: Backend
    accumulating: Pipeline
    gradient_norm: float
    metric: Mapping[str, Tensor] = field(default_factory=dict)
    loss: float = math.nan
    _lock: Lock = field(default_factory=Lock)
    _compiled: dict[bool, BoxedCallable] = field(default_factory=dict)
    _displacement: "_Displacement" = field(init=False)
    _generators: Generators = field(init=False)
    _versions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._generators = Generators.of(self._tensors.values())
        self._versions = {name: value._version for name, value in self._tensors.items()}
        self._displacement = _Displacement(tuple(groups_of(sites_of(self.step)).values()))

    def __getstate__(self) -> object:
        raise AnalysisError(
            "an analysis holds the graph of its step, of which there are no copies or pickles: analysis.save(path) and "
            "precc.Analysis.load(path) keep all else"
        )

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.step.inputs.items() if isinstance(value, Tensor)}

    def _check_unchanged(self) -> None:
        changed = [name for name, value in self._tensors.items() if value._version != self._versions[name]]
        if changed:
            what = self.step.parameters.get(changed[0], "an input")
            more = f", and {len(changed) - 1} more tensors," if len(changed) > 1 else ""
            raise AnalysisError(f"{what}{more} has changed since the analysis: call net.analyze again")
        loss = float(self.run(None)[0])  # what `.data` and fused optimizers write is not counted
        if math.isfinite(self.loss) and abs(loss - self.loss) > 1e-3 * abs(self.loss) + 1e-6:
            raise AnalysisError(f"the step has now the loss {loss:.4g}, not {self.loss:.4g}: call net.analyze again")

    def draws(self, plan: PrecisionPlan, repetitions: int, seed: int = 0) -> Draws:
        """Errors of loss and gradient in so many draws.

        Raises:
            AnalysisError: a parameter, buffer or input was written to since the step was traced.
        """
        with self._lock:
            self._check_unchanged()
            return self._draws(plan, repetitions, seed)

    def _draws(self, plan: PrecisionPlan, repetitions: int, seed: int) -> Draws:
        generator = torch.Generator().manual_seed(seed)
        losses, gradients = [], []
        for _ in track(range(repetitions), "measuring", transient=True, disable=not sys.stderr.isatty()):
            key = int(torch.randint(1 << 62, (), generator=generator)) + 1
            with self._displacement.within(plan, generator):
                exact = self.run(None)
                self._displacement.recording = False
                rounded = self.run(plan, key)
            losses.append(float(rounded[0].double() - exact[0].double()))
            errors = {name: own.double() - exact[1][name].double() for name, own in rounded[1].items()}
            gradients.append(metric_norm(errors, self.metric))
        relative = torch.tensor(gradients, dtype=torch.float64) / self.gradient_norm
        return Draws(torch.tensor(losses, dtype=torch.float64), relative)

    def run(self, plan: PrecisionPlan | None, key: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradients under a plan; None rounds nothing."""
        used = PrecisionPlan("float64") if plan is None else plan
        graph = self.step.graph.graph
        rows = plan_rows([own for _, own in products_of(graph)], [own for _, own in results_of(graph)], used)
        tensor = torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(rows), ROW_WIDTH)
        tensor[:, KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = torch.tensor(key_halves(key), dtype=torch.float64)
        values = {**self.step.inputs, self.step.plan: tensor}
        placeholders = self.step.graph.graph.find_nodes(op="placeholder")
        with self._generators.again(), torch.no_grad(), torch._C._DisableAutocast():  # the graph has its casts
            outputs = self._callable(used.rounds_sums)([_argument(node, values) for node in placeholders])
        return outputs[0], dict(zip(self.step.gradients, outputs[1:], strict=True))

    def _callable(self, accumulates: bool) -> BoxedCallable:
        if accumulates not in self._compiled:
            graph = _displaced_graph(self.step, self._displacement)
            if accumulates:
                self.accumulating.run(graph, _NO_CONTEXT)
            self._compiled[accumulates] = self.backend.compile(graph, [], visible_outputs=1, backward=False)
        return self._compiled[accumulates]


@dataclass(eq=False)
class _Displacement:
    """Displaces the values of each group of slots: at random while it records, then by what it recorded.

    Args:
        groups: slots that read the same values.
    """

    groups: Sequence[Sequence[SlotSite]]
    recording: bool = False
    _plan: PrecisionPlan | None = None
    _generator: torch.Generator | None = None
    _moves: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def within(self, plan: PrecisionPlan, generator: torch.Generator) -> Iterator[None]:
        """Displace values within the quanta of a plan, the same in all runs but the first."""
        self._plan, self._generator, self.recording = plan, generator, True
        try:
            yield
        finally:
            self._plan, self._generator, self.recording = None, None, False
            self._moves.clear()

    def displaced(self, value: Tensor, group: int) -> Tensor:
        if self._plan is None:
            return value
        if self.recording:
            move = self._move(value, self.groups[group], self._plan)
            if move is not None:
                self._moves[group] = move
        return value + self._moves[group] if group in self._moves else value

    def _move(self, value: Tensor, sites: Sequence[SlotSite], plan: PrecisionPlan) -> Tensor | None:
        quantum, of_sums = self._quantum(value, sites, plan), _quantum_of_sums(sites, plan)
        if quantum is None and not of_sums:
            return None
        own = value.abs() * of_sums
        noise = torch.rand(value.shape, generator=self._generator).to(value) - 0.5
        common = torch.rand((), generator=self._generator).to(value) - 0.5
        return noise * (own if quantum is None else torch.maximum(own, quantum)) + common * of_sums * value

    def _quantum(self, value: Tensor, sites: Sequence[SlotSite], plan: PrecisionPlan) -> Tensor | None:
        found: dict[Any, Tensor] = {}
        for site in sites:
            precision = site.rounded_in(plan)
            if not precision.changes(value.dtype) or precision.is_stochastic or precision.transform is not None:
                continue
            laid_out = precision.granularity not in (None, Granularity.TENSOR, Granularity.STATIC)
            key = site.name if laid_out else precision
            if key not in found:
                shown = site.through(value, {}) if laid_out else value
                own = quanta(shown, precision, site.operand)
                found[key] = site.back(own, value) if laid_out else own
        return torch.stack(list(found.values())).amax(0) if len(found) > 1 else next(iter(found.values()), None)


def _quantum_of_sums(sites: Sequence[SlotSite], plan: PrecisionPlan) -> float:
    """By how much operands must vary, relative to them, so that sums are rounded another way; random bits need none."""
    sums = [site.product.sums(plan) for site in sites if site.product is not None]
    rounding = [own.low.accumulator if isinstance(own, TwoPasses) else own for own in sums if own is not None]
    return max((relative_quantum(own) for own in rounding if not own.is_stochastic), default=0.0)


def quanta(x: Tensor, precision: Precision, operand: Operand) -> Tensor:
    """The distance of the two neighbours of each value in a precision.

    It is 0 where the value is one of them, overflows, or becomes 0.
    """
    row = precision.row(axis=operand.contracted, channel=operand.channel).current
    values = x.to(carrier_of(x, row).dtype)
    scale = scale_of(values, row)
    scaled = values / divisor_of(scale)
    near, far = neighbours(scaled, row)
    distance = ((far - near).abs() * scale).to(x.dtype)
    kept = distance.isfinite() & (round_elements(scaled, row) != 0)
    return torch.where(kept, distance, 0.0)


def _argument(node: Node, values: Mapping[str, Any]) -> Any:
    if node.name in values:
        return values[node.name]
    fake: Tensor = node.meta["val"]
    return torch.ones(fake.shape, dtype=fake.dtype, device=fake.device)


def _displaced_graph(step: TracedStep, displacement: _Displacement) -> GraphModule:
    """A copy whose outputs are the loss and the gradients, with the displacement between values and slots."""

    def displaced(value: Tensor, group: int) -> Tensor:  # a method has no name that fx can write
        return displacement.displaced(value, group)

    copy = Graph()
    known: dict[Node, Node] = {}
    copy.graph_copy(step.graph.graph, known)
    for index, sites in enumerate(displacement.groups):
        origin = known[sites[0].origin]
        with copy.inserting_after(origin):
            moved = copy.call_function(displaced, (origin, index))
        for site in sites:
            shown = moved
            for node in site.chain:
                with copy.inserting_before(known[site.node]):
                    shown = copy.node_copy(node, partial(_replaced, known, node.args[0], shown))
            known[site.node].update_arg(0, shown)
    copy.output([known[node] for node in (step.loss, *step.gradients.values())])
    return GraphModule(step.graph, copy)


def _replaced(known: Mapping[Node, Node], old: object, new: Node, node: Node) -> Node:
    return new if node is old else known[node]


_NO_CONTEXT = GraphContext(frozenset(), None, {}, {}, None, CallNumbers())
