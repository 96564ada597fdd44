"""Anomalous machine-sound detection in JAX."""
