"""A FLUX pipeline with a smaller VAE and shorter texts than the published ones, shipped as a preset of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from tiny_pipeline import whole_pipeline
from zoo import ZOO, zoo_preset

from piflow_cli.weights.digests import write_manifest

FACTOR, WORDS, SIDE = 4, 12, 16


def shipped_pipeline(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the preset ``small`` of the family ``name`` in the place of all shipped ones; returns its pipeline's folder.

    Its pictures have 16 pixels a side, which are 4 latent positions; its texts have 12 tokens.
    """
    root = folder / "presets"
    whole_pipeline(root / "small", name, FACTOR, WORDS)
    made = folder / "made"
    path, _ = zoo_preset(ZOO[name], made)
    preset = yaml.safe_load(path.read_text())
    preset["name"] = "small"
    preset["teacher"]["base"] = "preset:small"
    preset["data"] = {"resolution": SIDE, "cache": str(folder / "cache")}
    preset["optimisation"] |= {"iterations": 2}
    (root / "small.yaml").write_text(yaml.safe_dump(preset))
    shutil.rmtree(made)
    write_manifest(root, [file.relative_to(root).as_posix() for file in root.glob("*/**/*") if file.is_file()])
    for module in ("weights.digests", "presets.folders"):
        monkeypatch.setattr(f"piflow_cli.{module}.presets_root", lambda: root)
    return root / "small"
