"""Fused Triton kernels at the groups of a graph; between them Inductor, or, interpreted, torch's own operators."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch.fx import GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.annotations import annotation_of
from precc.backends.eager import implement, run_eagerly
from precc.backends.inductor import compile_lowered
from precc.backends.triton.compiled_graph import CompiledGraph
from precc.backends.triton.device import DEVICES, Device
from precc.backends.triton.group_op import call_group, group_record, plan_read_by
from precc.backends.triton.live_plan import LivePlan
from precc.backends.triton.live_rows import rows_read
from precc.backends.triton.native import PROMOTION, ProductOptions
from precc.backends.triton.packing import PACK_TRITON, UNPACK_TRITON
from precc.backends.triton.products import PRODUCTS_TRITON
from precc.backends.triton.program import Group
from precc.backends.triton.rounding import ROUND_TRITON
from precc.backends.triton.running_group import RunningGroup
from precc.backends.triton.templates import templates
from precc.backends.triton.toolchain import check, current_device, require_triton
from precc.errors import BackendError
from precc.kernel_listing import Remaining
from precc.protocols import BoxedCallable
from precc.round_op import ROUND, round_by_tensor_ops

__all__ = ["Triton"]

#: How many bytes a packed tensor has depends on the live plan: Inductor neither checks nor reuses its memory.
_PACKED_SIZES_DIFFER = {"size_asserts": False, "allow_buffer_reuse": False}


@dataclass(frozen=True, slots=True)
class Triton:
    """Generated kernels, for NVIDIA GPUs from compute capability 8.0 on and for Triton's interpreter.

    Args:
        target: the machine that kernels are made for, without running them: graphs run node by node, on any machine.
            None: the one that they run on.
        force_low: whether products of 8-bit operands stay 8-bit where published figures say that bfloat16 is faster.
        between: what runs between the kernels: ``"inductor"``, ``"eager"``, or ``"auto"``: Inductor on a GPU, and
            operator by operator under the interpreter, whose results are then those of the reference but for kernels.
        promotion: terms that a Hopper GPU sums in 8-bit products before it adds them to float32, of plans without an
            accumulator that says it.

    Raises:
        BackendError: an option that there is not, such as a promotion that is no multiple of 32.
    """

    target: Device | None = None
    between: Literal["auto", "inductor", "eager"] = "auto"
    force_low: bool = True
    promotion: int = PROMOTION
    name: ClassVar[str] = "triton"

    def __post_init__(self) -> None:
        if self.target is not None and not isinstance(self.target, Device):
            named = ", ".join(f"DEVICES[{name!r}]" for name in DEVICES)
            raise BackendError(f"triton: target={self.target!r} is no device: expected None or one of {named}")
        if self.between not in ("auto", "inductor", "eager"):
            raise BackendError(f"triton: between={self.between!r}: expected 'auto', 'inductor' or 'eager'")
        self._products  # noqa: B018  # it checks

    @property
    def _products(self) -> ProductOptions:
        return ProductOptions(self.force_low, self.promotion)

    def check(self) -> None:
        if self.target is None:
            check()
        else:
            require_triton()

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        device = self.target or current_device()
        nodes = [node for node in graph.graph.nodes if group_record(node) is not None]
        live = LivePlan.of(rows_read(_module(graph, node)) for node in nodes)
        groups = self._place(graph, nodes, device, live, backward=backward)
        remaining = _remaining(graph, "backward" if backward else "forward")
        self._implement(graph)
        if self._between(device) == "inductor":
            run = compile_lowered(
                graph, inputs, visible_outputs=visible_outputs, backward=backward, options=_PACKED_SIZES_DIFFER
            )
        else:
            run = run_eagerly(graph)
        return CompiledGraph(run, groups, live, remaining)

    def _between(self, device: Device) -> str:
        eager = device.interpreted or self.target is not None
        return self.between if self.between != "auto" else "eager" if eager else "inductor"

    def _implement(self, graph: GraphModule) -> None:
        """Operators for the nodes that are in no group."""
        if self.target is None:
            implement(graph, ROUND_TRITON, PRODUCTS_TRITON, (PACK_TRITON, UNPACK_TRITON))
        else:
            implement(graph, round_by_tensor_ops, PRODUCT_OPS)

    def _place(
        self, graph: GraphModule, nodes: Sequence[Node], device: Device, live: LivePlan, *, backward: bool
    ) -> tuple[RunningGroup, ...]:
        """Operators in the place of the groups' nodes."""
        groups: list[RunningGroup] = []
        plan = next((own for own in (plan_read_by(graph, node) for node in nodes) if own is not None), None)
        for node in nodes:
            record = group_record(node)
            assert record is not None
            module = _module(graph, node)
            template = templates(self._products).get(record.kind)
            by_nodes = GraphModule(module, module.graph.__deepcopy__({}))
            self._implement(by_nodes)
            own = RunningGroup(Group(record, module, backward), template, device, live, by_nodes, self.target is None)
            call_group(graph, node, own, plan)
            groups.append(own)
        graph.delete_all_unused_submodules()
        graph.recompile()
        return tuple(groups)


def _remaining(graph: GraphModule, half: str) -> tuple[Remaining, ...]:
    operators = {ROUND, *PRODUCT_OPS.values()}
    return tuple(Remaining(_named(node), half, "in no group") for node in graph.graph.nodes if node.target in operators)


def _module(graph: GraphModule, node: Node) -> GraphModule:
    module = graph.get_submodule(str(node.target))
    assert isinstance(module, GraphModule)
    return module


def _named(node: Node) -> str:
    record = annotation_of(node)
    return str(getattr(record, "name", node.name))
