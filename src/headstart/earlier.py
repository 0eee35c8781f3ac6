"""What bundles of earlier versions need to answer as they did."""

from __future__ import annotations

from headstart.bundle import Bundle
from headstart.data.decode import DECODE_VERSION
from headstart.errors import BundleError

# It cut all photos, however small, to a share of their shorter side.
_ALL_CUT = 2


def find_network_size(bundle: Bundle) -> int:
    """What decides how much of a photo is cut away, see `headstart.data.decode.measure_square`.

    Raises:
        BundleError: It was trained with a version of the decoder whose pixels are not those of
            this one.
    """
    version = bundle.manifest["decode_version"]
    if version not in (_ALL_CUT, DECODE_VERSION):
        raise BundleError(
            f"{bundle.path} was trained with version {version} of the photo decoder; this "
            f"Headstart has version {DECODE_VERSION}, whose pixels may differ. Train it again, "
            "or install the Headstart it was trained with (manifest.json, versions)."
        )
    return 1 if version == _ALL_CUT else bundle.image_size
