"""Tables of photos: every row is a sample or a problem."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.data.table import scan_source, scan_table
from headstart.errors import DatasetError
from headstart.task import MULTILABEL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "photos.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_paths_labels_and_sides(folder: Path) -> None:
    text = "path,label,split\na.jpg,cat,train\nb.jpg,dog,VAL\nc.jpg,dog,\n"
    manifest = scan_table(write(folder, text))
    assert [(s.path.name, s.label, s.side) for s in manifest.samples] == [
        ("a.jpg", "cat", "train"),
        ("b.jpg", "dog", "validation"),
        ("c.jpg", "dog", None),
    ]


def test_byte_order_mark_quotes_and_absolute_paths(folder: Path) -> None:
    text = f'path,label\n"{folder / "a.jpg"}","cat, big"\n'
    manifest = scan_table(write(folder, text, "utf-8-sig"), Path("elsewhere"))
    assert manifest.class_names == ("cat, big",)


def test_rows_that_cannot_be_used_are_listed(folder: Path) -> None:
    text = "path,label,split\n,cat,\na.jpg,,\nb.jpg,dog,holdout\nnone.jpg,dog,\nc.jpg,dog,\n"
    manifest = scan_table(write(folder, text))
    assert [s.path.name for s in manifest.samples] == ["c.jpg"]
    assert [p.reason for p in manifest.problems] == [
        "no path",
        "no label",
        "split is 'holdout'; accepted are train, validation and test",
        "cannot be read: No such file or directory",
    ]


def test_data_frame(folder: Path) -> None:
    frame = Frame({"path": "a.jpg", "label": 1}, {"path": "b.jpg", "label": float("nan")})
    manifest = scan_table(frame, folder)
    assert manifest.class_names == ("1",)
    assert manifest.problems[0].reason == "no label"


def test_groups_are_a_column(folder: Path) -> None:
    text = "path,label,group,day\na.jpg,cat,anna,1\nb.jpg,dog,,1\nc.jpg,dog,anna,2\n"
    table = write(folder, text)
    assert [s.group for s in scan_table(table).samples] == ["anna", None, "anna"]
    assert [s.group for s in scan_table(table, group_by="day").samples] == ["1", "1", "2"]
    assert [s.group for s in scan_source(table, "day").samples] == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("by", "says"),
    [("dya", "no column 'dya' to group by. Did you mean day?"), ("a(.*)", "expressions are for")],
)
def test_an_unknown_column_is_refused_before_any_photo(folder: Path, by: str, says: str) -> None:
    table = write(folder, "path,label,day\nnone.jpg,cat,1\n")
    with pytest.raises(DatasetError) as caught:
        scan_source(table, by)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("paths,label\n", "no column 'path'. Did you mean paths?"),
        ("path,class\n", "no column 'label'"),
        ("", "no columns"),
    ],
)
def test_missing_columns_are_named(folder: Path, text: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says.replace("?", r"\?")):
        scan_table(write(folder, text))


def test_files_that_are_no_table(folder: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        scan_table(folder / "missing.csv")
    with pytest.raises(DatasetError, match="not a CSV file in UTF-8"):
        scan_table(write(folder, "path,label\né,x\n", "latin-1"))


# ---- cells of a DataFrame


class NAType:
    """As pandas' own: neither equal nor unequal to anything, and no truth."""

    def __ne__(self, other: object) -> Any:
        return self

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self) -> str:
        return "<NA>"


class Frame:
    """What is used of a pandas DataFrame."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows, self.columns = list(rows), list(rows[0])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (["red", "blue"], "blue;red"),
        (("red",), "red"),
        ({"red", "blue"}, "blue;red"),
        (frozenset({"big"}), "big"),
        (np.array(["red", "blue"]), "blue;red"),
        (np.array(["red", "blue"], object), "blue;red"),
        ([], ""),
        (np.array([], object), ""),
        ("red; blue", "blue;red"),
        (7, "7"),
        (float("nan"), ""),
        (NAType(), ""),
    ],
)
def test_several_labels_are_a_list_in_a_cell(folder: Path, cell: Any, label: str) -> None:
    frame = Frame({"path": "a.jpg", "label": cell}, {"path": "b.jpg", "label": "green"})
    manifest = scan_table(frame, folder, task=MULTILABEL)
    assert [sample.label for sample in manifest.samples] == [label, "green"]
    assert manifest.class_names == tuple(sorted({*filter(None, label.split(";")), "green"}))


def test_a_list_is_taken_for_several_labels_by_no_other_task(folder: Path) -> None:
    rows = [{"path": "a.jpg", "label": cell} for cell in (["red", "blue"], np.array(["red"]))]
    assert scan_table(Frame(*rows), folder).class_names == ("['red', 'blue']", "['red']")


def test_a_list_of_what_are_no_names_is_a_problem_of_its_row(folder: Path) -> None:
    frame = Frame({"path": "a.jpg", "label": ["red", 7]}, {"path": "b.jpg", "label": ["green"]})
    manifest = scan_table(frame, folder, task=MULTILABEL)
    assert [sample.label for sample in manifest.samples] == ["green"]
    [problem] = manifest.problems
    assert "['red', 7] of a photo are not names; accepted are" in problem.reason


@pytest.mark.parametrize("missing", [None, float("nan"), NAType(), ""])
def test_empty_cells_of_every_kind(folder: Path, missing: Any) -> None:
    whole = {"path": "a.jpg", "label": "cat", "split": "train", "group": "anna"}
    rows = [{**whole, name: missing} for name in ("split", "group", "label", "path")]
    manifest = scan_table(Frame(*rows), folder)
    assert [(s.side, s.group) for s in manifest.samples] == [(None, "anna"), ("train", None)]
    assert [problem.reason for problem in manifest.problems] == ["no label", "no path"]


def test_a_real_data_frame(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "path": ["a.jpg", "b.jpg", "c.jpg"],
            "label": [["red", "blue"], [], None],
            "split": pandas.array(["train", None, None], dtype="string"),
            "group": pandas.array([1, None, 2], dtype="Int64"),
        }
    )
    manifest = scan_table(frame, folder, task=MULTILABEL)
    found = [(sample.label, sample.side, sample.group) for sample in manifest.samples]
    assert found == [("blue;red", "train", "1"), ("", None, None), ("", None, "2")]


def test_a_path_that_no_file_can_have_is_a_problem(folder: Path) -> None:
    manifest = scan_table(write(folder, "path,label\nb\0.jpg,dog\na.jpg,cat\n"))
    assert [sample.label for sample in manifest.samples] == ["cat"]
    [problem] = manifest.problems
    assert (problem.path, problem.reason) == (
        folder / "b\0.jpg",
        "cannot be read: embedded null byte",
    )
