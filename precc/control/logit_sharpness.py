"""Sharpness of the loss in the logits: how much cross-entropy can rise if they change a little.

    phi = 100 * (max_z f(y + z) - f(y)) / (1 + f(y)),      |z_i| <= eps * (|y_i| + 1)

f is the mean cross-entropy of the positions, y their logits. For one position with target t, f grows in each logit
but that of the target, in which it falls: ``df/dy_j = p_j > 0``, ``df/dy_t = p_t - 1 < 0``, at every point. So the
maximum over the box is at one known corner, ``z_j = eps (|y_j| + 1)`` and ``z_t = -eps (|y_t| + 1)``, and the rise is

    f(y + z) - f(y) = ln(sum_j p_j exp(z_j - z_t)) = log1p(sum over j != t of p_j expm1(z_j - z_t)),

without cancellation. Positions are independent, so the maximum of the mean is the mean of the maxima. A class that is
masked, with a logit of ``-inf``, has ``p_j = 0`` and stays masked in all of the box: it adds nothing.

Source: box and phi of parameters, Keskar et al. (2017), section 2.2.2; of the last token's logits, Lee et al., To FP8
and Back Again (2024). Here all positions that have a target count; the corner is ours.
"""

import math

import torch
from torch import Tensor

from precc.errors import AnalysisError

__all__ = ["logit_sharpness", "sharpness_reading"]

#: Above it the exponential of a change could overflow float32.
_LARGE = 80.0


def logit_sharpness(logits: Tensor, targets: Tensor, epsilon: float = 5e-4, *, ignore_index: int = -100) -> float:
    """Phi in percent, at least 0; one pass over the logits, no gradient.

    Args:
        logits: ``[..., classes]``, the classes last; ``-inf`` where a class is masked.
        targets: ``[...]``, classes as integers.
        epsilon: half the width of the box, relative to ``|y| + 1``.
        ignore_index: of targets that do not count.

    Raises:
        AnalysisError: shapes or targets that do not fit, one class alone, no target that counts, a loss that is not
            finite, or logits of positions that count with a NaN or ``+inf``.

    >>> round(logit_sharpness(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), 0.5), 4)  # ln((1 + e) / 2) / (1 + ln 2)
    36.625
    """
    found = sharpness_reading(logits, targets, epsilon, ignore_index=ignore_index)
    if not math.isfinite(found):
        raise AnalysisError("logits are not finite, or mask a target, so there is no box around them")
    return found


def sharpness_reading(logits: Tensor, targets: Tensor, epsilon: float = 5e-4, *, ignore_index: int = -100) -> float:
    """`logit_sharpness`, but NaN where logits or loss are not finite."""
    _check(logits, targets, epsilon, ignore_index)
    with torch.no_grad():
        counted = targets != ignore_index
        rows, picked = logits[counted], targets[counted].long().unsqueeze(-1)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        _check_classes(picked, rows.shape[-1])
        if not bool((rows < math.inf).all() & (rows.gather(-1, picked) > -math.inf).all()):
            return math.nan
        shares = rows.log_softmax(-1)
        reach = (epsilon * (rows.abs() + 1.0)).masked_fill(rows.isneginf(), 0.0)
        change = (reach + reach.gather(-1, picked)).scatter(-1, picked, 0.0)
        if float(change.max()) < _LARGE:
            rise = (shares.exp() * change.expm1()).sum(-1).log1p()
        else:
            rise = (shares.double() + change).logsumexp(-1)
        mean = -shares.gather(-1, picked).double().mean()
        return float(100.0 * rise.double().mean() / (1.0 + mean))


def _check(logits: Tensor, targets: Tensor, epsilon: float, ignore_index: int) -> None:
    if not 0 < epsilon < float("inf"):
        raise AnalysisError(f"epsilon is positive and finite, got {epsilon!r}")
    if not logits.dtype.is_floating_point or logits.dim() < 1 or logits.shape[-1] < 2:
        raise AnalysisError(
            f"logits are numbers of shape [..., classes], at least two, not {logits.dtype} of {list(logits.shape)}: "
            "over one class the loss is constant"
        )
    if targets.dtype.is_floating_point or targets.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise AnalysisError(f"targets are classes as integers, not {targets.dtype}: the closed form is of those")
    if targets.shape != logits.shape[:-1]:
        raise AnalysisError(
            f"targets have the shape of the logits without the classes, {list(logits.shape[:-1])}, not "
            f"{list(targets.shape)}; classes are the last dimension of logits: logits.movedim(1, -1) brings them there"
        )
    if not bool((targets != ignore_index).any()):
        raise AnalysisError(f"no target counts: all {targets.numel()} are {ignore_index}, the ignore_index")


def _check_classes(picked: Tensor, classes: int) -> None:
    if int(picked.min()) < 0 or int(picked.max()) >= classes:
        raise AnalysisError(f"targets from {int(picked.min())} to {int(picked.max())}, and there are {classes} classes")
