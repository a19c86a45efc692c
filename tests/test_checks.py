"""Checks of options: what passes, and the errors of what does not."""

import math

import pytest

from precc.checks import checked_count, checked_positive
from precc.errors import AnalysisError, ControllerError


@pytest.mark.parametrize("value", [True, 2.0, "2", None, 1])
def test_counts(value: object) -> None:
    assert checked_count("patience", 2, 2) == 2
    with pytest.raises(ControllerError, match="patience is a whole number of at least 2"):
        checked_count("patience", value, 2)
    with pytest.raises(AnalysisError, match="patience"):
        checked_count("patience", value, 2, AnalysisError)


@pytest.mark.parametrize("value", [True, "2", None, 0, -1.0, math.inf, math.nan])
def test_positive_numbers(value: object) -> None:
    assert checked_positive("band", 2) == 2.0
    with pytest.raises(ControllerError, match="band must be positive and finite"):
        checked_positive("band", value)
    with pytest.raises(AnalysisError, match="band"):
        checked_positive("band", value, AnalysisError)
