"""Suffix and head as one trainable thing: its variables, its logits, its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.models.boundary import cut, list_blocks, pool
from headstart.models.graph import list_layers, trace
from headstart.models.unfreeze import (
    ParameterCount,
    Unfreeze,
    count_parameters,
    list_batchnorms,
    list_trained,
    set_trainable,
)
from headstart.recipe import FineTune
from headstart.runtimes.tensorflow_runtime import pack_module
from headstart.task import CLASSIFICATION, Task
from headstart.training.batch import Batch
from headstart.training.hardware import FULL, LossScale, computing_in
from headstart.training.objective import OBJECTIVES
from headstart.training.pointwise import multiplying

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.floating]

# A batch and the weights → the gradient of each, the loss and the sum of the scores.
Differentiate = Callable[[Batch, list[Floats]], tuple[list[Floats], float, float]]

# Gradients are scaled down to this norm: one odd batch must not throw the pretrained weights away.
MOST_GRADIENT = 5.0


class Network:
    """The part of a backbone after the boundary, pooling and a linear head.

    Training it trains the backbone: they share their layers. It is made, like the backbone, in the
    scope of the devices that shall share its batches, see `headstart.training.hardware`.

    Args:
        backbone: A model from photos to a feature map or vector.
        unfreeze: What of it is trained.
        num_classes: Number of classes.
        settings: Of the stage.
        precision: Of the steps.
        task: What is told of a photo.
    """

    def __init__(
        self,
        backbone: keras.Model,
        unfreeze: Unfreeze,
        num_classes: int,
        settings: FineTune,
        precision: str = FULL,
        task: Task = CLASSIFICATION,
    ) -> None:
        import keras
        import tensorflow as tf

        self.backbone, self.unfreeze, self.settings = backbone, unfreeze, settings
        self.num_classes, self._objective = num_classes, OBJECTIVES[task.name]
        self._is_training = unfreeze.batchnorm == "train"
        if self._is_training:
            set_trainable(backbone, unfreeze)  # only then do its statistics move
        _, self.suffix = cut(backbone, unfreeze.boundary)
        self.head = keras.layers.Dense(num_classes, name="head")
        self.head.build((None, int(backbone.output_shape[-1])))
        self.depths = self._list_depths()
        self.variables: list[Any] = [variable for variable, _ in self.depths]
        # What changes without a gradient: moving statistics, and the state of dropout layers.
        self.statistics = list(self.suffix.non_trainable_variables) if self._is_training else []
        self._optimizers: list[tuple[Any, float, bool, list[int]]] = []
        self._anchors = [tf.Variable(variable.value.numpy()) for variable in self.variables]
        self._strategy: Any = tf.distribute.get_strategy()
        self._loss_scale = None if precision == FULL else LossScale()
        self.reset()
        # One graph for all batches: one made for a certain number of photos may round differently,
        # and after an interruption another batch is the first.
        batch = tf.TensorSpec((None, *self.suffix.input_shape[1:]), tf.float32)
        rows, single = tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.float32)
        photos = (batch, tf.TensorSpec((None, num_classes), tf.float32), rows)
        ints = tf.TensorSpec((2,), tf.int32), tf.TensorSpec((3,), tf.int32)
        self._signature = (*photos, *photos, single, *ints)
        train = tf.function(self._train_step, input_signature=self._signature)
        with multiplying(self.suffix), computing_in(precision, self.suffix):
            self._train = train.get_concrete_function()
        self._forward = tf.function(self._logits, input_signature=(batch,))
        self._elsewhere: Differentiate | None = None

    @property
    def is_shared(self) -> bool:
        """Whether several devices share each batch."""
        return bool(self._strategy.num_replicas_in_sync > 1)

    # ---- state

    def get(self) -> list[Floats]:
        """Copies of all that training changes: variables, then statistics."""
        return [v.value.numpy() for v in (*self.variables, *self.statistics)]

    def set(self, arrays: Sequence[Floats]) -> None:
        """Put back what `get` gave, or a mixture of two."""
        for variable, array in zip((*self.variables, *self.statistics), arrays, strict=True):
            variable.assign(array)

    def start(self, arrays: Sequence[Floats], kernel: Floats, bias: Floats) -> None:
        """Begin from these arrays with this head; it is also what L2-SP pulls to."""
        self.set(arrays)
        self.head.kernel.assign(kernel)
        self.head.bias.assign(bias)
        for anchor, variable in zip(self._anchors, self.variables, strict=True):
            anchor.assign(variable.value)
        self.reset()

    def reset(self) -> None:
        """Forget what the optimizers remember."""
        if not self._optimizers:
            self._optimizers = self._make_optimizers()
        for optimizer, *_ in self._optimizers:
            for variable in optimizer.variables:
                if variable is not optimizer.learning_rate:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
        if self._loss_scale is not None:
            self._loss_scale.reset()

    def get_optimizer(self) -> list[Floats]:
        """Copies of the optimizers' variables."""
        return [variable.numpy() for variable in self._list_state()]

    def set_optimizer(self, arrays: Sequence[Floats]) -> None:
        """Put back what `get_optimizer` gave."""
        for variable, array in zip(self._list_state(), arrays, strict=True):
            variable.assign(array)

    def _list_state(self) -> list[Any]:
        scale = self._loss_scale.variables if self._loss_scale else []
        return [*(v.value for o, *_ in self._optimizers for v in o.variables), *scale]

    def count_parameters(self) -> tuple[ParameterCount, ...]:
        """What is trained and what is frozen, by block; the head at the end."""
        head = ParameterCount("(head)", 1, int(self.head.count_params()), 0)
        return (*count_parameters(self.backbone, self.variables[:-2]), head)

    def name_arrays(self) -> dict[str, Floats]:
        """The backbone's arrays by ``layer/variable``, as they are now."""
        return {
            f"{layer.name}/{variable.name}": variable.value.numpy()
            for layer in list_layers(self.backbone)
            for variable in layer.variables
        }

    # ---- computing

    def train_step(
        self,
        activations: Floats,
        targets: Floats,
        weights: Floats,
        rates: tuple[float, float],
        random: np.random.Generator,
    ) -> tuple[float, float]:
        """One step of the optimizers.

        Args:
            activations: ``(batch, *shape)``.
            targets: ``(batch, class)`` as `headstart.training.objective.Targets` has them.
            weights: ``(batch,)``.
            rates: Learning rates of the last block and of the head.
            random: What dropout and mixup draw from.

        Returns:
            Loss and sum of the scores (number of right answers), before the step.
        """
        import tensorflow as tf

        for optimizer, factor, is_head, _ in self._optimizers:
            optimizer.learning_rate.assign(rates[1] if is_head else rates[0] * factor)
        batch = Batch.draw(activations, targets, weights, self.settings.mixup, random)
        if self._elsewhere is None:
            loss, right = self._train(*map(tf.convert_to_tensor, batch.whole.arrays))
            return float(loss), float(right)
        values = [variable.value.numpy() for variable in self.variables]
        gradients, loss, right = self._elsewhere(batch, values)
        self._finish([tf.convert_to_tensor(gradient) for gradient in gradients])
        return loss, right

    def differentiate_by(self, elsewhere: Differentiate) -> None:
        """Have the gradients of all further steps computed by somebody else."""
        import tensorflow as tf

        specs = [tf.TensorSpec(variable.shape, tf.float32) for variable in self.variables]
        self._finish = tf.function(self._apply, input_signature=(specs,))
        self._elsewhere = elsewhere

    def pack(self) -> bytes:
        """What computes gradients in another process, see `headstart.training.nodes`.

        A SavedModel: neither Keras nor the layers of a user's own model are needed there.

        Raises:
            BackboneError: TensorFlow cannot save it.
        """
        import tensorflow as tf

        module = tf.Module()
        module.part = tf.function(self._differentiate, input_signature=self._signature)
        with multiplying(self.suffix):
            function = module.part.get_concrete_function()
        module.trained = [variable.value for variable in self.variables]
        module.held = list(function.variables)  # those that are not trained, too
        return pack_module(module, self.backbone.name, "Use the engine local.")

    def compute_logits(self, activations: Floats) -> Floats:
        """``(batch, class)`` logits of ``(batch, *shape)`` activations, in inference mode."""
        import tensorflow as tf

        return np.asarray(self._forward(tf.convert_to_tensor(activations.astype(np.float32))))

    def _features(self, x: Any, training: bool) -> Any:
        return pool(self.suffix(x, training=training))

    def _logits(self, x: Any) -> Any:
        return self.head(self._features(x, False))

    def _train_step(self, *part: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        gradients, loss, right = self._differentiate(*part)
        if self._loss_scale is None:
            self._strategy.run(self._apply, (gradients,))
            return loss, right
        gradients = [gradient / self._loss_scale.scale for gradient in gradients]
        apply = lambda: self._strategy.run(self._apply, (gradients,))  # noqa: E731
        is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        tf.cond(is_finite, apply, lambda: None)
        self._loss_scale.update(is_finite)
        return loss, right

    def _differentiate(self, *part: Any) -> tuple[list[Any], Any, Any]:
        """Of a `headstart.training.batch.Part`: its share of gradients, loss and scores."""
        import tensorflow as tf

        *photos, share, seed, place = part
        settings, (x, targets, weights) = self.settings, photos[:3]
        if settings.mixup:
            pairs = zip(photos[:3], photos[3:], strict=True)
            x, targets, weights = (share * own + (1 - share) * other for own, other in pairs)
        if settings.label_smoothing:
            even = settings.label_smoothing * self._objective.even(self.num_classes)
            targets = targets * (1 - settings.label_smoothing) + even
        first, last, count = place[0], place[1], place[2]
        noise = tf.ones((count, self.backbone.output_shape[-1]))
        if settings.dropout:  # by the place in the batch, however it is cut
            noise = tf.nn.experimental.stateless_dropout(noise, settings.dropout, seed)
        held = x, targets, weights, noise[first:last], tf.cast(count, tf.float32)
        found = self._strategy.run(self._differentiate_here, held)
        gradients, loss, right = tf.nest.map_structure(self._add_up, found)
        return gradients, loss, right

    def _differentiate_here(
        self, x: Any, targets: Any, weights: Any, noise: Any, count: Any
    ) -> tuple[list[Any], Any, Any]:
        """Of a device's share of a part: gradients, loss and scores, to be added up."""
        import tensorflow as tf

        context, photos = tf.distribute.get_replica_context(), tf.shape(x)[0]
        number, devices = context.replica_id_in_sync_group, context.num_replicas_in_sync
        own = slice(photos * number // devices, photos * (number + 1) // devices)
        x, targets, weights, noise = x[own], targets[own], weights[own], noise[own]
        values = [variable.value for variable in self.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            features = tf.cast(self._features(x, self._is_training), tf.float32) * noise
            logits = self.head(features)
            losses = self._objective.losses_in_graph(targets, logits)
            loss = total = tf.reduce_sum(losses * weights) / count
            if self._loss_scale is not None:
                total *= self._loss_scale.scale
        gradients = tape.gradient(total, values)
        return gradients, loss, tf.reduce_sum(self._objective.scores_in_graph(targets, logits))

    def _add_up(self, value: Any) -> Any:
        return self._strategy.reduce("SUM", value, axis=None)

    def _apply(self, gradients: list[Any]) -> None:
        """A step along the gradients of a whole batch; in a graph."""
        import tensorflow as tf

        if self.settings.l2_sp:
            values = [variable.value for variable in self.variables]
            pulls = [v - a for v, a in zip(values[:-2], self._anchors[:-2], strict=True)]
            pulled = [
                g + self.settings.l2_sp * pull
                for g, pull in zip(gradients[:-2], pulls, strict=True)
            ]
            gradients = [*pulled, *gradients[-2:]]
        clipped, _ = tf.clip_by_global_norm(gradients, MOST_GRADIENT)
        # Every device has the whole gradient, and Keras's optimizers add up what devices have.
        parts = tf.distribute.get_replica_context().num_replicas_in_sync
        clipped = [gradient / parts for gradient in clipped]
        for optimizer, _, _, members in self._optimizers:
            optimizer.apply([clipped[i] for i in members], [self.variables[i] for i in members])

    # ---- what is trained

    def _list_depths(self) -> list[tuple[Any, int]]:
        """Variables with their distance from the top in blocks; the head's, at the end, have -1."""
        graph, blocks = trace(self.backbone), list_blocks(self.backbone)
        names = set(self.unfreeze.layers)
        found: dict[int, tuple[Any, int]] = {}
        for number, step in enumerate(graph.steps if graph else ()):
            if step.name in names:
                later = sum(block.first > number for block in blocks)
                for variable in list_trained(step.layer, self.unfreeze.batchnorm):
                    found.setdefault(id(variable), (variable, later))
        head = [(self.head.kernel, -1), (self.head.bias, -1)]
        return [*found.values(), *head]

    def _make_optimizers(self) -> list[tuple[Any, float, bool, list[int]]]:
        """One per learning rate: ``(optimizer, factor, is head, numbers of its variables)``."""
        import keras

        settings, made = self.settings, []
        norms = {id(v) for norm in list_batchnorms(self.suffix) for v in norm.variables}
        for depth in sorted({depth for _, depth in self.depths}):
            members = [i for i, (_, d) in enumerate(self.depths) if d == depth]
            own = [self.variables[i] for i in members]
            if settings.optimizer == "sgd":
                optimizer = keras.optimizers.SGD(0.0, momentum=0.9)
            else:
                optimizer = keras.optimizers.AdamW(0.0, weight_decay=settings.weight_decay)
                spared = [v for v in own if len(v.shape) < 2 or id(v) in norms]
                if spared:
                    optimizer.exclude_from_weight_decay(var_list=spared)
            optimizer.build(own)
            made.append((optimizer, settings.layer_decay ** max(depth, 0), depth < 0, members))
        return made
