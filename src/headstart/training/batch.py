"""A batch with all that is random of its step, and its cut into parts.

What is drawn belongs to the batch: whoever computes a part of it computes what one process would.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

# Activations as they were read, targets, weights; of the same photos.
Photos = tuple[npt.NDArray[np.generic], Floats, Floats]


@dataclass(frozen=True)
class Part:
    """Photos of a batch that stand one after the other.

    Attributes:
        own: The photos.
        others: Those that they are mixed with, one each; none without mixup.
        share: Of its own in each mixture.
        seed: ``(2,)`` of dropout.
        place: ``(3,)`` first and last place (exclusive) in the batch; photos of the batch.
    """

    own: Photos
    others: Photos
    share: float
    seed: Integers
    place: tuple[int, int, int]

    @property
    def arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        """What `headstart.training.network.Network` computes from: float32, then int32."""
        floats = [array.astype(np.float32) for array in (*self.own, *self.others)]
        place = np.asarray(self.place, np.int32)
        return (*floats, np.asarray(self.share, np.float32), self.seed, place)


@dataclass(frozen=True)
class Batch:
    """The photos of a step.

    Attributes:
        photos: Activations ``(batch, *shape)``, targets ``(batch, name)``, weights ``(batch,)``.
        share: See `Part`.
        partners: ``(batch,)`` places of the photos that they are mixed with; none without mixup.
        seed: See `Part`.
    """

    photos: Photos
    share: float
    partners: Integers
    seed: Integers

    @classmethod
    def draw(
        cls,
        activations: npt.NDArray[np.generic],
        targets: Floats,
        weights: Floats,
        mixup: float,
        random: np.random.Generator,
    ) -> Batch:
        """A batch, with what is random of its step drawn.

        >>> photos = np.zeros((4, 2)), np.eye(4), np.ones(4)
        >>> Batch.draw(*photos, 0.0, np.random.default_rng(0)).share
        1.0
        """
        share, partners = 1.0, np.arange(0)
        if mixup:
            share, partners = random.beta(mixup, mixup), random.permutation(len(activations))
        seed = random.integers(2**31, size=2, dtype=np.int32)
        return cls((activations, targets, weights), share, partners, seed)

    @property
    def whole(self) -> Part:
        """All of it as one part."""
        return self.cut(1)[0]

    def cut(self, count: int) -> list[Part]:
        """The batch in so many parts of about the same size.

        >>> photos = np.arange(5.0)[:, None], np.eye(5), np.ones(5)
        >>> batch = Batch.draw(*photos, 1.0, np.random.default_rng(0))
        >>> [part.place for part in batch.cut(2)]
        [(0, 2, 5), (2, 5, 5)]
        """
        total = len(self.photos[0])
        ends = [total * number // count for number in range(count + 1)]
        return [self._take(first, last) for first, last in itertools.pairwise(ends)]

    def _take(self, first: int, last: int) -> Part:
        (x, targets, weights), partners = self.photos, self.partners[first:last]
        return Part(
            (x[first:last], targets[first:last], weights[first:last]),
            (x[partners], targets[partners], weights[partners]),
            self.share,
            self.seed,
            (first, last, len(x)),
        )
