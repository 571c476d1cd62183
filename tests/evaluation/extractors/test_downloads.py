"""Files that are fetched: what fails on the way is said in plain words."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from email.message import Message
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from urllib.error import ContentTooShortError, HTTPError, URLError

import pytest

from piflow_cli.errors import RunError
from piflow_cli.evaluation.extractors.downloads import download

NOT_FOUND = "its server is not found, or there is no network"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fetch(url: str, path: str, progress: bool) -> None:
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError(socket.gaierror(-2, "Name or service not known")), NOT_FOUND),
        (socket.gaierror(-3, "Temporary failure in name resolution"), NOT_FOUND),
        (URLError(TimeoutError("timed out")), "its server does not answer"),
        (TimeoutError("The read operation timed out"), "its server does not answer"),
        (URLError(ssl.SSLCertVerificationError(1, "self-signed")), "the certificate of its server is not accepted"),
        (URLError(ConnectionRefusedError(111, "Connection refused")), "cannot be reached (Connection refused)"),
        (URLError(OSError(errno.ENETUNREACH, "Network is unreachable")), "cannot be reached (Network is unreachable)"),
        (ConnectionResetError(104, "Connection reset by peer"), "the connection broke off"),
        (RemoteDisconnected("Remote end closed connection"), "the connection broke off"),
        (IncompleteRead(b"half"), "the connection broke off"),
        (HTTPError("https://host/file", 404, "Not Found", Message(), None), "the server answers 404, Not Found"),
        (ContentTooShortError("retrieval incomplete: got only 1 out of 2 bytes", ("", Message())), "retrieval incompl"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_fails_on_the_way_is_one_plain_line(tmp_path: Path, monkeypatch, error, reason) -> None:
    failing(monkeypatch, error)
    with pytest.raises(RunError, match=re.escape(reason)) as caught:
        download("https://host/file", tmp_path / "file.npz", None)
    assert caught.value.message.startswith("file.npz is not on this machine and cannot be downloaded: ")
    assert not set("<>\n") & set(caught.value.message) and "Errno" not in caught.value.message
    assert caught.value.hint == f"put it at {tmp_path / 'file.npz'}"
    assert not any(tmp_path.iterdir())


def test_an_error_of_the_disk_is_not_called_one_of_the_network(tmp_path: Path, monkeypatch) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError) as caught:
        download("https://host/file", tmp_path / "file.npz", None)
    assert caught.value.errno == errno.ENOSPC
