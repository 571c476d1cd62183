"""A Hub on this machine, which serves folders as repositories and refuses as the real one does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import datasets
import huggingface_hub
import pytest

COMMIT = "0" * 40
TOKEN = "hf_typed"
# What it answers to whom it does not let in, by what is the matter: the status, and the code that the client looks at.
REFUSALS = {
    "gated": (401, "GatedRepo"),
    "unlicensed": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "expired": (403, ""),
    "busy": (429, ""),
}


class Hub(ThreadingHTTPServer):
    """``folders``: by the names of repositories. ``matter``: a key of REFUSALS, or "open"."""

    daemon_threads = True

    def __init__(self, folders: Mapping[str, Path], matter: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.matter = folders, matter

    def let_in(self) -> None:
        """Nothing is the matter any more."""
        self.matter = "open"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, token: str | None, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        if path.startswith("/api/whoami"):
            return _json(
                {"name": "reader", "type": "user", "auth": {"accessToken": {"displayName": "t", "role": "read"}}}
            )
        if self.matter in REFUSALS and token != TOKEN:
            status, code = REFUSALS[self.matter]
            return status, {"X-Error-Code": code, "X-Error-Message": "refused"}, b""
        if path.endswith(("/repos/create", "/preupload/main", "/commit/main", "/validate-yaml")):
            return self._taken(json.loads(sent) if sent.startswith(b"{") and sent.count(b"\n") < 2 else {})
        name = next((name for name in self.folders if f"/{name}/" in f"{path}/"), None)
        if name is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        kind, _, rest = path.partition(f"/{name}")
        asked, _, rest = rest.removeprefix("/").partition("/")
        revision, _, file = rest.partition("/")
        if revision not in ("", "main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if kind.startswith("/api"):
            return self._listed(name, asked)
        return self._file(self.folders[name] / file)

    def _taken(self, told: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """A new repository, and a commit to it, of which nothing is kept."""
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in told.get("files", ())
        ]
        place = f"{self.address}/owner/new"
        made = {"commitUrl": f"{place}/commit/{COMMIT}", "commitOid": COMMIT}
        return _json({"url": place, "files": files, "errors": [], "warnings": [], **made})

    def _listed(self, name: str, asked: str) -> tuple[int, dict[str, str], bytes]:
        folder = self.folders[name]
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        if asked == "tree":
            return _json(
                [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": _digest(path)}
                    for name, path in zip(names, files)
                ]
            )
        return _json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names], "private": False})

    def _file(self, path: Path) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT}, path.read_bytes()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sent = self._sent()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        status, headers, content = self.server.answer(unquote(urlsplit(self.path).path), token, sent)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET

    def _sent(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *given: object) -> None:
        """Nothing is said."""


def _json(data: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def served(folders: Mapping[str, Path], matter: str, place: Path) -> Iterator[Hub]:
    """The Hub is here, for the client's library in this process; ``place``: the folder of its cache and token."""
    with Hub(folders, matter) as hub, pytest.MonkeyPatch.context() as patch:
        asked_at(patch, hub.address, place)
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def asked_at(patch: pytest.MonkeyPatch, address: str, place: Path) -> None:
    """Let the Hub's client ask ``address`` alone, and keep everything in ``place``."""
    changes = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(place / "hub"),
        "HF_TOKEN_PATH": str(place / "token"),
        "HF_STORED_TOKENS_PATH": str(place / "stored_tokens"),
    }
    for name, value in changes.items():
        patch.setattr(huggingface_hub.constants, name, value)
    patch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    patch.setattr(datasets.config, "HF_ENDPOINT", address)
    patch.setattr(datasets.config, "HUB_DATASETS_URL", address + "/datasets/{repo_id}/resolve/{revision}/{path}")
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "datasets")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        patch.delenv(name, raising=False)
