"""Which unlabelled photos are most worth a label: unsure answers, unlike one another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headstart.errors import require_package

Floats = npt.NDArray[np.floating]

# So many times the photos that are wanted are clustered: the least sure of all.
CANDIDATES_PER_PHOTO = 10


def measure_margins(probabilities: Floats) -> Floats:
    """``(sample,)`` how far the second class is behind the first: 0 could not be less sure.

    >>> measure_margins(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])).round(1).tolist()
    [0.5, 0.0]
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    ordered = np.partition(probabilities, -2, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def select_photos(
    margins: Floats, features: Floats, count: int, seed: int = 0
) -> npt.NDArray[np.intp]:
    """Rows of photos to label, those of the least sure answers first.

    The least sure ones are divided into as many clusters as photos are wanted, unsure photos
    counting more, and of each cluster the photo nearest to its mean is taken (Zhdanov 2019,
    https://arxiv.org/abs/1901.05954). benchmarks/suggest.py compares it with others.

    Args:
        margins: ``(sample,)`` see `measure_margins`.
        features: ``(sample, feature)`` of length 1.
        count: How many are wanted; all rows where there are not more.
        seed: Of the clusters.

    Raises:
        MissingPackageError: scikit-learn is not installed.

    >>> features = np.repeat(np.eye(2), 10, axis=0)
    >>> rows = select_photos(np.arange(20) / 20, features, 2)
    >>> sorted(row // 10 for row in rows.tolist())  # one of each kind
    [0, 1]
    """
    order = np.argsort(margins, kind="stable")
    if len(order) <= count:
        return order
    require_package("sklearn", purpose="choosing photos that differ")
    from sklearn.cluster import KMeans

    near = order[: CANDIDATES_PER_PHOTO * count]
    # Fewer clusters where photos are equal.
    kinds = min(count, len(np.unique(features[near], axis=0)))
    found = KMeans(kinds, n_init=1, random_state=seed).fit(
        features[near], sample_weight=1.001 - margins[near]
    )
    distances = ((features[near] - found.cluster_centers_[found.labels_]) ** 2).sum(1)
    chosen = [
        members[distances[members].argmin()]
        for members in (np.flatnonzero(found.labels_ == number) for number in range(kinds))
        if len(members)
    ]
    rest = [row for row in range(len(near)) if row not in set(chosen)][: count - len(chosen)]
    return np.asarray(near[np.sort([*chosen, *rest])], np.intp)
