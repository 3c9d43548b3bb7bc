"""Compare two settings split by split: on the same clips, paired differences vary less than the means."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

from scipy.stats import ttest_rel

from asc.errors import InputError
from asc.report.runs import Run


def by_split(runs: Iterable[Run]) -> dict[tuple, float]:
    """Macro-average accuracy in % by dataset, fold and seed, averaged over repeated runs."""
    accuracies: dict[tuple, list[float]] = defaultdict(list)
    for run in runs:
        accuracies[run.data, *run.split].append(100 * run.metrics["macro_accuracy"])
    return {split: mean(values) for split, values in accuracies.items()}


def compare(first: Iterable[Run], second: Iterable[Run]) -> str:
    """Difference in accuracy between the second and the first runs on the same data, folds and seeds.

    The interval is Student's t for the mean paired difference. Folds share training clips, so it is somewhat too
    narrow.

    Raises:
        InputError: no split is in both.
    """
    before, after = by_split(first), by_split(second)
    common = sorted(before.keys() & after.keys(), key=str)
    if not common:
        raise InputError("the runs to compare share no data, fold and seed: run both settings on the same splits")
    old, new = ([accuracies[split] for split in common] for accuracies in (before, after))
    change = mean(new) - mean(old)
    unpaired = len(before) + len(after) - 2 * len(common)
    lines = [
        f"macro-average accuracy  {mean(old):6.1f} %",
        f"                     to {mean(new):6.1f} %",
        f"difference              {change:+6.1f} points over {len(common)} pairs of the same fold and seed",
    ]
    if len(common) > 1:
        interval = ttest_rel(new, old).confidence_interval(0.95)
        lines.append(f"95 % interval           {interval.low:+6.1f} to {interval.high:+.1f}")
    if unpaired:
        lines.append(f"left out                {unpaired} without a partner")
    return "\n".join(lines)
