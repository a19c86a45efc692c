"""The opsets of ONNX's default domain that can be written."""

from precc.errors import BackendError
from precc.extras import imported

__all__ = ["OPSETS", "checked_opset"]

#: The first that torch writes, and the last that is known here.
OPSETS = (18, 28)


def checked_opset(opset: int) -> int:
    """The opset, if it can be written.

    Raises:
        BackendError: it is out of range, or newer than the onnx that is installed.
    """
    onnx = imported("onnx", "onnx")
    last = min(OPSETS[1], onnx.defs.onnx_opset_version())
    if type(opset) is not int or not OPSETS[0] <= opset <= last:
        allowed = f"{OPSETS[0]} to {last}, which onnx {onnx.__version__} allows here"
        raise BackendError(f"opset {opset!r} is none of {allowed}")
    return opset
