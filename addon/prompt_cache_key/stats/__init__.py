"""Finished requests and their sums."""
