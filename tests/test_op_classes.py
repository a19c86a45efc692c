"""The table of operators: its names exist, it agrees with torch's tags, and what it lacks is reported."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

import precc
from precc.cli import main
from precc.passes.op_classes import OP_CLASSES, OpClass
from precc.passes.op_table import op_table
from precc.passes.roles import _why_no_slots

_KINDS = {name.removeprefix("aten."): row.kind for name, row in OP_CLASSES.items()}


def tagged(tag: torch.Tag) -> Iterator[str]:
    """Names of the ATen operators with a tag, without overloads and in-place forms."""
    names = {name[6:].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
    for name in sorted(names):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and not name.endswith("_"):
            if any(tag in getattr(packet, overload).tags for overload in packet.overloads()):
                yield name


def test_every_name_is_an_operator() -> None:
    for name in OP_CLASSES:
        namespace, _, own = name.partition(".")
        assert hasattr(getattr(torch.ops, namespace), own), name


def test_every_operator_of_core_aten_has_a_class() -> None:
    assert [name for name in tagged(torch.Tag.core) if name not in _KINDS] == []


def test_pointwise_operators_are_elementwise_or_exact() -> None:
    kinds = {name: _KINDS[name] for name in tagged(torch.Tag.pointwise) if name in _KINDS}
    integers = {"gcd", "lcm"}
    wrong = {name for name, kind in kinds.items() if kind not in (OpClass.ELEMENTWISE, OpClass.EXACT)}
    assert wrong == integers
    assert len(kinds) > 100


def on_coarse_values() -> dict[str, Tensor]:
    """Results of the pointwise operators of one tensor, on values with three significand bits."""
    coarse, results = precc.round_to(torch.randn(256), "e5m2"), {}
    for name in tagged(torch.Tag.pointwise):
        packet = getattr(torch.ops.aten, name)
        unary = "default" in packet.overloads() and str(packet.default._schema).count("Tensor") == 2
        if unary and "Scalar" not in str(packet.default._schema):
            with suppress(TypeError, RuntimeError, NotImplementedError):  # takes integers, or more arguments
                results[name] = packet.default(coarse)
    return {name: value for name, value in results.items() if getattr(value, "dtype", None) is torch.float32}


def test_exact_operators_round_nothing_and_elementwise_ones_do() -> None:
    """An exact one gives values with three significand bits again, or whole numbers; an elementwise one others too."""
    seen = Counter[OpClass]()
    for name, result in on_coarse_values().items():
        whole = (result == result.round()) | ~result.isfinite()  # floor, ceil, sign
        exact = bool((whole | (result == precc.round_to(result, "e5m2"))).all())
        if name in _KINDS and name != "round":  # to decimals, it multiplies
            assert exact == (_KINDS[name] is OpClass.EXACT), name
            seen[_KINDS[name]] += 1
    assert seen[OpClass.EXACT] > 10
    assert seen[OpClass.ELEMENTWISE] > 30


def test_what_is_kept_has_a_reason() -> None:
    assert all(bool(row.reason) == (row.kind is OpClass.KEPT) for row in OP_CLASSES.values())


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = op_table().splitlines()
    assert len(lines) == len(OP_CLASSES)
    assert any(line.split()[:2] == ["aten.mm", "product"] for line in lines)
    assert main(["ops"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


class Unlisted(nn.Module):
    """An operator without a class between two products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.special.bessel_j0(self.first(x).detach()) + self.first(x))
        return result


def test_an_operator_without_a_class_is_named_in_the_report() -> None:
    net = precc.compile(Unlisted(), policy="e4m3", backend="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.randn(2, 4)).sum().backward()
    notes = [note for note in net.report().notes if "in no class" in note]
    assert notes == [
        "not rounded: (root): aten.special_bessel_j0 is in no class of `precc ops`: it stays in the precision of its "
        "tensors"
    ]


def test_a_form_of_a_product_without_slots_is_named() -> None:
    graph = Graph()
    first, second = graph.placeholder("first"), graph.placeholder("second")
    node = graph.call_function(torch.ops.aten.mm.dtype, (first, second, torch.float32))
    graph.output(node)
    assert _why_no_slots(node, GraphModule({}, graph)).startswith("aten.mm.dtype is a form of a product")
