"""Unpack a tar archive from a stranger: everything is checked before anything is written."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from headstart.errors import BackboneError
from headstart.files import free_bytes

# The largest network of TensorFlow Hub's image models (BiT-M R152x4) has 3.7 GB.
MOST_UNPACKED_BYTES = 8 * 2**30
MOST_MEMBERS = 10_000

# tarfile reads a header's extension (long names and the like) into memory at once.
_MOST_READ_BYTES = 2**20


def unpack_archive(archive: Path, folder: Path) -> None:
    """Write the files of a ``.tar`` or ``.tar.gz`` into a new folder.

    Refused, before anything is written: names that are absolute or contain ``..``, links, devices
    and whatever else is neither file nor folder, two members of one name, more than `MOST_MEMBERS`
    members or `MOST_UNPACKED_BYTES` bytes. Owners, modes and times are not taken over.

    Raises:
        BackboneError: The archive is damaged, or something in it is refused.
        OSError: The folder cannot be written.
    """
    with _opened(archive) as tar:
        names = _check_members(archive, tar)
        _read_rest(archive, tar)
    room = free_bytes(folder.parent)
    if sum(names.values()) > room:
        raise BackboneError(
            f"{archive} unpacks to {sum(names.values()) / 1e6:,.0f} MB; {room / 1e6:,.0f} MB are "
            f"free in {folder.parent}. Free some space, or set HEADSTART_CACHE to another folder."
        )
    folder.mkdir()
    with _opened(archive) as tar:
        for member in tar:
            target = folder.joinpath(*_split_name(member.name))
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is None:  # pragma: no cover - only files are left
                raise _refusal(archive, f"{member.name!r} cannot be read")
            with source, target.open("xb") as file:
                shutil.copyfileobj(source, file, _MOST_READ_BYTES)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(archive.open("rb"))
        magic = start.read(512)
        start.seek(0)
        stream: Any = start
        if magic[:2] == b"\x1f\x8b":
            stream = stack.enter_context(gzip.open(start))
        try:
            limited: Any = _Limited(archive, stream)
            yield stack.enter_context(tarfile.open(fileobj=limited, mode="r:"))
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            what = "is not a .tar.gz, or a damaged one"
            if magic.lstrip()[:1] == b"<":
                what = "is a web page, not a .tar.gz"
            raise BackboneError(f"{archive} {what} ({error}).") from error


class _Limited:
    """A stream of which no header makes the reader take much memory, or unpack without end."""

    def __init__(self, archive: Path, stream: IO[bytes]) -> None:
        self._archive, self._stream = archive, stream
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_READ_BYTES:
            raise _refusal(self._archive, "a header in it is larger than 1 MiB")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > MOST_UNPACKED_BYTES + MOST_MEMBERS * _MOST_READ_BYTES:
            raise _refusal(self._archive, _TOO_LARGE)
        return self._stream.seek(offset, whence)


_TOO_LARGE = f"it unpacks to more than {MOST_UNPACKED_BYTES / 2**30:.0f} GiB"


def _check_members(archive: Path, tar: tarfile.TarFile) -> dict[str, int]:
    """Bytes by name of all members; refuses the archive for the first that is not harmless."""
    sizes: dict[str, int] = {}
    total = 0
    for member in tar:
        # Some file systems hold A and a to be the same.
        name = "/".join(_split_name(member.name)).casefold()
        problem = _find_problem(member)
        if not problem and member.isreg() and name in sizes:
            problem = "is there twice"
        if problem:
            raise _refusal(archive, f"{member.name!r} {problem}")
        sizes[name] = member.size if member.isreg() else 0
        total += member.size
        if total > MOST_UNPACKED_BYTES:
            raise _refusal(archive, _TOO_LARGE)
        if len(sizes) > MOST_MEMBERS:
            raise _refusal(archive, f"it has more than {MOST_MEMBERS:,} members")
    if not sizes:
        raise _refusal(archive, "it is empty")
    return sizes


def _read_rest(archive: Path, tar: tarfile.TarFile) -> None:
    """To the end of the file, where gzip has its checksum; tar ends before."""
    stream: Any = tar.fileobj
    while stream.read(_MOST_READ_BYTES):
        if stream.tell() > MOST_UNPACKED_BYTES + MOST_MEMBERS * _MOST_READ_BYTES:
            raise _refusal(archive, _TOO_LARGE)


def _split_name(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _find_problem(member: tarfile.TarInfo) -> str:
    name = member.name
    if name.startswith("/") or ".." in name.split("/"):
        return "points out of the archive"
    if any(mark in name for mark in "\\:\0") or not name.isprintable():
        return "has a name that is not a plain path"
    if not _split_name(name) and not member.isdir():
        return "has no name"
    if member.issym() or member.islnk():
        return f"is a link (to {member.linkname!r})"
    if member.issparse() or not (member.isreg() or member.isdir()):
        return "is neither a plain file nor a folder"
    return ""


def _refusal(archive: Path, what: str) -> BackboneError:
    return BackboneError(
        f"{archive} is refused: {what}. Nothing was unpacked. An archive of a SavedModel holds "
        "plain files and folders only; get it from another source."
    )
