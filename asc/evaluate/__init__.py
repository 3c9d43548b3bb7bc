"""Evaluate a classifier on any dataset and split: `python -m asc.evaluate --help`."""
