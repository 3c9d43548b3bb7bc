"""Metrics of a confusion matrix, and its plot."""

import matplotlib.image
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from asc.metrics import compute_metrics
from asc.plot import plot_confusion_matrix

LABELS = ["indoor", "outdoor", "transportation"]


def test_metrics_equal_scikit_learns():
    random = np.random.default_rng(0)
    true, predicted = random.choice(3, 200, p=[0.6, 0.3, 0.1]), random.integers(3, size=200)
    matrix = confusion_matrix(true, predicted)
    result = compute_metrics(torch.from_numpy(matrix), 0.5, LABELS)
    assert result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.macro_accuracy == pytest.approx(recall_score(true, predicted, average="macro"))
    assert list(result.class_accuracy.values()) == pytest.approx(recall_score(true, predicted, average=None).tolist())
    assert (result.confusion_matrix, result.log_loss) == (matrix.tolist(), 0.5)


def test_class_without_clips_has_no_accuracy():
    # 4 indoor clips, 3 of them right; outdoor was predicted once but never true
    result = compute_metrics(torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 1]]), 0.0, LABELS)
    assert result.class_accuracy == {"indoor": 0.75, "outdoor": None, "transportation": 0.5}
    assert result.macro_accuracy == 0.625
    assert result.accuracy == pytest.approx(4 / 6)


@pytest.mark.parametrize("labels", [["indoor", "$x_{$"], [f"label {number}" for number in range(300)]], ids=len)
def test_plot_of_a_confusion_matrix_has_any_labels_and_a_bounded_size(labels, tmp_path):
    plot_confusion_matrix(np.eye(len(labels), dtype=int) * 5, labels, tmp_path / "matrix.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "matrix.png").shape
    assert 300 < height == width < 1500
