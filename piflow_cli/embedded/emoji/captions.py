"""Captions of an emoji in several wordings, from its entry in the package's emoji.json."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WORDINGS = 6
SKIN_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium light",
    "1F3FD": "medium",
    "1F3FE": "medium dark",
    "1F3FF": "dark",
}


@dataclass(frozen=True)
class CaptionedEmoji:
    """A picture's file name in the package and its captions, WORDINGS of them; the first is the plain name."""

    image: str
    captions: tuple[str, ...]


def captioned(entries: list[Mapping[str, Any]]) -> list[CaptionedEmoji]:
    """All pictures of Google's set: in the order of emoji.json, each base before its skin tones."""
    return [found for entry in entries for found in _pictures(entry)]


def _pictures(entry: Mapping[str, Any]) -> Iterator[CaptionedEmoji]:
    if entry["has_img_google"]:
        yield CaptionedEmoji(entry["image"], wordings(entry, ""))
    for tones, variation in entry.get("skin_variations", {}).items():
        if variation["has_img_google"]:
            yield CaptionedEmoji(variation["image"], wordings(entry, skin_words(tones)))


def without_tones(image: str) -> str:
    """The file name of a picture less its skin tones, the same for all pictures of one name.

    A tone stands in the place of U+FE0F, which asks for the coloured form.
    """
    return re.sub("|".join(f"-{code}" for code in (*SKIN_TONES, "FE0F")), "", image, flags=re.IGNORECASE)


def plain(text: str) -> str:
    """Lower case of ASCII letters, digits and simple marks, one space between words."""
    letters = unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[\s_]+", " ", letters.replace("cjk unified ideograph-", "ideograph ")).strip(" -,")


def skin_words(tones: str) -> str:
    """The words for the skin tones of a variation, as `1F3FB` or `1F3FB-1F3FD`."""
    return " and ".join(f"{SKIN_TONES[tone]} skin tone" for tone in tones.split("-"))


def wordings(entry: Mapping[str, Any], tones: str) -> tuple[str, ...]:
    """Captions of one picture, WORDINGS of them; those of a skin tone name it."""
    name, other = names(entry)
    category, subcategory = plain(entry["category"].replace("&", "and")), plain(entry["subcategory"].replace("-", " "))
    with_tone = f", {tones}" if tones else ""
    return (
        f"{name}{with_tone}",
        f"{other}{with_tone}",
        f"an emoji of {name}{with_tone}",
        f"{name}{with_tone}, {category}",
        f"{subcategory.replace('&', 'and')}: {other}{with_tone}",
        f"{tones} {name}, emoji".strip(),
    )


def names(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Two names of an emoji: Unicode's, and the short one of chat programs, which may be the same."""
    name = plain(entry["name"])
    if entry["category"] == "Flags" and name.endswith(" flag"):
        country = name.removesuffix(" flag")
        # Short names of flags are codes of countries.
        return f"flag of {country}", f"{country} flag"
    short = plain(re.sub(r"[_-]", " ", entry["short_name"]))
    return name, short if re.fullmatch(r"[a-z ]{3,}", short) else name
