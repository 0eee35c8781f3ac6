"""`ImageClassifier`: the object a user holds. scikit-learn's habits, Keras's result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import Bundle, load_bundle, save_bundle
from headstart.data.labelled import list_photos, scan_labelled, unpack_dataset
from headstart.data.scan import Problem
from headstart.data.table import scan_source
from headstart.errors import HeadstartError, require_package
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.metrics import Evaluation
from headstart.evaluation.trust import COVERAGE
from headstart.parameters import Parameters
from headstart.predictor import Predictor, describe_trained, evaluate_manifest
from headstart.recipe import Recipe, choose_recipe
from headstart.runtimes import AUTO, require_runtime

if TYPE_CHECKING:
    import keras

    from headstart.features.extract import Progress
    from headstart.training.measure import Contrast, Mistake
    from headstart.training.tuning import Callbacks, Tuning

Photos = str | Path | Sequence[Any]

# In a notebook: one row of thumbnails.
_SHOWN_MISTAKES = 8


class ImageClassifier(Parameters):
    """An image classifier on a pretrained, frozen backbone.

    Args:
        backbone: A name of ``headstart backbones``, or a Keras model from 0-255 RGB photos to a
            feature map or vector.
        recipe: What is trained: ``"probe"``, the linear head; ``"tune"``, then also the last part
            of the backbone; or a `headstart.recipe.Recipe`.
        unfreeze: What of the backbone is trained, such as ``"last_block"`` or 4 (layers), see
            `headstart.models.unfreeze.resolve_unfreeze`; implies ``recipe="tune"``.
        seed: Of everything random: the split and the folds of the cross-validation.
        runtime: What computes the frozen part: ``"onnxruntime"``, ``"openvino"``, ``"litert"``,
            ``"tensorflow"``, or ``"auto"``, the fastest that agrees with TensorFlow.
        group_by: Photos that belong together (one person, one day) and stay on one side of the
            split: a regular expression on paths, or the column of a table (by default ``group``).

    Attributes:
        classes_: ``(class,)`` the class names, sorted; after `fit`.
        evaluation: Measured on the test photos; None before `fit`, or without test photos.
        mistakes: Test photos that were answered wrongly, the most confident first.
        problems: Files that were not used, with reasons.
        flags: Photos that were used although they may be corrupt, with reasons.
        warnings: Sentences about the photos.
        seconds: Time per step.
        tuning: What fine-tuning gave; None without it.
        comparison: The result beside simpler ones, on the test photos.
        cross_validation: Accuracy of the probe over all photos, where test photos are few.

    Example::

        clf = ImageClassifier().fit("photos/")
        print(clf.evaluation)
        clf.predict(["new.jpg"])
        clf.save("photos.headstart")
    """

    classes_: npt.NDArray[np.str_]

    def __init__(
        self,
        backbone: str | keras.Model = "efficientnet-lite0",
        *,
        recipe: str | Recipe = "probe",
        unfreeze: str | int | None = None,
        seed: int = 0,
        runtime: str = AUTO,
        group_by: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.unfreeze = unfreeze
        self.seed = seed
        self.runtime = runtime
        self.group_by = group_by
        self.evaluation: Evaluation | None = None
        self.mistakes: tuple[Mistake, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.flags: tuple[Problem, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.seconds: dict[str, float] = {}
        self.tuning: Tuning | None = None
        self.comparison: tuple[Contrast, ...] = ()
        self.cross_validation: Estimate | None = None
        self._bundle: Bundle | None = None
        self._predictor: Predictor | None = None
        self._model: keras.Model | None = None

    # ---- training

    def fit(
        self,
        X: Photos,
        y: Sequence[Any] | None = None,
        *,
        test: str | Path | None = None,
        earlier: Bundle | None = None,
        progress: Progress | None = None,
        callbacks: Callbacks = (),
        initial: str | Path | ImageClassifier | None = None,
    ) -> ImageClassifier:
        """Train; returns self.

        Args:
            X: A folder with one folder per class (or train/validation/test folders of such); a
                CSV file or a DataFrame with the columns path, label, optionally split and group;
                or, with ``y``, photos: paths, encoded bytes, Pillow images or uint8 arrays; or a
                `tf.data.Dataset` of pairs.
            y: ``(photo,)`` labels. All photos are trained on then, and `evaluation` is None unless
                ``test`` is given.
            test: A folder or table of test photos. Without it, and without a test folder inside,
                about 20 % of each class are set aside, see docs/splits.md.
            earlier: The `bundle` of an earlier fit with the same seed, whose split is gone on with.
            progress: Called with ``(done, all)`` photos.
            callbacks: Each is called with every `headstart.training.loop.Epoch` of fine-tuning.
            initial: A bundle or fitted classifier whose backbone is gone on from; the photos may
                have other classes.

        Raises:
            HeadstartError: One of its kinds, with what to do.
        """
        require_package("scipy", "threadpoolctl", "onnx", purpose="training")
        require_runtime(self.runtime)
        if not isinstance(self.seed, int) or self.seed < 0:
            raise HeadstartError(f"seed is {self.seed!r}; accepted are whole numbers from 0 on.")
        from headstart.models.loaders import load_prefix
        from headstart.training.fit import Stopwatch, train
        from headstart.training.pack import make_bundle
        from headstart.training.rebuild import continue_from
        from headstart.training.tuning import check_callbacks

        check_callbacks(callbacks)
        recipe, stopwatch = choose_recipe(self.recipe, unfreeze=self.unfreeze), Stopwatch()
        if recipe.fine_tune is not None:
            require_package("tensorflow", "keras", purpose="fine-tuning")
        prefix = load_prefix(self.backbone)
        if initial is not None:
            before = initial if isinstance(initial, ImageClassifier) else load(initial)
            prefix = continue_from(prefix, before.bundle, before._trained_backbone)
        with stopwatch.step("scan"):
            by = self.group_by
            X, y = unpack_dataset(X) if hasattr(X, "as_numpy_iterator") else (X, y)
            manifest = scan_source(X, by) if y is None else scan_labelled(X, y, by)
            tested = scan_source(test, by) if test is not None else None
        training = train(
            prefix,
            manifest,
            recipe,
            seed=self.seed,
            runtime=self.runtime,
            stopwatch=stopwatch,
            test=tested,
            earlier=earlier.manifest.get("split") if earlier else None,
            use_all=y is not None,
            progress=progress,
            callbacks=callbacks,
        )
        self.tuning, self.comparison = training.tuning, training.comparison
        self.cross_validation = training.cross_validation
        self.evaluation, self.mistakes = training.evaluation, training.mistakes
        self.problems, self.warnings = training.problems, training.warnings
        self.flags = training.flags
        self._bundle = make_bundle(prefix, training, recipe, self.seed)
        self.classes_ = np.array(training.class_names)
        self._predictor = self._model = None
        self.seconds = stopwatch.report()
        return self

    # ---- using

    def predict(self, X: Photos, *, views: int = 1) -> npt.NDArray[np.str_]:
        """``(photo,)`` class names.

        Args:
            X: Photos: paths, encoded bytes, Pillow images or uint8 arrays; a single path, or a
                folder, counts as a list of its photos.
            views: Views of each photo that are averaged, see `headstart.predictor.Predictor`.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        best = self.predict_proba(X, views=views).argmax(
            1
        )  # first, because it says when fit was not called
        names: npt.NDArray[np.str_] = self.classes_[best]
        return names

    def predict_proba(self, X: Photos, *, views: int = 1) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities, columns in the order of `classes_`.

        Args:
            X: Photos, see `predict`.
            views: Likewise.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        rows: list[npt.NDArray[np.float32]] = []
        predictor = self.predictor if views == 1 else Predictor(self.bundle, views=views)
        for prediction in predictor.predict(list_photos(X)):
            if prediction.problem is not None:
                shown = prediction.item if isinstance(prediction.item, (str, Path)) else len(rows)
                raise HeadstartError(
                    f"Photo {shown} cannot be predicted: {prediction.problem}. To go on past such "
                    "photos use classifier.predictor.predict, which gives the reason per photo."
                )
            rows.append(prediction.probabilities)
        return np.array(rows, np.float32).reshape(len(rows), len(self.classes_))

    def predict_sets(self, X: Photos, *, coverage: float = COVERAGE) -> list[tuple[str, ...]]:
        """For each photo the classes among which the truth is, the most probable first.

        Args:
            X: Photos, see `predict`.
            coverage: Share of the sets that shall hold the truth: 0.8, 0.9, 0.95 or 0.99.

        Raises:
            HeadstartError: A photo cannot be read, no thresholds were fitted (too few training
                photos), or `fit` was not called.
        """
        predictor = Predictor(self.bundle, coverage=coverage)
        if predictor.trust is None:
            raise HeadstartError(
                "This classifier has no prediction sets: it was trained on too few photos, or by "
                "an earlier Headstart. Train it again, on 20 photos or more."
            )
        found: list[tuple[str, ...]] = []
        for prediction in predictor.predict(list_photos(X)):
            if prediction.prediction_set is None:
                raise HeadstartError(f"Photo {len(found)} cannot be read: {prediction.problem}.")
            found.append(prediction.prediction_set)
        return found

    def evaluate(self, photos: str | Path | Any, *, views: int = 1) -> Evaluation:
        """Measure on labelled photos: a folder with one folder per class, or a table.

        With ``views`` above 1 the views of each photo are averaged, see `predict`.

        Unreadable photos are left out and added to `problems`; `warnings` counts trained ones.

        Raises:
            DatasetError: No photos, or a class that the classifier does not know.
        """
        manifest = scan_source(photos)
        predictor = self.predictor if views == 1 else Predictor(self.bundle, views=views)
        evaluation, problems = evaluate_manifest(predictor, manifest, self.seed)
        self.problems = problems
        self.warnings = (*manifest.warnings, *describe_trained(self.bundle, manifest))
        return evaluation

    def score(self, X: Photos, y: Sequence[Any]) -> float:
        """Accuracy on photos with labels, as scikit-learn's scorers expect it."""
        return float((self.predict(X) == np.asarray(y, str)).mean())

    @property
    def predictor(self) -> Predictor:
        """Predicts photo by photo, with reasons for those that cannot be read."""
        if self._predictor is None:
            self._predictor = Predictor(self.bundle)
        return self._predictor

    @property
    def bundle(self) -> Bundle:
        """What `save` writes.

        Raises:
            HeadstartError: `fit` was not called.
        """
        if self._bundle is None:
            raise HeadstartError("This ImageClassifier is not fitted yet; call fit(photos) first.")
        return self._bundle

    @property
    def model(self) -> keras.Model:
        """The classifier as one plain Keras model: 0-255 RGB photos → probabilities.

        Raises:
            MissingPackageError: TensorFlow is not installed.
            BundleError: It was trained on a Keras model that is not in the catalogue, and was
                loaded from a file, which holds that model only as a graph for prediction.
        """
        if self._model is None:
            require_package("tensorflow", "keras", purpose="building the Keras model")
            from headstart.training.rebuild import rebuild_classifier

            self._model = rebuild_classifier(self.bundle, self._trained_backbone)
        return self._model

    @property
    def _trained_backbone(self) -> keras.Model | None:
        # An object where it is tuned or was given as one; of others the name says enough.
        if self.tuning is not None and self.tuning.share:
            return self.tuning.backbone
        return None if isinstance(self.backbone, str) else self.backbone

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the bundle; returns its path.

        Raises:
            OutputExistsError: It exists and ``force`` is not set.
            HeadstartError: It cannot be written.
        """
        save_bundle(Path(path), self.bundle.manifest, self.bundle.members, force=force)
        return Path(path)

    def __repr__(self) -> str:
        changed = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"ImageClassifier({changed})"

    def _repr_html_(self) -> str:
        from headstart.evaluation.html import show_evaluation

        pictures = [mistake.show() for mistake in self.mistakes[:_SHOWN_MISTAKES]]
        return show_evaluation(
            repr(self), self.evaluation, self.warnings, len(self.problems), pictures
        )


def load(path: str | Path) -> ImageClassifier:
    """The classifier of a bundle.

    Raises:
        BundleError: The file is not a bundle, is damaged, or is too new.
    """
    bundle = load_bundle(Path(path))
    manifest = bundle.manifest
    classifier = ImageClassifier(
        manifest["backbone"]["name"], recipe=manifest["recipe"]["name"], seed=manifest["seed"]
    )
    classifier._bundle = bundle
    classifier.classes_ = np.array(bundle.class_names)
    if manifest.get("evaluation"):
        classifier.evaluation = Evaluation.from_json(manifest["evaluation"])
    return classifier
