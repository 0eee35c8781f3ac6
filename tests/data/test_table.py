"""Tables of photos: every row is a sample or a problem."""

from pathlib import Path

import pytest

from headstart.data.table import scan_source, scan_table
from headstart.errors import DatasetError


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
    class Frame:
        """What is used of a pandas DataFrame."""

        columns = ("path", "label")

        def to_dict(self, orient: str) -> list[dict[str, object]]:
            assert orient == "records"
            return [{"path": "a.jpg", "label": 1}, {"path": "b.jpg", "label": float("nan")}]

    manifest = scan_table(Frame(), folder)
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
