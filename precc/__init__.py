"""precc decides in which number format every operation of a training step is computed, and runs it that way."""

from precc import _checkout

_checkout.install()

from precc.api import compile, export_onnx  # noqa: E402
from precc.control.trust_region import TrustRegion  # noqa: E402
from precc.formats import FORMATS, FloatFormat  # noqa: E402
from precc.module import PrecisionModule  # noqa: E402
from precc.plan import Precision, PrecisionPlan  # noqa: E402
from precc.policy import Policy, Uniform  # noqa: E402
from precc.rounding import round_to  # noqa: E402

__all__ = [
    "FORMATS",
    "FloatFormat",
    "Policy",
    "Precision",
    "PrecisionModule",
    "PrecisionPlan",
    "TrustRegion",
    "Uniform",
    "compile",
    "export_onnx",
    "round_to",
]
__version__ = "0.1.0"
