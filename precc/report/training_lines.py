"""What the report says of a training outside of graphs: updates, what is lost of them, loss scaling."""

from collections.abc import Sequence

from torch import nn

from precc.plan import PrecisionPlan
from precc.slots import UPDATES, update_slot
from precc.training_parts import TrainingParts
from precc.update_formats import UpdateFormats

__all__ = ["training_lines"]


def training_lines(plan: PrecisionPlan, net: nn.Module, parts: TrainingParts) -> list[str]:
    """One line for each choice of formats, for what is not rounded, lost, or not scaled.

    Args:
        plan: in force.
        net: whose parameters are trained.
        parts: what rounds and scales.
    """
    trained = [path for path, own in net.named_parameters() if own.requires_grad]
    lines = _formats(plan, trained) if plan.rounds_updates else []
    lines += _lost(parts)
    scales = [f"{own.get_scale():g}" for own in parts.scaling]
    now = f" (now {', '.join(scales)})" if scales else ""
    lines += [f"loss scaled by {plan.loss_scaling}{now}"] * (plan.loss_scaling is not None)
    return lines + parts.lacking(plan, net)


def _formats(plan: PrecisionPlan, trained: Sequence[str]) -> list[str]:
    found: dict[UpdateFormats, list[str]] = {}
    for path in trained:
        own = {what: plan.precision(update_slot(path, what)) for what in UPDATES}
        found.setdefault(UpdateFormats(**own), []).append(path)
    return [f"updates in {formats}: {', '.join(paths)}" for formats, paths in found.items() if formats]


def _lost(parts: TrainingParts) -> list[str]:
    shares = {path: share for own in parts.rounding for path, share in own.lost().items()}
    if not shares:
        return []
    most = sorted(((share, path) for path, share in shares.items() if share), key=lambda own: (-own[0], own[1]))
    listed = ", ".join(f"{path} {share:.1%}" for share, path in most) or "none"
    return [f"updates that nearest rounding of the master weight loses, in the last counted step: {listed}"]
