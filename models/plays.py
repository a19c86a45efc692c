"""Shakespeare as the task of a model of characters."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from precc.models.batches import WindowBatches
from precc.models.shakespeare import load_shakespeare
from precc.task import Task

__all__ = ["plays"]

BATCH = 16


def plays(make: Callable[[int], nn.Module], length: int) -> Task:
    """Its training on the plays that ship, by the cross-entropy of the next character, in batches of 16.

    Args:
        make: of the size of the vocabulary a model of tokens [batch, length], to logits [batch, length, vocabulary].
        length: of the pieces.

    Raises:
        DataError: the data cannot be read.
    """
    text = load_shakespeare()
    batches = WindowBatches(text, length, BATCH)
    first = text.train_tokens[: BATCH * length + 1]
    example = (first[:-1].view(BATCH, length), first[1:].view(BATCH, length))
    return Task(make(len(text.vocabulary)), *example, loss=_next_token, batches=lambda epoch: batches)


def _next_token(logits: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())
