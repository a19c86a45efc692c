"""A net that precc has compiled."""

from typing import Any

from precc.errors import CaptureError
from precc.module import PrecisionModule

__all__ = ["checked_net"]


def checked_net(net: Any, who: str) -> PrecisionModule:
    """A compiled net as it is.

    Raises:
        CaptureError: it is none.
    """
    if not isinstance(net, PrecisionModule):
        raise CaptureError(f"{who} takes a net made by precc.compile, not {type(net).__name__}")
    return net
