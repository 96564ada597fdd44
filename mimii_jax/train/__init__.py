"""Training: many runs of one model as one compiled program."""
