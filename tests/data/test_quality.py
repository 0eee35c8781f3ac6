"""Blur, brightness and contrast of pictures that are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from headstart.data.quality import QUALITY_SIDE, measure_quality


def draw(seed: int = 0) -> Image.Image:
    """Shapes with sharp edges on a textured ground."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(90, 130, (QUALITY_SIDE, QUALITY_SIDE, 3)).astype(np.uint8)
    for _ in range(12):
        row, column = rng.integers(0, 100, 2)
        photo[row : row + 20, column : column + 24] = rng.integers(0, 256, 3)
    return Image.fromarray(photo)


def measure(image: Image.Image) -> list[float]:
    return measure_quality(np.asarray(image)[None])[0].tolist()


def test_blur_grows_with_the_width_of_the_blur() -> None:
    for seed in range(5):
        found = [
            measure(draw(seed).filter(ImageFilter.GaussianBlur(width)))[0]
            for width in (0, 0.5, 1, 2, 4)
        ]
        assert found == sorted(found)
        assert found[0] < 0.3
        assert found[-1] > 0.6


def test_motion_in_one_direction_is_blur() -> None:
    pixels = np.asarray(draw()).astype(float)
    moved = np.mean([np.roll(pixels, step, axis=1) for step in range(12)], axis=0)
    along, across = moved.astype(np.uint8), moved.swapaxes(0, 1).astype(np.uint8)
    for picture in (along, across):
        assert measure(Image.fromarray(picture))[0] > 0.6


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_brightness_and_contrast_follow_the_light(share: float) -> None:
    pixels = (np.asarray(draw()) * share).astype(np.uint8)
    full, dim = measure(draw()), measure(Image.fromarray(pixels))
    assert dim[1] == pytest.approx(share * full[1], abs=0.01)
    assert dim[2] == pytest.approx(share * full[2], abs=0.01)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_one_grey_has_no_contrast_and_no_detail(grey: int) -> None:
    blur, brightness, contrast = measure(Image.new("RGB", (64, 64), (grey,) * 3))
    assert (blur, contrast) == (1, pytest.approx(0, abs=1e-6))
    assert brightness == pytest.approx(grey / 255)


def test_photos_are_measured_alike_in_any_company() -> None:
    photos = np.stack([np.asarray(draw(seed)) for seed in range(4)])
    together = measure_quality(photos)
    alone = np.concatenate([measure_quality(photo[None]) for photo in photos])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_pixels_of_a_network_tell_nearly_what_small_ones_tell() -> None:
    for seed, width in ((0, 0), (1, 1), (2, 4)):
        large = draw(seed).resize((448, 448)).filter(ImageFilter.GaussianBlur(width))
        shown = [measure(large.resize((side, side), reducing_gap=None)) for side in (224, 128)]
        np.testing.assert_allclose(*shown, atol=0.03)
