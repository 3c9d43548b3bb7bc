"""python -m asc.benchmark: this package timed beside its peers and the bounds of both."""
