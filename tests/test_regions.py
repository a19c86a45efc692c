"""Regions: blocks compiled one by one compute, are named, and are controlled as in the whole net."""

import copy
import gc
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import precc
from precc.backends.onnx.export import onnx_model
from precc.errors import CaptureError, PlanError, PrecisionWarning
from precc.module import session_of
from precc.strict_dynamo import HAS_ISOLATION
from tests.nets import Attention, Stack, equal, inputs_of, loss_and_gradients, uniform
from tests.zoo import ZOO, Entry

Regions = str | Sequence[str]


class Block(nn.Module):
    """A layer, and two products of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = (self.fc(x) @ x.mT).softmax(-1) @ x
        return mixed


class Chain(nn.Module):
    """Blocks with products of their own, in which nothing lies outside."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x[..., 0, :10]


def compiled(model: nn.Module, regions: Regions = "blocks.*", **options: Any) -> precc.PrecisionModule:
    """Chains have no matrix outside: a warning would be an error here."""
    return precc.compile(model, regions=regions, **{"backend": "reference", **options})


def warned(model: nn.Module, regions: Regions, **options: Any) -> precc.PrecisionModule:
    with pytest.warns(PrecisionWarning, match="in no region"):
        return compiled(model, regions, **options)


def chain_input() -> Tensor:
    return torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))


def slots(net: precc.PrecisionModule) -> set[str]:
    return set(net.plan.slots)


def step(net: nn.Module, entry: Entry) -> list[Tensor]:
    """Loss and gradients."""
    net.zero_grad()
    loss = entry.loss(net(**entry.inputs(2, torch.Generator().manual_seed(0))))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


def assert_close(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "regions", "exact"),
    [
        ("llama", "model.layers.*", True),
        ("vit", "vit.layers.*", False),  # the images are embedded by another kernel
    ],
)
def test_as_the_whole_model(name: str, regions: Regions, exact: bool) -> None:
    entry = ZOO[name]
    model = entry.factory()
    plain = step(model, entry)
    whole = precc.compile(model, backend="reference", policy="fp32")
    step(whole, entry)
    net = warned(model, regions, policy="fp32")
    assert_close(plain, step(net, entry))
    paths = session_of(net).options.regions
    inside = {name for name in whole.plan.slots if name.startswith(tuple(f"{path}." for path in paths))}
    assert slots(net) == inside
    assert len(inside) > 50
    assert net.compilations == len(paths)
    net.set_plan(uniform("e4m3"))
    whole.set_plan(precc.PrecisionPlan("fp32", dict.fromkeys(inside, "e4m3")))
    rounded, expected = step(net, entry), step(whole, entry)
    assert not torch.equal(rounded[0], plain[0])
    assert equal(rounded, expected) if exact else not assert_close(rounded, expected)
    assert net.compilations == len(paths)


def test_names_classes_and_the_model_itself_stay() -> None:
    model = Stack()
    x = inputs_of(model)
    before = model(x)
    modules = dict(model.named_modules())
    net = warned(model, "blocks.*", policy="e2m1")
    assert [type(block) for block in model.blocks] == [Attention, Attention]
    assert all(isinstance(block, Attention) and type(block) is not Attention for block in net.blocks)
    assert list(net.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(net.parameters(), model.parameters(), strict=True))
    assert [name for name, _ in net.named_modules()] == list(modules)
    assert net.shared is model.shared
    assert not torch.equal(net(x), before)
    assert torch.equal(model(x), before)
    assert dict(model.named_modules()) == modules
    assert {name.split("/")[0] for name in slots(net)} == {
        "blocks.0.query", "blocks.0.key", "blocks.0", "blocks.1.query", "blocks.1.key", "blocks.1"
    }  # fmt: skip


def test_products_of_the_region_itself_are_numbered_for_each_region() -> None:
    net, whole = compiled(Chain()), precc.compile(Chain(), backend="reference")
    for each in (net, whole):
        loss_and_gradients(each, chain_input())
    assert slots(net) == slots(whole)
    assert "blocks.1/product#1/dgrad_a.grad_output" in slots(net)
    net(torch.randn(2, 5, 16))  # frames that are compiled again have the same names
    assert slots(net) == slots(whole)


def test_a_module_in_two_regions_is_numbered_on() -> None:
    def shared() -> nn.Module:
        model, inner = Chain(), nn.Linear(16, 16)
        for block in model.blocks:
            block.fc = inner
        return model

    net, whole = compiled(shared()), precc.compile(shared(), backend="reference")
    for each in (net, whole):
        loss_and_gradients(each, chain_input())
    assert slots(net) == slots(whole)
    assert "blocks.0.fc/product#1/fprop.weight" in slots(net)


def test_a_region_under_two_paths_is_one() -> None:
    model = Chain(1)
    model.blocks.append(model.blocks[0])
    net, plain = compiled(model, policy="e4m3"), copy.deepcopy(model)
    assert net.blocks[0] is net.blocks[1]
    assert session_of(net).options.regions == ("blocks.0",)
    loss_and_gradients(net, chain_input().requires_grad_())
    assert (net.compilations, session_of(net).builds.runs) == (1, 2)
    assert {name.partition("/")[0] for name in slots(net)} == {"blocks.0", "blocks.0.fc"}
    net.set_plan(uniform("fp32"))
    assert_close(loss_and_gradients(net, chain_input()), loss_and_gradients(plain, chain_input()))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ("block.*", "'block.\\*' fits no module of Stack \\(did you mean 'blocks.[01]'"),
        (["blocks.*", "nothing"], "'nothing' fits no module"),
        ("main", "did you mean 'heads.main'"),
        ("*.0.*.x", "does not cross dots"),
        (["blocks.*", "blocks.0.query"], "'blocks.0.query' is inside of the region 'blocks.0'"),
        ("blocks", "'blocks' is a ModuleList, which has no forward: its children are 'blocks.\\*'"),
        ("", "is the model itself: leave regions out"),
        ([], "not \\[\\]"),
        (3, "a glob on module paths, such as 'layers.\\*', or several, not 3"),
    ],
)
def test_regions_that_are_none(regions: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        compiled(Stack(), regions)


def test_modules_that_cannot_be_regions() -> None:
    model = Chain()
    model.blocks[1].forward = model.blocks[0].forward
    with pytest.raises(CaptureError, match=r"'blocks.1' has a forward of its own as an attribute"):
        compiled(model)
    net = compiled(Chain())
    with pytest.raises(CaptureError, match="it is a compiled net already"):
        precc.compile(net.blocks[0])  # type: ignore[index]


def test_what_is_outside_is_named() -> None:
    model = Stack()
    with pytest.warns(PrecisionWarning, match="in no region.*: shared.weight, heads.main.weight$") as caught:
        net = compiled(model, "blocks.*")
    assert [warning.filename for warning in caught] == [__file__]
    net(inputs_of(model))
    assert "in no graph so far (unused, in a like module's graph, or unrounded outside): shared.weight" in str(
        net.report()
    )


def test_a_tied_head_outside_is_named_by_its_product() -> None:
    class Tied(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 16)
            self.head = nn.Linear(16, 10, bias=False)
            self.head.weight = self.table.weight

    with pytest.warns(PrecisionWarning, match="in no region.*: head.weight$"):
        compiled(Tied())


def test_a_net_whose_regions_are_not_called() -> None:
    class Idle(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    with pytest.raises(CaptureError, match=r"called none of its 2 region\(s\), such as 'blocks.0'"):
        compiled(Idle())(chain_input())


def test_a_region_without_an_operation_works_and_one_that_cannot_be_captured_is_named() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    net = compiled(nn.Sequential(Nothing(), nn.Linear(16, 16)), "*", policy="e4m3")
    net(chain_input())
    assert slots(net) == {
        f"1/product/{role}" for role in ("fprop.input", "fprop.weight", "wgrad.grad_output", "wgrad.input")
    }
    with torch.compiler.set_stance("force_eager"), pytest.raises(CaptureError, match=r"Nothing \(region '0'\) ran no"):
        net(chain_input())


def test_wrong_slots_are_named_once_their_region_is_known() -> None:
    class Early(Chain):
        def forward(self, x: Tensor, count: int = 1) -> Tensor:
            for block in self.blocks[:count]:
                x = block(x)
            return x

    net = compiled(Early())
    net(chain_input())
    net.set_plan(precc.PrecisionPlan("fp32", {"blocks.1.fc/product/fprop.nothing": "e4m3"}))
    net(chain_input())  # blocks.1 is still to come
    with pytest.raises(PlanError, match=r"blocks.0.fc/product/fprop.nothing"):
        net.set_plan(precc.PrecisionPlan("fp32", {"blocks.0.fc/product/fprop.nothing": "e4m3"}))
    with pytest.raises(PlanError, match=r"1 slot\(s\) that the net does not have: 'blocks.1.fc/product/fprop.noth"):
        net(chain_input(), 2)


def test_rules_are_judged_when_all_regions_are_known() -> None:
    net = compiled(Chain(), policy="e4m3", rules=[precc.Rule("blocks.1", keep="fp32")])
    loss_and_gradients(net, chain_input())
    precisions = {name.split(".")[1][0]: str(net.plan.precision(name)) for name in slots(net)}
    assert precisions == {"0": "float8_e4m3fn", "1": "float32"}
    late = compiled(Chain(), rules=[precc.Rule("blocks.1", keep="fp32", operand="nothing")])
    with pytest.raises(PlanError, match="decides no slot"):
        late(chain_input())


def test_modes_have_graphs_of_their_own_and_one_set_of_names() -> None:
    net = compiled(Chain(), policy="e4m3")
    x = chain_input()
    with torch.no_grad():
        first = net(x)
    loss_and_gradients(net, x)
    net.eval()
    assert equal([net(x)], [first])
    assert net.compilations == 4
    assert "4 graph(s) by reference (2 with and 2 without a backward)" in str(net.report())
    assert sum(session_of(net).builds.tally.by_format.values()) > 0


def test_copies_and_pickles_have_regions_of_their_own() -> None:
    net, x = compiled(Chain(), policy="e4m3"), chain_input()
    expected = loss_and_gradients(net, x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert session_of(other.blocks[1]._precc_region[0].net("blocks.1")) is session_of(other) is not session_of(net)
        assert equal(loss_and_gradients(other, x), expected)
        other.set_plan(uniform("fp32"))
        assert not equal(loss_and_gradients(other, x), expected)
        assert equal(loss_and_gradients(net, x), expected)
    alone = copy.deepcopy(net.blocks[0])  # type: ignore[index]
    with pytest.raises(CaptureError, match="region 'blocks.0' is called without its net"):
        alone(x)


def test_a_region_that_another_module_replaces_is_an_error() -> None:
    def changed(change: Callable[[nn.ModuleList], Any]) -> precc.PrecisionModule:
        net = compiled(Chain(), policy="e4m3")
        net(chain_input())
        blocks = net.blocks
        assert isinstance(blocks, nn.ModuleList)
        change(blocks)
        return net

    changes: list[Callable[[nn.ModuleList], Any]] = [
        lambda blocks: blocks.__setitem__(0, Block()),
        lambda blocks: blocks.__delitem__(0),
        lambda blocks: blocks.insert(0, blocks.pop(1)),
    ]
    for change in changes:
        with pytest.raises(CaptureError, match="the region 'blocks.0' was taken away or replaced"):
            changed(change)(chain_input())
    changed(lambda blocks: blocks.__setitem__(0, nn.Sequential(blocks[0])))(chain_input())


def test_a_state_goes_on_in_another_net() -> None:
    scaling = precc.Scaling("tensor", scale_format="fp32", history=4)
    net, x = compiled(Chain(), policy=precc.Uniform("e4m3", scaling=scaling)), chain_input()
    for _ in range(2):
        loss_and_gradients(net, 0.3 * x)
    other = compiled(Chain())
    other.load_state_dict(net.state_dict())
    file = io.BytesIO()
    torch.save(net.precision_state(), file)
    file.seek(0)
    other.load_precision_state(torch.load(file))
    assert equal(loss_and_gradients(other, x), loss_and_gradients(net, x))
    assert session_of(other).amax.to_lists() == session_of(net).amax.to_lists()
    assert set(session_of(net).amax.to_lists()) == slots(net)


def test_stochastic_bits_repeat_with_the_seed_and_in_checkpoints() -> None:
    class Saving(Chain):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
            return x[..., 0, :10]

    net, x = compiled(Saving(), policy=precc.Uniform("e4m3", rounding="stochastic")), chain_input()
    first = loss_and_gradients(net, x, seed=1)
    assert equal(loss_and_gradients(net, x, seed=1), first)
    assert not equal(loss_and_gradients(net, x, seed=2), first)
    assert equal(loss_and_gradients(net.eval(), x, seed=1), first)  # without checkpoints


def test_accumulators_have_the_graphs_built_again() -> None:
    net, x = compiled(Chain(), policy="e4m3"), chain_input()
    loss_and_gradients(net, x)
    known = slots(net)
    sums = precc.PrecisionPlan("e4m3", default_accumulator="e5m10")
    with pytest.raises(PlanError, match="recompile=True"):
        net.set_plan(sums)
    net.set_plan(sums, recompile=True)
    assert slots(net) == known
    rounded = loss_and_gradients(net, x)
    assert (net.compilations, slots(net)) == (4, known)
    fresh = compiled(Chain(), plan=sums)
    fresh.load_state_dict(net.state_dict())
    assert equal(loss_and_gradients(fresh, x), rounded)


def test_the_trust_region_controls_all_regions() -> None:
    net, x = compiled(Chain()), chain_input()
    opt = precc.TrustRegion(net)
    losses = [float(opt.step(lambda: net(x).square().mean())) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert net.compilations == 2


@pytest.mark.skipif(not HAS_ISOLATION, reason="this torch takes the regions for its own: an error of ours")
def test_a_user_s_compiler_and_hooks_around_regions() -> None:
    net, x = compiled(Chain(), policy="e4m3"), chain_input()
    expected = net(x)
    for other in (net, copy.deepcopy(net)):
        assert equal([torch.compile(other, backend="eager")(x)], [expected])
        assert other.compilations == 2
    net.blocks[0].register_forward_hook(lambda module, args, output: output * 0)  # type: ignore[index, operator]
    assert not net(x).any()


def test_sharded_regions() -> None:
    net, x = compiled(Chain(), policy="e4m3"), chain_input()
    expected = loss_and_gradients(copy.deepcopy(net), x)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in net.blocks:
            fully_shard(block, mesh=mesh)
        sharded = loss_and_gradients(net, x)
        assert equal([getattr(value, "full_tensor", value.clone)() for value in sharded], expected)
        assert net.compilations == 2
        assert "in no graph" not in str(net.report())
    finally:
        distributed.destroy_process_group()


def test_an_export_annotates_the_regions_alone() -> None:
    net = warned(Stack(), "blocks.*", policy="e4m3")
    x = inputs_of(Stack())
    loss_and_gradients(net, x)
    _, document = onnx_model(net, (x,))
    assert {name.rpartition("/")[0] for name in document.places} == {name.rpartition("/")[0] for name in slots(net)}


def test_inductor_computes_the_same_and_compiles_like_blocks_once() -> None:
    net, x = compiled(Chain(), policy="e4m3", backend="inductor"), chain_input().requires_grad_()
    other = compiled(Chain(), policy="e4m3")
    other.load_state_dict(net.state_dict())
    torch._dynamo.utils.counters.clear()
    rounded = loss_and_gradients(net, x)
    hits = torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"]
    assert hits >= 2  # forward and backward of the second block
    for a, b in zip(rounded, loss_and_gradients(other, x), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)


class Skips(Chain):
    """A stochastic depth."""

    def forward(self, x: Tensor, keeps: Sequence[bool] = (True, True)) -> Tensor:
        for block, keep in zip(self.blocks, keeps, strict=True):
            x = block(x) if keep else x
        return x[..., 0, :10]


def test_a_call_may_skip_all_regions_once_one_has_run() -> None:
    net, x = compiled(Skips(), policy="e4m3"), chain_input()
    with pytest.raises(CaptureError, match="called none of its 2 region.*or it skipped all of them by chance"):
        net(x, (False, False))
    net(x, (True, False))
    assert torch.equal(net(x, (False, False)), x[..., 0, :10])
    assert torch.equal(net(x), compiled(net_of(net), policy="e4m3")(x))
    net.set_plan(precc.Uniform("e4m3", accumulator="e5m10").assign(), recompile=True)
    assert torch.equal(net(x, (False, False)), x[..., 0, :10])  # new graphs make it no other net


def net_of(net: precc.PrecisionModule) -> nn.Module:
    """A model of the same parameters."""
    model = Skips()
    model.load_state_dict(net.state_dict())
    return model


def test_regions_of_a_net_whose_shallow_copy_is_gone_can_be_called() -> None:
    net, x = compiled(Chain(), policy="e4m3"), chain_input()
    net(x)
    other = copy.copy(net)
    expected = other(x)
    del other
    gc.collect()
    net.blocks[0](x)  # type: ignore[index, operator]
    assert torch.equal(net(x), expected)


class Assigned(nn.Module):
    """Its forward is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.forward = lambda x: self.fc(x)


def test_a_region_with_a_forward_of_its_own_is_refused() -> None:
    with pytest.raises(CaptureError, match="the region '0' has a forward of its own as an attribute"):
        compiled(nn.Sequential(Assigned()), "*")


def test_the_report_does_not_say_that_all_is_rounded_where_matrices_lie_outside() -> None:
    net = warned(Stack(), "blocks.*", policy="e4m3")
    loss_and_gradients(net, inputs_of(Stack()))
    assert "not rounded: no product" not in str(net.report())
    assert "or unrounded outside): shared" in str(net.report())
