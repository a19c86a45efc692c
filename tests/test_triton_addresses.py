"""Addresses beyond 32 bits: chosen where strides need them, right where they are, and the same bits where not."""

import re
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.accumulation.two_pass_rule import Choice
from precc.backends.triton.accumulate import accumulate
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER, Device
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launches
from precc.backends.triton.rounding import round_triton
from precc.backends.triton.templates import addresses
from precc.backends.triton.templates.cast_kernels import kernels_of
from precc.backends.triton.templates.softmax import softmax_rows, softmax_source
from precc.formats import Scaling, parse_format
from precc.precision import Precision
from precc.rounding import Row, parse_rounding, quantize, row_of
from tests.few_always import few_always
from tests.test_triton_cast import both_layouts
from tests.test_triton_epilogue import of_product, of_row
from tests.test_triton_product import few_bits, residual_and_round, rows
from tests.test_triton_two_pass import check, problem_of
from tests.triton_casts import KEY, built, same_bits
from tests.triton_products import MadeProduct, rounding_row
from tests.triton_rows import gated, packed, plan_of, program_of, rms_norm, rounded

#: A stride that fits 32 bits, three times which does not.
STEP = 2**30


@pytest.fixture(scope="module")
def memory() -> Tensor:
    """4 GiB of which only touched pages are there."""
    return torch.empty(3 * STEP + 64, dtype=torch.bfloat16)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no address fitted 32 bits."""
    monkeypatch.setattr(addresses, "_MOST", -1)
    kernels_of.cache_clear()
    yield
    kernels_of.cache_clear()


def far(memory: Tensor, columns: int, first: int = 0) -> Tensor:
    """[4, columns], each row 2**30 elements behind the one before; integers of few bits."""
    x = memory.as_strided((4, columns), (STEP, 1), first)
    return x.copy_(few_bits(4, columns))


def is_wide(source: KernelSource) -> bool:
    return ".to(tl.int64)" in source.text


def test_casts_of_far_rows(memory: Tensor) -> None:
    x = far(memory, 40)
    for own in (x, x.t(), x.view(4, 5, 8)):
        for scaling in (None, Scaling("row"), Scaling("tensor"), Scaling("block", size=16)):
            row = row_of(parse_format("e2m1"), parse_rounding("stochastic"), scaling, axis=-1, slot=5)
            with launches() as ran:
                ours = round_triton(own, row, KEY)
            assert all(is_wide(run.source) for run in ran)
            assert same_bits(ours, quantize(own, row, KEY))


@pytest.mark.parametrize("name", ["e4m3", "e8m12", "mxfp8_e4m3"])
def test_products_of_far_rows(memory: Tensor, name: str) -> None:
    """The first operand, the second, and what is added."""
    near = few_bits(4, 24).bfloat16()
    farther = memory.as_strided((2, 16), (2 * STEP + 16, 1)).copy_(few_bits(2, 16))
    for a, b in (
        (far(memory, 16), near[:, :16].t()),
        (near.t(), far(memory, 24)),
        (near, far(memory, 24).t()),
        (farther, near[:, :16].t()),
    ):
        made = MadeProduct("mm", a, b, rows(name))
        assert is_wide(made.program().kernels[-1]) or name == "mxfp8_e4m3"  # whose operands are codes by then
        assert same_bits(made.ours()[0], made.reference()[0])
    more = [near[0], far(memory, 24, 32)]
    made = MadeProduct(
        "addmm", near[:, :8], few_bits(8, 24).bfloat16(), [*rows(name), rows(name)[0]], residual_and_round, more
    )
    assert is_wide(made.program().kernels[-1])
    assert all(same_bits(own, wanted) for own, wanted in zip(made.ours(), made.reference(), strict=True))


def test_rows_that_are_far(memory: Tensor) -> None:
    """What is read has other strides than what is computed."""
    x = far(memory, 40)
    plan = plan_of(Precision("e4m3"), Precision("e5m2", rounding="stochastic"))

    def run(x: Tensor, y: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return rounded((x + y) * 0.5, plan)

    args = [torch.randn(4, 40).bfloat16(), x]
    program, live = program_of(run, args, plan, INTERPRETER)
    assert is_wide(program.kernels[0])
    assert all(same_bits(own, wanted) for own, wanted in zip(program(args, live), run(*args, plan), strict=True))


def test_rounded_sums_of_far_rows(memory: Tensor) -> None:
    a, b = far(memory, 6), few_bits(6, 4).bfloat16()
    for own in (Accumulator(format="e5m10"), Accumulator(format="e5m10", rounding="stochastic")):
        both = [rounding_row("e4m3", None, axis) for axis in (-1, -2)]
        made = MadeProduct("mm", a, b, both, sums=own)
        assert is_wide(made.program().kernels[0])
        assert same_bits(made.ours()[0], made.reference()[0])
    wide = memory.view(torch.float32).as_strided((3, 6), (STEP // 2, 1))
    wide.copy_(few_bits(3, 6))
    wanted = accumulate_tensor_ops(wide.contiguous(), b.float(), own, KEY)
    assert same_bits(accumulate(wide, b.float(), own, KEY), wanted)
    problem = problem_of(wide, b.float())
    check("plain", problem, Choice.of(2.0, None, "relu", "absolute", problem))


def test_a_softmax_has_wide_addresses_alone() -> None:
    text = softmax_source(torch.bfloat16, 1000, DEVICES["sm_90"]).text
    assert "place = row.to(tl.int64) * columns" in text
    assert re.findall(r"_ptr \+ (.*?),", text) == ["place + column"] * 3


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("scaling", [None, Scaling("row"), Scaling("tensor"), Scaling("tile", size=(8, 4))], ids=str)
def test_wide_casts_give_the_same(scaling: Scaling | None) -> None:
    row = row_of(parse_format("e4m3"), parse_rounding("stochastic"), scaling, axis=-1, slot=9)
    for x in (torch.randn(40, 72), torch.randn(2, 12, 9).transpose(0, 1)):
        with launches() as ran:
            ours = round_triton(x, row, KEY)
        assert all(is_wide(run.source) for run in ran)
        assert same_bits(ours, quantize(x, row, KEY))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", few_always(("mxfp8_e4m3", "mxfp4", "stochastic", "static"), ["stochastic"]))
def test_wide_products_give_the_same(name: str) -> None:
    for swapped, batches in ((False, 0), (True, 0), (False, 3)):
        made = of_product(name, of_row(2, swapped=swapped), batches)
        assert is_wide(made.program().kernels[-1])
        assert all(same_bits(own, wanted) for own, wanted in zip(made.ours(), made.reference(), strict=True))
    for packed_sides in ("", "ab"):
        made = MadeProduct("mm", few_bits(37, 45), few_bits(45, 29), rows("mxfp4"), packed=packed_sides)
        assert same_bits(made.ours()[0], made.reference()[0])


@pytest.mark.usefixtures("wide")
def test_wide_rows_give_the_same() -> None:
    plan = plan_of(Precision("mxfp8"), Precision("e5m2", rounding="stochastic"))
    args = [torch.randn(24, 64), torch.randn(24, 64)]
    program, live = program_of(lambda x, y, plan: rounded(gated(x, y), plan), args, plan, INTERPRETER)
    assert is_wide(program.kernels[0])
    value, copy, turned = program(args, live)
    assert same_bits(copy, rounded(value, plan)[1])
    assert same_bits(turned, rounded(value, plan)[2])


def huge(rows: int, columns: int) -> Tensor:
    return torch.empty(rows, columns, device="meta", dtype=torch.bfloat16)


def made_huge(a: Tensor, b: Tensor, mode: str = "nearest_even", device: Device = DEVICES["sm_90"]) -> KernelSource:
    return MadeProduct("mm", a, b, rows("e4m3", mode=mode), device=device).program().kernels[-1]


def test_only_what_needs_them_has_wide_addresses() -> None:
    few = huge(64, 64)
    assert not is_wide(made_huge(huge(2**24, 64), few))
    assert is_wide(made_huge(huge(2**25, 64), few))
    assert not is_wide(made_huge(huge(1, 64).expand(2**25, 64), few[:, :8]))  # every row is the same one
    assert is_wide(made_huge(huge(2**17, 8), huge(8, 2**14)))  # the result
    assert "random_31_wide" not in made_huge(huge(2**26, 64), few, "stochastic").text
    assert "random_31_wide" in made_huge(huge(2**27, 64), few, "stochastic").text
    one = made_huge(huge(1, 64).expand(2**27, 64), few[:, :8], "stochastic")
    assert "random_31_wide" in one.text
    assert is_wide(one)


def sources_of(device: Device) -> Sequence[KernelSource]:
    """Of products, casts and rows that need wide addresses."""
    x = huge(2**17, 2**15)
    products = [made_huge(huge(2**27, 64), huge(64, 256), mode, device) for mode in ("nearest_even", "stochastic")]
    row: Row = row_of(parse_format("mxfp8"))
    plan = plan_of(Precision("e4m3", scaling=Scaling("row")), Precision("mxfp8"))
    long = [huge(2**22, 1024), torch.empty(1024, device="meta", dtype=torch.bfloat16)]
    program, _ = program_of(lambda *args: packed(rms_norm(*args[:-1]), args[-1]), long, plan, device)
    return [*products, *built(both_layouts, x, row, device=device).kernels, *program.kernels]


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICES)
def test_wide_kernels_compile(name: str) -> None:
    kernels = sources_of(DEVICES[name])
    assert all(is_wide(own) for own in kernels)
    for source, facts in zip(kernels, compiled(kernels, DEVICES[name]), strict=True):
        assert isinstance(facts, CompiledFacts), facts
        assert facts.spills == 0, source.name


def test_a_wide_product_compiles() -> None:
    (facts,) = compiled([made_huge(huge(2**27, 64), huge(64, 256), "stochastic")], DEVICES["sm_90"])
    assert isinstance(facts, CompiledFacts), facts
    assert not facts.spills


def test_grids_have_one_dimension() -> None:
    """Others have at most 65535 programs: fewer than there may be matrices in a batch."""
    batch = MadeProduct("bmm", few_bits(3, 20, 40), few_bits(3, 40, 300), rows("e4m3"))
    with launches() as ran:
        batch.ours()
        round_triton(torch.randn(3, 4, 5).permute(1, 0, 2), rounding_row("e4m3"))
        softmax_rows(torch.randn(3, 5), INTERPRETER)
        accumulate(torch.randn(3, 2, 5), torch.randn(3, 5, 2), Accumulator(format="e5m10"))
    assert len(ran) == 4
    assert all(len(own.grid) == 1 for own in ran)
    assert ran[0].grid[0] % 3 == 0
