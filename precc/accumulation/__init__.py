"""How the sums of products are rounded: as data, by tensor operations, and in graphs."""
