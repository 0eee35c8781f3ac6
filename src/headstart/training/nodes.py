"""Fine-tuning on the nodes of an engine: each computes the gradient of its part of every batch.

The command adds the parts up in their order and takes the step, as it does alone: one optimizer,
one clipping, one decay, one checkpoint. Nodes keep nothing from step to step, so that a part of a
node that was lost is computed by another one, and the step is the same. The batch is that of one
process, whatever the number of nodes; therefore the learning rate is, too. docs/scale.md has the
figures, and why it is not `tf.distribute.MultiWorkerMirroredStrategy`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from headstart.engines import Engine, Work, current_engine
from headstart.errors import BackboneError, HeadstartError
from headstart.quiet import start_tensorflow
from headstart.recipe import FineTune
from headstart.runtimes.tensorflow_runtime import open_module
from headstart.training import hardware
from headstart.training.batch import Batch, Part
from headstart.training.network import Network

Floats = npt.NDArray[np.floating]

_LOGGER = logging.getLogger(__name__)

# On fewer photos, training takes hardly longer than it takes to start TensorFlow on the nodes.
LEAST_SENT = 500

# A node is given so many photos of a batch at least: sending weights takes time, too.
LEAST_PART = 4

# The weights, and what to compute with them; gradients, loss and sum of scores.
_Wanted = tuple[list[Floats], Part]
_Gradients = tuple[list[Floats], float, float]


@dataclass(frozen=True, eq=False)
class Differentiation:
    """Parts of batches → their gradients, wherever it runs.

    Attributes:
        graph: What `headstart.training.network.Network.pack` gave.
        version: TensorFlow's.
    """

    graph: bytes
    version: str

    @contextlib.contextmanager
    def open(self, cores: int) -> Iterator[Work[_Wanted, _Gradients]]:
        """The work."""
        import tensorflow as tf

        if tf.__version__ != self.version:
            raise HeadstartError(
                f"A node has TensorFlow {tf.__version__}; the run was begun with {self.version}, "
                "and results may differ. Install the same versions on all nodes."
            )
        with contextlib.suppress(RuntimeError):  # it has begun already
            tf.config.threading.set_intra_op_parallelism_threads(cores)
        start_tensorflow()
        module = open_module(self.graph)

        def run(items: Iterable[_Wanted]) -> Iterator[_Gradients]:
            for weights, part in items:
                for variable, array in zip(module.trained, weights, strict=True):
                    variable.assign(array)
                gradients, loss, score = module.part(*map(tf.convert_to_tensor, part.arrays))
                yield [gradient.numpy() for gradient in gradients], float(loss), float(score)

        yield run


class Nodes:
    """The nodes of an engine, as one that computes gradients.

    Args:
        graph: See `Differentiation`.
        engine: Where; it may lose nodes and gain some.
    """

    def __init__(self, graph: bytes, engine: Engine) -> None:
        import tensorflow as tf

        # As nodes compare it: the package may have another name or version (tensorflow-cpu).
        self._engine, self._work = engine, Differentiation(graph, tf.__version__)

    def differentiate(self, batch: Batch, weights: list[Floats]) -> _Gradients:
        """The gradient of each weight, the loss and the sum of the scores of a batch.

        Raises:
            HeadstartError: The nodes are gone, or they cannot compute it.
        """
        count = max(1, min(self._engine.nodes, len(batch.photos[0]) // LEAST_PART))
        parts = [(weights, part) for part in batch.cut(count)]
        found = list(self._engine.map(self._work.open, parts, lost=_refuse, chunk=1, by_node=True))
        gradients, losses, scores = zip(*found, strict=True)
        added = [sum(each[1:], each[0]) for each in zip(*gradients, strict=True)]
        return added, sum(losses), sum(scores)


def _refuse(item: _Wanted, why: str) -> NoReturn:
    raise HeadstartError(
        f"A step of fine-tuning could not be computed on a node: {why}. Run again to go on from "
        "the last checkpoint, or with --engine local."
    )


def spread(network: Network, photos: int) -> str:
    """Have the nodes of the engine in use compute a network's gradients; or why they do not.

    Args:
        network: Whose steps.
        photos: That are trained on.
    """
    engine = current_engine()
    if not engine.is_remote:
        return ""
    why = _object(engine, network.settings, photos)
    if not why:
        try:
            network.differentiate_by(Nodes(network.pack(), engine).differentiate)
        except BackboneError as error:
            why = str(error).rstrip(".")
    where = f"on this machine: {why}" if why else f"on {engine.nodes} nodes"
    _LOGGER.info("steps of fine-tuning are computed %s", where)
    return why


def _object(engine: Engine, settings: FineTune, photos: int) -> str:
    """Why the nodes of an engine do not share batches; or nothing."""
    if hardware.find_hardware().devices:
        return "it has a GPU, which cores of nodes do not make up for"
    if settings.batchnorm == "train":
        return "BatchNormalization that is trained needs the whole batch"
    if settings.batch_size < 2 * LEAST_PART:
        return f"a batch of {settings.batch_size} photos is too small to be shared"
    if photos < LEAST_SENT:
        return (
            f"on {photos:,} training photos (fewer than {LEAST_SENT}) starting TensorFlow on nodes "
            "would take longer than it saves"
        )
    if engine.nodes < 2:
        return "the cluster has one node"
    return ""
