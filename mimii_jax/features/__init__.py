"""Front ends, windows, augmentation: from waves to what a model sees."""
