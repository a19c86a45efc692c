"""What a plan costs: one cost model a file."""
