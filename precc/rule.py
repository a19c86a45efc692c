"""Rules: what the user fixes of a net's formats, whatever a policy, a plan or a controller chooses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.accumulation.two_passes import TwoPasses
from precc.errors import PlanError, expected_one_of
from precc.formats import Format, Scaling, Transform, parse_format
from precc.precision import Precision
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode
from precc.slots import ACCUMULATOR, RESULT, UPDATES, Role, Slot
from precc.update_formats import checked_update

__all__ = ["Rule", "parse_rules"]


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """A choice for the slots that fit it, which holds over what a plan says.

    Of the rules that fit a slot, the first one decides. Operands and sums are decided apart: a rule without an
    accumulator passes sums on to the rules after it, one with only an accumulator passes operands on.

    Patterns are those of `fnmatch`, upper and lower case told apart: ``*`` (dots too), ``?``, ``[0-9]``, ``[!0-9]``.

    Args:
        path: pattern of module paths. What it fits, it fits with all inside: ``"blocks.0"`` covers ``blocks.0.attn.q``;
            ``"blocks.0.*"`` covers what is inside ``blocks.0`` alone. ``""`` is the root without what is inside.
        role: pattern of roles, ``"fprop"``, ``"dgrad*"``, ``"wgrad"``; default: all.
        family: pattern of op families, ``"product"``; default: all.
        operand: pattern of operands, ``"weight"``, ``"input"``, ``"grad_output"``, ``"a"``, ``"b"``; default: all. Just
            ``"result"``: what the op stores, in the place of its operands. ``"gradient"``, ``"momentum"``, ``"step"``,
            ``"master"``: updates of parameters, whose names the family fits; with the role ``"update"`` all four.
        keep: a format to compute in as plain PyTorch does: operands rounded to it to nearest even, neither scaled nor
            transformed, and, unless there is an operand, sums as the tensors' own arithmetic does them, and results and
            updates as they are.
            Where tensors have a narrower dtype, as under autocast, it changes nothing, and the report says so.
        format: the format of operands.
        rounding, scaling, transform: with a format, as in `Precision`.
        accumulator: how products sum, as `parse_accumulator` takes it; for whole products, so without an operand.
        required: whether it is an error that the rule decides no slot.
        inside: whether the path covers what is inside of a module that it fits; else that module's own products alone.

    Raises:
        FormatError, UnsupportedError: an unknown format, or a combination that makes no sense, as in `Precision`.
        PlanError: a rule that sets nothing, that contradicts itself, or with a role that there is not.

    >>> rule = Rule("blocks.0", role="wgrad", format="bf16")
    >>> rule
    Rule('blocks.0', role='wgrad', format='bfloat16')
    >>> rule.fits(Slot.parse("blocks.0.attn/product/wgrad.input"))
    True
    """

    path: str
    role: str | None
    family: str | None
    operand: str | None
    keep: Format | None
    format: Format | None
    rounding: Rounding | None
    scaling: Scaling | None
    transform: Transform | None
    accumulator: Accumulator | None
    required: bool
    inside: bool

    def __init__(
        self,
        path: str = "*",
        *,
        role: str | None = None,
        family: str | None = None,
        operand: str | None = None,
        keep: Format | str | None = None,
        format: Format | str | None = None,
        rounding: Rounding | RoundingMode | str | None = None,
        scaling: Scaling | str | None = None,
        transform: Transform | str | None = None,
        accumulator: Accumulator | Format | str | None = None,
        required: bool = True,
        inside: bool = True,
    ) -> None:
        patterns = {"path": path, "role": role, "family": family, "operand": operand}
        _check_patterns(patterns)
        for name, flag in (("required", required), ("inside", inside)):
            if type(flag) is not bool:
                raise PlanError(f"{name} is True or False, not {flag!r}")
        if isinstance(accumulator, TwoPasses):
            raise PlanError("a rule has no two passes: name the product in accumulators= of a plan")
        details = {"rounding": rounding, "scaling": scaling, "transform": transform}
        given = {**details, "keep": keep, "format": format, "accumulator": accumulator}
        _check_choices([name for name, own in given.items() if own is not None], operand)
        chosen = {name: own for name, own in details.items() if own is not None}
        precision = None if format is None else Precision(format, **chosen)  # type: ignore[arg-type]  # checked there
        fields = {
            **patterns,
            "keep": None if keep is None else parse_format(keep),
            **{name: getattr(precision, name, None) for name in ("format", *details)},
            "accumulator": None if accumulator is None else parse_accumulator(accumulator),
            "required": required,
            "inside": inside,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if self.decides_updates:
            _check_update(self)

    @property
    def precision(self) -> Precision | None:
        """What operands get; None if the rule leaves them."""
        if self.format is None:
            return None if self.keep is None else Precision(self.keep)
        return Precision(self.format, self.rounding or NEAREST_EVEN, self.scaling, self.transform)

    @property
    def decides_sums(self) -> bool:
        """Whether products get its accumulator; where that is None, they sum as the tensors' own arithmetic does."""
        return self.accumulator is not None or self.keeps_all

    @property
    def decides_results(self) -> bool:
        """Whether results get its precision."""
        return self.operand == RESULT

    @property
    def decides_updates(self) -> bool:
        """Whether updates get its precision."""
        return self.role == Role.UPDATE.value or self.operand in UPDATES

    @property
    def keeps_all(self) -> bool:
        """Whether it leaves sums, results and updates as they are without it."""
        return self.keep is not None and self.operand is None and not self.decides_updates

    def _decides_value(self, slot: Slot) -> bool:
        if slot.is_update:
            return self.keeps_all or (self.decides_updates and _fits(self.operand, slot.operand))
        return (self.decides_results or self.keeps_all) if slot.is_result else self._decides_operand(slot.operand)

    def _decides_operand(self, operand: str) -> bool:
        return (self.keep or self.format) is not None and _fits(self.operand, operand)

    def covers(self, layer: str) -> bool:
        """Whether the path fits a module, or one that it is inside of."""
        return _covers(self.path, layer) if self.inside else _fits(self.path, layer)

    def fits(self, slot: Slot) -> bool:
        """Whether the rule decides a slot that no rule before it decides."""
        decides = self.decides_sums if slot.operand == ACCUMULATOR else self._decides_value(slot)
        own = decides and _fits(self.role, slot.role.value) and _fits(self.family, slot.family)
        return own and self.covers(slot.layer)

    def __repr__(self) -> str:
        rounding = None if self.rounding == NEAREST_EVEN else self.rounding
        choices = {
            "role": self.role,
            "family": self.family,
            "operand": self.operand,
            "keep": self.keep and self.keep.name,
            "format": self.format and self.format.name,
            "rounding": rounding and str(rounding),
            "scaling": self.scaling and str(self.scaling),
            "transform": self.transform and self.transform.value,
            "accumulator": self.accumulator and str(self.accumulator),
        }
        said = [f"{name}={choice!r}" for name, choice in choices.items() if choice is not None]
        flags = [f"{name}=False" for name in ("required", "inside") if not getattr(self, name)]
        return f"Rule({', '.join([repr(self.path), *said, *flags])})"


def parse_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules in their order.

    Raises:
        PlanError: something else than a sequence of rules.
    """
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise PlanError(f"rules is a sequence of precc.Rule, not {rules!r}")
    strange = [rule for rule in rules if not isinstance(rule, Rule)]
    if strange:
        raise PlanError(f"rules is a sequence of precc.Rule, and {strange[0]!r} is none")
    return tuple(rules)


def _check_patterns(patterns: dict[str, str | None]) -> None:
    for name, pattern in patterns.items():
        if not isinstance(pattern, str) and (pattern is not None or name == "path"):
            raise PlanError(f"the {name} of a rule is a pattern of names, such as 'conv*', not {pattern!r}")
    role = patterns["role"]
    if not any(_fits(role, known.value) for known in Role):
        raise PlanError(f"a rule has the role {role!r}: {expected_one_of(known.value for known in Role)}, or a pattern")
    if patterns["operand"] == ACCUMULATOR:
        raise PlanError("a rule has the operand 'accumulator', which is none: leave it out, and set accumulator=")


def _check_choices(given: Sequence[str], operand: str | None) -> None:
    """Refuse a rule that says nothing, or two things at once; `given` names what it sets."""
    if not given:
        raise PlanError("a rule sets nothing: give it keep=, format= or accumulator=")
    others = [name for name in given if name != "keep"]
    if len(others) < len(given) and others:
        raise PlanError(f"a rule has keep= and {others[0]}=: what is kept has a format and nothing else; use format=")
    details = [name for name in given if name in ("rounding", "scaling", "transform")]
    if details and "format" not in given:
        raise PlanError(f"a rule has {details[0]}= without a format: it belongs to format=")
    if "accumulator" in given and operand is not None:
        raise PlanError(
            f"a rule has accumulator= and the operand {operand!r}: an accumulator is of a whole product; make two rules"
        )


def _check_update(rule: Rule) -> None:
    if not _fits(rule.role, Role.UPDATE.value):
        raise PlanError(f"a rule has the operand {rule.operand!r}, which is of updates, and the role {rule.role!r}")
    if rule.operand is not None and not any(_fits(rule.operand, what) for what in UPDATES):
        raise PlanError(f"a rule of updates has the operand {rule.operand!r}: {expected_one_of(UPDATES)}, or a pattern")
    if rule.accumulator is not None:
        raise PlanError("a rule of updates has accumulator=: updates are no sums of products")
    if rule.precision is not None:
        checked_update(rule.precision, "a rule of updates")


def _fits(pattern: str | None, name: str) -> bool:
    return pattern is None or _compiled(pattern).match(name) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


@lru_cache(maxsize=65536)  # rules times modules
def _covers(pattern: str, layer: str) -> bool:
    parts = layer.split(".")
    return any(_fits(pattern, ".".join(parts[:depth])) for depth in range(len(parts), 0, -1))
