"""What each ATen operator is to precc: a product, elementwise, a reduction, exact, or kept in high precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch.fx import Node

from precc.passes.products import (
    OPAQUE_PRODUCTS,
    PRODUCTS,
)
from precc.stored_nodes import CONVOLUTION_BACKWARD, op_name

__all__ = ["OP_CLASSES", "ClassifiedOp", "OpClass", "classify"]


class OpClass(Enum):
    """How an operator's result comes from its arguments."""

    PRODUCT = "product"  #: sums of products: its operands and sums have slots
    ELEMENTWISE = "elementwise"  #: a function of elements at one place, rounded once or a few times
    REDUCTION = "reduction"  #: sums, means, norms and their kin over many elements
    EXACT = "exact"  #: a view, copy, selection, comparison, sign or constant: nothing is rounded
    KEPT = "kept"  #: stays in the precision of its tensors, for the reason given


@dataclass(frozen=True, slots=True)
class ClassifiedOp:
    """One row of the table: the name without its overload, such as ``aten.mm``; the reason is of what is kept."""

    name: str
    kind: OpClass
    reason: str = ""


_EXACT = """
_assert_async _assert_scalar _local_scalar_dense _reshape_alias _unsafe_index _unsafe_view abs alias all amax amin
aminmax any arange argmax argmin as_strided as_strided_scatter atleast_1d bitwise_and bitwise_left_shift bitwise_not
bitwise_or bitwise_right_shift bitwise_xor bucketize cat ceil chunk clamp clamp_max clamp_min clone constant_pad_nd
contiguous copysign count_nonzero cummax cummin detach detach_ diag_embed diagonal diagonal_backward diagonal_copy
diagonal_scatter embedding empty empty_like empty_permuted empty_strided eq equal expand expand_copy eye fill fill_
flatten flip floor fmax fmin fmod frac frexp full full_like gather ge gt hardshrink hardshrink_backward hardtanh
hardtanh_backward heaviside index index_copy index_fill index_select isfinite isinf isnan isneginf isposinf kthvalue
le lift lift_fresh lift_fresh_copy logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter
masked_select max max_pool2d max_pool2d_with_indices max_pool3d_with_indices maximum median min minimum movedim
nan_to_num narrow ne neg new_empty new_empty_strided new_full new_ones new_zeros nonzero numpy_T one_hot ones
ones_like permute permute_copy pixel_shuffle pixel_unshuffle positive reflection_pad1d reflection_pad2d
reflection_pad3d relu relu6 repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
resize_ roll rot90 scalar_tensor scatter searchsorted select select_backward select_copy select_scatter sgn sign
signbit slice slice_backward slice_copy slice_scatter softshrink_backward sort split split_copy split_with_sizes
split_with_sizes_copy squeeze squeeze_copy stack sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride t
take tensor_split threshold threshold_backward tile topk transpose transpose_copy tril tril_indices triu triu_indices
trunc unbind unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy
upsample_nearest1d upsample_nearest2d upsample_nearest3d value_selecting_reduction_backward view view_as view_copy
where zeros zeros_like
"""

_ELEMENTWISE = """
_prelu_kernel _prelu_kernel_backward acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh
binary_cross_entropy_backward celu cos cosh deg2rad digamma div elu elu_backward erf erfc erfinv exp exp2 expm1
float_power floor_divide gelu gelu_backward glu glu_backward hardsigmoid hardsigmoid_backward hardswish
hardswish_backward huber_loss_backward hypot i0 ldexp leaky_relu leaky_relu_backward lerp lgamma linalg_cross linspace
log log10 log1p log2 log_sigmoid_backward log_sigmoid_forward logaddexp logaddexp2 logit logit_backward mish
mish_backward mse_loss_backward mul native_dropout_backward nll_loss2d_backward nll_loss_backward polar pow prelu
rad2deg reciprocal remainder round rsqrt rsub selu sigmoid sigmoid_backward silu silu_backward sin sinc sinh
smooth_l1_loss_backward softplus softplus_backward softshrink special_entr special_erfcx special_i0e special_i1
special_i1e special_log_ndtr special_ndtri special_xlog1py special_zeta sqrt square sub tan tanh tanh_backward
true_divide xlogy
"""

_REDUCTION = """
_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool3d_backward
_batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional _embedding_bag
_embedding_bag_backward _embedding_bag_dense_backward _embedding_bag_forward_only
_embedding_bag_per_sample_weights_backward _fused_rms_norm _fused_rms_norm_backward _log_softmax
_log_softmax_backward_data _native_batch_norm_legit _native_batch_norm_legit_functional
_native_batch_norm_legit_no_training _safe_softmax _softmax _softmax_backward_data _unsafe_index_put
adaptive_avg_pool1d avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward batch_norm_backward
binary_cross_entropy binary_cross_entropy_with_logits bincount col2im cumprod cumsum cumsum_ embedding_dense_backward
histc huber_loss im2col index_add index_put index_reduce layer_norm linalg_vector_norm log_softmax logcumsumexp
logsumexp max_pool2d_with_indices_backward max_pool3d_with_indices_backward mean mse_loss nansum native_batch_norm
native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm native_layer_norm_backward
nll_loss nll_loss2d_forward nll_loss_forward norm prod reflection_pad1d_backward reflection_pad2d_backward
reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward rms_norm
scatter_add scatter_reduce smooth_l1_loss softmax std std_mean sum sum_to_size trace unfold_backward
upsample_bicubic2d upsample_bicubic2d_backward upsample_bilinear2d upsample_bilinear2d_backward upsample_linear1d
upsample_linear1d_backward upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
upsample_trilinear3d upsample_trilinear3d_backward var var_mean
"""

_KEPT = {
    "a copy, perhaps to a dtype that the model or autocast asks for": "_to_copy copy copy_ to",
    "integers alone": "gcd lcm",
    "random numbers, drawn in the dtype of their tensor": """
        bernoulli bernoulli_ exponential multinomial native_dropout normal poisson rand rand_like randint
        randint_like randn randn_like randperm uniform
    """,
    "a transform of signals, with long sums of its own": "_fft_c2c _fft_c2r _fft_r2c",
    "a grid of places, whose coordinates need all their bits": """
        affine_grid_generator affine_grid_generator_backward grid_sampler_2d grid_sampler_2d_backward
        grid_sampler_3d grid_sampler_3d_backward
    """,
    "a solver or factorization": """
        _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd cholesky_solve linalg_cholesky_ex
        linalg_eigh linalg_inv_ex linalg_lstsq linalg_lu linalg_lu_factor_ex linalg_lu_solve linalg_qr
        linalg_solve_triangular triangular_solve
    """,
    "a distance between all pairs, which cancels": "_pdist_forward _pdist_backward",
}

_NO_SLOTS = "its products have no slots"


def _rows() -> Iterator[ClassifiedOp]:
    for target in (*PRODUCTS, CONVOLUTION_BACKWARD):
        yield ClassifiedOp(str(target.overloadpacket), OpClass.PRODUCT)
    for kind, names in ((OpClass.ELEMENTWISE, _ELEMENTWISE), (OpClass.REDUCTION, _REDUCTION), (OpClass.EXACT, _EXACT)):
        yield from (ClassifiedOp(f"aten.{name}", kind) for name in names.split())
    for reason, names in _KEPT.items():
        yield from (ClassifiedOp(f"aten.{name}", OpClass.KEPT, reason) for name in names.split())
    yield from (ClassifiedOp(name, OpClass.KEPT, _NO_SLOTS) for name in OPAQUE_PRODUCTS if "." in name)


#: The table, by name. An operator that is not in it stays in the precision of its tensors, and reports name it.
OP_CLASSES = {row.name: row for row in sorted(_rows(), key=lambda row: row.name)}


def classify(node: Node) -> ClassifiedOp | None:
    """The row of a node's operator; None if the table has none."""
    return OP_CLASSES.get(op_name(node))
