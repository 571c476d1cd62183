"""The table of teacher families: one row each; the class is imported when it is asked for.

Nothing here imports torch, since presets and commands read it before any model. That is why the table stands below
the room of the teachers, and names their classes as texts; that room alone looks them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from piflow_cli.errors import RunError
from piflow_cli.packages import outside_names, outside_row

# Other packages list theirs under this entry point: name = "module:ROW". The module is imported by every command that
# lists teachers, so that it had better import no torch, and leave that to the module of the class.
ENTRY_POINT = "piflow.teachers"
CLASS, TEXT = "class", "text"
INPUT, HALVES = "input", "halves"
ON_EDGE = 1e-4  # a noise level so near to that of a boundary is that of the boundary


@dataclass(frozen=True)
class FamilyKind:
    """A row: a family of teachers, and what the rest of piflow knows about it before its class is imported.

    Attributes:
        family: "module:Class" of its :class:`~piflow_cli.teachers.base.TeacherFamily`.
        told: whether its models are conditioned on a class or on a text.
        presets: the folder of its own presets, NAME.yaml, and of files that they call ``preset:FILE``; None: that of
            piflow.
        published: by the first word of a published folder's name, the preset of its students' teacher, where config and
            tensors do not tell.
        guided: how its models are: by the scale as their input, or by two halves, with what they are told and without;
            None: not said here.
        renormalised: how its stock pipeline renormalises guided velocities: positions of a token each way, and the most
            that one may grow by; None: it does not.
        shown: whether they are shown a reference picture too, which their text says how to edit.
        boundary: the noise level below which a network of its own takes over, as pipelines state it; None: one network
            knows all.
        frame_step: frames of a video that share a latent position, but the first, which has its own; None: its models
            make pictures.

    Raises:
        ValueError: ``told`` is neither class nor text.
    """

    name: str
    family: str
    told: Literal["class", "text"]
    presets: Path | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    guided: Literal["input", "halves"] | None = None
    renormalised: tuple[int, float] | None = None
    shown: bool = False
    frame_step: int | None = None
    boundary: float | None = None

    def __post_init__(self) -> None:
        if self.told not in (CLASS, TEXT):
            raise ValueError(f"the family {self.name} is told {self.told!r}, which is neither {CLASS} nor {TEXT}")


ROWS = {
    row.name: row
    for row in (
        FamilyKind(
            "dit",
            "piflow_cli.teachers.dit:DiTFamily",
            CLASS,
            published={"gmdit": "imagenet-fm", "gmrepa": "imagenet-repa"},
            guided=HALVES,
        ),
        FamilyKind("dit-ddpm", "piflow_cli.teachers.dit_ddpm:DDPMDiTFamily", CLASS, guided=HALVES),
        FamilyKind("dit-epsilon", "piflow_cli.teachers.dit_diffusion:EpsilonDiTFamily", CLASS, guided=HALVES),
        FamilyKind("dit-v", "piflow_cli.teachers.dit_diffusion:VDiTFamily", CLASS, guided=HALVES),
        FamilyKind("dit-edm", "piflow_cli.teachers.dit_diffusion:EDMDiTFamily", CLASS, guided=HALVES),
        FamilyKind("edm2", "piflow_cli.teachers.edm2:EDM2Family", CLASS, guided=HALVES),
        FamilyKind("flux", "piflow_cli.teachers.flux:FluxFamily", TEXT, guided=INPUT),
        FamilyKind("flux-cfg", "piflow_cli.teachers.flux:FluxCfgFamily", TEXT, guided=HALVES),
        FamilyKind("flux-kontext", "piflow_cli.teachers.kontext:FluxKontextFamily", TEXT, guided=INPUT, shown=True),
        FamilyKind("flux2", "piflow_cli.teachers.flux2:Flux2Family", TEXT, guided=INPUT),
        FamilyKind("flux2-klein", "piflow_cli.teachers.flux2:Flux2KleinFamily", TEXT, guided=HALVES),
        FamilyKind("flux2-edit", "piflow_cli.teachers.flux2_edit:Flux2EditFamily", TEXT, guided=INPUT, shown=True),
        FamilyKind(
            "flux2-klein-edit",
            "piflow_cli.teachers.flux2_edit:Flux2KleinEditFamily",
            TEXT,
            guided=HALVES,
            shown=True,
        ),
        FamilyKind("flux3-klein", "piflow_cli.teachers.flux3:Flux3KleinFamily", TEXT, guided=HALVES),
        FamilyKind("chroma", "piflow_cli.teachers.chroma:ChromaFamily", TEXT, guided=HALVES),
        FamilyKind(
            "longcat-image",
            "piflow_cli.teachers.longcat:LongCatImageFamily",
            TEXT,
            guided=HALVES,
            renormalised=(2, 1.0),
        ),
        FamilyKind("ovis-image", "piflow_cli.teachers.ovis:OvisImageFamily", TEXT, guided=HALVES),
        FamilyKind(
            "qwen-image",
            "piflow_cli.teachers.qwen:QwenImageFamily",
            TEXT,
            guided=HALVES,
            renormalised=(2, float("inf")),
        ),
        FamilyKind(
            "qwen-image-edit",
            "piflow_cli.teachers.qwen_edit:QwenImageEditFamily",
            TEXT,
            guided=HALVES,
            renormalised=(2, float("inf")),
            shown=True,
        ),
        FamilyKind("ernie-image", "piflow_cli.teachers.ernie:ErnieImageFamily", TEXT, guided=HALVES),
        FamilyKind("krea2", "piflow_cli.teachers.krea2:Krea2Family", TEXT, guided=HALVES),
        FamilyKind("sana", "piflow_cli.teachers.sana:SanaFamily", TEXT, guided=HALVES),
        FamilyKind("sd3", "piflow_cli.teachers.sd3:StableDiffusion3Family", TEXT, guided=HALVES),
        FamilyKind("sd15", "piflow_cli.teachers.stable_diffusion:StableDiffusionFamily", TEXT, guided=HALVES),
        FamilyKind("sdxl", "piflow_cli.teachers.stable_diffusion:StableDiffusionXLFamily", TEXT, guided=HALVES),
        FamilyKind("kandinsky6", "piflow_cli.teachers.kandinsky6:Kandinsky6Family", TEXT, guided=HALVES, frame_step=4),
        FamilyKind("ltx", "piflow_cli.teachers.ltx:LTXFamily", TEXT, guided=HALVES, frame_step=8),
        FamilyKind("wan", "piflow_cli.teachers.wan:WanFamily", TEXT, guided=HALVES, frame_step=4),
        FamilyKind("wan-ti2v", "piflow_cli.teachers.wan:WanTI2VFamily", TEXT, guided=HALVES, frame_step=4),
        FamilyKind(
            "wan-a14b",
            "piflow_cli.teachers.wan_a14b:WanA14BFamily",
            TEXT,
            guided=HALVES,
            frame_step=4,
            boundary=0.875,
        ),
        FamilyKind("z-image", "piflow_cli.teachers.z_image:ZImageFamily", TEXT, guided=HALVES),
    )
}


def family_names() -> tuple[str, ...]:
    """The names of all families, ours first."""
    return (*ROWS, *(name for name in outside_names(ENTRY_POINT) if name not in ROWS))


def family_kind(name: str) -> FamilyKind:
    """The row called ``name``; raises KeyError where there is none."""
    return ROWS[name] if name in ROWS else outside_row(ENTRY_POINT, name, FamilyKind)


def usable_families() -> Iterator[FamilyKind]:
    """All rows that can be used, ours first: one of another package that cannot stops only those who ask for it."""
    for name in family_names():
        with suppress(RunError):
            yield family_kind(name)


def guided_by(family: object) -> str | None:
    """INPUT or HALVES, the way in which teachers of ``family`` are guided; None where that is not said."""
    return family_kind(str(family)).guided if family in family_names() else None


def renormalised_by(family: object) -> tuple[int, float] | None:
    """How the stock pipeline of ``family`` renormalises guided velocities; None: it does not, or is not known."""
    return family_kind(str(family)).renormalised if family in family_names() else None


def shown_a_picture(family: object) -> bool:
    """Whether teachers of ``family`` are shown a reference picture, besides the text that says how to edit it."""
    return family in family_names() and family_kind(str(family)).shown


def frame_step_of(family: object) -> int | None:
    """The ``frame_step`` of ``family``; None: its models make pictures, or no family has that name."""
    return family_kind(str(family)).frame_step if family in family_names() else None


def boundary_of(family: object) -> float | None:
    """The ``boundary`` of ``family``; None: it has one network, or no family has that name."""
    return family_kind(str(family)).boundary if family in family_names() else None


def edge_of(family: object) -> float | None:
    """The highest noise level of the second network of ``family``; None: it has one, or there is no such family.

    It lies just above the boundary, on which rounding may put a time on either side: what starts there is the second
    network's, of a student a whole segment.
    """
    boundary = boundary_of(family)
    return None if boundary is None else boundary + ON_EDGE


def frames_near(frames: int, step: int) -> list[int]:
    """The lengths of videos, ``step`` n + 1, that are nearest to ``frames``: itself, or the one below and above."""
    below = max(0, (frames - 1) // step) * step + 1
    return [below] if below == frames else [below, below + step]


def guided_otherwise(family: str) -> str:
    """What to type for the family of the same networks that are guided in the other way; "" where there is none."""
    own = family_kind(family)
    for kind in usable_families():
        if kind.family.split(":")[0] == own.family.split(":")[0] and kind.guided not in (None, own.guided):
            mode = "embedded" if kind.guided == INPUT else "plain"
            return f", or its family: --set teacher.family={kind.name} --set teacher.guidance_mode={mode}"
    return ""


def conditioning_of(family: object) -> str | None:
    """CLASS or TEXT, the conditioning of teachers of ``family``; None where no family has that name."""
    return family_kind(str(family)).told if family in family_names() else None
