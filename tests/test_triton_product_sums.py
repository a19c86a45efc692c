"""Products with rounded sums in the kernels of their groups: the bits of the nodes, one after the other."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS, parse_accumulator
from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses
from precc.backends.triton.backend import Triton
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.live_rows import PlanRows, rows_read
from precc.backends.triton.native import ProductOptions
from precc.backends.triton.templates.product import ProductProgram, ProductTemplate
from precc.errors import BackendError
from precc.formats import Scaling
from precc.packing import PACK
from precc.round_op import ROUND
from precc.rounding import Row
from tests.golden import check_golden
from tests.triton_casts import same_bits
from tests.triton_products import ATEN, MadeProduct, rounding_row

ORDERS = {
    "e5m10": parse_accumulator("e5m10"),
    "fixed point": parse_accumulator("fixed16.8"),
    "float32": parse_accumulator("float32"),
    "products": Accumulator(format="e6m9", product="e5m10"),
    "chunks": Accumulator(format="bf16", chunk=3),
    "blocks": Accumulator(format="e5m10", order="blocked", block=4),
    "pairs": Accumulator(format="e5m10", order="pairwise"),
    "compensated": Accumulator(format="e5m10", compensated=True),
    "towards zero": Accumulator(format="e5m10", rounding="toward_zero"),
    "stochastic": Accumulator(format="e6m9", rounding="stochastic"),
    "stochastic pairs": Accumulator(format="e6m9", order="pairwise", rounding="stochastic"),
}
EVERY = ORDERS | ACCUMULATORS


def operand_rows(sums: Sums) -> list[Row]:
    """The formats that an accumulator multiplies, or e4m3."""
    names = [own.name for own in sums.operand_formats or ()] or ["e4m3", "e4m3"]
    return [rounding_row(name, None, axis) for name, axis in zip(names, (-1, -2), strict=True)]


def relu_and_results(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    active = graph.call_function(ATEN.relu.default, (product,))
    packs = [graph.call_function(PACK, (active, plan, 3, transposed)) for transposed in (False, True)]
    return [graph.call_function(ROUND, (active, plan, 3)), *packs]


def with_bias(sums: Sums, dtype: torch.dtype = torch.float32, **options: object) -> MadeProduct:
    """Behind it a bias, relu, and results in e4m3."""
    torch.manual_seed(1)
    a, b, bias = (torch.randn(*size, dtype=dtype) for size in ((10, 13), (13, 6), (6,)))
    made_rows = [*operand_rows(sums), rounding_row("e4m3")]
    return MadeProduct("addmm", a, b, made_rows, relu_and_results, [bias], sums=sums, **options)  # type: ignore[arg-type]


def is_reference(made: MadeProduct) -> None:
    """All in one kernel, bit for bit."""
    assert [own.template for own in made.program().kernels] == ["product"]
    for own, wanted in zip(made.ours(), made.reference(), strict=True):
        assert same_bits(own, wanted)


@pytest.mark.parametrize("name", EVERY)
def test_sums_bias_and_results_in_one_kernel(name: str) -> None:
    is_reference(with_bias(EVERY[name]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["e5m10", "stochastic"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    made = with_bias(EVERY[name], dtype)
    for own, wanted in zip(made.ours(), made.reference(), strict=True):
        assert same_bits(own, wanted)


@pytest.mark.parametrize("packed", ["", "b", "ab"])
@pytest.mark.parametrize(
    ("fmt", "scaling"),
    [
        ("e4m3", Scaling("static", value=0.37)),
        ("e4m3", Scaling("row", scale_format="float32")),
        ("e2m1", Scaling("block", size=4)),
        ("int8", Scaling("tensor", scale_format="float32")),
        ("float32", None),
    ],
)
def test_scaled_and_packed_operands(fmt: str, scaling: Scaling | None, packed: str) -> None:
    both = [rounding_row(fmt, scaling, axis) for axis in (-1, -2)]
    a, b = torch.randn(2, 6, 12), torch.randn(2, 12, 4)
    made = MadeProduct("bmm", a, b, both, packed=packed, sums=parse_accumulator("e5m10"))
    assert same_bits(made.ours()[0], made.reference()[0])


def test_stochastic_operands_and_non_finite_values() -> None:
    both = [rounding_row("e5m2", None, axis, "stochastic") for axis in (-1, -2)]
    a, b = torch.randn(2, 6, 8).mT.contiguous().mT, torch.randn(2, 8, 4)
    a[0, 1, 2], a[0, 2, 3], b[1, 3, 1] = float("inf"), float("nan"), -float("inf")
    for name in ("stochastic", "hopper_fp8_e5m2"):
        made = MadeProduct("bmm", a, b, both, sums=EVERY[name])
        assert same_bits(made.ours()[0], made.reference()[0])


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 1, 1), (3, 5, 0), (0, 4, 2), (17, 1, 9)])
def test_odd_sizes(rows: int, columns: int, depth: int) -> None:
    for name in ("e5m10", "stochastic pairs", "hopper_fp8"):
        both = operand_rows(EVERY[name])
        made = MadeProduct("mm", torch.randn(rows, depth), torch.randn(depth, columns), both, sums=EVERY[name])
        assert same_bits(made.ours()[0], made.reference()[0])


def facts(made: MadeProduct) -> CompiledFacts:
    (found,) = compiled([own for own in made.program().kernels if own.template == "product"], made.device)
    assert isinstance(found, CompiledFacts), found
    assert found.spills == 0
    return found


@pytest.mark.parametrize("name", ["e5m10", "hopper_fp8"])
def test_kernels_compile(name: str) -> None:
    facts(with_bias(EVERY[name], device=DEVICES["sm_80"]))


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("name", EVERY)
def test_all_kernels_compile(name: str, target: str) -> None:
    facts(with_bias(EVERY[name], device=DEVICES[target]))


def large(sums: Sums, target: str) -> MadeProduct:
    return MadeProduct(
        "mm", torch.randn(256, 512), torch.randn(512, 256), operand_rows(sums), device=DEVICES[target], sums=sums
    )


@pytest.mark.parametrize("interval", [32, 64, 128, 256])
def test_promotion_is_an_option(interval: int) -> None:
    """The terms of one tile, or of its steps, that a Hopper GPU sums before it adds to float32; 128 unless said."""
    made = MadeProduct(
        "mm", torch.randn(128, 512), torch.randn(512, 128), [rounding_row("e4m3")] * 2, device=DEVICES["sm_90"]
    )
    rows = PlanRows.of(rows_read(made.group.module), made.plan)
    usual = ProductTemplate().build(made.group, made.args, rows.rows, made.device)
    own = ProductTemplate(ProductOptions(promotion=interval)).build(made.group, made.args, rows.rows, made.device)
    assert isinstance(usual, ProductProgram)
    assert isinstance(own, ProductProgram)
    assert f"max_num_imprecise_acc=BLOCK_K if BLOCK_K < {interval} else {interval}" in own.kernels[-1].text
    assert (own.kernels[-1].text == usual.kernels[-1].text) is (interval == 128)


@pytest.mark.parametrize("interval", [0, -32, 48, 16, 128.0, True])
def test_promotions_that_are_none(interval: Any) -> None:
    with pytest.raises(BackendError, match="expected a multiple of 32, the terms of one instruction"):
        Triton(promotion=interval)


@pytest.mark.parametrize(("name", "interval"), [("hopper_fp8", 0), ("hopper_fp8_e5m2_promoted", 128)])
def test_a_hopper_gpu_sums_as_its_models(name: str, interval: int) -> None:
    """Its tensor cores do what the accumulator of that name describes; others, and the interpreter, emulate it."""
    made = large(EVERY[name], "sm_90")
    (source,) = made.program().kernels
    assert ("max_num_imprecise_acc" in source.text) is (interval > 0)
    assert source.tile["BLOCK_K"] % max(1, interval) == 0
    assert any("wgmma" in own for own in facts(made).instructions)
    (emulated,) = large(EVERY[name], "sm_89").program().kernels
    assert "tl.dot" not in emulated.text


def test_text() -> None:
    (source,) = with_bias(EVERY["stochastic"]).program().kernels
    check_golden("triton_product_rounded_sums_bias_relu_pack.py.txt", source.text)


def test_two_passes_are_a_kernel_of_their_own() -> None:
    plain = [rounding_row("float32", None, axis) for axis in (-1, -2)]
    two = TwoPasses("e4m3", "e5m10", tau=2.0, activation="relu")
    built = MadeProduct("mm", torch.randn(10, 13), torch.randn(13, 6), plain, sums=two).built()
    assert isinstance(built, str)
    assert str(two) in built
