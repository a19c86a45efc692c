"""Rules to paste: those that give the worst ops of a net a finer format, and what that is predicted to do."""

from collections.abc import Mapping, Sequence
from glob import escape

from precc.analysis.analysis import Analysis
from precc.formats import FloatFormat, Format, parse_format
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.report.error_figures import ErrorFigures, percent
from precc.report.net_parts import NetParts
from precc.rule import Rule
from precc.slots import Slot

__all__ = ["finer_rules_block"]

#: Ops that get a rule.
_WORST = 3

#: From coarse to fine: what may take the place of an op's formats.
_FINER = ("bfloat16", "float16", "float32")

#: Of a line, in characters.
_WIDTH = 100


def finer_rules_block(
    analysis: Analysis, plan: PrecisionPlan, parts: NetParts, predicted: Mapping[str, ErrorFigures]
) -> str:
    """Python text with `rules`, the new ones before those of the net; empty where no finer format helps.

    Args:
        analysis: that predicts.
        plan: in force.
        parts: of the net.
        predicted: errors of ops that alone round.
    """
    whole = ErrorFigures.of(analysis.predict(plan))
    ordered = sorted((op for op in parts.ops if op in predicted), key=lambda op: -predicted[op].gradient)
    rules: list[Rule] = []
    comments = []
    before = whole
    for op in ordered:
        found = _finer(analysis, plan, parts, op, tuple(rules), before)
        if found is not None:
            rule, after = found
            rules.append(rule)
            comments.append(f"{percent(before)} -> {percent(after)}")
            before = after
        if len(rules) == _WORST:
            break
    return _block(rules, comments, plan.rules, whole, before) if rules else ""


def _finer(
    analysis: Analysis, plan: PrecisionPlan, parts: NetParts, op: str, rules: tuple[Rule, ...], before: ErrorFigures
) -> tuple[Rule, ErrorFigures] | None:
    """The coarsest format finer than the op's with which the error falls, as a rule; None if there is none."""
    operands = [operand for product in parts.ops[op].values() for operand in product.operands]
    slot = operands[0].slot
    coarsest = max(_roundoff(plan.under(rules).precision(own.slot.name)) for own in operands)
    for name in _FINER:
        fmt = parse_format(name)
        rule = _rule(parts, slot, fmt)
        if rule in rules or _roundoff(Precision(fmt)) >= coarsest:
            continue
        after = ErrorFigures.of(analysis.predict(plan.under((*rules, rule))))
        if after.gradient < before.gradient:
            return rule, after
    return None


def _rule(parts: NetParts, slot: Slot, fmt: Format) -> Rule:
    """Of the layer's ops of the family alone, in few words."""
    layers = {(own.layer, own.family) for own in map(Slot.parse, parts.slots)}
    others = any(layer == slot.layer and family != slot.family for layer, family in layers)
    inside = slot.layer and not any(layer.startswith(f"{slot.layer}.") for layer, _ in layers)
    return Rule(escape(slot.layer), family=slot.family if others else None, format=fmt, inside=bool(inside))


def _roundoff(own: Precision) -> float:
    """Relative; of fixed point that of its largest value."""
    fmt: Format = own.element
    return fmt.unit_roundoff if isinstance(fmt, FloatFormat) else float(2.0**-fmt.bits)


def _block(
    rules: Sequence[Rule], comments: Sequence[str], others: Sequence[Rule], before: ErrorFigures, after: ErrorFigures
) -> str:
    """As Python, each new rule with what it adds."""
    said = f"{percent(before)} -> {percent(after)}"
    head = [f"# predicted gradient error {said}: precc.compile(model, ..., rules=rules)"]
    if "?" in "".join((said, *comments)):
        head.append("# ? is not sure: measure the net before and after, net.report(analysis, measure=4)")
    lines = [_line(rule, comment) for rule, comment in zip(rules, comments, strict=True)]
    lines += [f"    *net.plan.rules,  # the {len(others)} that it has"] * bool(others)
    return "\n".join([*head, "rules = [", *lines, "]"])


def _line(rule: Rule, comment: str) -> str:
    """With the comment behind it, or above where there is no room."""
    line = f"    precc.{rule!r},"
    beside = f"{line}  # {comment}"
    return beside if len(beside) <= _WIDTH else f"    # {comment}\n{line}"
