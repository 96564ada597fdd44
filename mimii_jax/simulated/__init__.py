"""Simulated machines: their physics, their faults, their clips."""
