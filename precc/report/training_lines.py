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
    found = _formats(plan, net) if plan.rounds_updates else {}
    lines = [f"updates in {formats}: {', '.join(paths)}" for formats, paths in found.items()]
    lines += _lost(parts)
    lines += _outside([path for paths in found.values() for path in paths], parts)
    scales = [f"{own.get_scale():g}" for own in parts.scaling]
    now = f" (now {', '.join(scales)})" if scales else ""
    lines += [f"loss scaled by {plan.loss_scaling}{now}"] * (plan.loss_scaling is not None)
    return lines + parts.lacking(plan, net)


def _formats(plan: PrecisionPlan, net: nn.Module) -> dict[UpdateFormats, list[str]]:
    """The parameters that are trained whose updates have formats, by these."""
    found: dict[UpdateFormats, list[str]] = {}
    for path, parameter in net.named_parameters():
        own = UpdateFormats(**{what: plan.precision(update_slot(path, what)) for what in UPDATES})
        if own and parameter.requires_grad:
            found.setdefault(own, []).append(path)
    return found


def _outside(paths: Sequence[str], parts: TrainingParts) -> list[str]:
    """Parameters whose optimizer nothing rounds, where another one's is."""
    inside = {path for own in parts.rounding for path in own.paths}
    outside = [path for path in paths if path not in inside]
    if not outside or not inside:
        return []
    return [f"updates are not rounded, for precc.RoundedUpdates has no optimizer of them: {', '.join(outside)}"]


def _lost(parts: TrainingParts) -> list[str]:
    shares = {path: share for own in parts.rounding for path, share in own.lost().items()}
    if not shares:
        return []
    most = sorted(((share, path) for path, share in shares.items() if share), key=lambda own: (-own[0], own[1]))
    listed = ", ".join(f"{path} {share:.1%}" for share, path in most) or "none"
    return [f"updates that nearest rounding of the master weight loses, in the last counted step: {listed}"]
