"""Inception's weights are a program: only the published file runs, wherever it
lies, unless another one is trusted by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from inception import FILE, save_random_inception

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError
from piflow_cli.evaluation.extractors import inception_weights, open_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_random_inception(tmp_path_factory.mktemp("inception"))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch) -> Path:
    """No weights in any usual place, and no network; the folder that stands for all caches."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def unreachable(url: str, path: str, progress: bool) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    return tmp_path


@pytest.fixture
def published(weights: Path, monkeypatch) -> bytes:
    """The random network in the role of NVIDIA's file: its bytes."""
    content = weights.read_bytes()
    monkeypatch.setattr(inception_weights, "DIGEST", hashlib.sha256(content).hexdigest())
    return content


PLACES = ["", "hub/checkpoints", "piflow/weights"]


def put(folder: Path, content: bytes, mode: int = 0o644) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(content)
    (folder / FILE).chmod(mode)
    return folder / FILE


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_where_clean_fid_torch_hub_and_piflow_keep_them(
    place: str, nowhere: Path, published: bytes
) -> None:
    put(nowhere / place, published)
    assert open_extractor("inception", CPU).identity == hashlib.sha256(published).hexdigest()


@pytest.mark.parametrize("place", PLACES)
def test_another_file_in_those_places_is_not_run_and_the_next_place_is_asked(
    place: str, nowhere: Path, published: bytes, capsys
) -> None:
    planted = put(nowhere / place, published[:-1] + bytes([published[-1] ^ 1]))
    with pytest.raises(RunError, match="cannot be downloaded"):
        open_extractor("inception", CPU, console=Console())
    assert f"{planted} is not used: it is another file than the published one" in capsys.readouterr().err
    put(nowhere / "elsewhere" / "weights", published)
    assert (
        open_extractor("inception", CPU, cache=nowhere / "elsewhere").identity == hashlib.sha256(published).hexdigest()
    )


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_what_others_can_change_in_the_temporary_folder_is_not_looked_at(
    mode: int, nowhere: Path, published: bytes, capsys
) -> None:
    put(nowhere, published, mode)
    with pytest.raises(RunError, match="cannot be downloaded"):
        open_extractor("inception", CPU, console=Console())
    assert "is not used: others may have put it there" in capsys.readouterr().err


def test_what_others_own_or_can_replace_in_the_temporary_folder_is_not_looked_at(
    nowhere: Path, published: bytes, monkeypatch
) -> None:
    put(nowhere, published)
    nowhere.chmod(0o1777)
    assert open_extractor("inception", CPU)
    nowhere.chmod(0o777)
    with pytest.raises(RunError):
        open_extractor("inception", CPU)
    nowhere.chmod(0o755)
    monkeypatch.setattr("os.getuid", lambda: nowhere.stat().st_uid + 1)
    with pytest.raises(RunError):
        open_extractor("inception", CPU)


def test_a_link_in_the_temporary_folder_is_not_followed(nowhere: Path, published: bytes) -> None:
    (nowhere / FILE).symlink_to(put(nowhere / "elsewhere", published))
    with pytest.raises(RunError):
        open_extractor("inception", CPU)


class Writes(torch.nn.Module):
    """A program in the place of weights: it makes a file when it is called."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker
        self.layers = torch.nn.Identity()

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        torch.save(img, self.marker)
        return torch.zeros(len(img), 2048)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_program_in_the_place_of_weights_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.jit.script(Writes(str(marker)).eval()).save(str(tmp_path / FILE))
    with pytest.raises(UsageError, match=f"is not the published {FILE}") as caught:
        open_extractor("inception-tf", CPU, tmp_path / FILE)
    assert caught.value.hint.endswith(f"--inception-weights {tmp_path / FILE} --trust-weights") and not marker.exists()
    open_extractor("inception-tf", CPU, tmp_path / FILE, trust=True).features(torch.zeros(1, 3, 8, 8))
    assert marker.exists()


def test_weights_that_are_nowhere_and_no_network_say_where_to_put_them(nowhere: Path) -> None:
    with pytest.raises(RunError, match="not on this machine and cannot be downloaded.*no network") as caught:
        open_extractor("inception", CPU, console=Console())
    assert f"put {FILE} at {nowhere / 'piflow' / 'weights' / FILE}" in caught.value.hint
    assert "--inception-weights PATH" in caught.value.hint


def test_a_download_lands_in_the_cache_if_it_is_the_published_file(
    nowhere: Path, published: bytes, monkeypatch
) -> None:
    fetched = [published[:-1], published]
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda url, path, progress: Path(path).write_bytes(fetched.pop(0))
    )
    with pytest.raises(RunError, match="is another file than the published one"):
        open_extractor("inception", CPU)
    assert not any((nowhere / "piflow").rglob("*.pt"))
    open_extractor("inception", CPU)
    assert (nowhere / "piflow" / "weights" / FILE).read_bytes() == published


def test_damaged_weights_in_our_own_cache_are_downloaded_again(nowhere: Path, published: bytes, monkeypatch) -> None:
    ours = put(nowhere / "piflow" / "weights", published[:-1])
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path, progress: Path(path).write_bytes(published))
    open_extractor("inception", CPU)
    assert ours.read_bytes() == published


def test_named_weights_that_are_missing_or_no_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no Inception weights at"):
        open_extractor("inception", CPU, tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"html error page")
    with pytest.raises(RunError, match="not the Inception network that clean-fid reads"):
        open_extractor("inception", CPU, tmp_path / FILE, trust=True)
