"""Results of products rounded and packed where they are made: blocks with scales of their own, in both layouts."""

from collections.abc import Sequence

import pytest
import torch
from torch.fx import Graph, Node

from precc.accumulation.named import parse_accumulator
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.facts import CompiledFacts
from precc.formats import Scaling
from precc.packing import PACK
from precc.round_op import ROUND
from precc.rounding import Row
from tests.golden import check_golden
from tests.triton_casts import same_bits
from tests.triton_products import ATEN, Behind, MadeProduct, rounding_row

#: By name: the format of a result, its scaling, and how it is rounded.
RESULTS: dict[str, tuple[str, Scaling | None, str]] = {
    "mxfp8_e4m3": ("mxfp8_e4m3", None, "nearest_even"),
    "mxfp4": ("mxfp4", None, "nearest_even"),
    "mxfp6": ("mxfp6", None, "nearest_even"),
    "blocks of 16": ("e2m1", Scaling("block", size=16), "nearest_even"),
    "blocks of 128": ("e4m3", Scaling("block", size=128, scale_format="float32"), "nearest_even"),
    "tiles": ("e4m3", Scaling("tile", size=64, scale_format="float32"), "nearest_even"),
    "stochastic": ("mxfp4", None, "stochastic"),
    "static": ("e3m4", Scaling("static", value=0.37), "nearest_even"),
}


def result_rows(name: str) -> list[Row]:
    """Rows 2 and 3 of a plan: blocks along columns, and along rows."""
    fmt, scaling, mode = RESULTS[name]
    return [rounding_row(fmt, scaling, axis, mode) for axis in (-1, -2)]


def of_row(first: int, *, swapped: bool = False, three: bool = False) -> Behind:
    """Behind a product relu, packed in both layouts by both rows, and the rounded values."""

    def behind(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
        active = graph.call_function(ATEN.relu.default, (product,))
        if swapped:
            active = graph.call_function(ATEN.transpose.int, (active, -2, -1))
        if three:
            active = graph.call_function(ATEN.view.default, (active, [5, 8, 24]))
        packs = [
            graph.call_function(PACK, (active, plan, number, transposed))
            for number in (first, first + 1)
            for transposed in (False, True)
        ]
        return [*packs, *(graph.call_function(ROUND, (active, plan, number)) for number in (first, first + 1))]

    return behind


def operands(batches: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    leading = (batches,) * (batches > 0)
    a, b = torch.randint(-3, 4, (*leading, 40, 16)), torch.randint(-3, 4, (*leading, 16, 24))
    return a * 0.25, b * 0.25


def is_one_kernel(made: MadeProduct) -> None:
    assert [own.template for own in made.program().kernels] == ["product"]
    for own, wanted in zip(made.ours(), made.reference(), strict=True):
        assert same_bits(own, wanted)


def of_product(name: str, behind: Behind, batches: int = 0, **options: object) -> MadeProduct:
    both = [rounding_row("e4m3", None, axis) for axis in (-1, -2)]
    op = "bmm" if batches else "mm"
    return MadeProduct(op, *operands(batches), [*both, *result_rows(name)], behind, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", RESULTS)
def test_blocks_in_both_layouts(name: str, swapped: bool) -> None:
    is_one_kernel(of_product(name, of_row(2, swapped=swapped)))


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "blocks of 16"])
def test_blocks_of_batches(name: str, batches: int) -> None:
    is_one_kernel(of_product(name, of_row(2), batches))


@pytest.mark.parametrize("name", ["mxfp4", "tiles"])
def test_behind_rounded_sums(name: str) -> None:
    is_one_kernel(of_product(name, of_row(3), sums=parse_accumulator("e5m10")))


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "tiles"])
def test_views_of_more_dimensions(name: str) -> None:
    """Blocks that no tile holds take a cast behind the product."""
    made = of_product(name, of_row(2, three=True))
    for own, wanted in zip(made.ours(), made.reference(), strict=True):
        assert same_bits(own, wanted)


def test_non_finite_values() -> None:
    both = [rounding_row("float32", None, axis) for axis in (-1, -2)]
    a, b = operands()
    a[1, 2], a[39, 0], b[3, 23] = float("nan"), float("inf"), -float("inf")
    is_one_kernel(MadeProduct("mm", a, b, [*both, *result_rows("mxfp8_e4m3")], of_row(2)))


def both_layouts(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    return [graph.call_function(PACK, (product, plan, 2, False)), graph.call_function(PACK, (product, plan, 3, True))]


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("name", ["mxfp4", "tiles", "blocks of 128"])
def test_kernels_compile(name: str, target: str) -> None:
    """Blocks of 128 along both sides are more than the registers hold: one layout, then, takes a cast."""
    both = [rounding_row("e4m3", None, axis) for axis in (-1, -2)]
    made = MadeProduct(
        "mm",
        torch.zeros(512, 512),
        torch.zeros(512, 512),
        [*both, *result_rows(name)],
        both_layouts,
        packed="ab",
        device=DEVICES[target],
    )
    kernels = made.program().kernels
    assert len(kernels) == 1 or name == "blocks of 128"
    (found,) = compiled(list(kernels[:1]), made.device)
    assert isinstance(found, CompiledFacts), found
    assert found.spills == 0
    assert found.shared_memory <= made.device.shared_memory


def test_text() -> None:
    (source,) = of_product("mxfp4", both_layouts).program().kernels
    check_golden("triton_product_mxfp4_both_layouts.py.txt", source.text)
