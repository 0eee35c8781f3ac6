"""The model card: README.md with the fields that Hugging Face reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.evaluation.metrics import Evaluation
from headstart.models.backbones import BACKBONES


def write_card(name: str, manifest: Mapping[str, Any], exports: Sequence[Mapping[str, Any]]) -> str:
    """A model card in Markdown: what it is, how good, its limits, whose weights.

    Args:
        name: Of the classifier.
        manifest: Of its bundle.
        exports: Rows of ``exports.json``.
    """
    found = manifest.get("evaluation")
    evaluation = Evaluation.from_json(found) if found else None
    backbone = manifest["backbone"]["name"]
    spec = BACKBONES.get(backbone)
    lines = [
        "---",
        "library_name: headstart",
        "pipeline_tag: image-classification",
        "tags: [image-classification, transfer-learning]",
        *_index(name, evaluation),
        "---",
        "",
        f"# {name}",
        "",
        f"Tells {len(manifest['class_names'])} classes of photos apart: "
        f"{', '.join(manifest['class_names'])}.",
        "",
        "## How good it is",
        "",
        *_describe_quality(evaluation),
        "",
        "## Limits",
        "",
        "- It always answers with one of its classes, whatever the photo shows. Low probabilities "
        "and photos unlike the training photos should go to a person.",
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


def _index(name: str, evaluation: Evaluation | None) -> list[str]:
    """The field in which Hugging Face looks for results."""
    if evaluation is None:
        return []
    text = json.dumps(name)
    return [
        "model-index:",
        f"- name: {text}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {text}, type: private}}",
        "    metrics:",
        f"    - {{type: accuracy, value: {evaluation.accuracy.value:.4f}}}",
    ]


def _describe_quality(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["Not known: no photos were set aside for a test."]
    share = evaluation.accuracy
    rows = [
        f"Accuracy {share.value:.1%}, 95 % interval [{share.low:.1%}, {share.high:.1%}], on "
        f"{evaluation.photos:,} photos that were not trained on (always answering the largest "
        f"class: {evaluation.majority:.1%}).",
        "",
        "| class | photos | precision | recall | F1 |",
        "|---|---|---|---|---|",
    ]
    for each in evaluation.per_class:
        figures = (each.precision, each.recall, each.f1)
        shown = " | ".join(f"{value:.1%}" for value in figures) if each.photos else "– | – | –"
        name = " ".join(each.name.replace("|", "\\|").split())
        rows.append(f"| {name} | {each.photos} | {shown} |")
    return rows


def _list_exports(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    if not exports:
        return []
    lines = [
        "## Files",
        "",
        "Each was compared with the bundle on real photos: the largest difference of a probability "
        "from identical pixels, and decisions changed from the files' bytes.",
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
