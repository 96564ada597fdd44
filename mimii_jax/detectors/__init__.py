"""Detectors: fit on normal clips, score any clip."""
