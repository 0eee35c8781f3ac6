"""Folders as people have them: every file is a sample or a problem, and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.scan import Manifest, Problem, read_sample, scan_folder, scan_paths
from headstart.errors import DatasetError
from headstart.files import digest_bytes

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends a test that waits for a FIFO or goes round in a loop."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_arguments):
        raise TimeoutError("the scan hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_one_folder_per_class(tmp_path):
    manifest = scan(tmp_path, {"dog/b.jpg": b"1", "cat/a": b"2", "cat/deep/er/c.png": b"3"})
    assert manifest.class_names == ("cat", "dog")
    assert [(s.path.name, s.label, s.side) for s in manifest.samples] == [
        ("a", "cat", None),
        ("c.png", "cat", None),
        ("b.jpg", "dog", None),
    ]
    assert manifest.samples[0].digest == digest_bytes(b"2")
    assert not manifest.problems
    assert not manifest.warnings


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", None, "test"),
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("Train", "Validation", "TEST"),
        ("training", "VAL", "testing"),
        ("train", "val", None),
        ("TRAINING", None, None),
    ],
)
def test_sides_spelt_in_different_ways(tmp_path, train, validation, test):
    named = {train: "train", validation: "validation", test: "test"}
    named.pop(None, None)
    files = {f"{folder}/{name}/a.jpg": b"x" for folder in named for name in ("cat", "dog")}
    manifest = scan(tmp_path, files)
    assert manifest.class_names == ("cat", "dog")
    assert not manifest.problems
    sides = {s.path.relative_to(tmp_path).parts[0]: s.side for s in manifest.samples}
    assert sides == named


def test_two_spellings_of_one_side(tmp_path):
    manifest = scan(tmp_path, {"train/a/1": b"1", "training/a/2": b"2", "test/a/3": b"3"})
    assert [s.side for s in manifest.samples] == ["test", "train", "train"]


def test_beside_the_sides_nothing_is_a_class(tmp_path):
    files = {"train/cat/a": b"1", "test/cat/b": b"2", "extra/c": b"3", "train/d": b"4", "e": b"5"}
    manifest = scan(tmp_path, files)
    assert reasons(manifest, tmp_path) == {
        "extra/c": "not in train, validation or test",
        "train/d": "not in a class folder",
        "e": "not in train, validation or test",
    }


def test_a_class_called_test(tmp_path):
    manifest = scan(tmp_path, {"test/a.jpg": b"1", "exam/b.jpg": b"2"})
    assert manifest.class_names == ("exam", "test")
    assert {sample.side for sample in manifest.samples} == {None}


def test_a_class_called_train(tmp_path):
    manifest = scan(tmp_path, {"train/a.jpg": b"1", "bus/b.jpg": b"2", "train/.git/x": b"3"})
    assert manifest.class_names == ("bus", "train")
    assert {sample.side for sample in manifest.samples} == {None}


def test_sides_without_class_folders_are_not_classes(tmp_path):
    manifest = scan(tmp_path, {"train/a.jpg": b"1", "test/b.jpg": b"2"})
    assert not manifest.samples
    assert set(reasons(manifest, tmp_path).values()) == {"not in a class folder"}


def test_a_file_called_train_is_no_side(tmp_path):
    manifest = scan(tmp_path, {"train": b"1", "cat/a": b"2", "dog/b": b"3"})
    assert manifest.class_names == ("cat", "dog")
    assert reasons(manifest, tmp_path) == {"train": "not in a class folder"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".DS_Store", "system file"),
        ("Thumbs.db", "system file"),
        ("desktop.ini", "system file"),
        (".gitkeep", "system file"),
        ("._photo.jpg", "macOS metadata"),
    ],
)
def test_litter_is_named_as_such(tmp_path, name, reason):
    manifest = scan(tmp_path, {f"cat/{name}": b"1", name: b"2", "cat/a": b"3"})
    assert [sample.path.name for sample in manifest.samples] == ["a"]
    assert all(reason in why for why in reasons(manifest, tmp_path).values())
    assert len(manifest.problems) == 2


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"])
def test_hidden_folders_are_not_classes_and_not_searched(tmp_path, name):
    files = {f"{name}/a.jpg": b"1", f"cat/{name}/deep/b.jpg": b"2", "cat/.hidden.jpg": b"3"}
    manifest = scan(tmp_path, files)
    assert manifest.class_names == ("cat",)
    assert [sample.path.name for sample in manifest.samples] == [".hidden.jpg"]
    assert set(reasons(manifest, tmp_path)) == {name, f"cat/{name}"}


def test_a_hidden_folder_that_is_asked_for_is_scanned(tmp_path):
    assert scan(tmp_path / ".cache", {"cat/a": b"1"}).class_names == ("cat",)


def test_the_names_of_a_class_are_one_class_however_they_are_composed(tmp_path):
    manifest = scan(tmp_path, {f"{NFC}/a": b"1", f"{NFD}/b": b"2"})
    assert manifest.class_names == (NFC,)
    assert len(manifest.samples) == 2
    assert all(sample.path.exists() for sample in manifest.samples)


def test_a_class_name_that_is_not_utf8_can_be_written_to_a_file(tmp_path):
    try:
        for name in (b"caf\xe9", b"caf\xe8"):
            (tmp_path / os.fsdecode(name)).mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    for folder in list(tmp_path.iterdir()):
        (folder / "a").write_bytes(b"1")
    names = scan_folder(tmp_path).class_names
    assert [name.encode() for name in names] == [rb"caf\xe8", rb"caf\xe9"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_not_opened(tmp_path, no_hang):
    (tmp_path / "cat").mkdir()
    for name in ("cat/fifo.jpg", "fifo.jpg"):
        os.mkfifo(tmp_path / name)
    manifest = scan_folder(tmp_path)
    assert reasons(manifest, tmp_path)["cat/fifo.jpg"] == "not a regular file"
    assert scan_paths([tmp_path / "fifo.jpg"]).problems[0].reason == "not a regular file"


def test_links(tmp_path, no_hang):
    write_tree(tmp_path, {"photos/cat/a": b"1", "outside/x": b"2"})
    links = {"up": "..", "self": ".", "folder": "../../outside", "file": "a", "dangling": "gone"}
    for name, to in links.items():
        link(tmp_path / "photos" / "cat" / name, to)
    link(tmp_path / "photos" / "dog", "cat")
    link(tmp_path / "photos" / "cat" / "circle", "circle")
    manifest = scan_folder(tmp_path / "photos")
    assert [sample.path.name for sample in manifest.samples] == ["a", "file"]
    found = reasons(manifest, tmp_path / "photos")
    for name in ("dog", "cat/up", "cat/self", "cat/folder"):
        assert found.pop(name) == "a link to a folder, which is not followed"
    assert all(found.pop(f"cat/{name}").startswith("cannot be") for name in ("dangling", "circle"))
    assert not found


def test_sizes(tmp_path):
    write_tree(tmp_path, {"cat/empty.jpg": b"", "cat/fits": b"1234"})
    with (tmp_path / "cat" / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    manifest = scan_folder(tmp_path, max_file_bytes=4)
    assert [sample.path.name for sample in manifest.samples] == ["fits"]
    found = reasons(manifest, tmp_path)
    assert found["cat/empty.jpg"] == "empty file"
    assert found["cat/sparse"].startswith("1,048,576 MB, more than the limit")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_what_may_not_be_read(tmp_path):
    write_tree(tmp_path, {"cat/a": b"1", "cat/locked": b"2", "closed/b": b"3"})
    (tmp_path / "cat" / "locked").chmod(0)
    (tmp_path / "closed").chmod(0)
    manifest = scan_folder(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert set(reasons(manifest, tmp_path)) == {"cat/locked", "closed"}


def test_what_the_system_refuses_is_a_problem(tmp_path, monkeypatch):
    write_tree(tmp_path, {"cat/a": b"1", "cat/locked": b"2", "closed/b": b"3"})
    link(tmp_path / "cat" / "link", "elsewhere")
    refuse(monkeypatch, Path, "read_bytes", "locked")
    refuse(monkeypatch, Path, "is_dir", "link")
    refuse(monkeypatch, os, "scandir", "closed")
    manifest = scan_folder(tmp_path)
    assert [sample.path.name for sample in manifest.samples] == ["a"]
    assert reasons(manifest, tmp_path) == {
        "cat/link": "cannot be read: No such file or directory",
        "cat/locked": "cannot be read: Permission denied",
        "closed": "cannot be listed: Permission denied",
    }


@pytest.mark.parametrize("side", ["", "train/"])
def test_folders_without_photos_are_no_classes_and_that_is_said(tmp_path, side):
    (tmp_path / f"{side}empty").mkdir(parents=True)
    files = {f"{side}cat/a": b"1", f"{side}dog/b": b"2", f"{side}torn/c": b"", ".git/d": b"3"}
    manifest = scan(tmp_path, files)
    assert manifest.class_names == ("cat", "dog")
    assert manifest.warnings == ("No photos in: empty, torn; such a folder is no class.",)


def test_exact_copies_are_pointed_out(tmp_path):
    manifest = scan(tmp_path, {"cat/a": b"1", "cat/b": b"1", "cat/c": b"1", "dog/d": b"2"})
    assert len(manifest.samples) == 4
    [warning] = manifest.warnings
    assert warning.startswith("2 photos are exact copies")


def test_copies_in_two_classes_are_pointed_out(tmp_path):
    files = {"train/cat/a": b"1", "train/dog/b": b"1", "test/cat/c": b"2", "train/cat/d": b"2"}
    text = "\n".join(scan(tmp_path, files).warnings)
    assert "more than one class" in text
    assert "cat and dog" in text


def test_groups_are_found_in_paths(tmp_path):
    files = {"cat/p1_a": b"1", "cat/p2_a": b"2", "dog/p1_b": b"3", "dog/x": b"4", "dog/p/a": b"5"}
    scan(tmp_path, files)
    manifest = scan_folder(tmp_path, group_by="p([0-9]*)_?")
    groups = {s.path.relative_to(tmp_path).as_posix(): s.group for s in manifest.samples}
    # An empty group is none.
    assert groups == {
        **dict.fromkeys(("cat/p1_a", "dog/p1_b"), "1"),
        "cat/p2_a": "2",
    } | dict.fromkeys(("dog/x", "dog/p/a"))
    assert [s.group for s in scan_folder(tmp_path, group_by="^cat/").samples if s.group] == [
        "cat/",
        "cat/",
    ]
    assert manifest.warnings == ()


def test_a_pattern_that_finds_nothing_is_pointed_out(tmp_path):
    scan(tmp_path, {"cat/a": b"1", "dog/b": b"2"})
    manifest = scan_folder(tmp_path, group_by="patient")
    assert [sample.group for sample in manifest.samples] == [None, None]
    [warning] = manifest.warnings
    assert "'patient' finds nothing in any path, such as cat/a" in warning


def test_what_is_no_pattern_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    scan(tmp_path, {"cat/a": b"1"})
    monkeypatch.setattr(Path, "read_bytes", lambda path: 1 / 0)
    with pytest.raises(DatasetError, match=r"'p\(' is not a regular expression: .*unterminated"):
        scan_folder(tmp_path, group_by="p(")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root / "missing", "does not exist"),
        (lambda root: root / "file", "is a file"),
        (lambda root: root / "file" / "inside", "is a file"),
        (lambda root: root / ("x" * 300), "cannot be listed"),
        (lambda root: root / "nul\0", "does not exist"),
    ],
)
def test_what_is_no_folder_is_an_error(tmp_path, make, words):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(DatasetError, match=words):
        scan_folder(make(tmp_path))


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "listdir", tmp_path.name)
    with pytest.raises(DatasetError, match="cannot be listed: Permission denied"):
        scan_folder(tmp_path)


def test_a_photo_takes_little_memory(tmp_path):
    names = [f"{folder}/{number:06}.png" for folder in ("cat", "dog") for number in range(200)]
    write_tree(tmp_path, {name: name.encode() for name in names})
    scan_folder(tmp_path)
    tracemalloc.start()
    try:
        found = scan_folder(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.samples) == len(names)
    assert peak / len(names) < 520  # bytes; of them 113 are the digest, and the label none


def test_an_empty_folder(tmp_path):
    assert scan_folder(tmp_path) == Manifest((), ())


def test_paths_are_taken_in_the_order_given(tmp_path):
    write_tree(tmp_path, {"z/b": b"1", "z/a": b"2", "c": b"3"})
    given_paths = [tmp_path / "c", tmp_path / "gone", tmp_path / "z", tmp_path / "c" / "x"]
    manifest = scan_paths([*given_paths, tmp_path / ("x" * 300), Path("nul\0")])
    assert [sample.path.name for sample in manifest.samples] == ["c", "a", "b"]
    assert {sample.label for sample in manifest.samples} == {""}
    assert [problem.reason for problem in manifest.problems] == [
        "does not exist",
        "does not exist",
        "cannot be read: File name too long",
        "does not exist",
    ]


def test_samples_found_unreadable_later_become_problems(tmp_path):
    manifest = scan(tmp_path, {"cat/a": b"1", "dog/b": b"2", "c": b"3"})
    later = manifest.without([Problem(tmp_path / "cat" / "a", "damaged")])
    assert later.class_names == ("dog",)
    assert reasons(later, tmp_path) == {"c": "not in a class folder", "cat/a": "damaged"}
    assert len(manifest.samples) == 2


NAMES = ["cat", "dog", "train", "Test", "val", ".git", "__MACOSX", "._a", "Thumbs.db", "a.jpg", NFD]
TREES = st.recursive(
    st.binary(max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
).filter(lambda tree: isinstance(tree, dict))


@given(tree=TREES)
@settings(max_examples=120, deadline=None)
def test_every_file_is_accounted_for_once(tree):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_nested(root, tree)
        manifest = scan_folder(root)
        check_accounts(manifest, root)
        loose = scan_paths([root])
        check_accounts(loose, root)
    assert all(sample.label for sample in manifest.samples)
    if any(sample.side for sample in manifest.samples):
        assert all(sample.side for sample in manifest.samples)


def test_hazards(photos_folder, tmp_path, no_hang):
    script = photos_folder / "odd-images" / "make_hazards.py"
    root = tmp_path / "hazards"
    command = [sys.executable, str(script), str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    manifest = scan_folder(root)
    check_accounts(manifest, root)
    assert manifest.class_names == ("Cats", NFC, "cats", "dogs")
    found = reasons(manifest, root)
    assert found["cats/fifo.jpg"] == "not a regular file"
    assert found["cats/sparse_4GiB.jpg"].startswith("4,096 MB")
    assert found["cats/loop"] == found["dogs/self"] == "a link to a folder, which is not followed"
    assert "cats/link_to_0.jpg" not in found
    assert found["only_junk_class/Thumbs.db"] == "a system file, not a photo"
    for name in (".hidden_class", "__MACOSX"):
        assert found[name] == "a hidden folder, which is not searched"
    assert any("more than one class" in warning for warning in manifest.warnings)
    check_accounts(scan_paths([root]), root)


def check_accounts(manifest: Manifest, root: Path) -> None:
    """Every file, and every folder that is not entered, is one sample or one problem."""
    accounts = sorted([record.path for record in (*manifest.samples, *manifest.problems)])
    assert accounts == sorted(list_entries(root))


def list_entries(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = folder / entry.name
        is_hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
        if entry.is_dir(follow_symlinks=False) and not is_hidden:
            yield from list_entries(path)
        else:
            yield path


def scan(root: Path, files: dict[str, bytes]) -> Manifest:
    write_tree(root, files)
    manifest = scan_folder(root)
    check_accounts_loosely(manifest, root, files)
    return manifest


@pytest.mark.parametrize(
    ("name", "said"),
    [("b\0.jpg", "embedded null byte"), ("b\ud800.jpg", "surrogates not allowed")],
)
def test_a_name_that_the_system_does_not_know_is_a_problem(tmp_path, name, said):
    found = read_sample(tmp_path / name, "cat", None)
    assert isinstance(found, Problem)
    assert found.path == tmp_path / name
    assert found.reason.startswith("cannot be read: ")
    assert found.reason.endswith(said)


def check_accounts_loosely(manifest: Manifest, root: Path, files: dict[str, bytes]) -> None:
    accounts = [record.path for record in (*manifest.samples, *manifest.problems)]
    assert len(set(accounts)) == len(accounts)
    for name in files:
        path = root / name
        assert any(path == account or account in path.parents for account in accounts), name


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write_nested(folder: Path, tree: dict) -> None:
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).mkdir()
            write_nested(folder / name, content)


def reasons(manifest: Manifest, root: Path) -> dict[str, str]:
    return {p.path.relative_to(root).as_posix(): p.reason for p in manifest.problems}


def link(path: Path, to: str) -> None:
    try:
        path.symlink_to(to)
    except OSError:
        pytest.skip("this system makes no links")


def refuse(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, refused: str) -> None:
    """Let a function of the system refuse one name; tests that run as root need this."""
    original = getattr(owner, name)

    def guarded(path, *rest):
        if Path(path).name == refused:
            raise PermissionError(13, "Permission denied")
        return original(path, *rest)

    monkeypatch.setattr(owner, name, guarded)
