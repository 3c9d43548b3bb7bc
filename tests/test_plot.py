"""The plots that a run leaves."""

import time

import matplotlib.image
import pytest
import torch

from asc.plot import plot_confusion_matrix


@pytest.mark.parametrize("labels", [["indoor", "$x_{$"], [f"label {number}" for number in range(300)]], ids=len)
def test_a_confusion_matrix_of_any_labels_is_drawn_soon_and_small(labels, tmp_path):
    start = time.process_time()
    plot_confusion_matrix(torch.eye(len(labels)).long() * 5, labels, tmp_path / "matrix.png")
    assert time.process_time() - start < 10
    height, width, _ = matplotlib.image.imread(tmp_path / "matrix.png").shape
    assert 300 < height == width < 1500
