"""Estimates of the errors of values, node by node, against what rounding does to them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.slot_sites import sites_of
from precc.analysis.step_runs import StepRunner, Values
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.mlp import MLP
from precc.rounding import quantize

TOKENS = torch.arange(128).reshape(4, 32)


def analysed(name: str) -> Analysis:
    torch.manual_seed(0)
    model: Any = {"mlp": MLP, "lenet5": LeNet5, "gpt": lambda: GPT(layers=2)}[name]()
    net: Any = precc.compile(model, backend="reference")
    if name == "gpt":
        return net.analyze(TOKENS, loss=lambda output: F.cross_entropy(output.flatten(0, 1), TOKENS.flatten()))
    x = torch.randn(16, 1, 28, 28)
    return net.analyze(x, loss=lambda output: F.cross_entropy(output, torch.arange(16) % 10))


def observed(analysis: Analysis, precision: precc.Precision | None) -> dict[str, Tensor]:
    """The values of the forward part by node, in float64, with the operands rounded or not."""
    step, found = analysis.step, {}
    sites = {site.node: site.operand for site in sites_of(step)}

    def at_slot(node: Node, values: Values) -> Tensor:
        value: Tensor = values[node.args[0]]  # type: ignore[index]
        operand = sites[node]
        row = precision and precision.row(axis=operand.contracted, channel=operand.channel)
        return value if row is None else quantize(value, row)

    def see(node: Node, value: Any, values: Values) -> None:
        if isinstance(value, Tensor) and value.is_floating_point():
            found[node.name] = value.double()

    with torch.no_grad():
        StepRunner(step).run(at_slot, gradients=False, watch=see)
    return found


@pytest.mark.parametrize("name", ["mlp", "lenet5", "gpt"])
@pytest.mark.parametrize("precision", ["e8m3", "e8m7"])
def test_normwise_errors_are_those_observed(name: str, precision: str) -> None:
    """Within 2 for nine nodes in ten, and within 4 for all, of those that compute something."""
    analysis = analysed(name)
    plan = precc.Uniform(precision).assign()
    estimates = analysis.forward_errors(plan)
    exact, rounded = observed(analysis, None), observed(analysis, precc.Precision(precision))
    ratios = []
    for node, estimate in estimates.items():
        size = float(exact[node].square().mean().sqrt()) if node in exact else 0.0
        error = float((rounded[node] - exact[node]).square().mean().sqrt()) / size if size else 0.0
        if error > 1e-5 and exact[node].numel() > 100:  # one number has but one error
            ratios.append(estimate.normwise / error)
    assert len(ratios) > 10
    assert sum(0.5 < ratio < 2 for ratio in ratios) >= 0.9 * len(ratios)
    assert all(0.25 < ratio < 4 for ratio in ratios)


@pytest.mark.parametrize("precision", ["e8m5", "e8m7"])
def test_the_worst_case_is_not_exceeded_and_the_probable_one_is_between(precision: str) -> None:
    analysis = analysed("mlp")
    estimates = analysis.forward_errors(precc.Uniform(precision).assign())
    exact, rounded = observed(analysis, None), observed(analysis, precc.Precision(precision))
    checked = 0
    for node, estimate in estimates.items():
        if node not in exact:
            continue  # it has several results
        there = exact[node] != 0
        if not bool(there.any()) or estimate.worst > 0.5:  # beyond that the first order is no longer meant
            continue
        errors = ((rounded[node] - exact[node]).abs() / exact[node].abs())[there]
        assert float(errors.max()) <= estimate.worst * (1 + 1e-6) + 1e-6
        assert estimate.probabilistic <= estimate.worst * (1 + 1e-9)
        checked += 1
    assert checked >= 4


def test_accumulators_and_their_roundings_count() -> None:
    torch.manual_seed(0)
    net: Any = precc.compile(MLP(), backend="reference")
    x = torch.randn(16, 1, 28, 28)
    loss = lambda output: F.cross_entropy(output, torch.arange(16) % 10)  # noqa: E731
    analysis = net.analyze(x, loss=loss, options=AnalysisOptions(sums=16))
    product = next(node for node in analysis.step.graph.graph.nodes if str(node.target).startswith("aten.addmm"))
    plain = analysis.forward_errors(precc.PrecisionPlan("float32"))[product.name]
    kappa = analysis.findings.conditions[product.name]
    for rounding, factor in (("nearest_even", 1), ("stochastic", 2)):
        sums = precc.parse_accumulator(precc.parse_format("e8m14"))
        sums = type(sums)(format=sums.format, rounding=rounding)
        own = analysis.forward_errors(precc.PrecisionPlan("float32", default_accumulator=sums))[product.name]
        u = factor * 2.0**-15
        assert own.probabilistic == pytest.approx(kappa.rms * (784 * u * u) ** 0.5)
        assert own.worst == pytest.approx(kappa.maximum * 784 * u / (1 - 784 * u))
        assert own.normwise > plain.normwise
