"""Gradients that still have the loss scale when an optimizer's step begins."""

from torch.optim import Optimizer

from precc.errors import UnsupportedError

__all__ = ["refuse_scaled"]


def refuse_scaled(optimizer: Optimizer, who: str) -> None:
    """Refuse a step through a GradScaler in which a fused optimizer takes the loss scale off by itself.

    Args:
        optimizer: about to make its step.
        who: needs its gradients without the scale.

    Raises:
        UnsupportedError: it does; the message says the ways out.
    """
    if getattr(optimizer, "grad_scale", None) is not None:
        raise UnsupportedError(
            f"{who} needs gradients without the loss scale, which a fused {type(optimizer).__name__} takes off by "
            "itself: call scaler.unscale_(optimizer) before scaler.step(optimizer), or use fused=False"
        )
