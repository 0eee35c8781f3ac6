"""Blur, brightness and contrast of photos, measured once per photo and remembered."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.data.decode import DECODE_VERSION
from headstart.data.decode_pool import DecodePool
from headstart.data.quality import QUALITY_MARGIN, QUALITY_SIDE, QUALITY_VERSION, measure_quality
from headstart.data.scan import Sample
from headstart.data.stream import map_photos
from headstart.features.cache import ActivationCache, Space
from headstart.features.extract import Progress

_SPACE = Space(
    backbone="photo quality",
    weights_digest="",
    boundary="blur, brightness, contrast",
    shape=(3,),
    image_size=QUALITY_SIDE,
    decode_version=DECODE_VERSION,
    runtime=f"quality {QUALITY_VERSION}",
    dtype="float32",
)


def extract_quality(
    samples: Sequence[Sample], progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """``(sample, 3)`` blur, brightness, contrast; NaN where a photo cannot be read any more.

    Raises:
        CacheError, HeadstartError: The cache cannot be read or written.
    """
    with contextlib.closing(ActivationCache(_SPACE)) as cache:
        keys = [sample.digest for sample in samples]
        cache.drop_damaged(keys)
        missing = set(cache.missing(keys))
        new = list({s.digest: s for s in samples if s.digest in missing}.values())
        done = len(samples) - len(new)
        pool = DecodePool(QUALITY_SIDE, draft_margin=QUALITY_MARGIN)
        batches = map_photos(
            new,
            lambda sample: sample.path if sample.content is None else sample.content,
            QUALITY_SIDE,
            measure_quality,
            pool=pool,
        )
        with pool, contextlib.closing(batches) as results:
            for batch in results:
                if batch.items:
                    cache.append([(sample.digest, 0) for sample in batch.items], batch.rows)
                    missing -= {sample.digest for sample in batch.items}
                done += len(batch.order)
                if progress is not None:
                    progress(done, len(samples))
        cache.flush()
        known = np.array([key not in missing for key in keys], bool)
        figures = np.full((len(keys), 3), np.nan, np.float32)
        figures[known] = cache.read([key for key in keys if key not in missing])
        return figures
