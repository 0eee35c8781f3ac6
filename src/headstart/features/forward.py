"""What a pass computes, wherever it runs: photos → decoded → activations, a batch at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.data.addresses import AddressPath
from headstart.data.decode_pool import DecodePool, ScannedPath
from headstart.data.quality import measure_quality
from headstart.data.scan import Sample
from headstart.data.stream import BATCH_SIZE, Batch, Content, map_photos
from headstart.engines import Work, current_engine
from headstart.errors import HeadstartError, UnreadablePhotoError
from headstart.files import digest_bytes
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.runtimes import REFERENCE, Session, get_runtime

# Photos that a task takes along, where they are sent: some seconds of a core. The activations of
# so many are in memory at once.
MOST_SENT, MOST_SENT_BYTES = 64, 8 * 2**20


@dataclass(frozen=True)
class Forward:
    """Photos → batches of activations, in the order of the photos.

    Attributes:
        image_size: Side of the square pixels.
        open_session: Opens what computes, where it computes.
    """

    image_size: int
    open_session: Callable[[], Session]

    @contextlib.contextmanager
    def open(self, cores: int) -> Iterator[Work[Sample, Batch[Sample]]]:
        """The work, with what decodes and computes for it; the network is opened meanwhile."""
        session = padded(open_beside(self.open_session))
        with DecodePool(self.image_size, cores) as pool:

            def run(samples: Iterable[Sample]) -> Iterator[Batch[Sample]]:
                return map_photos(samples, read_content, pool, session, measure_quality)

            yield run


def open_forward(prefix: Prefix, runtime: str) -> Forward:
    """The pass of a prefix on a runtime, such as the engine in use can take."""
    found, build = get_runtime(runtime), lambda: build_prefix_model(prefix)
    if current_engine().gpus and not found.uses_gpus:
        raise HeadstartError(
            f"The runtime {runtime} computes on CPUs, and would hold GPUs that it does not use. "
            f"Choose the runtime {REFERENCE}, or leave the GPUs out."
        )
    if not current_engine().is_remote:
        return Forward(prefix.image_size, lambda: found.open(prefix, build))
    return Forward(prefix.image_size, found.pack(prefix, build).open)


def count_sent(photos: int, bytes_per_photo: int) -> int:
    """How many photos a task takes along, so that all cores of the engine have some.

    A whole number of batches: then a photo has the same neighbours as on one machine.
    """
    share = photos // (4 * current_engine().slots)
    most = min(MOST_SENT, MOST_SENT_BYTES // max(bytes_per_photo, 1), share)
    return max(1, most // BATCH_SIZE) * BATCH_SIZE


def read_content(sample: Sample) -> Path | Content:
    """The path of a sample, with the digest of the scan, or what it carries in memory.

    Of an address the bytes.

    Raises:
        UnreadablePhotoError, OSError: They are not those of the scan, or do not come.
    """
    if sample.content is not None:
        content: Content = sample.content
        return content
    if isinstance(sample.path, AddressPath):
        content = sample.path.read_bytes()
        if digest_bytes(content) != sample.digest:
            raise UnreadablePhotoError("changed while running; run again")
        return content
    path = ScannedPath(sample.path)
    path.digest = sample.digest
    return path


def open_beside(open_session: Callable[[], Session]) -> Session:
    """A session that is opened in a thread of its own, while the first photos are decoded."""
    opened: Future[Session] = Future()

    def work() -> None:
        try:
            opened.set_result(open_session())
        except BaseException as error:  # it is raised where the session is used
            opened.set_exception(error)

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return opened.result()(images)

    threading.Thread(target=work, name="open session").start()
    return run


def padded(session: Session) -> Session:
    """A session that always sees `BATCH_SIZE` photos.

    Some kernels choose their algorithm by the batch; a photo's numbers must not depend on how many
    others came with it.
    """

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        short = BATCH_SIZE - len(images)
        if short > 0:
            blank = np.zeros((short, *images.shape[1:]), np.uint8)
            return session(np.concatenate([images, blank]))[:-short]
        return session(images)

    return run
