"""Policies that choose from an analysis: one a file."""
