"""Photos behind addresses such as ``s3://bucket/photos``: listed and read by fsspec, never written.

An address is a `Path` of its own kind, so that whatever reads a photo does not ask where it is. The
bytes of one are read as a whole, in the process that decodes them. What waits for a network is not
waited for alone: see `map_waiting`.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from headstart.data.decode import LIMITS
from headstart.errors import DatasetError, MissingPackageError, NoMatchError, require_package

if TYPE_CHECKING:
    AnyPath = Path
else:
    AnyPath = type(Path())  # before Python 3.12 only the system's own kind can be subclassed

Item = TypeVar("Item")
Result = TypeVar("Result")

# A Path has one slash where an address has two; a letter alone is a drive of Windows.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")

# How many addresses are asked at once: an answer takes some hundredths of a second to come.
READERS = 16

# How often one is asked that the network fails, with pauses; and how many may fail in a row.
_TRIES, _PAUSE_SECONDS, _MOST_FAILURES = 3, 0.5, 20

# After "//" these have the root of a file system, others a bucket or a host.
_ROOTED = ("file", "local")

# Kinds of fsspec that are no places of files: what they open, or run, the address itself says.
_NO_PLACES = (
    *("async_wrapper", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir", "filecache"),
    *("generic", "libarchive", "pyscript", "reference", "simplecache", "tar", "zip"),
)


class AddressPath(AnyPath):
    """An address in the place of a path; what is asked of its file, fsspec answers.

    >>> path = AddressPath("s3://bucket/photos") / "cat" / "a.jpg"
    >>> str(path), path.name, path.relative_to("s3://bucket").as_posix()
    ('s3://bucket/photos/cat/a.jpg', 'a.jpg', 'photos/cat/a.jpg')
    """

    __slots__ = ("_size",)

    def __str__(self) -> str:
        text = super().__str__()
        found = _ADDRESS.match(text.replace(os.sep, "/"))
        if found is None:  # a part of one
            return text
        rest = text.replace(os.sep, "/")[found.end() :]
        return f"{found[1]}:{'///' if found[1] in _ROOTED else '//'}{rest}"

    def remember(self, size: int | None) -> Self:
        """The same; `stat` answers with this size and asks nobody."""
        self._size = size
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Whether it is a file or a folder, and its bytes, as they were when first asked for."""
        kind, size = stat.S_IFREG, getattr(self, "_size", None)
        if size is None:
            found = ask(self, lambda files, name: files.info(name))
            if found.get("type") == "directory":
                kind, size = stat.S_IFDIR, 0
            else:  # some servers of HTTP do not say a size
                size = len(self.read_bytes()) if found.get("size") is None else found["size"]
                self.remember(size)
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            FileNotFoundError: There is nothing there.
            OSError: The network failed, more than once; or a server sends more than the limit.
            DatasetError: Whoever asks may not read it; or the network fails every time.
        """
        content, most = ask(self, _read), LIMITS.file_bytes
        if is_web(self) and len(content) > most:
            raise OSError(errno.EFBIG, f"more than the limit of {most / 2**20:,.0f} MB")
        return content

    def exists(self) -> bool:
        """Whether there is something now."""
        return self._find_type() is not None

    def is_file(self) -> bool:
        """Whether there is a file now."""
        return self._find_type() == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder now."""
        return self._find_type() == "directory"

    def _find_type(self) -> str | None:
        try:
            return str(ask(self, lambda files, name: files.info(name))["type"])
        except OSError:
            return None

    def absolute(self) -> Self:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """Itself."""
        return self


def locate(place: str | Path) -> Path:
    """What a user calls a place: an address, or a path of this machine.

    >>> str(locate("s3://bucket/a.jpg")), str(locate(Path("gs://bucket/a.jpg"))), locate("a").name
    ('s3://bucket/a.jpg', 'gs://bucket/a.jpg', 'a')
    """
    text = place.as_posix() if isinstance(place, Path) else place
    if not _ADDRESS.match(text):
        return Path(place)
    return place if isinstance(place, AddressPath) else AddressPath(text)


def is_waiting(item: Any) -> bool:
    """Whether an item stands for something at an address: it, its ``path``, or its first part."""
    place = item[0] if isinstance(item, tuple) and item else item
    place = getattr(place, "path", place)
    if isinstance(place, str):
        return bool(_ADDRESS.match(place))
    return isinstance(place, AddressPath)


def map_waiting(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items; of items at addresses several are computed at once."""
    waiting: deque[Callable[[], Result]] = deque()
    with ThreadPoolExecutor(READERS, "addresses") as threads:  # which starts them when needed
        try:
            for item in items:
                is_remote = is_waiting(item)
                asked = threads.submit(function, item).result if is_remote else None
                waiting.append(asked or partial(function, item))
                if len(waiting) > 2 * READERS:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def find_pattern(pattern: str) -> list[Path]:
    """The addresses that a pattern with ``*`` stands for, in order; or what has that very name.

    Raises:
        NoMatchError, DatasetError: It matches nothing; it cannot be listed.
    """
    text = str(AddressPath(pattern))
    wild = re.search(r"[*?[]", text)
    if wild is None or is_web(text):
        return [AddressPath(text)]  # whoever looks at it finds out whether it is there
    # fsspec calls a file without its host, or its account: what is below this has them again.
    above = text[: text.rindex("/", 0, wild.start()) + 1]
    rest = text.removeprefix(above)

    def expand(files: Any, base: str) -> list[str]:
        name = f"{base.rstrip('/')}/{rest}" if base else rest
        try:
            files.info(name)
        except _ABSENT:
            return sorted(path.removeprefix(base).lstrip("/") for path in files.glob(name))
        return [rest]

    try:
        names = ask(above, expand)
    except OSError as error:
        raise DatasetError(f"{text} cannot be listed: {error.strerror or error}.") from error
    if not names:
        raise NoMatchError(f"The pattern {pattern} matches no file.")
    return [AddressPath(above + name) for name in names]


# ---- asking


class _Failures:
    """How many addresses in a row the network has failed, in this process."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0

    def forget(self) -> None:
        if self._count:
            with self._lock:
                self._count = 0

    def add(self) -> bool:
        """Whether it is time to give up."""
        with self._lock:
            self._count += 1
            return self._count > _MOST_FAILURES


_FAILURES = _Failures()


def ask(path: AddressPath | str, question: Callable[[Any, str], Result]) -> Result:
    """What a file system answers on an address; a network that fails is asked again.

    Raises:
        FileNotFoundError: There is nothing there.
        OSError: The network failed; or one server of the web, of which each photo has another,
            lets nobody in; or it is no place of files.
        DatasetError: A storage lets nobody in, or fails for all.
    """
    _check_kind(str(path))
    for tries in itertools.count(1):
        try:
            answer = question(*_connect(str(path)))
        except (MissingPackageError, DatasetError):
            raise
        except Exception as raised:  # every file system has its own, and they share no base
            error = _find_cause(raised)
            if isinstance(error, _ABSENT):
                _FAILURES.forget()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
            is_refused, why = _is_refusal(error), _shorten(error)
            if is_refused and not is_web(path):
                raise DatasetError(
                    f"{path} may not be read: {why}. Needed are the credentials that the tools of "
                    "its storage use on this machine too; see docs/addresses.md."
                ) from raised
            if tries < _TRIES and not is_refused:
                time.sleep(_PAUSE_SECONDS * tries)
                continue
            if not is_web(path) and _FAILURES.add():
                raise DatasetError(
                    f"{path} cannot be read: {why}. More than {_MOST_FAILURES} others before it "
                    "could not either. What was computed is kept; run again when the network is "
                    "there."
                ) from raised
            raise OSError(why if is_refused else f"{why}, {tries} times") from raised
        else:
            _FAILURES.forget()
            return answer
    raise AssertionError  # the count has no end


def is_web(place: AddressPath | str) -> bool:
    """Whether an address is one of HTTP, which has no folders, and often no sizes."""
    return str(place).startswith(_WEB)


_WEB = ("http:", "https:")
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def _check_kind(url: str) -> None:
    """Refuse what is no place of files, before fsspec sees it; it is a problem of that photo."""
    scheme = url.partition(":")[0]
    if "::" in url or scheme in _NO_PLACES:
        what = "::" if "::" in url else f"{scheme}://"
        places = "places of files, such as s3://, gs:// and https://; copy the photos to one"
        raise OSError(errno.EINVAL, f"an address with {what} is not taken, only {places}")


def _read(files: Any, name: str) -> bytes:
    """All of a file; of the web one byte more than the limit at most, whatever a server sends."""
    if not is_web(name):
        return bytes(files.cat_file(name))
    content, most = bytearray(), LIMITS.file_bytes + 1
    with files.open(name, block_size=0, size=most) as stream:  # else it is asked for its size
        while len(content) < most and (piece := stream.read(most - len(content))):
            content += piece
    return bytes(content)


def _find_cause(error: Exception) -> Exception:
    """What is behind an error: fsspec says that a file is absent, too, when its server is."""
    cause = error.__cause__
    if not isinstance(error, _ABSENT) or not isinstance(cause, Exception):
        return error
    status = _get_status(cause)
    is_network = isinstance(cause, OSError) if status is None else status not in (404, 410)
    return cause if is_network else error


def _get_status(error: Exception) -> int | None:
    """That of an answer over HTTP."""
    status = str(getattr(error, "status", None) or getattr(error, "code", ""))
    return int(status) if status.isdigit() else None


def _connect(url: str) -> tuple[Any, str]:
    """The file system of an address, and how it calls it.

    Raises:
        MissingPackageError: What this kind of address needs is not installed.
        DatasetError: There is no such kind.
    """
    scheme = url.partition(":")[0]
    require_package("fsspec", purpose=f"an address such as {scheme}://")
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    try:
        files, name = url_to_fs(url)
    except ImportError as error:
        home = known_implementations.get(scheme, {}).get("class", scheme).partition(".")[0]
        package = f'"fsspec[{scheme.removesuffix("s")}]"' if home == "fsspec" else home
        raise MissingPackageError(
            f"{url} needs a package that is not installed: {_shorten(error)}. Install it with: "
            f"pip install {package}"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{url} is not an address that can be read: {_shorten(error)}. Known are s3://, gs://, "
            "https:// and the others of fsspec."
        ) from error
    return files, str(name)


_REFUSALS = ("Credential", "Permission", "Unauthorized", "Forbidden", "Auth", "Refresh", "Token")


def _is_refusal(error: Exception) -> bool:
    """Whether an error says that somebody may not do this, whoever they are."""
    named = any(word in type(error).__name__ for word in _REFUSALS)
    return named or _get_status(error) in (401, 403)


def _shorten(error: BaseException) -> str:
    """The first line of another library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
