"""Bundles: what is saved is loaded; what is damaged, foreign or newer is refused."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.bundle import (
    FORMAT,
    GRAPH,
    MANIFEST,
    WEIGHTS,
    check_output,
    dump_arrays,
    dump_manifest,
    load_bundle,
    parse_arrays,
    save_bundle,
)
from headstart.errors import BundleError, OutputExistsError
from headstart.evaluation.metrics import evaluate

EVALUATION = evaluate(np.eye(2), np.array([0, 1]), ["cat", "dög"]).to_json()
MEMBERS = {
    GRAPH: b"graph " * 50,
    WEIGHTS: dump_arrays({"head/kernel": np.ones((2, 2), np.float32)}),
}


def make_manifest(**changes: Any) -> dict[str, Any]:
    return {
        "class_names": ["cat", "dög"],
        "image_size": 224,
        "decode_version": 1,
        "backbone": {"name": "net", "is_in_catalogue": False, "weights_digest": "00"},
        "recipe": {"name": "probe"},
        "seed": 0,
        "runtime": "onnxruntime 1",
        "evaluation": EVALUATION,
        **changes,
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle, whose graph is no graph."""
    path = tmp_path / "small.headstart"
    save_bundle(path, make_manifest(), MEMBERS)
    return path


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, with a container that fits."""
    members = read_members(path)
    manifest = json.loads(members[MANIFEST])
    change(manifest)
    write_members(path, {**members, MANIFEST: dump_manifest(manifest)})


# ---- what is saved is loaded


def test_round_trip(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert dict(loaded.members) == MEMBERS
    assert loaded.class_names == ("cat", "dög")
    assert loaded.image_size == 224
    assert loaded.path == bundle
    assert loaded.manifest["format"] == 1  # as earlier Headstarts read it
    expected = json.loads(json.dumps(make_manifest()))
    assert {key: loaded.manifest[key] for key in expected} == expected
    assert list(bundle.parent.iterdir()) == [bundle]


def test_equal_contents_make_equal_files(bundle: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "again", make_manifest(), MEMBERS)
    assert (tmp_path / "again").read_bytes() == bundle.read_bytes()


def test_members_are_stored_as_they_are(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted([MANIFEST, GRAPH, WEIGHTS])
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(
    "names", [["a", "b"], ["猫", "いぬ"], ["caf\udce9", "b"], ['"', "\\"], ["\n", " "], ["", "x"]]
)
def test_any_folder_name_is_a_class_name(names: list[str], tmp_path: Path) -> None:
    # "\udce9" is how Python shows the byte of a file name that is not UTF-8.
    save_bundle(tmp_path / "a", make_manifest(class_names=names), MEMBERS)
    assert list(load_bundle(tmp_path / "a").class_names) == names


def test_an_unpacked_bundle_is_a_bundle(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    assert load_bundle(folder).members == load_bundle(bundle).members
    (folder / GRAPH).write_bytes(b"other!" * 50)
    with pytest.raises(BundleError, match=r"damaged: the digest of graph\.onnx"):
        load_bundle(folder)
    (folder / GRAPH).unlink()
    with pytest.raises(BundleError, match=r"damaged: graph\.onnx is missing"):
        load_bundle(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(MEMBERS[GRAPH])
    (folder / GRAPH).symlink_to(elsewhere)
    with pytest.raises(BundleError, match=r"damaged: graph\.onnx is missing"):
        load_bundle(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"it has no usable manifest\.json"):
        load_bundle(folder)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_every_changed_byte_of_an_unpacked_manifest_is_refused_or_harmless(
    bundle: Path, tmp_path: Path, mask: int
) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    whole, data = load_bundle(bundle).manifest, (folder / MANIFEST).read_bytes()
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= mask
        (folder / MANIFEST).write_bytes(damaged)
        try:
            assert load_bundle(folder).manifest == whole, f"byte {position}"
        except BundleError:
            refused += 1
    assert refused > 0.9 * len(data)


def test_a_manifest_without_its_digest_is_refused(bundle: Path) -> None:
    members = read_members(bundle)
    manifest = json.loads(members[MANIFEST])
    for change in ({"seed": 1}, {"digest": "0" * 64}):
        text = json.dumps({**manifest, **change}).encode()
        write_members(bundle, {**members, MANIFEST: text})
        with pytest.raises(BundleError, match="does not match its own digest"):
            load_bundle(bundle)
    del manifest["digest"]
    write_members(bundle, {**members, MANIFEST: json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match="has no valid 'digest'"):
        load_bundle(bundle)


# ---- writing


def test_what_a_killed_save_has_left_is_swept(bundle: Path) -> None:
    left = bundle.with_name(f".{bundle.name}.4711.0123abcd.tmp")
    left.write_bytes(b"half")
    save_bundle(bundle, make_manifest(), MEMBERS, force=True)
    assert left.exists(), "it may still be written"
    os.utime(left, (0, 0))
    save_bundle(bundle, make_manifest(), MEMBERS, force=True)
    assert not left.exists()


def test_an_existing_output_is_kept_without_force(bundle: Path) -> None:
    before = bundle.read_bytes()
    changed = make_manifest(seed=7)
    with pytest.raises(OutputExistsError, match=r"exists already.*--force"):
        save_bundle(bundle, changed, MEMBERS)
    assert bundle.read_bytes() == before
    save_bundle(bundle, changed, MEMBERS, force=True)
    assert load_bundle(bundle).manifest["seed"] == 7


def test_impossible_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"does not exist. Create it"):
        check_output(tmp_path / "missing" / "a.headstart", force=False)
    with pytest.raises(OutputExistsError, match="is a folder"):
        check_output(tmp_path, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="does not exist"):
        check_output(tmp_path / "file" / "a.headstart", force=True)
    check_output(tmp_path / "a.headstart", force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # root may write everywhere; this stands for it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(BundleError, match=r"cannot be written \(Permission denied\)\. Choose"):
        check_output(tmp_path / "a.headstart", force=False)


# ---- what is not a bundle


def test_what_is_not_there_or_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"does not exist. Train one with"):
        load_bundle(tmp_path / "missing")
    for name, data in {"empty": b"", "text": b"hello", "pickle": b"\x80\x04N."}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BundleError, match="is not a readable bundle"):
            load_bundle(tmp_path / name)
    write_members(tmp_path / "zip", {"a": b"b"})
    with pytest.raises(BundleError, match="is not a Headstart bundle"):
        load_bundle(tmp_path / "zip")
    with pytest.raises(BundleError, match="is not a Headstart bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("missing", [GRAPH, WEIGHTS, MANIFEST])
def test_a_missing_member_is_refused(bundle: Path, missing: str) -> None:
    members = read_members(bundle)
    del members[missing]
    write_members(bundle, members)
    with pytest.raises(BundleError, match=r"missing|no usable"):
        load_bundle(bundle)


@pytest.mark.parametrize("compressed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(bundle: Path, compressed: int) -> None:
    # A small file that unpacks to a huge one cannot be stored.
    write_members(bundle, read_members(bundle), compressed)
    with pytest.raises(BundleError, match="no usable"):
        load_bundle(bundle)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("doubled", [GRAPH, WEIGHTS, MANIFEST])
def test_a_member_that_is_there_twice_is_refused(bundle: Path, doubled: str) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(doubled, read_members(bundle)[doubled])
    with pytest.raises(BundleError, match=r"missing|no usable"):
        load_bundle(bundle)


def test_foreign_members_are_left_alone(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("../../outside", b"x")
    assert dict(load_bundle(bundle).members) == MEMBERS
    assert not (tmp_path.parent.parent / "outside").exists()


def test_a_newer_format_is_refused(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda manifest: manifest.update(format=FORMAT + 1))
    with pytest.raises(BundleError, match=r"has the format 3; .* pip install --upgrade headstart"):
        load_bundle(bundle)


# ---- damage


def test_every_truncation_is_refused(bundle: Path) -> None:
    data = bundle.read_bytes()
    for length in range(len(data)):
        bundle.write_bytes(data[:length])
        with pytest.raises(BundleError):
            load_bundle(bundle)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_changed_byte_is_refused_or_harmless(bundle: Path, mask: int) -> None:
    data, whole = bundle.read_bytes(), load_bundle(bundle)
    refused = 0
    step = 1 if mask == 0xFF else 3
    for position in range(0, len(data), step):
        damaged = bytearray(data)
        damaged[position] ^= mask
        bundle.write_bytes(damaged)
        try:
            found = load_bundle(bundle)
        except BundleError:
            refused += 1
        else:
            assert found.manifest == whole.manifest, f"byte {position}"
            assert found.members == whole.members, f"byte {position}"
    assert refused > 0.8 * len(data) / step


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200), position=st.floats(0, 1), is_inserted=st.booleans())
def test_any_overwritten_part_is_refused_or_harmless(
    bundle: Path, tmp_path: Path, data: bytes, position: float, is_inserted: bool
) -> None:
    whole = bundle.read_bytes()
    start = int(position * len(whole))
    end = start if is_inserted else start + len(data)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(whole[:start] + data + whole[end:])
    try:
        found = load_bundle(damaged)
    except BundleError:
        return
    assert found.manifest == load_bundle(bundle).manifest
    assert dict(found.members) == MEMBERS


def test_damage_of_a_real_bundle_never_gives_another_answer(
    trained_bundle: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.headstart"
    shutil.copy(trained_bundle, damaged)
    size = damaged.stat().st_size
    whole = load_bundle(trained_bundle)
    # Some places in the middle, and all of the end, where the zip's own directory is.
    with damaged.open("r+b") as file:
        for position in [*range(0, size, size // 40), *range(size - 300, size, 7)]:
            file.seek(position)
            before = file.read(1)
            file.seek(position)
            file.write(bytes([before[0] ^ 0x10]))
            file.flush()
            try:
                found = load_bundle(damaged)
            except BundleError:
                found = whole
            assert (found.manifest, found.members) == (whole.manifest, whole.members)
            file.seek(position)
            file.write(before)
    assert load_bundle(damaged).members == whole.members


# ---- manifests of strangers

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [*make_manifest(), "members", "format"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from(KEYS), value=JSON)
def test_any_value_in_a_manifest_is_used_or_refused(
    bundle: Path, tmp_path: Path, key: str, value: Any
) -> None:
    from headstart import load

    strange = tmp_path / "strange"
    members = read_members(bundle)
    manifest = {**json.loads(members[MANIFEST]), key: value}
    write_members(strange, {**members, MANIFEST: dump_manifest(manifest)})
    refused = None
    try:
        assert len(load(strange).classes_) >= 2
    except BundleError as error:
        refused = str(error)
    assert refused is None or str(strange) in refused


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"evaluation"}))
def test_a_missing_key_is_refused(bundle: Path, key: str) -> None:
    from headstart import load

    rewrite_manifest(bundle, lambda manifest: manifest.pop(key))
    with pytest.raises(BundleError):
        load(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": ["a", "a"]},
        {"class_names": ["a"]},
        {"class_names": ["a", 1]},
        {"class_names": ["a", "\ud800"]},
        {"image_size": 0},
        {"image_size": -224},
        {"image_size": True},
        {"image_size": 10**12},
        {"decode_version": True},
        {"format": 0},
        {"format": True},
        {"backbone": {}},
        {"backbone": {"name": 5, "is_in_catalogue": True}},
        {"recipe": {"name": None}},
        {"evaluation": {"photos": 5}},
        {"evaluation": [1]},
        {"evaluation": {**EVALUATION, "photos": math.inf}},
        {"evaluation": {**EVALUATION, "accuracy": {"value": "high", "low": 0, "high": 1}}},
        {"evaluation": {**EVALUATION, "confusion": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}},
        {"members": {GRAPH: 5, WEIGHTS: None}},
        {"members": {GRAPH: {"bytes": 300, "sha256": "00"}}},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle: Path, changes: dict[str, Any]) -> None:
    from headstart import load

    rewrite_manifest(bundle, lambda manifest: manifest.update(changes))
    with pytest.raises(BundleError, match=r"damaged|not a Headstart bundle"):
        load(bundle)


def test_a_manifest_that_is_no_object_is_refused(bundle: Path) -> None:
    members = read_members(bundle)
    for text in (b"[]", b"5", b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"format": 1e999}'):
        write_members(bundle, {**members, MANIFEST: text})
        with pytest.raises(BundleError):
            load_bundle(bundle)


def test_arrays_round_trip_and_damaged_ones_are_refused() -> None:
    arrays = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.zeros(0, np.float32)}
    data = dump_arrays(arrays)
    found = parse_arrays(data)
    assert all(np.array_equal(found[key], arrays[key]) for key in arrays)
    for damaged in (data[:-1], b"", data[:10], b"\xff" * 40):
        with pytest.raises(BundleError, match="is damaged"):
            parse_arrays(damaged)
