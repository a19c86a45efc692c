"""`refuse_scaled`, for controllers."""

from precc.unscaled import refuse_scaled

__all__ = ["refuse_scaled"]
