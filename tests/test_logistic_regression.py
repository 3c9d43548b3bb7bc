"""The reference row."""

import pytest
import torch
from command import call

from asc.logistic_regression import band_statistics


def test_statistics_of_a_band_by_hand():
    x = torch.tensor([[1.0, 3.0, 2.0, 6.0], [5.0, 5.0, 5.0, 5.0]]).view(1, 1, 2, 4)
    # mean 3; deviations -2, 0, -1, 3: variance 14 / 3; differences 2, -1, 4: variance (1 + 64 + 49) / 9 / 2
    expected = [3, 5, (14 / 3) ** 0.5, 0, (114 / 18) ** 0.5, 0]
    assert band_statistics(x).tolist()[0] == pytest.approx(expected)


def test_the_command_prints_each_fold_and_the_mean(tiny, tmp_path, capsys):
    words = ["data=dcase", f"data.root={tiny}", "sample_rate=16000", "data.cv=3", f"data.cache_dir={tmp_path}"]
    assert call(*words, script="asc.logistic_regression") is None
    lines = capsys.readouterr().out.splitlines()
    folds = [float(line.split()[-2]) for line in lines[:3]]
    assert f"{sum(folds) / 3:.1f} +-" in lines[3]
    assert min(folds) > 70  # these sounds differ in plain ways
