"""Studies; each module answers one question and names its command."""
