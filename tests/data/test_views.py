"""Views of a photo: determined by photo, number and seed; close to the photo."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.views import SIDES, VIEWS_VERSION, get_source_size, make_view


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[0:256, 0:256]
    channels = [x * 0.9, y * 0.8 + 20, 128 + 100 * np.sin(x / 40) * np.cos(y / 60)]
    return np.stack(channels, -1).astype(np.uint8)


def test_view_0_is_the_square_and_view_1_its_mirror_image(square: np.ndarray) -> None:
    assert (make_view(square, 256, "a", 0) == square).all()
    assert (make_view(square, 256, "a", 1) == square[:, ::-1]).all()
    smaller = make_view(square, 224, "a", 0)
    assert (make_view(square, 224, "b", 1) == smaller[:, ::-1]).all()


def test_a_view_depends_on_photo_number_and_seed_only(square: np.ndarray) -> None:
    views = {
        (photo, view, seed): make_view(square, 64, photo, view, seed).tobytes()
        for photo in "ab"
        for view in (2, 3)
        for seed in (0, 1)
    }
    assert len(set(views.values())) == len(views), "all differ"
    for (photo, view, seed), pixels in views.items():
        assert make_view(square, 64, photo, view, seed).tobytes() == pixels


def test_views_are_what_their_version_says(square: np.ndarray) -> None:
    """Other pixels need another version, or caches would mix both."""
    views = [make_view(square, 64, "photo", view).astype(int) for view in range(2, 6)]
    means = [round(float(view.mean()), 1) for view in views]
    assert VIEWS_VERSION == 1
    assert means == pytest.approx([122.8, 119.6, 106.3, 90.2], abs=0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 10**6), st.integers(0, 10**6), st.integers(16, 80))
def test_any_view_is_a_picture_of_the_photo(view: int, seed: int, size: int) -> None:
    y, x = np.mgrid[0:96, 0:96]
    square = np.stack([x * 2.0, y * 2.0, 0 * x + 90], -1).astype(np.uint8)
    photo = hashlib.sha256(str(seed).encode()).hexdigest()
    pixels = make_view(square, size, photo, view, seed)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    across = np.abs(np.diff(pixels[:, :, 0].astype(int).mean(0))).sum()
    down = np.abs(np.diff(pixels[:, :, 1].astype(int).mean(1))).sum()
    assert across > 50, "columns still differ"
    assert down > 50, "and rows"


def test_the_source_leaves_room_for_crops() -> None:
    assert get_source_size(224) == 256
    assert get_source_size(224) * SIDES[0] > 224 * 0.8, "crops are not enlarged by much"
