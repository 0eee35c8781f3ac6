"""The report of several labels and of numbers: what was measured, and the photos with mistakes."""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, Page

from headstart import ImageClassifier, write_report
from headstart.errors import RunError
from headstart.runs import Run, load_run, save_run


def mistake(run: Run, answers: dict[int, str]) -> Run:
    """A run with other answers for some of its photos."""
    changed = list(run.answers)
    for number, answer in answers.items():
        changed[number] = replace(changed[number], answer=answer)
    return replace(run, answers=tuple(changed))


def read(page: Page) -> str:
    """The text of a page, with a space between the cells of its tables."""
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page.html)).split())


@pytest.fixture(scope="module")
def labels(
    fitted_labels: ImageClassifier, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """A run with three mistakes, and its page; not to be changed."""
    run = load_run(drawn / "labels.run")
    find = {text: n for n, text in reversed(list(enumerate(a.label for a in run.answers)))}
    wrong = {find["blue;red"]: "blue", find["red"]: "blue", find[""]: "red"}
    folder = save_run(mistake(run, wrong), tmp_path_factory.mktemp("labels") / "labels.run")
    return load_run(folder), write_report(folder)


@pytest.fixture(scope="module")
def sizes(
    fitted_sizes: ImageClassifier, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    run = load_run(drawn / "sizes.run")
    wrong = {0: str(float(run.answers[0].label) + 2), 1: str(float(run.answers[1].label) - 1.5)}
    folder = save_run(mistake(run, wrong), tmp_path_factory.mktemp("sizes") / "sizes.run")
    return load_run(folder), write_report(folder)


def test_labels_are_shown_with_figures_and_mistakes(
    labels: tuple[Run, Path], fitted_labels: Any
) -> None:
    run, path = labels
    page, found = Page(path), fitted_labels.evaluation
    text = read(page)
    assert f"{100 * found.subset_accuracy.value:.0f} of 100 photos with exactly the right" in text
    for estimate in (found.mean_average_precision, found.macro_f1, found.micro_f1):
        shown = f"{100 * estimate.value:.1f} % {100 * estimate.low:.1f} % – "
        assert shown + f"{100 * estimate.high:.1f} %" in text
    assert f"{100 * found.baseline.mean_average_precision:.1f} %" in text
    trained = sum("red" in row["label"] for row in run.split if row["split"] == "train")
    threshold = 100 * found.per_label[1].threshold
    assert re.search(rf"red {trained} {found.per_label[1].photos} {threshold:.1f} %", text)
    # blue was said wrongly of two photos (one of them red), red missed on two and said of one.
    cells = re.findall(r'aria-label="(\w+), (wrongly said of|missed on) (\d+) photos"', page.html)
    own = sum(not answer.is_right for answer in run.answers)
    assert own >= 3
    counts = {(name, words): int(count) for name, words, count in cells}
    wrong = [(set(a.answer.split(";")) - set(a.label.split(";")) - {""}) for a in run.answers]
    assert counts["blue", "wrongly said of"] == sum("blue" in part for part in wrong) >= 1
    assert counts["red", "wrongly said of"] == sum("red" in part for part in wrong) >= 1
    assert page.html.count('<figure class="wrong">') == own
    assert page.tags.count("img") == len(run.answers)
    assert page.tags.count("svg") == 1
    assert all(load.startswith(("data:image/jpeg;base64,", "#")) for load in page.loads)
    assert page.handlers == []


def test_numbers_are_shown_with_errors_and_intervals(
    sizes: tuple[Run, Path], fitted_sizes: Any
) -> None:
    run, path = sizes
    page, found = Page(path), fitted_sizes.evaluation
    text = read(page)
    assert f"{found.mae.value:.3g} off on average" in text
    assert f"{found.rmse.value:.4g} {found.rmse.low:.4g} – {found.rmse.high:.4g}" in text
    assert f"{found.baseline.mean_rmse:.4g}" in text
    assert page.tags.count("svg") == 2
    # Largest first; those outside of their interval are marked.
    errors = [abs(float(value)) for value in re.findall(r'data-error="([-\d.e]+)"', page.html)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(2, abs=1e-3)
    width = run.record["trust"]["half_widths"]["0.9"]
    outside = sum(abs(float(a.answer) - float(a.label)) > width for a in run.answers)
    assert page.html.count('<figure class="wrong">') == outside >= 2
    held = 1 - outside / len(run.answers)
    assert f"90 % {width:.4g} {100 * held:.1f} %" in text
    assert "At most by 2:" in text
    assert page.tags.count("img") == len(run.answers)
    assert page.handlers == []


def test_names_of_labels_are_text(labels: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = labels
    odd = HOSTILE[0].replace(";", "")

    def rename(text: str) -> str:
        return text.replace("red", odd)

    answers = tuple(replace(a, label=rename(a.label), answer=rename(a.answer)) for a in run.answers)
    record = {**run.record, "class_names": ["blue", odd]}
    per_label = [{**row, "name": rename(row["name"])} for row in record["evaluation"]["per_label"]]
    record["evaluation"] = {**record["evaluation"], "per_label": per_label}
    page = Page(write_report(save_run(Run(record, answers, run.split), tmp_path / "odd.run")))
    assert page.handlers == []
    assert odd in page.text
    assert page.tags.count("img") == len(run.answers)


@pytest.mark.parametrize("name", ["labels", "sizes"])
def test_without_test_photos_or_with_a_damaged_record(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(name)[0]
    record = {**run.record, "evaluation": None}
    page = Page(write_report(save_run(Run(record, (), run.split), tmp_path / "a.run")))
    assert "Nothing is known" in page.text
    assert "Set photos aside for a test" in page.text
    gone = tuple(replace(answer, path=tmp_path / answer.path.name) for answer in run.answers)
    page = Page(write_report(save_run(Run(run.record, gone, run.split), tmp_path / "b.run")))
    assert page.tags.count("img") == 0
    assert "not here any more" in page.text
    broken = tuple(replace(answer, answer="much", label="x") for answer in run.answers)
    record = {**run.record, "trust": {}, "evaluation": {"photos": 3}}
    folder = save_run(Run(record, broken, run.split), tmp_path / "c.run")
    with pytest.raises(RunError, match="damaged"):
        write_report(folder)


# ---- in a browser, where Playwright and a Chromium are


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_mistakes_are_sorted_and_filtered_in_a_browser(
    browser: Any, labels: tuple[Run, Path], sizes: tuple[Run, Path]
) -> None:
    page = browser.new_page(color_scheme="dark")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    seen = "#photo-list > li:not([hidden])"
    for name, (_, path) in (("labels", labels), ("sizes", sizes)):
        page.goto(path.as_uri())
        for width in (360, 800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.eval_on_selector("body", "body => body.scrollWidth") <= width
            if folder := os.environ.get("HEADSTART_SCREENSHOTS"):
                page.screenshot(path=f"{folder}/{name}-{width}.png", full_page=True)
        if name == "labels":
            assert page.locator(seen).count() == page.locator("figure.wrong").count()
            button = page.locator("button[aria-label^='red, missed on']")
            count = int(button.inner_text())
            button.click()
            captions = page.locator(f"{seen} figcaption").all_inner_texts()
            assert len(captions) == count
            assert all("missed red" in text for text in captions)
        else:
            page.select_option("#filter-sort", "error:1")
            assert page.locator(seen).first.get_attribute("data-error").startswith("-1.5")
            page.select_option("#filter-kind", "wrong")
            assert page.locator(seen).count() == page.locator("figure.wrong").count()
    page.close()
    assert errors == []
