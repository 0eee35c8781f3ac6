"""What the photo doctor found: records, tables, a new table of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.bundle import check_output
from headstart.data.scan import Sample
from headstart.data.stream import Content
from headstart.data.thumbnails import try_thumbnail
from headstart.errors import say_count
from headstart.evaluation.gallery import Card, Section, render_gallery
from headstart.files import dump_table, write_bytes

KINDS = {
    "unreadable": "files that cannot be used",
    "corrupt": "photos that may be corrupt",
    "duplicate": "copies within a class",
    "duplicate across classes": "copies with different labels",
    "duplicate across sides": "copies on different sides of the given split",
    "label": "probable wrong labels",
    "outlier": "photos unlike all others",
    "blurred": "blurred photos",
    "dark": "dark photos",
    "blank": "blank photos",
    "class": "classes that are tiny, or dominate",
}
# What to do about them.
ADVICE = {
    "unreadable": "They were not used. Replace them, or convert them to JPEG or PNG.",
    "corrupt": "They were used as far as they could be read. Replace them if they look broken.",
    "duplicate": "Near duplicates are kept on one side of every split, and do no harm; copies of "
    "equal bytes are left out by --apply-suggestions.",
    "duplicate across classes": "One of the two labels is wrong, or both classes are right and the "
    "photo should belong to neither.",
    "duplicate across sides": "A test photo that was trained on makes the figures too good. Remove "
    "one of the two.",
    "label": "Each is more like another class. --apply-suggestions writes a table with the other "
    "labels.",
    "outlier": "Ask of each whether it belongs to the task at all.",
    "blurred": "Ask of each whether a person could tell its class.",
    "dark": "Ask of each whether a person could tell its class.",
    "blank": "There is nothing to learn from them.",
    "class": "",
}
REMOVE = "remove"

# On the page, of each kind; the longer side of its pictures in pixels.
_MOST_SHOWN, _SIDE = 60, 144


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at.

    Attributes:
        kind: A key of `KINDS`.
        score: Between 0 and 1: how sure, or how bad; findings of a kind are ranked by it.
        path: The photo, or for a class its name.
        other: The other photo of a pair, else None.
        label: What the photo is labelled as.
        suggestion: Another label, ``"remove"``, or None where a person has to decide.
        says: A sentence.
    """

    kind: str
    score: float
    path: Path
    other: Path | None
    label: str
    suggestion: str | None
    says: str


def rank_findings(findings: Iterable[Finding]) -> list[Finding]:
    """By kind in the order of `KINDS`, the highest score first."""
    order = list(KINDS)
    return sorted(findings, key=lambda f: (order.index(f.kind), -f.score, str(f.path)))


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Attributes:
        samples: The photos that were looked at.
        findings: By kind in the order of `KINDS`, the highest score first.
        warnings: Sentences about the scan.
    """

    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    def count(self) -> dict[str, int]:
        """Findings by kind; kinds without any are left out."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def write_csv(self, path: Path, *, force: bool = False) -> None:
        """All findings as a table with the columns of `Finding`.

        Raises:
            OutputExistsError, HeadstartError: It exists, or cannot be written.
        """
        rows = (asdict(finding) for finding in self.findings)
        _write_table(path, list(Finding.__dataclass_fields__), rows, force)

    def write_html(self, path: Path, *, title: str = "photos", force: bool = False) -> None:
        """A page with the photos, the highest scores of each kind; it needs nothing else.

        Raises:
            OutputExistsError, HeadstartError: It exists, or cannot be written.
            MissingPackageError: Jinja is not installed.
        """
        check_output(path, force)
        counts = self.count()
        found = sum(counts.values())
        lines = [
            f"{len(self.samples):,} photos were looked at; "
            f"{say_count(found, 'finding', 'findings')}."
            if found
            else f"{len(self.samples):,} photos were looked at, and nothing stands out.",
            "Nothing was moved, changed or deleted. In published studies about half of such label "
            "flags are right: look before you change.",
        ]
        sections = list(self.show())
        text = render_gallery(title, "Headstart photo doctor", lines, sections)
        write_bytes(path, text.encode())

    def show(self, most: int | None = None) -> Iterator[Section]:
        """A section per kind, with the pictures of its ``most`` highest scores, or of 60."""
        content = {sample.path: sample.content for sample in self.samples}
        for kind, count in self.count().items():
            found = [finding for finding in self.findings if finding.kind == kind]
            cards = tuple(_show_finding(f, content) for f in found[: most or _MOST_SHOWN])
            yield Section(KINDS[kind].capitalize(), ADVICE[kind], cards, count)

    def write_corrected(self, path: Path, *, force: bool = False) -> tuple[int, int]:
        """A new table of labels with the suggestions applied; ``headstart train`` reads it.

        Photos of a given test or validation side stay as they are: a network that corrects the
        labels it is measured by looks better than it is.

        Returns:
            How many labels differ, and how many photos are left out.

        Raises:
            OutputExistsError, HeadstartError: It exists, or cannot be written.
        """
        advice = {f.path: f.suggestion for f in self.findings if f.suggestion is not None}
        rows, changed, removed = [], 0, 0
        for sample in self.samples:
            is_measured = sample.side in ("test", "validation")
            wanted = sample.label if is_measured else advice.get(sample.path, sample.label)
            if wanted == REMOVE:
                removed += 1
                continue
            changed += wanted != sample.label
            place = {"path": sample.path.resolve(), "label": wanted}
            rows.append({**place, "split": sample.side or "", "group": sample.group or ""})
        _write_table(path, ["path", "label", "split", "group"], rows, force)
        return changed, removed


def _show_finding(finding: Finding, content: Mapping[Path, Content | None]) -> Card:
    title = finding.label
    if finding.suggestion and finding.suggestion != REMOVE:
        title += f" → {finding.suggestion}?"
    if finding.kind == "class":
        return Card(title, finding.says, "")
    name = f"{finding.path.parent.name}/{finding.path.name}"
    paths = [path for path in (finding.path, finding.other) if path is not None]
    pictures = (
        ()
        if finding.kind == "unreadable"
        else tuple(try_thumbnail(content.get(p) or p, _SIDE) for p in paths)
    )
    return Card(title or "no class", finding.says, name, pictures)


def _write_table(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], force: bool
) -> None:
    check_output(path, force)
    write_bytes(path, dump_table(columns, rows))
