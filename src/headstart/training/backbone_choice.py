"""Which backbone suits the photos: those that are ready, by a probe on a part of the photos.

No score that looks at features alone beats trying (Sorkhei et al. 2025,
https://arxiv.org/abs/2503.18528), and on few photos trying alone misleads: the accuracy on ImageNet
is the better guide between networks that a probe cannot tell apart (Renggli et al. 2022,
https://arxiv.org/abs/2010.06402). Hence both: what is likely worse is left out, and the best on
ImageNet of what remains is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.budget import Budget, BudgetError, format_duration
from headstart.data.scan import Manifest, Sample
from headstart.data.split import check_classes, list_folds
from headstart.errors import BackboneError, HeadstartError
from headstart.evaluation.intervals import Estimate, compare_hits, wilson
from headstart.features.extract import extract_manifest
from headstart.features.pace import recall_pace
from headstart.models.backbones import BACKBONES, BackboneSpec
from headstart.models.loaders import load_prefix
from headstart.training.once import fit_probe_once
from headstart.training.plan import MARGIN, shuffle

# Photos that every candidate computes: the interval of an accuracy of 0.9 is then 6 points wide.
MOST_COMPARED = 400

# A candidate is left out where the best one's lead is as likely as this.
_LIKELY = 0.8

# Comparing may take this share of the budget.
_SHARE = 0.25

_FOLDS = 5


@dataclass(frozen=True)
class Candidate:
    """One network and what a probe on it reaches.

    Attributes:
        backbone: Its name.
        accuracy: Cross-validated, with interval; None where it was not tried.
        milliseconds: Per photo of a pass, decoding included.
        megabytes: Of its weights.
        top1: On ImageNet.
        says: Why it was chosen or not.
    """

    backbone: str
    accuracy: Estimate | None
    milliseconds: float | None
    megabytes: float
    top1: float | None
    says: str
    right: npt.NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        del plain["right"]
        return plain


@dataclass(frozen=True)
class BackboneChoice:
    """Candidates in the order in which they were tried, and the chosen one.

    Attributes:
        chosen: Its name.
        photos: Number of photos that they were compared on.
        candidates: All that are ready.
    """

    chosen: str
    photos: int
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [candidate.to_json() for candidate in self.candidates]
        return {"chosen": self.chosen, "photos": self.photos, "candidates": rows}


def choose_backbone(
    manifest: Manifest,
    *,
    seed: int,
    runtime: str,
    budget: Budget | None = None,
    names: Sequence[str] | None = None,
) -> BackboneChoice:
    """Compare the backbones that are ready on this machine, the cheapest first.

    Args:
        manifest: Labelled photos; those of a test side are not looked at.
        seed: Of the part of the photos, and the folds.
        runtime: What computes.
        budget: A network whose pass over all photos does not fit is not chosen, and comparing ends
            after a quarter of it.
        names: The candidates; by default all of the catalogue that are ready.

    Raises:
        BackboneError: None is ready.
        BudgetError: None fits into a budget that was asked for.
    """
    specs = [BACKBONES[name] for name in names] if names else list(BACKBONES.values())
    specs = sorted((s for s in specs if s.is_ready), key=lambda spec: spec.multiply_adds)
    if not specs:
        raise BackboneError(
            "No backbone is ready on this machine; see headstart backbones for what to install."
        )
    known = [sample for sample in manifest.samples if sample.side != "test"]
    part = Manifest(shuffle(Manifest(tuple(known)), seed).samples[:MOST_COMPARED])
    check_classes(part)
    tried: list[Candidate] = []
    for spec in specs:
        is_late = budget is not None and budget.spent > _SHARE * budget.seconds
        if tried and is_late:
            tried.append(_leave(spec, "not tried: comparing has taken a quarter of the budget"))
            continue
        tried.append(_try(spec, part, len(manifest.samples), seed, runtime, budget))
    return _decide(tried, len(part.samples), budget)


def _leave(spec: BackboneSpec, says: str) -> Candidate:
    size = spec.parameters * 4 / 1e6
    return Candidate(spec.name, None, None, size, spec.imagenet_top1, says)


def _try(
    spec: BackboneSpec, part: Manifest, total: int, seed: int, runtime: str, budget: Budget | None
) -> Candidate:
    try:
        prefix = load_prefix(spec.name)
        features = extract_manifest(prefix, part, runtime=runtime)
    except HeadstartError as error:
        return _leave(spec, f"failed: {error}")
    pace = features.pace or recall_pace(prefix, runtime)
    rows = features.array.astype(np.float32)
    right = _cross_validate(rows, features.samples, seed)
    says = ""
    left = max(0, total - len(features.samples))
    if budget is not None and pace is not None and MARGIN * left * pace > budget.left:
        says = (
            f"does not fit: all photos would take {format_duration(left * pace)}, "
            f"{format_duration(max(0.0, budget.left))} are left"
        )
    return Candidate(
        spec.name,
        wilson(int(right.sum()), len(right)),
        None if pace is None else 1000 * pace,
        spec.parameters * 4 / 1e6,
        spec.imagenet_top1,
        says,
        right,
    )


def _cross_validate(
    rows: npt.NDArray[np.float32], samples: Sequence[Sample], seed: int
) -> npt.NDArray[np.bool_]:
    """``(sample,)`` whether a probe that had not seen it was right."""
    names = sorted({sample.label for sample in samples})
    labels = np.array([names.index(sample.label) for sample in samples], np.intp)
    # Near duplicates are the same for all candidates, and favour none.
    groups = [sample.group or sample.digest for sample in samples]
    pairs = set(zip(labels.tolist(), groups, strict=True))
    several = [count for count in Counter(label for label, _ in pairs).values() if count > 1]
    folds = list(list_folds(labels, groups, min([_FOLDS, *several]), seed))
    held_out = fit_probe_once(rows, labels, len(names), folds).held_out
    answers: npt.NDArray[np.bool_] = np.nan_to_num(held_out, nan=-np.inf).argmax(1) == labels
    return answers


def _decide(tried: Sequence[Candidate], photos: int, budget: Budget | None) -> BackboneChoice:
    fitting = [c for c in tried if c.right is not None and not c.says]
    if not fitting and budget is not None and budget.is_strict:
        raise BudgetError(
            f"No backbone fits into {format_duration(budget.seconds)}: "
            + "; ".join(f"{c.backbone} {c.says}" for c in tried)
        )
    fitting = fitting or [c for c in tried if c.right is not None][:1]
    if not fitting:
        raise BackboneError("No backbone could be tried: " + "; ".join(c.says for c in tried))
    best = max(fitting, key=_mean)
    as_good = [c for c in fitting if c is best or _lead(best, c) < _LIKELY]
    chosen = max(as_good, key=lambda c: (c.top1 or 0.0, _mean(c)))

    def explain(candidate: Candidate) -> str:
        if candidate is chosen:
            return "chosen" if chosen is best else "chosen: as good here, better on ImageNet"
        if candidate.says:
            return candidate.says
        if candidate in as_good:
            return "as good here, not better on ImageNet"
        return "likely worse here"

    rows = tuple(
        Candidate(**{**vars(candidate), "says": explain(candidate)}) for candidate in tried
    )
    return BackboneChoice(chosen.backbone, photos, rows)


def _mean(candidate: Candidate) -> float:
    return float(candidate.right.mean()) if candidate.right is not None else 0.0


def _lead(best: Candidate, other: Candidate) -> float:
    """Probability that the best one's lead is real."""
    if best.right is None or other.right is None or len(best.right) != len(other.right):
        return 1.0
    return compare_hits(best.right, other.right).probability
