"""Nets whose products round their sums: bit for bit the products by hand, live, on every backend."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

import precc
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.product_ops import PRODUCT_OPS
from precc.accumulation.rows import accumulator_row, parse_accumulator_row
from precc.backends import BACKENDS, reference
from precc.errors import FormatError, PlanError
from precc.grouped_product import GROUPED_PRODUCT
from precc.passes.products import PRODUCTS
from precc.plan import PrecisionPlan
from precc.plan_json import accumulator_from_json
from tests.few_always import few_always
from tests.golden import check_golden
from tests.nets import MODELS, Attention, Convolutional, equal, inputs_of, loss_and_gradients, loss_of

HALF = Accumulator(format="e5m10")
NARROW = Accumulator(format="e4m3", product="e5m2")
DRAWING = Accumulator(format="e5m7", rounding="stochastic")


def rounded(x: Tensor) -> Tensor:
    return precc.round_to(x.detach(), "e4m3")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_layer_is_its_three_products_by_hand(backend: str) -> None:
    layer = nn.Linear(40, 24)
    plan = PrecisionPlan(
        "e4m3",
        default_accumulator=HALF,
        accumulators={"product/dgrad.accumulator": NARROW, "product/wgrad.accumulator": None},
    )
    net = precc.compile(layer, plan=plan, backend=backend)
    x = torch.randn(32, 40, requires_grad=True)
    gradient = torch.randn(32, 24)
    out = net(x)
    out.backward(gradient)
    by_hand = precc.matmul(rounded(x), rounded(layer.weight).T, HALF) + layer.bias.detach()
    assert torch.equal(out, by_hand)
    assert x.grad is not None
    assert torch.equal(x.grad, precc.matmul(rounded(gradient), rounded(layer.weight), NARROW))
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, rounded(gradient).T @ rounded(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_its_three_products_by_hand(bias: bool, backend: str) -> None:
    layer = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
    net = precc.compile(layer, policy=precc.Uniform("e4m3", accumulator=NARROW), backend=backend)
    x = torch.randn(4, 3, 7, 5, requires_grad=True)
    gradient = torch.randn(4, 6, 7, 5)
    out = net(x)
    out.backward(gradient)
    weight, rows = rounded(layer.weight), rounded(gradient).movedim(1, 0).reshape(6, -1)
    patches = F.unfold(rounded(x), 3, padding=1)
    by_hand = torch.stack([precc.matmul(weight.reshape(6, -1), item, NARROW) for item in patches]).reshape(out.shape)
    assert torch.equal(out, by_hand + layer.bias.detach()[:, None, None] if layer.bias is not None else by_hand)
    assert layer.weight.grad is not None
    columns = patches.movedim(1, 2).reshape(-1, 27)
    assert torch.equal(layer.weight.grad.reshape(6, -1), precc.matmul(rows, columns, NARROW))
    assert x.grad is not None
    mirrored = weight.flip(2, 3).transpose(0, 1).reshape(3, -1)
    patches = F.unfold(rounded(gradient), 3, padding=1)
    by_hand = torch.stack([precc.matmul(mirrored, item, NARROW) for item in patches])
    assert torch.equal(x.grad, by_hand.reshape(x.shape))


def test_every_product_of_both_halves_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators of the lowered graphs with the rows of their accumulators; no product of ATen is left."""
    lines: list[str] = []

    def recorded(graph: GraphModule) -> Any:
        targets = [(node, str(node.target)) for node in graph.graph.nodes if node.op == "call_function"]
        lines.append("graph")
        lines.extend(f"  {name} {node.args[-1]}" for node, name in targets if name.startswith("precc."))
        lines.extend(f"  left: {name}" for _, name in targets if "mm" in name and not name.startswith("precc."))
        return run_eagerly(graph)

    run_eagerly = reference.run_eagerly
    monkeypatch.setattr(reference, "run_eagerly", recorded)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2, bias=False)
    )
    net = precc.compile(model, policy=precc.Uniform("e4m3", accumulator=HALF), backend="reference")
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    check_golden("accumulating_graphs.txt", "\n".join(lines))


def test_every_product_that_is_traced_has_a_form_with_a_rounded_sum() -> None:
    composite = ("linear", "matmul", "conv1d", "conv2d", "conv3d", "conv_transpose")  # in exports only
    names = {str(op.overloadpacket).removeprefix("aten.") for op in PRODUCTS if op is not GROUPED_PRODUCT}
    assert "grouped_mm" in PRODUCT_OPS
    assert {name for name in names if not name.startswith(composite)} <= set(PRODUCT_OPS)


@pytest.mark.parametrize("model_class", few_always(MODELS, [Attention, Convolutional]))
def test_reference_and_kernels_agree_live_and_return_to_plain_sums(model_class: type[nn.Module]) -> None:
    model = model_class()
    start = copy.deepcopy(model.state_dict())
    x = inputs_of(model, batch=2)
    nets = {
        name: precc.compile(model, policy=precc.Uniform("e4m3", accumulator=HALF), backend=name)
        for name in ("reference", "cpp")
    }

    def under(net: nn.Module) -> list[Tensor]:
        net.load_state_dict(start)
        return loss_and_gradients(net, x)

    first = under(nets["cpp"])
    for accumulator in (HALF, DRAWING, None):
        plan = precc.Uniform("e4m3", accumulator=accumulator).assign()
        for net in nets.values():
            net.set_plan(plan)
        ours = under(nets["cpp"])
        assert equal(ours, under(nets["reference"]))
        assert equal(ours, first) is (accumulator == HALF)
    assert nets["cpp"].compilations == 1
    assert equal(ours, under(precc.compile(model, policy="e4m3", backend="cpp")))


@pytest.mark.parametrize("model_class", [pytest.param(Convolutional, marks=pytest.mark.slow), Attention])
def test_inductor_agrees(model_class: type[nn.Module]) -> None:
    """It sums bias gradients in another order, and a value on a tie may then round to the other neighbour."""
    model = model_class()
    start = copy.deepcopy(model.state_dict())
    x = inputs_of(model)
    results = []
    for backend in ("cpp", "inductor"):
        net = precc.compile(model, policy=precc.Uniform("float32", accumulator=HALF), backend=backend)
        net.load_state_dict(start)
        results.append(loss_and_gradients(net, x))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=2e-2, atol=2e-3)


def test_graphs_that_were_built_without_accumulators_say_so() -> None:
    model = nn.Linear(40, 24)
    net = precc.compile(model, policy="e4m3", backend="cpp")
    x, plan = torch.randn(8, 40), precc.Uniform("e4m3", accumulator=HALF).assign()
    net(x).sum().backward()
    before = net(x)
    with pytest.raises(PlanError, match=r"'every product' in float16.*recompile=True"):
        net.set_plan(plan)
    named = PrecisionPlan("e4m3", accumulators={"product/fprop.accumulator": HALF})
    with pytest.raises(PlanError, match=r"'product/fprop.accumulator' in float16"):
        net.set_plan(named)
    assert torch.equal(net(x), before)
    work, compilations = sum(net.precision_state()["multiply_adds"].values()), net.compilations
    net.set_plan(plan, recompile=True)
    assert torch.equal(net(x), precc.matmul(rounded(x), rounded(model.weight).T, HALF) + model.bias)
    assert net.compilations == compilations + 1
    assert sum(net.precision_state()["multiply_adds"].values()) > work
    net.set_plan(precc.Uniform("e4m3").assign())
    assert torch.equal(net(x), before)
    assert net.compilations == compilations + 1


def test_a_net_that_is_built_again_knows_its_slots() -> None:
    net = precc.compile(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), policy="e4m3", backend="cpp")
    x = torch.randn(3, 8)
    net(x).sum().backward()
    good = PrecisionPlan("e4m3", {"2/product/fprop.weight": "bf16"}, default_accumulator=HALF)
    net.set_plan(good, recompile=True)
    assert 8 < net.plan.average_bits < 9
    assert "no graph captured" not in str(net.report())
    for bad in (
        PrecisionPlan("e4m3", {"nope/product/fprop.weight": "bf16"}),
        PrecisionPlan("bf16", default_accumulator="hopper_fp8"),
    ):
        with pytest.raises(PlanError):
            net.set_plan(bad)
    net(x)
    assert net.plan == good
    with pytest.raises(PlanError, match="recompile is True or False"):
        net.set_plan(good, recompile=1)  # type: ignore[arg-type]


def test_a_plan_set_before_the_first_call_needs_no_recompile() -> None:
    model = nn.Linear(40, 24)
    net = precc.compile(model, backend="cpp")
    net.set_plan(PrecisionPlan("fp32", default_accumulator=NARROW))
    x = torch.randn(8, 40)
    assert torch.equal(net(x), precc.matmul(x, model.weight.detach().T, NARROW) + model.bias)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.set_plan(PrecisionPlan("fp32"))
        assert torch.equal(twin(x), model(x))
        twin.set_plan(PrecisionPlan("fp32", default_accumulator=NARROW))
        assert torch.equal(twin(x), net(x))


def test_trust_region_builds_graphs_for_its_levels() -> None:
    model = nn.Linear(40, 10)
    net = precc.compile(model, backend="cpp")
    x = torch.randn(8, 40)
    net(x)
    levels = [precc.Uniform("e4m3", accumulator="e4m3"), precc.Uniform("e4m3", accumulator=HALF), "float32"]
    opt = precc.TrustRegion(net, levels=levels)
    for _ in range(3):
        assert opt.step(lambda: loss_of(net, x)).isfinite()
    assert net.compilations <= 4
    assert any("sums" in label for label in net.precision_state()["multiply_adds"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 24, bias=False).to(dtype)
    net = precc.compile(layer, policy=precc.Uniform("float64", accumulator=NARROW), backend="cpp")
    x = torch.randn(8, 40, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(net(x), precc.matmul(x.to(wide), layer.weight.detach().to(wide).T, NARROW).to(dtype))


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("cpp", "triton"))) for name in BACKENDS]
)
def test_memory_formats_sizes_and_modes(backend: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2)).eval()
    net = precc.compile(model, policy=precc.Uniform("e4m3", accumulator=HALF), backend=backend, dynamic=True)
    for batch in (3, 5):
        x = torch.randn(batch, 4, 9, 9)
        plain = net(x)
        last = x.to(memory_format=torch.channels_last)
        for_last = net(last)
        assert torch.equal(plain, for_last)
        assert for_last.stride() == precc.compile(model, backend="reference")(last).stride()
        with torch.no_grad():
            assert torch.equal(net(x), plain)
            wanted = precc.compile(model, policy=precc.Uniform("e4m3", accumulator=HALF), backend="cpp")(x)
        assert torch.allclose(plain, wanted, rtol=2e-2, atol=2e-3)
        plain.sum().backward()


def test_bits_repeat_with_the_seed_and_differ_by_role_and_forward() -> None:
    net = precc.compile(nn.Linear(40, 24), policy=precc.Uniform("e4m3", accumulator=DRAWING), backend="cpp")
    x = torch.randn(8, 40)
    torch.manual_seed(3)
    first, second = net(x), net(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), first)
    assert not torch.equal(first, second)


def test_plans_with_accumulators_are_values() -> None:
    plan = PrecisionPlan(
        "e4m3", {"fc/product/wgrad.input": "bf16"}, default_accumulator="bf16", accumulators={
            "fc/product/fprop.accumulator": Accumulator(format="e6m9", order="blocked", block=64),
            "fc/product/dgrad.accumulator": None,
        },
    )  # fmt: skip
    other = PrecisionPlan("e4m3", {"fc/product/wgrad.input": "bf16"})
    assert plan == PrecisionPlan.from_json(plan.to_json()) == pickle.loads(pickle.dumps(plan))
    assert hash(plan) == hash(PrecisionPlan.from_json(plan.to_json()))
    assert plan != other
    assert str(plan.diff(other)).splitlines() == [
        "fc/product/fprop.accumulator: e6m9 blocked 64 -> own sums",
        "*.accumulator: bfloat16 -> own sums",
    ]
    assert str(plan).splitlines() == [
        "plan: float8_e4m3fn in every slot, sums in bfloat16 but:",
        "  fc/product/dgrad.accumulator  own sums",
        "  fc/product/fprop.accumulator  e6m9 blocked 64",
        "  fc/product/wgrad.input        bfloat16",
    ]
    resolved = other.resolve({"fc/product/fprop.input": 3})
    assert not resolved.accumulators
    assert dict(plan.resolve({"a/product/fprop.input": 3}).accumulators)["a/product/fprop.accumulator"] == Accumulator(
        format="bf16"
    )


def test_tensor_cores_get_the_operands_that_they_take() -> None:
    """Hopper's accumulator depends on the formats of both operands, in their order."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(54, 8))
    forward, backward = "hopper_fp8", "hopper_fp8_e5m2_e4m3"
    products = ("0/product/wgrad", "2/product/dgrad", "2/product/wgrad")
    slots = {f"{product}.grad_output": "e5m2" for product in products}
    backwards = {f"{product}.accumulator": backward for product in products}
    # the linear layer's wgrad is the transposed gradient times the input, its dgrad the gradient times the weight
    plan = PrecisionPlan("e4m3", slots, default_accumulator=forward, accumulators=backwards)
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    x = torch.randn(4, 3, 5, 5) * 1e-2
    results = []
    for backend in ("reference", "cpp"):
        net = precc.compile(model, plan=plan, backend=backend)
        results.append([net(x), *loss_and_gradients_of(net, x)])
    assert equal(*results)
    net.set_plan(PrecisionPlan("e4m3", default_accumulator=forward))
    with pytest.raises(
        PlanError, match=r"'0/product/fprop.accumulator' .* multiplies plain float8_e4m3fn values, not bfloat16"
    ):
        net.set_plan(PrecisionPlan("bf16", default_accumulator=forward))
    with pytest.raises(PlanError, match="float8_e4m3fn/tensor"):
        net.set_plan(PrecisionPlan(precc.Precision("e4m3", scaling="tensor"), default_accumulator=forward))
    with pytest.raises(FormatError, match="Uniform sums in .*float8_e4m3fn values, not float8_e5m2"):
        precc.Uniform("e5m2", accumulator=forward)
    unlike = [str(own) for own in precc.ACCUMULATORS.values()]
    assert len(set(unlike)) == len(unlike)


def loss_and_gradients_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_mixed_operand_formats_keep_their_sides_in_a_convolution() -> None:
    layer = nn.Conv2d(3, 6, 3, bias=False)
    x = torch.randn(4, 3, 5, 5) * 1e-3
    plan = PrecisionPlan(
        "e4m3", {"product/fprop.input": "e5m2"}, accumulators={"product/fprop.accumulator": "hopper_fp8_e5m2_e4m3"}
    )
    by_kernels, by_tensor_ops = (precc.compile(layer, plan=plan, backend=name)(x) for name in ("cpp", "reference"))
    patches = F.unfold(precc.round_to(x, "e5m2"), 3)
    weight = rounded(layer.weight).reshape(6, -1)
    by_hand = torch.stack([precc.matmul(item.T.contiguous(), weight.T, "hopper_fp8_e5m2_e4m3").T for item in patches])
    assert torch.equal(by_kernels, by_hand.reshape(4, 6, 3, 3))
    assert torch.equal(by_tensor_ops, by_kernels)


def test_names_that_do_not_fit_are_errors() -> None:
    with pytest.raises(PlanError, match="goes into accumulators="):
        PrecisionPlan("e4m3", {"fc/product/fprop.accumulator": "e5m10"})
    for wrong in (1, [], "", {None: HALF}, {b"x": HALF}):
        with pytest.raises(PlanError, match="choices by slot name"):
            PrecisionPlan("e4m3", accumulators=wrong)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="slot name 'fc/product/fprop' is not"):
        PrecisionPlan("e4m3", accumulators={"fc/product/fprop": HALF})
    with pytest.raises(FormatError, match="running sum"):
        precc.Uniform("e4m3", accumulator="mxfp8")
    net = precc.compile(nn.Linear(4, 4), policy=precc.Uniform("e4m3", accumulator=HALF), backend="reference")
    net(torch.randn(2, 4)).sum().backward()
    with pytest.raises(PlanError, match=r"fc/product/fprop\.accumulator"):
        net.set_plan(PrecisionPlan("e4m3", accumulators={"fc/product/fprop.accumulator": HALF}))
    net.set_plan(PrecisionPlan("e4m3", accumulators={"product/fprop.accumulator": HALF}))
    bad = PrecisionPlan("e4m3", default_accumulator=HALF).to_json().replace('"chunk"', '"chunks"')
    with pytest.raises(PlanError, match="'chunks'"):
        PrecisionPlan.from_json(bad)


def test_rows_of_accumulators_hold_key_and_slot() -> None:
    row = accumulator_row(DRAWING, 2**64 - 5)
    assert parse_accumulator_row(list(row)) == (DRAWING, 0, 2**64 - 5)
    assert parse_accumulator_row(list(accumulator_row(None, 7))) == (None, 0, 7)


def test_report_and_export_name_the_accumulators(tmp_path: Path) -> None:
    net = precc.compile(nn.Linear(8, 4), policy=precc.Uniform("e4m3", accumulator=NARROW), backend="reference")
    net(torch.randn(2, 8)).sum().backward()
    report = net.report()
    assert "float8_e4m3fn, sums float8_e4m3fn products float8_e5m2" in report.rows[0].formats[0]
    assert "e4m3, sums e4m3 products e5m2" in str(report)
    assert "accumulators" in report.notes[0]
    precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx", flavor="annotate")
    model: Any = onnx.load(tmp_path / "net.onnx")
    properties = {entry.key: entry.value for node in model.graph.node for entry in node.metadata_props}
    assert accumulator_from_json(json.loads(properties["precc.fprop.accumulator"])) == NARROW
