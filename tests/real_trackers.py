"""A run of digits in each tracker of experiments itself: whether its numbers and pictures arrive, and by which version.

    python tests/real_trackers.py [NAME ...]

Each package goes into a new virtual environment, which has links to what is installed here, and is removed again. Runs
stay on this machine: trackers are offline, or write into a folder. The packages are from the package index. A minute
or two for each on two free cores. The readers are for the versions that were tried last (docs/pages/scale.md).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from own_process import piflow

from piflow_cli.system.trackers import TRACKERS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "piflow"
PICTURES = ("preview", "samples")
BLOCK = 1 << 15
# Losses by iteration, and the iterations of previews and samples.
Arrived = tuple[dict[int, float], dict[str, list[int]]]


def surroundings(folder: Path) -> dict[str, str]:
    """Variables by which every tracker stays in ``folder``, whoever has an account here."""
    accounts = ("WANDB_", "COMET_", "SWANLAB_", "MLFLOW_", "TRACKIO_", "NETRC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(accounts)}
    return kept | {
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        "SWANLAB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
    }


def run(name: str, folder: Path) -> Path:
    """Two iterations of digits in ``folder`` with a preview at each, shown in the tracker; the folder of the run."""
    few = ["--iterations", "2", "--batch-size", "16", "--set", "output.preview_every=1", "--device", "cpu"]
    out = folder / "out"
    done = subprocess.run(
        piflow("distill", "--teacher", "digits", *few, "--tracker", name, "--output", out, "--json"),
        cwd=folder, env=surroundings(folder), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["iterations"] == 2, done.stderr
    # A tracker that fails is a warning.
    assert done.stderr == "", done.stderr
    return out


def check(name: str, folder: Path) -> str:
    """Run, and compare what the tracker has with metrics.jsonl; the version of its package."""
    out = run(name, folder)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses, pictures = READERS[name](folder, out)
    assert losses.keys() == {1, 2}, losses
    assert all(abs(losses[row["iteration"]] - row["loss"]) <= 1e-6 * row["loss"] for row in rows), (losses, rows)
    assert pictures == {"preview": [1, 2], "samples": [2]}, pictures
    return version(re.split("[<>=]", TRACKERS[name].packages[0])[0])


def the_one(found: Iterator[Path]) -> Path:
    """The one path of a search."""
    (path,) = found
    return path


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: a log as LevelDB writes it, behind a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (rest := BLOCK - place % BLOCK) < 7:
            place += rest
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        # Whole, first, middle or last.
        if kind in (1, 4):
            yield parts
            parts = b""


def in_wandb(folder: Path, out: Path) -> Arrived:
    from wandb.proto.wandb_internal_pb2 import Record  # ty: ignore[unresolved-import]

    losses: dict[int, float] = {}
    pictures: dict[str, list[int]] = {}
    for data in wandb_records(the_one(out.glob("wandb/offline-run-*/*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "loss" in values:
            losses[values["_step"]] = values["loss"]
        for key in PICTURES:
            for place in values.get(f"{key}/filenames", []):
                the_one(out.glob(f"wandb/offline-run-*/files/{place}"))
                pictures.setdefault(key, []).append(values["_step"])
    return losses, pictures


def in_trackio(folder: Path, out: Path) -> Arrived:
    os.environ["TRACKIO_DIR"] = surroundings(folder)["TRACKIO_DIR"]
    from trackio.sqlite_storage import SQLiteStorage  # ty: ignore[unresolved-import]

    (own,) = SQLiteStorage.get_runs(PROJECT)
    rows = SQLiteStorage.get_logs(PROJECT, own)
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    pictures: dict[str, list[int]] = {}
    for row in rows:
        for key in PICTURES:
            if key in row:
                assert (folder / "trackio" / "media" / row[key]["file_path"]).is_file(), row[key]
                pictures.setdefault(key, []).append(row["step"])
    return losses, pictures


def in_mlflow(folder: Path, out: Path) -> Arrived:
    from mlflow import MlflowClient  # ty: ignore[unresolved-import]

    place = folder / "mlflow.db"
    client = MlflowClient(f"sqlite:///{place}" if place.is_file() else str(folder / "mlruns"))
    experiment = client.get_experiment_by_name(PROJECT)
    (own,) = client.search_runs([experiment.experiment_id])
    losses = {one.step: one.value for one in client.get_metric_history(own.info.run_id, "loss")}
    pictures: dict[str, list[int]] = {}
    for one in client.list_artifacts(own.info.run_id, "images"):
        if one.path.endswith(".png"):
            key, _, step = re.split("[%+]", Path(one.path).name)[:3]
            pictures.setdefault(key, []).append(int(step))
    return losses, {key: sorted(steps) for key, steps in pictures.items()}


def in_aim(folder: Path, out: Path) -> Arrived:
    # `aim up` would read the run into its index too.
    subprocess.run([Path(sys.executable).with_name("aim"), "storage", "--repo", out, "reindex", "-y"], check=True)
    from aim import Repo  # ty: ignore[unresolved-import]
    from aim.storage.context import Context  # ty: ignore[unresolved-import]

    (own,) = Repo(str(out)).iter_runs()
    steps, (values, *_) = own.get_metric("loss", Context({})).data.items_list()
    pictures = {name: own.get_image_sequence(name, Context({})).data.items_list()[0] for name in PICTURES}
    return dict(zip(steps, values)), pictures


def in_comet(folder: Path, out: Path) -> Arrived:
    losses: dict[int, float] = {}
    pictures: dict[str, list[int]] = {}
    with ZipFile(the_one((folder / "comet").glob("*.zip"))) as archive:
        held = archive.namelist()
        for line in archive.read("messages.json").decode().splitlines():
            message: Any = json.loads(line)
            payload = message["payload"]
            metric = payload.get("metric") or {}
            if message["type"] == "metric_msg" and metric.get("metricName") == "loss":
                losses[metric["step"]] = metric["metricValue"]
            elif (
                message["type"] == "file_upload"
                and payload.get("upload_type") == "visualization"
                and payload["file_path"] in held
            ):
                given = payload["additional_params"]
                pictures.setdefault(given["figName"], []).append(given["step"])
    return losses, pictures


def in_swanlab(folder: Path, out: Path) -> Arrived:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record  # ty: ignore[unresolved-import]

    place = the_one(path for path in folder.rglob("*.swanlab"))
    losses: dict[int, float] = {}
    pictures: dict[str, list[int]] = {}
    for data in wandb_records(place.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("scalar") and record.scalar.key == "loss":
            losses[record.scalar.step] = record.scalar.value.number
        if record.HasField("media") and record.media.key in PICTURES:
            pictures.setdefault(record.media.key, []).append(record.media.step)
    return losses, pictures


READERS: dict[str, Callable[[Path, Path], Arrived]] = {
    "wandb": in_wandb,
    "trackio": in_trackio,
    "mlflow": in_mlflow,
    "aim": in_aim,
    "comet": in_comet,
    "swanlab": in_swanlab,
}


def try_in_new_environment(name: str) -> bool:
    """Install the tracker beside what is installed here, and :func:`check` it there; whether all has arrived."""
    with tempfile.TemporaryDirectory() as temporary:
        environment, folder = Path(temporary, "environment"), Path(temporary, "run")
        venv.create(environment, with_pip=True, symlinks=True)
        folder.mkdir()
        python = environment / "bin" / "python"
        links = [ROOT, *(path for path in sys.path if path.endswith("site-packages")), sysconfig.get_path("purelib")]
        packages = next(environment.glob("lib/python*/site-packages"))
        # Behind the packages of its own, which some need in another version.
        (packages / "zz_links.pth").write_text("\n".join(map(str, dict.fromkeys(links))) + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", TRACKERS[name].packages[0]], check=True)
        done = subprocess.run([python, __file__, "--here", str(folder), name], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--here", type=Path, metavar="DIR", help="in this environment, which has them")
    given = parser.parse_args()
    names = given.names if given.names else list(READERS)
    if given.here is not None:
        for name in names:
            print(f"{name} {check(name, given.here)}: losses and pictures have arrived", flush=True)
        return 0
    failed = [name for name in names if not try_in_new_environment(name)]
    print(f"failed: {', '.join(failed)}" if failed else "All trackers have what the runs told them.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
