"""A folder of labelled photos → a manifest in which every file is a sample or a problem.

Accepted layouts::

    photos/CLASS/*.jpg                                  one folder per class
    photos/train/CLASS/*.jpg, photos/test/CLASS/*.jpg   and, if there, photos/validation/CLASS

Whether a file is a photo is decided by its content, not by its name. Nothing is written, moved or
deleted, and links to folders are not followed (they may form loops).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.data.addresses import AddressPath, ask, is_web, locate, map_waiting
from headstart.data.decode import LIMITS
from headstart.data.groups import compile_pattern, find_groups
from headstart.data.sides import (
    find_address_sides,
    find_sides,
    find_unused,
    is_folder,
    is_hidden,
    normalise_name,
)
from headstart.data.targets import list_names
from headstart.errors import DatasetError, say_count
from headstart.files import digest_bytes
from headstart.task import CLASSIFICATION, Task

# Left behind by file managers and version control: named as what they are, not as broken photos.
_LITTER = {"thumbs.db", "desktop.ini", ".ds_store", "ehthumbs.db", ".gitkeep", ".gitignore"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Attributes:
        path: Where it is.
        label: Its class name; empty when unlabelled. Of other tasks see
            `headstart.data.targets.normalise_label`.
        digest: sha256 of the file's bytes: the photo's identity, whatever it is called.
        side: ``"train"``, ``"validation"`` or ``"test"`` when its folder says so, else None.
        content: The photo itself when it is not in a file (bytes, Pillow image, uint8 array).
        group: Photos with the same one stay on one side of the split; None: it is on its own.
    """

    path: Path
    label: str
    digest: str
    side: str | None = None
    content: Any = field(default=None, repr=False, compare=False)
    # Not a property of the file: a photo read again is the same without it.
    group: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """A file with which something is wrong: in ``problems`` it is not used, in ``flags`` it is."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a scan found: every file is in exactly one of ``samples`` and ``problems``."""

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    task: Task = CLASSIFICATION

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels that occur, sorted; of a regression ``value``."""
        return list_names([sample.label for sample in self.samples], self.task)

    def without(self, problems: Iterable[Problem]) -> Manifest:
        """The manifest with some samples turned into problems (found unreadable later)."""
        found = {problem.path: problem for problem in problems}
        kept = tuple(sample for sample in self.samples if sample.path not in found)
        return replace(self, samples=kept, problems=(*self.problems, *found.values()))


def scan_folder(
    root: str | Path, max_file_bytes: int = LIMITS.file_bytes, group_by: str | None = None
) -> Manifest:
    """Find the photos of a folder with one folder per class, or train/validation/test layouts.

    Args:
        root: The folder, or its address (docs/addresses.md).
        max_file_bytes: Larger files become problems without being read.
        group_by: A regular expression, see `find_groups`; paths are relative to the folder, with
            "/" on every system.

    Raises:
        DatasetError: The folder does not exist, is not a folder, or cannot be listed; or
            ``group_by`` is not a regular expression.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "cat").mkdir()
    >>> _ = (root / "cat" / "a.jpg").write_bytes(b"any bytes"), (root / "b.jpg").write_bytes(b"")
    >>> manifest = scan_folder(root)
    >>> manifest.class_names, manifest.problems[0].reason
    (('cat',), 'not in a class folder')
    """
    root, pattern = locate(root), compile_pattern(group_by)
    samples: list[Sample] = []
    problems: list[Problem] = []
    if isinstance(root, AddressPath):
        paths: Iterable[Path] = list(_walk(root, problems))
        sides = find_address_sides(root, paths)
    else:
        sides = find_sides(root, _list_root(root))
        paths = _walk(root, problems)
    places = (_place(path, path.relative_to(root).parts, sides) for path in paths)
    for found in _read_all(places, max_file_bytes):
        (samples if isinstance(found, Sample) else problems).append(found)  # type: ignore[arg-type]
    warnings: list[str] = []
    if not isinstance(root, AddressPath):
        warnings += find_unused(root, sides, {sample.label for sample in samples})
    if pattern is not None:
        names = [sample.path.relative_to(root).as_posix() for sample in samples]
        groups, notes = find_groups(names, pattern)
        warnings += notes
        samples = [replace(s, group=group) for s, group in zip(samples, groups, strict=True)]
    return Manifest(tuple(samples), tuple(problems), (*warnings, *_describe_duplicates(samples)))


# A file, its label and its side; or what is wrong with it.
_Place = tuple[Path, str, str | None] | Problem


def _place(path: Path, parts: tuple[str, ...], sides: Mapping[str, str]) -> _Place:
    """Where a file belongs, by the names of its folders."""
    side = sides.get(parts[0])
    depth = 1 if side else 0
    if len(parts) <= depth + 1 or (sides and side is None):
        where = "train, validation or test" if sides and side is None else "a class folder"
        return Problem(path, _litter_reason(path) or f"not in {where}")
    return path, normalise_name(parts[depth]), side


def _read_all(places: Iterable[_Place], max_file_bytes: int) -> Iterator[Sample | Problem]:
    def read(place: _Place) -> Sample | Problem:
        return place if isinstance(place, Problem) else read_sample(*place, max_file_bytes)

    return map_waiting(read, places)


def scan_paths(paths: Iterable[Path], max_file_bytes: int = LIMITS.file_bytes) -> Manifest:
    """Find unlabelled photos in files and folders, in the order given.

    A path that does not exist is a problem with that reason.
    """
    samples: list[Sample] = []
    problems: list[Problem] = []
    places = ((path, "", None) for path in list_files(paths, problems))
    for found in _read_all(places, max_file_bytes):
        (samples if isinstance(found, Sample) else problems).append(found)  # type: ignore[arg-type]
    return Manifest(tuple(samples), tuple(problems))


def list_files(paths: Iterable[Path], problems: list[Problem]) -> Iterator[Path]:
    """The files among some files and folders; what cannot be one goes to ``problems``."""
    for path, kind in map_waiting(_look, map(locate, paths)):
        if isinstance(kind, str):
            problems.append(Problem(path, kind))
        else:
            yield from _walk(path, problems) if stat.S_ISDIR(kind) else (path,)


def _look(path: Path) -> tuple[Path, int | str]:
    """A path with its mode, or why it has none."""
    try:
        return path, path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return path, "does not exist"
    except OSError as error:
        return path, f"cannot be read: {error.strerror or error}"


def read_sample(
    path: Path, label: str, side: str | None, max_file_bytes: int = LIMITS.file_bytes
) -> Sample | Problem:
    """One file as a sample with its digest, or the problem that prevents it."""
    try:
        reason = check_file(path, max_file_bytes)
        if reason:
            return Problem(path, reason)
        digest = digest_bytes(path.read_bytes())
        # A new path: one remembers in several forms whatever was asked of it, twice its own size.
        return Sample(type(path)(path), label, digest, side)
    except OSError as error:
        return Problem(path, f"cannot be read: {error.strerror or error}")
    except ValueError as error:  # a name that no file can have
        return Problem(path, f"cannot be read: {error}")


def check_file(path: Path, max_file_bytes: int) -> str | None:
    """Why a file is not read at all, or None; a FIFO or a sparse giant is never opened.

    Raises:
        OSError: There is no such file, or it cannot be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size == 0:
        return "empty file"
    if status.st_size > max_file_bytes:
        size, limit = status.st_size / 2**20, max_file_bytes / 2**20
        return f"{size:,.0f} MB, more than the limit of {limit:,.0f} MB"
    return _litter_reason(path)


def _litter_reason(path: Path) -> str | None:
    name = path.name.lower()
    if name in _LITTER:
        return "a system file, not a photo"
    if name.startswith("._"):
        return "macOS metadata (AppleDouble), not a photo"
    return None


def _list_root(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(root))
    except NotADirectoryError:
        raise DatasetError(f"{root} is a file. Give a folder with one folder per class.") from None
    except (FileNotFoundError, ValueError):
        raise DatasetError(
            f"The folder {root} does not exist. Give a folder with one folder per class."
        ) from None
    except OSError as error:
        raise DatasetError(f"The folder {root} cannot be listed: {error.strerror}.") from error


def _walk(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    """Files below a folder in a fixed order; what is not entered is a problem."""
    if isinstance(folder, AddressPath):
        yield from _walk_address(folder, problems)
        return
    try:
        with os.scandir(folder) as found:  # an entry takes more memory than this
            entries = sorted(
                (e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in found
            )
    except OSError as error:
        problems.append(Problem(folder, f"cannot be listed: {error.strerror or error}"))
        return
    for name, is_entered, is_link in entries:
        path = folder / name
        if is_entered:
            if is_hidden(name):
                problems.append(Problem(path, "a hidden folder, which is not searched"))
            else:
                yield from _walk(path, problems)
        elif is_link and is_folder(path):
            problems.append(Problem(path, "a link to a folder, which is not followed"))
        else:
            yield path


def _walk_address(root: AddressPath, problems: list[Problem]) -> Iterator[Path]:
    passed: Path | None = None
    for path in list_folder(root):
        folders = path.relative_to(root).parts[:-1]
        hidden = next((place for place, name in enumerate(folders, 1) if is_hidden(name)), None)
        if hidden is None:
            yield path
        elif passed != (passed := root.joinpath(*folders[:hidden])):
            problems.append(Problem(passed, "a hidden folder, which is not searched"))


def list_folder(root: AddressPath) -> list[AddressPath]:
    """The files below an address, in the order of a walk through folders.

    Raises:
        DatasetError: There is nothing, or it cannot be listed; or it is a file.
    """
    if is_web(root):
        raise DatasetError(
            f"{root} cannot be listed: HTTP has no folders. Give a CSV with the addresses of "
            "photos in the column path, or copy them here."
        )
    try:
        base, found = ask(root, _find_files)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise DatasetError(f"{root} cannot be listed: {error.strerror or error}.") from error
    if found is None:
        raise DatasetError(f"The folder {root} does not exist. Give one with a folder per class.")
    listed = []
    for name, size in found.items():
        parts = name[len(base) :].strip("/").split("/") if name != base else []
        if not parts:
            raise DatasetError(f"{root} is a file. Give a folder with one folder per class.")
        if name.startswith(f"{base}/") and not name.endswith("/"):  # a mark of a folder
            listed.append((parts, size))
    return [root.joinpath(*parts).remember(size) for parts, size in sorted(listed)]


def _find_files(files: Any, name: str) -> tuple[str, dict[str, int | None] | None]:
    files.invalidate_cache()  # of an earlier listing in this process
    base = name.rstrip("/")
    found = {path: info.get("size") for path, info in files.find(name, detail=True).items()}
    return base, found if found or files.exists(name) else None


def _describe_duplicates(samples: Iterable[Sample]) -> Iterator[str]:
    """A sentence per kind of exact duplicate that a user should know about."""
    first: dict[str, Sample] = {}
    labels: dict[str, set[str]] = {}
    extra = 0
    for sample in samples:
        before = first.setdefault(sample.digest, sample)
        if before is sample:
            continue
        extra += 1
        if before.label != sample.label:
            labels.setdefault(sample.digest, {before.label}).add(sample.label)
    if labels:
        torn = next(sample for digest, sample in first.items() if digest in labels)
        names = " and ".join(sorted(labels[torn.digest]))
        yield (
            f"{say_count(len(labels), 'photo is', 'photos are')} in more than one class with the "
            f"same bytes, such as {torn.path} ({names}); at most one of the labels can be right."
        )
    if extra:
        copies = say_count(extra, "photo is an exact copy", "photos are exact copies")
        yield f"{copies} of others; copies stay on one side of the split."
