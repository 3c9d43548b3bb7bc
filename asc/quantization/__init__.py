"""Transformations that preserve what a network computes: folding of batch norms and 8-bit quantization."""
