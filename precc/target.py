"""Stub."""

from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.precision import Precision


@dataclass(frozen=True, slots=True)
class Target:
    name: str

    def pair_problem(self, first: Precision, second: Precision) -> str:
        return ""

    def accumulator_problem(self, accumulator: Accumulator | None, first: Precision, second: Precision) -> str:
        return ""


TARGETS = {"cpu-emulated": Target("cpu-emulated")}


def parse_target(target: Target | str) -> Target:
    return TARGETS[target] if isinstance(target, str) else target
