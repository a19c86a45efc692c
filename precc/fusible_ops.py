"""Which ATen operators a kernel may compute beside its own work, by name without the overload."""

__all__ = ["MATRIX_PRODUCTS", "POINTWISE_OPS", "ROW_OPS", "SWAPS", "VIEW_OPS"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


#: Products of matrices, with the tensors' own sums or with rounded ones.
MATRIX_PRODUCTS = frozenset(f"{space}.{name}" for space in ("aten", "precc") for name in "mm addmm bmm baddbmm".split())

#: Functions of the elements at one place; scalars, vectors along the last dimension and one value a row are broadcast.
POINTWISE_OPS = _aten(
    """
    _to_copy abs add clamp clamp_max clamp_min div eq exp ge gelu gelu_backward gt le leaky_relu leaky_relu_backward log
    logical_and logical_not logical_or lt masked_fill maximum minimum mul ne neg pow reciprocal relu rsqrt rsub sigmoid
    sigmoid_backward silu silu_backward sqrt sub tanh tanh_backward threshold_backward where
    """
)

#: Operators along the last dimension.
ROW_OPS = _aten("_softmax _softmax_backward_data amax mean native_layer_norm native_layer_norm_backward sum")

#: Views that give the values another order.
SWAPS = _aten("permute t transpose")

#: The same values in another shape.
VIEW_OPS = _aten("_reshape_alias _unsafe_view alias permute reshape squeeze t transpose unsqueeze view")
