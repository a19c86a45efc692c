"""Powers of two, which sizes of tiles are."""

__all__ = ["power_from"]


def power_from(number: int) -> int:
    """The smallest power of two from a number on.

    >>> [power_from(number) for number in (0, 1, 3, 4, 5)]
    [1, 1, 4, 4, 8]
    """
    return 1 << max(0, number - 1).bit_length()
