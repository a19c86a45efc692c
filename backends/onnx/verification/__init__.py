"""Whether a file computes what precc computes."""
