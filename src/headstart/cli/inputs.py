"""What ``headstart predict`` is given: files, folders and patterns → photos."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headstart.data.addresses import find_pattern, is_waiting, locate
from headstart.data.decode import LIMITS
from headstart.data.scan import Problem, check_file, list_files
from headstart.errors import HeadstartError, NoMatchError, UnreadablePhotoError


@dataclass(frozen=True)
class Input:
    """One path, with the reason if it is already known to be no photo."""

    path: Path
    reason: str | None = None

    def check(self) -> Path:
        """The path of a file that may be opened.

        Raises:
            UnreadablePhotoError: It is not a photo, with the reason.
            OSError: It cannot be looked at.
        """
        reason = self.reason or check_file(self.path, LIMITS.file_bytes)
        if reason:
            raise UnreadablePhotoError(reason)
        return self.path


def list_inputs(patterns: Iterable[str]) -> Iterator[Input]:
    """The photos that paths, folders and patterns stand for, in order.

    A pattern is expanded here as well, for shells that do not do it. What does not exist, what
    cannot be listed, and a pattern that matches nothing, becomes an input with that reason.

    Raises:
        HeadstartError: A pattern is empty, or addresses cannot be listed.
    """
    for pattern in patterns:
        problems: list[Problem] = []
        try:
            paths = expand_patterns([pattern])
        except NoMatchError:
            yield Input(locate(pattern), "the pattern matches no file")
            continue
        yield from (Input(path) for path in list_files(paths, problems))
        yield from (Input(problem.path, problem.reason) for problem in problems)


def expand_patterns(patterns: Iterable[str]) -> list[Path]:
    """Files and folders that are meant, in order.

    Raises:
        NoMatchError: A pattern matches nothing.
        HeadstartError: One is empty.
    """
    paths: list[Path] = []
    for pattern in patterns:
        if not pattern:
            raise HeadstartError('An empty path was given. Write "." for the current folder.')
        paths += find_pattern(pattern) if is_waiting(pattern) else _expand(pattern)
    return paths


def _expand(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [Path(pattern)]
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise NoMatchError(f"The pattern {pattern} matches no file.")
    return [Path(name) for name in found]
