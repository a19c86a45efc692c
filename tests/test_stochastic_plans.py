"""Plans with roundings that draw, and with scales: keys, recomputation, axes, and the same bits in every backend."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import precc
from precc import Precision, PrecisionPlan, Scaling, Uniform, parse_format, round_to
from precc.backends import BACKENDS
from precc.errors import PlanError
from precc.rounding import quantize, slot_number
from tests.few_always import few_always

STOCHASTIC = Uniform("e4m3", rounding="stochastic")


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def gradients(net: nn.Module, x: Tensor, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    net.zero_grad()
    loss = net(x).square().mean()
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None)]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


POLICIES = {
    "stochastic": STOCHASTIC,
    "away": Uniform("e5m2", rounding="nearest_away"),
    "mxfp4": Uniform("mxfp4", rounding="stochastic:8"),
    "nvfp4": Uniform("nvfp4"),
    "tensor": Uniform("e4m3", scaling="tensor"),
    "row": Uniform("e4m3", scaling=Scaling("row", scale_format="float32")),
    "channel": Uniform("fixed8.6", scaling="channel"),
    "tile": Uniform("e2m3", scaling=Scaling("tile", size=(4, 4))),
    "power": Uniform("power4_0.5", scaling=Scaling("tensor", scale_format="float32")),
    "nested": Uniform("nested8.4", scaling=Scaling("tensor", scale_format="float32"), rounding="stochastic"),
    "fixed": Uniform("fixed8.4"),
}


@pytest.mark.parametrize("name", few_always(POLICIES, ["stochastic", "mxfp4", "nvfp4", "tile", "channel", "nested"]))
def test_backends_agree_bit_for_bit(name: str) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    nets = {backend: precc.compile(small_net(), policy=POLICIES[name], backend=backend) for backend in BACKENDS}
    results = {backend: gradients(net, x) for backend, net in nets.items()}
    assert equal(results["cpp"], results["reference"])
    for ours, theirs in zip(results["inductor"], results["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # sums between the products in another order


def test_each_forward_has_a_key_of_its_own_and_the_seed_repeats_them() -> None:
    net, x = precc.compile(small_net(), policy=STOCHASTIC, backend="cpp"), torch.randn(4, 3, 8, 8)
    first, again, other = gradients(net, x), gradients(net, x), gradients(net, x, seed=2)
    assert equal(first, again)
    assert not equal(first, other)
    torch.manual_seed(1)
    assert not torch.equal(net(x), net(x))


def test_a_plan_that_draws_nothing_leaves_the_generator_alone() -> None:
    net, x = precc.compile(small_net(), policy="e4m3", backend="cpp"), torch.randn(4, 3, 8, 8)
    net(x)
    state = torch.get_rng_state()
    net(x).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_switching_to_stochastic_and_back_compiles_nothing() -> None:
    net, x = precc.compile(small_net(), policy="e4m3", backend="inductor"), torch.randn(4, 3, 8, 8)
    nearest = gradients(net, x)
    net.set_plan(STOCHASTIC.assign())
    drawn = gradients(net, x)
    net.set_plan(Uniform("mxfp8", rounding="toward_zero").assign())
    gradients(net, x)
    net.set_plan(Uniform("e4m3").assign())
    assert equal(gradients(net, x), nearest)
    assert not equal(drawn, nearest)
    assert net.compilations == 1


def test_the_backward_uses_the_key_of_its_own_forward() -> None:
    net, x = precc.compile(small_net(), policy=STOCHASTIC, backend="cpp"), torch.randn(4, 3, 8, 8)
    wanted = gradients(net, x)
    torch.manual_seed(1)
    net.zero_grad()
    loss = net(x).square().mean()
    net(x)  # another forward, another key
    loss.backward()
    own = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert equal(own, wanted[1:])


def test_recomputation_in_a_checkpoint_draws_the_same_bits() -> None:
    net = precc.compile(small_net(), policy=STOCHASTIC, backend="cpp")
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    wanted = gradients(net, x)
    torch.manual_seed(1)
    net.zero_grad()
    checkpoint(net, x, use_reentrant=False).square().mean().backward()
    own = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert equal(own, wanted[1:])


def test_a_slot_rounds_as_its_row_by_hand() -> None:
    linear = nn.Linear(64, 8, bias=False)
    net, x = precc.compile(linear, policy=Uniform("e4m3", rounding="stochastic"), backend="cpp"), torch.randn(5, 64)
    torch.manual_seed(7)
    ours = net(x)
    torch.manual_seed(7)
    key = int(torch.randint(1 << 62, (), dtype=torch.int64)) + 1
    precision = Precision(parse_format("e4m3"), "stochastic")  # type: ignore[arg-type]
    names = sorted(name for name in net.plan.slots if "fprop" in name)
    assert names == ["product/fprop.input", "product/fprop.weight"]
    with torch.no_grad():
        rounded = quantize(x, precision.row(slot=slot_number(names[0])), key)
        weight = quantize(linear.weight.t().contiguous(), precision.row(slot=slot_number(names[1])), key)
        assert torch.equal(ours, rounded @ weight)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_blocks_run_along_the_contracted_dimension(backend: str) -> None:
    linear = nn.Linear(40, 6)
    net, x = precc.compile(linear, policy="mxfp4", backend=backend), torch.randn(7, 40)
    x.requires_grad_()
    y = net(x)
    upstream = torch.randn(7, 6)
    y.backward(upstream)
    with torch.no_grad():
        w = linear.weight
        assert torch.equal(y, torch.addmm(linear.bias, round_to(x, "mxfp4", axis=1), round_to(w, "mxfp4", axis=1).t()))
        assert x.grad is not None
        assert torch.equal(x.grad, round_to(upstream, "mxfp4", axis=1) @ round_to(w, "mxfp4", axis=0))
        wanted = round_to(upstream, "mxfp4", axis=0).t() @ round_to(x, "mxfp4", axis=0)
        assert w.grad is not None
        assert torch.allclose(w.grad, wanted, rtol=1e-6, atol=1e-6)


def test_blocks_of_convolutions_run_along_channels_and_for_wgrad_along_the_batch() -> None:
    conv = nn.Conv2d(40, 6, 3, bias=False)
    net = precc.compile(conv, policy="mxfp4", backend="cpp")
    x = torch.randn(34, 40, 5, 5, requires_grad=True)
    y = net(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    with torch.no_grad():
        w = conv.weight
        rounded = nn.functional.conv2d(round_to(x, "mxfp4", axis=1), round_to(w, "mxfp4", axis=1))
        assert torch.allclose(y, rounded, rtol=1e-5, atol=1e-5)
        dgrad = torch.nn.grad.conv2d_input(x.shape, round_to(w, "mxfp4", axis=0), round_to(upstream, "mxfp4", axis=1))
        wgrad = torch.nn.grad.conv2d_weight(round_to(x, "mxfp4", axis=0), w.shape, round_to(upstream, "mxfp4", axis=0))
        assert torch.allclose(x.grad, dgrad, rtol=1e-4, atol=1e-4)
        assert torch.allclose(w.grad, wgrad, rtol=1e-4, atol=1e-4)


def test_a_scaling_that_a_slot_cannot_have_is_refused_by_set_plan() -> None:
    net, x = precc.compile(nn.Linear(8, 4), backend="cpp"), torch.randn(3, 8)
    net(x).sum().backward()
    before = net.plan
    wrong = Precision("e4m3", scaling=Scaling("block", size=4, axis=5))
    with pytest.raises(PlanError, match=r"slot 'product/wgrad.input' cannot have.*axis 5"):
        net.set_plan(PrecisionPlan("fp32", {"product/wgrad.input": wrong}))
    assert net.plan == before
    with pytest.raises(PlanError, match="axis 5"):
        precc.compile(nn.Linear(8, 4), plan=PrecisionPlan(wrong), backend="cpp")(x)


def test_average_bits_count_the_scales() -> None:
    net = precc.compile(nn.Linear(8, 4), policy="nvfp4", backend="cpp")
    net(torch.randn(3, 8)).sum().backward()
    assert net.plan.average_bits == 4.5
    assert Precision(parse_format("e4m3"), scaling=Scaling("block", size=16)).bits == 8.5


PRECISIONS = [
    Precision(parse_format("e4m3"), "stochastic:7"),  # type: ignore[arg-type]
    Precision(parse_format("nvfp4"), "nearest_away"),  # type: ignore[arg-type]
    Precision(parse_format("e4m3"), scaling=Scaling("tile", size=(16, 4), rule="ceil", axis=1)),
    Precision(parse_format("fixed8.4"), scaling=Scaling("static", value=0.3)),
    Precision(parse_format("bfp8.16")),
    Precision(parse_format("power4_0.5"), scaling=Scaling("tensor", scale_format="float32")),
    Precision(precc.FloatFormat(name="mine", exponent_bits=4, mantissa_bits=2, bias=1.5, subnormals=False)),
    Precision(precc.FixedPoint(name="own", word=9, fraction=-3, symmetric=True)),
    Precision(precc.NestedInteger(name="own", high_bits=9, low_bits=3)),
    Precision(precc.PowerLaw(name="own", word=5, power=0.7)),
    Precision(
        precc.BlockFormat(
            name="mine",
            element=precc.FloatFormat(name="tiny", exponent_bits=2, mantissa_bits=1),
            scaling=Scaling("block", size=8, scale_format="ue5m3", two_level=True),
        )
    ),
]


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_plans_keep_every_kind_of_precision(precision: Precision) -> None:
    plan = PrecisionPlan(precision, {"a/product/fprop.input": precision})
    again = PrecisionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.default.row().values == precision.row().values
