"""Delayed scaling: scales from the largest magnitudes of earlier forwards, and what adds to that history."""

import copy
import gc
import json
import math
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import precc
from precc import Precision, PrecisionModule, PrecisionPlan, Scaling, Uniform, round_to
from precc.amax_history import AmaxHistory, _histories
from precc.backends import BACKENDS
from precc.backends.cpp import round_compiled
from precc.errors import FormatError, PlanError, PrecisionWarning, UnsupportedError
from precc.formats import MAX_HISTORY
from precc.module import session_of
from precc.rounding import parse_row, quantize, slot_number
from precc.rounding.row import set_static_scales
from precc.rounding.scales import block_scales, scale_of
from precc.rounding.tensor_ops import carrier_of
from precc.session import Session

INPUT, WEIGHT = "product/fprop.input", "product/fprop.weight"
LATE = "product/wgrad.input"
FLOAT_SCALE = Scaling("tensor", scale_format="float32", history=3)


def delayed(history: int = 4, **options: Any) -> Uniform:
    return Uniform("e4m3", scaling=Scaling("tensor", history=history, **options))


def linear(policy: Any, backend: str = "reference", width: int = 6) -> PrecisionModule:
    torch.manual_seed(0)
    return precc.compile(nn.Linear(width, 4, bias=False), policy=policy, backend=backend)


def mlp(policy: Any, backend: str = "reference") -> PrecisionModule:
    torch.manual_seed(0)
    return precc.compile(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), policy=policy, backend=backend)


def amax_of(net: PrecisionModule) -> dict[str, list[float]]:
    amax: dict[str, list[float]] = net.precision_state()["amax"]
    return amax


def train(net: PrecisionModule, x: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    """Output and gradients of one forward and backward."""
    net.zero_grad()
    leaf = x.clone().requires_grad_()
    y = net(leaf)
    y.backward(torch.ones_like(y) if upstream is None else upstream)
    assert leaf.grad is not None
    return [y.detach(), leaf.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def batches(count: int = 5, rows: int = 5) -> Iterator[Tensor]:
    """Tensors that grow and shrink."""
    generator = torch.Generator().manual_seed(3)
    for size in (1.0, 7.0, 0.3, 90.0, 0.02, 1.0, 1.0, 5.0)[:count]:
        yield size * torch.randn(rows, 6, generator=generator)


# --- by hand


def by_hand(x: Tensor, earlier: list[float], history: int) -> Tensor:
    """e4m3 with the power-of-two scale of OCP's rule, from the amax of earlier forwards or the tensor's own."""
    largest = max(earlier[-history:], default=x.abs().max().item())
    scale = 2.0 ** (math.floor(math.log2(largest)) - 8)  # 448 = 1.75 * 2**8
    return round_to(x.contiguous(), "e4m3", scaling=Scaling("static", value=scale))


def differing_steps(history: int, backend: str = "reference") -> list[int]:
    """The steps at which a net computes something else than the definition says."""
    net = linear(delayed(history), backend)
    (weight,) = net.parameters()
    seen: dict[str, list[float]] = {"x": [], "w": [], "g": []}
    differing = []
    for step, x in enumerate(batches(8)):
        upstream = torch.randn(5, 4) * 10.0 ** (step % 3)
        values = {"x": x, "w": weight.detach().clone(), "g": upstream}
        ours = train(net, x, upstream)
        rounded = {name: by_hand(value, seen[name], history) for name, value in values.items()}
        theirs = [rounded["x"] @ rounded["w"].t(), rounded["g"] @ rounded["w"], rounded["g"].t() @ rounded["x"]]
        if not all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(ours, theirs, strict=True)):
            differing.append(step)
        for name, value in values.items():
            seen[name].append(value.abs().max().item())
        with torch.no_grad():
            weight.mul_(1.9)
    return differing


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("history", [1, 2, 3, 16])
def test_scales_come_from_the_forwards_before(history: int, backend: str) -> None:
    assert differing_steps(history, backend) == []


def _whole_history(self: AmaxHistory, slot: str, count: int) -> float:
    return _LARGEST(self, slot, MAX_HISTORY)


def _never(self: AmaxHistory, slot: str, count: int) -> float:
    return 0.0


def _doubled(self: AmaxHistory, slot: str, count: int) -> float:
    return 2 * _LARGEST(self, slot, count)


_LARGEST = AmaxHistory.largest


@pytest.mark.parametrize("defect", [_whole_history, _never, _doubled])
def test_the_check_by_hand_sees_a_planted_defect(defect: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AmaxHistory, "largest", defect)
    assert differing_steps(2)


def test_records_are_the_largest_magnitudes_in_order() -> None:
    net, wanted = linear(delayed(2)), []
    for x in batches():
        train(net, x)
        wanted.append(x.abs().max().item())
    amax = amax_of(net)
    assert amax[INPUT] == amax[LATE] == wanted
    assert set(amax) == set(net.plan.slots)
    assert amax["product/dgrad.grad_output"] == [1.0] * 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_forward_is_current_scaling(backend: str) -> None:
    (x,) = batches(1)
    ours, current = train(mlp(delayed(), backend), x), train(mlp(Uniform("e4m3", scaling="tensor"), backend), x)
    if backend == "triton":  # whose kernels sum in another order than what records goes, node by node
        torch.testing.assert_close(ours, current)
    else:
        assert equal(ours, current)


def test_a_constant_tensor_is_rounded_as_by_current_scaling() -> None:
    (x,) = batches(1)
    net, current = linear(delayed()), linear(Uniform("e4m3", scaling="tensor"))
    wanted = train(current, x)
    assert all(equal(train(net, x), wanted) for _ in range(3))


def test_what_has_outgrown_its_scale_saturates() -> None:
    for name in ("e4m3", "e5m2"):  # without and with an infinity
        net = linear(Uniform(name, scaling=Scaling("tensor", scale_format="float32", history=1)))
        net(torch.ones(2, 6)).sum().backward()
        (weight,) = net.parameters()
        with torch.no_grad():
            weight.fill_(amax_of(net)[WEIGHT][0])
        grown = net(torch.full((2, 6), 1e6))
        assert torch.allclose(grown, torch.full((2, 4), 6 * amax_of(net)[WEIGHT][0]))


# --- the same bits as current scaling, and on every backend

SCALINGS = {
    "floor": Scaling("tensor", history=2),
    "ceil": Scaling("tensor", rule="ceil", history=2),
    "nearest": Scaling("tensor", rule="nearest", history=2),
    "float32": Scaling("tensor", scale_format="float32", history=2),
    "e5m2": Scaling("tensor", scale_format="e5m2", history=2),
}
FORMATS = {
    "e4m3": ("e4m3", "nearest_even"),
    "stochastic": ("e5m2", "stochastic"),
    "int8": ("int8", "nearest_away"),
    "power": ("power4_0.5", "nearest_even"),
    "nested": ("nested8.4", "toward_zero"),
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_reference_and_kernels_agree_bit_for_bit(name: str, scaling: str) -> None:
    fmt, rounding = FORMATS[name]
    policy = Uniform(fmt, rounding=rounding, scaling=SCALINGS[scaling])
    nets = {backend: mlp(policy, backend) for backend in ("reference", "cpp")}
    for x in batches(4):
        results = {}
        for backend, net in nets.items():
            torch.manual_seed(1)
            results[backend] = train(net, x)
        assert equal(results["reference"], results["cpp"])
    assert amax_of(nets["reference"]) == amax_of(nets["cpp"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inductor_agrees(dtype: torch.dtype) -> None:
    policy = Uniform("e4m3", rounding="stochastic", scaling=FLOAT_SCALE)
    nets = [mlp(policy, backend).to(dtype) for backend in ("reference", "inductor")]
    for x in batches(3):
        torch.manual_seed(1)
        theirs = train(nets[0], x.to(dtype))
        torch.manual_seed(1)
        for a, b in zip(train(nets[1], x.to(dtype)), theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5 if dtype is not torch.bfloat16 else 2e-2, atol=1e-3)
    assert nets[0].precision_state()["amax"][f"0/{INPUT}"] == nets[1].precision_state()["amax"][f"0/{INPUT}"]
    assert nets[1].compilations == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_delayed_scale_is_that_of_a_tensor_of_the_same_amax(scaling: str, dtype: torch.dtype) -> None:
    precision = Precision("e4m3", scaling=SCALINGS[scaling])
    row = precision.row()
    spread = torch.randn(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    top, tiny = math.log2(torch.finfo(dtype).max), math.log2(torch.finfo(dtype).smallest_normal)
    sizes = torch.linspace(tiny - (10 if dtype is torch.float16 else 20), top - 0.01, 60, dtype=torch.float64).exp2()
    for size in sizes.to(dtype).tolist():
        x = (spread / spread.abs().max() * size).to(dtype)
        amax = x.abs().max().to(carrier_of(x, row).dtype)
        rows = torch.tensor([row.current.values], dtype=torch.float64)
        set_static_scales(rows, [0], block_scales(amax[None], row.scale), 2)
        given, _ = parse_row(rows[0].tolist())
        assert torch.equal(scale_of(amax[None], row.current)[0], torch.tensor(given.scale.value, dtype=amax.dtype))
        wanted = quantize(x, row.current)
        assert torch.equal(quantize(x, given), wanted)
        assert torch.equal(round_compiled(x, given), wanted)


# --- what records, and what does not


def test_zeros_and_what_is_not_finite_leave_no_record() -> None:
    net = linear(delayed(2))
    for x in (torch.zeros(2, 6), torch.ones(2, 6), torch.full((2, 6), math.nan), torch.full((2, 6), 2.0)):
        net(x)
    bad = torch.ones(2, 6)
    bad[0, 0] = -math.inf
    net(bad)
    net(torch.empty(0, 6))
    assert amax_of(net)[INPUT] == [1.0, 2.0]
    assert len(amax_of(net)[WEIGHT]) == 6
    out = net(bad)
    assert not out.isnan().any(), "an infinity saturates under a scale that is known before"


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluations_use_the_history_and_leave_it(backend: str) -> None:
    net, small = linear(delayed(2), backend), torch.full((2, 6), 0.5)
    train(net, torch.full((2, 6), 64.0))
    (weight,) = net.parameters()
    before = amax_of(net)
    by_64 = by_hand(small, [64.0], 2) @ by_hand(weight.detach(), before[WEIGHT], 2).t()
    with torch.no_grad():
        assert torch.allclose(net(small), by_64)
    net.eval()
    assert torch.allclose(net(small), by_64)  # records gradients, yet in evaluation mode
    with torch.inference_mode():
        assert torch.allclose(net(small), by_64)
    net(small.clone().requires_grad_()).sum().backward()
    net.train()
    assert amax_of(net) == before


def test_a_plan_without_delayed_slots_pays_nothing() -> None:
    net = linear(Uniform("e4m3", scaling="tensor"))
    net(torch.ones(2, 6))
    (graph,) = session_of(net).graphs.current
    assert graph.next_rows(training=True) is graph.next_rows(training=True)
    assert amax_of(net) == {}


def test_only_the_slots_with_a_history_record() -> None:
    plan = PrecisionPlan("e4m3", {INPUT: Precision("e4m3", scaling=FLOAT_SCALE)})
    net = linear(None)
    net.set_plan(plan)
    train(net, torch.ones(2, 6))
    assert amax_of(net) == {INPUT: [1.0]}


# --- backwards in any order


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_records_stand_in_the_order_of_the_forwards(order: tuple[int, ...]) -> None:
    net = linear(delayed(4))
    outputs = [net(torch.full((2, 6), 2.0**t)) for t in range(3)]
    assert amax_of(net)[INPUT] == [1.0, 2.0, 4.0]
    for t in order:
        outputs[t].backward(torch.full((2, 4), 10.0**t))
        amax_of(net)  # reads what there is
    amax = amax_of(net)
    assert amax[LATE] == [1.0, 2.0, 4.0]
    assert amax["product/wgrad.grad_output"] == [1.0, 10.0, 100.0]


def test_a_backward_has_the_scales_of_its_forward() -> None:
    net, other = linear(delayed(1)), linear(delayed(1))
    first, second, third = batches(3)
    train(net, first)
    train(other, first)
    wanted = train(other, second)
    net.zero_grad()
    leaf = second.clone().requires_grad_()
    y = net(leaf)
    net(third).sum().backward()  # another forward has gone by
    net.zero_grad()
    y.backward(torch.ones_like(y))
    (weight,) = net.parameters()
    assert leaf.grad is not None
    assert weight.grad is not None
    assert equal([y.detach(), leaf.grad, weight.grad], wanted)


def test_a_second_backward_of_one_forward_keeps_the_largest() -> None:
    net = linear(delayed(4))
    y = net(torch.ones(2, 6))
    for size in (3.0, 8.0, 5.0):
        y.backward(torch.full((2, 4), size), retain_graph=True)
        amax_of(net)
    train(net, torch.ones(2, 6))
    y.backward(torch.full((2, 4), 9.0))  # late as well
    assert amax_of(net)["product/wgrad.grad_output"] == [9.0, 1.0]
    assert amax_of(net)[INPUT] == [1.0, 1.0]


def test_rows_that_hooks_have_copied_record_too() -> None:
    net = linear(delayed(4), "cpp")
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x):
        y = net(torch.ones(2, 6))
    y.sum().backward()
    assert amax_of(net)[LATE] == [1.0]


def test_a_checkpoint_around_the_net_is_refused() -> None:
    for reentrant in (False, True):
        net = linear(delayed(4))
        y = checkpoint(net, torch.ones(2, 6, requires_grad=True), use_reentrant=reentrant)
        with pytest.raises(UnsupportedError, match="Put the checkpoint inside the model"):
            y.sum().backward()


class Checkpointed(nn.Module):
    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.body = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.body, x, use_reentrant=False) if self.inside else self.body(x)
        return result


def test_a_checkpoint_inside_the_model_changes_nothing() -> None:
    model = Checkpointed(inside=True)
    plain = Checkpointed(inside=False)
    plain.load_state_dict(model.state_dict())
    nets = [precc.compile(net, policy=delayed(2), backend="reference") for net in (model, plain)]
    for x in batches(3):
        assert equal(train(nets[0], x), train(nets[1], x))
    assert amax_of(nets[0]) == amax_of(nets[1])


# --- one history a net


def test_graphs_of_one_net_share_the_history() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Linear(6, 4), policy=delayed(2), backend="reference", dynamic=False)
    for rows in (2, 3, 2):
        train(net, torch.full((rows, 6), float(rows)))
    assert net.compilations == 2
    assert amax_of(net)[INPUT] == [2.0, 3.0, 2.0]


def test_switching_plans_keeps_the_history_and_compiles_nothing() -> None:
    net, never = linear(delayed(2), "inductor"), linear(delayed(2), "inductor")
    first, second, third = batches(3)
    for copy_of in (net, never):
        train(copy_of, first)
    for plan in (Uniform("e4m3"), Uniform("e5m2", scaling="row"), Uniform("float32")):
        net.set_plan(plan.assign())
        train(net, third)
    net.set_plan(delayed(2).assign())
    assert equal(train(net, second), train(never, second))
    net.set_plan(delayed(1, scale_format="float32").assign())
    train(net, third)
    assert net.compilations == 1
    assert len(amax_of(net)[INPUT]) == 3


def test_the_history_is_no_longer_than_its_limit() -> None:
    history = AmaxHistory({INPUT: [float(n) for n in range(1, MAX_HISTORY + 1)]})
    history.note(history.begin([INPUT]), 0, torch.tensor(0.5))
    assert history.to_lists()[INPUT] == [float(n) for n in range(2, MAX_HISTORY + 1)] + [0.5]
    assert history.largest(INPUT, 1) == 0.5
    assert history.largest(INPUT, 2) == MAX_HISTORY
    forwards = [history.begin([INPUT]) for _ in range(2 * MAX_HISTORY)]
    history.note(forwards[0], 0, torch.tensor(1e9))
    assert history.largest(INPUT, MAX_HISTORY) == MAX_HISTORY
    assert len(history.state().forwards) == MAX_HISTORY


def test_a_restored_history_forgets_what_came_since_and_what_comes_of_it() -> None:
    history = AmaxHistory()
    early = history.begin([INPUT])
    state = history.state()
    late = history.begin([INPUT])
    history.note(late, 0, torch.tensor(4.0))
    history.restore(state)
    history.note(late, 0, torch.tensor(8.0))
    assert history.to_lists() == {}
    history.note(early, 0, torch.tensor(2.0))
    assert history.begin([INPUT]) > late, "numbers are given once"
    assert history.to_lists() == {INPUT: [2.0]}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_carry_the_history(duplicate: Callable[[nn.Module], PrecisionModule]) -> None:
    net = linear(delayed(2))
    first, second, third = batches(3)
    train(net, first)
    under_way = net(second)
    other = duplicate(net)
    assert amax_of(other) == amax_of(net)
    under_way.sum().backward()
    assert len(amax_of(net)[LATE]) == 2
    assert len(amax_of(other)[LATE]) == 1, "a forward of the original records there"
    with torch.no_grad():
        assert torch.equal(net(third), other(third))
    train(other, third)
    assert len(amax_of(net)[INPUT]) == 2
    assert len(amax_of(other)[INPUT]) == 3


def test_a_net_that_is_gone_leaves_no_history_behind() -> None:
    net = linear(delayed(2))
    y = net(torch.ones(2, 6))
    number = session_of(net).amax.number
    assert number in _histories
    del net
    torch._dynamo.reset()
    gc.collect()
    y.sum().backward()
    del y
    gc.collect()
    assert number not in _histories


# --- the state


def test_a_state_goes_through_json_and_continues_bit_for_bit() -> None:
    net = mlp(delayed(3), "cpp")
    *before, fourth, fifth = batches(5)
    for x in before:
        train(net, x)
    fresh = mlp(None, "cpp")
    fresh.load_precision_state(json.loads(json.dumps(net.precision_state())))
    assert fresh.precision_state() == {**net.precision_state()}
    for x in (fourth, fifth):
        assert equal(train(fresh, x), train(net, x))
    assert fresh.precision_state() == net.precision_state()
    net.load_precision_state(fresh.precision_state())  # where there are graphs already
    assert equal(train(fresh, fourth), train(net, fourth))


def test_loading_makes_forwards_under_way_count_no_more() -> None:
    net = linear(delayed(3))
    state = net.precision_state()
    y = net(torch.ones(2, 6))
    net.load_precision_state({**state, "amax": {INPUT: [7.0]}})
    y.sum().backward()
    assert amax_of(net) == {INPUT: [7.0]}


def test_a_net_without_a_plan_stays_so() -> None:
    net = linear(None)
    state = net.precision_state()
    net.load_precision_state(state)
    assert session_of(net).chosen is None
    assert net.double()(torch.full((1, 6), 1 / 3, dtype=torch.float64)).dtype is torch.float64
    assert net.precision_state()["plan"] is state["plan"] is None
    other = linear("e4m3")
    other.load_precision_state(state)
    assert session_of(other).chosen is None


def test_a_plan_in_full_precision_stays_a_plan() -> None:
    chosen = precc.compile(nn.Linear(6, 4).double(), plan=PrecisionPlan("float32"), backend="reference")
    x = torch.full((1, 6), 1 / 3, dtype=torch.float64)
    chosen(x)
    twin = precc.compile(nn.Linear(6, 4).double(), backend="reference")
    twin.load_precision_state(chosen.precision_state())
    twin(x)
    assert twin.plan.default == PrecisionPlan("float32").default


def test_histories_of_slots_of_another_net_are_dropped_once_the_slots_are_known() -> None:
    net = precc.compile(nn.Linear(6, 4), backend="reference")
    state = net.precision_state()
    net.load_precision_state({**state, "amax": {"elsewhere/product/fprop.input": [1.0]}})
    with pytest.warns(PrecisionWarning, match="no slot 'elsewhere/product/fprop.input'"):
        net(torch.ones(2, 6)).sum().backward()
    assert net.precision_state()["amax"] == {}
    net.load_precision_state(net.precision_state())


BAD: dict[str, Any] = {
    "not a mapping": [1],
    "an entry missing": lambda state: {key: own for key, own in state.items() if key != "amax"},
    "an entry too many": lambda state: {**state, "loss_scale": 1.0},
    "plan": lambda state: {**state, "plan": 7},
    "plan text": lambda state: {**state, "plan": "{}"},
    "plan of another net": lambda state: {
        **state,
        "plan": PrecisionPlan("e4m3", {"fc9/product/fprop.input": "e5m2"}).to_json(),
    },
    "negative count": lambda state: {**state, "events": {"accept": -1}},
    "boolean count": lambda state: {**state, "multiply_adds": {"float32": True}},
    "counts": lambda state: {**state, "multiply_adds": [1]},
    "amax": lambda state: {**state, "amax": [1.0]},
    "amax of no slot": lambda state: {**state, "amax": {"somewhere": [1.0]}},
    "amax of another net": lambda state: {**state, "amax": {"fc9/product/fprop.input": [1.0]}},
    "amax a number": lambda state: {**state, "amax": {INPUT: 1.0}},
    "amax a text": lambda state: {**state, "amax": {INPUT: ["1"]}},
    "amax zero": lambda state: {**state, "amax": {INPUT: [0.0]}},
    "amax infinite": lambda state: {**state, "amax": {INPUT: [math.inf]}},
    "amax NaN": lambda state: {**state, "amax": {INPUT: [math.nan]}},
    "amax negative": lambda state: {**state, "amax": {INPUT: [-1.0]}},
    "amax too large": lambda state: {**state, "amax": {INPUT: [10**400]}},
    "amax too long": lambda state: {**state, "amax": {INPUT: [1.0] * (MAX_HISTORY + 1)}},
    "a key that is no name": lambda state: {**state, "amax": {3: [1.0]}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_state_is_refused_and_nothing_is_lost(name: str) -> None:
    net = linear(delayed(3))
    train(net, torch.ones(2, 6))
    before = net.precision_state()
    bad = BAD[name]
    with pytest.raises(PlanError):
        net.load_precision_state(bad(before) if callable(bad) else bad)
    assert net.precision_state() == before


# --- evaluations change nothing


@pytest.mark.parametrize(("radius", "evaluate_every"), [(0.1, 1), (0.1, 2), (1e-3, 1), (1e3, 1)])
def test_a_trust_region_leaves_one_record_an_accepted_step(radius: float, evaluate_every: int) -> None:
    net = mlp(None)
    x, y = torch.randn(16, 6), torch.randn(16, 4)
    levels = (delayed(2), delayed(4, scale_format="float32"))
    opt = precc.TrustRegion(net, radius=radius, levels=levels, evaluate_every=evaluate_every)
    for _ in range(6):
        accepted, before = opt.events["accept"], amax_of(net)
        opt.step(lambda: (net(x) - y).square().mean())
        after = amax_of(net)
        if opt.events["accept"] == accepted:
            assert after == before
            continue
        assert len(after) == 10, "no tensor of this net is all zeros"
        assert all(own[:-1] == before.get(slot, []) for slot, own in after.items())
        assert after[f"0/{INPUT}"][-1] == x.abs().max().item()
    assert opt.events["accept"] if radius < 1 else opt.events["reject"]


def test_the_closure_of_a_step_sees_one_history() -> None:
    net, seen = linear(delayed(1)), []
    x = torch.randn(16, 6)
    opt = precc.TrustRegion(net, radius=1e-2, levels=(delayed(1),))
    largest = AmaxHistory.largest

    def closure() -> Tensor:
        seen.append(largest(session_of(net).amax, WEIGHT, 1))
        return net(x).square().mean()

    for _ in range(3):
        seen.clear()
        opt.step(closure)
        assert len(seen) >= 2
        assert len(set(seen)) == 1


def test_a_step_that_fails_leaves_the_history() -> None:
    net = linear(delayed(1))
    opt = precc.TrustRegion(net, levels=(delayed(1),))
    calls = iter(range(9))

    def closure() -> Tensor:
        loss = net(torch.ones(2, 6)).square().mean()
        if next(calls) == 1:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert amax_of(net) == {}


# --- as data


def test_a_history_is_part_of_a_scaling() -> None:
    scaling = Scaling("tensor", history=16)
    assert eval(repr(scaling)) == scaling
    assert str(scaling) == "tensor(history=16)"
    assert str(FLOAT_SCALE) == "tensor(history=3):float32"
    assert scaling != Scaling("tensor")
    assert str(Scaling("tensor")) == "tensor"
    assert str(Precision("e4m3", scaling=scaling)) == "float8_e4m3fn/tensor(history=16)"
    assert Precision("e4m3", scaling=scaling).history == 16
    block = precc.BlockFormat(element=precc.parse_format("e4m3"), scaling=scaling)  # type: ignore[arg-type]
    assert Precision(block).history == 16
    assert Precision("mxfp8").history == Precision("e4m3").history == 0


def test_plans_keep_a_history_and_old_ones_load() -> None:
    plan = delayed(16).assign()
    again = PrecisionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.default.history == 16
    document = json.loads(Uniform("e4m3", scaling="tensor").assign().to_json())
    del document["default"]["scaling"]["history"]
    assert PrecisionPlan.from_json(json.dumps(document)) == Uniform("e4m3", scaling="tensor").assign()
    for wrong in ("4", -1, 1.5, True, MAX_HISTORY + 1):
        document["default"]["scaling"]["history"] = wrong
        with pytest.raises((PlanError, FormatError), match="history"):
            PrecisionPlan.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "row", "history": 4},
        {"granularity": "static", "value": 2.0, "history": 4},
        {"granularity": "block", "size": 32, "history": 1},
        {"granularity": "tensor", "history": -1},
        {"granularity": "tensor", "history": True},
        {"granularity": "tensor", "history": 2.0},
        {"granularity": "tensor", "history": MAX_HISTORY + 1},
        {"granularity": "tensor", "scale_format": "ue5m3", "two_level": True, "history": 4},
    ],
    ids=str,
)
def test_histories_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="history"):
        Scaling(**options)


def test_by_hand_there_is_no_history() -> None:
    x, row = torch.ones(4), Precision("e4m3", scaling=FLOAT_SCALE).row()
    calls: list[Callable[[], Tensor]] = [
        lambda: round_to(x, "e4m3", scaling=FLOAT_SCALE),
        lambda: round_to(torch.empty(0), "e4m3", scaling=FLOAT_SCALE),
        lambda: round_to(x, "e4m3", scaling=FLOAT_SCALE, rounding="hysteresis", previous=x),
        lambda: round_to(x, "e4m3", scaling=FLOAT_SCALE, rounding="variance_corrected", variance=0.1),
        lambda: quantize(x, row),
        lambda: round_compiled(x, row),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=r"history=3 .*of a net.*Scaling\('static'"):
            call()


def test_the_report_says_it() -> None:
    net = linear(delayed(16))
    net(torch.ones(2, 6))
    assert "tensor(history=16)" in str(net.plan)


def test_sessions_number_their_histories_apart() -> None:
    sessions: list[Session] = [session_of(linear(None)) for _ in range(3)]
    assert all(a.amax.number != b.amax.number for a, b in pairwise(sessions))


def test_what_is_recorded_is_what_is_rounded() -> None:
    """With a Hadamard transform the scale is that of the transformed tensor."""
    layer = nn.Linear(48, 8, bias=False)
    precision = precc.Precision("e4m3", scaling=precc.Scaling("tensor", history=4), transform="hadamard")
    plan = PrecisionPlan("fp32", {f"product/fprop.{name}": precision for name in ("input", "weight")})
    net = precc.compile(layer, plan=plan, backend="cpp")
    x = torch.randn(16, 48)
    x[:, 3] = 50.0
    net(x).sum().backward()
    signs = slot_number("product/fprop.accumulator") & 0xFFFFFFFF
    largest = precc.random_hadamard(x, seed=signs).abs().max().item()
    assert net.precision_state()["amax"]["product/fprop.input"] == [largest]
    assert largest < 30
