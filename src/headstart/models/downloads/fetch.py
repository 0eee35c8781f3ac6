"""Where a SavedModel is → a local folder, from the cache where it was fetched before.

In the cache folder, ``saved_models/KEY/`` has the unpacked ``files/`` and ``record.json``: source,
sha256 and size of the archive, sha256 of every file. The record of the first fetch holds: each
later use checks the files against it, and an archive that has changed at its source is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from headstart.errors import BackboneError, HeadstartError, require_package
from headstart.files import cache_folder, digest_bytes, digest_file, free_bytes, write_bytes
from headstart.models.downloads.archives import unpack_archive
from headstart.models.downloads.transfer import Progress, check_scheme, download

_FILES, _RECORD = "files", "record.json"
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


def fetch_saved_model(
    location: str, sha256: str | None = None, *, progress: Progress | None = None
) -> Path:
    """The local folder of a SavedModel.

    Args:
        location: A folder, a ``.tar.gz``, a ``file://`` or ``https://`` address of one, or the
            address of a model's page at tfhub.dev or Kaggle.
        sha256: What the archive's sha256 must be, in hexadecimal; not checked by default.
        progress: Called with ``(done, all)`` bytes while something is downloaded.

    Raises:
        BackboneError: Not there, not reachable, damaged, changed, or refused; with what to do.
        MissingPackageError: requests or filelock is not installed.
    """
    if "://" in location and not location.startswith("file://"):
        return _fetch_url(find_download(location), sha256, progress)
    path = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
    path = path.expanduser()
    if path.is_dir():
        if sha256:
            raise BackboneError(
                f"{path} is a folder; sha256= is checked of archives and downloads. Leave it out."
            )
        return _find_root(path)
    if path.is_file() and path.name.endswith(_ARCHIVES):
        digest = digest_file(path)
        _compare(str(path), digest, sha256)
        with _translated(path), _Entry(f"file-{digest[:32]}") as entry:
            if not entry.is_intact():
                entry.fill(path, str(path), digest)
            return _find_root(entry.files)
    raise BackboneError(
        f"{location} is not there, or is neither a folder nor one of {', '.join(_ARCHIVES)}. A "
        "SavedModel is given as hub:FOLDER, hub:FILE.tar.gz or hub:https://…"
    )


def find_download(url: str) -> str:
    """The address of the archive behind the address of a model's page.

    Kaggle gives the archives of public models without an account. What was at tfhub.dev is sent
    on from there, see https://www.tensorflow.org/hub/model_compression.

    >>> find_download("https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224/1")
    'https://www.kaggle.com/api/v1/models/google/mobilenet-v2/tensorFlow2/100-224/1/download'
    >>> find_download("https://tfhub.dev/google/imagenet/resnet_50/feature_vector/5")
    'https://tfhub.dev/google/imagenet/resnet_50/feature_vector/5?tf-hub-format=compressed'

    Raises:
        BackboneError: The address lacks the version, or is of a model in another format.
    """
    check_scheme(url)
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.")
    if host == "tfhub.dev":
        query = dict(parse_qsl(parts.query)) | {"tf-hub-format": "compressed"}
        return urlunsplit(parts._replace(query=urlencode(query)))
    if host != "kaggle.com" or not parts.path.startswith("/models/"):
        return url
    names = [n for n in parts.path.split("/") if n not in ("", "frameworks", "variations")]
    names = [n for n in names[1:] if n != "versions"]
    if len(names) != 5 or not names[4].isdigit():
        raise BackboneError(
            f"{url} does not say which file: the address of a Kaggle model is "
            "https://www.kaggle.com/models/OWNER/MODEL/tensorFlow2/VARIATION/VERSION, as the "
            "model's page shows it under Download."
        )
    owner, model, framework, variation, version = names
    if framework.lower() != "tensorflow2":
        raise BackboneError(
            f"{url} is a model for {framework}; needed is a TF2 SavedModel, which Kaggle lists "
            "under the framework tensorFlow2."
        )
    path = f"/api/v1/models/{owner}/{model}/tensorFlow2/{variation}/{version}/download"
    return f"https://www.kaggle.com{path}"


def _fetch_url(url: str, sha256: str | None, progress: Progress | None) -> Path:
    with _translated(cache_folder()), _Entry(digest_bytes(url.encode())[:32]) as entry:
        recorded = entry.read_record().get("sha256")
        if recorded is not None:
            _compare(url, recorded, sha256)
        if not entry.is_intact():
            archive = entry.archive
            download(url, archive, progress=progress)
            digest = digest_file(archive)
            try:
                _compare(url, digest, sha256)
                if recorded not in (None, digest):
                    raise BackboneError(
                        f"{url} has changed: its sha256 was {recorded} when it was first fetched "
                        f"and is {digest} now. If that is right, delete {entry.folder}"
                    )
                entry.fill(archive, url, digest)
            except BackboneError:
                entry.drop_archive()
                raise
            entry.drop_archive()
        return _find_root(entry.files)


def _compare(source: str, found: str, wanted: str | None) -> None:
    if wanted is not None and wanted.lower() != found:
        raise BackboneError(
            f"{source} has the sha256 {found}, not {wanted}. It is not used. Check where the "
            "address and the sha256 come from."
        )


class _Entry:
    """A place in the cache, locked against other processes while it is open."""

    def __init__(self, key: str) -> None:
        require_package("filelock", purpose="the cache of SavedModels")
        from filelock import FileLock

        root = cache_folder() / "saved_models"
        root.mkdir(exist_ok=True)
        self.folder = root / key
        self.files = self.folder / _FILES
        self.archive = root / f"{key}.part"
        self._lock = FileLock(root / f"{key}.lock")

    def __enter__(self) -> _Entry:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def read_record(self) -> dict[str, Any]:
        """The record; empty where there is none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self.folder / _RECORD).read_bytes())
            if isinstance(record, dict):
                return record
        return {}

    def is_intact(self) -> bool:
        """Whether the files are those of the record, no more and no less, to the byte."""
        recorded = self.read_record().get("files")
        return bool(recorded) and self.files.is_dir() and recorded == _digest_files(self.files)

    def drop_archive(self) -> None:
        """Remove the download and what is noted of it."""
        self.archive.unlink(missing_ok=True)
        self.archive.with_name(f"{self.archive.name}.json").unlink(missing_ok=True)

    def fill(self, archive: Path, source: str, sha256: str) -> None:
        """Unpack an archive to here; all of it or nothing."""
        temporary = self.folder.with_name(f"{self.folder.name}.tmp")  # of a killed process, if any
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            unpack_archive(archive, temporary / _FILES)
            record = {
                "source": source,
                "sha256": sha256,
                "bytes": archive.stat().st_size,
                "files": _digest_files(temporary / _FILES),
            }
            write_bytes(temporary / _RECORD, json.dumps(record, indent=1).encode())
            shutil.rmtree(self.folder, ignore_errors=True)
            temporary.rename(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _digest_files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}


def _find_root(folder: Path) -> Path:
    """The folder itself, or the only folder in it where that one has the SavedModel."""
    inner = [path for path in folder.iterdir() if path.is_dir()]
    if not _has_model(folder) and len(inner) == 1 and _has_model(inner[0]):
        return inner[0]
    return folder


def _has_model(folder: Path) -> bool:
    return any(re.fullmatch(r"saved_model\.\w+", path.name) for path in folder.iterdir())


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = f"{free_bytes(cache_folder()) / 1e6:,.0f} MB are free in {cache_folder()}"
        raise HeadstartError(
            f"{path} could not be fetched into the cache: {error.strerror or error} ({free}). "
            "Free some space, or set HEADSTART_CACHE to a folder that can be written."
        ) from error
