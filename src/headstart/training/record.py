"""What training gave → the record of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headstart.bundle import WEIGHTS, Bundle
from headstart.data.addresses import locate
from headstart.data.scan import Problem, Sample
from headstart.data.targets import split_labels
from headstart.files import digest_bytes
from headstart.runs import Answered, Run
from headstart.runtimes.environment import describe_environment
from headstart.task import MULTILABEL, REGRESSION, Task
from headstart.training.fit import Training
from headstart.training.measure import Answer

# Of the manifest: what is in files of its own, or in the run's environment.
_ELSEWHERE = ("split", "versions", "decode_version")


def make_run(
    training: Training, bundle: Bundle, seconds: dict[str, float], sources: dict[str, Any]
) -> Run:
    """The record of a training.

    Args:
        training: What it gave.
        bundle: Made of it.
        seconds: By step.
        sources: ``photos``, ``test`` and ``group_by`` as they were given.
    """
    record = {
        **{key: value for key, value in bundle.manifest.items() if key not in _ELSEWHERE},
        "weights": digest_bytes(bundle.members[WEIGHTS]),
        "photos": _name_source(sources["photos"]),
        "test": _name_source(sources["test"]),
        "group_by": sources["group_by"],
        "problems": _list_problems(training.problems),
        "flags": _list_problems(training.flags),
        "warnings": list(training.warnings),
        "train_counts": _count(training.split.train, training.task),
        "seconds": seconds,
        "environment": describe_environment(),
    }
    if training.tuning is not None:
        history = [dict(epoch) for epoch in training.tuning.history]  # with the seconds
        record["fine_tune"] = {**record["fine_tune"], "history": history}
    groups = training.split.groups
    answers = tuple(_describe(answer, groups[answer.sample.digest]) for answer in training.answers)
    return Run(record, answers, tuple(_list_sides(training)))


def _name_source(source: Any) -> str | None:
    """Where the photos were, if they were in a folder or a table."""
    return str(locate(source).resolve()) if isinstance(source, (str, Path)) else None


def _list_problems(problems: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"path": str(problem.path), "reason": problem.reason} for problem in problems]


def _count(samples: Iterable[Sample], task: Task) -> dict[str, int]:
    """Photos by class or label; of numbers there is nothing to count."""
    if task is REGRESSION:
        return {}
    labels = (sample.label for sample in samples)
    names = (split_labels(label) if task is MULTILABEL else (label,) for label in labels)
    return dict(sorted(Counter(name for each in names for name in each).items()))


def _describe(answer: Answer, group: str) -> Answered:
    sample = answer.sample
    return Answered(
        _locate(sample),
        sample.digest,
        group,
        sample.label,
        answer.answer,
        answer.probability,
        answer.truth_probability,
        answer.is_sure,
        answer.novelty,
    )


def _list_sides(training: Training) -> Iterable[dict[str, str]]:
    split = training.split
    for side in ("train", "validation", "test"):
        for sample in getattr(split, side):
            yield {
                "path": str(_locate(sample)),
                "label": sample.label,
                "split": side,
                "group": split.groups[sample.digest],
                "digest": sample.digest,
            }


def _locate(sample: Sample) -> Path:
    return sample.path.absolute() if sample.content is None else sample.path
