"""The look of a page: one sheet of styles for light and dark, wide and narrow, and the tones of its plots."""

from __future__ import annotations

from pathlib import Path

# Greys of plots, and the names of the page's own tones that take their place.
TONES = {
    "#000000": "ink",
    "#333333": "ink",
    "#555555": "soft",
    "#595959": "soft",
    "#59636e": "soft",
    "#9aa0a6": "faint",
    "#d8dce0": "line",
    "#ebebeb": "line",
    "#eceef0": "line",
}
# Colours of curves, and what they are on a dark page.
DARKER = {
    "#1f77b4": "#6cb2eb",
    "#ff7f0e": "#ffa04d",
    "#2ca02c": "#5fcf6a",
    "#d62728": "#ff7b7b",
    "#9467bd": "#bf9bea",
    "#8c564b": "#c99a8e",
    "#e377c2": "#f0a3da",
    "#17becf": "#5fdbe8",
    "#2f6fb5": "#72aef0",
    "#6a51a3": "#b09ae8",
    "#d9730d": "#f79a45",
    "#a6761d": "#d6a84a",
    "#2a8a57": "#58c48a",
    "#7a8b1f": "#b3c64f",
    "#c44e82": "#f08ab8",
}


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2024",
    "soft": "#59636e",
    "faint": "#9aa0a6",
    "line": "#e3e6e9",
    "link": "#0b5cad",
}
DARK = {
    "paper": "#14171a",
    "ink": "#e6e9ec",
    "soft": "#a3adb7",
    "faint": "#727b84",
    "line": "#31373d",
    "link": "#7cb8ff",
}
STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)}
  {_variables({f"c{colour[1:]}": colour for colour in DARKER})} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)}
  {_variables({f"c{colour[1:]}": dark for colour, dark in DARKER.items()})} }} }}
{Path(__file__).with_name("page.css").read_text(encoding="utf-8")}"""
