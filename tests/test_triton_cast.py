"""Casts by generated kernels: every granularity of scales and layout of a value against `quantize`, and their texts."""

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.rounding import round_triton
from precc.backends.triton.templates.cast import CastTemplate
from precc.errors import FormatError
from precc.formats import Scaling, parse_format
from precc.round_op import ROUND
from precc.rounding import Row, parse_rounding, quantize, row_of
from tests.golden import check_golden
from tests.triton_casts import KEY, built, group_of, live, pack_op, same_bits

T = torch.ops.aten.t.default
FLOAT32 = "float32"
SCALINGS = {
    "none": None,
    "static": Scaling("static", value=0.37),
    "tensor": Scaling("tensor"),
    "tensor_float32": Scaling("tensor", scale_format=FLOAT32),
    "channel": Scaling("channel", scale_format="e4m3"),
    "row": Scaling("row", rule="ceil"),
    "block16": Scaling("block", size=16, scale_format="ue5m3"),
    "block24": Scaling("block", size=24),
    "block128": Scaling("block", size=128, scale_format=FLOAT32),
    "tile": Scaling("tile", size=(8, 4)),
    "tile_odd": Scaling("tile", size=(3, 5), scale_format=FLOAT32),
    "tile128": Scaling("tile", size=128, scale_format=FLOAT32),
    "two_level": Scaling("block", size=16, scale_format="e4m3", two_level=True),
    "two_level_tile": Scaling("tile", size=16, scale_format="e4m3", two_level=True),
}
FORMATS = (
    "e4m3 e5m2 e3m4 e2m1 e8m0 e4m3fnuz e5m10 bf16 fp16 tf32 int8 int16 fixed8.4 mxfp8 mxfp4 nvfp4 bfp8.16 dfp8".split()
)
#: Those that cost the interpreter most.
SLOW = ("tile", "tile_odd", "two_level_tile", "tensor", "block16")


def hostile(dtype: torch.dtype = torch.float32) -> Tensor:
    """[40, 72]: all magnitudes, rows of zeros, of negative zeros, of subnormal numbers, with a NaN, with infinity."""
    x = torch.randn(40, 72, dtype=torch.float64) * torch.exp2(torch.randint(-12, 12, (40, 72)).double())
    x[3], x[7], x[8] = 0.0, -0.0, x[8] * 1e-38
    x[4, :16], x[5, 7], x[6, 9], x[9, 1], x[10, 2] = 0.0, torch.nan, -torch.inf, 1e-42, 3e38
    return x.to(dtype)


def layouts() -> list[Tensor]:
    """Of all strides and degenerate sizes; the finite ones first."""
    plain = hostile().nan_to_num(1.0, 2.0, 3.0)
    return [
        plain,
        plain.t(),
        plain[:, ::3],
        plain[:1],
        plain[:, :1],
        plain[:0],
        plain[:12].reshape(2, 6, 72).permute(1, 0, 2),
        plain[:6].reshape(2, 3, 12, 6),
        plain[:, 5:6].expand(40, 33),
        plain[0],
        plain[0, 0],
        hostile(),
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SCALINGS]
)
def test_every_granularity_on_every_layout(name: str) -> None:
    for number, x in enumerate(layouts()):
        axis = -1 if number % 3 else 0
        mode = "stochastic" if number % 2 else "nearest_even"
        fmt = parse_format("e2m1" if "two" in name else "e4m3")
        row = row_of(fmt, parse_rounding(mode), SCALINGS[name], axis=axis, channel=axis, slot=9)
        try:
            wanted = quantize(x, row, KEY)
        except FormatError:
            with pytest.raises(FormatError, match="dimension|axis"):
                round_triton(x, row, KEY)
            continue
        ours = round_triton(x, row, KEY)
        assert same_bits(ours, wanted), (axis, tuple(x.shape), x.stride())
        assert ours.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    x = hostile(dtype)
    for name in ("mxfp8", "mxfp4", "nvfp4", "bfp8.16", "dfp8", "mxint8", "e5m2"):
        row = row_of(parse_format(name), slot=3)
        assert same_bits(round_triton(x, row), quantize(x, row)), name


def dual(graph: Graph, x: Node, plan: Node) -> list[Node]:
    """Values, both packed layouts, and the same of the transpose by the next row."""
    nodes: list[Node] = []
    for number, value in enumerate((x, graph.call_function(T, (x,)))):
        nodes.append(graph.call_function(ROUND, (value, plan, number)))
        nodes += [graph.call_function(pack_op(), (value, plan, number, transposed)) for transposed in (False, True)]
    return nodes


def both_layouts(graph: Graph, x: Node, plan: Node) -> list[Node]:
    return [graph.call_function(pack_op(), (x, plan, 0, transposed)) for transposed in (False, True)]


def values(graph: Graph, x: Node, plan: Node) -> list[Node]:
    return [graph.call_function(ROUND, (x, plan, 0))]


def row_by(scaling: Scaling | None, mode: str = "nearest_even", slot: int = 1) -> Row:
    return row_of(parse_format("e4m3"), parse_rounding(mode), scaling, axis=-1, slot=slot)


@pytest.mark.parametrize(
    "name", ["block128", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tile128", "tensor", "row", "none"))]
)
def test_tiles_of_a_gpu_give_what_large_ones_give(name: str) -> None:
    x = torch.randn(140, 150)
    rows = [row_by(SCALINGS[name], "stochastic", slot) for slot in (1, 2)]
    large, small = (built(dual, x, *rows, device=device) for device in (INTERPRETER, DEVICES["sm_90"]))
    for wide, narrow in zip(large([x], live(*rows)), small([x], live(*rows)), strict=True):
        assert torch.equal(wide.contiguous().view(torch.uint8), narrow.contiguous().view(torch.uint8))
    assert same_bits(large([x], live(*rows))[0], quantize(x, rows[0], KEY))
    assert same_bits(large([x], live(*rows))[3], quantize(x.t(), rows[1], KEY))


def test_copies_of_one_rounding_share_it_and_one_pass() -> None:
    x = torch.empty(512, 512, dtype=torch.bfloat16)
    (kernel,) = built(
        dual, x, row_by(SCALINGS["block128"]), row_by(SCALINGS["block128"]), device=DEVICES["sm_90"]
    ).kernels
    assert kernel.text.count("(divided_float32(x,") == 2
    packed = 512 * 512 + 512 * 4 * 4
    assert kernel.bytes == 2 * 512 * 512 * 3 + 4 * packed
    (first, second) = built(values, x, row_by(SCALINGS["tensor"]), device=DEVICES["sm_90"]).kernels
    assert (first.bytes, second.bytes) == (2 * 512 * 512, 4 * 512 * 512)


def test_copies_whose_blocks_do_not_fit_have_kernels_of_their_own() -> None:
    x = torch.randn(60, 48)
    rows = [row_by(Scaling("block", size=24)), row_by(Scaling("block", size=16, axis=0))]
    program = built(dual, x, *rows)
    assert same_bits(program([x], live(*rows))[0], quantize(x, rows[0]))
    assert same_bits(program([x], live(*rows))[3], quantize(x.t(), rows[1]))


def test_a_row_that_is_no_cast_gives_a_sentence() -> None:
    x = torch.randn(4, 4)

    def added(graph: Graph, x: Node, plan: Node) -> list[Node]:
        total = graph.call_function(torch.ops.aten.add.Tensor, (x, x))
        return [graph.call_function(ROUND, (total, plan, 0))]

    row = row_by(None)
    assert (
        CastTemplate().build(group_of(added), [x], live(row), INTERPRETER)
        == "fc1_cast: add_tensor is no rounding of a cast"
    )
    hysteresis = row_by(None, "hysteresis")
    sentence = CastTemplate().build(group_of(values), [x], live(hysteresis), INTERPRETER)
    assert isinstance(sentence, str)
    assert "hysteresis" in sentence


def test_addresses_beyond_32_bits_have_a_wide_variant() -> None:
    x = torch.empty(1, device="meta", dtype=torch.bfloat16).expand(2**17, 2**16)
    row = row_by(SCALINGS["block128"], "stochastic")
    (kernel,) = built(both_layouts, x, row, device=DEVICES["sm_90"]).kernels
    assert "tl.program_id(0).to(tl.int64)" in kernel.text
    assert "random_31_wide" in kernel.text
    assert {own.type for own in kernel.arguments if own.name in ("rows", "columns")} == {"i64"}


@pytest.mark.parametrize(
    ("name", "nodes", "row"),
    [
        ("e4m3_1x128_both_layouts", both_layouts, row_by(SCALINGS["block128"])),
        ("mxfp4_both_layouts", both_layouts, row_of(parse_format("mxfp4"))),
        ("e5m2_stochastic", values, row_of(parse_format("e5m2"), parse_rounding("stochastic"))),
    ],
)
def test_golden_texts(name: str, nodes: object, row: Row) -> None:
    x = torch.empty(4096, 4096, dtype=torch.bfloat16, device="meta")
    program = built(nodes, x, row, device=DEVICES["sm_90"])  # type: ignore[arg-type]
    check_golden(f"triton_cast_{name}.py.txt", "\n\n".join(kernel.text for kernel in program.kernels))


def check_compiled(name: str, fmt: str, mode: str, dtype: torch.dtype, target: str) -> None:
    """All that a cast of a tensor and its transpose writes, without spills, in the shared memory that there is."""
    x = torch.empty(512, 768, dtype=dtype)
    rows = [row_of(parse_format(fmt), parse_rounding(mode), SCALINGS[name], axis=-1, slot=n) for n in (1, 2)]
    kernels = built(dual, x, *rows, device=DEVICES[target]).kernels
    for source, facts in zip(kernels, compiled(kernels, DEVICES[target]), strict=True):
        assert isinstance(facts, CompiledFacts), facts
        assert facts.spills == 0, (source.name, source.tile, source.num_warps)
        assert facts.shared_memory <= DEVICES[target].shared_memory


@pytest.mark.parametrize("target", DEVICES)
def test_kernels_compile(target: str) -> None:
    check_compiled("block128", "e4m3", "nearest_even", torch.bfloat16, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("name", SCALINGS)
def test_kernels_of_every_granularity_compile(name: str, target: str) -> None:
    for fmt, mode, dtype in (
        ("e4m3", "stochastic", torch.bfloat16),
        ("e3m2", "nearest_even", torch.float32),
        ("int8", "stochastic", torch.float16),
    ):
        check_compiled(name, fmt, mode, dtype, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("fmt", FORMATS)
def test_kernels_of_every_format_compile(fmt: str, target: str) -> None:
    for mode in ("nearest_even", "stochastic"):
        check_compiled("none", fmt, mode, torch.bfloat16, target)
    check_compiled("none", fmt, "toward_zero", torch.float64, target)
