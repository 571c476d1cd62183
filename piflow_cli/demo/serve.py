"""`piflow demo` as a library call: the student is found and read, then its window is open until it is interrupted."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..presets.choices import BasePrecision
from ..sampling.request import SampleRequest
from ..students.open import find_student
from ..students.shared_base import root
from ..system.devices import choose_device
from ..teachers.class_conditional import ClassConditionalFamily
from .drawing import Drawer
from .window import Window, check_installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..console import Console


@dataclass(frozen=True)
class DemoRequest:
    """The command's options; None stands for "as the student was trained"."""

    student: str
    port: int | None = None
    subfolder: str | None = None
    teacher: str | None = None
    base: str | None = None
    vae: str | None = None
    base_precision: BasePrecision | None = None
    height: int | None = None
    width: int | None = None
    device: str = "auto"


def open_window(request: DemoRequest, console: Console) -> Window:
    """The window of a student, whose weights are read where it is told classes; with a prompt they are read with it.

    Raises:
        UsageError: gradio is not installed, or there is no such student.
        RunError: files are damaged, or the Hub cannot be reached.
    """
    check_installed()
    device = choose_device(request.device)
    found = find_student(request.student, request.teacher, request.base, subfolder=request.subfolder, say=console.say)
    found.refuse_beyond_pictures("piflow demo")
    told = SampleRequest(
        height=request.height, width=request.width, vae=request.vae, base_precision=request.base_precision
    )
    drawer, classes = Drawer(found, told, device, console), None
    if isinstance(found.family, ClassConditionalFamily):
        classes = found.family.class_count(root(drawer.open(0).student.model))
    return Window(drawer, classes)


def serve(request: DemoRequest, console: Console, opened: Callable[[str], None]) -> None:
    """Serve the window until the process is interrupted; ``opened`` takes its address."""
    window = open_window(request, console)
    opened(window.open(request.port))
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.say("closed")
    finally:
        window.close()
