"""The models of a server by name, and their exchange while it runs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from headstart.errors import HeadstartError, did_you_mean
from headstart.predictor import Predictor
from headstart.server.engine import Engine
from headstart.server.lane import Lanes
from headstart.server.metrics import Metrics
from headstart.server.settings import RequestError, Settings

_LOGGER = logging.getLogger(__name__)

# TensorFlow Serving's clients put versions into addresses; each bundle is the only one of its name.
VERSION = "1"


class Registry:
    """Models by name.

    Args:
        paths: Of bundles; a model's name is that of its file.
        settings: Limits.

    Raises:
        HeadstartError: Two bundles have the same name, or one cannot be used.
    """

    def __init__(self, paths: Sequence[Path], settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.is_draining = False
        names = [name_model(path) for path in paths]
        for name in names:
            if names.count(name) > 1:
                raise HeadstartError(
                    f"Two bundles would be served as {name!r}. Rename one of the files."
                )
        predictors = [self._open(path) for path in paths]
        self._lanes = Lanes(settings, self.metrics, predictors)
        self.engines = {
            name: Engine(name, path, predictor, self.metrics, self._lanes)
            for name, path, predictor in zip(names, paths, predictors, strict=True)
        }

    def _open(self, path: Path) -> Predictor:
        settings = self.settings
        return Predictor(path, coverage=settings.coverage, precision=settings.precision)

    def get(self, name: str | None, version: str | None = None) -> Engine:
        """The model of a name; the only one where no name is given.

        Raises:
            RequestError: 404, there is none; 400, a name is needed.
        """
        if name is None and len(self.engines) == 1:
            return next(iter(self.engines.values()))
        if name is None:
            raise RequestError(400, f"Say which model: {', '.join(self.engines)}.")
        if name not in self.engines:
            near = did_you_mean(name, self.engines)
            raise RequestError(404, f"There is no model {name!r}.{near}")
        if version not in (None, VERSION):
            raise RequestError(404, f"{name} has the version {VERSION} only, not {version}.")
        return self.engines[name]

    def start(self) -> None:
        """Begin to answer; within a running event loop."""
        for engine in self.engines.values():
            engine.start()

    async def stop(self) -> None:
        """End."""
        for engine in self.engines.values():
            await engine.stop()

    def _load(self, old: Engine) -> Engine:
        return Engine(old.name, old.path, self._open(old.path), self.metrics, self._lanes)

    async def reload(self) -> None:
        """Load bundles whose files have changed; the old one answers until the new one is warm.

        A file that cannot be used leaves the old model where it is.
        """
        loop = asyncio.get_running_loop()
        for name, old in list(self.engines.items()):
            try:
                new = await loop.run_in_executor(None, self._load, old)
            except HeadstartError as error:
                _LOGGER.error("%s stays as it was: %s", name, error)
                continue
            new.start()
            self.engines[name] = new
            _LOGGER.info("%s was loaded again", name)
            await asyncio.sleep(0)
            await old.stop_when_idle()


def name_model(path: Path) -> str:
    """The name of a bundle in addresses.

    >>> name_model(Path("my flowers.headstart"))
    'my_flowers'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.name.removesuffix(".headstart")) or "model"
