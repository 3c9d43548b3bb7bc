"""Logistic regression baseline: python -m asc.logistic_regression data=dcase data.root=DIR [data.cv=5].

The features are statistics of each band that do not depend on the recording level: mean, standard deviation and
standard deviation of the difference between frames, of log gammatone magnitudes minus the clip's level.
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import mean, stdev

import torch
from hydra.utils import instantiate
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from asc.cli import exit_on_input_error, silence_libraries
from asc.settings import compose_settings

with exit_on_input_error():  # torchaudio may fail to load
    from asc.data import SceneData
    from asc.frontend import Spectrogram

N_BINS, C = 40, 0.03  # C: inverse L2 strength in scikit-learn


def band_statistics(features: Tensor) -> Tensor:
    """Band statistics (clips, 3 * n_bins) of features (clips, 1, n_bins, frames)."""
    x = features.float().squeeze(1)
    return torch.cat([x.mean(-1), x.std(-1), x.diff().std(-1)], 1)


def accuracy(data: SceneData, frontend: Spectrogram, settings: dict) -> float:
    """Macro-average accuracy on the test clips after fitting to the training clips."""
    data.setup()
    data.cache_features(settings, frontend, torch.device("cpu"))
    (x, y), (test_x, test_y) = (
        (torch.cat([band_statistics(batch) for batch, _ in loader]).numpy(), torch.cat([y for _, y in loader]).numpy())
        for loader in (data.loader("train"), data.loader("test"))
    )
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=5000))
    return balanced_accuracy_score(test_y, regression.fit(x, y).predict(test_x))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.logistic_regression", description=__doc__.partition("\n")[0])
    parser.add_argument("setting", nargs="*", help="setting of train.py: data=dcase data.root=DIR data.cv=5 seed=1")
    overrides = parser.parse_args(argv).setting
    silence_libraries()
    with exit_on_input_error():
        cfg = compose_settings("train", overrides)
        settings: dict = {"n_bins": N_BINS, "normalize": "level"}
        results = []
        for fold in range(1, cfg.data.cv + 1) if cfg.data.cv else [cfg.data.fold]:
            data = instantiate(cfg.data, fold=fold, val_fraction=0.0)
            data.prepare_data()
            frontend = Spectrogram(cfg.data.sample_rate, **settings)
            results.append(100 * accuracy(data, frontend, {"reference": settings}))
            print(f"fold {fold}  {results[-1]:.1f} %", flush=True)
        spread = f" +- {stdev(results):.1f}" if len(results) > 1 else ""
        print(f"macro-average accuracy of logistic regression  {mean(results):.1f}{spread} %")


if __name__ == "__main__":
    main(sys.argv[1:])
