"""One file over HTTPS: resumed after a cut, with limits on time and size."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headstart.errors import BackboneError, require_package
from headstart.files import free_bytes, write_bytes

if TYPE_CHECKING:
    import requests

# Called with (bytes done, bytes in all, None where the server does not say).
Progress = Callable[[int, int | None], None]

MOST_ARCHIVE_BYTES = 4 * 2**30

_ATTEMPTS = 4
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = (10.0, 30.0)  # to connect; between two packets
_PIECE_BYTES = 2**14  # of a piece that is cut nothing is kept


def download(url: str, path: Path, *, progress: Progress | None = None) -> None:
    """Fetch a URL into a file; what is there already of the same file is not fetched again.

    After a cut connection, in this process or an earlier one, the rest is asked for by a Range
    request that holds only for the unchanged file (If-Range, RFC 9110 section 13.1.5).

    Args:
        url: ``https``, or ``http`` for 127.0.0.1.
        path: Where the bytes go; beside it ``path`` with ``.json`` says of what they are.
        progress: Called with ``(done, all)`` bytes; by default a line on stderr, where that is a
            terminal.

    Raises:
        BackboneError: Nothing there, no connection, cut too often, too large; with what to do.
        OSError: The file cannot be written.
        MissingPackageError: requests is not installed.
    """
    require_package("requests", purpose="a download")
    check_scheme(url)
    import requests

    transfer = _Transfer(url, path, progress or _report)
    failures = 0
    with requests.Session() as session:
        _check_redirects(session)
        while True:
            before = transfer.size
            try:
                transfer.attempt(session)
                return
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
                _BrokenOffError,
            ) as error:
                failures = 1 if transfer.size > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise transfer.give_up(error) from error
            except requests.RequestException as error:
                raise BackboneError(f"{url} cannot be fetched: {error}.") from error
            time.sleep(_PAUSE_SECONDS * 2 ** (failures - 1))


class _BrokenOffError(Exception):
    """The server answered, but not with all that was asked for."""


def check_scheme(url: str) -> None:
    """Refuse what is neither https nor this machine.

    >>> check_scheme("https://example.org/a.tar.gz")
    >>> check_scheme("http://example.org/a.tar.gz")
    Traceback (most recent call last):
        ...
    headstart.errors.BackboneError: http://example.org/a.tar.gz is not fetched: anybody on the \
way can change what http brings. Use https.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        return
    raise BackboneError(
        f"{url} is not fetched: anybody on the way can change what {parts.scheme} brings. "
        "Use https."
    )


def _check_redirects(session: requests.Session) -> None:
    find_target: Callable[[Any], str | None] = session.get_redirect_target

    def find_checked_target(response: Any) -> str | None:
        target = find_target(response)
        if target and "://" in target:
            check_scheme(target)
        return target

    session.get_redirect_target = find_checked_target  # type: ignore[assignment, method-assign]


class _Transfer:
    def __init__(self, url: str, path: Path, progress: Progress) -> None:
        self._url, self._path, self._progress = url, path, progress
        self._note = path.with_name(f"{path.name}.json")
        self._total: int | None = None

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self._path.stat().st_size if self._path.exists() else 0

    def attempt(self, session: requests.Session) -> None:
        """Ask for what is missing; returns when all is there."""
        # Not compressed on the way: a range of that would be of no use.
        headers = {"Accept-Encoding": "identity"}
        validator = self._read_validator()
        start = self.size if validator else 0
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        with session.get(
            self._url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS
        ) as response:
            if response.status_code == 416:  # nothing is left to send, or our part is of another
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return
                self._path.unlink(missing_ok=True)
                raise _BrokenOffError("the file has changed on the server")
            self._check_status(response)
            if response.status_code != 206:
                start = 0
            self._total = self._find_total(response, start)
            self._check_size(start)
            self._note_validator(response)
            self._receive(response, start)
        if self._total is not None and self.size != self._total:
            raise _BrokenOffError(f"it ended after {self.size:,} of {self._total:,} bytes")

    def _receive(self, response: requests.Response, start: int) -> None:
        with self._path.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            done = start
            self._progress(done, self._total)
            for piece in response.iter_content(_PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                if done > MOST_ARCHIVE_BYTES:
                    raise self._too_large()
                self._progress(done, self._total)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        if status in (408, 425, 429) or status >= 500:
            raise _BrokenOffError(f"the server answered {status} {response.reason}")
        hint = "Check the address; on the model's page it is that of the download."
        if status in (401, 403):
            hint = (
                "The server wants a sign-in or a consent: download the .tar.gz in a browser, and "
                "give the file: hub:FILE.tar.gz"
            )
        raise BackboneError(f"{self._url}: the server answered {status} {response.reason}. {hint}")

    def _find_total(self, response: requests.Response, start: int) -> int | None:
        headers = response.headers
        if response.status_code == 206:
            # "bytes 100-199/200"
            span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if span.partition("-")[0] != str(start) or not total.isdigit():
                self._path.unlink(missing_ok=True)
                raise _BrokenOffError(f"the server sent another range ({span or 'none'})")
            return int(total)
        length = headers.get("Content-Length", "")
        return int(length) if length.isdigit() and "Content-Encoding" not in headers else None

    def _check_size(self, start: int) -> None:
        if self._total is None:
            return
        if self._total > MOST_ARCHIVE_BYTES:
            raise self._too_large()
        room = free_bytes(self._path.parent)
        if self._total - start > room:
            raise BackboneError(
                f"{self._url} has {self._total / 1e6:,.0f} MB; {room / 1e6:,.0f} MB are free in "
                f"{self._path.parent}. Free some space, or set HEADSTART_CACHE to another folder."
            )

    def _too_large(self) -> BackboneError:
        self._path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        return BackboneError(
            f"{self._url} is larger than {MOST_ARCHIVE_BYTES / 2**30:.0f} GiB; refused. Unpack it "
            "yourself, and give the folder: hub:FOLDER"
        )

    def _read_validator(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self._note.read_bytes())
            if isinstance(note, dict) and note.get("url") == self._url:
                return str(note.get("validator", ""))
        return ""

    def _note_validator(self, response: requests.Response) -> None:
        tag = response.headers.get("ETag", "")
        if tag.startswith("W/"):  # weak: says nothing of bytes
            tag = ""
        validator = tag or response.headers.get("Last-Modified", "")
        write_bytes(self._note, json.dumps({"url": self._url, "validator": validator}).encode())

    def give_up(self, reason: Exception) -> BackboneError:
        """What to say after too many failures."""
        if self._total is None:
            return BackboneError(
                f"No answer from {urlsplit(self._url).netloc} ({_root(reason)}). If this machine "
                f"is offline: download {self._url} on another one, and give the file: "
                "hub:FILE.tar.gz. What was fetched once is used without a connection."
            )
        return BackboneError(
            f"The download of {self._url} was cut {_ATTEMPTS} times ({_root(reason)}), the last "
            f"time after {self.size:,} of {self._total:,} bytes. They are kept: run it again to "
            "go on from there."
        )


def _root(error: BaseException) -> str:
    # requests wraps urllib3, which wraps the system's error: the innermost says it best.
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    reason = getattr(error, "reason", None)
    return _root(reason) if isinstance(reason, BaseException) else str(error)


def _report(done: int, total: int | None) -> None:
    if not sys.stderr.isatty():
        return
    share = f" of {total / 1e6:,.1f}" if total else ""
    end = "\n" if done == total else ""
    sys.stderr.write(f"\rfetching: {done / 1e6:,.1f}{share} MB{end}")
    sys.stderr.flush()
