"""The window: a page on this machine alone, which asks no other host for anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.policies.kinds import policy_kind
from ..errors import PiflowError, RunError, UsageError
from ..reports.grids import cell_size, fitted
from ..reports.plots import figure_svg
from ..sampling.limits import check_temperature
from .drawing import Asked, Drawer, Drawn

if TYPE_CHECKING:
    import gradio
    from PIL.Image import Image

HOST = "127.0.0.1"
FIRST_PROMPT = "a red fox"
MOST_STEPS, MOST_TEACHER_STEPS = 16, 256
LARGEST_SEED = 2**32 - 1  # a page counts in floats, and keeps no larger number exactly
# Gradio names its tones itself, and says by them whether the page is dark.
TONES = Path(__file__).with_name("window.css").read_text(encoding="utf-8")
MAPS = {
    True: "What the policy of the first evaluation decided at each position: how many components are in effect, and the"
    " weights of the heaviest.",
    False: "The x_0 that the policy of the first evaluation expects on its way from noise (left).",
}


def check_installed() -> None:
    """Raise UsageError where the window's package is not there, before any weights are read."""
    # Said before the package is imported, which asks for news and reports its use otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UsageError("the window needs the package gradio", 'pip install "piflow[demo]"') from error


class Window:
    """The page of one student. ``classes``: how many there are; None for students that are told a prompt."""

    def __init__(self, drawer: Drawer, classes: int | None) -> None:
        self.drawer, self.facts = drawer, drawer.found.facts
        self.classes = classes
        self.blocks = self._page()

    def open(self, port: int | None) -> str:
        """Serve the page, at once and beside the caller; returns its address.

        Raises RunError where the port is taken.
        """
        import gradio

        # The fonts of Gradio's own themes come from another host.
        theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        try:
            _, address, _ = self.blocks.launch(
                server_name=HOST, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inline=False,
                ssr_mode=False, enable_monitoring=False, footer_links=[], theme=theme,
            )  # fmt: skip
        except OSError as error:
            if port is None:
                raise RunError("no port from 7860 on is free", "close a window, or name a free port") from error
            raise RunError(f"port {port} is taken", "name another one, or none: the first free one is taken") from error
        return address

    def close(self) -> None:
        self.blocks.close(verbose=False)

    def _page(self) -> gradio.Blocks:
        import gradio

        facts = self.facts
        title = f"{self.drawer.found.named}: {policy_kind(facts.policy).words.title}, trained for {facts.nfe} NFE"
        with gradio.Blocks(title=f"piflow demo {self.drawer.found.named}", analytics_enabled=False) as blocks:
            gradio.Markdown(f"## {escape(title)}\n\nteacher {escape(facts.teacher)}")
            with gradio.Row():
                with gradio.Column(scale=1, min_width=260):
                    asked = self._settings()
                    draw = gradio.Button("Draw", variant="primary", elem_id="draw")
                with gradio.Column(scale=3, min_width=300):
                    with gradio.Row():
                        pictures = [
                            gradio.Image(
                                label=name, format="png", interactive=False, min_width=140, buttons=[], elem_id=name
                            )
                            for name in ("student", "teacher")
                        ]
                    said = gradio.Markdown(elem_id="said")
                    maps = gradio.HTML(elem_id="maps")
            shown = [*pictures, said, maps]
            first: Callable[..., Any] = self.draw
            draw.click(first, asked, shown, api_visibility="private")
            if self.classes is not None:
                blocks.load(first, asked, shown, api_visibility="private")
        return blocks

    def _settings(self) -> list[gradio.components.Component]:
        import gradio

        facts, family = self.facts, self.drawer.found.family
        return [
            gradio.Textbox(FIRST_PROMPT, label="prompt", lines=3)
            if self.classes is None
            else gradio.Dropdown(list(range(self.classes)), value=0, label="class"),
            gradio.Number(0, label="seed", precision=0, minimum=0, maximum=LARGEST_SEED),
            gradio.Slider(
                1, max(MOST_STEPS, facts.nfe), value=facts.nfe, step=1, label=f"steps (trained for {facts.nfe})"
            ),
            gradio.Textbox(
                str(facts.sampling_temperature), label="temperature: auto, or above 0 and at most 1", max_lines=1
            ),
            gradio.Slider(
                0, MOST_TEACHER_STEPS, value=family.beside_steps, step=1, label="teacher's steps (0: no teacher)"
            ),
        ]

    def draw(
        self,
        told: str | int,
        seed: float | None,
        steps: float | None,
        temperature: str,
        teacher_steps: float | None,
    ) -> list[Any]:
        """What the page shows for its settings: both pictures, a line, and the maps.

        Raises gradio.Error, which the page shows, for what `piflow sample` refuses too.
        """
        import gradio

        # As a field that was emptied comes.
        if seed is None or steps is None or teacher_steps is None:
            raise gradio.Error(
                "the seed and both numbers of steps are whole numbers: one is empty", print_exception=False
            )
        try:
            typed = temperature.strip()
            try:
                number: float | str = typed if typed == "auto" else float(typed)
            except ValueError:
                number = float("nan")
            asked = Asked(told, int(seed), int(steps), int(teacher_steps), check_temperature(number, typed))
            drawn = self.drawer.draw(asked)
        except PiflowError as error:
            raise gradio.Error(f"{error.message} → {error.hint}", print_exception=False) from error
        return self._shown(asked, drawn)

    def _shown(self, asked: Asked, drawn: Drawn) -> list[Any]:
        said = f"student: {asked.steps} NFE, {drawn.seconds:.2f} s"
        if drawn.teacher is not None:
            said += f"; teacher: {asked.teacher_steps} steps, {drawn.teacher_seconds:.2f} s, from the same noise"
        told = MAPS[self.drawer.has_components]
        svg = figure_svg(drawn.maps, escape(told, quote=True))
        maps = f'<style>{TONES}</style><p>{escape(told)}</p><div class="maps">{svg}</div>'
        return [_large(drawn.student), None if drawn.teacher is None else _large(drawn.teacher), said, maps]


def _large(image: Image) -> Image:
    """A picture that can be judged: small ones are enlarged with their edges as they are."""
    return fitted(image, 4 * side if (side := cell_size([[image]])) < 100 else side)
