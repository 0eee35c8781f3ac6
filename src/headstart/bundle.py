"""Bundles: everything needed to predict, as data only.

A bundle is one zip file (stored, not compressed) or a folder with the same members::

    manifest.json        format number, class names, preprocessing, backbone, recipe, evaluation,
                         split, versions, the digest and size of every other member, and its own
                         digest
    graph.onnx           photos (batch, size, size, 3) uint8 → features, probabilities
    references.safetensors
                         features of training photos, that new ones are compared with, and their
                         numbers in the split; not in every bundle
    thumbnails.safetensors
                         small pictures of the same photos and their classes, where asked for
    weights.safetensors  the head (``head/kernel``, ``head/bias``) and the backbone's weights

The small variant has no graph, and of the backbone only what training changed; its manifest has
``small``, from which `headstart.small` makes the whole again.

Loading parses the manifest, then checks names, sizes and digests, before anything is built from
the rest. Nothing in a bundle is run as code. Digests detect damage, not forgery.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from headstart.errors import BundleError, OutputExistsError
from headstart.evaluation.tasks import read_evaluation, read_trust
from headstart.files import atomic_write, digest_bytes, sweep_temporary
from headstart.task import CLASSIFICATION, TASKS, Task, read_task

FORMAT = max(task.format for task in TASKS.values())
GRAPH, WEIGHTS, MANIFEST = "graph.onnx", "weights.safetensors", "manifest.json"
REFERENCES, THUMBNAILS = "references.safetensors", "thumbnails.safetensors"
# What the backbone's arrays are called in `WEIGHTS`, and what a small variant has in its manifest.
BACKBONE, SMALL = "backbone/", "small"

# A manifest is text about at most some hundred thousand photos.
_MANIFEST_BYTES = 256 * 2**20
_MOST_PIXELS_PER_SIDE = 4096
_RECORDS: dict[str, Callable[[Any, Task], Any]]
_RECORDS = {"evaluation": read_evaluation, "trust": read_trust}
_REQUIRED: tuple[tuple[str, type], ...] = (
    ("class_names", list),
    ("image_size", int),
    ("decode_version", int),
    ("backbone", dict),
    ("backbone.name", str),
    ("backbone.is_in_catalogue", bool),
    ("recipe", dict),
    ("recipe.name", str),
    ("runtime", str),
    ("seed", int),
    ("members", dict),
    ("digest", str),
)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        manifest: The parsed ``manifest.json``, checked.
        members: Bytes by name: `GRAPH`, `WEIGHTS`; in most bundles `REFERENCES`, in some
            `THUMBNAILS`.
        path: Where it was read from, if it was.
    """

    manifest: dict[str, Any]
    members: Mapping[str, bytes] = field(repr=False)
    path: Path | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes (or labels) in the order of the probabilities; or ``value``."""
        return tuple(self.manifest["class_names"])

    @property
    def task(self) -> Task:
        """What is told of a photo."""
        return read_task(self.manifest)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.manifest["image_size"])


def check_output(path: Path, force: bool) -> None:
    """Refuse, before any work, an output that cannot be written.

    Raises:
        OutputExistsError: It exists and ``force`` is not set.
        BundleError: Its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder. Give a file name with -o.")
    if path.exists() and not force:
        raise OutputExistsError(
            f"{path} exists already. Choose another name, or overwrite it with --force."
        )
    folder = path.parent
    if not folder.is_dir():
        raise BundleError(f"The folder {folder} does not exist. Create it, or choose another.")
    probe = folder / f".{path.name}.writable"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BundleError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder with -o."
        ) from error


def save_bundle(
    path: Path, manifest: dict[str, Any], members: Mapping[str, bytes], *, force: bool = False
) -> None:
    """Write a bundle atomically; digests and format number are added here.

    What a killed save of the same bundle has left beside it goes.

    Raises:
        OutputExistsError, BundleError, HeadstartError: It exists, or cannot be written.
    """
    check_output(path, force)
    sweep_temporary(path)
    with atomic_write(path) as file:
        write_archive(file, manifest, members)


def write_archive(
    file: IO[bytes], manifest: Mapping[str, Any], members: Mapping[str, bytes]
) -> None:
    """Write a bundle into an open file; see `save_bundle`."""
    listed = {
        name: {"sha256": digest_bytes(data), "bytes": len(data)} for name, data in members.items()
    }
    text = dump_manifest({"format": read_task(manifest).format, **manifest, "members": listed})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **members}.items():
            # A fixed time stamp: equal contents make equal files.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def dump_manifest(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as JSON with the digest of itself: a folder has no checksum as a zip has.

    >>> dump_manifest({"format": 1})[:36]
    b'{"format": 1, "digest": "5e5fbf8b210'
    """
    # ASCII with escapes: a class name may come from a folder's name that is not UTF-8.
    return json.dumps({**manifest, "digest": digest_manifest(manifest)}).encode()


def digest_manifest(manifest: Mapping[str, Any]) -> str:
    """The sha256 of a manifest, whatever the order of its keys and its own digest."""
    plain = {key: value for key, value in manifest.items() if key != "digest"}
    return digest_bytes(json.dumps(plain, sort_keys=True).encode())


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle; a small variant is made whole.

    Raises:
        BundleError: Not a bundle, damaged, or written by a newer Headstart.
        MissingPackageError: It is a small variant that was never loaded here, and what makes it
            whole is not installed.
    """
    bundle = _read_bundle(path)
    if SMALL not in bundle.manifest:
        return bundle
    from headstart.small import expand  # which knows networks, and this module

    return expand(bundle)


def _read_bundle(path: Path) -> Bundle:
    path = Path(path)
    if not path.exists():
        raise BundleError(f"{path} does not exist. Train one with: headstart train PHOTOS")
    with _translating(path):
        if path.is_dir():
            return _check(path, _FolderReader(path))
        with zipfile.ZipFile(path) as archive:
            return _check(path, _ZipReader(archive))


@contextlib.contextmanager
def _translating(path: Path | None) -> Iterator[None]:
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # zipfile raises almost anything on damaged bytes
        raise BundleError(f"{path} is not a readable bundle: {error}.") from error


def parse_bundle(data: bytes, path: Path | None) -> Bundle:
    """The bundle of a file's bytes; ``path`` is what it says of where it comes from.

    Raises:
        BundleError: As `load_bundle`.
    """
    with _translating(path), zipfile.ZipFile(io.BytesIO(data)) as archive:
        return replace(_check(path or Path(), _ZipReader(archive)), path=path)


def find_bundle(path: Path) -> Bundle | None:
    """The bundle at a path, or None when there is none that can be read."""
    try:
        return load_bundle(path)
    except BundleError:
        return None


class _FolderReader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int | None:
        file = self._folder / name
        return file.stat().st_size if file.is_file() and not file.is_symlink() else None

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()


class _ZipReader:
    """Members of a stored zip. A stored member cannot be larger than the archive: no bombs."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def size(self, name: str) -> int | None:
        found = [info for info in self._archive.infolist() if info.filename == name]
        if len(found) != 1 or found[0].compress_type != zipfile.ZIP_STORED:
            return None
        return found[0].file_size

    def read(self, name: str) -> bytes:
        return self._archive.read(name)


def _check(path: Path, reader: _FolderReader | _ZipReader) -> Bundle:
    size = reader.size(MANIFEST)
    if size is None or size > _MANIFEST_BYTES:
        raise BundleError(f"{path} is not a Headstart bundle: it has no usable {MANIFEST}.")
    try:
        manifest = json.loads(reader.read(MANIFEST))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: {MANIFEST} is not JSON ({error}).") from error
    _check_manifest(path, manifest)
    if manifest.pop("digest") != digest_manifest(manifest):
        raise BundleError(f"{path} is damaged: {MANIFEST} does not match its own digest.")
    members = {}
    optional = (REFERENCES, THUMBNAILS)
    for name in (WEIGHTS,) if SMALL in manifest else (GRAPH, WEIGHTS, *optional):
        if name in optional and name not in manifest["members"]:
            continue
        entry = manifest["members"].get(name)
        if not isinstance(entry, dict) or reader.size(name) != entry.get("bytes"):
            raise BundleError(f"{path} is damaged: {name} is missing or has another size.")
        members[name] = reader.read(name)
        if digest_bytes(members[name]) != entry.get("sha256"):
            raise BundleError(f"{path} is damaged: the digest of {name} is not the recorded one.")
    return Bundle(manifest, members, path)


def _check_manifest(path: Path, manifest: Any) -> None:
    number = manifest.get("format") if isinstance(manifest, dict) else None
    if type(number) is not int or number < 1:
        raise BundleError(f"{path} is not a Headstart bundle: {MANIFEST} has no format number.")
    if number > FORMAT:
        raise BundleError(
            f"{path} has the format {number}; this Headstart reads up to {FORMAT}. "
            "Install a newer one: pip install --upgrade headstart"
        )
    for key, kind in _REQUIRED:
        value = manifest
        for part in key.split("."):
            value = value.get(part)
        # Not isinstance: to Python, but not to JSON, true is a number.
        if type(value) is not kind:
            raise _no_valid(path, key)
    if not 1 <= manifest["image_size"] <= _MOST_PIXELS_PER_SIDE:
        raise _no_valid(path, "image_size")
    names = manifest["class_names"]
    fewest = read_task(manifest).fewest_names
    if not all(_is_name(name) for name in names) or not len(set(names)) == len(names) >= fewest:
        raise _no_valid(path, "class_names")
    _check_records(path, manifest, read_task(manifest))


def _check_records(path: Path, manifest: dict[str, Any], task: Task) -> None:
    """What is read back as a record, where it is there."""
    for key, read in _RECORDS.items():
        if manifest.get(key) is None:
            if key == "trust" and task is not CLASSIFICATION:
                raise _no_valid(path, key)  # without thresholds there are no answers
            continue
        try:
            found = read(manifest[key], task)
        except ValueError as error:
            raise _no_valid(path, key) from error
        if key == "trust" and not found.fits(len(manifest["class_names"])):
            raise _no_valid(path, key)


def _no_valid(path: Path, key: str) -> BundleError:
    return BundleError(f"{path} is damaged: {MANIFEST} has no valid {key!r}.")


def _is_name(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    try:
        name.encode(errors="surrogateescape")  # folders may be called what is not UTF-8
    except UnicodeEncodeError:
        return False
    return True


def dump_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as safetensors."""
    from safetensors.numpy import save

    return save(dict(arrays))


def parse_arrays(data: bytes) -> dict[str, Any]:
    """Arrays of safetensors bytes.

    Raises:
        BundleError: They are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except SafetensorError as error:
        raise BundleError(f"{WEIGHTS} is damaged: {error}.") from error
