"""Passes: one a file, file name = pass name."""

from precc.passes.fuse import Fuse
from precc.passes.leave_outside import LeaveOutside
from precc.passes.name_additions import NameAdditions
from precc.passes.name_attention import NameAttention
from precc.passes.pack_operands import PackOperands
from precc.passes.place_accumulators import PlaceAccumulators
from precc.passes.place_results import PlaceResults
from precc.passes.place_rounding import PlaceRounding
from precc.passes.remove_attention_markers import RemoveAttentionMarkers
from precc.passes.roles import Roles
from precc.passes.split_convolution_backward import SplitConvolutionBackward
from precc.pipeline import Pipeline

__all__ = ["accumulating_pipeline", "analysis_pipeline", "fusing_pipeline", "naming_pipeline", "rounding_pipeline"]


def rounding_pipeline() -> Pipeline:
    """What every captured graph goes through: roles, then one rounding node a slot."""
    placing = (PlaceRounding(), PlaceResults(), RemoveAttentionMarkers())
    return Pipeline((SplitConvolutionBackward(), NameAttention(), Roles(), NameAdditions(), *placing))


def analysis_pipeline() -> Pipeline:
    """What the graph of an analysed step goes through: the same, but for what a call of the net leaves as it is."""
    return Pipeline((LeaveOutside(), *rounding_pipeline().passes))


def accumulating_pipeline() -> Pipeline:
    """What each half goes through after the partition, where plans have accumulators."""
    return Pipeline((PlaceAccumulators(),))


def fusing_pipeline() -> Pipeline:
    """What each half goes through after that, where the backend computes groups of operations."""
    return Pipeline((PackOperands(), Fuse()))


def naming_pipeline() -> Pipeline:
    """Names alone, for graphs that are only looked at: reports ahead of time and exports."""
    return Pipeline((NameAttention(), Roles(), NameAdditions()))
