"""Recordings: clips, the DCASE folder, the simulated slide rail."""
