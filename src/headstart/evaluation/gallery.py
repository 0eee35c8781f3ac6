"""Photos with a word on each, in sections: the page of the doctor and of suggestions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.evaluation.pages import render


@dataclass(frozen=True)
class Card:
    """A photo, or a pair.

    Attributes:
        title: What is most to be seen, such as a class.
        text: A sentence.
        name: Of the file.
        pictures: JPEGs; an empty one where a photo cannot be shown.
    """

    title: str
    text: str
    name: str
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Section:
    """Photos of one kind.

    Attributes:
        title: Its heading.
        text: A sentence on all of them; may be empty.
        cards: Those that are shown.
        count: How many there are.
    """

    title: str
    text: str
    cards: tuple[Card, ...]
    count: int


def render_gallery(
    title: str, kicker: str, lines: Sequence[str], sections: Sequence[Section]
) -> str:
    """A page that needs nothing else.

    Args:
        title: Its heading.
        kicker: What kind of page it is.
        lines: Sentences below the heading.
        sections: What is shown, in this order.

    Raises:
        MissingPackageError: Jinja is not installed.

    >>> page = render_gallery("A < B", "kind", [], [Section("s", "", (Card("c", "", "n"),), 1)])
    >>> "A &lt; B" in page
    True
    """
    return render(
        "gallery.html.jinja", title=title, kicker=kicker, lines=lines, sections=sections, level=2
    )
