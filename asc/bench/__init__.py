"""What `python -m asc.benchmark` measures: this package, its peers, and the bounds of both."""
