"""Every text that a template can write has run: by the registries of operators, scales, arithmetics, orders and modes.

What is computed is compared with the nodes one by one, what is rounded bit for bit. Formats are in
`test_triton_rounding.py` and `test_triton_packing.py`, activations in `test_triton_two_pass.py`, pointwise operators
along rows in `test_triton_pointwise.py`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from precc.accumulation.accumulator import Order
from precc.accumulation.named import parse_accumulator
from precc.backends.triton.device import INTERPRETER
from precc.backends.triton.emit.pointwise import EXACT
from precc.backends.triton.emit.row_ops import REDUCTIONS
from precc.backends.triton.load import launches
from precc.backends.triton.native import Arithmetic
from precc.backends.triton.program import Group
from precc.backends.triton.rounding import round_triton
from precc.backends.triton.templates import TEMPLATES
from precc.backends.triton.templates.cast import CastProgram, CastTemplate
from precc.backends.triton.templates.cast_chain import cast_nodes
from precc.errors import BackendError
from precc.formats import Granularity, ScaleRule, Scaling, parse_format
from precc.fusible_ops import MATRIX_PRODUCTS, ROW_OPS, VIEW_OPS
from precc.fusion_group import FusionGroup, GroupKind
from precc.packing import PACK
from precc.precision import Precision
from precc.round_op import ROUND
from precc.rounding import RoundingMode, quantize, row_of
from precc.rounding.modes import parse_rounding
from tests.few_always import few_always
from tests.test_triton_pointwise import CASES
from tests.test_triton_product import KINDS, few_bits, rows, within_bound
from tests.test_triton_product_sums import EVERY
from tests.test_triton_rounding import MODES
from tests.triton_casts import KEY, live, same_bits
from tests.triton_products import Behind, MadeProduct, rounding_row
from tests.triton_rows import plan_of, program_of, rounded

aten = torch.ops.aten


def test_each_registry_is_that_of_the_tests() -> None:
    """One more entry fails here until something runs it."""
    assert set(TEMPLATES) == set(GroupKind)
    assert {*KINDS.values(), Arithmetic.DOUBLE} == set(Arithmetic)
    assert {own.order for own in EVERY.values()} == set(Order)
    assert set(ROWS) == set(ROW_OPS) == set(REDUCTIONS)
    assert set(VIEWS) == set(VIEW_OPS)
    assert {f"aten.{own}" for own in PRODUCTS} == {own for own in MATRIX_PRODUCTS if own.startswith("aten.")}
    assert {own.granularity for own in scalings()} == set(Granularity)
    assert {own.rule for own in scalings()} == set(ScaleRule)


@pytest.mark.parametrize("mode", RoundingMode)
def test_a_mode_is_run_or_refused(mode: RoundingMode) -> None:
    row = row_of(parse_format("e4m3"), parse_rounding(mode.value))
    if mode.value not in MODES:
        with pytest.raises(BackendError, match=mode.value):
            round_triton(torch.randn(4), row)


def behind(function: Callable[..., Tensor], *examples: Tensor) -> Behind:
    """A function of the product and of further placeholders, and its result rounded and packed by row 2."""

    def nodes(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
        traced = make_fx(lambda *args: function(*args))(*examples)
        made: dict[Node, Node] = {}
        given = iter((product, *more))
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                made[node] = next(given)
            elif node.op == "call_function":
                made[node] = graph.node_copy(node, lambda own: made[own])
            elif node.op == "output":
                value = made[node.args[0]]
        packs = [graph.call_function(PACK, (value, plan, 2, transposed)) for transposed in (False, True)]
        return [value, graph.call_function(ROUND, (value, plan, 2)), *packs]

    return nodes


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def product(function: Callable[..., Tensor], *more: Tensor, dtype: torch.dtype = torch.float32) -> MadeProduct:
    """Of [18, 20] and [20, 12], with sums that are small numbers, and what follows."""
    a, b = few_bits(18, 20).to(dtype) / 4, few_bits(20, 12).to(dtype) / 4
    return MadeProduct("mm", a, b, [*rows("e4m3"), rounding_row("e5m2")], behind(function, a @ b, *more), more)


def check_rounded(made: MadeProduct, exact: bool) -> None:
    """The value, and its copies, of one kernel."""
    with launches() as ran:
        ours, wanted = made.ours(), made.reference()
    assert [own.source.template for own in ran].count("product") == 1
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-5, atol=1e-6, equal_nan=True)
    if exact:
        assert same_bits(ours[0], wanted[0])
    assert same_bits(ours[1], ROUND(ours[0], made.plan, 2))
    for transposed in (False, True):
        assert ours[2 + transposed].equal(PACK(ours[0], made.plan, 2, transposed))


#: Of which the cases have nodes of the second value alone, as groups have not.
BESIDE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {
    "aten._to_copy": (lambda x, y: aten._to_copy(x * 0.1, dtype=torch.float16).float() * y,),
    "aten.logical_and": (lambda x, y: torch.where(aten.logical_and(x > 0, x < y), x, y),),
    "aten.logical_or": (lambda x, y: torch.where(aten.logical_or(x > 2, x < y), x, y),),
    "aten.masked_fill": (lambda x, y: aten.masked_fill(x, x > y, -1.5),),
    "aten.mul": (lambda x, y: aten.mul(x, y), lambda x, y: aten.mul(x, 0.1), lambda x, y: aten.mul(x, x > y)),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_pointwise_operators_behind_products(name: str) -> None:
    for function in BESIDE.get(name, CASES[name]):
        check_rounded(product(function, torch.randn(18, 12)), name in EXACT)


def test_pointwise_operators_of_transposed_products() -> None:
    check_rounded(product(lambda x: torch.where(x.t() > 0.5, x.t() * 2.0, x.t().neg() - 1)), True)
    three = [*rows("e4m3"), rounding_row("e4m3")]
    square = MadeProduct("mm", few_bits(8, 8), few_bits(8, 8), three)
    added = replace(square, behind=behind(lambda x, y: x.t() + y, square.a, square.b), more=[few_bits(8, 8)])
    assert "a transposed value and one that is not" in str(added.built())
    beside = replace(square, behind=behind(lambda x, y: x + y.neg(), square.a, square.b), more=[few_bits(8, 8)])
    assert "neg is computed beside the product" in str(beside.built())


@pytest.mark.parametrize("shape", [(12,), (18, 1), (1, 12), (1, 1), (), (18, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_what_a_product_meets(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    other = torch.randn(shape).to(dtype) if dtype is not torch.bool else torch.randn(shape) > 0
    check_rounded(product(lambda x, y: x.masked_fill(y, 2.0) if y.dtype is torch.bool else x + y, other), True)


def test_one_mask_for_all_matrices_of_a_batch() -> None:
    a, b, mask = few_bits(3, 18, 20), few_bits(3, 20, 12), torch.randn(18, 12) > 0
    nodes = behind(lambda x, y: x.masked_fill(y, -2.0), a @ b, mask)
    check_rounded(MadeProduct("bmm", a, b, [*rows("e4m3"), rounding_row("e5m2")], nodes, [mask]), True)


@pytest.mark.parametrize("op", few_always(PRODUCTS, ("addmm", "baddbmm")))
@pytest.mark.parametrize("scaling", [None, Scaling("static", value=0.37)])
def test_results_in_every_dtype(op: str, scaling: Scaling | None) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        a, b = few_bits(18, 20).to(dtype), few_bits(20, 12).to(dtype)
        bias = [few_bits(12).to(dtype)] if "add" in op else []
        if "bmm" in op:
            a, b, bias = a.expand(2, 18, 20), b.expand(2, 20, 12).contiguous(), [own.expand(2, 18, 12) for own in bias]
        three = [*rows("e4m3"), rounding_row("e4m3", scaling)]
        made = MadeProduct(op, a, b, three, behind(torch.relu, a @ b), bias)
        check_rounded(made, dtype is not torch.float64)


def scalings() -> Iterator[Scaling]:
    """Each granularity with each rule."""
    yield Scaling("static", value=0.37)
    sizes = {Granularity.BLOCK: 8, Granularity.TILE: 8}
    for kind in Granularity:
        for rule in ScaleRule:
            fmt = "float32" if rule is ScaleRule.NEAREST else "e8m0"
            if kind is not Granularity.STATIC:
                size = {"size": sizes[kind]} if kind in sizes else {}
                yield Scaling(kind.value, rule=rule.value, scale_format=fmt, **size)  # type: ignore[arg-type]


EVERY_SCALING = {f"{own.granularity.value}-{own.rule.value}": own for own in scalings()}


@pytest.mark.parametrize("name", few_always(EVERY_SCALING, ("tensor-floor", "block-ceil", "tile-nearest")))
def test_every_kind_of_scale_in_every_template(name: str) -> None:
    """Of operands, read as values and as codes, of results, of rows and of casts."""
    scaling = EVERY_SCALING[name]
    both = [rounding_row("e4m3", scaling, axis) for axis in (-1, -2)]
    a, b = torch.randn(18, 32), torch.randn(32, 16)
    for packed in ("", "ab"):
        within_bound(MadeProduct("mm", a, b, both, packed=packed))
    summed = MadeProduct("mm", a.bfloat16(), b.bfloat16(), both, packed="ab", sums=parse_accumulator("e5m10"))
    assert same_bits(summed.ours()[0], summed.reference()[0])
    result = MadeProduct("mm", few_bits(18, 32), few_bits(32, 16), [*rows("e4m3"), both[0]], behind(torch.relu, a @ b))
    ours, wanted = result.ours(), result.reference()
    assert all(same_bits(own, exact) for own, exact in zip(ours, wanted, strict=True))
    for row in both:
        assert same_bits(round_triton(a, row, KEY), quantize(a, row, KEY))
    plan = plan_of(Precision("e4m3", scaling=scaling))
    program, live_rows = program_of(lambda x, plan: rounded(x * 3.0, plan), [a], plan, INTERPRETER)
    exact = rounded(a * 3.0, plan)
    assert all(same_bits(own, other) for own, other in zip(program([a], live_rows), exact, strict=True))


#: Shapes of the same values, of [6, 4, 16].
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "aten._reshape_alias": lambda x: aten._reshape_alias(x, [24, 16], [16, 1]),
    "aten._unsafe_view": lambda x: aten._unsafe_view(x, [24, 16]),
    "aten.alias": aten.alias,
    "aten.permute": lambda x: aten.permute(x, [0, 2, 1]),
    "aten.reshape": lambda x: aten.reshape(x, [24, 16]),
    "aten.squeeze": lambda x: aten.squeeze(aten.unsqueeze(x, 0), 0),
    "aten.t": lambda x: aten.t(aten.view(x, [24, 16])),
    "aten.transpose": lambda x: aten.transpose(x, -1, -2),
    "aten.unsqueeze": lambda x: aten.unsqueeze(x, 0),
    "aten.view": lambda x: aten.view(x, [24, 16]),
}


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_views_before_roundings(name: str) -> None:
    """Of a value that is cast, of one that rows compute, and of a product's."""
    view = VIEWS[name]

    def run(x: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return ROUND(view(x), plan, 0), PACK(view(x), plan, 0, False)

    x, plan = torch.randn(6, 4, 16), plan_of(Precision("e4m3"))
    traced = make_fx(run)(x, plan)
    record = FusionGroup("cast", GroupKind.CAST, (), ())
    program = CastTemplate().build(Group(record, traced, backward=False), [x], live(rounding_row("e4m3")), INTERPRETER)
    assert isinstance(program, CastProgram), program
    assert any(own.chain for own in cast_nodes(traced)[1])
    found, wanted = program([x], live(rounding_row("e4m3"))), run(x, plan)
    assert all(same_bits(own, exact) for own, exact in zip(found, wanted, strict=True))

    def computed(x: Tensor, y: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        value = x * y
        return (value, *run(value, plan))

    args = [x, torch.randn(16)]
    by_rows, live_rows = program_of(computed, args, plan, INTERPRETER)
    exact_rows = computed(*args, plan)
    assert all(same_bits(own, exact) for own, exact in zip(by_rows(args, live_rows), exact_rows, strict=True))
    a, b = few_bits(6, 4, 20), few_bits(6, 20, 16)
    made = MadeProduct("bmm", a, b, [*rows("e4m3"), rounding_row("e4m3")], behind(lambda x: view(x * 0.5), a @ b))
    ours, reference = made.ours(), made.reference()
    assert all(same_bits(own, exact) for own, exact in zip(ours, reference, strict=True))


#: Of a product of [16, 16] behind which dimensions have another order, or two of another shape are swapped.
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "heads": lambda x: x.view(1, 16, 2, 8).transpose(1, 2),
    "one head": lambda x: x.view(1, 16, 1, 16).transpose(1, 2),
    "heads, swapped": lambda x: x.view(1, 16, 2, 8).permute(0, 2, 3, 1),
    "parts, swapped": lambda x: x.view(2, 8, 16).transpose(1, 2),
    "swapped": lambda x: x.view(1, 16, 16).mT,
    "swapped, then apart": lambda x: x.t().view(16, 1, 16),
    "twice": lambda x: x.view(4, 4, 16).transpose(0, 1).transpose(1, 2),
    "as it was": lambda x: x.view(4, 4, 16).permute(0, 1, 2),
}


@pytest.mark.parametrize("name", few_always(MOVED, ("heads", "one head", "parts, swapped", "twice")))
@pytest.mark.parametrize("result", few_always(("e4m3", "stochastic", "static", "mxfp8_e4m3", "tensor"), ["stochastic"]))
def test_orders_of_dimensions_behind_products(name: str, result: str) -> None:
    scalings = {"static": Scaling("static", value=0.5), "tensor": Scaling("tensor")}
    fmt = result if result == "mxfp8_e4m3" else "e4m3"
    third = rounding_row(fmt, scalings.get(result), mode="stochastic" if result == "stochastic" else "nearest_even")
    a, b, view = few_bits(16, 24), few_bits(24, 16), MOVED[name]
    for before in (0, 1):
        steps = [lambda x: x * 0.5, view][:: 1 if before else -1]
        made = MadeProduct(
            "mm", a, b, [*rows("e4m3"), third], behind(lambda x, own=tuple(steps): own[1](own[0](x)), a @ b)
        )
        ours, wanted = made.ours(), made.reference()
        assert all(same_bits(own, exact) for own, exact in zip(ours, wanted, strict=True))


#: Functions of x and y of [12, 40], of a vector, and of the statistics of x.
ROWS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "aten._softmax": (lambda x, y, v: aten._softmax(x, -1, False),),
    "aten._softmax_backward_data": (
        lambda x, y, v: aten._softmax_backward_data(x, aten._softmax(y, -1, False), -1, x.dtype),
    ),
    "aten.amax": (lambda x, y, v: x - aten.amax(x, [-1], True), lambda x, y, v: x * aten.amax(x, [1])[:, None]),
    "aten.mean": (lambda x, y, v: x - aten.mean(x, [-1], True), lambda x, y, v: x * aten.mean(y, [1])[:, None]),
    "aten.sum": (lambda x, y, v: x - aten.sum(x, [-1], True), lambda x, y, v: x * aten.sum(y, [1])[:, None]),
    "aten.native_layer_norm": tuple(
        lambda x, y, v, w=w, b=b: aten.native_layer_norm(x, [40], v if w else None, v if b else None, 1e-5)[0]  # type: ignore[misc]
        for w in (False, True)
        for b in (False, True)
    ),
    "aten.native_layer_norm_backward": tuple(
        lambda x, y, v, w=w: aten.native_layer_norm_backward(  # type: ignore[misc]
            y, x, [40], *statistics(x), v if w else None, v if w else None, [True, w, w]
        )[0]
        for w in (False, True)
    ),
}


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, rstd = aten.native_layer_norm(x, [40], None, None, 1e-5)[1:]
    return mean, rstd


@pytest.mark.parametrize("name", sorted(ROWS))
def test_operators_along_rows(name: str) -> None:
    for function, dtype in itertools.product(ROWS[name], (torch.float32, torch.bfloat16)):
        args = [torch.randn(12, 40).to(dtype), torch.randn(12, 40).to(dtype), torch.randn(40).to(dtype)]
        along_rows(function, args, 1e-5 if dtype is torch.float32 else 2e-2)


def along_rows(function: Callable[..., Tensor], args: list[Tensor], near: float) -> None:
    def run(x: Tensor, y: Tensor, v: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return rounded(function(x, y, v) + (v + 1), plan)

    plan = plan_of(Precision("e4m3"))
    program, live_rows = program_of(run, args, plan, INTERPRETER)
    value, copy, turned = program(args, live_rows)
    torch.testing.assert_close(value, run(*args, plan)[0], rtol=near, atol=near)
    assert same_bits(copy, rounded(value, plan)[1])
    assert same_bits(turned, rounded(value, plan)[2])


def test_casts_of_many_dimensions() -> None:
    """None of which can be taken together with another."""
    x = torch.randn(3, 2, 4, 3, 4).permute(3, 1, 4, 0, 2)[:, :, ::2]
    for scaling in (Scaling("tensor"), Scaling("block", size=2)):
        row = row_of(parse_format("e4m3"), parse_rounding("stochastic"), scaling, axis=-1, channel=1, slot=3)
        assert same_bits(round_triton(x, row, KEY), quantize(x, row, KEY))
