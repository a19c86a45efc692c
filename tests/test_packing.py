"""Packed values: what comes out is what the rounding gives, bit for bit, in as few bytes as the format needs."""

import pytest
import torch
from torch import Tensor

from precc.formats import FORMATS, Scaling
from precc.packing import PACK, UNPACK, PackedLayout
from precc.precision import Precision
from precc.round_op import round_by_tensor_ops
from precc.rounding import KEY_COLUMNS

SCALINGS = {
    "none": None,
    "static": Scaling("static", value=0.375),
    "tensor": Scaling("tensor"),
    "row": Scaling("row"),
    "channel": Scaling("channel"),
    "block": Scaling("block", size=32),
    "tile": Scaling("tile", size=(16, 16)),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def plan_of(precision: Precision, key: int = 1234567) -> Tensor:
    """A plan of one row, for a matrix that is contracted along its last dimension."""
    values = list(precision.row(axis=1, channel=0, slot=77).current.values)
    values[KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = [float(key >> 32), float(key & 0xFFFFFFFF)]
    return torch.tensor([values], dtype=torch.float64)


def values(dtype: torch.dtype, shape: tuple[int, int] = (34, 66), *, finite: bool = False) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64) * torch.exp2(torch.randint(-12, 12, shape).double())
    special = [0.0, -0.0, 1e-30, -1e-30, 448.0, 6.0, 1e30] + ([] if finite else [float("inf"), -float("inf")])
    x.view(-1)[: len(special)] = torch.tensor(special, dtype=torch.float64)
    return x.to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.dtype.itemsize]
    both_nan = a.isnan() & b.isnan()
    return a.dtype == b.dtype and bool((both_nan | (a.view(integers) == b.view(integers))).all())


def unpacked(x: Tensor, plan: Tensor, transposed: bool) -> Tensor:
    return UNPACK(PACK(x, plan, 0, transposed), plan, 0, list(x.shape), x.dtype, transposed)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format(name: str) -> None:
    plan = plan_of(Precision(name))
    for dtype in DTYPES:
        x = values(dtype)
        assert same_bits(unpacked(x, plan, False), round_by_tensor_ops(x, plan, 0).contiguous()), dtype
        assert same_bits(unpacked(x, plan, True), round_by_tensor_ops(x, plan, 0).contiguous()), dtype


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "int8", "int4", "e3m2", "float16", "bfloat16"])
def test_every_scaling(name: str, scaling: str) -> None:
    for rounding in ("nearest_even", "stochastic"):
        plan = plan_of(Precision(name, rounding=rounding, scaling=SCALINGS[scaling]))
        for x in (values(torch.float32), values(torch.bfloat16, (7, 33), finite=True), torch.zeros(5, 8)):
            assert same_bits(unpacked(x, plan, False), round_by_tensor_ops(x, plan, 0).contiguous())
            assert same_bits(unpacked(x, plan, True), round_by_tensor_ops(x, plan, 0).contiguous())


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (1, 1), (1, 7), (3, 1)])
def test_small_and_empty(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    for name in ("e4m3", "mxfp4", "nvfp4", "int4"):
        plan = plan_of(Precision(name))
        assert same_bits(unpacked(x, plan, True), round_by_tensor_ops(x, plan, 0).contiguous())


def test_a_number_has_its_scale_too() -> None:
    x = torch.tensor(3.3)
    for scaling in (None, Scaling("tensor"), Scaling("static", value=0.3)):
        for name in ("e4m3", "int8", "float64"):
            plan = plan_of(Precision(name, scaling=scaling))
            assert same_bits(unpacked(x, plan, False), round_by_tensor_ops(x, plan, 0).contiguous())


@pytest.mark.parametrize(
    ("name", "bits"),
    [("e4m3", 8.0), ("e2m1", 4.0), ("mxfp4", 5.0), ("float16", 16.0), ("float32", 32.0), ("e2m3", 8.0)],
)
def test_bits_of_a_value(name: str, bits: int) -> None:
    row = Precision(name).row(axis=1, channel=0)
    layout = PackedLayout.of(row, (64, 64), torch.float32, False)
    scales = 32 * layout.scale_count / 64**2 if layout.blocks else 0
    assert 8 * layout.code_bytes / 64**2 + scales == bits


def test_codes_are_bit_patterns() -> None:
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        x = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        packed = PACK(x[None], plan_of(Precision(name)), 0, False)
        known = ~x.isnan()
        assert packed[:256][known].equal(torch.arange(256, dtype=torch.uint8)[known])
        assert packed[:256].view(dtype).isnan().equal(~known)


def test_nan_without_a_code_spreads() -> None:
    x = torch.ones(4, 4)
    x[1, 2] = float("nan")
    assert unpacked(x, plan_of(Precision("e2m1")), False).isnan().all()
    assert unpacked(x, plan_of(Precision("e4m3")), False).isnan().sum() == 1
