"""The report: self-contained, safe against what files are called, honest about what it lacks."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import headstart
from headstart import ImageClassifier, write_report
from headstart.cli.output import print_trust
from headstart.errors import HeadstartError, RunError
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.report import _describe_calibration, _describe_trust
from headstart.evaluation.trust import WHY_NEVER_SURE
from headstart.recipe import choose_recipe
from headstart.runs import Run, load_run, save_run

HOSTILE = ("<img src=x onerror=alert(1)>", '"><b>$\\frac{1}{2}$', "{{ 7 * 7 }}", "a & 'b'")


class Page(HTMLParser):
    """What a page loads, shows and runs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.loads, self.handlers = "", [], [], []
        self.html = path.read_text()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def mistaken(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier that makes mistakes, since some labels are wrong; not to be changed."""
    folder = tmp_path_factory.mktemp("mistaken") / "digits"
    shutil.copytree(digits_folder, folder)
    for number in range(1, 20, 3):
        (folder / "1" / f"{number:03d}.png").rename(folder / "2" / f"one{number}.png")
    return ImageClassifier().fit(folder)


@pytest.fixture(scope="module")
def bundle(mistaken: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its run folder; not to be changed."""
    path = mistaken.save(tmp_path_factory.mktemp("report") / "digits.headstart")
    mistaken.save_run(path.with_suffix(".run"))
    return path


@pytest.fixture(scope="module")
def page(bundle: Path) -> Page:
    return Page(write_report(bundle))


def test_it_lies_in_the_run_folder_and_loads_nothing(bundle: Path, page: Page) -> None:
    assert (bundle.with_suffix(".run") / "report.html").is_file()
    assert page.tags.count("img") >= 10
    assert all(
        load.startswith(("data:image/jpeg;base64,", "data:image/png;base64,", "#"))
        for load in page.loads
    )
    assert re.findall(r"url\((?!#)|@import", page.html) == []
    assert "default-src 'none'" in page.html


def test_it_says_what_was_measured(page: Page, mistaken: Any) -> None:
    right = round(100 * mistaken.evaluation.accuracy.value)
    assert re.search(rf"{right}\s+of 100 photos right", page.text)
    for title in ("How sure is that?", "What to do next", "What would more photos bring?"):
        assert title in page.text
    assert page.tags.count("svg") == 3


@pytest.mark.parametrize(
    ("error", "by_chance", "says"),
    [
        (0.04, 0.06, "can be believed"),
        (0.14, 0.21, "photos do not tell: they are off by 14.0 points"),
        (0.30, 0.21, "more than the 21.0 that chance alone"),
    ],
)
def test_probabilities_are_believed_where_photos_can_tell(
    mistaken: Any, error: float, by_chance: float, says: str
) -> None:
    found = replace(mistaken.evaluation.calibration, ece=error, by_chance_high=by_chance)
    assert says in _describe_calibration(replace(mistaken.evaluation, calibration=found))


def test_where_no_answer_is_sure_it_says_why(
    mistaken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = mistaken.evaluation
    for share, is_said in ((0.0, True), (0.5, False)):
        trust = replace(measured.trust, answered=Estimate(share, share, share))
        evaluation = replace(measured, trust=trust)
        print_trust(evaluation)
        printed = " ".join(capsys.readouterr().out.split())
        for text in (printed, " ".join(_describe_trust(evaluation))):
            assert (WHY_NEVER_SURE in text) is is_said


def test_mistakes_are_shown_and_come_first(page: Page, mistaken: Any) -> None:
    assert page.html.count('<figure class="wrong">') == len(mistaken.mistakes) > 0
    first = re.findall(r'<figure class="(wrong|right)">', page.html)[0]
    assert first == "wrong"


def test_what_the_doctor_would_look_at_is_shown(page: Page) -> None:
    assert "What the photo doctor would look at" in page.text
    assert "Probable wrong labels" in page.text
    assert "2 → 1?" in page.text


def test_mistakes_have_heat_maps(page: Page, mistaken: Any) -> None:
    assert page.html.count('class="heat"') == len(mistaken.mistakes)
    assert "what mistakes rest on" in page.text


def test_a_run_without_its_bundle_has_none(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.with_suffix(".run"), tmp_path / "alone.run")
    page = Page(write_report(folder, measure=False))
    assert page.tags.count("img") >= 10
    assert 'class="heat"' not in page.html


def test_the_run_holds_every_test_photo(bundle: Path, mistaken: Any) -> None:
    run = load_run(bundle)
    assert len(run.answers) == mistaken.evaluation.photos
    right = sum(answer.is_right for answer in run.answers) / len(run.answers)
    assert right == pytest.approx(mistaken.evaluation.accuracy.value)
    assert {Path(row["path"]).is_file() for row in run.split} == {True}
    assert run.record["environment"]["headstart"] == headstart.__version__


def test_names_of_classes_and_files_are_text(digits_folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, source in zip(HOSTILE, sorted(digits_folder.iterdir()), strict=True):
        shutil.copytree(source, photos / name)
        for path in list((photos / name).iterdir()):
            path.rename(path.with_name(f"<svg onload=alert(2)> {path.name}"))
    classifier = ImageClassifier().fit(photos)
    folder = classifier.save_run(tmp_path / "hostile.run")
    page = Page(write_report(folder, measure=False))
    assert page.handlers == []
    assert "b" not in page.tags
    assert "{{ 7 * 7 }}" in page.text
    assert "49" not in re.sub(r"<style.*", "", page.text)[:300]
    for name in HOSTILE:
        assert name in page.text
    assert page.tags.count("svg") == 2


def test_a_bundle_of_another_training_is_refused(
    bundle: Path, few_digits: Path, tmp_path: Path
) -> None:
    other = ImageClassifier(seed=3).fit(few_digits).save(tmp_path / "other.headstart")
    shutil.copytree(bundle.with_suffix(".run"), tmp_path / "other.run")
    with pytest.raises(RunError, match="another training"):
        write_report(other)


def test_photos_that_are_gone_are_named(bundle: Path, digits_folder: Path, tmp_path: Path) -> None:
    run = load_run(bundle)
    gone = tuple(
        type(answer)(**{**vars(answer), "path": tmp_path / answer.path.name})
        for answer in run.answers
    )
    split = tuple({**row, "path": f"/nowhere/{row['digest']}"} for row in run.split)
    folder = save_run(Run(run.record, gone, split), tmp_path / "moved.run")
    page = Page(write_report(folder))
    assert page.tags.count("img") == 0
    assert "not here any more" in page.text
    assert "What would more photos bring?" not in page.text


def test_without_test_photos_it_says_that_nothing_is_known(
    digits_folder: Path, tmp_path: Path
) -> None:
    paths = sorted(digits_folder.glob("*/*.png"))
    classifier = ImageClassifier().fit(paths, [path.parent.name for path in paths])
    page = Page(write_report(classifier.save_run(tmp_path / "a.run")))
    assert "Nothing is known" in page.text
    assert "Set photos aside for a test" in page.text


def test_without_mistakes_the_photos_that_there_are_are_shown(
    digits_folder: Path, tmp_path: Path
) -> None:
    pair = tmp_path / "pair"
    for name in ("0", "1"):
        shutil.copytree(digits_folder / name, pair / name)
    classifier = ImageClassifier().fit(pair)
    assert classifier.evaluation.accuracy.value == 1
    page = Page(write_report(classifier.save_run(tmp_path / "pair.run"), measure=False))
    assert "No mistakes; these" in page.text
    assert '<option value="all" selected>' in page.html
    assert '<option value="probability:1" selected>' in page.html


def test_a_fine_tuned_run_shows_its_epochs(digits_folder: Path, tmp_path: Path) -> None:
    recipe = choose_recipe("tune", unfreeze="last_block", epochs=2, learning_rate=1e-4)
    classifier = ImageClassifier(recipe=recipe).fit(digits_folder)
    folder = classifier.save_run(tmp_path / "tuned.run")
    page = Page(write_report(folder, tmp_path / "page.html", measure=False))
    assert classifier.tuning is not None
    assert classifier.tuning.says in page.text
    assert "loss by epoch" in page.text


def test_a_run_with_a_budget_shows_its_plan_and_its_choice_of_network(
    digits_folder: Path, tmp_path: Path
) -> None:
    classifier = ImageClassifier("auto", budget_seconds=600).fit(digits_folder)
    folder = classifier.save_run(tmp_path / "planned.run")
    page = Page(write_report(folder, tmp_path / "page.html", measure=False))
    assert classifier.plan is not None
    assert classifier.backbone_choice is not None
    for step in classifier.plan.steps:
        assert step.why in page.text
    for candidate in classifier.backbone_choice.candidates:
        assert candidate.says in page.text
    assert "Budget: 10\N{NO-BREAK SPACE}min." in page.text


def test_a_damaged_record_and_a_folder_as_output_are_refused(bundle: Path, tmp_path: Path) -> None:
    run = load_run(bundle)
    broken = {key: value for key, value in run.record.items() if key != "samples"}
    folder = save_run(Run(broken, run.answers, run.split), tmp_path / "broken.run")
    with pytest.raises(RunError, match="damaged"):
        write_report(folder, measure=False)
    with pytest.raises(HeadstartError, match="is a folder"):
        write_report(bundle, tmp_path, measure=False)


def test_only_what_was_trained_here_can_be_recorded(trained_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match="Only what was trained here"):
        headstart.load(trained_bundle).save_run(tmp_path / "a.run")
