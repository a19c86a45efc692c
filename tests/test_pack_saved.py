"""What a backward rounds is saved packed: the same losses and gradients in less memory, however graphs are used."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import precc
import precc.api
from precc.backends.triton.backend import Triton
from precc.formats import Scaling
from precc.models.lenet5 import LeNet5
from precc.models.mlp import MLP
from precc.packing import PACK, UNPACK, PackedLayout
from precc.passes.pack_saved import PackSaved
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.protocols import GraphContext

ROWS, WIDTH = 24, 32


class Layers(nn.Module):
    """Two products of one norm, a relu between products, and a product of two activations, one of them transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.third, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        hidden = self.first(hidden).sigmoid() * self.second(hidden)
        hidden = self.last(self.third(hidden).relu())
        weights = (hidden.tanh() @ hidden.sin().transpose(-1, -2)).softmax(-1)
        result: Tensor = weights @ hidden.cos()
        return result


class Normed(nn.Module):
    """One product, of a norm: all that its backward reads of the norm's result is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(self.norm(x))
        return result


class Block(nn.Module):
    """A norm and two products with a relu between."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.first(self.norm(x)).relu())
        return result


class _Kept:
    """Counts the bytes that autograd saves of other tensors than these."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {own.untyped_storage().data_ptr() for own in model.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage
        return value

    @property
    def bytes(self) -> int:
        return sum(own.nbytes() for own in self.storages.values())


def net_of(model: nn.Module, *, packed: bool, **options: Any) -> precc.PrecisionModule:
    net = precc.compile(model, backend="reference", **options)
    for entry in net._precc_session.builds.entries.values():
        entry.compiler.saving = (PackSaved(),) if packed else ()
    return net


def example(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, ROWS, WIDTH, generator=torch.Generator().manual_seed(batch)).to(dtype)


def gradients(model: nn.Module) -> list[Tensor]:
    found = [own.grad.clone() for own in model.parameters() if own.grad is not None]
    model.zero_grad()
    return found


def trained(
    make: Callable[[], nn.Module], inputs: Sequence[Tensor], *, packed: bool, **options: Any
) -> tuple[list[Tensor], int]:
    """Losses and gradients of a step on each input, and the bytes that the forwards saved."""
    torch.manual_seed(3)
    model = make()
    net = net_of(model, packed=packed, **options)
    results, total = [], 0
    for x in inputs:
        kept = _Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda value: value):
            loss = net(x).float().square().mean()
        loss.backward()
        results += [loss.detach(), *gradients(model)]
        total += kept.bytes
        with torch.no_grad():
            for own in model.parameters():
                own.mul_(0.99)
    return results, total


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def both(make: Callable[[], nn.Module], inputs: Sequence[Tensor], **options: Any) -> tuple[int, int]:
    """The bytes saved without and with packing; results must be the same."""
    plain, before = trained(make, inputs, packed=False, **options)
    packed, after = trained(make, inputs, packed=True, **options)
    assert same(plain, packed)
    return before, after


CHOICES: dict[str, Precision | str] = {
    **{name: name for name in ("e4m3", "e5m2", "bf16", "int8", "int4", "mxfp8", "mxfp4", "nvfp4", "e3m2", "fp32")},
    "stochastic": Precision("e5m2", "stochastic"),
    "static": Precision("e4m3", scaling=Scaling("static", value=0.5)),
    "tensor": Precision("e4m3", scaling="tensor"),
    "block": Precision("e2m1", scaling=Scaling("block", size=16)),
    "channel": Precision("int8", scaling="channel"),
    "hadamard": Precision("e4m3", transform="hadamard"),
}


def test_every_format_trains_alike_in_one_graph() -> None:
    """Formats are exchanged while the same halves run."""

    def run(packed: bool) -> dict[str, list[Tensor]]:
        torch.manual_seed(0)
        model, found = Layers(), {}
        net = net_of(model, packed=packed)
        for name, choice in CHOICES.items():
            net.set_plan(PrecisionPlan(choice))
            torch.manual_seed(5)  # of the keys
            loss = net(example()).square().mean()
            loss.backward()
            found[name] = [loss.detach(), *gradients(model)]
        assert net._precc_session.graphs.count == 1
        return found

    plain, packed = run(False), run(True)
    assert [name for name in CHOICES if not same(plain[name], packed[name])] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_dtype_trains_alike(dtype: torch.dtype) -> None:
    before, after = both(lambda: Block().to(dtype), [example(dtype=dtype)], policy="e4m3")
    assert after < before


@pytest.mark.parametrize("make", [MLP, pytest.param(LeNet5, marks=pytest.mark.slow)])
def test_models_train_alike(make: Callable[[], nn.Module]) -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before, after = both(make, [images, images], policy="e4m3")
    assert after < before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "share"), [("gpt", "GPT", 0.64), ("lstm", "LSTMLanguageModel", 1.0)])
def test_larger_models_train_alike(name: str, kind: str, share: float) -> None:
    module = importlib.import_module(f"precc.models.{name}")
    before, after = both(lambda: _FirstOf(getattr(module, kind)()), module.example_inputs(), policy="e4m3")
    assert after < share * before


class _FirstOf(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor) -> Tensor:
        result = self.model(*args)
        first: Tensor = result[0] if isinstance(result, tuple) else result
        return first


def test_memory_is_that_of_the_formats() -> None:
    """The norm's result is saved packed, and nothing else changes."""
    model, shape = Normed(), (2 * ROWS, WIDTH)
    nets = [net_of(model, packed=packed) for packed in (False, True)]
    for name, choice in CHOICES.items():
        saved = []
        for net in nets:
            net.set_plan(PrecisionPlan(choice))
            kept = _Kept(model)
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda value: value):
                net(example()).sum().backward()
            saved.append(kept.bytes)
        (product,) = (own for own in net._precc_session.graphs.current[0].products if own.role.value == "wgrad")
        operand = next(own for own in product.operands if own.slot.operand == "input")
        row = net.plan.precision(operand.slot.name).row(axis=operand.contracted, channel=operand.channel)
        packed = PackedLayout.of(row, shape, torch.float32, True).bytes
        assert saved[0] - saved[1] == 4 * 2 * ROWS * WIDTH - packed, name


def test_a_net_without_a_plan_keeps_one_product_s_operand_as_it_is() -> None:
    before, after = both(Normed, [example()])
    assert after == before


def test_several_slots_share_a_copy_in_a_graph_for_one_plan() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.norm(x)
            result: Tensor = self.first(hidden) + self.second(hidden)
            return result

    def make() -> nn.Module:
        return Twice().bfloat16()

    inputs = [example(dtype=torch.bfloat16)]
    before, live = both(make, inputs, policy="e4m3")
    assert live == before  # two copies of 8 bits are not less than 16
    assert both(make, inputs, policy="e4m3", live=False) == (before, before - 2 * ROWS * WIDTH)
    mixed = PrecisionPlan("e4m3", {"first/product/wgrad.input": "e5m2"})
    assert both(make, inputs, plan=mixed, live=False) == (before, before)


def test_sizes_may_be_symbols() -> None:
    symbolic = both(Normed, [example(2), example(3)], policy="e4m3", dynamic=True)
    fixed = [both(Normed, [example(batch)], policy="e4m3") for batch in (2, 3)]
    assert symbolic == tuple(map(sum, zip(*fixed, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, None])
def test_sizes_of_transposed_operands_may_be_symbols(dynamic: bool | None) -> None:
    before, after = both(Layers, [example(2), example(3), example(5)], policy="e4m3", dynamic=dynamic)
    assert after < before


def test_a_backward_may_run_twice_and_late() -> None:
    def run(packed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Block()
        net = net_of(model, packed=packed, policy="e4m3")
        first, second = net(example(2)).sum(), net(example(2) + 1).sum()
        second.backward()
        found = gradients(model)
        first.backward(retain_graph=True)
        found += gradients(model)
        first.backward()
        return found + gradients(model)

    results = run(True)
    assert same(results, run(False))
    third = len(results) // 3
    assert same(results[third : 2 * third], results[2 * third :])


def test_a_backward_has_the_plan_of_its_forward() -> None:
    def run(packed: bool, other: str) -> list[Tensor]:
        torch.manual_seed(0)
        model = Block()
        net = net_of(model, packed=packed, policy="e4m3")
        loss = net(example()).sum()
        net.set_plan(PrecisionPlan(other))
        loss.backward()
        return gradients(model)

    assert same(run(True, "bf16"), run(False, "bf16"))


def test_values_that_come_in_may_be_written_to_later() -> None:
    torch.manual_seed(0)
    model = Block()
    net = net_of(model, packed=True, policy="e4m3")
    loss = net(example()).sum()
    loss.backward()
    wanted = gradients(model)
    loss = net(example()).sum()
    with torch.no_grad():
        model.first.bias.zero_()  # no backward reads it
    loss.backward()
    assert same(wanted, gradients(model))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_around_a_net(reentrant: bool) -> None:
    def run(packed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Block()
        net = net_of(model, packed=packed, policy="e4m3")
        x = example().requires_grad_()
        checkpoint(net, x, use_reentrant=reentrant).sum().backward()
        assert x.grad is not None
        return [x.grad, *gradients(model)]

    assert same(run(True), run(False))


def test_checkpoints_inside_a_net() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Block()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.layers, x, use_reentrant=False) + self.layers(x)
            return result

    before, after = both(Inside, [example()], policy="e4m3")
    assert after < before


def test_regions() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return x

    before, after = both(Two, [example()], policy="e4m3", regions="layers.*")
    assert after < before


def test_forwards_without_gradients_save_nothing() -> None:
    net = net_of(Block(), packed=True, policy="e4m3")
    with torch.no_grad():
        without = net(example())
    assert torch.equal(without, net(example()).detach())


def test_histories_are_the_same() -> None:
    delayed = Precision("e4m3", scaling=Scaling("tensor", history=4))

    def run(packed: bool) -> tuple[list[Tensor], dict[str, list[float]]]:
        torch.manual_seed(0)
        model = Block()
        net = net_of(model, packed=packed, plan=PrecisionPlan(delayed))
        found = []
        for batch in range(3):
            loss = net(example() * (batch + 1)).square().sum()
            loss.backward()
            found += [loss.detach(), *gradients(model)]
        return found, net._precc_session.builds.amax.to_lists()

    (plain, history), (packed, own) = run(False), run(True)
    assert same(plain, packed)
    assert history == own
    assert {len(values) for values in history.values()} == {3}


class _Seen:
    """The halves of a graph, after the pass."""

    name = "seen"

    def __init__(self) -> None:
        self.forward, self.backward = torch.fx.Graph(), torch.fx.Graph()

    def run(
        self,
        forward: torch.fx.GraphModule,
        backward: torch.fx.GraphModule,
        visible_outputs: int,
        context: GraphContext,
    ) -> None:
        PackSaved().run(forward, backward, visible_outputs, context)
        self.forward, self.backward = forward.graph, backward.graph


def halves(model: nn.Module, x: Tensor, **options: Any) -> _Seen:
    net, seen = net_of(model, packed=True, **options), _Seen()
    for entry in net._precc_session.builds.entries.values():
        entry.compiler.saving = (seen,)
    net(x).sum().backward()
    return seen


def test_a_value_is_packed_as_soon_as_it_is_there() -> None:
    nodes = list(halves(Block(), example(), policy="e4m3").forward.nodes)
    places = {node: n for n, node in enumerate(nodes)}
    for node in nodes:
        if node.target is PACK:
            assert places[node] - max(places[own] for own in node.all_input_nodes) < 4


def test_codes_have_the_contracted_dimension_last() -> None:
    seen = halves(Layers(), example(), policy="e4m3")
    unpacked = seen.backward.find_nodes(op="call_function", target=UNPACK)
    assert unpacked
    for node in unpacked:
        (product,) = node.users
        assert node.args[5] is (product.args[1] is node)


def test_parameters_inputs_and_results_are_saved_as_they_are() -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, 16)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = F.layer_norm(x, (WIDTH,))
            return self.linear(hidden), hidden

    for model in (nn.Linear(WIDTH, 16), _FirstOf(Shown())):
        packed = halves(model, example(), policy="e4m3").forward.find_nodes(op="call_function", target=PACK)
        assert bool(packed) == isinstance(model, _FirstOf)
    net, seen = net_of(Shown(), packed=True, policy="e4m3"), _Seen()
    net._precc_session.builds.entries[""].compiler.saving = (seen,)
    net(example())[0].sum().backward()
    assert not seen.forward.find_nodes(op="call_function", target=PACK)


def test_gates_of_a_relu_let_through_what_they_did() -> None:
    """NaN and zeros of both signs too, which the sign of a code would not tell."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear((x * 1.0).relu())
            return result

    x = example()
    x.view(-1)[:6] = torch.tensor([float("nan"), 0.0, -0.0, 1e-30, float("inf"), -float("inf")])

    def run(packed: bool) -> Tensor:
        torch.manual_seed(0)
        own = x.clone().requires_grad_()
        net_of(Gated(), packed=packed, policy="e4m3")(own).sum().backward()
        assert own.grad is not None
        return own.grad

    torch.testing.assert_close(run(True), run(False), rtol=0, atol=0, equal_nan=True)
    seen = halves(Gated(), x.clone().requires_grad_(), policy="e4m3")
    assert [node.name for node in seen.forward.nodes if node.name.startswith("closed_")]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("between", ["eager", "inductor"])
def test_kernels_read_what_is_saved(between: Any, dynamic: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed tensors have other sizes in each plan, also between graphs by Inductor."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    model = Block()
    net = net_of(model, packed=True, dynamic=dynamic)
    monkeypatch.setattr(precc.api, "find_backend", lambda name: (Triton(between=between), ""))
    own = precc.compile(model, backend="triton", dynamic=dynamic)
    for batch, choice in enumerate(("e4m3", "bf16", "e2m1", "fp32", "nvfp4", CHOICES["tensor"]), start=2):
        results = []
        for each in (net, own):
            each.set_plan(PrecisionPlan(choice))
            loss = each(example(2 + batch % 2)).square().mean()
            loss.backward()
            results.append([loss.detach(), *gradients(model)])
        for wanted, found in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
