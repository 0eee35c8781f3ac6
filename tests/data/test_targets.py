"""Several labels or a number per photo: read from tables, split and dealt evenly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.data.labelled import scan_labelled
from headstart.data.scan import Manifest, Sample
from headstart.data.split import check_classes, split_manifest
from headstart.data.stratify import deal_folds
from headstart.data.table import scan_source
from headstart.data.targets import encode_targets
from headstart.errors import DatasetError, HeadstartError
from headstart.task import MULTILABEL, REGRESSION, get_task, read_task


def write_table(folder: Path, *cells: str) -> Path:
    rows = ["path,label"]
    for number, cell in enumerate(cells):
        (folder / f"{number}.jpg").write_bytes(b"photo %d" % number)
        rows.append(f'{number}.jpg,"{cell}"')
    path = folder / "photos.csv"
    path.write_text("\n".join(rows))
    return path


def make_manifest(labels: list[str], task: object) -> Manifest:
    samples = (Sample(Path(f"{n}.jpg"), label, f"{n:04x}") for n, label in enumerate(labels))
    return Manifest(tuple(samples), task=task)  # type: ignore[arg-type]


def test_a_cell_holds_several_labels_or_none(tmp_path: Path) -> None:
    found = scan_source(write_table(tmp_path, "red;big", "", " big ; ", "red"), task=MULTILABEL)
    assert [sample.label for sample in found.samples] == ["big;red", "", "big", "red"]
    assert found.class_names == ("big", "red")
    assert found.problems == ()


def test_a_bad_number_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    table = write_table(tmp_path, "1.50", "", "tall", "nan", "-2e3", "inf")
    found = scan_source(table, task=REGRESSION)
    assert [sample.label for sample in found.samples] == ["1.5", "-2000.0"]
    assert [problem.reason for problem in found.problems] == [
        "no number",
        "'tall' is not a number",
        "'nan' is not a finite number",
        "'inf' is not a finite number",
    ]
    assert found.class_names == ("value",)


def test_an_empty_cell_is_a_problem_where_classes_are_told_apart(tmp_path: Path) -> None:
    found = scan_source(write_table(tmp_path, "red;big", "", "red"))
    assert found.class_names == ("red", "red;big")
    assert [problem.reason for problem in found.problems] == ["no label"]
    assert "1 labels have a ';'" in found.warnings[0]


def test_folders_say_one_class(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="folders say one class"):
        scan_source(tmp_path, task=MULTILABEL)


def test_lists_of_labels_and_numbers() -> None:
    photos = [np.full((4, 4, 3), n, np.uint8) for n in range(3)]
    several = scan_labelled(photos, [["b", "a"], "a;c", []], task=MULTILABEL)
    assert [sample.label for sample in several.samples] == ["a;b", "a;c", ""]
    numbers = scan_labelled(photos, [1, np.float32(2.5), "x"], task=REGRESSION)
    assert [sample.label for sample in numbers.samples] == ["1.0", "2.5"]
    assert numbers.problems[0].path == Path("photo 2")
    with pytest.raises(DatasetError, match="are not names"):
        scan_labelled(photos, [[0, 1], [1, 0], [1, 1]], task=MULTILABEL)


def test_every_label_is_tested_and_trained() -> None:
    rng = np.random.default_rng(0)
    odds = {"common": 0.6, "some": 0.2, "rare": 0.04}
    rows = [";".join(n for n, p in odds.items() if rng.random() < p) for _ in range(300)]
    split = split_manifest(make_manifest(rows, MULTILABEL), seed=0)
    for name in odds:
        tested = sum(name in s.label.split(";") for s in split.test)
        trained = sum(name in s.label.split(";") for s in split.train)
        assert 0.09 <= tested / (tested + trained) <= 0.31, name


def test_a_group_stays_together_and_numbers_are_tested_over_their_range() -> None:
    manifest = make_manifest([repr(float(n)) for n in range(100)], REGRESSION)
    groups = {s.digest: f"g{n // 2}" for n, s in enumerate(manifest.samples)}
    split = split_manifest(manifest, seed=1, groups=groups)
    sides = {s.digest: "test" for s in split.test} | {s.digest: "train" for s in split.train}
    assert all(
        sides[one.digest] == sides[other.digest]
        for one, other in zip(manifest.samples[::2], manifest.samples[1::2], strict=True)
    )
    tenths = {int(float(s.label) // 10) for s in split.test}
    assert tenths == set(range(10))


def test_a_label_that_is_only_tested_is_refused() -> None:
    manifest = make_manifest(["a", "a;b", "", "b", "a"], MULTILABEL)
    with pytest.raises(DatasetError, match="without training photos: c"):
        split_manifest(manifest, 0, test=Manifest((Sample(Path("t"), "c", "ff"),)))


@pytest.mark.parametrize(
    ("labels", "task"), [(["a", "a"], MULTILABEL), (["", ""], MULTILABEL), (["1.0"], REGRESSION)]
)
def test_what_nothing_can_be_learnt_from_is_refused(labels: list[str], task: object) -> None:
    with pytest.raises(DatasetError, match="needs photos with at least"):
        check_classes(make_manifest(labels, task))


def test_folds_deal_rare_labels_evenly_and_keep_groups() -> None:
    rng = np.random.default_rng(1)
    strata = [("a", "rare") if n % 12 == 0 else ("a",) if n % 2 else ("",) for n in range(120)]
    order = rng.permutation(120)
    strata = [strata[n] for n in order]
    groups = [f"g{n // 2}" for n in range(120)]
    folds = list(deal_folds(strata, groups, 5, seed=0))
    assert sorted(row for _, held in folds for row in held) == list(range(120))
    assert all("rare" in {name for row in held for name in strata[row]} for _, held in folds)
    for train, held in folds:
        assert not {groups[row] for row in train} & {groups[row] for row in held}
        assert 18 <= len(held) <= 30


def test_targets_as_numbers() -> None:
    assert encode_targets(["1.5", "-2.0"], ["value"], REGRESSION).tolist() == [[1.5], [-2.0]]


def test_tasks_by_name() -> None:
    with pytest.raises(HeadstartError, match="multilabel"):
        get_task("multilable")
    assert read_task({"task": "single-label"}).name == "classification"
    with pytest.raises(HeadstartError, match="is not a task"):
        read_task({"task": ["x"]})
