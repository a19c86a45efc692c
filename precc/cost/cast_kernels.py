"""The kernels that round a tensor for those who read it, and the bytes that each of them moves."""

from precc.cost.work import TensorWork
from precc.formats import Granularity, Scaling
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["cast_kernels", "is_weight", "layouts_of"]

#: The operands whose contracted dimension is not the last one in memory, as a linear layer has them.
_ACROSS = {
    ("weight", Role.DGRAD),
    ("input", Role.WGRAD),
    ("grad_output", Role.WGRAD),
    ("a", Role.DGRAD_B),
    ("b", Role.FPROP),
    ("grad_output", Role.DGRAD_B),
}

#: Scales that differ between the copies for one contracted dimension and for the other.
_ALONG = (Granularity.ROW, Granularity.BLOCK)


def cast_kernels(
    tensor: TensorWork, precision: Precision, read: float, written: float, *, k_major: bool
) -> list[float]:
    """Bytes of each kernel, of which the first one reads the tensor as it is.

    With both layouts, r bytes to read and w to write once: no scales, those that are known before the values are, and
    those of blocks: ``r + 2w``. The largest magnitude of a tensor is found by a kernel of its own, r, and a small one;
    then ``r + 2w``, but of a weight, which forward and backward cast, twice ``r + w``. Scales of rows: ``r + w`` along
    memory, a row at a time; across it, before that, r for the largest magnitudes, or 2r for a transposed weight. These
    are the kernels that torchao counts (torchao/testing/training/roofline_utils.py).

    Args:
        tensor: and the slots that read this copy.
        precision: of the copy.
        read: bytes of the tensor.
        written: of one copy of it.
        k_major: whether the format must have the contracted dimension last in memory.
    """
    scaling = precision.own_scaling
    granularity = None if scaling is None else scaling.granularity
    layouts = _layouts(tensor, precision, k_major)
    if granularity is Granularity.ROW:
        before = 2 * read if is_weight(tensor) else read
        return [moved for layout in layouts for moved in ([before] * layout + [read + written])]
    if scaling is None or not _needs_largest(scaling):
        return [read + written * len(layouts)]
    if is_weight(tensor):
        return [read, 0.0, *[read + written] * len(layouts)]
    return [read, 0.0, read + written * len(layouts)]


def layouts_of(tensor: TensorWork, precision: Precision, *, k_major: bool) -> int:
    """How many copies its readers need, that differ in the dimension which is last in memory or shares scales."""
    return len(_layouts(tensor, precision, k_major))


def _layouts(tensor: TensorWork, precision: Precision, k_major: bool) -> list[bool]:
    """Whether along memory or across it, of each copy."""
    scaling = precision.own_scaling
    differ = k_major or (scaling is not None and scaling.granularity in _ALONG)
    return sorted({_is_across(slot) for slot in tensor.slots}) if differ else [False]


def is_weight(tensor: TensorWork) -> bool:
    """Whether a parameter is read."""
    return any(slot.operand == "weight" for slot in tensor.slots)


def _is_across(slot: Slot) -> bool:
    return (slot.operand, slot.role) in _ACROSS


def _needs_largest(scaling: Scaling) -> bool:
    """Whether the largest magnitude must be known before the first value can be rounded."""
    if scaling.granularity is Granularity.TENSOR:
        return not scaling.history
    return scaling.granularity is Granularity.CHANNEL or scaling.two_level
