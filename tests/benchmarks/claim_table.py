"""The claims: what the paper says, the students that can show it, and which must beat which.

Where: a section, table or figure of pi-Flow (arXiv 2510.14974), or ArcFlow (2602.09014). These students learn from the
digits teacher; claims_emoji.py has those of the emoji teacher. Errors from the same noise have less spread than
distances to the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LONG = 800  # iterations of a long training; the preset takes 200
# Figures that `piflow inspect-policy` takes, which is a command more for each student.
INSPECTED = frozenset({"not_steered", "velocity_error", "growth", "teacher_error", "endpoint_error"})
OWN = {"gm": 8, "dx": 10, "momentum": 8}  # components of the preset
ALWAYS = 9_999_999  # mixing iterations, the most there are: the teacher walks the whole trajectory


@dataclass(frozen=True)
class Arm:
    """One kind of student: options of `piflow distill`, and of the sampling.

    nfe: evaluations in training and in sampling. sampling: keys of `piflow_cli.evaluate`; the run does not depend on
    them. variant: a row of idea_variants.py, under which the student is trained and measured. start: the student whose
    weights this one begins with. Equal options are one run, whatever the claims that ask for it.
    """

    policy: str = "gm"
    nfe: int = 1
    settings: tuple[str, ...] = ()
    sampling: dict[str, float | str] = field(default_factory=dict)
    variant: str | None = None
    start: Arm | None = None

    @property
    def told(self) -> tuple[object, ...]:
        """All that its run depends on, besides seed and length."""
        own = () if self.variant is None else (f"variant {self.variant}",)
        return (*self.options, *own, *(() if self.start is None else (self.start.told,)))

    @property
    def options(self) -> tuple[str, ...]:
        given = [part for setting in self.settings for part in ("--set", setting)]
        return ("--policy", self.policy, "--nfe", str(self.nfe), *given)


@dataclass(frozen=True)
class Comparison:
    """``better`` has the lower ``figure`` than ``worse``; or, where ``apart`` is False, the two are within a tenth."""

    better: str
    worse: str
    figure: str
    apart: bool = True


@dataclass(frozen=True)
class Claim:
    number: int
    title: str
    where: str
    says: str
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]

    @property
    def inspects(self) -> bool:
        return any(one.figure in INSPECTED for one in self.comparisons)


def components(count: int, policy: str = "gm") -> Arm:
    """Of the preset's own number nothing is asked, so that all claims share the run."""
    return Arm(policy, settings=() if count == OWN[policy] else (f"policy.components={count}",))


def over(policy: str) -> dict[str, Arm]:
    return {f"{policy}, {nfe} NFE": Arm(policy, nfe) for nfe in (1, 2, 4)}


def fewer_are_worse(policy: str) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(f"{policy}, {more} NFE", f"{policy}, {fewer} NFE", figure)
        for more, fewer in ((2, 1), (4, 2))
        for figure in ("to_data", "squared_distance")
    )


def against(better: str, others: tuple[str, ...], *figures: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(better, other, figure) for other in others for figure in figures)


def long(*settings: str) -> Arm:
    return Arm(settings=(f"optimisation.iterations={LONG}", *settings))


GM = "gm, K = 8"
FAMILIES = Claim(
    1,
    "Gaussian mixtures against grids and momentum at one evaluation",
    "pi-Flow, table 1; section 5.1",
    "FID of GM is lower than that of DX with 10, 20 or 40 points; K = 8 and K = 32 are alike.",
    {
        GM: components(8),
        "gm, K = 1": components(1),
        "gm, K = 2": components(2),
        "gm, K = 32": components(32),
        **{f"dx, N = {count}": components(count, "dx") for count in (10, 20, 40)},
        "momentum, K = 8": components(8, "momentum"),
    },
    (
        *against(GM, ("dx, N = 10", "dx, N = 20", "dx, N = 40", "momentum, K = 8"), "to_data", "to_teacher"),
        *against(GM, ("gm, K = 1", "gm, K = 2"), "to_teacher"),
        Comparison(GM, "gm, K = 32", "to_data", apart=False),
    ),
)
DROPOUT = Claim(
    2,
    "Dropout of components",
    "pi-Flow, table 1; section 4.3",
    "FID of the FM teacher's student rises from 3.65 to 4.14 without dropout.",
    {
        "short": Arm(),
        "short, none": Arm(settings=("imitation.dropout=0",)),
        "long": long(),
        "long, none": long("imitation.dropout=0"),
    },
    (*against("short", ("short, none",), "to_data"), *against("long", ("long, none",), "to_data")),
)
WINDOW = Claim(
    3,
    "Micro-window and temperature",
    "pi-Flow, table 7",
    "The distance to the teacher's pictures rises a little without either.",
    {
        "window of 5": Arm(),
        "no window": Arm(settings=("imitation.window=0",)),
        "4 NFE, as trained": Arm(nfe=4),
        "4 NFE, T = 0.3": Arm(nfe=4, sampling={"temperature": 0.3}),
    },
    (
        *against("window of 5", ("no window",), "to_teacher", "to_data"),
        *against("4 NFE, T = 0.3", ("4 NFE, as trained",), "to_teacher", "to_data"),
    ),
)
ON_POLICY = Claim(
    4,
    "States of its own against states of the teacher",
    "pi-Flow, section 4.1, mechanism of DAgger (Ross et al., 2011)",
    "Off its teacher's path, a student that saw none of its own states errs more, and its error grows faster.",
    {
        "its own states": Arm(),
        "the teacher's states": Arm(settings=(f"imitation.mixing_iterations={ALWAYS}",)),
        "2 NFE, its own states": Arm(nfe=2),
        "2 NFE, the teacher's states": Arm(nfe=2, settings=(f"imitation.mixing_iterations={ALWAYS}",)),
    },
    (
        *against("its own states", ("the teacher's states",), "to_data", "squared_distance", "growth"),
        *against("2 NFE, its own states", ("2 NFE, the teacher's states",), "to_data", "squared_distance", "growth"),
    ),
)
ROBUSTNESS = Claim(
    5,
    "Robustness against perturbations",
    "pi-Flow, section 3.3",
    "A mixture's posterior answers a perturbed state; a grid, momentum and one x_0 (a shortcut) let it pass.",
    {
        GM: components(8),
        "dx, N = 10": components(10, "dx"),
        "momentum, K = 8": components(8, "momentum"),
        "one x_0": components(1, "dx"),
    },
    against(GM, ("dx, N = 10", "momentum, K = 8", "one x_0"), "not_steered"),
)
DATA_FREE = Claim(
    6,
    "Without data",
    "pi-Flow, section 4.2",
    "A student that starts at noise alone is as good as one that starts at noised data.",
    {
        "2 NFE, data": Arm(nfe=2),
        "2 NFE, data-free": Arm(nfe=2, settings=("imitation.data_free=true", "optimisation.batch_size=64")),
        "4 NFE, data": Arm(nfe=4),
        "4 NFE, data-free": Arm(nfe=4, settings=("imitation.data_free=true", "optimisation.batch_size=32")),
    },
    tuple(Comparison(f"{nfe} NFE, data-free", f"{nfe} NFE, data", "to_data", apart=False) for nfe in (2, 4)),
)
MORE_EVALUATIONS = Claim(
    7,
    "More evaluations are better",
    "pi-Flow, tables 2 and 3; ArcFlow, table 1",
    "Each family is better at 2 than at 1, and at 4 than at 2.",
    {**over("gm"), **over("dx"), **over("momentum")},
    (*fewer_are_worse("gm"), *fewer_are_worse("dx"), *fewer_are_worse("momentum")),
)
FRAGILITY = Claim(
    9,
    "What a teacher does off its own path limits its student",
    "pi-Flow, on scheduled trajectory mixing; how far it reaches is left open there",
    "The teacher that answers worse where noise was added to its path has the student that ends further from it.",
    {"guidance 1": Arm(), **{f"guidance {scale}": Arm(settings=(f"teacher.guidance={scale}",)) for scale in (2, 4)}},
    tuple(
        Comparison(f"guidance {less}", f"guidance {more}", figure)
        for less, more in ((1, 2), (2, 4))
        for figure in ("teacher_error", "velocity_error", "endpoint_error")
    ),
)
CLAIMS = (FAMILIES, DROPOUT, WINDOW, ON_POLICY, ROBUSTNESS, DATA_FREE, MORE_EVALUATIONS, FRAGILITY)
