"""MNIST as the task of a model of images."""

from torch import nn
from torch.nn import functional as F

from precc.models.batches import ShuffledBatches
from precc.models.mnist import load_mnist
from precc.task import Task

__all__ = ["digits"]

BATCH = 100


def digits(model: nn.Module, *, channels: int = 1, padding: int = 0) -> Task:
    """Its training on MNIST, by cross-entropy, in batches of 100; the example is the first of them.

    Args:
        model: of images [batch, channels, 28 + 2 * padding, 28 + 2 * padding], to logits of 10 classes.
        channels: copies of the image.
        padding: black pixels on each side.

    Raises:
        DataError: the data cannot be read.
    """
    mnist = load_mnist()
    black = mnist.train_images.min().item()
    images = F.pad(mnist.train_images, (padding,) * 4, value=black).expand(-1, channels, -1, -1)
    batches = ShuffledBatches(images, mnist.train_labels, BATCH)
    example = (images[:BATCH], mnist.train_labels[:BATCH])
    return Task(model, *example, loss=F.cross_entropy, batches=lambda epoch: batches)
