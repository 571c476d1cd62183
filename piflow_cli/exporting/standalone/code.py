"""The Python files beside exported weights, assembled from this package."""

from __future__ import annotations

import inspect
from pathlib import Path

from torch import nn

from ... import __version__
from ...core.heads import PolicyHead
from ...core.parameterisations.kinds import FLOW, parameterisation_of
from ...core.policies.kinds import head_class, policy_class
from .assembly import PACKAGE, Definition, assemble

OLDEST_DIFFUSERS = "0.39.0"
SCHEDULER = "policy_scheduler"
CLASS_CONDITIONAL = "class_conditional"
COMPONENT = "component"
_BELOW_POLICIES = ("core/segments.py", "core/timegrid.py", "core/tensors.py", "core/validation.py")
_ABOVE_POLICIES = ("core/decoding.py", "core/coefficients.py", "core/reference.py", "students/scheduler.py")
_HEADING = '''\
# Copyright The piflow authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use this
# file except in compliance with the License. You may obtain a copy of it at
# https://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either
# express or implied.
"""{title}

Assembled by piflow {version} from its own modules: change those rather than this file.
"""

'''


def scheduler_code(policy: str, predicts: str = FLOW) -> str:
    """PolicyScheduler in one file, for policies called ``policy`` of networks that predict ``predicts``.

    Its rollouts are the plain loop over substeps; piflow itself has fused ones.
    """
    title = (
        "The sampler of a pi-Flow student (arXiv 2510.14974): policies are followed by the plain loop over substeps."
    )
    kind = policy_class(policy)
    below = [*_BELOW_POLICIES, *_files_of(type(parameterisation_of(predicts))), _only_parameterisation(predicts)]
    parts = [*below, *_files_of(kind), _only("policy_class", policy, kind), *_ABOVE_POLICIES]
    return _headed(title, assemble(parts, ["PolicyScheduler"]))


def class_conditional_code() -> str:
    """The pipeline of class-conditional students."""
    return _headed(
        "The pipeline of a student that is told a class.",
        assemble([_own(CLASS_CONDITIONAL)], ["ClassConditionalPipeline"]),
    )


def component_code() -> str:
    """The stand-in for a part of the base that is not copied."""
    return _headed("A part of this pipeline that lies elsewhere.", assemble([_own(COMPONENT)], ["Elsewhere"]))


def transformer_module(kind: type[nn.Module]) -> str:
    """The name of the file without its suffix, and of the module that diffusers makes of it."""
    return f"policy_{kind.__name__.lower()}"


def transformer_class(kind: type[nn.Module]) -> str:
    """The name of the class: a model of class ``kind`` with a policy head."""
    return f"Policy{kind.__name__}"


def transformer_code(kind: type[nn.Module], policy: str) -> str:
    """A model class ``kind`` with the head of ``policy``, and the architecture itself where diffusers lacks it."""
    head = head_class(policy)
    parts, wanted = (
        [*_files_of(head), _only("head_class", policy, head), _layers(head), _own("policy_model")],
        ["PolicyModel", "require_diffusers"],
    )
    # Below the check: an old diffusers may lack the class, and its own message would not say what to do.
    below = (
        f"from diffusers import {kind.__name__}  # noqa: E402\nfrom diffusers.configuration_utils import"
        " register_to_config  # noqa: E402\n"
    )
    if kind.__module__.startswith(f"{PACKAGE.name}."):
        parts.insert(0, _file_of(kind))
        wanted.append(kind.__name__)
        below = ""
    title = f"{kind.__name__} with a policy head (pi-Flow, arXiv 2510.14974)."
    check = f'require_diffusers("{OLDEST_DIFFUSERS}")\n{below}'
    return _headed(title, f"{assemble(parts, wanted)}\n\n{check}\n\n{_subclass(kind)}")


def _files_of(kind: type) -> list[str]:
    """The files of ``kind`` and its base classes, each before those that use it; torch's own left out."""
    classes = [
        cls for cls in reversed(kind.__mro__) if cls.__module__.partition(".")[0] not in ("abc", "builtins", "torch")
    ]
    return list(dict.fromkeys(map(_file_of, classes)))


def _file_of(kind: type) -> str:
    """The file of a class, below the package where it is ours."""
    path = Path(inspect.getfile(kind))
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.as_posix()


def _only(function: str, policy: str, kind: type) -> Definition:
    """A function that finds a class by the name of a policy, where one class has come along."""
    text = f'''def {function}(name: str) -> type[{kind.__name__}]:
    """The one class of this student; piflow itself knows others."""
    return {{"{policy}": {kind.__name__}}}[name]'''
    return Definition("", function, text, frozenset([kind.__name__]))


def _only_parameterisation(name: str) -> Definition:
    """The function that finds a parameterisation by its name, where one has come along."""
    found = parameterisation_of(name)
    text = f'''def parameterisation_of(name: str) -> {type(found).__name__}:
    """The one parameterisation of this student; piflow itself knows others."""
    return {{"{name}": {found!r}}}[name]'''
    return Definition("", "parameterisation_of", text, frozenset([type(found).__name__]))


def _layers(head: type[PolicyHead]) -> Definition:
    """The names of the layers of the one head that has come along."""
    text = f'''def head_layers() -> tuple[str, ...]:
    """The names of the layers of the head."""
    return {head.layers!r}'''
    return Definition("", "head_layers", text, frozenset())


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
