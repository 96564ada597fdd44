"""Score tables, metrics and their results; no JAX."""
