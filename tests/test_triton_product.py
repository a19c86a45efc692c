"""Products by generated kernels: every arithmetic, layout, scaling and epilogue, against the nodes one by one."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.native import Arithmetic
from precc.formats import Scaling
from precc.packing import PACK, UNPACK
from precc.round_op import ROUND
from precc.rounding import Row
from tests.golden import check_golden
from tests.triton_casts import same_bits
from tests.triton_products import ATEN, Behind, MadeProduct, rounding_row

FLOAT32 = "float32"
#: By format: the arithmetic of its products on a Hopper GPU.
KINDS = {
    "e4m3": Arithmetic.FP8,
    "e5m2": Arithmetic.FP8,
    "e2m1": Arithmetic.FP8,
    "e3m2": Arithmetic.FP8,
    "e3m4": Arithmetic.BF16,
    "int8": Arithmetic.BF16,
    "bfloat16": Arithmetic.BF16,
    "float16": Arithmetic.FP16,
    "tf32": Arithmetic.TF32,
    "e8m12": Arithmetic.IEEE,
    "float32": Arithmetic.IEEE,
    "mxfp8_e4m3": Arithmetic.FP8,
    "mxfp4": Arithmetic.FP8,
    "nvfp4": Arithmetic.BF16,
}
SCALINGS = {
    "static": Scaling("static", value=0.37),
    "tensor": Scaling("tensor"),
    "tensor_float32": Scaling("tensor", scale_format=FLOAT32),
    "row": Scaling("row", scale_format=FLOAT32),
    "channel": Scaling("channel", scale_format=FLOAT32),
    "block24": Scaling("block", size=24, scale_format=FLOAT32),
    "block64": Scaling("block", size=64, scale_format=FLOAT32),
    "tile64": Scaling("tile", size=64, scale_format=FLOAT32),
    "block32": Scaling("block", size=32),
}


def few_bits(*shape: int) -> Tensor:
    """Integers of which every sum of products is exact."""
    return torch.randint(-3, 4, shape).float()


def rows(name: str, scaling: Scaling | None = None, mode: str = "nearest_even") -> list[Row]:
    """Of both operands."""
    return [rounding_row(name, scaling, axis, mode) for axis in (-1, -2)]


def within_bound(made: MadeProduct) -> None:
    """Kernels are as near to the exact product of the rounded operands as `native` says."""
    (ours,) = made.ours()
    a, b = (ROUND(value, made.plan, n).double() for n, value in enumerate((made.a, made.b)))
    bound = (made.a.shape[-1] + 3) * 2.0**-24 * (a.abs() @ b.abs()) + 1e-40
    assert ours.dtype is made.a.dtype
    assert bool(((ours.double() - a @ b).abs() <= bound).all())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("packed", ["", "b", "ab"])
def test_exact_sums_are_those_of_the_reference(name: str, packed: str) -> None:
    made = MadeProduct("mm", few_bits(37, 45), few_bits(45, 29), rows(name), packed=packed)
    assert made.program().product.kind is KINDS[name]
    if name == "nvfp4":  # its scales are no powers of two
        return within_bound(made)
    assert same_bits(made.ours()[0], made.reference()[0])
    return None


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["e4m3", "e3m4", "tf32", "e8m12"])
@pytest.mark.parametrize("packed", ["", "a", "ab"])
def test_scales_are_within_the_bound(scaling: str, name: str, packed: str) -> None:
    a, b = torch.randn(40, 130) * torch.exp(torch.randn(40, 1)), torch.randn(130, 70)
    within_bound(MadeProduct("mm", a, b, rows(name, SCALINGS[scaling]), packed=packed))


def test_operands_in_float64() -> None:
    made = MadeProduct("mm", few_bits(20, 30).double(), few_bits(30, 18).double(), rows("e4m3", SCALINGS["static"]))
    (ours,), (wanted,) = made.ours(), made.reference()
    torch.testing.assert_close(ours, wanted, rtol=1e-14, atol=0)


def layouts() -> list[tuple[str, Tensor, Tensor]]:
    a, b = few_bits(33, 48), few_bits(48, 17)
    batch = few_bits(3, 20, 40)
    return [
        ("mm", a, b),
        ("mm", a.t().contiguous().t(), b),
        ("mm", a, b.t().contiguous().t()),
        ("mm", a.t().contiguous().t(), b.t().contiguous().t()),
        ("mm", a[:, ::2], b[::2, ::3]),
        ("mm", a[:1, :5], b[:5, :1]),
        ("mm", a[:0], b),
        ("mm", a, b[:, :0]),
        ("mm", a[:, :0], b[:0]),
        ("mm", few_bits(300, 20), few_bits(20, 270)),
        ("mm", few_bits(5, 1000), few_bits(1000, 3)),
        ("bmm", batch, few_bits(3, 40, 11)),
        ("bmm", batch.transpose(0, 1).contiguous().transpose(0, 1), few_bits(3, 11, 40).mT),
    ]


@pytest.mark.parametrize("name", ["e4m3", "bfloat16", "e8m12"])
def test_every_layout(name: str) -> None:
    for op, a, b in layouts():
        for packed in ("", "ab"):
            made = MadeProduct(op, a, b, rows(name), packed=packed)
            assert same_bits(made.ours()[0], made.reference()[0]), (op, a.shape, a.stride(), b.stride(), packed)


def test_non_finite_operands() -> None:
    a = torch.ones(16, 32)
    a[0, 0], a[1, 0], a[2, 0], a[3, 0] = torch.nan, torch.inf, -1e9, -torch.inf
    for name in ("e4m3", "e5m2", "bfloat16", "e2m1", "int8", "e8m12"):
        for packed in ("", "ab"):
            made = MadeProduct("mm", a, few_bits(32, 8), rows(name), packed=packed)
            ours, wanted = made.ours()[0], made.reference()[0]
            if name in ("e2m1", "int8") and packed:  # codes that hold no NaN: all are
                assert ours.isnan().all()
                continue
            assert same_bits(ours, wanted), (name, packed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_of_16_bits(dtype: torch.dtype) -> None:
    a, b = few_bits(20, 30).to(dtype), few_bits(30, 18).to(dtype)
    for name in ("float32", "e4m3", "e8m12"):
        made = MadeProduct("mm", a, b, rows(name))
        assert made.program().product.kind in (Arithmetic.FP8, Arithmetic.BF16, Arithmetic.FP16)
        assert same_bits(made.ours()[0], made.reference()[0])


def gelu_and_pack(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    active = graph.call_function(ATEN.gelu.default, (product,))
    packs = [graph.call_function(PACK, (active, plan, 2, transposed)) for transposed in (False, True)]
    return [active, *packs]


def residual_and_round(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    total = graph.call_function(ATEN.add.Tensor, (product, more[-1]))
    active = graph.call_function(ATEN.relu.default, (total,))
    return [graph.call_function(ROUND, (active, plan, 2)), total]


def flattened(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    active = graph.call_function(ATEN.relu.default, (graph.call_function(ATEN.view.default, (product, [4, 10, 24])),))
    return [graph.call_function(PACK, (active, plan, 2, transposed)) for transposed in (False, True)]


RESULTS = {
    "e4m3": None,
    "e5m2_stochastic": None,
    "int16": None,
    "e2m1": None,
    "mxfp8_e4m3": None,
    "e3m4": Scaling("tensor", scale_format=FLOAT32),
    "e4m3_static": Scaling("static", value=0.37),
}


@pytest.mark.parametrize("behind", [gelu_and_pack, residual_and_round, flattened])
@pytest.mark.parametrize("result", RESULTS)
def test_results_are_rounded_and_packed_in_the_kernel(behind: Behind, result: str) -> None:
    name = result.removesuffix("_stochastic").removesuffix("_static")
    mode = "stochastic" if "stochastic" in result else "nearest_even"
    third = rounding_row(name, RESULTS[result], -1, mode)
    more = [few_bits(24), few_bits(40, 24)]
    made = MadeProduct("addmm", few_bits(40, 32), few_bits(32, 24), [*rows("e4m3"), third], behind, more)
    ours, wanted = made.ours(), made.reference()
    if behind is gelu_and_pack:
        torch.testing.assert_close(ours[0], wanted[0], rtol=1e-5, atol=1e-6)
        for transposed in (False, True):
            assert same_bits(ours[1 + transposed], PACK(ours[0], made.plan, 2, transposed))
            values = UNPACK(ours[1 + transposed], made.plan, 2, [40, 24], torch.float32, transposed)
            assert same_bits(values, ROUND(ours[0], made.plan, 2))
    else:
        for own, theirs in zip(ours, wanted, strict=True):
            assert same_bits(own, theirs)


def test_what_no_kernel_computes_is_a_sentence() -> None:
    def behind(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
        return [graph.call_function(ATEN.cumsum.default, (product, 0))]

    built = MadeProduct("mm", few_bits(16, 16), few_bits(16, 16), rows("e4m3"), behind).built()
    assert isinstance(built, str)
    assert "cumsum" in built


def made_for(target: str, name: str, scaling: str = "", packed: str = "ab") -> MadeProduct:
    both = rows(name, SCALINGS.get(scaling))
    device = DEVICES[target]
    return MadeProduct("mm", few_bits(256, 256), few_bits(256, 256), both, packed=packed, device=device)


def compiles(made: MadeProduct) -> CompiledFacts:
    sources = [source for source in made.program().kernels if source.template == "product"]
    (facts,) = compiled(sources, made.device)
    assert isinstance(facts, CompiledFacts), facts
    assert facts.spills == 0
    assert facts.shared_memory <= made.device.shared_memory
    return facts


@pytest.mark.parametrize(
    ("target", "name", "opcode"),
    [
        ("sm_80", "e4m3", "bf16.bf16"),
        ("sm_89", "e5m2", "e5m2.e5m2"),
        ("sm_90", "mxfp4", "wgmma"),
    ],
)
def test_kernels_compile(target: str, name: str, opcode: str) -> None:
    (instruction,) = compiles(made_for(target, name)).instructions
    assert opcode in instruction


@pytest.mark.parametrize("a", ["e4m3", "e5m2"])
@pytest.mark.parametrize("b", ["e4m3", "e5m2"])
def test_a_hopper_gpu_multiplies_8_bit_floats_of_either_kind(a: str, b: str) -> None:
    both = [rounding_row(a), rounding_row(b, None, -2)]
    made = MadeProduct("mm", few_bits(256, 256), few_bits(256, 256), both, packed="ab", device=DEVICES["sm_90"])
    (instruction,) = compiles(made).instructions
    assert instruction.startswith("wgmma.mma_async.sync.aligned.m64n")
    assert instruction.endswith(f"k32.f32.{a}.{b}")


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["", "ab"])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("target", DEVICES)
def test_all_kernels_compile(target: str, name: str, packed: str) -> None:
    made = made_for(target, name, packed=packed)
    facts, kind = compiles(made), made.program().product.kind
    assert bool(facts.instructions) is (kind is not Arithmetic.IEEE)
    if kind is Arithmetic.FP8 and target == "sm_90":
        element = "e5m2" if name == "e5m2" else "e4m3"
        assert all("wgmma" in own and f"{element}.{element}" in own for own in facts.instructions)


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("target", DEVICES)
def test_all_scalings_compile(target: str, scaling: str) -> None:
    for name in ("e4m3", "e3m4"):
        compiles(made_for(target, name, scaling))


def test_text_of_a_product_with_bias_gelu_and_pack() -> None:
    both = [*rows("e4m3", SCALINGS["static"]), rounding_row("e4m3", SCALINGS["static"])]
    more = [torch.randn(256)]
    made = MadeProduct(
        "addmm", few_bits(512, 256), few_bits(256, 256), both, gelu_and_pack, more, device=DEVICES["sm_90"]
    )
    (source,) = made.program().kernels
    check_golden("triton_product_e4m3_bias_gelu_pack.py.txt", source.text)
