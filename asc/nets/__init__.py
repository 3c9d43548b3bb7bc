"""The networks: features (batch, 1, n_bins, frames)  ->  logits (batch, n_classes).

Each has a `head`, the module that computes the logits: `backbone_lr_scale` slows the training of all others.
"""

from asc.nets.cp_mobile import CPMobile
from asc.nets.dcase2020_baseline import Dcase2020Baseline
from asc.nets.pham_cnn import PhamCNN

__all__ = ["CPMobile", "Dcase2020Baseline", "PhamCNN"]
