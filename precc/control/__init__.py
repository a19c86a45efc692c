"""Controllers: pure rules, and the torch classes around them."""
