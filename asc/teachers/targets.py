"""From a teacher's embeddings to the targets of its student."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from asc.errors import InputError

PENALTIES = np.logspace(-2, 1, 7)  # C, the inverse of the L2 penalty, among which cross-validation chooses
MAX_FOLDS = 5


@dataclass(frozen=True)
class Targets:
    """What a classifier on a teacher's embeddings predicts.

    Attributes:
        labelled: out-of-fold probabilities (clips, n_classes) of the labelled clips: none was predicted by a classifier
            that was fitted to its location.
        unlabelled: probabilities (clips, n_classes) of the unlabelled clips, by a classifier fitted to all labels but
            those of the clip's own location.
        accuracy: macro-average accuracy of the out-of-fold probabilities.
        penalty: the chosen C of scikit-learn's logistic regression.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    accuracy: float
    penalty: float


def teach(
    labelled: np.ndarray,
    classes: np.ndarray,
    locations: Sequence[str],
    unlabelled: np.ndarray,
    n_classes: int,
    origins: Sequence[str] = (),
) -> Targets:
    """Fit a class-balanced logistic regression, whose penalty has the least log loss in cross-validation by location.

    Args:
        labelled: embeddings (clips, width) of the labelled clips.
        classes: class index (clips,) of each.
        locations: location of each; cross-validation never splits one.
        unlabelled: embeddings (clips, width) of the unlabelled clips.
        n_classes: number of classes; those without a clip get the probability 0.
        origins: location of each unlabelled clip, where it is one of `locations`, as of a variant of a labelled clip:
            its probabilities are out of fold, too.

    Raises:
        InputError: all clips of a class are from one location.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    places = Counter(label for label, _ in set(zip(classes.tolist(), locations, strict=True)))
    folds = min(MAX_FOLDS, *places.values())
    if folds < 2:
        raise InputError("a teacher needs clips of two locations in each class: add recordings, or omit teacher=")
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labelled, classes, locations))
    labelled, unlabelled = labelled.astype(np.float64), unlabelled.astype(np.float64)

    def predict(penalty: float, fitted: np.ndarray | slice, others: np.ndarray) -> np.ndarray:
        """Probabilities (clips, n_classes) of `others` by a classifier that is fitted to these labelled clips."""
        regression = LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000)
        regression.fit(labelled[fitted], classes[fitted])
        probabilities = np.zeros((len(others), n_classes))
        if len(others):
            probabilities[:, regression.classes_] = regression.predict_proba(others)
        return probabilities

    found = []
    for penalty in tqdm(PENALTIES, "choosing the penalty", leave=False, disable=None):
        held_out = np.zeros((len(labelled), n_classes))
        for fitted, held in splits:
            held_out[held] = predict(penalty, fitted, labelled[held])
        found.append((log_loss(classes, held_out, labels=range(n_classes)), penalty, held_out))
    _, penalty, held_out = min(found, key=lambda entry: entry[0])
    predicted = predict(penalty, slice(None), unlabelled)
    for fitted, held in splits:
        own = np.isin(origins, np.array(locations)[held])
        if own.any():
            predicted[own] = predict(penalty, fitted, unlabelled[own])
    return Targets(held_out, predicted, balanced_accuracy_score(classes, held_out.argmax(1)), penalty)
