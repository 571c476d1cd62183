"""A run under a budget: it measures, plans, looks whether it will end in time, and remembers what it has spent."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from ..errors import UsageError
from ..presets.budgets import in_units, read_budget
from ..presets.expected import expected
from ..sampling.denoise import sample_teacher
from ..students.run_settings import planned_settings
from ..students.runs import BudgetRecord, RunFolder
from .budget import Plan, TooSmall, choose_plan, new_length, stretched
from .loop import Session, train_step
from .optimizer import Stretch, whole_schedule
from .settings import BatchPlan, batch_plan, least_device_batch, network_evaluations

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import OptimisationSection, Preset

MEASURED, DISCARDED = 5, 2  # rounds; the first ones fetch, compile and warm up
AGAIN = 3  # rounds of another batch, whose first is discarded
LOOKS = 50  # how often a run looks at the clock
WINDOW = 5  # looks over which the time of an iteration is taken
# The curve of the losses is drawn, and the program ends; a slow core takes so many seconds for both.
ENDING = 2.5


def now() -> float:
    """Seconds of a clock that never goes back, the same for all processes of this machine."""
    return time.monotonic()


@dataclass
class Spending:
    """The time of a run under a budget.

    ``share``: processes that spend a budget of GPU hours together, else 1; records are of all of them.
    In seconds: ``budget``; ``before``, of earlier starts of the run; ``saving``, of the longest save until now;
    ``ending``, of what comes after the last save. ``began``: the start of the command, by :func:`now`. ``asked``: what
    the run was given for the settings that the budget decides.
    """

    session: Session
    run: RunFolder
    budget: float
    before: float
    began: float
    ending: float
    asked: Mapping[str, Any]
    share: int = 1
    saving: float = 0.0
    marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def spent(self) -> float:
        """Seconds until now, earlier starts included."""
        return self.before + now() - self.began

    def start(self) -> None:
        """Begin to count iterations."""
        self.marks.append((self.session.iteration, now()))

    def look(self, console: Console) -> bool:
        """Now and then, give the run another length where it would not end in time; whether it did.

        All processes of a run must call this at the same iteration; the first one decides.
        """
        session = self.session
        length = session.preset.optimisation.iterations
        if session.iteration % max(1, length // LOOKS) or session.iteration >= length:
            return False
        first, since = self.marks[0]
        moment = now()
        # A few steps say little, unless they take as long as those of so many looks should.
        enough = len(self.marks) == WINDOW or length < LOOKS or moment - since >= self.budget * WINDOW / LOOKS
        self.marks.append((session.iteration, moment))
        seconds = (moment - since) / (session.iteration - first)
        left = self.budget - self.spent - self.ending - self.saving
        new = new_length(session.iteration, length, left, seconds, self.budget) if enough else None
        found = _of_first(session, new)
        if found is None:
            return False
        console.say(
            f"budget: {found} iterations in place of {length}, since one takes {seconds:.2g} s and"
            f" {in_units(max(0.0, self.budget - self.spent))} are left"
        )
        session.stretches = stretched(session.stretches, session.iteration, found)
        session.preset = with_length(session.preset, found)
        return True

    def saved(self, seconds: float) -> None:
        """Take the longest save until now for the one at the end."""
        self.saving = max(self.saving, seconds)

    def write(self) -> None:
        """Record what is spent and how the schedule goes; for the first process."""
        self.run.write_budget(
            BudgetRecord(self.share * self.spent, tuple(astuple(one) for one in self.session.stretches), self.asked)
        )


def with_length(preset: Preset, iterations: int) -> Preset:
    """``preset`` with another number of iterations."""
    return replace(preset, optimisation=replace(preset.optimisation, iterations=iterations))


def open_spending(session: Session, run: RunFolder, resumed: bool, began: float, console: Console) -> Spending:
    """Plan a run under a budget, or go on with the plan that its folder has and the session's preset too.

    Raises UsageError where the budget is too small; nothing is written then.
    """
    settings, processes = session.preset.optimisation, session.batches.processes
    budget = read_budget(settings.budget)
    share = processes if budget.shared else 1
    asked = planned_settings(session.preset)
    spending = Spending(session, run, budget.seconds(processes), 0.0, began, ENDING, asked, share)
    if resumed:
        record = _of_first(session, run.read_budget())
        spending.before, spending.asked = record.spent / share, record.asked
        # Whoever took a damaged record away has none.
        stretches = tuple(Stretch(*one) for one in record.stretches)
        session.stretches = stretches if stretches else (whole_schedule(settings),)
        return spending
    measured = Measured(session)
    spending.ending += _of_first(session, measured.pictures())

    def left() -> float:
        return _of_first(session, spending.budget - spending.spent - spending.ending)

    try:
        plan = choose_plan(left, settings, processes, measured.seconds, least_device_batch(session.preset))
    except TooSmall as error:
        other = spending.budget - left()
        least = budget.text(other + error.seconds, processes)
        raise UsageError(
            f"--budget {settings.budget}: too small for a warm-up of {max(1, settings.warmup)} iterations; what comes"
            f" before and after takes {other:.0f} s",
            f"give it at least --budget {least}",
        ) from error
    console.say(_said(plan, settings, spending))
    session.preset = plan.applied(session.preset)
    hoped = expected(session.preset, plan.iterations * network_evaluations(session.preset))
    if hoped is not None:
        console.say(f"expect {hoped}")
    session.batches = batch_plan(session.preset, processes)
    session.stretches = (whole_schedule(session.preset.optimisation),)
    return spending


def _said(plan: Plan, settings: OptimisationSection, spending: Spending) -> str:
    """The plan in one line, with its reasons."""
    smaller = plan.batch_size < settings.batch_size
    batch = f"{plan.batch_size} in place of {settings.batch_size}, for more steps," if smaller else plan.batch_size
    return (
        f"budget of {settings.budget}: {plan.iterations} iterations of {batch} at {plan.seconds:.2g} s, warm-up"
        f" {plan.warmup}, cosine; {spending.spent:.0f} s have gone, {spending.ending:.0f} s are kept for the end"
    )


def refuse_spent(budget: str, processes: int, began: float) -> None:
    """Raise UsageError where a budget has gone before anything is loaded."""
    gone, read = now() - began, read_budget(budget)
    if gone >= read.seconds(processes):
        raise UsageError(
            f"--budget {budget}: {gone:.1f} s have gone, and nothing is loaded yet",
            f"give it more: --budget {read.text(10 * gone, processes)}",
        )


class Measured:
    """Seconds of a round of accumulation by its device batch, from a few steps that change no weight."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._known: dict[int, float] = {}

    def seconds(self, device_batch: int) -> float:
        """The median of the last of a few rounds, on the first process, each with an update of all weights."""
        if device_batch not in self._known:
            rounds = (AGAIN, 1) if self._known else (MEASURED, DISCARDED)
            self._known[device_batch] = _of_first(self.session, _measure(self.session, device_batch, *rounds))
        return self._known[device_batch]

    def pictures(self) -> float:
        """The time of the pictures at the end, from a few steps of the teacher for as many of them."""
        session, gallery = self.session, self.session.gallery
        if gallery is None:
            return 0.0
        family, facts = session.student.family, session.student.facts
        # The one step is at noise, where guidance may not act yet.
        guidance = replace(session.guidance, interval=(0.0, 1.0))
        noise = gallery.noise[: gallery.columns]
        conditioning = {name: value[: gallery.columns] for name, value in gallery.conditioning.items()}
        times = []
        for _ in range(AGAIN):
            began = now()
            with session.accelerator.autocast():
                drawn = sample_teacher(family, session.teacher, noise, conditioning, 1, facts.shift, guidance)
            # On a GPU the answer has to be waited for.
            drawn.sum().item()
            times.append(now() - began)
        return (1 + family.beside_steps + facts.nfe) * statistics.median(times[1:])


def _measure(session: Session, device_batch: int, rounds: int, discarded: int) -> float:
    preset, batches = session.preset, session.batches
    # At a rate of zero the weights, and their average, stay what they are.
    still = replace(preset.optimisation, learning_rate=0.0)
    session.preset = replace(preset, optimisation=still)
    session.batches = BatchPlan(batches.processes, device_batch, 1)
    times = []
    for _ in range(rounds):
        began = now()
        train_step(session)
        times.append(now() - began)
    session.preset, session.batches = preset, batches
    session.optimizer.state.clear()
    session.iteration, session.streak, session.pending = 0, 0, []
    return statistics.median(times[discarded:])


def _of_first(session: Session, value: Any) -> Any:
    """The ``value`` of the first process, on all of them."""
    if session.accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]
