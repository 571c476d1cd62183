"""Tables and protocols: every number in its place, and seeds as they are typed."""

from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.commands.options import parse_ranges
from piflow_cli.evaluation.metric_kinds import metric_numbers
from piflow_cli.evaluation.rows import Row, best_cells, protocols, ranges, table_of

SEEDS = st.lists(st.integers(0, 300), min_size=1, max_size=60, unique=True)


def row(metric: str = "fid", model: str = "gm", kind: str = "student", nfe: int = 1, value: float = 0.5, **more) -> Row:
    return Row(model, kind, "gm, 8", nfe, metric, value, 100, **more)


@given(SEEDS)
def test_seeds_are_written_as_they_are_typed(seeds: list[int]) -> None:
    assert list(parse_ranges(ranges(seeds), "--seeds")) == seeds


def test_metrics_go_down_in_a_fixed_order_and_models_across() -> None:
    rows = [
        row("mse", value=0.25),
        row("fid", extractor="pixels", low=0.4, high=0.45, estimate=0.425, at=10_000),
        row("fid", "teacher", "teacher", 32, 0.125, extractor="pixels"),
    ]
    lines, columns = table_of(rows)
    assert columns == ["metric", "gm, 1 NFE", "teacher, 32 steps"]
    assert lines == [
        {"metric": "FID ↓", "gm, 1 NFE": "0.5", "teacher, 32 steps": "0.125"},
        {"metric": "FID at 10,000 images ↓", "gm, 1 NFE": "0.425 (0.4 to 0.45)", "teacher, 32 steps": None},
        {"metric": "MSE ↓", "gm, 1 NFE": "0.25", "teacher, 32 steps": None},
    ]


def test_a_student_at_other_evaluations_than_its_own_says_so() -> None:
    """Elsewhere the number stands for both, and a teacher is trained for none."""
    rows = [row(nfe=1, trained=1), row(nfe=4, trained=1), row(model="teacher", kind="teacher", nfe=4)]
    assert table_of(rows)[1] == ["metric", "gm, 1 NFE", "gm, 4 NFE (trained for 1)", "teacher, 4 steps"]
    assert [one.as_dict.get("trained") for one in rows] == [1, 1, None]


def test_the_best_of_the_students_is_known_by_the_direction_of_its_metric() -> None:
    rows = [
        row("fid", model="a", value=0.2, low=0.1, high=0.2, estimate=0.15, at=10_000),
        row("fid", model="b", value=0.1),
        row("fid", "teacher", "teacher", 32, 0.01),
        row("recall", model="a", value=0.5),
        row("recall", model="b", value=0.25),
        row("network-ms", model="a", value=1.0),
        row("network-ms", model="b", value=2.0),
        row("mse", model="a", value=0.5),
        row("mse", model="b", value=0.5),
    ]
    lines, _ = table_of(rows)
    assert {(lines[line]["metric"], model) for line, model in best_cells(rows)} == {
        ("FID ↓", "b, 1 NFE"),
        ("recall ↑", "a, 1 NFE"),
    }


def test_an_extractor_is_named_where_there_are_two() -> None:
    lines, _ = table_of([row(extractor="pixels"), row(extractor="inception"), row("kid", extractor="pixels")])
    assert [line["metric"] for line in lines] == ["FID pixels ↓", "FID inception ↓", "KID ↓"]


def test_metrics_of_one_protocol_share_a_line() -> None:
    shared = {
        "seeds": "0-99",
        "extractor": "pixels",
        "resize": "none",
        "reference": "data of digits",
        "reference_images": 1797,
    }
    told = protocols(
        [row(**shared), row("kid", **shared), row("mse", seeds="0-49", reference="the teacher's 128 steps")]
    )
    assert told == [
        ("FID, KID", "100 images of seeds 0-99, against data of digits (1,797 images), extractor pixels, resize none"),
        ("MSE", "100 images of seeds 0-49, against the teacher's 128 steps"),
    ]


def test_models_of_different_protocols_are_told_apart() -> None:
    told = protocols([row(model="a", reference="one"), row(model="b", reference="two")])
    assert told == [("FID", "100 images, against one (a, 1 NFE)"), ("FID", "100 images, against two (b, 1 NFE)")]


def test_json_leaves_out_what_does_not_apply() -> None:
    assert set(row("images-per-second").as_dict) == {"model", "kind", "policy", "nfe", "metric", "value", "images"}
    assert all(number.title and number.what for number in metric_numbers().values())
