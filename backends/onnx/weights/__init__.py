"""How rounded weights lie in a file, and how a graph reads them."""
