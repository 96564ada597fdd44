"""Models: what a neural detector trains, one file each."""
