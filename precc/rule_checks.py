"""Whether rules fit a net: a rule that decides nothing is most often a wrong name."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import get_close_matches

from torch import nn

from precc.errors import PlanError
from precc.first_match import first_match
from precc.rule import Rule
from precc.slots import ACCUMULATOR, ATTENTION, RESULT, Slot, aliases_of

__all__ = ["check_decisions", "check_paths"]

_WAY_OUT = "correct the rule, or allow it with required=False"


def check_paths(rules: Sequence[Rule], net: nn.Module) -> None:
    """Refuse required rules whose paths fit no module of a net; slots know it by its first name.

    Raises:
        PlanError: there is one.
    """
    wanted = [rule for rule in rules if rule.required]
    if not wanted:
        return
    paths = [path for path, _ in net.named_modules()]
    for rule in wanted:
        if not any(rule.covers(path) for path in paths):
            raise PlanError(f"{rule}: {_why_no_module(rule, paths, net)}; {_WAY_OUT}")


def _why_no_module(rule: Rule, paths: Sequence[str], net: nn.Module) -> str:
    alias, first = next((names for names in aliases_of(net).items() if rule.covers(names[0])), ("", ""))
    if alias:
        return f"the module {alias!r} is also {first!r}, and slots are named by that path"
    near = get_close_matches(rule.path, paths, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "its modules are " + _some([path for path in paths if path])
    return f"no module fits the path {rule.path!r} ({hint})"


def check_decisions(
    rules: Sequence[Rule],
    names: Collection[str],
    *,
    updates: Collection[str] | None = None,
    awaited: Collection[str] = (),
) -> None:
    """Refuse required rules that decide none of a net's slots; those that rules before them decide do not count.

    Args:
        rules: in their order.
        names: of all slots of graphs, accumulators too.
        updates: of all slots of updates; where they are not known, rules of updates are not judged. What other rules
            leave as it is there is no decision.
        awaited: paths of modules whose slots are still to come: a rule that covers one is not judged.

    Raises:
        PlanError: there is one.
    """
    decided = first_match(tuple(rules))
    for of_updates, known in ((False, names), (True, updates)):
        counts = [1] * len(rules) if known is None else decided.counts(known)
        for position, (rule, count) in enumerate(zip(rules, counts, strict=True)):
            judged = rule.required and rule.decides_updates is of_updates and not any(map(rule.covers, awaited))
            if judged and not count:
                why = _why_no_slot(position, rules, known or ())
                raise PlanError(f"{rule} decides no slot: {why}; {_WAY_OUT}")


def _why_no_slot(position: int, rules: Sequence[Rule], names: Collection[str]) -> str:
    rule, slots = rules[position], [Slot.parse(name) for name in sorted(names)]
    fitting = [slot for slot in slots if rule.fits(slot)]
    if fitting:
        before = next(earlier for earlier in rules[:position] if earlier.fits(fitting[0]))
        return f"rules before it decide all that it fits, {before} the slot {fitting[0].name!r}"
    operands = [slot for slot in slots if slot.operand not in (ACCUMULATOR, RESULT)]
    covered = [slot for slot in operands if rule.covers(slot.layer)]
    none = "there are none under its path (is it outside of all regions, or never called?), but"
    where = "under its path are" if covered else none
    hint = _attention_hint(rule, operands) + _result_hint(rule, slots)
    return f"{where} {_some([slot.name for slot in covered or operands])}{hint}"


def _attention_hint(rule: Rule, slots: Sequence[Slot]) -> str:
    if rule.family == ATTENTION and not any(slot.family == ATTENTION for slot in slots):
        return '; precc.compile(..., attention="fused") keeps attention as one op'
    return ""


def _result_hint(rule: Rule, slots: Sequence[Slot]) -> str:
    """Whether a rule without an operand would decide results."""
    own = [slot.name for slot in slots if slot.is_result and replace(rule, operand=RESULT).fits(slot)]
    return f'; for results, such as {own[0]!r}: operand="result"' if own and rule.operand is None else ""


def _some(names: Collection[str]) -> str:
    ordered = sorted(names)
    return ", ".join(repr(name) for name in ordered[:6]) + (", ..." if len(ordered) > 6 else "")
