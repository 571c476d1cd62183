"""The ideas: what each of them changes of the published recipe, and which students it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from claim_table import Arm
from variants.training import EVALUATIONS

from piflow_cli.presets.resolve import Preset, load, resolve
from piflow_cli.training.settings import network_evaluations

BASE, BASE_2, BASE_4 = "published", "published at 2 NFE", "published at 4 NFE"
BASE_2_FREE = "published at 2 NFE without data"
FREE = ("imitation.data_free=true",)
BEST = ("recipe=best",)
ONE_ASKED = ("imitation.states_per_query=1",)


@dataclass(frozen=True)
class Idea:
    """One change of the published recipe.

    Attributes:
        settings: of `piflow distill`, over those of the recipe.
        variant: a row of idea_variants.py.
        nfe: evaluations that the students are trained for.
        steps: evaluations in sampling; None: as trained.
        temperature: of the mixture in sampling; None: as trained.
        base: the idea whose students are compared.
        begins_at: evaluations of the student that takes the first half of the iterations; None: there is none.
        besides: network evaluations of a training that belong to no iteration.
        teacher: the preset whose published recipe is changed.
    """

    name: str
    settings: tuple[str, ...] = ()
    variant: str | None = None
    nfe: int = 1
    steps: int | None = None
    temperature: float | str | None = None
    base: str = BASE
    begins_at: int | None = None
    besides: int = 0
    teacher: str = "digits"

    @property
    def arm(self) -> Arm:
        """The student: as many iterations as the evaluations of the published recipe's pay for."""
        runs = 1 if self.begins_at is None else 2
        iterations = round((cost(self.teacher) - self.besides) / runs / self.evaluations)
        own = published(self.teacher).optimisation.iterations
        equal = () if iterations == own else (f"optimisation.iterations={iterations}",)
        settings = self.settings + equal
        start = None if self.begins_at is None else Arm(nfe=self.begins_at, settings=settings)
        told = {"steps": self.steps, "temperature": self.temperature}
        sampling = {name: value for name, value in told.items() if value is not None}
        return Arm("gm", self.nfe, settings, sampling, self.variant, start)

    @property
    def evaluations(self) -> int:
        """Network evaluations of one iteration."""
        return network_evaluations(resolved((f"policy.nfe={self.nfe}", *self.settings), self.teacher))

    @property
    def told(self) -> list[str]:
        """All that it changes, in words of the command line."""
        arm = self.arm
        changes = {
            f"--nfe {self.nfe}": self.nfe != 1,
            f"--steps {self.steps}": self.steps is not None,
            f"--temperature {self.temperature}": self.temperature is not None,
            f"--fork of --nfe {self.begins_at}": self.begins_at is not None,
            f"variant {self.variant}": self.variant is not None,
        }
        return [change for change, made in changes.items() if made] + list(arm.settings)


def published(teacher: str = "digits") -> Preset:
    return load(teacher)


def resolved(settings: Sequence[str], teacher: str = "digits") -> Preset:
    return resolve(teacher, None, list(settings), {})


def cost(teacher: str = "digits") -> int:
    """Network evaluations of the published recipe."""
    return published(teacher).optimisation.iterations * network_evaluations(published(teacher))


SETTINGS = (
    Idea("best", BEST),
    Idea("energy 8", ("imitation.energy=8",)),
    Idea("energy 24", ("imitation.energy=24",)),
    Idea("energy 100", ("imitation.energy=100",)),
    Idea("energy 24 at twice the rate", ("imitation.energy=24", "optimisation.learning_rate=3e-3")),
    Idea("moments 4", ("imitation.moments=4",)),
    Idea("moments 12", ("imitation.moments=12",)),
    Idea("energy 24 and moments 4", ("imitation.energy=24", "imitation.moments=4")),
    Idea("energy 24 and moments 40", ("imitation.energy=24", "imitation.moments=40")),
    Idea("one state", ("imitation.states=1",)),
    Idea("four states", ("imitation.states=4",)),
    Idea("eight states", ("imitation.states=8",)),
    Idea("batch of 64", ("optimisation.batch_size=64",)),
    Idea("twice the rate", ("optimisation.learning_rate=3e-3",)),
    Idea("half the rate", ("optimisation.learning_rate=7.5e-4",)),
    Idea("a longer average", ("optimisation.ema_gamma=3",)),
    Idea("a shorter average", ("optimisation.ema_gamma=15",)),
    Idea("no window", ("imitation.window=0",)),
    Idea("32 components", ("policy.components=32",)),
    Idea("constant rate", ("optimisation.schedule=constant",)),
)
OBJECTIVES = (
    Idea("errors by what may reach the end", variant="reaching-bound"),
    Idea("errors by what reaches the end", variant="reaching-typical"),
    Idea("x_0 near the data", variant="x0-below-half"),
    Idea("x_0", variant="x0"),
    Idea("gradients through the path", variant="through"),
    Idea("ends of the teacher's path", ("imitation.states=8", *ONE_ASKED), "ends"),
)
STATES = (
    Idea("states nearer the noise", variant="denser-near-noise"),
    Idea("states nearer the data", variant="denser-near-data"),
    Idea("two rollouts", variant="two-rollouts"),
    Idea("two rollouts of two states", ("imitation.states=4",), "two-rollouts"),
    Idea("four rollouts", ("imitation.states=4",), "four-rollouts"),
    Idea("a rollout from a perturbed start", variant="perturbed-rollout"),
    Idea("answers used twice", ("imitation.states=1",), "neighbours"),
)
TRAINING = (
    Idea("midpoints of substeps", variant="midpoint"),
    Idea("head at thrice the rate", variant="head-thrice"),
    Idea("head at a third of the rate", variant="head-third"),
    Idea("an average chosen of four", variant="chosen-average", besides=EVALUATIONS),
)
LENGTHS = (
    Idea("2 NFE begun at 1 NFE", nfe=2, base=BASE_2, begins_at=1),
    Idea("1 NFE begun at 2 NFE", begins_at=2),
    Idea("a head for each segment at 2 NFE", variant="by-segment", nfe=2, base=BASE_2),
    Idea("gradients over segments at 2 NFE", FREE, "over-segments", nfe=2, base=BASE_2_FREE),
    Idea("elastic at 1 NFE", variant="elastic", nfe=4, steps=1),
    Idea("elastic at 2 NFE", variant="elastic", nfe=4, steps=2, base=BASE_2),
    Idea("elastic at 4 NFE", variant="elastic", nfe=4, base=BASE_4),
    Idea("temperature auto at 2 NFE", nfe=2, temperature="auto", base=BASE_2),
    Idea("temperature auto at 4 NFE", nfe=4, temperature="auto", base=BASE_4),
    Idea("best at 2 NFE", BEST, nfe=2, base=BASE_2),
    Idea("best at 4 NFE", BEST, nfe=4, base=BASE_4),
    Idea("best and elastic at 1 NFE", BEST, "elastic", nfe=4, steps=1),
    Idea("best and elastic at 2 NFE", BEST, "elastic", nfe=4, steps=2, base=BASE_2),
    Idea("best and elastic at 4 NFE", BEST, "elastic", nfe=4, base=BASE_4),
)
FAMILIES = (
    Idea("a variance per component", variant="variances"),
    Idea("means that drift", variant="drift"),
    Idea("means of rank three", variant="low-rank"),
)
IDEAS = (
    Idea(BASE),
    *SETTINGS,
    *OBJECTIVES,
    *STATES,
    *TRAINING,
    Idea(BASE_2, nfe=2, base=BASE_2),
    Idea(BASE_2_FREE, FREE, nfe=2, base=BASE_2_FREE),
    Idea(BASE_4, nfe=4, base=BASE_4),
    *LENGTHS,
    *FAMILIES,
)
