"""Do calibration, prediction sets, "not sure" and novelty keep their promises on new photos?

    HEADSTART_TEST_PHOTOS=... python benchmarks/trust.py [--splits 200]

The photos of clothing, training and test together, are divided anew 200 times, near duplicates
together: three fifths are trained on, as `headstart train` does (the strength of the head is fixed
to the one that the product chooses on clothing), the rest are new photos. Every figure is a mean
over the splits, its interval the 2.5th and 97.5th percentile of them.

The interval of the accuracy is checked in as many splits of another kind: half of the photos are
what a user has, a fifth of them the test photos, whose interval should hold the accuracy on the
other half. That accuracy is itself measured, on 686 photos: an exact interval would hold it in 93 %
of the splits.

Novelty is measured as the area under the ROC curve of new clothing photos against foreign ones:
far ones (animals, 32 × 32 pictures, a thousand kinds of things, noise), and near ones: a kind of
clothes that the classifier has not been taught, each in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from out_of_fold import Photos
from sklearn.metrics import roc_auc_score

from headstart.data.split import list_folds
from headstart.evaluation.calibration import fit_temperature, measure_calibration
from headstart.evaluation.conformal import predict_sets
from headstart.evaluation.intervals import estimate_share
from headstart.evaluation.novelty import measure_distances, normalise_rows
from headstart.evaluation.trust import fit_trust
from headstart.training.probe import fit_probe, hold_out, softmax

STRENGTH = 0.0316
FAR = {"ants-bees": "ants-bees", "cifar": "cifar/test", "imagenet-sample": "imagenet-sample"}


def judge_split(photos: Photos, seed: int) -> dict[str, float]:
    """The figures of one split."""
    folds = [held for _, held in list_folds(photos.labels, photos.groups, 5, seed)]
    new, train = np.concatenate(folds[:2]), np.concatenate(folds[2:])
    labels, groups = photos.labels, np.array(photos.groups)
    count, x = len(photos.names), photos.features
    inner = list(list_folds(labels[train], groups[train].tolist(), 5, seed))
    logits = hold_out(x[train], labels[train], count, [inner], STRENGTH)[0]
    temperature = fit_temperature(logits, labels[train])
    trust = fit_trust(softmax(logits / temperature), labels[train], groups[train], temperature)
    probe = fit_probe(x[train], labels[train], count, strengths=(STRENGTH,))
    plain = x[new] @ probe.kernel + probe.bias
    odds, truth = softmax(plain / temperature), labels[new]
    found = measure_calibration(odds, truth, seed)
    raw = measure_calibration(softmax(plain), truth, seed)
    figures = {
        "temperature": temperature,
        "calibration error": found.ece,
        "calibration error, without temperature": raw.ece,
        "calibration error, by chance (mean)": found.by_chance,
        "calibration error, debiased": found.debiased,
        "share of splits within chance": float(found.ece <= found.by_chance_high),
        "share of splits within chance, without temperature": float(raw.ece <= raw.by_chance_high),
    }
    rows = np.arange(len(new))
    for level in (0.8, 0.9, 0.95):
        sets = predict_sets(odds, trust.thresholds[level])
        figures[f"coverage of sets, asked {level:g}"] = float(sets[rows, truth].mean())
        figures[f"classes in a set, asked {level:g}"] = float(sets.sum(1).mean())
        by_class = predict_sets(odds, trust.class_thresholds[level])[rows, truth]
        each = [by_class[truth == c].mean() for c in range(count)]
        figures[f"coverage of the class covered least, asked {level:g}"] = float(
            np.min([sets[rows, truth][truth == c].mean() for c in range(count)])
        )
        figures[f"the same, class-wise sets, asked {level:g}"] = float(np.min(each))
    for level in (0.9, 0.95, 0.99):
        limit = trust.abstentions[level].confidence
        sure = odds.max(1) >= (2 if limit is None else limit)
        right = odds.argmax(1) == truth
        figures[f"answered, precision asked {level:g}"] = float(sure.mean())
        if sure.any():
            figures[f"precision of answers, asked {level:g}"] = float(right[sure].mean())
    return figures


def judge_interval(photos: Photos, seed: int) -> dict[str, float]:
    """Whether the interval of a user's test photos holds the accuracy on many other photos."""
    folds = [held for _, held in list_folds(photos.labels, photos.groups, 10, seed)]
    train, test, rest = np.concatenate(folds[:4]), folds[4], np.concatenate(folds[5:])
    count, groups = len(photos.names), np.array(photos.groups)
    probe = fit_probe(photos.features[train], photos.labels[train], count, strengths=(STRENGTH,))
    hits = {
        name: probe.predict_proba(photos.features[side]).argmax(1) == photos.labels[side]
        for name, side in (("test", test), ("rest", rest))
    }
    interval, truth = estimate_share(hits["test"], groups[test]), float(hits["rest"].mean())
    return {
        "accuracy on the test photos of a user": interval.value,
        "accuracy on other photos": truth,
        "width of the 95 % interval of the accuracy": interval.high - interval.low,
        "share of splits whose interval holds it": float(interval.low <= truth <= interval.high),
    }


def judge_novelty(photos: Photos, foreign: dict[str, Any], seed: int) -> dict[str, float]:
    """Areas under the ROC curve, and false alarms, of one split."""
    folds = [held for _, held in list_folds(photos.labels, photos.groups, 5, seed)]
    new, train = np.concatenate(folds[:2]), np.concatenate(folds[2:])
    references, names = normalise_rows(photos.features[train]), np.array(photos.groups)[train]
    owners = (names.tolist(), names.tolist())
    limit = float(np.quantile(measure_distances(references, references, groups=owners), 0.95))
    own = measure_distances(photos.features[new], references)
    figures = {"novelty: false alarms on new photos of clothing": float((own > limit).mean())}
    for name, features in foreign.items():
        far = measure_distances(features, references)
        figures[f"novelty: AUROC against {name} (far)"] = area(own, far)
        figures[f"novelty: found of {name} (far)"] = float((far > limit).mean())
    near = []
    for number in range(len(photos.names)):
        kept = references[photos.labels[train] != number]
        distances = measure_distances(photos.features[new], kept)
        is_other = photos.labels[new] == number
        near.append(area(distances[~is_other], distances[is_other]))
    figures["novelty: AUROC against a kind of clothes not taught (near), mean"] = float(
        np.mean(near)
    )
    figures["novelty: AUROC against a kind of clothes not taught (near), worst"] = float(
        np.min(near)
    )
    return figures


def area(own: Any, other: Any) -> float:
    """Under the ROC curve of distances that should be small and large."""
    truth = np.repeat([0, 1], (len(own), len(other)))
    return float(roc_auc_score(truth, np.concatenate([own, other])))


def read_foreign() -> dict[str, Any]:
    """Features of photos that are no clothes."""
    from headstart.features.extract import extract_features

    found: dict[str, Any] = {
        name: extract_features(
            photo_sets.BACKBONE, photo_sets.list_photos(photo_sets.data_root() / folder)
        ).array
        for name, folder in FAR.items()
    }
    noise = np.random.default_rng(0).integers(0, 256, (100, 224, 224, 3), np.uint8)
    found["noise"] = photo_sets.run_pass(photo_sets.open_session(), noise)
    return found


def summarise(splits: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A row per figure: mean and percentiles over the splits that have it."""
    rows = []
    for name in dict.fromkeys(key for split in splits for key in split):
        values = [split[name] for split in splits if name in split]
        low, high = np.quantile(values, (0.025, 0.975))
        rows.append(
            {
                "figure": name,
                "mean": float(np.mean(values)),
                "2.5 %": float(low),
                "97.5 %": float(high),
                "splits": len(values),
            }
        )
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--splits", type=int, default=200)
    options = parser.parse_args()
    photos, foreign = Photos(photo_sets.data_root() / "clothing"), read_foreign()
    splits = []
    for seed in range(options.splits):
        splits.append(judge_split(photos, seed) | judge_interval(photos, seed))
        if seed < 20:
            splits[-1] |= judge_novelty(photos, foreign, seed)
    save_rows("trust", summarise(splits), options, is_full=options.splits >= 200)


if __name__ == "__main__":
    main()
