"""The folder of a preset's teacher: fetched, and converted to our form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..presets.folders import SHIPPED_PREFIX, beside_presets
from ..weights.locate import CONFIGS, hub_id, locate

if TYPE_CHECKING:
    from ..presets.schema import TeacherSection
    from .base import TeacherFamily


def on_base(teacher: TeacherSection, base: str | None, revision: str | None = None) -> TeacherSection:
    """The teacher with its weights at ``base``, at the newest revision unless one is named; None leaves it as it is."""
    return teacher if base is None else replace(teacher, base=base, revision=revision)


def teacher_folder(family: TeacherFamily, teacher: TeacherSection) -> Path:
    """The folder of a preset's teacher for ``family.load``, its network fetched and converted to our form."""
    config = None if teacher.config is None else locate(teacher.config, only=CONFIGS)
    return family.prepare(locate(teacher.base, teacher.revision), config)


def outline_folder(family: TeacherFamily, teacher: TeacherSection) -> Path:
    """A folder for ``family.outline``: of a base on the Hub only the configuration is fetched, if it is not shipped."""
    if hub_id(teacher.base) is None:
        return teacher_folder(family, teacher)
    if teacher.config is not None:
        return locate(teacher.config, only=CONFIGS)
    return config_folder(teacher)


def config_folder(teacher: TeacherSection) -> Path:
    """A folder with the configs of a preset's teacher; those of the shipped presets' bases come with piflow.

    They are the newest that were known, so a teacher at a revision of its own is asked for.
    """
    shipped = f"configs/{teacher.base.replace('/', '--')}"
    if teacher.revision is None and hub_id(teacher.base) is not None and beside_presets(shipped).is_dir():
        return locate(f"{SHIPPED_PREFIX}{shipped}", only=CONFIGS)
    return locate(teacher.base, teacher.revision, CONFIGS)
