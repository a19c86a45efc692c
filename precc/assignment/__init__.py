"""The best plan under a budget: tables of errors and costs, and solvers that choose from them."""
