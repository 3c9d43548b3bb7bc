"""From a teacher's embeddings to the targets of its student."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asc.errors import InputError

PENALTIES = np.logspace(-2, 1, 7)  # C, the inverse of the L2 penalty, among which cross-validation chooses
MAX_FOLDS = 5


@dataclass(frozen=True)
class Targets:
    """What a classifier on a teacher's embeddings predicts.

    Attributes:
        labelled: out-of-fold probabilities (clips, n_classes) of the labelled clips: none was predicted by a classifier
            that was fitted to its location.
        unlabelled: probabilities (clips, n_classes) of the unlabelled clips, by a classifier fitted to all labels.
        accuracy: macro-average accuracy of the out-of-fold probabilities.
        penalty: the chosen C of scikit-learn's logistic regression.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    accuracy: float
    penalty: float


def teach(
    labelled: np.ndarray, classes: np.ndarray, locations: Sequence[str], unlabelled: np.ndarray, n_classes: int
) -> Targets:
    """Fit a class-balanced logistic regression, whose penalty has the least log loss in cross-validation by location.

    Args:
        labelled: embeddings (clips, width) of the labelled clips.
        classes: class index (clips,) of each.
        locations: location of each; cross-validation never splits one.
        unlabelled: embeddings (clips, width) of the unlabelled clips.
        n_classes: number of classes; those without a clip get the probability 0.

    Raises:
        InputError: all clips of a class are from one location.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, log_loss
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    places = Counter(label for label, _ in set(zip(classes.tolist(), locations, strict=True)))
    folds = min(MAX_FOLDS, *places.values())
    if folds < 2:
        raise InputError("a teacher needs clips of two locations in each class: add recordings, or omit teacher=")
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    found = []
    for penalty in PENALTIES:
        regression = LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000)
        probabilities = cross_val_predict(
            regression, labelled, classes, groups=locations, cv=splits, method="predict_proba"
        )
        found.append((log_loss(classes, probabilities), penalty, probabilities))
    _, penalty, held_out = min(found, key=lambda entry: entry[0])
    regression = LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000).fit(labelled, classes)
    predicted = regression.predict_proba(unlabelled) if len(unlabelled) else np.empty((0, held_out.shape[1]))
    labelled_targets, unlabelled_targets = (np.zeros((len(part), n_classes)) for part in (held_out, predicted))
    labelled_targets[:, regression.classes_] = held_out
    unlabelled_targets[:, regression.classes_] = predicted
    accuracy = balanced_accuracy_score(classes, labelled_targets.argmax(1))
    return Targets(labelled_targets, unlabelled_targets, accuracy, penalty)
