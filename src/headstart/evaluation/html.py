"""How a classifier prints itself in a notebook."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from headstart.errors import say_count
from headstart.evaluation.metrics import Evaluation
from headstart.evaluation.tasks import AnyEvaluation


def show_evaluation(
    title: str,
    evaluation: AnyEvaluation | None,
    warnings: Sequence[str],
    problems: int,
    mistakes: Sequence[tuple[bytes, str]] = (),
) -> str:
    """A small HTML block: accuracy with its interval, confusion matrix, mistakes; text escaped.

    Args:
        title: What is shown.
        evaluation: Its figures, if there are any.
        warnings: Sentences about the photos.
        problems: Number of files that were not used.
        mistakes: JPEG bytes and a caption of wrongly answered photos.
    """
    parts = [f"<p><code>{escape(title)}</code></p>"]
    if evaluation is None:
        parts.append("<p>No evaluation: not fitted yet, or without test photos.</p>")
    elif not isinstance(evaluation, Evaluation):
        parts.append(f"<p><strong>{escape(str(evaluation))}</strong></p>")
        parts.append(_picture_row(mistakes))
    else:
        accuracy = evaluation.accuracy
        parts.append(
            f"<p><strong>accuracy {accuracy.value:.1%}</strong> "
            f"[{accuracy.low:.1%}, {accuracy.high:.1%}] on {evaluation.photos} photos</p>"
        )
        parts.append(_confusion_table(evaluation))
        parts.append(_picture_row(mistakes))
    parts += [f"<p>{escape(warning)}</p>" for warning in warnings]
    if problems:
        parts.append(
            f"<p>{say_count(problems, 'file was', 'files were')} not used; "
            "see <code>.problems</code>.</p>"
        )
    return f"<div>{''.join(parts)}</div>"


def _picture_row(pictures: Sequence[tuple[bytes, str]]) -> str:
    if not pictures:
        return ""
    tags = "".join(
        f'<img src="data:image/jpeg;base64,{b64encode(picture).decode()}" alt="{caption}" '
        f'title="{caption}" style="display:inline-block;margin:2px">'
        for picture, caption in ((picture, escape(text)) for picture, text in pictures)
    )
    return f"<p>most confident mistakes (point at one):</p><div>{tags}</div>"


def _confusion_table(evaluation: Evaluation) -> str:
    names = [escape(name) for name in evaluation.class_names]
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for number, (name, row) in enumerate(zip(names, evaluation.confusion, strict=True)):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td style="text-align:right;background:rgba('
            f'{"46,125,50" if column == number else "198,40,40"},{0.6 * count / total:.2f})">'
            f"{count or ''}</td>"
            for column, count in enumerate(row)
        )
        rows.append(f'<tr><th scope="row" style="text-align:left">{name}</th>{cells}</tr>')
    caption = "<caption>rows: true class, columns: answer</caption>"
    return f"<table>{caption}<tr><th></th>{header}</tr>{''.join(rows)}</table>"
