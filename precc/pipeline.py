"""Run passes one after the other, and check the graph between them."""

from dataclasses import dataclass

from torch.fx import GraphModule

from precc.errors import CaptureError, PreccError
from precc.protocols import GraphContext, Pass

__all__ = ["Pipeline"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in their order.

    Raises:
        CaptureError: a pass failed, or left a broken graph; the message names it and those before it.
    """

    passes: tuple[Pass, ...]

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        done: list[str] = []
        for step in self.passes:
            try:
                step.run(graph, context)
                graph.graph.lint()
            except PreccError:
                raise
            except Exception as error:
                before = ", ".join(done) or "none"
                raise CaptureError(f"pass {step.name!r} failed (passes before it: {before}): {error}") from error
            done.append(step.name)
        graph.recompile()
