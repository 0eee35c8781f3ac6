"""The model card: README.md with the fields that Hugging Face reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.intervals import Estimate
from headstart.evaluation.labels import LabelsEvaluation
from headstart.evaluation.tasks import AnyEvaluation, read_evaluation
from headstart.evaluation.values import ValueEvaluation
from headstart.models.backbones import BACKBONES
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, read_task


def write_card(name: str, manifest: Mapping[str, Any], exports: Sequence[Mapping[str, Any]]) -> str:
    """A model card in Markdown: what it is, how good, its limits, whose weights.

    Args:
        name: Of the classifier.
        manifest: Of its bundle.
        exports: Rows of ``exports.json``.
    """
    found, task = manifest.get("evaluation"), read_task(manifest)
    evaluation = read_evaluation(found, task) if found else None
    backbone = manifest["backbone"]["name"]
    spec = BACKBONES.get(backbone)
    words = _WORDS[task.name]
    lines = [
        "---",
        "library_name: headstart",
        *words.fields,
        *_index(name, words, evaluation),
        "---",
        "",
        f"# {name}",
        "",
        words.purpose.format(
            count=len(manifest["class_names"]), names=", ".join(manifest["class_names"])
        ),
        "",
        "## How good it is",
        "",
        *_describe_quality(evaluation),
        "",
        "## Limits",
        "",
        f"- {words.limit}",
        "- Its figures hold for photos like those it was tested on: other cameras, places and "
        "times can be harder.",
        "- It sees the central square of a photo.",
        "",
        "## How it was made",
        "",
        f"- Backbone: {backbone}"
        + (f" ({spec.licence} licence), pretrained on ImageNet." if spec else "."),
        f"- Recipe: `{json.dumps(manifest['recipe'])}`, seed {manifest['seed']}.",
        f"- Photos: {manifest['samples']['train']:,} for training, "
        f"{manifest['samples']['test']:,} for the test.",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in manifest['versions'].items())}.",
        "",
        *_list_exports(exports),
    ]
    return "\n".join(lines).encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _Words:
    """What is said by task.

    Attributes:
        kind: What Hugging Face calls the task.
        fields: Lines of the card's head; a number of a photo has no pipeline there.
        metrics: Name there and attribute of the evaluation.
        purpose: What it does, with ``count`` and ``names`` of the labels.
        limit: What should be known of every answer.
    """

    kind: str
    fields: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]
    purpose: str
    limit: str


_PIPELINE = "pipeline_tag: image-classification"
_WORDS = {
    CLASSIFICATION.name: _Words(
        "image-classification",
        (_PIPELINE, "tags: [image-classification, transfer-learning]"),
        (("accuracy", "accuracy"),),
        "Tells {count} classes of photos apart: {names}.",
        "It always answers with one of its classes, whatever the photo shows. Low probabilities "
        "and photos unlike the training photos should go to a person.",
    ),
    MULTILABEL.name: _Words(
        "image-classification",
        (_PIPELINE, "tags: [image-classification, multi-label, transfer-learning]"),
        (("mean_average_precision", "mean_average_precision"), ("f1", "macro_f1")),
        "Says which of {count} labels a photo has, several or none: {names}.",
        "Each label is said from its own threshold on, whatever else the photo shows. Photos "
        "unlike the training photos should go to a person.",
    ),
    REGRESSION.name: _Words(
        "image-regression",
        ("tags: [image-regression, transfer-learning]",),
        (("mae", "mae"), ("rmse", "rmse"), ("r2", "r2")),
        "Says a number of a photo, in the unit of its training photos.",
        "It answers with a number whatever the photo shows; numbers beyond those of the training "
        "photos are guesses.",
    ),
}


def _index(name: str, words: _Words, evaluation: AnyEvaluation | None) -> list[str]:
    """The field in which Hugging Face looks for results."""
    if evaluation is None:
        return []
    text = json.dumps(name)
    return [
        "model-index:",
        f"- name: {text}",
        "  results:",
        f"  - task: {{type: {words.kind}}}",
        f"    dataset: {{name: {text}, type: private}}",
        "    metrics:",
        *(
            f"    - {{type: {kind}, value: {getattr(evaluation, key).value:.4f}}}"
            for kind, key in words.metrics
        ),
    ]


def _describe_quality(evaluation: AnyEvaluation | None) -> list[str]:
    if evaluation is None:
        return ["Not known: no photos were set aside for a test."]
    if isinstance(evaluation, LabelsEvaluation):
        return _describe_labels(evaluation)
    if isinstance(evaluation, ValueEvaluation):
        return _describe_values(evaluation)
    share = evaluation.accuracy
    figures = (
        (row.name, row.photos, f"{row.precision:.1%}", f"{row.recall:.1%}", f"{row.f1:.1%}")
        for row in evaluation.per_class
    )
    return [
        f"Accuracy {_share(share)}, on {evaluation.photos:,} photos that were not trained on "
        f"(always answering the largest class: {evaluation.majority:.1%}).",
        "",
        *_list_rows(("class", "photos", "precision", "recall", "F1"), figures),
    ]


def _describe_labels(evaluation: LabelsEvaluation) -> list[str]:
    base = evaluation.baseline
    figures = (
        (
            row.name,
            row.photos,
            *(f"{value:.1%}" for value in (row.precision, row.recall, row.f1)),
            f"{row.average_precision:.1%}",
            f"{row.threshold:.3f}",
        )
        for row in evaluation.per_label
    )
    header = ("label", "photos", "precision", "recall", "F1", "average precision", "said from")
    return [
        f"On {evaluation.photos:,} photos that were not trained on: mean average precision "
        f"{_share(evaluation.mean_average_precision)} (labels by their frequency: "
        f"{base.mean_average_precision:.1%}); macro F1 {_share(evaluation.macro_f1)}; exactly the "
        f"right labels {_share(evaluation.subset_accuracy)} (always the most frequent set: "
        f"{base.subset_accuracy:.1%}).",
        "",
        *_list_rows(header, figures),
    ]


def _describe_values(evaluation: ValueEvaluation) -> list[str]:
    base, error, r2 = evaluation.baseline, evaluation.mae, evaluation.r2
    lines = [
        f"Mean absolute error {error.value:.4g}, 95 % interval [{error.low:.4g}, "
        f"{error.high:.4g}], on {evaluation.photos:,} photos that were not trained on (always "
        f"answering the median, {base.median:.4g}: {base.median_mae:.4g}); R² {r2.value:.3f} "
        f"[{r2.low:.3f}, {r2.high:.3f}].",
    ]
    if evaluation.coverage is not None:
        lines += [
            "",
            f"Its {evaluation.coverage_asked:.0%} intervals hold the truth of "
            f"{_share(evaluation.coverage)} of these photos.",
        ]
    return lines


def _share(found: Estimate) -> str:
    return f"{found.value:.1%}, 95 % interval [{found.low:.1%}, {found.high:.1%}]"


def _list_rows(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table; of what no photo has, there are no figures."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for name, photos, *figures in rows:
        shown = figures if photos else ["–"] * len(figures)
        text = " ".join(str(name).replace("|", "\\|").split())
        yield f"| {' | '.join((text, str(photos), *shown))} |"


def _list_exports(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    if not exports:
        return []
    lines = [
        "## Files",
        "",
        "Each was compared with the bundle on real photos: the largest difference of a probability "
        "(of a number: as a share of the spread) from identical pixels, and answers changed from "
        "the files' bytes.",
        "",
        "| file | takes | MB | difference | changed | ms per photo |",
        "|---|---|---|---|---|---|",
    ]
    for row in exports:
        pixels, files = row["parity"]["pixels"], row["parity"]["files"]
        lines.append(
            f"| {row['file']} | {row['reads']} | {row['bytes'] / 1e6:.1f} | "
            f"{pixels['largest']:.1g} | {files['changed']} of {files['photos']} | "
            f"{row['parity']['milliseconds']:.1f} |"
        )
    return [*lines, ""]
