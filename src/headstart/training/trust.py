"""Fit what is said besides an answer: temperature, sets, "not sure", novelty; and fold it in.

The temperature divides the head's kernel and bias, so that graph, Keras model and exports hold
calibrated probabilities without knowing of it; no decision changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Sample
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.novelty import (
    NEIGHBOURS,
    fit_limit,
    measure_distances,
    normalise_rows,
)
from headstart.evaluation.trust import Trust, fit_trust
from headstart.training.probe import Probe, softmax
from headstart.training.tuning import Tuning

Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.intp]

# Fewer photos that were held out say nothing about thresholds.
FEWEST_HELD_OUT = 20


@dataclass(frozen=True)
class References:
    """Training photos that new ones are compared with.

    Attributes:
        rows: ``(reference,)`` their numbers among the training photos.
        features: ``(reference, feature)`` float16, of length 1.
    """

    rows: Numbers
    features: npt.NDArray[np.float16]


@dataclass(frozen=True)
class HeldOut:
    """Outputs of photos by heads that had not seen them.

    Attributes:
        logits: ``(photo, class)``.
        labels: ``(photo,)`` class numbers.
        groups: ``(photo,)`` what belongs together.
    """

    logits: Floats
    labels: Numbers
    groups: npt.NDArray[np.str_]


def collect_held_out(
    probe: Probe, tuning: Tuning | None, labels: Numbers, groups: npt.NDArray[np.str_]
) -> HeldOut:
    """What was held out from the head, or from the tuned network where that is the result.

    Args:
        probe: With the logits of its cross-validation.
        tuning: Of fine-tuning; a share of 0 means that the probe was kept.
        labels: ``(photo,)`` of the training photos, then of the validation photos.
        groups: Likewise.
    """
    if tuning is not None and tuning.share:
        if tuning.held_out is None:
            return HeldOut(np.empty((0, len(probe.bias))), labels[:0], groups[:0])
        rows, logits = tuning.held_out
        return HeldOut(logits, labels[rows], groups[rows])
    logits = probe.held_out
    # A photo that is the only group of its class was in all training rows.
    rows = np.flatnonzero(np.isfinite(logits).all(1)) if len(logits) else labels[:0]
    return HeldOut(logits[rows], labels[rows], groups[rows])


def judge_held_out(found: HeldOut) -> Trust | None:
    """Temperature and thresholds; None where too few photos were held out."""
    if len(found.labels) < FEWEST_HELD_OUT:
        return None
    temperature = fit_temperature(found.logits, found.labels, found.groups)
    probabilities = softmax(found.logits.astype(np.float64) / temperature)
    return fit_trust(probabilities, found.labels, found.groups, temperature)


def fold_temperature(
    probe: Probe, tuning: Tuning | None, temperature: float
) -> tuple[Probe, Tuning | None]:
    """Heads whose logits are divided by the temperature that was fitted for the result."""
    divisor = np.float32(temperature)
    if tuning is not None and tuning.share:
        return probe, replace(tuning, kernel=tuning.kernel / divisor, bias=tuning.bias / divisor)
    return replace(probe, kernel=probe.kernel / divisor, bias=probe.bias / divisor), tuning


def learn_novelty(
    trust: Trust, rows: Numbers, features: Floats, groups: npt.NDArray[np.str_]
) -> tuple[Trust, References]:
    """The limit from the references themselves, each measured against those of other groups.

    Args:
        trust: Without a limit.
        rows: ``(reference,)`` numbers of the training photos.
        features: ``(reference, feature)`` as the bundle's network gives them: where the backbone
            was tuned, features of before would be of another space.
        groups: ``(reference,)`` what belongs together.
    """
    kept = normalise_rows(features).astype(np.float16)
    neighbours = min(NEIGHBOURS, max(1, len(set(groups.tolist())) - 1))
    names = groups.tolist()
    distances = measure_distances(kept, kept, neighbours=neighbours, groups=(names, names))
    fitted = replace(trust, novelty_limit=fit_limit(distances), neighbours=neighbours)
    return fitted, References(rows, kept)


def list_labels(samples: tuple[Sample, ...], class_names: tuple[str, ...]) -> Numbers:
    """``(sample,)`` class numbers."""
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number[sample.label] for sample in samples], np.intp)
