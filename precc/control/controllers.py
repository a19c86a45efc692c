"""All controllers and their rules, by name: a new one is one entry here, and its common tests come from it."""

from typing import Any

from precc.control.adapt import AdaPT
from precc.control.adapt_rule import AdaPTRule
from precc.control.alrs import ALRS
from precc.control.guards import Guards
from precc.control.late_switch import LateSwitch
from precc.control.late_switch_rule import LateSwitchRule
from precc.control.mpsgd import MPSGD
from precc.control.mpsgd_rule import MPSGDRule
from precc.control.noise_aware import NoiseAware
from precc.control.noise_aware_rule import NoiseAwareRule
from precc.control.sharpness_guard import SharpnessGuard
from precc.control.sharpness_rule import SharpnessGuardRule
from precc.control.storm import STORM
from precc.control.storm_rule import STORMRule
from precc.control.trust_region import TrustRegion
from precc.control.trust_region_rule import TrustRegionRule
from precc.protocols import ControlRule

__all__ = ["CONTROLLERS", "RULES"]

#: Those around a net and an optimizer.
CONTROLLERS: dict[str, type] = {
    own.__name__: own for own in (NoiseAware, MPSGD, AdaPT, LateSwitch, SharpnessGuard, ALRS, TrustRegion, STORM)
}

_EVERY: tuple[type[ControlRule[Any, Any, Any]], ...] = (
    AdaPTRule,
    Guards,
    LateSwitchRule,
    MPSGDRule,
    NoiseAwareRule,
    STORMRule,
    SharpnessGuardRule,
    TrustRegionRule,
)

#: What they decide by.
RULES: dict[str, type[ControlRule[Any, Any, Any]]] = {own.__name__: own for own in _EVERY}
