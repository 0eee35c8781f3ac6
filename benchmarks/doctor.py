"""The photo doctor: are planted wrong labels found, and what is correcting them worth?

    HEADSTART_TEST_PHOTOS=... python benchmarks/doctor.py labels [--draws 5]
    HEADSTART_TEST_PHOTOS=... python benchmarks/doctor.py speed

Labels of the training photos of clothing are changed at random, to any other class. The area under
the ROC curve is that of the suspicion of planted against other photos; precision and recall are
those of the flags, counting only planted ones as right, although the photos have wrong labels of
their own: with none planted, the flags that remain are those. Accuracy is measured on the test
photos, whose labels are as they were.

``speed`` examines 5,000 photos of all sets and scikit-learn's digits, 33 classes: first with the
features of all photos in the cache, then as after a training, which has already compared those that
may be copies, then once more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from out_of_fold import Photos
from sklearn.metrics import roc_auc_score

import headstart
from headstart.cli.demo import write_digits
from headstart.data.split import list_folds
from headstart.evaluation.label_errors import find_label_errors
from headstart.training.examine import hold_out_probabilities
from headstart.training.probe import fit_probe

SHARES = (0.0, 0.02, 0.05, 0.1)


def measure(photos: Photos, test: Photos, share: float, seed: int) -> dict[str, Any]:
    """One draw."""
    rng, count = np.random.default_rng(seed), len(photos.labels)
    planted = rng.choice(count, round(share * count), replace=False)
    labels = photos.labels.copy()
    labels[planted] = (labels[planted] + rng.integers(1, len(photos.names), len(planted))) % len(
        photos.names
    )
    start = time.perf_counter()
    odds = hold_out_probabilities(photos.features, labels, photos.groups, len(photos.names), seed)
    assert odds is not None
    found = find_label_errors(odds, labels)
    seconds = time.perf_counter() - start
    is_planted = np.isin(np.arange(count), planted)
    fixed = np.where(found.flagged, found.suggestions, labels)
    first = np.argsort(-found.suspicion)[: max(1, len(planted))]
    return {
        "AUROC": float(roc_auc_score(is_planted, found.suspicion)) if share else None,
        "flags": int(found.flagged.sum()),
        "precision": float(is_planted[found.flagged].mean()) if share else None,
        "recall": float(found.flagged[is_planted].mean()) if share else None,
        "precision at k": float(is_planted[first].mean()) if share else None,
        "suggested the truth": float(
            (found.suggestions == photos.labels)[is_planted & found.flagged].mean()
        )
        if share
        else None,
        "accuracy, planted": measure_accuracy(photos, labels, test, seed),
        "accuracy, corrected": measure_accuracy(photos, fixed, test, seed),
        "seconds": seconds,
    }


def measure_accuracy(photos: Photos, labels: Any, test: Photos, seed: int) -> float:
    """On the test photos, after training on these labels."""
    folds = list_folds(labels, photos.groups, 5, seed)
    probe = fit_probe(photos.features, labels, len(photos.names), folds)
    return float((probe.predict_proba(test.features).argmax(1) == test.labels).mean())


def measure_speed(folder: Path, count: int = 5000) -> list[dict[str, Any]]:
    """Seconds of `headstart.examine`, its features cached; and again."""
    root, photos = photo_sets.data_root(), folder / "photos"
    for name in ("clothing", "ants-bees", "cifar"):
        for path in sorted(root.glob(f"{name}/*/*/*")):
            link(
                path,
                photos / f"{name} {path.parent.name}" / f"{path.parent.parent.name}-{path.name}",
            )
    for path in sorted((root / "imagenet-sample").iterdir()):
        link(path, photos / "imagenet" / path.name)
    for path in sorted(write_digits(folder / "digits").glob("*/*")):
        link(path, photos / path.parent.name / path.name)
    every = sorted(photos.glob("*/*"))
    for path in np.random.default_rng(0).permutation(every)[count:]:
        path.unlink()
    headstart.extract_features("efficientnet-lite0", photos)
    rows = []
    for turn in ("features in the cache", "and compared by a training", "again"):
        if turn == "and compared by a training":
            shutil.rmtree(os.environ["HEADSTART_CACHE"])
            headstart.ImageClassifier().fit(photos)
        start = time.perf_counter()
        found = headstart.examine(photos)
        rows.append(
            {
                "row": turn,
                "photos": len(found.samples),
                "classes": len({sample.label for sample in found.samples}),
                "findings": len(found.findings),
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def link(path: Path, target: Path) -> None:
    """A photo under another name; its bytes are not copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(path.resolve())


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("what", choices=("labels", "speed"))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    if options.what == "speed":
        with tempfile.TemporaryDirectory() as folder:
            save_rows("doctor_speed", measure_speed(Path(folder)), options)
        return
    folder = photo_sets.data_root() / "clothing"
    photos, test = Photos(folder / "train"), Photos(folder / "test")
    rows = []
    for share in SHARES:
        draws = [measure(photos, test, share, seed) for seed in range(options.draws)]
        means = {
            name: None if draws[0][name] is None else float(np.mean([d[name] for d in draws]))
            for name in draws[0]
        }
        rows.append({"planted": share, **means, "draws": options.draws})
    save_rows("doctor", rows, options)


if __name__ == "__main__":
    main()
