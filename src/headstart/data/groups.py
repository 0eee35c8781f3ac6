"""Which photos the user says belong together: found in their paths by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headstart.errors import DatasetError


def compile_pattern(group_by: str | None) -> re.Pattern[str] | None:
    """The regular expression that finds a group in a path.

    Raises:
        DatasetError: It is not one.
    """
    try:
        return None if group_by is None else re.compile(group_by)
    except re.error as error:
        raise DatasetError(
            f"group-by: {group_by!r} is not a regular expression: {error}. Accepted is one that "
            "finds the group in a photo's path, such as patient([0-9]+); for a table it is the "
            "name of a column."
        ) from None


def find_groups(
    paths: Sequence[str], pattern: re.Pattern[str] | None
) -> tuple[list[str | None], list[str]]:
    """The group of each path, and warnings.

    It is what the pattern finds first: its first capture group or, when it has none, the whole
    match. None is what it finds nothing in: a photo on its own.

    >>> find_groups(["a/p1_x.jpg", "b/p1_y.jpg", "a/z.jpg"], re.compile("p([0-9]+)_"))
    (['1', '1', None], [])
    """
    if pattern is None:
        return [None] * len(paths), []
    matches = [pattern.search(path) for path in paths]
    # A capture group may have no part in the match, or an empty one.
    groups = [(m[1 if pattern.groups else 0] or None) if m else None for m in matches]
    if any(groups) or not paths:
        return groups, []
    return groups, [
        f"group-by: {pattern.pattern!r} finds nothing in any path, such as {paths[0]}: every photo "
        "is on its own."
    ]
