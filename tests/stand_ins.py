"""Trackers of experiments that are not there: modules that remember what accelerate's own classes ask of them."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

CONSTANTS = {
    "comet_ml.__version__": "3.58.0",
    "mlflow.utils.validation.MAX_PARAM_VAL_LENGTH": 6000,
    "mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH": 100,
    "mlflow.search_experiments()": [],
    "mlflow.start_run().info.run_id": "chosen by mlflow",
    "aim.Run().hash": "chosen by aim",
}


class StandIn(ModuleType):
    """A module in which everything can be called, and is remembered in ``calls``: (dotted path, positional, named).

    ``acts``: what is done at a call of a path before it is answered.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[tuple[str, tuple, dict]] = []
        self.acts: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        path = f"{self.__name__}.{name}"
        if path not in CONSTANTS and name.startswith("__"):
            raise AttributeError(name)
        return CONSTANTS[path] if path in CONSTANTS else Part(self, path)

    def named(self, path: str) -> list[tuple[tuple, dict]]:
        """The arguments of all calls of ``path``."""
        return [(given, options) for called, given, options in self.calls if called == f"{self.__name__}.{path}"]


class Part:
    """Something in a stand-in, or something that a call in it has answered."""

    def __init__(self, root: StandIn, path: str) -> None:
        self._root, self._path = root, path

    def __call__(self, *given: Any, **options: Any) -> Any:
        self._root.calls.append((self._path, given, options))
        if self._path in self._root.acts:
            self._root.acts[self._path]()
        path = f"{self._path}()"
        return CONSTANTS[path] if path in CONSTANTS else Part(self._root, path)

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        return CONSTANTS[path] if path in CONSTANTS else Part(self._root, path)

    def __setitem__(self, key: str, value: Any) -> None:
        self._root.calls.append((self._path, (key, value), {}))


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str) -> StandIn:
    """Put a stand-in in the place of the package ``module``, as if it was installed from ``folder``."""
    found = StandIn(module)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, module, found)
    kind = LoggerType(module)
    if kind not in accelerate.tracking._available_trackers:
        monkeypatch.setattr(
            accelerate.tracking, "_available_trackers", [*accelerate.tracking._available_trackers, kind]
        )
    return found
