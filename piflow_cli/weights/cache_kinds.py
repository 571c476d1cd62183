"""What lies in the cache's folder: one row for each kind, with the names of its entries. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

EVAL, STATISTICS, PICTURES, TEACHERS, WEIGHTS = "eval", "statistics", "pictures", "teachers", "weights"
TEXTS, LATENTS = "texts", "latents"  # in a folder for each set of encoders
IDENTITY = "identity.json"  # beside them: which encoders these are
KEPT_DAYS = 30
_KEY, _PART, _ENCODERS = r"[0-9a-f]{32}", r"[0-9a-f]{2}", r"[0-9a-f]{16}"
_SHARD = "piflow_cli.weights.shards:is_whole_shard"


@dataclass(frozen=True)
class CacheKind:
    """A row.

    Attributes:
        name: as it is typed.
        what: what its entries are, in words.
        entry: the paths of its entries below the cache's folder; whatever has another name is not ours.
        depth: how many folders above an entry is the one that its users hold, see
            :class:`~piflow_cli.system.holding.Holding`.
        whole: "module:function" that says of an entry's path whether it is as it was written; None: nobody knows.
    """

    name: str
    what: str
    entry: re.Pattern[str]
    depth: int = 2
    whole: str | None = _SHARD


ROWS = {
    row.name: row
    for row in (
        CacheKind(
            "prompts", "encoded prompts and captions", re.compile(rf"{_ENCODERS}/{TEXTS}/{_KEY}\.safetensors"), 1
        ),
        CacheKind("latents", "encoded pictures", re.compile(rf"{_ENCODERS}/{LATENTS}/{_KEY}\.safetensors"), 1),
        CacheKind(
            PICTURES,
            "hashes and sizes of training pictures",
            re.compile(rf"{PICTURES}/({_PART}/{_KEY}\.safetensors|{_KEY}\.json)"),
        ),
        CacheKind("states", "generated states and features", re.compile(rf"{EVAL}/{_PART}/{_KEY}\.safetensors")),
        CacheKind(STATISTICS, "statistics of references", re.compile(rf"{STATISTICS}/{_PART}/{_KEY}\.safetensors")),
        CacheKind(
            TEACHERS,
            "converted teachers",
            re.compile(rf"{TEACHERS}/[^/.][^/]*-{_ENCODERS}"),
            1,
            "piflow_cli.weights.digests:is_whole",
        ),
        CacheKind(
            "converted",
            "converted weights of extractors",
            re.compile(rf"{WEIGHTS}/[^/.][^/]*\.safetensors"),
            1,
            "piflow_cli.weights.sealed:is_whole_sealed",
        ),
        CacheKind(
            "downloads",
            "Inception's weights, clean-fid's statistics",
            re.compile(rf"{WEIGHTS}/[^/.][^/]*\.pth?|{STATISTICS}/[^/.][^/]*\.npz"),
            1,
            None,
        ),
    )
}


def kind_of(path: str) -> CacheKind | None:
    """The kind of the entry at ``path``, below the cache's folder and with / in it; None for what is not ours."""
    return next((row for row in ROWS.values() if row.entry.fullmatch(path)), None)
