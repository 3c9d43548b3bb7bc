"""The phases of compress.py: each compresses a trained classifier and is a callback of its fine-tuning."""

from asc.compress.distill import Distill
from asc.compress.phase import Phase
from asc.compress.prune import Prune
from asc.compress.prune_filters import PruneFilters
from asc.compress.qat import QAT

__all__ = ["QAT", "Distill", "Phase", "Prune", "PruneFilters"]
