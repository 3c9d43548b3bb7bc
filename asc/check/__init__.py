"""The contents of a dataset and its faults, before a run meets them."""
