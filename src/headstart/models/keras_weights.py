"""Weights files of keras.applications in Keras's own cache: where they are, whether they are right.

No Keras is imported but for a download, which is Keras's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from urllib.error import HTTPError

from headstart.errors import BackboneError
from headstart.models.keras_catalogue import Row
from headstart.quiet import start_tensorflow


def keras_folder() -> Path:
    """Where Keras keeps weights: ``models`` in ``KERAS_HOME``, else in ``~/.keras``."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def weights_file(row: Row, image_size: int | None = None) -> Path:
    """Where the ImageNet weights for photos of a size belong, whether they are there or not.

    MobileNet has a file for each of several sizes; other sizes take the one of 224.
    """
    return keras_folder() / row.file.format(size=_pick_size(row, image_size))


def weights_url(row: Row, image_size: int | None = None) -> str:
    """Where Keras downloads that file from."""
    name = row.remote or row.file.format(size=_pick_size(row, image_size))
    return row.family.url + name


def _pick_size(row: Row, image_size: int | None) -> int:
    return image_size if image_size in row.sizes else row.image_size


def is_in_keras_cache(row: Row, image_size: int | None = None) -> bool:
    """Whether the file is there and its digest is the one that Keras expects, if it has one."""
    path = weights_file(row, image_size)
    return path.is_file() and (not row.digest or _has_digest(path, row.digest))


def digest_weights(row: Row, image_size: int | None = None) -> str:
    """Keras's digest of the file; where it has none, the sha256 of the file that is there."""
    if row.digest:
        return row.digest
    with weights_file(row, image_size).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_kind(digest: str) -> str:
    return "sha256" if len(digest) == 64 else "md5"


def _has_digest(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            # The md5 is Keras's choice for its older files: a check against damage.
            found = hashlib.file_digest(
                file, lambda: hashlib.new(_digest_kind(digest), usedforsecurity=False)
            )
    except OSError:
        return False
    return found.hexdigest() == digest


def fetch_weights(name: str, row: Row, image_size: int | None = None) -> Path:
    """The weights file, downloaded by Keras into its cache where it is missing or damaged.

    Args:
        name: Of the backbone, for messages.
        row: What to fetch.
        image_size: Side of the photos in pixels.

    Raises:
        BackboneError: No internet, another file than expected, or nowhere to write it; the message
            says what to download by hand and where to put it.
    """
    path, url = weights_file(row, image_size), weights_url(row, image_size)
    if is_in_keras_cache(row, image_size):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(path.parent, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:  # Keras itself would go on in a folder that everybody can write
        raise BackboneError(
            f"The weights of {name} belong into {path.parent}, which cannot be written. Set the "
            "environment variable KERAS_HOME to a folder that can."
        )
    start_tensorflow()
    from keras.utils import get_file

    try:
        with contextlib.redirect_stdout(sys.stderr):  # progress is no result
            get_file(
                path.name,
                url,
                cache_subdir=path.parent.name,
                cache_dir=str(path.parent.parent),
                file_hash=row.digest or None,
            )
    except Exception as error:  # Keras raises a bare Exception for a failed download
        if isinstance(error.__context__, HTTPError):
            error.__context__.close()
        if row.digest and path.is_file() and not _has_digest(path, row.digest):
            path.unlink()
        raise BackboneError(_explain(name, row, path, url, error)) from error
    return path


def _explain(name: str, row: Row, path: Path, url: str, error: Exception) -> str:
    reason = str(error).removeprefix(f"URL fetch failure on {url}: ").removeprefix("None -- ")
    expected = f" ({_digest_kind(row.digest)} {row.digest})" if row.digest else ""
    return (
        f"The ImageNet weights of {name} could not be downloaded from {url}: {reason.rstrip('.')}. "
        f"Without internet here, download that file elsewhere{expected} and put it at {path}; or "
        "give a weights file of yours: load_backbone(name, weights=FILE), or on the command line "
        f'--backbone "{name}?weights=FILE". Backbones that are ready: headstart backbones --ready'
    )
