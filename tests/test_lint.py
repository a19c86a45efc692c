"""The lint: every check finds its fault and is silent on the better form, which is the same function."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.nn import functional as F

import precc
from precc import Accumulator, PrecisionPlan
from precc.analysis.traced_step import TracedStep, trace_step
from precc.passes import rounding_pipeline
from precc.passes.lint import CHECKS, Finding, lint
from precc.passes.lint_sums import error_bound
from precc.source_places import Place, place_of
from tests.faulty_net import WIDTH, FaultyNet
from tests.golden import check_golden
from tests.zoo import ZOO

Formula = Callable[[Tensor], Tensor]

BF16, HALF, FLOAT = torch.bfloat16, torch.float16, torch.float32


class Net(nn.Module):
    """A formula as a net."""

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x)


def total(output: Tensor) -> Tensor:
    return output.float().sum()


def step_of(net: nn.Module, *args: Tensor) -> TracedStep:
    return trace_step(net, args, {}, total, title="net", pipeline=rounding_pipeline(), fused_attention=False)


def found(
    formula: Formula, dtype: torch.dtype = FLOAT, plan: PrecisionPlan | None = None, width: int = 8
) -> tuple[Finding, ...]:
    x = torch.rand(4, width).to(dtype).requires_grad_()
    return lint(step_of(Net(formula), x), plan)


def kinds(formula: Formula, dtype: torch.dtype = FLOAT, plan: PrecisionPlan | None = None, width: int = 8) -> list[str]:
    return [finding.kind for finding in found(formula, dtype, plan, width)]


@dataclass(frozen=True, slots=True)
class Case:
    """A faulty formula and the better one, of values in (0, 1), in a dtype, under a plan."""

    faulty: Formula
    better: Formula
    dtype: torch.dtype = FLOAT
    width: int = 8
    plan: PrecisionPlan | None = None
    better_plan: PrecisionPlan | None = None


def masked(x: Tensor) -> Tensor:
    return x > x.mean(-1, keepdim=True)


def by_hand(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def covariance_by_products(x: Tensor) -> Tensor:
    y = x.sin()
    return (x * y).mean(-1) - x.mean(-1) * y.mean(-1)


NARROW_SUMS = PrecisionPlan("bf16", default_accumulator="bf16")
BLOCKED_SUMS = PrecisionPlan("bf16", default_accumulator=Accumulator(format="bf16", order="blocked", block=32))

#: By kind, so that a check without a case fails.
CASES: dict[str, list[Case]] = {
    "log_sum_exp": [
        Case(lambda x: torch.log(torch.exp(x).sum(-1)), lambda x: torch.logsumexp(x, -1)),
        Case(
            lambda x: (x.exp() * masked(x)).sum(-1, keepdim=True).add(1e-30).log(),
            lambda x: x.masked_fill(~masked(x), -torch.inf).logsumexp(-1, keepdim=True),
        ),
        Case(
            lambda x: x.unsqueeze(1).exp().mean((1, 2)).view(2, 2).log(),
            lambda x: torch.logsumexp(x - torch.tensor(8.0).log(), -1).view(2, 2),
        ),
        Case(
            lambda x: torch.log(torch.exp(x).sum(-1)),
            lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1).log() + x.amax(-1),
        ),
        Case(
            lambda x: torch.log(torch.exp(2 * x).sum(-1)),
            lambda x: (2 * (x - x.max(-1, keepdim=True).values.detach())).exp().sum(-1).log() + 2 * x.amax(-1),
        ),
        Case(lambda x: torch.log(x.exp() + 2 * x.sin().exp()), lambda x: torch.logaddexp(x, x.sin() + math.log(2))),
    ],
    "softplus": [
        Case(lambda x: torch.log(1 + x.exp()), lambda x: F.softplus(x)),
        Case(lambda x: torch.log1p(x.exp()), lambda x: x.relu() + torch.log1p(torch.exp(-x.abs()))),
        Case(lambda x: (torch.exp(x) + torch.ones(8)).log(), lambda x: F.softplus(x)),
    ],
    "log_softmax": [
        Case(lambda x: torch.softmax(x, -1).log(), lambda x: F.log_softmax(x, -1)),
        Case(lambda x: (x.softmax(-1) + 1e-12)[:, :3].log(), lambda x: x.log_softmax(-1)[:, :3]),
        Case(lambda x: by_hand(x).clamp(min=1e-30).log(), lambda x: x.log_softmax(-1)),
    ],
    "log_sigmoid": [
        Case(lambda x: x.sigmoid().log(), lambda x: F.logsigmoid(x)),
        Case(lambda x: torch.log(1 - x.sigmoid()), lambda x: F.logsigmoid(-x)),
        Case(lambda x: torch.log(x.sigmoid().clamp(1e-8, 1)), lambda x: F.logsigmoid(x)),
    ],
    "log1p": [
        Case(lambda x: torch.log(1 + x.square()), lambda x: torch.log1p(x.square())),
        Case(lambda x: torch.log(1 - 0.5 * x), lambda x: torch.log1p(-0.5 * x)),
        Case(lambda x: torch.log(torch.exp(-x.abs()) + 1.0), lambda x: torch.log1p(torch.exp(-x.abs()))),
    ],
    "expm1": [
        Case(lambda x: x.exp() - 1, lambda x: torch.expm1(x)),
        Case(lambda x: 1.0 - torch.exp(x).view(-1), lambda x: -torch.expm1(x).view(-1)),
    ],
    "softmax": [
        Case(lambda x: x.exp() / x.exp().sum(-1, keepdim=True), lambda x: torch.softmax(x, -1)),
        Case(lambda x: torch.exp(x) * (torch.exp(x).sum(-1, keepdim=True) + 1e-30).reciprocal(), by_hand),
    ],
    "variance": [
        Case(lambda x: (x * x).mean(-1) - x.mean(-1) ** 2, lambda x: torch.var(x, -1, correction=0)),
        Case(
            lambda x: x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square().view(4, 1),
            lambda x: (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True),
        ),
        Case(
            lambda x: x.pow(2).sum(-1) / 8 - (x.sum(-1) / 8) ** 2,
            lambda x: torch.var(x, -1, correction=0),
        ),
        Case(covariance_by_products, lambda x: (centred(x) * centred(x.sin())).mean(-1)),
    ],
    "divisor_without_eps": [
        Case(lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: F.normalize(x, dim=-1)),
        Case(lambda x: x / x.std(-1, keepdim=True), lambda x: x / (x.std(-1, keepdim=True) + 1e-30)),
        Case(
            lambda x: x * torch.rsqrt(x.var(-1, keepdim=True)),
            lambda x: x * torch.rsqrt(x.var(-1, keepdim=True) + 1e-30),
        ),
        Case(
            lambda x: x / (x.square().sum(-1, keepdim=True) / 8).sqrt(),
            lambda x: x / (x.square().sum(-1, keepdim=True) / 8 + 1e-30).sqrt(),
        ),
    ],
    "vanishing_eps": [
        Case(lambda x: F.layer_norm(x, (8,), eps=1e-8), lambda x: F.layer_norm(x, (8,), eps=1e-4), HALF),
        Case(lambda x: F.group_norm(x, 2, eps=1e-8), lambda x: F.group_norm(x.float(), 2, eps=1e-8), HALF),
        Case(
            lambda x: F.batch_norm(x, None, None, training=True, eps=1e-9),
            lambda x: F.batch_norm(x, None, None, training=True, eps=1e-5),
            HALF,
        ),
        Case(lambda x: F.layer_norm(x, (8,), eps=0.0), lambda x: F.layer_norm(x, (8,), eps=1e-8)),
        Case(lambda x: x / (x.abs() + 1e-8), lambda x: x / (x.abs() + 6.1e-5), HALF),
        Case(lambda x: torch.sqrt(1e-10 + x), lambda x: torch.sqrt(x + 1e-4), HALF),
        Case(lambda x: torch.log(x + 1e-50), lambda x: torch.log(x + 1e-30)),
        Case(lambda x: F.normalize(x), lambda x: F.normalize(x, eps=1e-4), HALF),
        Case(lambda x: x.clamp(1e-8, 1).log(), lambda x: x.float().clamp(1e-8, 1).log(), HALF),
        Case(lambda x: torch.maximum(x, torch.tensor(3e-8)), lambda x: x.clamp(min=1e-7), HALF),
    ],
    "long_reduction": [
        Case(lambda x: x.sum(-1), lambda x: x.sum(-1, dtype=FLOAT), BF16, 256),
        Case(lambda x: x.mean(), lambda x: x.mean(dtype=FLOAT), HALF, 512),
        Case(lambda x: x.softmax(-1), lambda x: x.softmax(-1, dtype=FLOAT), BF16, 256),
        Case(lambda x: x.log_softmax(-1), lambda x: F.log_softmax(x, -1, dtype=FLOAT), BF16, 256),
        Case(lambda x: x.cumsum(-1), lambda x: x.cumsum(-1, dtype=FLOAT), BF16, 256),
        Case(lambda x: F.layer_norm(x, (256,)), lambda x: F.layer_norm(x.float(), (256,)), BF16, 256),
        Case(lambda x: F.group_norm(x, 2), lambda x: F.group_norm(x.float(), 2), BF16, 512),
        Case(
            lambda x: F.batch_norm(x.view(256, 4), None, None, training=True),
            lambda x: F.batch_norm(x.float().view(256, 4), None, None, training=True),
            BF16,
            256,
        ),
        Case(
            lambda x: torch.linalg.vector_norm(x, dim=-1),
            lambda x: torch.linalg.vector_norm(x, dim=-1, dtype=FLOAT),
            BF16,
            256,
        ),
        Case(lambda x: x.var(-1), lambda x: x.float().var(-1), BF16, 256),
        Case(
            lambda x: F.cross_entropy(x.view(512, 2), torch.zeros(512, dtype=torch.long)),
            lambda x: F.cross_entropy(x.float().view(512, 2), torch.zeros(512, dtype=torch.long)),
            BF16,
            256,
        ),
    ],
    "long_product": [
        Case(lambda x: x @ x.T, lambda x: x @ x.T, FLOAT, 256, NARROW_SUMS, BLOCKED_SUMS),
        Case(
            lambda x: F.conv1d(x.view(1, 64, 16), x.view(16, 64, 1).expand(16, 64, 4)),
            lambda x: F.conv1d(x.view(1, 64, 16), x.view(16, 64, 1).expand(16, 64, 4)),
            FLOAT,
            256,
            NARROW_SUMS,
            PrecisionPlan("bf16"),
        ),
    ],
}

EVERY_CASE = [
    pytest.param(kind, case, id=f"{kind}-{k}") for kind, cases in CASES.items() for k, case in enumerate(cases)
]


def test_every_check_has_cases() -> None:
    assert list(CASES) == [check.kind for check in CHECKS]


@pytest.mark.parametrize(("kind", "case"), EVERY_CASE)
def test_the_fault_is_found(kind: str, case: Case) -> None:
    assert set(kinds(case.faulty, case.dtype, case.plan, case.width)) == {kind}


@pytest.mark.parametrize(("kind", "case"), EVERY_CASE)
def test_the_better_form_is_silent(kind: str, case: Case) -> None:
    assert kinds(case.better, case.dtype, case.better_plan, case.width) == []


@pytest.mark.parametrize(("kind", "case"), EVERY_CASE)
def test_the_better_form_is_the_same_function(kind: str, case: Case) -> None:
    x = torch.rand(4, case.width)
    torch.testing.assert_close(case.faulty(x), case.better(x), rtol=5e-3, atol=5e-3)  # eps differs


SILENT: dict[str, Formula] = {
    "cross_entropy": lambda x: F.cross_entropy(x, torch.arange(4)),
    "softmax": lambda x: F.softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "rms_norm": lambda x: F.rms_norm(x, (8,)),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "softplus": lambda x: F.softplus(x),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_with_logits(x, x.detach()),
    "gelu": lambda x: F.gelu(x) + F.silu(x) + F.mish(x) + F.elu(x),
    "normalize": lambda x: F.normalize(x),
    "cosine": lambda x: F.cosine_similarity(x, x.roll(1, 0)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "std": lambda x: torch.std(x, -1) + torch.var(x),
    "log of a count": lambda x: x + torch.log((x > 0).sum() + 1),
    "factorization machine": lambda x: 0.5 * (x.sum(-1) ** 2 - x.square().sum(-1)),
    "second moment less another's mean": lambda x: x.square().mean(-1) - x.sin().mean(-1) ** 2,
    "routing": lambda x: x.softmax(-1).topk(2).values / x.softmax(-1).topk(2).values.sum(-1, keepdim=True),
    "kl": lambda x: F.kl_div(x.log_softmax(-1), x.softmax(-1), reduction="batchmean"),
    "masked": lambda x: (x.masked_fill(x < 0.5, -1e9) - x.amax(-1, keepdim=True)).exp().sum(-1).log(),
    "divided by a count": lambda x: x.sum() / (x > 0).sum(),
    "shifted and put together": lambda x: torch.stack([x - x.amax(), x.sin() - x.amax()]).exp().sum(0).log(),
    "shifted by groups": lambda x: torch.exp(x - x.amax(0)[torch.arange(4) % 2][:, None]).sum(-1).log(),
    "two terms shifted": lambda x: torch.log((x - x.maximum(-x)).exp() + (-x - x.maximum(-x)).exp()),
    "kl of a normal": lambda x: -0.5 * (1 + x - x.sin() ** 2 - x.exp()).sum(-1),
    "floored quotient": lambda x: x.square().sum(-1) - torch.div(x.sum(-1), 2, rounding_mode="floor") ** 2,
    "exp of a bounded": lambda x: torch.exp(x.clamp(-8, 8)).sum(-1).log(),
}


@pytest.mark.parametrize("formula", SILENT.values(), ids=SILENT)
def test_good_code_is_silent(formula: Formula) -> None:
    assert kinds(formula) == []


@pytest.mark.parametrize("name", ["mlp", "recommender", "gpt", "lenet5"])
def test_real_models_are_silent(name: str) -> None:
    entry = ZOO[name]
    inputs = entry.inputs(4, torch.Generator().manual_seed(0))
    pipeline = rounding_pipeline()
    step = trace_step(entry.factory(), (), inputs, entry.loss, title=name, pipeline=pipeline, fused_attention=False)
    assert lint(step, PrecisionPlan("bf16")) == ()


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))


def test_a_norm_of_weights_is_no_risk() -> None:
    assert lint(step_of(weight_normed(), torch.randn(4, 8))) == ()


def faulty_step() -> TracedStep:
    return step_of(FaultyNet(), torch.randn(8, WIDTH))


def test_all_faults_printed() -> None:
    findings = lint(faulty_step(), NARROW_SUMS)
    check_golden("lint.txt", "\n".join(str(finding) for finding in findings))
    assert {finding.kind for finding in findings} == {check.kind for check in CHECKS}


def test_findings_repeat_and_follow_the_graph() -> None:
    step = faulty_step()
    first = lint(step, NARROW_SUMS)
    torch._dynamo.reset()
    assert first == lint(step, NARROW_SUMS) == lint(faulty_step(), NARROW_SUMS)
    order = [node.name for node in step.graph.graph.nodes]
    places = [order.index(finding.node) for finding in first]
    assert places == sorted(places)
    assert {finding.layer for finding in first} == {"", "fc", "head"}
    assert all(finding.where.file.endswith("faulty_net.py") for finding in first)


def test_a_net_in_bfloat16_and_under_autocast() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 512)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc(x)
            return hidden.sum(-1) + hidden.softmax(-1).float().log().amax(-1)

    expected = ["long_reduction", "long_reduction", "log_softmax"]
    narrow = lint(step_of(Long().bfloat16(), torch.randn(4, 8, dtype=BF16)))
    assert [finding.kind for finding in narrow] == expected
    with torch.autocast("cpu", BF16):
        autocast = lint(step_of(Long(), torch.randn(4, 8)))
    assert [finding.kind for finding in autocast] == expected
    assert "512 terms in bfloat16: n u = 2 >= 1" in narrow[0].problem
    assert lint(step_of(Long(), torch.randn(4, 8)))[0].kind == "log_softmax"


def test_sums_of_the_backward_are_told_under_a_plan() -> None:
    step = step_of(nn.Linear(4, 4), torch.randn(512, 4))
    (finding,) = lint(step, NARROW_SUMS)
    assert finding.problem.startswith("product/wgrad adds n = 512 products in bfloat16: its error may reach 2 >= 1")
    assert lint(step, PrecisionPlan("bf16", default_accumulator="fixed32.16")) == ()
    assert lint(step) == ()


def test_the_better_accumulator_is_code_that_helps() -> None:
    for length, accumulator in ((512, "bf16"), (2**17, "bf16"), (512, Accumulator(format="e5m2", product="fp16"))):
        step = step_of(nn.Linear(4, 4), torch.randn(length, 4))
        plan = PrecisionPlan("bf16", default_accumulator=accumulator)
        (finding,) = lint(step, plan)
        accumulators = eval(finding.better.removeprefix("accumulators="), {"Accumulator": Accumulator})
        assert lint(step, replace(plan, accumulators=accumulators)) == ()


ACCUMULATORS = {
    "sequential": Accumulator(format="bf16"),
    "chunk": Accumulator(format="bf16", chunk=16),
    "pairwise": Accumulator(format="bf16", order="pairwise"),
    "blocked": Accumulator(format="bf16", order="blocked", block=16),
    "compensated": Accumulator(format="bf16", compensated=True),
    "aligned": Accumulator(format="bf16", order="aligned", block=16, fraction_bits=24, operands="bf16"),
    "truncated": Accumulator(format="bf16", rounding="toward_zero"),
    "products": Accumulator(format="fp16", product="fp16"),
}


@pytest.mark.parametrize("accumulator", ACCUMULATORS.values(), ids=ACCUMULATORS)
def test_errors_of_sums_are_below_their_bounds(accumulator: Accumulator) -> None:
    a, b = (precc.round_to(torch.rand(*shape), "bf16") for shape in ((8, 256), (256, 8)))
    exact = a.double() @ b.double()
    error = (precc.matmul(a, b, accumulator).double() - exact).abs() / (a.double().abs() @ b.double().abs())
    assert 0 < error.max() <= 1.05 * error_bound(accumulator, 256)


def test_stagnation_begins_where_n_u_is_one() -> None:
    ones = torch.ones(1, 1024)
    narrow = Accumulator(format="bf16")
    assert precc.matmul(ones, ones.T, narrow).item() == 256 == 1 / precc.parse_format("bf16").unit_roundoff
    assert error_bound(narrow, 256) == 1


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_the_thresholds_are_where_exp_overflows_and_underflows(dtype: torch.dtype) -> None:
    (finding,) = found(lambda x: torch.log(torch.exp(x).sum(-1)), dtype)
    limits = re.search(r"above (\S+), .* below (\S+), in", finding.problem)
    assert limits is not None
    high, low = (float(limit) for limit in limits.groups())
    below, above = torch.tensor([0.995 * high, 1.005 * high], dtype=dtype).exp().tolist()
    assert below < above == torch.inf
    below, above = torch.tensor([1.005 * low, 0.97 * low], dtype=dtype).exp().tolist()
    assert 0 == below < above


def empty_step(graph: Graph) -> TracedStep:
    return TracedStep(GraphModule({}, graph), {}, "plan", {}, frozenset(), {})


def test_a_graph_without_ops() -> None:
    graph = Graph()
    graph.output((graph.placeholder("x"),))
    assert lint(empty_step(graph)) == ()


def test_nodes_without_metadata() -> None:
    graph, aten = Graph(), torch.ops.aten
    x = graph.placeholder("x")
    summed = graph.call_function(aten.sum.dim_IntList, (graph.call_function(aten.exp.default, (x,)), [-1]))
    log = graph.call_function(aten.log.default, (summed,))
    less = graph.call_function(aten.sub.Tensor, (graph.call_function(aten.exp.default, (x,)), 1))
    graph.output((log, less))
    assert lint(empty_step(graph), NARROW_SUMS) == ()  # of no dtype nothing is known


def test_without_stack_traces_the_layer_and_the_node_are_named() -> None:
    step = faulty_step()
    for node in step.graph.graph.nodes:
        node.meta["stack_trace"] = None
    findings = lint(step)
    assert {finding.layer for finding in findings} == {"", "head"}
    assert all(finding.where == Place("", 0, str(finding.where)) for finding in findings)
    (log_sum_exp,) = (finding for finding in findings if finding.kind == "log_sum_exp")
    assert str(log_sum_exp).startswith(f"node {log_sum_exp.node} of head: log(sum(exp(x)))")
    assert "of the net" in str(findings[0])


def test_nodes_that_patterns_share() -> None:
    def formula(x: Tensor) -> Tensor:
        e = x.exp()
        s = e.sum(-1, keepdim=True)
        return (e / s).log() + s.log() + (e - 1) + (e + 1).log()

    assert sorted(kinds(formula)) == ["expm1", "log_softmax", "log_sum_exp", "softmax", "softplus"]


def test_long_chains_are_no_problem() -> None:
    def formula(x: Tensor) -> Tensor:
        y = x
        for _ in range(100):
            y = y * 0.5 + y.neg() * 0.25
        return y.exp().sum(-1).log()

    assert kinds(formula) == ["log_sum_exp"]


TRACE = """  File "{torch}/nn/modules/module.py", line 1, in _call_impl
    return forward_call(*args)
  File "/home/me/model.py", line 12, in forward
    return self.block(x).log()
           ^^^^^^^^^^^^^^^^^^^
  File "{packages}/library/block.py", line 7, in forward
    return x.softmax(-1)
  File "{torch}/nn/functional.py", line 9, in softmax
    ret = input.softmax(dim)
"""


def test_the_line_is_the_users_and_else_the_nearest() -> None:
    from sysconfig import get_path

    node = Graph().placeholder("x")
    names = {"torch": torch.__path__[0], "packages": get_path("purelib")}
    node.meta["stack_trace"] = TRACE.format(**names)
    assert place_of(node, "") == Place("/home/me/model.py", 12, "return self.block(x).log()")
    node.meta["stack_trace"] = TRACE.format(**names).replace("/home/me", names["packages"])
    assert place_of(node, "").file.endswith("library/block.py")
    node.meta["stack_trace"] = f'  File "{names["torch"]}/a.py", line 3, in f\n'
    assert place_of(node, "") == Place(f"{names['torch']}/a.py", 3, "")
    node.meta["stack_trace"] = "not a trace"
    assert str(place_of(node, "head")) == "node x of head"
