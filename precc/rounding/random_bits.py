"""Stochastic bits: a hash of (key, slot, index of the element), the same on every backend and thread count.

The stream of a (key, slot) is a Weyl sequence of the row-major index of the element, mixed in two rounds (the
multipliers of C. Wellons' lowbias32, 2018), with a 32-bit half of the stream's 64-bit state going into each:

    x = index * 0x9e3779b9 + a;  x ^= x >> 16;  x *= 0x7feb352d;  x ^= b;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16

The state (a, b) is splitmix64 (Steele, Lea and Flood 2014) of key and slot, and of the upper half of the index.
"""

import torch
from torch import Tensor

from precc.errors import FormatError
from precc.rounding.modes import MAX_RANDOM_BITS

__all__ = ["checked_seed", "draw_key", "hashed", "hashed_at", "slot_number", "truncated"]

_MASK64 = (1 << 64) - 1
_WEYL, _FIRST, _SECOND = 0x9E3779B9, 0x7FEB352D, 0x846CA68B
_CHUNK = 1 << 32


def splitmix64(number: int) -> int:
    """One output of splitmix64 seeded with a number: a bijection of 64-bit words."""
    z = (number + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def slot_number(name: str) -> int:
    """A 64-bit number of a slot's name (FNV-1a), which no platform or process changes."""
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = ((number ^ byte) * 0x100000001B3) & _MASK64
    return number


def stream_state(key: int, slot: int, chunk: int = 0) -> tuple[int, int]:
    """The halves (a, b) of the state for the elements from ``chunk * 2**32`` on."""
    state = splitmix64(splitmix64(key & _MASK64) ^ (slot & _MASK64))
    if chunk:
        state = splitmix64(state ^ splitmix64(chunk))
    return state >> 32, state & 0xFFFFFFFF


def checked_seed(seed: int) -> int:
    """A seed of random bits as it is.

    Raises:
        FormatError: not an integer of 64 bits.
    """
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise FormatError(f"a seed is an integer from 0 to 2**64 - 1, not {seed!r}")
    return seed


def draw_key() -> int:
    """A key from torch's default generator: `torch.manual_seed` and a checkpoint's saved state repeat it."""
    return int(torch.randint(1 << 62, (), dtype=torch.int64, device="cpu")) + 1


def hashed(count: int, key: int, slot: int, device: torch.device, start: int = 0) -> Tensor:
    """The 32-bit hashes of the elements from `start` on, as an int64 tensor of `count` numbers from 0 to 2**32 - 1."""
    return hashed_at(torch.arange(start, start + count, dtype=torch.int64, device=device), key, slot)


def hashed_at(index: Tensor, key: int, slot: int) -> Tensor:
    """The hashes of the elements with these int64 indices."""
    low, high = index & (_CHUNK - 1), index >> 32
    chunks = range(int(high.min()), int(high.max()) + 1) if index.numel() else range(0)
    hashes = torch.zeros_like(index)
    for chunk in chunks:
        mixed = _mixed(low, *stream_state(key, slot, chunk))
        hashes = mixed if len(chunks) == 1 else torch.where(high == chunk, mixed, hashes)
    return hashes


def truncated(numbers: Tensor, random_bits: int) -> Tensor:
    """31-bit random numbers of which only so many of the upper bits are used."""
    unused = MAX_RANDOM_BITS - random_bits
    return (numbers >> unused) << unused


def _mixed(index: Tensor, a: int, b: int) -> Tensor:
    x = (_times(index, _WEYL) + a) & (_CHUNK - 1)
    x = _times(x ^ (x >> 16), _FIRST) ^ b
    x = _times(x ^ (x >> 15), _SECOND)
    return x ^ (x >> 16)


def _times(x: Tensor, factor: int) -> Tensor:
    """Lower half of a product of 32-bit numbers; in two parts, so that it stays below 2**63."""
    low, high = factor & 0xFFFF, factor >> 16
    return (x * low + (((x * high) & 0xFFFF) << 16)) & (_CHUNK - 1)
