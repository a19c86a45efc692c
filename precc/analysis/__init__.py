"""Error analysis of a training step: what it costs, in loss and gradient, to round in each slot of it."""
