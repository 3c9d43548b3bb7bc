"""Confidence intervals by bootstrap over locations.

Clips of a location resemble each other, so that resampling clips would give intervals that are too narrow.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


class LocationBootstrap:
    """Draws as many locations as there are, with replacement, RESAMPLES times; percentiles give the interval.

    Args:
        locations: of each clip.
        seed: of the draws.
    """

    def __init__(self, locations: Sequence[str], seed: int = 0):
        names, self.index = np.unique(np.asarray(locations), return_inverse=True)  # location of each clip
        self.count = len(names)
        draws = np.random.default_rng(seed).multinomial(self.count, np.full(self.count, 1 / self.count), RESAMPLES)
        self.draws = draws.astype(float)  # (resamples, locations): how often each location is drawn

    def mean(self, values: np.ndarray, clips: np.ndarray) -> np.ndarray:
        """Mean of `values` over the drawn clips in each resample.

        Args:
            values: of each clip (clips,).
            clips: groups to average over (clips, n_groups), a clip's weight in each; 0 leaves it out.

        Returns:
            (resamples, n_groups); nan where no clip of the group is drawn.
        """
        sums, counts = (np.zeros((self.count, clips.shape[1])) for _ in range(2))  # of each location
        np.add.at(sums, self.index, values[:, None] * clips)
        np.add.at(counts, self.index, clips)
        with np.errstate(invalid="ignore"):
            return (self.draws @ sums) / (self.draws @ counts)

    def interval(self, statistic: np.ndarray) -> list[float] | None:
        """The interval of a statistic (resamples,); None where a single location tells nothing of others."""
        values = statistic[~np.isnan(statistic)]
        if self.count < 2 or not len(values):
            return None
        return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
