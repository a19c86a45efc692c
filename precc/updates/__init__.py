"""The optimizer's step, rounded: gradient buffer, momentum, step and master weight."""
