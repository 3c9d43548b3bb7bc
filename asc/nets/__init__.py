"""The networks: features (batch, 1, n_bins, frames)  ->  logits (batch, n_classes)."""

from asc.nets.cp_mobile import CPMobile
from asc.nets.dcase2020_baseline import Dcase2020Baseline
from asc.nets.pham_cnn import PhamCNN

__all__ = ["CPMobile", "Dcase2020Baseline", "PhamCNN"]
