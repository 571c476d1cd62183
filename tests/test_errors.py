"""From an exception to what the user reads: the table, and the whole way through the command line."""

from __future__ import annotations

import errno
import socket
from urllib.error import URLError

import pytest

from piflow_cli.errors import Interrupted, PiflowError, RunError, UsageError, explain


def named(name: str, text: str) -> Exception:
    return type(name, (RuntimeError,), {})(text)


KNOWN = [
    (KeyboardInterrupt(), Interrupted, "interrupted", "same command"),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), RunError, "the disk is full: a/b", "free some space"),
    (
        named("SafetensorError", "I/O error: No space left on device (os error 28)"),
        RunError,
        "the disk is full",
        "free",
    ),
    (PermissionError(errno.EACCES, "Permission denied", "a/b"), RunError, "permission denied: a/b", "--output"),
    (
        OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300),
        UsageError,
        "no file can have so long a name: aaa",
        "what was typed",
    ),
    (FileExistsError(errno.EEXIST, "File exists", "a/b"), RunError, "something else is there: a/b", "--output"),
    (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), RunError, "no such file or folder: a/b", "check the path"),
    (
        named("SafetensorError", "Error while deserializing header"),
        RunError,
        "corrupt or cut short: Error while",
        "again",
    ),
    (
        named("OutOfMemoryError", "CUDA out of memory.\nTried"),
        RunError,
        "the GPU ran out of memory",
        "device_batch_size",
    ),
    (
        named(
            "OutOfMemoryError",
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 512.00"
            " MiB is free.",
        ),
        RunError,
        "out of memory: 1.61 GB short, 2.00 GiB wanted, 512.00 MiB free",
        "--base-precision nf4",
    ),
    (
        OSError("Unable to load weights from checkpoint file for 'a/b' at 'a/b'. "),
        RunError,
        "corrupt or cut short: a/b",
        "again",
    ),
    (
        URLError(socket.gaierror(-2, "Name or service not known")),
        RunError,
        "a file cannot be downloaded: its server is not found, or there is no network",
        "check the network",
    ),
    (MemoryError(), RunError, "out of memory", "--batch-size"),
    (ModuleNotFoundError("no", name="bitsandbytes.nn"), RunError, "bitsandbytes is not installed", "piflow[lowvram]"),
    (ModuleNotFoundError("no", name="wandb"), RunError, "wandb is not installed", "piflow[trackers]"),
    (ModuleNotFoundError("no", name="cv2"), RunError, "cv2 is not installed", "pip install cv2"),
    (UsageError("own", "words"), UsageError, "own", "words"),
]


@pytest.mark.parametrize(("exc", "kind", "message", "hint"), KNOWN, ids=lambda value: getattr(value, "__name__", None))
def test_known_exceptions_become_a_message_and_what_to_type_next(cli, training, exc, kind, message, hint):
    error = explain(exc)
    assert type(error) is kind and message in error.message and hint in error.hint
    assert "\n" not in error.message
    training.failure = exc
    outcome = cli("distill", "--teacher", "digits", "--quiet")
    assert outcome.code == {UsageError: 2, RunError: 1, Interrupted: 130}[kind]
    assert outcome.err == f"Error: {error.message}\n  → {error.hint}\n"


def test_a_file_that_may_not_be_read_is_told_apart_from_a_folder_that_takes_none(tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox")
    denied = PermissionError(errno.EACCES, "Permission denied", str(prompts))
    assert "choose a folder you may write to" in str(explain(denied).hint)
    # Whoever is root may read all.
    monkeypatch.setattr("piflow_cli.errors.table.access", lambda path, how: False)
    assert explain(denied).message == f"permission denied: {prompts}"
    assert explain(denied).hint == "give yourself the right to read it, or move it elsewhere"


def test_the_real_exceptions_are_recognised_by_name(tmp_path):
    import torch
    from safetensors.torch import load_file

    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    with pytest.raises(Exception, match="header") as caught:
        load_file(path)
    assert "corrupt or cut short" in explain(caught.value).message
    assert "GPU ran out" in explain(torch.OutOfMemoryError("CUDA out of memory")).message


@pytest.mark.parametrize("exc", [ValueError("odd\nthing"), ModuleNotFoundError("no", name="piflow_cli.core.x")])
def test_a_fault_of_our_own_is_not_dressed_up(cli, training, exc):
    assert explain(exc) is None
    training.failure = exc
    outcome = cli("distill", "--teacher", "digits", "--quiet")
    first, second = outcome.err.splitlines()
    assert outcome.code == 1
    assert first == f"Error: {type(exc).__name__}: {' '.join(str(exc).split())}"
    assert "PIFLOW_DEBUG=1" in second


@pytest.mark.parametrize("exc", [ValueError("odd"), RunError("known", "hint")])
def test_the_traceback_is_there_for_the_asking(cli, training, monkeypatch, exc):
    training.failure = exc
    assert "Traceback" not in cli("distill", "--teacher", "digits").err
    monkeypatch.setenv("PIFLOW_DEBUG", "1")
    assert "Traceback (most recent call last)" in cli("distill", "--teacher", "digits").err


def test_exit_codes_of_the_classes():
    assert (PiflowError("m").exit_code, UsageError("m").exit_code, RunError("m").exit_code) == (1, 2, 1)
