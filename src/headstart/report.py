"""The report of a training: one HTML file that a person without training can read."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.bundle import Bundle, load_bundle
from headstart.data.addresses import locate, map_waiting
from headstart.data.scan import Manifest, Sample
from headstart.data.targets import split_labels
from headstart.data.thumbnails import make_heat_layer, try_thumbnail
from headstart.errors import BackboneError, HeadstartError, RunError, require_package
from headstart.evaluation.gallery import Section
from headstart.evaluation.labels_report import LabelsPhoto, render_labels
from headstart.evaluation.learning_curve import LearningCurve
from headstart.evaluation.pages.plots import get_heat_colours
from headstart.evaluation.report import Photo, render_report
from headstart.evaluation.trust import COVERAGE
from headstart.evaluation.values import ValueTrust
from headstart.evaluation.values_report import ValuePhoto, render_values
from headstart.explain import Explainer
from headstart.features.extract import Progress, extract_manifest
from headstart.files import write_bytes
from headstart.models.loaders import load_prefix
from headstart.runs import Answered, Run, check_bundle, load_run, name_bundle
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, read_task
from headstart.training.examine import examine_features
from headstart.training.findings import Examination
from headstart.training.learning import measure_learning_curve
from headstart.training.measure import select_rows

NAME = "report.html"

_LOGGER = logging.getLogger(__name__)

# Pictures are inside the file: a few kilobytes each.
_MOST_MISTAKES, _RIGHT_PER_CLASS, _MOST_RIGHT, _SIDE = 200, 8, 160, 144
_RIGHT_LABELS = 40
# Of each kind of finding; heat maps, by method: occlusion takes seconds for each.
_MOST_FINDINGS = 12
_MOST_EXPLAINED = {"grad-cam": 60, "occlusion": 6}


def write_report(
    path: str | Path,
    output: str | Path | None = None,
    *,
    measure: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a training as one self-contained HTML file; returns its path.

    Args:
        path: A bundle with its run folder beside it, or the run folder.
        output: The file; by default ``report.html`` in the run folder. It is overwritten.
        measure: Whether to measure what more photos would bring and to list what the photo doctor
            would look at, from cached features; both are known of classes only.
        progress: Called with ``(done, all)`` photos, where features are not in the cache any more.

    Raises:
        RunError: There is no record of the training, or the bundle is of another one.
        MissingPackageError: Jinja or Matplotlib is not installed.

    Example::

        headstart.write_report("flowers.headstart")
    """
    require_package("jinja2", "matplotlib", purpose="writing a report")
    run = load_run(Path(path))
    task = read_task(run.record)
    try:
        if task is CLASSIFICATION:
            text = _write_classes(run, _find_bundle(Path(path), run), measure, progress)
        else:
            text = _WRITERS[task.name](run)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.folder} is damaged: {error!r}. Train again to write it.") from error
    gone = sum(not there for there in map_waiting(lambda a: a.path.is_file(), run.answers))
    if gone:
        _LOGGER.warning(
            "%d of %d test photos are not where they were; the report shows no pictures of them.",
            gone,
            len(run.answers),
        )
    target = Path(output) if output is not None else (run.folder or Path()) / NAME
    if target.is_dir():
        raise HeadstartError(f"{target} is a folder. Give a file name with -o.")
    write_bytes(target, text.encode())
    return target


def _write_classes(
    run: Run, bundle: Bundle | None, measure: bool, progress: Progress | None
) -> str:
    curve, sections = _measure(run, progress) if measure else (None, [])
    shown, note = _choose(run.answers)
    heats = _draw_heats(bundle, shown) if bundle is not None else {}
    photos = [_show(answer, heats.get(answer.path, b"")) for answer in shown]
    return render_report(run.name, run.record, photos, note, curve, sections)


def _write_labels(run: Run) -> str:
    answers = [(answer.path, _read_labels(answer)) for answer in run.answers]
    wrong = sorted((a for a in answers if not a[1].is_right), key=lambda a: -a[1].probability)
    right = sorted((a for a in answers if a[1].is_right), key=lambda a: a[1].probability)
    kept = right[:_RIGHT_LABELS]
    every = "All" if len(wrong) <= _MOST_MISTAKES else f"The {_MOST_MISTAKES} most confident of"
    note = (
        f"{every} {len(wrong)} photos with a label too many or too few, and for comparison "
        f"{len(kept)} that were answered rightly with the least confidence."
    )
    shown = [
        replace(photo, picture=try_thumbnail(path, _SIDE))
        for path, photo in (*wrong[:_MOST_MISTAKES], *kept)
    ]
    return render_labels(run.name, run.record, [photo for _, photo in answers], shown, note)


def _read_labels(answer: Answered) -> LabelsPhoto:
    said, has = set(split_labels(answer.answer)), set(split_labels(answer.label))
    right, wrong, missed = (tuple(sorted(part)) for part in (said & has, said - has, has - said))
    return LabelsPhoto(_name(answer), right, wrong, missed, answer.probability)


def _write_values(run: Run) -> str:
    width = ValueTrust.from_json(run.record["trust"]).get_half_width(COVERAGE)
    answers = [(answer.path, _read_value(answer, width)) for answer in run.answers]
    worst = sorted(answers, key=lambda a: -abs(a[1].error))[:_MOST_MISTAKES]
    every = "All" if len(worst) == len(answers) else f"The {len(worst)} that are most off, of"
    note = (
        f"{every} {len(answers)} test photos, the largest error first: among large ones, numbers "
        "that are wrong in the table are frequent."
    )
    shown = [replace(photo, picture=try_thumbnail(path, _SIDE)) for path, photo in worst]
    return render_values(run.name, run.record, [photo for _, photo in answers], shown, note)


def _read_value(answer: Answered, width: float | None) -> ValuePhoto:
    value, truth = float(answer.answer), float(answer.label)
    is_outside = None if width is None else abs(value - truth) > width
    return ValuePhoto(_name(answer), value, truth, answer.group, is_outside)


_WRITERS: dict[str, Callable[[Run], str]] = {
    MULTILABEL.name: _write_labels,
    REGRESSION.name: _write_values,
}


def _find_bundle(path: Path, run: Run) -> Bundle | None:
    """The bundle that the run is the record of; None where it is not beside the run folder."""
    folder = run.folder or Path()
    bundle = path if path.exists() and path != folder else name_bundle(folder)
    if not bundle.exists():
        return None
    found = load_bundle(bundle)
    try:
        check_bundle(found, run)
    except RunError:  # the folder was named, and another bundle lies beside it
        return None
    return found


def _draw_heats(bundle: Bundle, shown: Sequence[Answered]) -> dict[Path, bytes]:
    """What the first mistakes rest on, as layers for their pictures, by path."""
    explainer, colours = Explainer(bundle), get_heat_colours()
    wrong = [answer.path for answer in shown if not answer.is_right]
    first = [path for path in wrong if path.is_file()][: _MOST_EXPLAINED[explainer.method]]
    return {
        found.item: make_heat_layer(found.item, found.heat, colours, found.network_size)
        for found in explainer.explain(first)
        if found.problem is None
    }


def _measure(run: Run, progress: Progress | None) -> tuple[LearningCurve | None, Sequence[Section]]:
    """Nothing where the photos are not in files, or not where they were."""
    names = run.record["class_names"]
    listed = [
        Sample(locate(row["path"]), row["label"], row["digest"], group=row["group"])
        for row in run.split
        if row["label"] in names
    ]
    there = map_waiting(lambda sample: sample.path.is_file(), listed)
    samples = tuple(sample for sample, is_there in zip(listed, there, strict=True) if is_there)
    if len(samples) < len(run.split) / 2 or not samples:
        return None, ()
    require_package("scipy", "threadpoolctl", purpose="the learning curve")
    try:
        prefix = load_prefix(run.record["backbone"]["name"])
    except BackboneError:  # a model that was given as an object; its name finds nothing
        _LOGGER.warning("The report is without what needs features: its backbone has no file.")
        return None, ()
    runtime = run.record["runtime"].split()[0]  # without its version
    found = extract_manifest(prefix, Manifest(samples), runtime=runtime, progress=progress)
    labels = np.array([names.index(sample.label) for sample in found.samples], np.intp)
    groups = [sample.group or sample.digest for sample in found.samples]
    strength, seed = float(run.record["head"]["strength"]), int(run.record["seed"])
    trained = int(run.record["samples"]["train"])
    rows = select_rows(found, found.samples)
    curve = measure_learning_curve(rows, labels, groups, strength, trained, seed)
    findings = tuple(examine_features(found, seed))
    return curve, list(Examination(found.samples, findings, ()).show(_MOST_FINDINGS))


def _choose(answers: Sequence[Answered]) -> tuple[list[Answered], str]:
    """Which photos are shown: mistakes, the most confident first, and the least sure right ones."""
    wrong = sorted((a for a in answers if not a.is_right), key=lambda a: -a.probability)
    right: dict[str, list[Answered]] = defaultdict(list)
    for answer in sorted(answers, key=lambda a: a.probability):
        if answer.is_right and len(right[answer.label]) < _RIGHT_PER_CLASS:
            right[answer.label].append(answer)
    kept = [answer for found in right.values() for answer in found][:_MOST_RIGHT]
    if not wrong:
        note = f"No mistakes; these {len(kept)} photos were answered with the least confidence."
        return kept, note
    shown = wrong[:_MOST_MISTAKES]
    every = "All" if len(shown) == len(wrong) else f"The {len(shown)} most confident of"
    note = (
        f"{every} {len(wrong)} mistakes, and for comparison {len(kept)} photos that were answered "
        "rightly with the least confidence. Most confident mistakes come first: among them wrong "
        "labels are frequent."
    )
    return [*shown, *kept], note


def _show(answer: Answered, heat: bytes) -> Photo:
    picture = try_thumbnail(answer.path, _SIDE)
    novel = None if answer.novelty is None else answer.novelty > 1
    name = _name(answer)
    return Photo(
        name, answer.label, answer.answer, answer.probability, answer.is_sure, novel, picture, heat
    )


def _name(answer: Answered) -> str:
    return f"{answer.path.parent.name}/{answer.path.name}"
