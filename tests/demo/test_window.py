"""The window in a browser: it shows what was asked for, complains of nothing and asks no other host."""

from __future__ import annotations

import base64
import importlib.util
import io
import socket
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from browser import Browser, needs_chromium
from PIL import Image

import piflow_cli as piflow
from piflow_cli.console import Console
from piflow_cli.demo.serve import DemoRequest, open_window
from piflow_cli.demo.window import HOST
from piflow_cli.errors import RunError
from piflow_cli.reports.grids import fitted

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
PIXELS = """(async () => {
  const blob = await (await fetch(document.querySelector('#student img').src)).blob();
  return await new Promise(done => {
    const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(blob); });
})()"""
SHOWN = "document.querySelector('#said')?.innerText.includes('teacher: 5 steps')"


def test_without_gradio_it_says_what_to_install(cli, tiny_run: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    outcome = cli("demo", str(tiny_run))
    assert outcome.code == 2 and 'pip install "piflow[demo]"' in outcome.err


def test_what_is_no_student_ends_before_anything_is_opened(cli, tmp_path: Path) -> None:
    outcome = cli("demo", str(tmp_path / "nothing"))
    assert outcome.code == 2 and outcome.out == ""


@pytest.mark.parametrize("place", [1, 2, 4])
def test_an_emptied_field_is_said_on_the_page(tiny_run: Path, monkeypatch, place: int) -> None:
    """Gradio gives None for it; what it draws with is no matter here."""

    class Shown(Exception):
        def __init__(self, text: str, print_exception: bool = True) -> None:
            super().__init__(text)

    gradio = MagicMock()
    gradio.Error = Shown
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    window = open_window(DemoRequest(str(tiny_run), device="cpu"), Console(quiet=True))
    asked: list[Any] = [0, 0, 1, "auto", 0]
    asked[place] = None
    with pytest.raises(Shown, match="one is empty"):
        window.draw(*asked)


@needs_gradio
@needs_chromium
@pytest.mark.long
def test_a_picture_in_the_browser_is_that_of_piflow_sample(tiny_run: Path, tmp_path: Path) -> None:
    window = open_window(DemoRequest(str(tiny_run), device="cpu"), Console(quiet=True))
    address = window.open(None)
    try:
        with Browser(tmp_path) as browser:
            browser.open(address)
            browser.wait("document.querySelectorAll('#student img, #teacher img').length == 2")
            # The last number on the page that can be typed is the teacher's steps.
            browser.value(
                "(() => { const all = document.querySelectorAll('input[type=number]'), last = all[all.length - 1];"
                " last.value = 5; last.dispatchEvent(new Event('input', {bubbles: true}));"
                " last.dispatchEvent(new Event('blur')); document.querySelector('#draw').click(); })()"
            )
            browser.wait(SHOWN)
            shown = Image.open(io.BytesIO(base64.b64decode(browser.value(PIXELS).partition(",")[2])))
            assert browser.value("document.querySelector('#maps svg') !== null")
            for width in (1400, 400):
                browser.look(width, dark=width == 400)
                wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert browser.value(wide) <= 0
            assert browser.complaints == [] and browser.outside == []
        (expected,) = piflow.sample(tiny_run, seeds=[0], labels=[0], device="cpu")
        assert shown.convert("RGB").tobytes() == fitted(expected, shown.width).tobytes()
    finally:
        window.close()


@needs_gradio
def test_a_port_that_is_taken_is_named(tiny_run: Path) -> None:
    window = open_window(DemoRequest(str(tiny_run), device="cpu"), Console(quiet=True))
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} is taken"):
            window.open(port)


@needs_gradio
def test_where_every_port_is_taken_none_is_named(tiny_run: Path, monkeypatch) -> None:
    def launch(**told) -> None:
        raise OSError("Cannot find empty port in range: 7860-7959")

    window = open_window(DemoRequest(str(tiny_run), device="cpu"), Console(quiet=True))
    monkeypatch.setattr(window.blocks, "launch", launch)
    with pytest.raises(RunError, match="no port from 7860 on is free"):
        window.open(None)


@needs_gradio
def test_a_temperature_that_is_none_is_said_in_the_window(tiny_run: Path) -> None:
    import gradio

    window = open_window(DemoRequest(str(tiny_run), device="cpu"), Console(quiet=True))
    with pytest.raises(gradio.Error, match="temperature hot: not"):
        window.draw(0, 0, 2, "hot", 0)
