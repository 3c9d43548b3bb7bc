"""A network in, a network out that computes the same: batch norms folded away, or 8-bit integers for floats."""
