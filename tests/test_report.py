"""The printed report."""

import pytest
import torch

import precc
from precc.models.lenet5 import LeNet5, example_inputs
from precc.plan import PrecisionPlan
from precc.precision import Precision
from tests.golden import check_golden
from tests.nets import Stack, inputs_of, loss_of


def test_the_report_of_a_net_that_did_not_run() -> None:
    text = str(precc.compile(LeNet5(), backend="reference").report())
    assert "no graph captured yet: call the net once" in text


def test_the_report_of_lenet5() -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    (images,) = example_inputs()
    loss_of(net, images).backward()
    bfloat16 = Precision(precc.FORMATS["bfloat16"])
    net.set_plan(PrecisionPlan(net.plan.default, {"conv2/product/fprop.weight": bfloat16}))
    with torch.no_grad():
        net(images)
    check_golden("report_lenet5.txt", str(net.report()))
    assert sum(row.share for row in net.report().rows) == pytest.approx(1.0)


def test_the_report_of_products_of_activations() -> None:
    net = precc.compile(Stack(), policy="bf16", backend="reference")
    loss_of(net, inputs_of(Stack())).backward()
    check_golden("report_stack.txt", str(net.report()))


def test_multiply_adds_of_lenet5() -> None:
    net = precc.compile(LeNet5(), backend="reference")
    net(example_inputs(1)[0]).sum().backward()
    forward = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    first = 28 * 28 * 6 * 25
    assert forward == 416_520
    assert sum(row.multiply_adds for row in net.report().rows) == 3 * forward - first


def test_tensors_that_are_narrower_than_the_plan_are_named() -> None:
    rules = [precc.Rule("0", keep="fp32")]
    net = precc.compile(torch.nn.Sequential(*two_layers()), policy="e4m3", rules=rules, backend="reference")
    note = "computed in bfloat16, the dtype of the tensors, where the plan has float32: 0/product"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.ones(2, 4)).sum().backward()
    assert note in net.report().notes
    plain = precc.compile(torch.nn.Sequential(*two_layers()), policy="e4m3", rules=rules, backend="reference")
    plain(torch.ones(2, 4)).sum().backward()
    assert "the dtype of the tensors" not in str(plain.report())


def two_layers() -> list[torch.nn.Module]:
    return [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]


@pytest.mark.parametrize("live", [True, False])
def test_a_net_for_one_plan_alone_says_so(live: bool) -> None:
    net = precc.compile(torch.nn.Linear(4, 4), policy="e4m3", live=live, backend="reference")
    net(torch.ones(2, 4))
    assert ("for this plan alone (live=False)" in str(net.report())) is not live


def test_no_column_is_lost_where_precisions_have_long_names() -> None:
    scaling = precc.Scaling("tensor", scale_format="fp32", history=16)
    long = precc.Precision("e4m3", "stochastic", scaling)
    rules = [precc.Rule(operand="grad_output", format="e5m2", rounding="stochastic", scaling=scaling)]
    net = precc.compile(torch.nn.Sequential(*two_layers()), plan=PrecisionPlan(long), rules=rules, backend="reference")
    net(torch.ones(2, 4)).sum().backward()
    lines = net.report().text(300).splitlines()
    assert lines[2].split() == ["layer", "op", "fprop", "dgrad", "wgrad", "multiply-adds", "share", "why"]
    assert lines[4].startswith("1      product")
    assert "60.0%" in lines[4]
    assert "…" not in str(net.report())
    assert all(len(line) <= 100 for line in str(net.report()).splitlines())


def test_the_table_says_what_is_computed() -> None:
    rules = [precc.Rule("0", keep="fp32")]
    net = precc.compile(torch.nn.Sequential(*two_layers()), policy="e4m3", rules=rules, backend="reference")
    net.double()
    net(torch.ones(2, 4).double()).sum().backward()
    assert net.report().rows[0].formats == ("float32", "-", "float32")
    narrow = precc.compile(torch.nn.Sequential(*two_layers()), policy="fp64", backend="reference")
    narrow(torch.ones(2, 4)).sum().backward()
    assert narrow.report().rows[0].formats == ("float32", "-", "float32")


@pytest.mark.parametrize("scaling", [None, "tensor"])
def test_integers_without_a_scaling_are_named(scaling: str | None) -> None:
    policy = precc.Uniform("int8", scaling=scaling)
    net = precc.compile(torch.nn.Sequential(*two_layers()), policy=policy, backend="reference")
    net(torch.ones(2, 4)).sum().backward()
    note = "int8 without a scaling, so that values below 0.5 become 0: 0/product, 1/product"
    assert (note in net.report().notes) is (scaling is None)
