"""Tile sizes: those that fit a machine, by constraints, before any is timed.

Every number of a tile is from a short list; what shared memory and registers allow is a matter of the operands'
formats. Of those that are left, tiles are ranked by a model of the time that a product takes in them.
"""

from dataclasses import dataclass
from functools import lru_cache

from precc.backends.triton.constraints import Constraint, Polynomial, solutions
from precc.backends.triton.device import Device
from precc.backends.triton.powers import power_from

__all__ = ["ProductSize", "Tile", "product_tiles"]

#: Registers that a thread may need for sums and operands, of 255: addresses and what the compiler adds take the rest.
_REGISTERS = 144
#: Likewise where no tensor core multiplies: operands of a step are in registers as well.
_REGISTERS_IEEE = 40
#: That an element needs that is rounded or decoded on its way.
_CONVERTED = 2.0
#: Multiply-adds of a tensor core in the time in which a byte comes from the cache (4096 and 64 a clock, H100, 8 bits).
_BALANCE = 64
#: Multiprocessors by capability: A100, L40S or RTX 4090, H100.
_PROCESSORS = {80: 108, 89: 128, 90: 132}
_LARGEST = 256
#: Terms at once where operands go through the registers before Hopper: of more, ptxas spills a few bytes there.
_THROUGH = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """The block of a product that one program computes, and how many terms it loads at once."""

    rows: int
    columns: int
    terms: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class ProductSize:
    """A product of [rows, terms] with [terms, columns], and what its kernel keeps of them.

    Args:
        rows, columns, terms: sizes.
        bytes_a, bytes_b: of one value of each operand, as a tensor core reads it.
        read_a, read_b: of one value in memory.
        converted: whether operands go through registers before they are multiplied.
        divides: what the terms that are loaded at once must divide: the block of a scale; 0: anything.
        live: blocks of float32, of the size of the tile, that are needed at once beside the sums.
        least: terms that one instruction sums.
        least_rows: rows of a tile, at least.
        tensor_core: whether one multiplies.
    """

    rows: int
    columns: int
    terms: int
    bytes_a: float
    bytes_b: float
    read_a: float
    read_b: float
    converted: bool = False
    divides: int = 0
    live: int = 0
    least: int = 16
    least_rows: int = 16
    tensor_core: bool = True


@lru_cache(maxsize=4096)
def product_tiles(size: ProductSize, device: Device) -> tuple[Tile, ...]:
    """The tiles that fit, best first; of the interpreter the largest: a program costs it a millisecond.

    Constraints: shared memory holds ``stages`` blocks of both operands as they are read, and one as they are multiplied
    where that is something else, and holds the tile of results in float32; registers hold the sums, what is live beside
    them, and operands that are converted; terms divide the blocks of scales.
    """
    if device.interpreted:
        rows, columns, terms = (_power(length, _LARGEST) for length in (size.rows, size.columns, size.terms))
        return (Tile(rows, columns, min(terms, size.divides & -size.divides or terms), 4, 1),)
    found = (Tile(**values) for values in solutions(_lists(size), _constraints(size, device)))
    return tuple(sorted(found, key=lambda tile: _cost(tile, size, _PROCESSORS.get(device.capability, 132))))


def _lists(size: ProductSize) -> dict[str, tuple[int, ...]]:
    sides = (16, 32, 64, 128, 256)
    terms = tuple(own for own in (16, 32, 64, 128) if size.least <= own <= max(size.least, _power(size.terms, 128)))
    rows, columns = (max(least, _power(n, 256)) for n, least in ((size.rows, size.least_rows), (size.columns, 16)))
    return {
        "rows": tuple(own for own in sides if size.least_rows <= own <= rows),
        "columns": tuple(own for own in sides if own <= columns),
        "terms": terms,
        "warps": (4, 8),
        "stages": (2, 3, 4),
    }


def _constraints(size: ProductSize, device: Device) -> list[Constraint]:
    def number(value: float) -> Polynomial:
        return Polynomial(((value, ()),))

    a, b, sums = ("rows", "terms"), ("terms", "columns"), ("rows", "columns")
    narrow = ((size.bytes_a, a), (size.bytes_b, b)) if size.converted else ()
    loads = Polynomial(((size.read_a, ("stages", *a)), (size.read_b, ("stages", *b)), *narrow))
    each = _CONVERTED if size.converted else 1.0
    through = ((each, a), (each, b)) if size.converted or not size.tensor_core else ()
    kept = Polynomial(((1.0 + size.live, sums), *through))
    registers = 32 * (_REGISTERS if size.tensor_core else _REGISTERS_IEEE)
    found = [
        Constraint(loads, "<=", number(device.shared_memory)),
        Constraint(Polynomial(((4.0, sums),)), "<=", number(device.shared_memory)),
        Constraint(kept, "<=", Polynomial(((registers, ("warps",)),))),
    ]
    if through and device.capability < 90:
        found.append(Constraint(Polynomial(((1.0, ("terms",)),)), "<=", number(max(_THROUGH, size.least))))
    if size.divides:
        found.append(Constraint(number(size.divides), "%", Polynomial(((1.0, ("terms",)),))))
    return found


def _cost(tile: Tile, size: ProductSize, processors: int) -> tuple[float, ...]:
    """Waves of programs, each by what takes longer: multiply-adds, or the bytes that it loads; then more terms at once,
    fewer warps, more stages.
    """
    programs = -(-size.rows // tile.rows) * -(-size.columns // tile.columns)
    loaded = tile.rows * size.read_a + tile.columns * size.read_b
    each = max(tile.rows * tile.columns, _BALANCE * loaded)
    return (-(-programs // processors) * each, -tile.terms, tile.warps, -tile.stages)


def _power(length: int, most: int) -> int:
    """The smallest power of two from a length on, within limits."""
    return min(most, max(16, power_from(length)))
