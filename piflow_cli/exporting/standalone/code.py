"""The files of Python that lie beside exported weights, assembled from this package."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from torch import nn

from ... import __version__
from .assembly import PACKAGE, assemble

OLDEST_DIFFUSERS = "0.39.0"
SCHEDULER = "policy_scheduler"
CLASS_CONDITIONAL = "class_conditional"
COMPONENT = "component"
_SCHEDULER_MODULES = (
    "core/timegrid.py",
    "core/tensors.py",
    "core/validation.py",
    "core/policies/base.py",
    "core/policies/components.py",
    "core/policies/gmflow.py",
    "core/policies/dx.py",
    "core/policies/momentum.py",
    "core/decoding.py",
    "core/coefficients.py",
    "core/reference.py",
    "scheduler.py",
)
_HEADING = '''# Copyright The piflow authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use this
# file except in compliance with the License. You may obtain a copy of it at https://www.apache.org/licenses/LICENSE-2.0.
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
# "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""{title}

Assembled by piflow {version} from its own modules: change those rather than this file.
"""

'''


def scheduler_code() -> str:
    """PolicyScheduler in one file. Its rollouts are the plain loop over substeps; piflow itself has fused ones."""
    title = "The sampler of a pi-Flow student (arXiv 2510.14974): policies are followed by the plain loop over substeps."
    return _headed(title, assemble(_SCHEDULER_MODULES, ["PolicyScheduler"]))


def class_conditional_code() -> str:
    """The pipeline of students that are told a class."""
    return _headed("The pipeline of a student that is told a class.", assemble([_own(CLASS_CONDITIONAL)], ["ClassConditionalPipeline"]))


def component_code() -> str:
    """What stands for a part of the base that is not copied."""
    return _headed("A part of this pipeline that lies elsewhere.", assemble([_own(COMPONENT)], ["Elsewhere"]))


def transformer_module(kind: type[nn.Module]) -> str:
    """Name of the file, without its suffix, and of the module that diffusers makes of it."""
    return f"policy_{kind.__name__.lower()}"


def transformer_class(kind: type[nn.Module]) -> str:
    """Name of the class of a model of class ``kind`` with a policy head."""
    return f"Policy{kind.__name__}"


def transformer_code(kind: type[nn.Module]) -> str:
    """The class of a model of class ``kind`` with a policy head, with its own architecture where diffusers lacks it."""
    modules, wanted = ["core/heads.py", _own("policy_model")], ["PolicyModel", "require_diffusers"]
    # Below the check: an old diffusers may lack the class, and its own message would not say what to do.
    below = f"from diffusers import {kind.__name__}  # noqa: E402\nfrom diffusers.configuration_utils import register_to_config  # noqa: E402\n"
    if kind.__module__.startswith(f"{PACKAGE.name}."):
        modules.insert(0, Path(sys.modules[kind.__module__].__file__).relative_to(PACKAGE).as_posix())
        wanted.append(kind.__name__)
        below = ""
    title = f"{kind.__name__} with a policy head (pi-Flow, arXiv 2510.14974)."
    check = f'require_diffusers("{OLDEST_DIFFUSERS}")\n{below}'
    return _headed(title, f"{assemble(modules, wanted)}\n\n{check}\n\n{_subclass(kind)}")


def _subclass(kind: type[nn.Module]) -> str:
    """A class that adds the head in its constructor; every field of the config is named, as diffusers wants it."""
    fields = [field for field in inspect.signature(kind.__init__).parameters.values() if field.name != "self"]
    taken = "\n".join(f"        {field.name}={field.default!r}," for field in fields)
    given = "\n".join(f"            {field.name}={field.name}," for field in fields)
    name = kind.__name__
    return f'''class {transformer_class(kind)}(PolicyModel, {name}):
    """{name} that predicts a policy; ``policy`` describes the head, ``auto_map`` is read by AutoModel of diffusers."""

    base_class = {name}

    @register_to_config
    def __init__(
        self,
{taken}
        *,
        policy,
        auto_map=None,
    ):
        super().__init__(
{given}
        )
        self.put_head(policy)
'''


def _own(name: str) -> str:
    return f"exporting/standalone/{name}.py"


def _headed(title: str, body: str) -> str:
    return _HEADING.format(title=title, version=__version__) + body
