"""Rules on the command line: one in a line, or a file of them in the JSON form of plans."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precc.errors import PlanError, PreccError, expected_one_of
from precc.rule import Rule
from precc.rule_json import rules_from_json

__all__ = ["rules_of"]

#: "<path>:<name>=<value>,<name>=<value>"
_COMPACT = re.compile(r"(?P<path>[^:]*):(?P<choices>\w+=.*)", re.DOTALL)

_NAMES = ("role", "family", "operand", "keep", "format", "rounding", "scaling", "transform", "accumulator")
_FLAGS = ("required", "inside")


def rules_of(arguments: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that arguments mean, in their order: the first that fits a slot decides.

    Raises:
        PlanError, FormatError: one is no rule; the message repeats the argument.

    >>> rules_of(["fc3:keep=fp32", "conv*:role=wgrad,format=e5m2,scaling=tensor,required=false"])
    (Rule('fc3', keep='float32'), Rule('conv*', role='wgrad', format='float8_e5m2', scaling='tensor', required=False))
    """
    return tuple(rule for text in arguments for rule in _rules(text))


def _rules(text: str) -> tuple[Rule, ...]:
    compact = _COMPACT.fullmatch(text)
    try:
        return (_rule(**compact.groupdict()),) if compact else _rules_of_file(text)
    except PreccError as error:
        raise PlanError(f"--rule {text!r}: {error}") from error


def _rule(path: str, choices: str) -> Rule:
    found: dict[str, Any] = {}
    for choice in choices.split(","):
        name, _, value = choice.partition("=")
        if name not in (*_NAMES, *_FLAGS):
            raise PlanError(f"{name!r} is nothing that a rule has: {expected_one_of((*_NAMES, *_FLAGS))}")
        if name in found:
            raise PlanError(f"{name} is there twice")
        found[name] = _flag(name, value) if name in _FLAGS else value
    return Rule(path, **found)


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise PlanError(f"{name} is true or false, not {value!r}")
    return value == "true"


def _rules_of_file(name: str) -> tuple[Rule, ...]:
    try:
        document = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"neither a rule, such as 'fc3:keep=fp32' or 'conv*:role=wgrad,format=bf16', nor a file of rules ({error})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the file is no JSON: {error}") from error
    return rules_from_json(document)
