"""Slot names: of the model alone, the same wherever the model runs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.backends import BACKENDS
from precc.backends.onnx.export import onnx_model
from precc.errors import PlanError, PrecisionWarning
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import CallNumbers, Role, Slot
from tests.nets import MODELS, Attention, Broken, Convolutional, Stack, equal, inputs_of, loss_of, uniform


def training_slots(net: precc.PrecisionModule) -> set[str]:
    return {slot.name for graph in net._precc_session.graphs.current for slot in graph.slots if graph.training}


def fprop(names: set[str]) -> set[str]:
    return {name for name in names if "/fprop." in name}


def test_names_of_a_convolutional_net() -> None:
    net = precc.compile(Convolutional(), backend="reference")
    loss_of(net, inputs_of(Convolutional())).backward()
    ops = {Slot.parse(name).op for name in net.plan.slots}
    assert ops == {"conv/product", "grouped/product", "up/product", "head/product"}
    assert {name for name in net.plan.slots if name.startswith("up/")} == {
        "up/product/fprop.input",
        "up/product/fprop.weight",
        "up/product/dgrad.grad_output",
        "up/product/dgrad.weight",
        "up/product/wgrad.grad_output",
        "up/product/wgrad.input",
    }
    # the images need no gradient
    assert not [name for name in net.plan.slots if name.startswith("conv/product/dgrad")]


def test_names_of_products_of_activations() -> None:
    net = precc.compile(Stack(), backend="reference")
    loss_of(net, inputs_of(Stack())).backward()
    ops = {Slot.parse(name).op for name in net.plan.slots}
    in_block = {"query/product", "key/product", "product", "product#1", "product#2", "product#3", "product#4"}
    assert ops == {
        *(f"blocks.{k}{'.' if '/' in op else '/'}{op}" for k in (0, 1) for op in in_block),
        "shared/product",
        "shared/product#1",
        "heads.main/product",
    }
    assert {name.partition("#1/")[2] for name in net.plan.slots if name.startswith("blocks.1/product#1/")} == {
        "fprop.a",
        "fprop.b",
        "dgrad_a.grad_output",
        "dgrad_a.b",
        "dgrad_b.grad_output",
        "dgrad_b.a",
    }
    # the parameter at the root of a block is a weight
    assert "blocks.1/product#4/wgrad.input" in net.plan.slots


@pytest.mark.parametrize("model_class", MODELS)
def test_names_are_the_same_everywhere(model_class: type[nn.Module]) -> None:
    model = model_class()
    x = inputs_of(model)
    names = {}
    for backend in BACKENDS if model_class is Attention else ["reference"]:
        net = precc.compile(model, backend=backend)
        loss_of(net.train(), x).backward()
        names[backend] = training_slots(net)
        for mode in (net.train, net.eval):
            mode()
            loss_of(net, x).backward()
            loss_of(net, inputs_of(model, batch=7)).backward()  # dynamic batch
            with torch.no_grad():
                net(x)
        graphs = net._precc_session.graphs.current
        assert any(not graph.training for graph in graphs)
        assert any(isinstance(p.multiply_adds, torch.SymInt) for graph in graphs for p in graph.products)
        for graph in graphs:
            ours = {slot.name for slot in graph.slots}
            assert ours == (names[backend] if graph.training else fprop(names[backend]))
    assert all(other == names["reference"] for other in names.values())

    _, document = onnx_model(net, (x,), flavor="annotate")
    assert set(document.places) == fprop(names["reference"])


def test_names_survive_an_eval_call_that_comes_first() -> None:
    model = Stack()
    x = inputs_of(model)
    net = precc.compile(model.eval(), backend="reference")
    with torch.no_grad():
        net(x)
    first = set(net.plan.slots)
    loss_of(net.train(), x).backward()
    assert first == fprop(training_slots(net))


def test_frozen_parameters_are_weights_still() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    net = precc.compile(model, backend="reference")
    net(torch.randn(2, 4)).sum().backward()
    assert set(net.plan.slots) == {
        "0/product/fprop.input",
        "0/product/fprop.weight",
        "1/product/fprop.input",
        "1/product/fprop.weight",
        "1/product/wgrad.grad_output",
        "1/product/wgrad.input",
    }


def test_a_computed_weight_is_a_weight() -> None:
    net = precc.compile(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), backend="reference")
    net(torch.randn(2, 4)).sum().backward()
    assert fprop(set(net.plan.slots)) == {"product/fprop.input", "product/fprop.weight"}


class GramMatrix(nn.Module):
    """x @ x.T: both operands are one tensor."""

    def __init__(self, *, batched: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batched = batched

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        y = y if self.batched else y[0]
        return y @ y.transpose(-1, -2)


@pytest.mark.parametrize("batched", [True, False])
def test_the_two_gradients_of_a_product_with_itself_are_told_apart(batched: bool) -> None:
    model = GramMatrix(batched=batched)
    x = torch.randn(2, 3, 5)
    net = precc.compile(model, backend="reference")
    upstream = torch.randn(2, 3, 3) if batched else torch.randn(3, 3)
    fmt = precc.FORMATS["float4_e2m1fn"]

    def gradient(slot: str | None) -> Tensor:
        slots = {slot: Precision(fmt)} if slot else {}
        net.set_plan(PrecisionPlan(net.plan.default, slots))
        net.zero_grad()
        net(x).backward(upstream)
        assert model.scale.grad is not None
        return model.scale.grad.clone()

    gradient(None)
    y = x if batched else x[0]
    rounded = precc.round_to(upstream, fmt)
    towards_a, towards_b = upstream @ y, upstream.transpose(-1, -2) @ y
    low_a, low_b = rounded @ y, rounded.transpose(-1, -2) @ y
    ours_a, ours_b = gradient("product/dgrad_a.grad_output"), gradient("product/dgrad_b.grad_output")
    assert torch.allclose(ours_a, ((low_a + towards_b) * y).sum(), rtol=1e-5)
    assert torch.allclose(ours_b, ((towards_a + low_b) * y).sum(), rtol=1e-5)


def test_names_parse_back() -> None:
    slot = Slot("layers.0", "product", 2, Role.DGRAD_B, "a")
    assert slot.name == "layers.0/product#2/dgrad_b.a"
    assert Slot.parse(slot.name) == slot
    root = Slot("", "product", 0, Role.FPROP, "input")
    assert Slot.parse(root.name) == root
    for wrong in ("", "conv", "conv/product", "conv/product/fprop", "conv/product#x/fprop.a", "conv/product/up.a"):
        with pytest.raises(PlanError, match="slot name"):
            Slot.parse(wrong)


def test_call_numbers_go_on_after_a_graph_break_and_stay_for_a_recompilation() -> None:
    numbers = CallNumbers()
    key = ("block", "product")
    assert numbers.number(0, {key: 2}) == {key: 0}
    assert numbers.number(1, {key: 1}) == {key: 2}
    assert numbers.number(0, {key: 2}) == {key: 0}
    assert numbers.number(1, {key: 1}) == {key: 2}


def test_slots_on_both_sides_of_a_graph_break_differ() -> None:
    net = precc.compile(Broken(), policy="e4m3", backend="reference")
    with pytest.warns(PrecisionWarning, match="Broken is captured in pieces"):
        net(torch.randn(2, 4)).sum().backward()
    assert net.compilations == 2
    assert fprop(set(net.plan.slots)) == {
        f"fc/product{call}/fprop.{operand}" for call in ("", "#1") for operand in ("input", "weight")
    }
    assert "graph break" in str(net.report())


class Wrapper(nn.Module):
    """Graph breaks inside a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Broken()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner(x))


def test_a_graph_break_inside_a_submodule_keeps_full_paths() -> None:
    net = precc.compile(Wrapper(), policy="e4m3", backend="reference")
    with pytest.warns(PrecisionWarning, match="Wrapper is captured in pieces"):
        net(torch.randn(2, 4)).sum().backward()
    assert {Slot.parse(name).op for name in net.plan.slots} == {"inner.fc/product", "inner.fc/product#1"}


def test_what_two_nets_round_does_not_depend_on_the_name_of_a_variable() -> None:
    def build(layer: Any) -> nn.Module:
        class Net(nn.Module):
            def __init__(this) -> None:
                super().__init__()
                this.fc = layer

            def forward(this, x: Tensor) -> Tensor:
                result: Tensor = this.fc(x)
                return result

        return Net()

    net = precc.compile(build(nn.Linear(4, 4)), policy="e4m3", backend="reference")
    x = torch.randn(2, 4)
    low = net(x)
    assert "fc/product/fprop.input" in net.plan.slots
    net.set_plan(uniform("float32"))
    assert not equal([low], [net(x)])


class DropoutAttention(nn.Module):
    """Fused attention whose kernel depends on the mode, and a product after it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(x, x, x, dropout_p=0.1 if self.training else 0.0)
        return attended @ self.out


def test_fused_attention_has_the_slots_of_its_products_in_every_mode() -> None:
    net = precc.compile(DropoutAttention(), policy="e4m3", backend="reference")
    x = torch.randn(1, 2, 4, 8, requires_grad=True)
    net(x).sum().backward()
    trained = training_slots(net)
    assert {Slot.parse(name).op for name in trained} == {"product", "product#1", "product#2"}
    assert "product#2/wgrad.input" in trained
    net.eval()(x).sum().backward()
    with torch.no_grad():
        net(x)
    assert set(net.plan.slots) == trained
    _, document = onnx_model(net, (x.detach(),))
    assert {Slot.parse(name).op for name in document.places} == {"product", "product#1", "product#2"}


def test_the_fused_transformer_layer_rounds_in_eval_too() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    net = precc.compile(model, policy="e2m1", backend="reference")
    x = torch.randn(2, 5, 16)
    trained = net(x)
    trained.sum().backward()
    names = training_slots(net)
    with torch.no_grad():
        inferred = net.eval()(x)
    assert torch.allclose(inferred, trained, atol=1e-5)
    assert set(net.plan.slots) == names
    onnx_model(net, (x,))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_zeros_of_the_size_of_a_batch_are_no_activation(kind: type[nn.RNNBase]) -> None:
    """The first state of a recurrent layer; its size is a number in one graph, and comes from the input in another."""
    net = precc.compile(kind(4, 4, batch_first=True), policy="e4m3", backend="reference")
    names = []
    for batch in (2, 5):
        net(torch.randn(batch, 3, 4))[0].sum().backward()
        names.append(set(net.plan.slots))
    assert names[0] == names[1]
    _, document = onnx_model(net, (torch.randn(2, 3, 4),), dynamic_shapes="batch")
    assert set(document.places) == fprop(names[0])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("first", [True, False])
def test_recurrent_layers_have_slots_in_every_mode(kind: type[nn.RNNBase], first: bool) -> None:
    recurrent = kind(4, 4, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), recurrent) if first else recurrent
    x = torch.randn(2, 3, 4)
    plain = model(x)[0]
    net = precc.compile(model, backend="reference", fullgraph=True)
    trained = net(x)[0]
    assert torch.allclose(trained, plain, atol=1e-6)
    trained.sum().backward()
    names = training_slots(net)
    assert {Slot.parse(name).layer for name in names} == ({"0", "1"} if first else {""})
    net.set_plan(uniform("e2m1"))
    low = net(x)[0]
    with torch.no_grad():
        assert torch.allclose(net(x)[0], low, atol=1e-5)
    assert set(net.plan.slots) == names
    assert not torch.allclose(low, plain, atol=1e-3)
    assert not net._precc_session.graphs.outside(net)
    assert torch._C._get_mkldnn_enabled()


class MatrixTimesBatch(nn.Module):
    """torch transposes this product where a gradient is needed, and else does not."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * 1.0) @ b


@pytest.mark.parametrize("operand", ["a", "b"])
@pytest.mark.parametrize("batch", [(), (1,), (2,)])
def test_the_operands_of_a_product_do_not_change_places(operand: str, batch: tuple[int, ...]) -> None:
    a, b = torch.randn(*batch, 3, 4), torch.randn(2, 4, 5)
    net = precc.compile(MatrixTimesBatch(), backend="reference")
    net.set_plan(PrecisionPlan("float32", {f"product/fprop.{operand}": "e2m1"}))
    low = {"a": a, "b": b} | {operand: precc.round_to({"a": a, "b": b}[operand], "e2m1")}
    expected = low["a"] @ low["b"]
    with torch.no_grad():
        inferred = net(a, b)
    trained = net(a.requires_grad_(), b.requires_grad_())
    trained.sum().backward()
    assert torch.allclose(inferred, expected, atol=1e-6)
    assert torch.allclose(trained, expected, atol=1e-6)


class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(self.b(x))
        return result


def test_a_module_under_two_names_has_the_first() -> None:
    net = precc.compile(TwoNames(), backend="reference")
    net(torch.randn(2, 4)).sum().backward()
    assert {Slot.parse(name).op.partition("/")[2] for name in net.plan.slots} == {"product", "product#1"}
    onnx_model(net, (torch.randn(2, 4),))


CONVOLUTION_SLOTS = [
    "fprop.input",
    "fprop.weight",
    "dgrad.grad_output",
    "dgrad.weight",
    "wgrad.grad_output",
    "wgrad.input",
]


@pytest.mark.parametrize("slot", CONVOLUTION_SLOTS)
@pytest.mark.parametrize("transposed", [False, True])
def test_each_slot_of_a_convolution_rounds_its_own_operand(slot: str, transposed: bool) -> None:
    """Against the derivatives written out, with one operand rounded beforehand."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = kind(4, 6, 3, stride=2, padding=1, groups=2)
    functional = F.conv_transpose2d if transposed else F.conv2d
    options = {"stride": 2, "padding": 1, "groups": 2}
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    net = precc.compile(model, plan=PrecisionPlan("float32", {f"product/{slot}": "e2m1"}), backend="reference")
    output = net(x)
    upstream = torch.randn_like(output)
    output.backward(upstream)

    def low(name: str, value: Tensor) -> Tensor:
        value = value.detach()
        return precc.round_to(value, "e2m1") if name == slot else value

    def gradients(role: str) -> tuple[Tensor, ...]:
        with_input = low(f"{role}.input", x).requires_grad_()
        with_weight = low(f"{role}.weight", model.weight).requires_grad_()
        product = functional(with_input, with_weight, None, **options)
        return torch.autograd.grad(product, [with_input, with_weight], low(f"{role}.grad_output", upstream))

    forward = functional(low("fprop.input", x), low("fprop.weight", model.weight), model.bias, **options)
    assert x.grad is not None
    assert model.weight.grad is not None
    assert model.bias is not None
    assert model.bias.grad is not None
    assert torch.allclose(output, forward, atol=1e-5)
    assert torch.allclose(x.grad, gradients("dgrad")[0], atol=1e-5)
    assert torch.allclose(model.weight.grad, gradients("wgrad")[1], atol=1e-4)
    assert torch.allclose(model.bias.grad, upstream.sum((0, 2, 3)), atol=1e-4)


class InPieces(nn.Module):
    """Captured in pieces, with the same layer in each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        torch._dynamo.graph_break()
        return self.fc(self.fc(x))


@pytest.mark.filterwarnings("ignore::precc.PrecisionWarning")
def test_names_stay_when_dynamo_begins_anew() -> None:
    """torch.compiler.reset() drops all graphs; Dynamo then numbers frames from 0, whatever they had before."""
    nets = [precc.compile(own, backend="reference") for own in (nn.Linear(8, 3), InPieces(), nn.Linear(8, 2))]
    x, first = torch.randn(4, 8), []
    for net in nets:
        net.set_plan(precc.PrecisionPlan("float32", {f"{'fc/' * (net is nets[1])}product/fprop.input": "e2m1"}))
        first.append((net(x), list(net.plan.slots)))
    for order in ([2, 1, 0], [1, 0, 2]):
        torch.compiler.reset()
        for k in order:
            assert torch.equal(nets[k](x), first[k][0])
            assert list(nets[k].plan.slots) == first[k][1]


def test_functions_on_one_line_are_told_apart() -> None:
    class Lambdas(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            # fmt: off
            self.f, self.g = (lambda x: (torch._dynamo.graph_break(), self.a(x) * 2.0)[1]), (lambda x: (torch._dynamo.graph_break(), self.a(x) * 3.0)[1])  # noqa: E501
            # fmt: on

        def forward(self, x: Tensor) -> Tensor:
            x = self.f(x)
            torch._dynamo.graph_break()
            found: Tensor = self.g(x)
            return found

    net = precc.compile(Lambdas(), backend="reference")
    with pytest.warns(PrecisionWarning):
        net(torch.randn(4, 8)).sum().backward()
    assert {Slot.parse(name).op.partition("/")[2] for name in net.plan.slots} == {"product", "product#1"}
