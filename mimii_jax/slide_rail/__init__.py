"""A simulated slide rail: its physics, its faults, its clips."""
