"""Text that reads the numbers of a live row: kernels are given where they lie, so that a CUDA graph finds new ones.

A kernel that was captured runs again with the arguments of its capture. What of a plan may change without another
kernel, static scales and the states of random streams, is therefore read from memory: `program.LiveRow.numbers`.
"""

from precc.backends.triton.kernel_source import Argument

__all__ = ["STREAMS", "WIDTH", "live_argument", "scale_line", "state_lines", "states"]

#: Of one slot: those of its number and the four behind it, as in `precc.accumulation.tensor_ops.STAGES`.
STREAMS = 5

#: Numbers of a row, a multiple of 16 bytes: the scale, the halves (a, b) of the states of its streams, and none.
WIDTH = 16


def live_argument(prefix: str) -> Argument:
    """The numbers of one row, float64, which holds each exactly."""
    return Argument(f"{prefix}_live_ptr", "*fp64")


def scale_line(name: str, prefix: str, carrier: str) -> str:
    """The line that reads a static scale."""
    return f"{name} = tl.load({prefix}_live_ptr).to({carrier})"


def states(prefix: str, stream: int = 0) -> tuple[str, str]:
    """The names of the halves of a stream's state."""
    return f"{prefix}_a{stream}", f"{prefix}_b{stream}"


def state_lines(prefix: str, pointer: str, number: int, stream: int = 0) -> list[str]:
    """The lines that read the state of a stream.

    Args:
        prefix: of the names that it gets, with the stream's.
        pointer: the prefix of the row's argument.
        number: of the stream behind that of the slot.
        stream: in the names.
    """
    return [
        f"{name} = tl.load({pointer}_live_ptr + {1 + 2 * number + half}).to(tl.int64).to(tl.uint32)"
        for half, name in enumerate(states(prefix, stream))
    ]
