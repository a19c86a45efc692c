"""Attention as one op with slots of its own, against attention written out and torch's own."""

import io
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import precc
from precc.annotations import products_of
from precc.backends.reference import Reference
from precc.errors import PlanError
from precc.models.gpt import GPT
from tests.few_always import few_always
from tests.zoo import llama, prompts

SLOTS = ["fprop.query", "fprop.key", "fprop.value", "dgrad.grad_output"]
FORWARD = {"attention/fprop.query": "e4m3", "attention/fprop.key": "e5m2", "attention/fprop.value": "e3m4"}
PLAN = precc.PrecisionPlan("fp32", {**FORWARD, "attention/dgrad.grad_output": "e4m3"})


class Attend(nn.Module):
    """`F.scaled_dot_product_attention` alone, with options; dropout in training."""

    def __init__(self, dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.dropout, self.options = dropout, options

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, **self.options)


class _Rounded(torch.autograd.Function):
    """Identity; the gradient is rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return precc.round_to(gradient, "e4m3")


class _Straight(torch.autograd.Function):
    """Rounded; the gradient is as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        return precc.round_to(x, name)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def by_hand(attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *mask: Tensor) -> Tensor:
    """What `PLAN` means."""
    rounded = [_Straight.apply(x, name) for x, name in zip((query, key, value), FORWARD.values(), strict=True)]
    result: Tensor = _Rounded.apply(attend(*rounded, *mask))
    return result


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Eager attention."""
    scale = options.get("scale") or 1 / math.sqrt(query.shape[-1])
    groups = query.shape[-3] // key.shape[-3]
    key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = query @ key.transpose(-2, -1) * scale
    if options.get("is_causal"):
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def inputs(heads: int = 4, keys: int = 6, width: int = 8, kept: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 4, 6, width), (2, heads, keys, width), (2, heads, keys, kept))
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def gradients(attend: Callable[..., Tensor], arguments: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients of all that have one."""
    torch.manual_seed(2)
    result = attend(*arguments)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    wanted = [x for x in arguments if x.requires_grad]
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), wanted)]


def all_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def bias(*, learned: bool) -> Tensor:
    return torch.randn(6, 6, generator=torch.Generator().manual_seed(4)).requires_grad_(learned)


CASES: dict[str, tuple[dict[str, Any], list[Tensor]]] = {
    "plain": ({}, inputs()),
    "causal": ({"is_causal": True}, inputs()),
    "scaled": ({"scale": 0.3}, inputs(keys=9)),
    "grouped": ({"enable_gqa": True}, inputs(heads=2)),
    "boolean mask": ({}, [*inputs(), torch.ones(6, 6, dtype=torch.bool).tril(1)]),
    "bias": ({}, [*inputs(), bias(learned=False)]),
    "learned bias": ({}, [*inputs(), bias(learned=True)]),
    "wide values": ({}, inputs(kept=5)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_eager_attention_in_full_precision_and_a_reference_by_hand_in_low(case: str) -> None:
    options, arguments = CASES[case]
    model = Attend(**options)
    net = precc.compile(model, backend="reference", attention="fused")
    ours = gradients(net, arguments)
    assert all_equal(ours, gradients(model, arguments))
    eager = gradients(lambda *own: written_out(*own, **options), arguments)
    for own, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)

    net.set_plan(PLAN)
    rounded = gradients(net, arguments)
    assert all_equal(rounded, gradients(lambda *own: by_hand(model, *own), arguments))
    assert not any(torch.equal(a, b) for a, b in zip(rounded, ours, strict=True))
    assert list(net.plan.slots) == [f"attention/{slot}" for slot in SLOTS]
    assert net.compilations == 1
    assert "not rounded: no product" in str(net.report())


def test_dropout_draws_the_mask_that_eager_mode_draws() -> None:
    model = Attend(dropout=0.4)
    net = precc.compile(model, backend="reference", attention="fused", plan=PLAN)
    assert all_equal(gradients(net, inputs()), gradients(lambda *own: by_hand(model, *own), inputs()))
    assert list(net.plan.slots) == [f"attention/{slot}" for slot in SLOTS]


def test_slots_do_not_depend_on_mode_or_kernel() -> None:
    model = Attend(dropout=0.4)
    found = []
    for training, recording, kernel in ((True, True, None), (False, True, None), (False, False, None), (0, 1, 1)):
        net = precc.compile(model, backend="reference", attention="fused", plan=PLAN)
        net.train(bool(training))
        with torch.set_grad_enabled(bool(recording)), sdpa_kernel(SDPBackend.MATH) if kernel else nullcontext():
            net(*inputs())
        found.append(list(net.plan.slots)[: 4 if recording else 3])
        assert "not rounded: no product" in str(net.report())
    names = [f"attention/{slot}" for slot in SLOTS]
    assert found == [names, names, names[:3], names]
    net = precc.compile(model, backend="reference", attention="fused", plan=PLAN)
    net(*inputs())
    with torch.no_grad():
        assert torch.equal(net.eval()(*inputs()), by_hand(model.eval(), *inputs()))
    assert list(net.plan.slots) == names


def test_its_work_is_that_of_its_products_and_of_the_scores_again() -> None:
    net = precc.compile(Attend(enable_gqa=True), backend="reference", attention="fused", policy="e4m3")
    net(*inputs(heads=2, keys=9, kept=5)).sum().backward()
    scores = 2 * 4 * 6 * 9
    work = net.plan.multiply_adds
    assert work["attention/fprop.key"] == scores * (8 + 5)
    assert work["attention/dgrad.grad_output"] == scores * (3 * 8 + 2 * 5)
    assert net.precision_state()["multiply_adds"] == {"float8_e4m3fn": scores * (4 * 8 + 3 * 5)}


def test_block_scales_lie_along_the_sums() -> None:
    plan = precc.PrecisionPlan("fp32", {f"attention/fprop.{name}": "mxfp8" for name in ("query", "key", "value")})
    net = precc.compile(Attend(), backend="reference", attention="fused", plan=plan)
    query, key, value = inputs(keys=64, width=64)
    query, key = (x * torch.logspace(-3, 3, 64) for x in (query, key))
    value = value * torch.logspace(-3, 3, 64)[:, None]
    rounded = [precc.round_to(x.detach(), "mxfp8", axis=axis) for x, axis in ((query, 3), (key, 3), (value, 2))]
    assert torch.equal(net(query, key, value), F.scaled_dot_product_attention(*rounded))


class Mixer(nn.Module):
    """Two calls of attention between linear layers."""

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.project, self.again = nn.Linear(16, 48), again
        self.out = nn.Linear(16, 16)

    def mixed(self, x: Tensor) -> Tensor:
        heads = self.project(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        once = F.scaled_dot_product_attention(*heads.unbind())
        twice = F.scaled_dot_product_attention(once, heads[1], heads[2], is_causal=True)
        result: Tensor = self.out(twice.transpose(1, 2).reshape(x.shape))
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.mixed, x, use_reentrant=False) if self.again else self.mixed(x)
        return result


def trained(model: nn.Module, x: Tensor, **options: Any) -> tuple[precc.PrecisionModule, list[Tensor]]:
    net = precc.compile(model, attention="fused", **options)
    result = net(x)
    return net, [result.detach(), *torch.autograd.grad(result.square().sum(), list(model.parameters()))]


def example() -> Tensor:
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(5))


def test_calls_of_a_module_are_numbered_and_its_other_products_keep_their_slots() -> None:
    torch.manual_seed(0)
    net, _ = trained(Mixer(), example(), backend="reference", policy="e4m3")
    ops = dict.fromkeys(name.rpartition("/")[0] for name in net.plan.slots)
    assert set(ops) == {"project/product", "attention", "attention#1", "out/product"}
    opened = precc.compile(Mixer(), backend="reference", policy="e4m3")
    opened(example()).sum().backward()
    assert {name for name in net.plan.slots if "product" in name} == {
        name for name in opened.plan.slots if name.startswith(("project", "out"))
    }


def test_layers_of_torch_have_it_too() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    net = precc.compile(layer, backend="reference", attention="fused")
    result = net(example())
    assert torch.equal(result, layer(example()))
    result.sum().backward()
    assert {name for name in net.plan.slots if "/attention" in name} == {
        f"self_attn/attention/{slot}" for slot in SLOTS
    }
    net.set_plan(precc.PrecisionPlan("e4m3"))
    with torch.no_grad():
        rounded = net(example())
        layer.eval()
        assert torch.equal(net.eval()(example()), rounded)
    assert "not rounded: no product" in str(net.report())


class Biased(nn.Module):
    """Attention with a bias that is a product of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, self.places(x[0, 0]))


def test_products_of_a_bias_keep_their_slots_in_the_backward() -> None:
    net = precc.compile(Biased(), backend="reference", attention="fused", policy="e4m3")
    net(inputs()[0]).sum().backward()
    backward = {name for name in net.plan.slots if name.startswith("places/") and "grad_output" in name}
    assert backward == {"places/product/dgrad.grad_output", "places/product/wgrad.grad_output"}
    assert "not rounded: no product" in str(net.report())


@pytest.mark.parametrize("backend", ["inductor", "cpp"])
def test_backends_agree(backend: str) -> None:
    torch.manual_seed(0)
    model = Mixer()
    _, expected = trained(model, example(), backend="reference", policy="e4m3")
    for own, other in zip(trained(model, example(), backend=backend, policy="e4m3")[1], expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_inside_of_the_model_changes_nothing() -> None:
    torch.manual_seed(0)
    model, again = Mixer(), Mixer(again=True)
    again.load_state_dict(model.state_dict())
    plain, expected = trained(model, example(), backend="reference", policy="e4m3")
    net, found = trained(again, example(), backend="reference", policy="e4m3")
    assert all_equal(found, expected)
    assert set(net.plan.slots) == set(plain.plan.slots)


def test_graphs_for_one_plan_alone() -> None:
    torch.manual_seed(0)
    model = Mixer()
    for plan in (precc.PrecisionPlan("e4m3"), PLAN, precc.PrecisionPlan("fp32")):
        _, expected = trained(model, example(), backend="reference", plan=plan)
        assert all_equal(trained(model, example(), backend="reference", plan=plan, live=False)[1], expected)


def test_no_marker_reaches_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, records = [], []
    compile_graph = Reference.compile

    def spying(self: Any, graph: Any, *args: Any, **options: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        records.extend(product.op for _, product in products_of(graph.graph))
        return compile_graph(self, graph, *args, **options)

    monkeypatch.setattr(Reference, "compile", spying)
    trained(Mixer(), example(), backend="reference", policy="e4m3")
    assert not [target for target in targets if "precc.attention" in target]
    assert sum("flash_attention" in target for target in targets) == 4
    assert sorted(op for op in records if "attention" in op) == ["attention"] * 2 + ["attention#1"] * 2


def test_sizes_may_vary() -> None:
    model = Attend(is_causal=True)
    net = precc.compile(model, backend="reference", attention="fused", plan=PLAN, dynamic=True)
    for length in (5, 7, 11):
        own = [x.detach()[:, :, :length].clone().requires_grad_() for x in inputs(keys=11)[1:]]
        own.append(own[0].detach().clone().requires_grad_())
        assert all_equal(gradients(net, own), gradients(lambda *all_: by_hand(model, *all_), own))
    assert net.compilations == 1


@pytest.mark.parametrize("attention", few_always(["fused", "products"], ["fused"]))
def test_a_gpt_and_a_llama_train(attention: str) -> None:
    torch.manual_seed(0)
    gpt = GPT(width=16, layers=2, heads=2, context=16, dropout=0.1)
    ids = torch.randint(0, 128, (2, 12), generator=torch.Generator().manual_seed(6))
    net = precc.compile(gpt, backend="reference", attention=attention, policy="bf16")
    assert falls(net, lambda: F.cross_entropy(net(ids).flatten(0, 1), ids.flatten()))
    names = {name.split("/")[1] for name in net.plan.slots if name.startswith("blocks.0.attention/")}
    assert names == ({"attention"} if attention == "fused" else {"product", "product#1"})

    other = precc.compile(llama(), backend="reference", attention=attention, policy="bf16")
    batch = prompts(2, torch.Generator().manual_seed(7))
    assert falls(other, lambda: other(**batch).loss)
    families = {name.split("/")[1] for name in other.plan.slots if "self_attn/" in name}
    assert families == ({"attention"} if attention == "fused" else {"product", "product#1"})


def falls(net: nn.Module, loss: Callable[[], Tensor]) -> bool:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses[-1] < losses[0]


def test_accumulators_of_a_plan_end_at_its_kernel_and_the_report_says_so() -> None:
    torch.manual_seed(0)
    model = Mixer()
    sums = precc.PrecisionPlan("fp32", default_accumulator="e5m10")
    net, found = trained(model, example(), backend="reference", plan=sums)
    note = "scores and sums as the kernel computes them, whatever the plan: attention, attention#1"
    assert note in str(net.report())
    assert not [name for name in net.plan.accumulators if name.startswith("attention")]
    assert not torch.equal(found[0], model(example()))
    alone = precc.compile(Attend(), backend="reference", attention="fused", plan=sums)
    assert torch.equal(alone(*inputs()), Attend()(*inputs()))
    with pytest.raises(PlanError, match="attention/fprop.accumulator"):
        net.set_plan(precc.PrecisionPlan("fp32", accumulators={"attention/fprop.accumulator": "e5m10"}))


def test_delayed_scales_and_stochastic_bits_are_those_of_its_slots() -> None:
    scaling = precc.Scaling("tensor", scale_format="fp32", history=4)
    policy = precc.Uniform("e4m3", scaling=scaling, rounding="stochastic")
    net = precc.compile(Attend(), backend="reference", attention="fused", policy=policy)
    for _ in range(2):
        net(*inputs()).sum().backward()
    assert set(net.precision_state()["amax"]) == {f"attention/{slot}" for slot in SLOTS}


def test_the_way_out_is_said() -> None:
    fused = precc.compile(Attend(), backend="reference", attention="fused")
    opened = precc.compile(Attend(), backend="reference")
    for net in (fused, opened):
        net(*inputs()).sum().backward()
    with pytest.raises(PlanError, match='attention="fused"'):
        opened.set_plan(PLAN)
    with pytest.raises(PlanError, match='attention="products"'):
        fused.set_plan(precc.PrecisionPlan("fp32", {"product/fprop.a": "e4m3"}))
    with pytest.raises(PlanError, match="attention/fprop.query.*Hadamard"):
        fused.set_plan(precc.PrecisionPlan(precc.Precision("e4m3", transform="hadamard")))
    with pytest.raises(PlanError, match="'flash'"):
        precc.compile(Attend(), attention="flash")
    ruled = precc.compile(Attend(), backend="reference", rules=[precc.Rule("*", family="attention", format="e4m3")])
    with pytest.raises(PlanError, match='attention="fused"'):
        ruled(*inputs())


def test_rules_and_copies() -> None:
    rule = precc.Rule("*", family="attention", role="dgrad", format="e5m2")
    net = precc.compile(Mixer(), backend="reference", attention="fused", policy="e4m3", rules=[rule])
    net(example()).sum().backward()
    assert str(net.plan.precision("attention#1/dgrad.grad_output")) == "float8_e5m2"
    assert "decides 2 slots" in str(net.report())
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    copy = torch.load(stream, weights_only=False)
    copy(example()).sum().backward()
    assert copy.plan.slots == net.plan.slots


def test_the_export_names_its_slots(tmp_path: Path) -> None:
    import onnx

    net = precc.compile(Mixer(), backend="reference", attention="fused", policy="e4m3")
    net(example()).sum().backward()
    precc.export_onnx(net, (example(),), tmp_path / "net.onnx", flavor="annotate")
    model = onnx.load(tmp_path / "net.onnx")
    notes = [{entry.key: entry.value for entry in node.metadata_props} for node in model.graph.node]
    own = [note for note in notes if note.get("precc.op") == "attention#1"]
    assert own
    assert all(note[f"precc.fprop.{name}"] == "float8_e4m3fn" for note in own for name in ("query", "key", "value"))
    assert "attention/fprop.query" in precc.load_plan(tmp_path / "net.onnx").slots
