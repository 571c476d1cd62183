"""The look of a page: one sheet of styles for light and dark, wide and narrow, and the tones of its plots."""

from __future__ import annotations

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
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }}
p.lead {{ color: var(--soft); margin-top: 0; }} p {{ max-width: 48rem; }}
a {{ color: var(--link); }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none; }}
:focus-visible {{ outline: 2px solid var(--link); outline-offset: 2px; }}
div.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }}
th, td {{ padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 600; }}
figure {{ margin: 1rem 0; }}
figcaption {{ color: var(--soft); font-size: .9rem; max-width: 48rem; }}
div.panels {{ display: flex; flex-wrap: wrap; gap: .5rem 1rem; }}
svg.plot {{ flex: 1 1 min(100%, 20rem); max-width: calc(1.25 * var(--width)); height: auto; color: var(--ink); }}
svg.plot text {{ fill: var(--ink); font-family: inherit; }}
svg.wide {{ flex: none; width: var(--width); max-width: none; }}
div.gallery {{ display: grid; gap: 6px; width: max-content; align-items: center; }}
div.gallery span {{ font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }}
div.gallery span.row {{ position: sticky; left: 0; padding-right: .6rem; background: var(--paper); max-width: 11rem; }}
div.gallery span.column {{ align-self: end; max-height: 6em; overflow: auto; }}
div.gallery img {{ width: 100%; display: block; }}
img.pixelated {{ image-rendering: pixelated; }}
@media (max-width: 40rem) {{
  body {{ margin: 1rem auto; }}
  div.gallery span.row {{ grid-column: 1 / -1; max-width: calc(100vw - 3rem); }}
  div.gallery {{ grid-template-columns: var(--cells) !important; }}
  div.gallery span.corner {{ display: none; }}
}}
"""
