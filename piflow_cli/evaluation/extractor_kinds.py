"""The table of extractors: one row each; the class is imported when it is asked for. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class ExtractorKind:
    """A row: an extractor, and how it is named and opened.

    Attributes:
        name: what is typed; a name that ends with a colon is followed by one of ``sources``.
        opens: "module:function" that turns an :class:`~piflow_cli.evaluation.extractors.base.Opening` into an
            :class:`~piflow_cli.evaluation.extractors.base.Extractor`.
        sources: forms of what follows the name.
        takes_weights: whether it runs the weights of Inception, which a user may name.
    """

    name: str
    opens: str
    sources: tuple[str, ...] = ()
    takes_weights: bool = False

    @property
    def forms(self) -> tuple[str, ...]:
        """All forms in which it is typed."""
        return tuple(f"{self.name}{source}" for source in self.sources) or (self.name,)

    def is_meant(self, typed: str) -> bool:
        return typed == self.name if not self.sources else typed.startswith(self.name) and typed != self.name


_EXTRACTORS = "piflow_cli.evaluation.extractors"
ROWS = {
    row.name: row
    for row in (
        ExtractorKind("pixels", f"{_EXTRACTORS}.pixels:open_pixels"),
        ExtractorKind("digits-classifier", f"{_EXTRACTORS}.digits:open_digits"),
        ExtractorKind("inception", f"{_EXTRACTORS}.inception:open_inception", takes_weights=True),
        ExtractorKind("inception-tf", f"{_EXTRACTORS}.inception:open_inception", takes_weights=True),
        ExtractorKind("efficientnet-lite0", f"{_EXTRACTORS}.efficientnet:open_efficientnet"),
        ExtractorKind("dinov2:", f"{_EXTRACTORS}.dino:open_dino", sources=("PATH", "OWNER/NAME")),
    )
}


def extractor_kind(typed: str) -> ExtractorKind:
    """The row that is meant by what was typed; raises UsageError where there is none."""
    for row in ROWS.values():
        if row.is_meant(typed):
            return row
    known = ", ".join(" or ".join(row.forms) for row in ROWS.values())
    raise UsageError(f"there is no extractor {typed}", f"known: {known}")
