"""Text of the device functions that draw random numbers: the hash of `precc.rounding.random_bits`, on 32-bit integers.

Tensors of more than 2**32 elements have a wide variant, which finds the state of an element's chunk of 2**32.
"""

from precc.backends.triton.emit.device_functions import JIT

__all__ = ["random_call", "random_functions"]

_NARROW = f"""{JIT}def random_31(index, a, b):
    # 31 bits of a hash of the element's row-major index and the state (a, b) of the stream
    x = index.to(tl.uint32) * 0x9E3779B9 + tl.cast(a, tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ tl.cast(b, tl.uint32)
    x = (x ^ (x >> 15)) * 0x846CA68B
    return (x ^ (x >> 16)) >> 1
"""

_WIDE = f"""{JIT}def splitmix64(z):
    z = z + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


{JIT}def random_31_wide(index, a, b):
    # as random_31, each 2**32 elements with a state of their own
    chunk = (index >> 32).to(tl.uint64)
    state = (tl.cast(a, tl.uint32).to(tl.uint64) << 32) | tl.cast(b, tl.uint32).to(tl.uint64)
    state = tl.where(chunk == 0, state, splitmix64(splitmix64(chunk) ^ state))
    return random_31(index, (state >> 32).to(tl.uint32), state.to(tl.uint32))
"""


def random_functions(wide: bool) -> str:
    """The functions that `random_call` calls."""
    return _NARROW + "\n\n" + _WIDE if wide else _NARROW


def random_call(index: str, a: str, b: str, random_bits: int, wide: bool) -> str:
    """The expression for random numbers of 31 bits of which only the upper ones are used."""
    call = f"random_31{'_wide' if wide else ''}({index}, {a}, {b})"
    return call if random_bits == 31 else f"{call} & 0x{(1 << 31) - (1 << 31 - random_bits):X}"
