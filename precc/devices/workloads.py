"""What is timed on a device: products in the formats that torch multiplies, casts, copies, and the smallest kernel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from precc.devices.timed_work import Kind

__all__ = ["SIZES", "Sizes", "Workload", "workloads"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what is timed.

    Args:
        products: rows, terms of each sum, columns.
        casts: rows and columns.
    """

    products: tuple[tuple[int, int, int], ...]
    casts: tuple[tuple[int, int], ...]


_CPU_PRODUCTS = (
    *((64, 256, 256), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024)),
    *((256, 768, 3072), (256, 3072, 768), (1024, 64, 1024), (2048, 512, 128)),
)
_CUDA_PRODUCTS = (
    *((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096), (8192, 8192, 8192)),
    *((4096, 4096, 14336), (4096, 14336, 4096), (16384, 4096, 1024), (16384, 1024, 1024), (2048, 4096, 4096)),
)

#: By kind of device: powers of two, and layers of a GPT and of Llama-3-8B; casts of tensors larger than a GPU's caches.
SIZES: dict[str, Sizes] = {
    "cpu": Sizes(_CPU_PRODUCTS, ((512, 512), (1024, 1024), (2048, 2048))),
    "cuda": Sizes(_CUDA_PRODUCTS, ((4096, 4096), (16384, 4096), (16384, 14336))),
}

_DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")
}
_PLAIN = ("float64", "float32", "float16", "bfloat16")
_FP8 = (("float8_e4m3fn", "float8_e4m3fn"), ("float8_e4m3fn", "float8_e5m2"), ("float8_e5m2", "float8_e5m2"))
_LAUNCH = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """One piece of work.

    Args:
        kind: as in `TimedWork`, like all but the last two.
        name: of it.
        shape: of it.
        flops: of it.
        moved: bytes, each tensor once.
        prepare: makes its tensors, and returns what runs it.
        fp32_precision: of products of float32 on a GPU: "ieee" or "tf32".
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    flops: float
    moved: float
    prepare: Callable[[], Callable[[], object]]
    fp32_precision: Literal["ieee", "tf32"] = "ieee"

    @property
    def title(self) -> str:
        """With its size."""
        return f"{self.name}, {' x '.join(map(str, self.shape))}"


def workloads(device: str, sizes: Sizes) -> list[Workload]:
    """All pieces of work, of which a device may refuse some."""
    products = [own for shape in sizes.products for own in _products(device, shape)]
    casts = [own for shape in sizes.casts for own in _casts(device, shape)]
    tiny = partial(_tiny, device)
    return [Workload("launch", "launch", (1, _LAUNCH), 0.0, 0.0, tiny), *casts, *products]


def _products(device: str, shape: tuple[int, int, int]) -> Iterator[Workload]:
    """Of rows that both have the terms last in memory, as the forward of a linear layer."""
    for name in _PLAIN:
        yield _product(device, shape, name, name, torch.mm, _DTYPES[name].itemsize)
    if device == "cuda":
        yield _product(device, shape, "float32", "float32", torch.mm, 4, tf32=True)
    for first, second in _FP8:
        yield _product(device, shape, first, second, _scaled_mm, 2)
    yield _product(device, shape, "int8", "int8", torch._int_mm, 4)


def _product(
    device: str,
    shape: tuple[int, int, int],
    first: str,
    second: str,
    multiply: Callable[[Tensor, Tensor], Tensor],
    result: int,
    *,
    tf32: bool = False,
) -> Workload:
    rows, terms, columns = shape
    moved = (
        rows * terms * _DTYPES[first].itemsize + terms * columns * _DTYPES[second].itemsize + rows * columns * result
    )

    def prepare() -> Callable[[], object]:
        a, b = _random(device, rows, terms, first), _random(device, columns, terms, second)
        return lambda: multiply(a, b.t())

    name = "tfloat32 x tfloat32" if tf32 else f"{first} x {second}"
    return Workload(
        "product", name, shape, 2.0 * rows * terms * columns, moved, prepare, fp32_precision="tf32" if tf32 else "ieee"
    )


def _scaled_mm(a: Tensor, b: Tensor) -> Tensor:
    """With one scale a tensor and Hopper's fast accumulation."""
    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=a.is_cuda)


def _casts(device: str, shape: tuple[int, int]) -> Iterator[Workload]:
    """As casts of bfloat16 to fp8 need them: the largest magnitude, the cast, a copy, a transposed copy."""
    rows, columns = shape
    for source, target in (("bfloat16", "float8_e4m3fn"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
        moved = rows * columns * (_DTYPES[source].itemsize + _DTYPES[target].itemsize)
        name = f"cast {source} to {target}" if source != target else f"copy {source}"
        yield Workload("cast", name, shape, 0.0, moved, partial(_copy, device, shape, source, target, False))
    moved = 4.0 * rows * columns
    transposed = partial(_copy, device, shape, "bfloat16", "bfloat16", True)
    yield Workload("cast", "transpose bfloat16", shape, 0.0, moved, transposed)
    yield Workload("cast", "largest of bfloat16", shape, 0.0, 2.0 * rows * columns, partial(_largest, device, shape))


def _copy(device: str, shape: tuple[int, int], source: str, target: str, transposed: bool) -> Callable[[], object]:
    own = _random(device, *shape, source)
    own = own.t() if transposed else own
    made = torch.empty(own.shape, dtype=_DTYPES[target], device=device)
    return lambda: made.copy_(own)


def _largest(device: str, shape: tuple[int, int]) -> Callable[[], object]:
    own = _random(device, *shape, "bfloat16")
    return lambda: torch.aminmax(own)


def _tiny(device: str) -> Callable[[], object]:
    own = torch.zeros(_LAUNCH, device=device)
    return lambda: own.add_(1.0)


def _random(device: str, rows: int, columns: int, name: str) -> Tensor:
    """Small integers, which every format has."""
    return torch.randint(-3, 4, (rows, columns), device=device, dtype=torch.int8).to(_DTYPES[name])
