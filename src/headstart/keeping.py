"""What a fitted classifier is kept as: a bundle, the record of its training, exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.bundle import Bundle, save_bundle
from headstart.errors import HeadstartError
from headstart.runs import Run, save_run

if TYPE_CHECKING:
    import keras

    from headstart.exports import Export


class Keeping:
    """The part of `ImageClassifier` that writes files."""

    _run: Run | None = None

    @property
    def bundle(self) -> Bundle:
        """What is written."""
        raise NotImplementedError

    @property
    def _trained_backbone(self) -> keras.Model | None:
        raise NotImplementedError

    def save(self, path: str | Path, *, force: bool = False, small: bool = False) -> Path:
        """Write the bundle; returns its path.

        Args:
            path: Of the file.
            force: Whether a file that is there is replaced.
            small: Only what training made: kilobytes, where nothing was fine-tuned. It does not
                know novelty, and the first load makes the rest from the catalogue's backbone.

        Raises:
            OutputExistsError: It exists and ``force`` is not set.
            BundleError: ``small``, and the backbone is not in the catalogue.
            HeadstartError: It cannot be written.
        """
        from headstart.small import shrink

        bundle = shrink(self.bundle) if small else self.bundle
        save_bundle(Path(path), bundle.manifest, bundle.members, force=force)
        return Path(path)

    def save_run(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the record of the training as a folder; returns its path.

        Raises:
            OutputExistsError: It exists and ``force`` is not set.
            HeadstartError: It cannot be written, or `fit` was not called on this object.
        """
        if self._run is None:
            raise HeadstartError("Only what was trained here has a record; call fit(photos) first.")
        return save_run(self._run, Path(folder), force=force)

    def export(
        self, folder: str | Path, *formats: str, photos: Any = None, force: bool = False
    ) -> list[Export]:
        """Write the classifier for other runtimes, each file compared with the bundle first.

        Args:
            folder: Where to; it is made if needed.
            formats: Keys of `headstart.export.EXPORTERS`; ``"onnx"`` by default.
            photos: Labelled photos to compare on, as for `fit`.
            force: Whether exports that are there are replaced.

        Raises:
            ExportError: A format cannot hold the network, or does not predict what it does; or
                there are no photos to compare on.
        """
        from headstart.exports import Exporting

        known = self._trained_backbone
        exporting = Exporting(self.bundle, folder, photos=photos, known=known, force=force)
        return [exporting.write(name) for name in formats or ("onnx",)]
