"""Tables and figures, read from a workdir."""
