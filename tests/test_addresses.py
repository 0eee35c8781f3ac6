"""Photos at addresses: what files give, asked for all at once, and a network that fails."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from headstart import ImageClassifier, extract_features, suggest_photos, write_report
from headstart.cli.commands import app
from headstart.data import addresses
from headstart.data.addresses import AddressPath, locate
from headstart.data.scan import Manifest, scan_folder, scan_paths
from headstart.data.stream import map_photos
from headstart.data.table import scan_table
from headstart.errors import DatasetError, HeadstartError, MissingPackageError

ALONE: dict[str, Any] = {"standalone_mode": False}


class NoCredentialsError(Exception):
    """As that of botocore: it has no base that others have."""


class Trying(MemoryFileSystem):
    """A storage in memory that may fail, and in which nothing may be written."""

    protocol = "trying"
    root_marker = "/"
    store: dict[str, Any] = {}  # noqa: RUF012 - that of all instances, as in its base
    fail: Callable[[str], None] = staticmethod(lambda path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("trying://", "memory://"))

    def cat_file(self, path: str, *arguments: Any, **named: Any) -> bytes:
        type(self).fail(path)
        return super().cat_file(path, *arguments, **named)

    def find(self, path: str, *arguments: Any, **named: Any) -> Any:
        type(self).fail(path)
        return super().find(path, *arguments, **named)


fsspec.register_implementation("trying", Trying, clobber=True)


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Copies a folder to an address; afterwards it must be as it was."""
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)
    storage = Trying()
    before: dict[str, bytes] = {}

    def copy(folder: Path) -> str:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                storage.pipe_file(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
        before.update({name: file.getvalue() for name, file in Trying.store.items()})
        return "trying://bucket"

    yield copy
    assert {name: file.getvalue() for name, file in Trying.store.items()} == before
    Trying.store.clear()
    Trying.pseudo_dirs[:] = [""]
    Trying.fail = staticmethod(lambda path: None)


def fail_with(error: Exception, times: int = 1_000, where: str = "") -> None:
    """From now on so many questions about files of that name fail."""
    left = [times]

    def fail(path: str) -> None:
        if where in path and left[0]:
            left[0] -= 1
            raise error

    Trying.fail = staticmethod(fail)


def describe(manifest: Manifest, root: Path) -> Any:
    """A manifest without where it is."""
    samples = [
        (s.path.relative_to(root).as_posix(), s.label, s.digest, s.side, s.group)
        for s in manifest.samples
    ]
    problems = [(p.path.relative_to(root).as_posix(), p.reason) for p in manifest.problems]
    return samples, problems


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name.endswith("empty") else name.encode())
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("dog/b.jpg", "cat/a", "cat/deep/er/c.png", "cat/._a", "a.jpg", "dog/empty"),
        ("train/cat/a", "train/dog/b", "test/cat/c", "Val/dog/d", "loose/e", "train/f"),
        ("train/a", "car/b", "car/Thumbs.db", "train-2/c", "train 2/d"),
        (".git/a", ".git/b/c", "cat/.cache/d", "cat/e", "cat.x/f"),
    ],
)
def test_an_address_is_scanned_as_a_folder_is(tmp_path, upload, names):
    folder = write(tmp_path, *names)
    there = AddressPath(upload(folder))
    found = scan_folder(str(there), group_by="^[^/]*/")
    assert describe(found, there) == describe(scan_folder(folder, group_by="^[^/]*/"), folder)
    assert str(found.samples[0].path).startswith("trying://bucket/")


def test_a_table_names_addresses_and_is_at_one(tmp_path, upload):
    there = upload(write(tmp_path, "cat/a", "b"))
    table = tmp_path / "photos.csv"
    table.write_text(f"path,label\n{there}/cat/a,cat\nb,dog\n{there}/gone,dog\n")
    [cat, dog], [gone] = (m := scan_table(table)).samples, m.problems
    assert (str(cat.path), dog.path) == (f"{there}/cat/a", tmp_path / "b")
    assert (str(gone.path), gone.reason) == (
        f"{there}/gone",
        "cannot be read: No such file or directory",
    )
    upload(tmp_path)
    [_, dog] = scan_table(f"{there}/photos.csv").samples
    assert str(dog.path) == f"{there}/b"


def test_an_address_stays_one():
    path = locate(Path("s3://bucket/photos")) / "a.jpg"
    again = pickle.loads(pickle.dumps(path))
    assert (again, hash(again), str(again)) == (path, hash(path), "s3://bucket/photos/a.jpg")
    assert str(path.parent) == "s3://bucket/photos"
    assert path.absolute() is path
    assert path.resolve() is path
    assert str(locate("file:///photos/a.jpg")) == "file:///photos/a.jpg"
    assert type(locate("C:/photos")) is type(Path())


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("trying://gone", DatasetError, "trying://gone does not exist"),
        ("trying://bucket/cat/a", DatasetError, "is a file"),
        ("https://example.org/photos", DatasetError, "HTTP has no folders. Give a CSV"),
        ("nonsense://photos", DatasetError, "Protocol not known: nonsense"),
        ("nowhere://photos", MissingPackageError, "get it.*pip install package_of_the_future"),
    ],
)
def test_what_is_no_folder_is_said(tmp_path, upload, address, error, said):
    fsspec.register_implementation(
        "nowhere", "package_of_the_future.Files", clobber=True, errtxt="get it"
    )
    upload(write(tmp_path, "cat/a"))
    with pytest.raises(error, match=said):
        scan_folder(address)


# ---- a network that fails


def test_a_network_is_asked_again_and_then_it_is_a_problem(tmp_path, upload):
    there = upload(write(tmp_path, "cat/a", "dog/b"))
    fail_with(TimeoutError("no answer\nfrom x"), times=2, where="/a")
    assert len(scan_folder(there).samples) == 2
    fail_with(TimeoutError("no answer\nfrom x"), times=3, where="/a")
    found = scan_folder(there)
    assert [sample.label for sample in found.samples] == ["dog"]
    assert [problem.reason for problem in found.problems] == ["cannot be read: no answer, 3 times"]


@pytest.mark.parametrize("where", ["/bucket", "/a"])
@pytest.mark.parametrize("error", [PermissionError("Forbidden"), NoCredentialsError("no key")])
def test_who_may_not_read_is_told_at_once(tmp_path, upload, where, error):
    there = upload(write(tmp_path, "cat/a", "dog/b"))
    fail_with(error, times=1, where=where)
    with pytest.raises(DatasetError, match=rf"{there}.* may not be read: .*credentials"):
        scan_folder(there)


class Answer(Exception):
    """As that of aiohttp."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Answer(403), "cannot be read: 403"),
        (Answer(404), "does not exist"),
        (ConnectionRefusedError("nobody there"), "cannot be read: nobody there, 3 times"),
    ],
)
def test_of_the_web_each_photo_is_on_its_own(tmp_path, upload, monkeypatch, error, said):
    there = upload(write(tmp_path, *(f"cat/{number}" for number in range(30))))
    monkeypatch.setattr(addresses, "_WEB", ("trying:",))
    paths = [f"{there}/cat/{number}" for number in range(30)]

    def info(*arguments: Any, **named: Any) -> Any:
        raise FileNotFoundError("says fsspec") from error

    monkeypatch.setattr(Trying, "info", info)
    assert {problem.reason for problem in scan_paths(paths).problems} == {said}


def test_a_network_that_is_gone_ends_the_run(tmp_path, upload):
    there = upload(write(tmp_path, *(f"cat/{number}" for number in range(60))))
    manifest = scan_folder(there)
    fail_with(ConnectionError("unreachable"), where="/cat/")
    with pytest.raises(DatasetError, match=r"unreachable\. More than 20 others"):
        scan_folder(there)
    with pytest.raises(DatasetError, match=r"unreachable\. More than 20 others"):
        list(map_photos([s.path for s in manifest.samples], lambda p: p, 8, lambda x: x))


def test_several_are_asked_at_once(tmp_path, upload):
    there = upload(write(tmp_path, *(f"cat/{number:02}" for number in range(32))))
    meet = threading.Barrier(8)

    def wait(path: str) -> None:
        if path != "/bucket":
            meet.wait(timeout=10)

    Trying.fail = staticmethod(wait)
    found = scan_folder(there)
    assert [sample.path.name for sample in found.samples] == [f"{n:02}" for n in range(32)]
    batches = list(map_photos([s.path for s in found.samples], lambda path: path, 8, lambda x: x))
    assert {why for batch in batches for _, why in batch.failures} == {
        "not an image of a known format"
    }


# ---- from one end to the other


def test_features_are_those_of_files_in_the_same_cache(
    few_digits, tmp_path, upload, empty_cache, monkeypatch
):
    there = upload(few_digits)
    far = extract_features("efficientnet-lite0", there, runtime="onnxruntime")
    assert far.forwarded == 12
    near = extract_features("efficientnet-lite0", few_digits, runtime="onnxruntime")
    assert near.forwarded == 0
    assert np.array_equal(far.array, near.array)
    # A photo that is another one by now is not taken for it.
    shutil.copytree(few_digits, tmp_path / "new")
    (tmp_path / "new" / "0" / "000.png").write_bytes((few_digits / "1" / "000.png").read_bytes())
    manifest = scan_folder(there)
    upload(tmp_path / "new")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "other-cache"))
    found = extract_features("efficientnet-lite0", manifest, runtime="onnxruntime")
    assert [problem.reason for problem in found.problems] == ["changed while running; run again"]


def test_the_commands_take_addresses(
    trained: Any,
    digits_folder: Path,
    few_digits: Path,
    upload: Callable[[Path], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = upload(digits_folder)
    found = ImageClassifier().fit(there)
    assert found.bundle.members == trained.bundle.members
    bundle = found.save(tmp_path / "digits.headstart")
    found.save_run(tmp_path / "digits.run")
    capsys.readouterr()

    def run(*arguments: str) -> str:
        app([*arguments], **ALONE)
        return capsys.readouterr().out

    near = run("predict", str(bundle), str(few_digits), "--csv")
    far = run("predict", str(bundle), f"{there}/*/00[0-2].png", "--csv")
    assert far.replace(there, str(few_digits)) == near
    assert len(near.splitlines()) == 1 + 12
    assert json.loads(run("evaluate", str(bundle), there, "--json"))["evaluation"]["photos"] == 80
    page = tmp_path / "doctor.html"
    run("doctor", there, "--html", str(page), "--apply-suggestions", f"{page}.csv")
    assert page.read_text().count("data:image/jpeg") >= 1
    assert len(scan_table(f"{page}.csv").samples) == 80
    assert write_report(bundle, measure=False).read_text().count("data:image/jpeg") >= 10
    with pytest.raises(HeadstartError, match="All 80 photos"):
        suggest_photos(there, bundle)
