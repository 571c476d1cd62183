"""The trackers of experiments that a run may be shown in: what each needs on this machine, looked at without it."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import netrc
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import UsageError


@dataclass(frozen=True)
class Tracker:
    """A tracker, as accelerate has it.

    ``module``: what is imported, by whose name accelerate calls it; one of ``packages`` brings it. ``has_account``:
    whether the user has said whose account to use, or to use none; None where nothing leaves this machine. ``login``:
    what to type where neither was said.
    """

    module: str
    packages: tuple[str, ...]
    has_account: Callable[[], bool] | None = None
    login: str = ""


def tracker_of(name: str) -> Tracker:
    """The tracker ``name``. Raises UsageError where it is not installed, or would ask for an account."""
    tracker = TRACKERS[name]
    if importlib.util.find_spec(tracker.module) is None or not any(map(_is_installed, tracker.packages)):
        raise UsageError(
            f"the tracker {name} is not installed", f'pip install "{tracker.packages[0]}", or --tracker none'
        )
    if tracker.has_account is not None and not tracker.has_account():
        raise UsageError(
            f"the tracker {name} knows no account, and a run does not ask for one",
            f"{tracker.login}, or --tracker none",
        )
    return tracker


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package.partition("<")[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _knows_wandb() -> bool:
    """A key, or a mode without one: variables, then the file of `wandb offline`, then that of `wandb login`."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return True
    home = Path(os.environ.get("WANDB_CONFIG_DIR", Path.home() / ".config" / "wandb"))
    said = _ini((home / "settings", Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / "settings"), "default")
    if "WANDB_MODE" not in os.environ and said.get("mode", "online") != "online":
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", said.get("base_url", "https://api.wandb.ai"))).netloc
    logins = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    named = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    return named or any(_has_login(path, host) for path in logins)


def _knows_comet() -> bool:
    if os.environ.get("COMET_API_KEY") or os.environ.get("COMET_START_ONLINE", "1").lower() in ("0", "false"):
        return True
    own = Path(os.environ.get("COMET_CONFIG", Path.home() / ".comet.config"))
    own = own / ".comet.config" if own.is_dir() else own
    said = _ini((own, Path(".comet.config")), "comet")
    return bool(said.get("api_key")) or said.get("start_online", "1").lower() in ("0", "false")


def _knows_swanlab() -> bool:
    if os.environ.get("SWANLAB_API_KEY") or os.environ.get("SWANLAB_MODE", "online") not in ("online", "cloud"):
        return True
    own = os.environ.get("SWANLAB_ROOT", os.environ.get("SWANLAB_SAVE_DIR", str(Path.home() / ".swanlab")))
    return any(_has_login(Path(folder) / ".netrc", None) for folder in (own, ".swanlab"))


def _ini(paths: Iterable[Path], section: str) -> dict[str, str]:
    """What files of settings say in ``section``, the last one first; nothing where one is none."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(paths, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser[section]) if section in parser else {}


def _has_login(path: Path, host: str | None) -> bool:
    """Whether a file of logins has one for ``host``, or for any host."""
    try:
        found = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return bool(found.hosts) if host is None else found.authenticators(host) is not None


TRACKERS = {
    "tensorboard": Tracker("tensorboard", ("tensorboard",)),
    "wandb": Tracker("wandb", ("wandb",), _knows_wandb, "wandb login, or set WANDB_MODE=offline"),
    "trackio": Tracker("trackio", ("trackio",)),
    "mlflow": Tracker("mlflow", ("mlflow", "mlflow-skinny")),
    # accelerate knows no later ones.
    "aim": Tracker("aim", ("aim<4",)),
    "comet": Tracker("comet_ml", ("comet_ml",), _knows_comet, "comet login, or set COMET_START_ONLINE=0"),
    "swanlab": Tracker("swanlab", ("swanlab",), _knows_swanlab, "swanlab login, or set SWANLAB_MODE=offline"),
}
