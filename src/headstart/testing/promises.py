"""What all contract checks say a broken promise with."""

from __future__ import annotations


def require(holds: bool, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless the promise holds."""
    if not holds:
        raise AssertionError(sentence)
