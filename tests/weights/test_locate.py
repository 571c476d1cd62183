"""Where a base is found: shipped, local, in the cache or on the Hub; and what is said when it is not."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from piflow_cli.data.places import labelled_place
from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.presets.resolve import presets_root
from piflow_cli.students.lora_files import read_lora
from piflow_cli.teachers.latents import vae_folder
from piflow_cli.weights.locate import CONFIGS, NETWORK, hub_id, locate


def answer(kind: type[Exception], status: int) -> Exception:
    return kind("the server's words", response=SimpleNamespace(headers={}, status_code=status, request=None))


class Hub:
    """Stands in for snapshot_download: a repository's files, or failures in turn."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[dict] = []
        self.failures: list[Exception | None] = []

    def add(self, *names: str) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(json.dumps({"_class_name": "Fake"}))

    def __call__(self, repository: str, **request) -> str:
        self.calls.append({"repository": repository, **request})
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        return str(self.root)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    fake = Hub(tmp_path / "snapshot")
    fake.root.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


def test_a_shipped_base_lies_beside_the_presets(hub):
    assert locate("preset:digits") == presets_root() / "digits"
    assert not hub.calls


def test_a_path_of_this_machine_is_never_asked_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert locate("owner/name") == Path("owner/name")
    for missing in (
        "./owner/other",
        "/owner/other",
        "../owner/other",
        "~/owner/other",
        "other",
        "owner/model.pth",
        "a/../b",
        "a\\b",
        "a b/c",
    ):
        with pytest.raises(UsageError, match="there is nothing at") as caught:
            locate(missing)
        assert "--base PATH" in caught.value.hint
    assert not hub.calls


@pytest.mark.parametrize("base", ["models/flux", "models/flux/transformer", "models/flux/a.pth"])
def test_a_path_below_a_folder_of_this_machine_is_never_a_repository(hub, tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    assert hub_id(base) is not None
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError, match="there is nothing at models/flux") as caught:
        locate(base)
    assert "where there is a folder models" in caught.value.hint and not hub.calls


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ("owner/name", ("owner/name", "")),
        ("black-forest-labs/FLUX.1-dev", ("black-forest-labs/FLUX.1-dev", "")),
        ("owner/name/teachers/one.pth", ("owner/name", "teachers/one.pth")),
        ("owner/name/transformer/", ("owner/name", "transformer")),
    ],
)
def test_hub_ids(base, parts):
    assert hub_id(base) == parts


def test_only_the_files_that_are_needed_are_asked_for(hub):
    hub.add("transformer/config.json", "transformer/a.safetensors", "sub/transformer/config.json", "teachers/one.pth")
    assert locate("owner/name", "v1") == hub.root
    assert locate("owner/name/sub") == hub.root / "sub"
    assert locate("owner/name/teachers/one.pth") == hub.root / "teachers" / "one.pth"
    assert locate("owner/name", only=CONFIGS) == hub.root
    assert [call["repository"] for call in hub.calls] == ["owner/name"] * 4
    assert [call["revision"] for call in hub.calls] == ["v1", None, None, None]
    assert [call["allow_patterns"] for call in hub.calls] == [
        list(NETWORK),
        [f"sub/{pattern}" for pattern in NETWORK],
        ["teachers/one.pth"],
        list(CONFIGS),
    ]


def test_the_real_client_takes_just_the_network_and_just_the_configs():
    """By the client's own filter, on the file names of a pipeline's repository."""
    from huggingface_hub.utils import filter_repo_objects

    files = [
        "README.md",
        "model_index.json",
        "flux1-dev.safetensors",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert list(filter_repo_objects(files, allow_patterns=list(NETWORK))) == [files[1], *files[3:6]]
    assert list(filter_repo_objects(files, allow_patterns=list(CONFIGS))) == [files[1], files[3], files[6], files[8]]


FAILURES = [
    (answer(errors.GatedRepoError, 401), RunError, "the Hub does not know who asks", "hf auth login"),
    (answer(errors.GatedRepoError, 403), RunError, "has no access", "licence"),
    (errors.LocalTokenNotFoundError("no token"), RunError, "who asks", "hf auth login"),
    (answer(errors.RepositoryNotFoundError, 404), UsageError, "no such repository", "check the name"),
    (answer(errors.RevisionNotFoundError, 404), UsageError, "no such revision", "teacher.revision=null"),
    (answer(errors.RemoteEntryNotFoundError, 404), UsageError, "no such file", "its page on the Hub"),
    (
        errors.IncompleteSnapshotError("3 files are missing", snapshot_path="x"),
        RunError,
        "download is incomplete",
        "network",
    ),
    (errors.LocalEntryNotFoundError("not in the cache"), RunError, "the Hub cannot be reached", "network"),
    (errors.HFValidationError("odd"), UsageError, "no name of a repository", "owner/name"),
    (answer(errors.HfHubHTTPError, 401), RunError, "refuses the access token", "hf auth login"),
    (answer(errors.HfHubHTTPError, 429), RunError, "too many requests", "wait"),
    (answer(errors.HfHubHTTPError, 500), RunError, "the Hub answered: the server's words", "again"),
    (OSError(errno.ENOSPC, "No space left on device", "blob"), RunError, "the disk is full: blob", "free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "blob"), RunError, "permission denied: blob", "--base PATH"),
]


@pytest.mark.parametrize(
    ("failure", "kind", "message", "hint"),
    FAILURES,
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_failure_of_the_hub_is_one_line_with_what_to_do(hub, failure, kind, message, hint):
    hub.failures = [failure]
    with pytest.raises(PiflowError) as caught:
        locate("owner/name")
    error = caught.value
    assert type(error) is kind and error.message.startswith("owner/name: ") and message in error.message
    assert hint in error.hint and "--base PATH" in error.hint
    assert "\n" not in error.message


OPTIONS = [
    (lambda: read_lora("owner/name/a.safetensors"), "--lora PATH"),
    (lambda: labelled_place("owner/name"), "--data SOURCE"),
    (lambda: vae_folder("owner/name"), "distill: --set teacher.vae=PATH; sample and inspect-policy: --vae PATH"),
]


@pytest.mark.parametrize(("read", "option"), OPTIONS)
def test_hints_name_the_option_that_takes_what_is_missing(hub, read, option):
    hub.failures = [answer(errors.RepositoryNotFoundError, 404)]
    with pytest.raises(UsageError) as caught:
        read()
    assert f"name a local copy: {option}" in caught.value.hint and "--base" not in caught.value.hint


def connection_errors() -> list[Exception]:
    """A network that is away, in the words of whichever HTTP library the installed client uses."""
    library = __import__(errors.HTTPError.__module__.partition(".")[0])
    connect = getattr(library, "ConnectError", None)
    found = [errors.OfflineModeIsEnabled("HF_HUB_OFFLINE=1")]
    return (
        [*found, connect("no route"), library.ReadTimeout("slow"), library.ProxyError("no proxy")] if connect else found
    )


@pytest.mark.parametrize("failure", connection_errors(), ids=lambda value: type(value).__name__)
def test_without_a_network_the_cache_is_used(hub, failure):
    hub.add("config.json")
    hub.failures = [failure]
    assert locate("owner/name", "v1") == hub.root
    assert [call.get("local_files_only", False) for call in hub.calls] == [False, True]
    assert hub.calls[1]["revision"] == "v1" and hub.calls[1]["allow_patterns"] == list(NETWORK)


@pytest.mark.parametrize("failure", connection_errors(), ids=lambda value: type(value).__name__)
def test_without_a_network_and_without_a_cache_it_says_so(hub, failure):
    hub.failures = [failure, errors.LocalEntryNotFoundError("not in the cache")]
    with pytest.raises(RunError, match="owner/name: ") as caught:
        locate("owner/name")
    offline = isinstance(failure, errors.OfflineModeIsEnabled)
    assert ("unset HF_HUB_OFFLINE" if offline else "check the network") in caught.value.hint


def test_the_real_client_offline_says_what_to_do(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RunError, match="owner/name: it is not in the cache") as caught:
        locate("owner/name")
    assert "unset HF_HUB_OFFLINE" in caught.value.hint


def test_the_real_client_offline_uses_its_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--name", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert locate("owner/name") == repository / "snapshots" / commit


def test_a_fault_of_our_own_is_not_dressed_up(hub):
    hub.failures = [TypeError("odd")]
    with pytest.raises(TypeError, match="odd"):
        locate("owner/name")


def test_a_repository_without_the_files_is_named(hub):
    hub.add("README.md")
    with pytest.raises(UsageError, match="owner/name holds no sub/config.json or"):
        locate("owner/name/sub")
    with pytest.raises(UsageError, match="owner/name holds no teachers/one.pth"):
        locate("owner/name/teachers/one.pth")


@pytest.mark.parametrize("base", ["owner/name", "local"])
def test_a_missing_shard_is_named(hub, tmp_path, base):
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    hub.add(
        index, "transformer/config.json", "transformer/one.safetensors", "text_encoder/model.safetensors.index.json"
    )
    (hub.root / index).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    base = str(hub.root) if base == "local" else base
    with pytest.raises(RunError, match="two.safetensors is missing") as caught:
        locate(base)
    assert "again" in caught.value.hint
    assert locate(base, only=CONFIGS) == hub.root
    hub.add("transformer/two.safetensors")
    assert locate(base) == hub.root


def test_a_broken_index_is_named(hub):
    hub.add("transformer/diffusion_pytorch_model.safetensors.index.json")
    with pytest.raises(RunError, match="is no index of weights"):
        locate("owner/name")


def test_the_command_line_ends_in_one_line(cli, hub, tiny_teacher, tmp_path):
    hub.failures = [answer(errors.GatedRepoError, 401)]
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--base", "owner/name", "--output", str(tmp_path / "out"))
    message = "owner/name: the model is gated, and the Hub does not know who asks"
    assert (outcome.code, outcome.out) == (1, "")
    assert (
        outcome.err
        == f"Error: {message}\n  → accept its licence on its page on the Hub, then: hf auth login; or name a local"
        " copy: --base PATH\n"
    )
    assert not (tmp_path / "out").exists()
