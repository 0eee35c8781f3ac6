"""The data of ``headstart demo``: scikit-learn's handwritten digits as image files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headstart.data.decode import array_to_image
from headstart.errors import HeadstartError, require_package
from headstart.files import write_bytes

# The 8 x 8 pixels are enlarged so that a person can look at them.
_SIDE = 64


def write_digits(folder: Path) -> Path:
    """Write the 1,797 digits (UCI, Alpaydin and Kaynak 1998) as PNG files, one folder per class.

    Files that are there already are left alone.

    Raises:
        MissingPackageError: scikit-learn, which brings the digits, is not installed.
        HeadstartError: The folder cannot be written.
    """
    require_package("sklearn", purpose="headstart demo")
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        if path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HeadstartError(
                f"{path.parent} cannot be created ({error.strerror}). Choose another with -o."
            ) from error
        pixels = np.round(255 - image * (255 / 16)).astype(np.uint8)
        stream = io.BytesIO()
        array_to_image(pixels).resize((_SIDE, _SIDE)).save(stream, "PNG")
        write_bytes(path, stream.getvalue())
    return folder
