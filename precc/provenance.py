"""Provenance: where a plan comes from."""

from dataclasses import dataclass

__all__ = ["Provenance"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plan comes from: the policy that made it, its budget, and a digest of the analysis."""

    policy: str = ""
    budget: str = ""
    analysis: str = ""
