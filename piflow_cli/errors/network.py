"""Plain words for what failed on the way to a server."""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPException
from urllib.error import HTTPError, URLError

from .recognition import first_line

NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)


def network_reason(exc: BaseException) -> str:
    """The reason in one phrase, where urllib or http.client raised ``exc``."""
    if isinstance(exc, HTTPError):
        return f"the server answers {exc.code}, {exc.reason}" if exc.reason else f"the server answers {exc.code}"
    inner = exc.reason if isinstance(exc, URLError) else exc
    if isinstance(inner, socket.gaierror):
        return "its server is not found, or there is no network"
    if isinstance(inner, ssl.SSLError):
        return "the certificate of its server is not accepted"
    if isinstance(inner, TimeoutError):
        return "its server does not answer"
    if isinstance(inner, (HTTPException, ConnectionResetError, ConnectionAbortedError)):
        return "the connection broke off"
    if isinstance(inner, OSError) and inner.strerror:
        return f"its server cannot be reached ({inner.strerror})"
    return first_line(inner)
