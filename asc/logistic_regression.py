"""The reference that a network must beat: python -m asc.logistic_regression data=dcase data.root=DIR [data.cv=5].

Logistic regression on what a clip's bands are like on average, whatever its level: of log gammatone energies without
the clip's mean, the mean, the standard deviation and that of the difference between frames.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from asc.cli import exit_on_input_error, silence_libraries
from asc.data import SceneData
from asc.errors import InputError
from asc.frontend import Spectrogram

BANDS, STRENGTH = 40, 0.03  # inverse of the L2 penalty, as scikit-learn counts it


def band_statistics(features: Tensor) -> Tensor:
    """(clips, 3 n_bins) of features (clips, 1, n_bins, frames)."""
    x = features.float().squeeze(1)
    return torch.cat([x.mean(-1), x.std(-1), x.diff().std(-1)], 1)


def accuracy(data: SceneData, frontend: Spectrogram, settings: dict) -> float:
    """Macro-average accuracy on the test clips of a regression fitted to the training clips."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise InputError('the reference needs scikit-learn: pip install -e ".[test]"') from error
    data.setup()
    path, cpu = data.cache_path(settings), torch.device("cpu")
    data.build_cache(path, frontend, cpu)
    data.load_cache(path, cpu)
    (x, y), (test_x, test_y) = (
        (torch.cat([band_statistics(batch) for batch, _ in loader]).numpy(), torch.cat([y for _, y in loader]).numpy())
        for loader in (data.loader("train"), data.loader("test"))
    )
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=5000)).fit(x, y)
    return balanced_accuracy_score(test_y, regression.predict(test_x))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m asc.logistic_regression", description=__doc__.partition("\n")[0])
    parser.add_argument("setting", nargs="*", help="of train.py, such as data=dcase data.root=DIR data.cv=5 seed=1")
    words = parser.parse_args(argv).setting
    silence_libraries()
    with exit_on_input_error():
        conf = Path(__file__).parents[1] / "conf"
        with initialize_config_dir(str(conf), version_base="1.3"):
            cfg = compose("train", words)
        settings: dict = {"n_bins": BANDS, "normalize": "clip"}
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
