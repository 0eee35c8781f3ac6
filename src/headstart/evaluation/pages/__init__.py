"""Pages: one self-contained HTML file each, made by Jinja from numbers and pictures.

Nothing is loaded from elsewhere; all that comes from files, such as class names, is escaped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import datetime
from typing import Any

from headstart.budget import format_duration
from headstart.errors import require_package


def render(template: str, **values: Any) -> str:
    """An HTML page of a template of this folder; a missing value is an error.

    Raises:
        MissingPackageError: Jinja is not installed.
    """
    require_package("jinja2", purpose="writing a report")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headstart.evaluation", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        picture=_embed,
        comma=lambda n: f"{n:,}",
        short=lambda n: f"{n:.4g}",
        json=json.dumps,
        day=_day,
        span=_span,
    )
    text = environment.get_template(template).render(**values)
    # A file's name may hold bytes that are not UTF-8; a page cannot.
    return text.encode("utf-8", "replace").decode()


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _span(seconds: float | None) -> str:
    """A duration, or a dash."""
    return "–" if seconds is None else format_duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def _day(moment: str) -> str:
    """A moment in ISO 8601 as a reader's date, in UTC."""
    return f"{datetime.fromisoformat(moment):%d %B %Y, %H:%M} UTC".lstrip("0")


def _embed(picture: bytes, kind: str = "jpeg") -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{b64encode(picture).decode()}"
