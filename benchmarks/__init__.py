"""Benchmarks: one script a claim, records beside them."""
