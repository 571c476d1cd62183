"""Generation for features: nothing twice, nothing that grows, and the same
numbers whatever the batches and processes."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thread_processes import in_threads
from tiny_students import tiny_student

from piflow_cli.console import Console
from piflow_cli.errors import Reported, RunError
from piflow_cli.evaluation import generate
from piflow_cli.evaluation.candidates import Candidate
from piflow_cli.evaluation.generate import Generation, chunks_of
from piflow_cli.evaluation.overlap import WAITING, Overlap
from piflow_cli.sampling.denoise import seeded_generators, seeded_noise
from piflow_cli.sampling.opened import OpenedModel
from piflow_cli.sampling.request import ImageSpec
from piflow_cli.students.locate import StudentFiles
from piflow_cli.students.open import FoundStudent
from piflow_cli.system.group import Processes
from piflow_cli.weights.cache import Cache

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
SHAPE = (2, 4, 4)


def opened(count: int) -> OpenedModel:
    student = tiny_student()
    return OpenedModel(
        student=student,
        found=FoundStudent("none", StudentFiles(Path("none"), None), student.facts),
        specs=tuple(ImageSpec(seed, seed % 3) for seed in range(count)),
        device=CPU,
        condition=lambda specs: student.family.condition(student.model, [spec.label for spec in specs]),
        shape_of=lambda spec: SHAPE,
        decode=lambda states: states.mean(dim=1, keepdim=True),
    )


def doubled(noise, conditioning):
    return 2 * noise + conditioning["class_labels"].reshape(-1, 1, 1, 1)


def candidate(draw=doubled, **identity) -> Candidate:
    return Candidate("doubler", "student", "gm", 1, {"which": "doubler", **identity}, draw)


def flat(pictures, specs):
    return pictures.flatten(1)


def expected(specs) -> torch.Tensor:
    noise = seeded_noise(seeded_generators([spec.seed for spec in specs]), SHAPE)
    return doubled(noise, {"class_labels": torch.tensor([spec.label for spec in specs])}).mean(dim=1).flatten(1)


def generation(
    whole: OpenedModel, folder: Path, batch_size: int = 4, extractors=None, processes: Processes | None = None
) -> Generation:
    return Generation(
        whole,
        whole.specs,
        {"flat": flat} if extractors is None else extractors,
        Cache(folder),
        Processes(CPU) if processes is None else processes,
        batch_size,
    )


def never(*arguments):
    raise AssertionError("generated anew")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(generate, "CHUNK_PICTURES", 8)
    monkeypatch.setattr(generate, "ALIGNED_PICTURES", 16)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_features_are_those_of_the_specs_in_order(tmp_path, batch_size: int) -> None:
    whole = opened(21)
    made = generation(whole, tmp_path, batch_size)
    made.run(candidate(), QUIET)
    torch.testing.assert_close(torch.cat(list(made.features(candidate(), "flat"))), expected(whole.specs))
    states = torch.cat(list(made.states(candidate())))
    assert made.specs == list(whole.specs) and len(states) == len(made.aligned) == 16
    torch.testing.assert_close(states.mean(dim=1).flatten(1), expected(made.aligned))


def test_nothing_is_generated_twice(tmp_path) -> None:
    whole = opened(21)
    generation(whole, tmp_path).run(candidate(), QUIET)
    generation(whole, tmp_path).run(candidate(draw=never), QUIET)
    # Another look at the pictures whose states are kept needs the states alone.
    few = opened(16)
    extractors = {"flat": flat, "sum": lambda pictures, specs: pictures.flatten(1).sum(dim=1, keepdim=True)}
    more = generation(few, tmp_path, extractors=extractors)
    more.run(candidate(draw=never), QUIET)
    torch.testing.assert_close(torch.cat(list(more.features(candidate(), "sum")))[:, 0], expected(few.specs).sum(dim=1))


def test_a_damaged_entry_is_made_again_in_the_same_run(tmp_path) -> None:
    """A feature from the states that are kept, states and what is not aligned from the noise: nothing else."""
    whole, drawn = opened(24), []

    def counting(noise, conditioning):
        drawn.append(len(noise))
        return doubled(noise, conditioning)

    generation(whole, tmp_path).run(candidate(), QUIET)
    made = generation(whole, tmp_path)
    first, second, last = made.chunks
    for damaged, redrawn in (
        (made.features_key(candidate(), first, "flat"), 0),
        (made.states_key(candidate(), second), 8),
        (made.features_key(candidate(), last, "flat"), 8),
    ):
        path = made.cache.path(damaged)
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        drawn.clear()
        made.run(candidate(draw=counting), QUIET)
        assert sum(drawn) == redrawn
        torch.testing.assert_close(torch.cat(list(made.features(candidate(), "flat"))), expected(whole.specs))
        torch.testing.assert_close(
            torch.cat(list(made.states(candidate()))).mean(dim=1).flatten(1), expected(made.aligned)
        )


def test_more_pictures_keep_the_blocks_that_are_whole(tmp_path) -> None:
    generation(opened(16), tmp_path).run(candidate(), QUIET)
    drawn = []

    def counting(noise, conditioning):
        drawn.append(len(noise))
        return doubled(noise, conditioning)

    generation(opened(24), tmp_path).run(candidate(draw=counting), QUIET)
    assert sum(drawn) == 8


@given(st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=90))
def test_a_folder_s_name_fits_every_file_system_and_keeps_long_names_apart(one: str, other: str) -> None:
    folders = [replace(candidate(), name=name + "x" * 60).folder for name in (one, other)]
    assert all(len(os.fsencode(folder)) < 255 and "/" not in folder for folder in folders)
    assert (folders[0] == folders[1]) == (one == other)


def test_aligned_states_can_be_had_alone(tmp_path) -> None:
    made = generation(opened(40), tmp_path)
    made.run(candidate(), QUIET, aligned=True)
    assert sum(len(part) for part in made.features(candidate(), "flat", aligned=True)) == 16
    with pytest.raises(RunError, match="lost a chunk"):
        list(made.features(candidate(), "flat"))


@pytest.mark.parametrize(
    "other", [{"identity": {"steps": 2}}, {"specs": (ImageSpec(0, 1),)}, {"tag": "sharp"}, {"vae": "other"}]
)
def test_everything_that_shapes_features_is_in_their_key(tmp_path, other: dict) -> None:
    made = generation(opened(1), tmp_path)
    chunk = made.chunks[0]
    key = made.features_key(candidate(), chunk, "flat")
    if "vae" in other:
        made.opened = replace(made.opened, shown=other["vae"])
    changed = replace(chunk, specs=other.get("specs", chunk.specs))
    assert made.features_key(candidate(**other.get("identity", {})), changed, other.get("tag", "flat")) != key
    assert made.features_key(candidate(), chunk, "flat") == key or "vae" in other


@pytest.mark.parametrize("count", [2, 3, 7])
def test_processes_share_batches_and_the_first_stores_the_whole(tmp_path, count: int) -> None:
    """Each has a cache of its own, as on several machines. The first has some of it already."""
    whole, drawn = opened(40), []

    def counting(noise, conditioning):
        drawn.append(len(noise))
        return doubled(noise, conditioning)

    generation(whole, tmp_path / "alone").run(candidate(), QUIET)
    generation(opened(8), tmp_path / "0").run(candidate(), QUIET)

    def make(processes: Processes) -> None:
        made = Generation(
            whole, whole.specs, {"flat": flat}, Cache(tmp_path / str(processes.rank)), processes, 3, tmp_path / "images"
        )
        made.run(candidate(counting), QUIET)

    assert in_threads(count, make) == [None] * count
    # Pictures are wanted of the first block too, of which the first process alone knows the states: batches of 3, 3, 2.
    assert sum(drawn) == 40 - sum((3, 3, 2)[::count])
    assert not any((tmp_path / str(rank)).exists() for rank in range(1, count))
    first, alone = generation(whole, tmp_path / "0"), generation(whole, tmp_path / "alone")
    torch.testing.assert_close(torch.cat(list(first.features(candidate(), "flat"))), expected(whole.specs))
    for kept, other in zip(first.states(candidate()), alone.states(candidate()), strict=True):
        assert torch.equal(kept, other)
    assert len(list((tmp_path / "images" / "doubler-1").iterdir())) == 40


def test_what_one_process_cannot_make_ends_all(tmp_path) -> None:
    def make(processes: Processes) -> None:
        bad = candidate(lambda noise, conditioning: noise / processes.rank if processes.rank else noise / 0)
        generation(opened(20), tmp_path, processes=processes).run(bad, QUIET)

    first, other = in_threads(2, make)
    assert isinstance(first, RunError) and "samples of seeds 0 to 3 are not finite" in first.message
    assert isinstance(other, Reported) and not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_block_is_made_anew(tmp_path) -> None:
    whole = opened(8)
    made = generation(whole, tmp_path)
    made.run(candidate(), QUIET)
    path = made.cache.path(made.features_key(candidate(), made.chunks[0], "flat"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="lost a chunk of features"):
        list(made.features(candidate(), "flat"))
    made.run(candidate(), QUIET)
    torch.testing.assert_close(torch.cat(list(made.features(candidate(), "flat"))), expected(whole.specs))


@pytest.mark.parametrize("room", [True, False])
def test_few_pictures_are_alive_however_many_are_made(tmp_path, monkeypatch, room: bool) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.overlap.has_room", lambda device: room)
    monkeypatch.setattr(generate, "ALIGNED_PICTURES", 0)
    most = {}
    for count in (40, 200):
        alive: set[int] = set()
        peaks = [0]

        def decode(states):
            picture = states.mean(dim=1, keepdim=True)
            number = len(peaks)
            alive.add(number)
            weakref.finalize(picture, alive.discard, number)
            peaks.append(len(alive))
            return picture

        whole = replace(opened(count), decode=decode)
        generation(whole, tmp_path / str(count), batch_size=4).run(candidate(), QUIET)
        most[count] = max(peaks)
    # One is made while one is looked at and WAITING wait, and a thread may not have let go of the last one yet.
    assert most[40] <= WAITING + 3 and most[200] <= WAITING + 3


@pytest.mark.parametrize("room", [True, False])
def test_work_is_done_in_order_and_its_errors_come_back(monkeypatch, room: bool) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.overlap.has_room", lambda device: room)
    done: list[int] = []
    with Overlap(CPU) as overlap:
        for number in range(20):
            overlap.submit(lambda number=number: done.append(number))
    assert done == list(range(20))

    def fails() -> None:
        raise RunError("no such picture", "look at it")

    with pytest.raises(RunError, match="no such picture"), Overlap(CPU) as overlap:
        for _ in range(5):
            overlap.submit(fails)


@given(count=st.integers(1, 70), state_bytes=st.integers(1, 40 << 20))
def test_blocks_hold_every_shot_once_and_aligned_ones_come_first(count: int, state_bytes: int) -> None:
    specs = [ImageSpec(seed, 0) for seed in range(count)]
    chunks = chunks_of(specs, state_bytes)
    assert [spec for chunk in chunks for spec in chunk.specs] == specs
    flags = [chunk.aligned for chunk in chunks]
    assert flags[0] and flags == sorted(flags, reverse=True)
    assert all(len(chunk.specs) * state_bytes <= max(generate.CHUNK_BYTES, state_bytes) for chunk in chunks)


def test_an_interrupted_run_goes_on(tmp_path) -> None:
    whole, drawn = opened(40), []

    def stops(noise, conditioning):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(len(noise))
        return doubled(noise, conditioning)

    with pytest.raises(KeyboardInterrupt):
        generation(whole, tmp_path).run(candidate(stops), QUIET)
    # Batches of four in chunks of eight: two chunks were whole, and the second may still have been on its way.
    again = []
    made = generation(whole, tmp_path)
    made.run(candidate(lambda noise, conditioning: again.append(len(noise)) or doubled(noise, conditioning)), QUIET)
    assert sum(drawn) == 20 and sum(again) in (24, 32)
    torch.testing.assert_close(torch.cat(list(made.features(candidate(), "flat"))), expected(whole.specs))


def test_samples_that_are_not_finite_are_refused_and_not_kept(tmp_path) -> None:
    """Also without extractors: alignment compares states."""
    diverged = candidate(lambda noise, conditioning: noise / 0)
    made = generation(opened(20), tmp_path, extractors={})
    with pytest.raises(RunError, match="doubler, 1 NFE: samples of seeds 0 to 3 are not finite"):
        made.run(diverged, QUIET)
    assert not list(tmp_path.rglob("*.safetensors"))
