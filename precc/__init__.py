"""precc decides in which number format every operation of a training step is computed, and runs it that way.

>>> import precc, torch
>>> model = torch.nn.Linear(4, 2)
>>> net = precc.compile(model, policy="e4m3", rules=[precc.Rule("", keep="fp32", role="wgrad")], backend="reference")
>>> net(torch.randn(3, 4)).sum().backward()  # any torch optimizer trains net.parameters(), which are the model's
>>> net.set_plan(precc.PrecisionPlan("bf16"))  # from the next forward on
>>> print(net.report().rows[0].formats)
('bfloat16', '-', 'float32')

Begin with `precc.compile`; its net is a `PrecisionModule`. `PrecisionPlan`, `Rule` and `Uniform` choose formats,
`TrustRegion` chooses them while it trains, `round_to` and `matmul` compute by hand. Errors are `PreccError`, in
`precc.errors`.
"""

from precc import _checkout

_checkout.install()

from precc.accumulation.accumulator import Accumulator  # noqa: E402
from precc.accumulation.integer_sums import int_matmul, safe_chain_length  # noqa: E402
from precc.accumulation.named import ACCUMULATORS, parse_accumulator  # noqa: E402
from precc.accumulation.product_arithmetic import ProductArithmetic  # noqa: E402
from precc.accumulation.two_pass_run import Recomputed, recomputed  # noqa: E402
from precc.accumulation.two_passes import TwoPasses  # noqa: E402
from precc.analysis.analysis import Analysis  # noqa: E402
from precc.analysis.analysis_options import AnalysisOptions  # noqa: E402
from precc.analysis.error_estimate import ErrorEstimate  # noqa: E402
from precc.api import (  # noqa: E402
    compile,
    export_onnx,
    load_plan,
    model_explorer_data,
    save_model_explorer_data,
    verify_onnx,
)
from precc.assignment.candidates import ACCUMULATOR_CANDIDATES, CANDIDATES, scaled  # noqa: E402
from precc.assignment.greedy import Greedy, RandomChoice  # noqa: E402
from precc.assignment.lagrangian import Lagrangian  # noqa: E402
from precc.assignment.milp import MILP  # noqa: E402
from precc.backends.triton.cast_cache import drop_casts  # noqa: E402
from precc.by_hand.numerics import matmul, round_to  # noqa: E402
from precc.by_hand.softmax import softmax_two_pass  # noqa: E402
from precc.by_hand.two_pass import TwoPass, convolution_two_pass, matmul_two_pass  # noqa: E402
from precc.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from precc.control.adapt import AdaPT  # noqa: E402
from precc.control.adapt_rule import AdaPTRule  # noqa: E402
from precc.control.alrs import ALRS  # noqa: E402
from precc.control.guards import GuardReading, Guards, GuardState  # noqa: E402
from precc.control.late_switch import LateSwitch  # noqa: E402
from precc.control.logit_sharpness import logit_sharpness  # noqa: E402
from precc.control.loss_scaler import LossScaler  # noqa: E402
from precc.control.mpsgd import MPSGD  # noqa: E402
from precc.control.noise_aware import NoiseAware  # noqa: E402
from precc.control.noise_aware_rule import NoiseAwareRule  # noqa: E402
from precc.control.sharpness_guard import SharpnessGuard  # noqa: E402
from precc.control.storm import STORM  # noqa: E402
from precc.control.trust_region import TrustRegion  # noqa: E402
from precc.cost.bit_ops import BitOps  # noqa: E402
from precc.cost.cost_model import CostModel  # noqa: E402
from precc.cost.energy import Energy  # noqa: E402
from precc.cost.memory import Memory  # noqa: E402
from precc.cost.plan_cost import PlanCost  # noqa: E402
from precc.cost.roofline import Roofline  # noqa: E402
from precc.cost.weight_bits import WeightBits  # noqa: E402
from precc.devices.calibrate import calibrate  # noqa: E402
from precc.devices.figures import DeviceFigures  # noqa: E402
from precc.errors import (  # noqa: E402
    AnalysisError,
    ControllerError,
    ExtraError,
    FormatError,
    InfeasibleError,
    PlanError,
    PreccError,
    PrecisionWarning,
)
from precc.formats import (  # noqa: E402
    FORMATS,
    BlockFormat,
    FixedPoint,
    FloatFormat,
    Format,
    NestedInteger,
    PowerLaw,
    Scaling,
    parse_format,
)
from precc.history import History  # noqa: E402
from precc.kernel_listing import KernelListing, ListedKernel, Remaining  # noqa: E402
from precc.loss_scaling import LossScaling  # noqa: E402
from precc.module import PrecisionModule  # noqa: E402
from precc.plan import PrecisionPlan  # noqa: E402
from precc.policies.bit_budget import BitBudget  # noqa: E402
from precc.policies.cost_budget import CostBudget  # noqa: E402
from precc.policies.error_budget import ErrorBudget  # noqa: E402
from precc.policies.first_last_high import FirstLastHigh  # noqa: E402
from precc.policies.hessian_budget import HessianBudget  # noqa: E402
from precc.policies.importance_budget import ImportanceBudget  # noqa: E402
from precc.policies.noise_budget import NoiseBudget  # noqa: E402
from precc.policies.pareto import Front, pareto  # noqa: E402
from precc.policies.threshold import Threshold  # noqa: E402
from precc.policy import Policy, Uniform  # noqa: E402
from precc.precision import Precision  # noqa: E402
from precc.report.precision_report import PrecisionReport  # noqa: E402
from precc.rounding import Rounding, RoundingMode  # noqa: E402
from precc.rounding.transforms import ShiftSqueeze, random_hadamard  # noqa: E402
from precc.rule import Rule  # noqa: E402
from precc.target import TARGETS, Target  # noqa: E402
from precc.task import Task  # noqa: E402
from precc.tracking.callback import Callback  # noqa: E402
from precc.tracking.mlflow import MLflow  # noqa: E402
from precc.tracking.sink import Sink  # noqa: E402
from precc.tracking.tensorboard import TensorBoard  # noqa: E402
from precc.tracking.training_log import TrainingLog  # noqa: E402
from precc.tracking.wandb import Wandb  # noqa: E402
from precc.update_formats import UpdateFormats  # noqa: E402
from precc.updates.rounded_updates import RoundedUpdates  # noqa: E402

__all__ = [
    "ACCUMULATORS",
    "ACCUMULATOR_CANDIDATES",
    "ALRS",
    "CANDIDATES",
    "Callback",
    "FORMATS",
    "MILP",
    "MLflow",
    "MPSGD",
    "STORM",
    "TARGETS",
    "Accumulator",
    "AdaPT",
    "AdaPTRule",
    "Analysis",
    "AnalysisError",
    "AnalysisOptions",
    "BitBudget",
    "BitOps",
    "BlockFormat",
    "ControllerError",
    "CostBudget",
    "CostModel",
    "DeviceFigures",
    "Energy",
    "ErrorBudget",
    "ErrorEstimate",
    "ExtraError",
    "FirstLastHigh",
    "FixedPoint",
    "FloatFormat",
    "Format",
    "FormatError",
    "Front",
    "Greedy",
    "GuardReading",
    "GuardState",
    "Guards",
    "HessianBudget",
    "History",
    "ImportanceBudget",
    "InfeasibleError",
    "KernelListing",
    "Lagrangian",
    "LateSwitch",
    "ListedKernel",
    "LossScaler",
    "LossScaling",
    "Memory",
    "NoiseAware",
    "NoiseAwareRule",
    "NoiseBudget",
    "NestedInteger",
    "PlanCost",
    "PlanError",
    "Policy",
    "PowerLaw",
    "PreccError",
    "Precision",
    "PrecisionModule",
    "PrecisionPlan",
    "PrecisionReport",
    "PrecisionWarning",
    "ProductArithmetic",
    "RandomChoice",
    "Recomputed",
    "Remaining",
    "Roofline",
    "RoundedUpdates",
    "Rounding",
    "RoundingMode",
    "Rule",
    "Scaling",
    "SharpnessGuard",
    "ShiftSqueeze",
    "Sink",
    "Target",
    "Task",
    "TensorBoard",
    "TrainingLog",
    "TrustRegion",
    "TwoPass",
    "TwoPasses",
    "recomputed",
    "Threshold",
    "Uniform",
    "UpdateFormats",
    "Wandb",
    "calibrate",
    "WeightBits",
    "compile",
    "convolution_two_pass",
    "drop_casts",
    "export_onnx",
    "load_plan",
    "model_explorer_data",
    "verify_onnx",
    "int_matmul",
    "load_checkpoint",
    "logit_sharpness",
    "matmul",
    "matmul_two_pass",
    "pareto",
    "parse_accumulator",
    "parse_format",
    "random_hadamard",
    "round_to",
    "safe_chain_length",
    "save_checkpoint",
    "save_model_explorer_data",
    "scaled",
    "softmax_two_pass",
]
__version__ = "0.1.0"
