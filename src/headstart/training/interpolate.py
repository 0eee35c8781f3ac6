"""Between the probe and the tuned network: how far to go, and whether at all.

Weights on the straight line between the start and the end of fine-tuning are often better than
either (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903). Which point is best is
read from photos held out. The measure is the log loss after the best temperature: it is smoother
than accuracy, and does not reward a network for being less sure of itself.

Networks that were tuned from one pretrained network lie close enough that the mean of their weights
is a network as well, and often a better one (model soups, Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482): what was trained to choose with is not thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.intervals import compare_hits
from headstart.training.objective import Targets

Floats = npt.NDArray[np.floating]

# Shares of the way; 0 is the probe. The network is only changed where that is likely (see below)
# to be better.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LIKELY = 0.8

_RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """What fine-tuning changed on photos held out.

    Attributes:
        photos: How many.
        probe: Accuracy of the probe on them; of other tasks the score of
            `headstart.training.objective`.
        tuned: Likewise, of the chosen interpolation.
        low: Of the difference, paired 95 % interval.
        high: Likewise.
        probability: That the loss is lower than the probe's, by the same resamples.
        measure: What the score is called; empty for accuracy.
    """

    photos: int
    probe: float
    tuned: float
    low: float
    high: float
    probability: float
    measure: str = ""

    def __str__(self) -> str:
        points = 100 * (self.tuned - self.probe)
        return (
            f"{points:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}] on "
            f"{self.photos} photos held out ({self.measure}{': ' if self.measure else ''}"
            f"{self.probe:.1%} → {self.tuned:.1%})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Blend:
    """The mean of the starts and of the ends of several runs.

    >>> blend = Blend()
    >>> blend.add([np.zeros(1)], [np.ones(1)])
    >>> blend.add([np.zeros(1)], [np.full(1, 3.0)])
    >>> blend.mix(0.5)
    [array([1.])]
    """

    def __init__(self) -> None:
        self.count = 0
        self._start: list[Floats] = []
        self._end: list[Floats] = []

    def add(self, start: list[Floats], end: list[Floats]) -> None:
        """The arrays of one more run, as it began and as it ended."""
        self.count += 1
        share = 1 / self.count
        self._start = mix(self._start, start, share) if share < 1 else start
        self._end = mix(self._end, end, share) if share < 1 else end

    def mix(self, share: float) -> list[Floats]:
        """The arrays a share of the way from the mean start to the mean end."""
        return mix(self._start, self._end, share)


def mix(start: list[Floats], end: list[Floats], share: float) -> list[Floats]:
    """Arrays on the straight line between two lists of them; the first at 0, the second at 1."""
    return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]


def choose_share(
    outputs: Sequence[Floats],
    targets: Targets,
    groups: Sequence[str],
    seed: int,
    shares: Sequence[float] = SHARES,
) -> tuple[float, Gain]:
    """The share of the way with the lowest calibrated loss, or 0 when that is not likely lower.

    Shares that score less than the probe (are right less often) are left out.

    Args:
        outputs: ``(sample, name)`` of photos held out, for each of ``shares``.
        targets: What is true of them.
        groups: What belongs together, such as copies of a photo; resampled as wholes.
        seed: Of the bootstrap.
        shares: Ascending; the first is 0.

    >>> from headstart.training.objective import encode_classes
    >>> targets = encode_classes(np.arange(200) % 2, 2)
    >>> truth = targets.values
    >>> rng = np.random.default_rng(0)
    >>> poor, good = truth + rng.normal(size=(200, 2)), 4 * truth + rng.normal(size=(200, 2))
    >>> choose_share([poor, good], targets, list(map(str, range(200))), 0, (0.0, 1.0))[0]
    1.0
    >>> choose_share([good, poor], targets, list(map(str, range(200))), 0, (0.0, 1.0))[0]
    0.0
    """
    losses, scores = zip(*(targets.judge(each) for each in outputs), strict=True)
    # What answers fewer photos rightly is no gain, whatever its probabilities are.
    means = [
        loss.mean() if score.sum() >= scores[0].sum() else np.inf
        for loss, score in zip(losses, scores, strict=True)
    ]
    best = int(np.argmin(means))
    # Where the probe is best, it is said how likely the best of the others is better.
    rival = best or 1 + int(np.argmin(means[1:]))
    gains = _resample(losses[0] - losses[rival], groups, seed)
    probability = float((gains > 0).mean()) if np.isfinite(means[rival]) else 0.0
    if probability < _LIKELY:
        best = 0
    difference = compare_hits(scores[best], scores[0], groups, seed=seed).difference
    return shares[best], Gain(
        len(targets),
        float(scores[0].mean()),
        float(scores[best].mean()),
        difference.low,
        difference.high,
        probability,
        targets.objective.measure,
    )


def _resample(values: Floats, groups: Sequence[str], seed: int) -> Floats:
    """Means of bootstrap resamples of whole groups."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group_of, values)
    counts = np.bincount(group_of)
    rng = np.random.default_rng([seed, 5])
    drawn = rng.integers(len(sums), size=(_RESAMPLES, len(sums)))
    means: Floats = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def is_as_good(best: Floats, other: Floats) -> bool:
    """Whether losses of the same photos are higher by no more than a standard error on average.

    >>> best, noise = np.ones(100), np.tile([-1.0, 1.0], 50)
    >>> is_as_good(best, best + noise), is_as_good(best, best + 0.1 * noise + 0.1)
    (True, False)
    """
    worse = other - best
    return bool(worse.mean() <= worse.std(ddof=1) / math.sqrt(len(worse)))


def choose_rate(losses: dict[float, Floats]) -> float:
    """The middle rate, unless another is better by more than a standard error.

    Short runs favour low rates (Wu et al. 2018, https://arxiv.org/abs/1803.02021), and on few
    photos the lowest mean is mostly chance.

    Args:
        losses: ``(sample,)`` of the same photos held out, for each rate.

    >>> noise = np.tile([-1.0, 1.0], 50)
    >>> losses = {1e-4: 0.98 + noise, 5e-4: np.ones(100), 1e-3: 2.0 + noise}
    >>> choose_rate(losses), choose_rate({**losses, 1e-4: 0.8 + noise})
    (0.0005, 0.0001)
    """
    usual = sorted(losses)[(len(losses) - 1) // 2]
    best = min(losses, key=lambda rate: float(losses[rate].mean()))
    is_chance = len(losses[usual]) < 2 or is_as_good(losses[best], losses[usual])
    return usual if is_chance else best
