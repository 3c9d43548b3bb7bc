"""Two settings compared on the same splits, which tells more than their means do: their clips are the same."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, stdev

from scipy.stats import t

from asc.errors import InputError
from asc.report.runs import Run


def by_split(runs: Iterable[Run]) -> dict[tuple, float]:
    """Macro-average accuracy in % for each dataset, fold and seed; the mean where there are several runs of one."""
    accuracies: dict[tuple, list[float]] = defaultdict(list)
    for run in runs:
        accuracies[run.data, *run.split].append(100 * run.figures["macro_accuracy"])
    return {split: mean(values) for split, values in accuracies.items()}


def compare(first: Iterable[Run], second: Iterable[Run]) -> str:
    """How much more accurate the second runs are than the first on the same data, folds and seeds.

    The interval is Student's for the mean of paired differences. Folds share training clips, so it is somewhat narrow.

    Raises:
        InputError: they have no split in common.
    """
    before, after = by_split(first), by_split(second)
    common = sorted(before.keys() & after.keys(), key=str)
    if not common:
        raise InputError("the runs to compare share no data, fold and seed: run both settings on the same splits")
    differences = [after[split] - before[split] for split in common]
    left = len(before) + len(after) - 2 * len(common)
    lines = [
        f"macro-average accuracy  {mean(before[split] for split in common):6.1f} %",
        f"                     to {mean(after[split] for split in common):6.1f} %",
        f"difference              {mean(differences):+6.1f} points over {len(common)} pairs of the same fold and seed",
    ]
    if len(differences) > 1:
        margin = t.ppf(0.975, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
        lines.append(f"95 % interval           {mean(differences) - margin:+6.1f} to {mean(differences) + margin:+.1f}")
    if left:
        lines.append(f"left out                {left} without a partner")
    return "\n".join(lines)
