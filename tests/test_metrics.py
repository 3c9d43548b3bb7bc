import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from asc.metrics import compute_metrics

LABELS = ["indoor", "outdoor", "transportation"]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learns(seed):
    random = np.random.default_rng(seed)
    true, predicted = random.choice(3, 200, p=[0.6, 0.3, 0.1]), random.integers(3, size=200)
    matrix = confusion_matrix(true, predicted)
    result = compute_metrics(torch.from_numpy(matrix), 0.5, LABELS)
    assert result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.macro_accuracy == pytest.approx(recall_score(true, predicted, average="macro"))
    assert list(result.class_accuracy) == LABELS
    assert list(result.class_accuracy.values()) == pytest.approx(recall_score(true, predicted, average=None).tolist())
    assert result.confusion_matrix == matrix.tolist()
    assert result.log_loss == 0.5


def test_rows_are_the_true_classes():
    # 4 indoor clips, 3 of them right; 2 outdoor clips, 1 right
    result = compute_metrics(torch.tensor([[3, 1], [1, 1]]), 0.0, LABELS[:2])
    assert result.class_accuracy == {"indoor": 0.75, "outdoor": 0.5}
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.macro_accuracy == 0.625  # (0.75 + 0.5) / 2


def test_a_class_without_clips_has_no_accuracy():
    # outdoor was predicted once but never true
    result = compute_metrics(torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 1]]), 0.0, LABELS)
    assert result.class_accuracy == {"indoor": 0.75, "outdoor": None, "transportation": 0.5}
    assert result.macro_accuracy == 0.625
    assert result.accuracy == pytest.approx(4 / 6)
