"""Conditions that are written as text: what they mean, and that nothing in them is more than text."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from forging import deep
from hypothesis import given
from hypothesis import strategies as st

from prefect_snapshots import ArtifactRegistry, BySearch, ByTag, SnapshotManager
from prefect_snapshots.errors import ArtifactNotFound, InvalidArgument, InvalidName, SnapshotNotFound
from prefect_snapshots.repository.conditions import Condition
from prefect_snapshots.repository.metadata import DEPTH_LIMIT

FIELDS = {
    "name": "model",
    "created_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "expiry": None,
    "tags": ["best", "team=a b", "owner=ada"],
    "pinned": True,
    "size": 1000,
    "description": "",
}
METADATA: dict[str, Any] = {
    "loss": 0.5,
    "metrics": {"loss": 0.05, "nan": float("nan")},
    "a.b": 7,
    "rate": "0.1",
    "done": False,
    "zero": 0,
    "empty": [],
    "note": None,
    "words": ["x", "y"],
    "size": "metadata",
    "odd key": 1,
    "it's": 2,
    "when": datetime(2026, 2, 1, tzinfo=UTC),
    "text": "50% of (all)",
}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("loss = 0.5", True),
        ("loss=0.50", True),
        ("loss == 5e-1 AND NOT loss <> 0.5", True),
        ("loss < 0.5 or loss <= 0.5", True),
        ("loss > -1 and loss >= +0.5", True),
        ("metrics.loss < 0.1 and tags = 'best'", True),
        ("metrics.nan < 1 or metrics.nan >= 1 or metrics.nan = 1", False),
        ("a.b = 7", True),
        ("rate = 0.1", True),  # a word also means its text
        ("rate = 0.10", False),
        ("rate = '0.1'", True),
        ("loss = '0.5'", False),  # a string is never a number
        ("rate < 1", False),
        ("done = false and not done and done != true", True),
        ("done = 0", False),
        ("pinned and pinned = true", True),
        ("note", False),
        ("zero and not empty", True),
        ("note = null and missing = null", True),
        ("loss = null", False),
        ("loss != null", True),
        ("missing != 1 or missing = 1 or missing < 1 or missing like '%'", False),
        ("words = x and words = 'y' and words != z", True),
        ("words != x", False),
        ("words in (z, y) and words not in (z)", True),
        ("loss in (0.50, 1) and loss in ('0.5', 0.5) and loss not in ('0.5', x)", True),
        ("done in (false) and done not in (0, no) and zero not in (false) and zero in (0.0)", True),
        ("note in (null) and missing in (1, null) and loss not in (null)", True),
        ("when in (x, 2026-02-01) and when in ('2026-02-01T01:00+01:00') and created_at not in (2026-02-01)", True),
        ("size = 1000 and metadata.size = metadata", True),
        ("`odd key` = 1 and `it's` = 2", True),
        ("tags.team = 'a b' and tags.owner in (ada, bob)", True),
        ("tags.team = b or tags.nothing", False),
        ("created_at >= 2026-01-31 and created_at < '2026-01-31T13:00+01:00'", False),
        ("created_at >= 2026-01-31 and created_at <= '2026-01-31T13:00+01:00'", True),
        ("expiry = null", True),
        ("expiry > 2020-01-01", False),
        ("when > 2026-01-31 and when = '2026-02-01' and when != nonsense", True),
        ("text like '50%' and text like '%(all)' and text like '%\x25 of%' and text like '50% of (all)'", True),
        ("text like '0%' or text like '%al' or text like 'of' or text LIKE '%ALL%'", False),
        ("text ilike '%ALL%' and not description and name like 'm%l'", True),
        ("name like 'mo%ode%'", False),
        ("loss = 1 or loss = 0.5 and metrics.loss = 1", False),
        ("(loss = 1 or loss = 0.5) and metrics.loss = 0.05", True),
        ("not (loss = 1) and not not loss = 0.5", True),
        ("text != 'it''s' and text != \"a \"\" b\"", True),
        ("and_more = 1 or lossy", False),
    ],
)
def test_what_a_condition_means(text: str, met: bool) -> None:
    assert Condition(text).matches(FIELDS, METADATA) is met


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "its end", "the name of a field"),
        ("loss <", "its end", "a value"),
        ("loss < < 1", "'<'", "a value"),
        ("= 1", "'='", "the name of a field"),
        ("loss 1", "'1'", "'and', 'or' or the end"),
        ("loss = 1 and", "its end", "the name of a field"),
        ("(loss = 1", "its end", r"'\)'"),
        ("loss = 1)", r"'\)'", "the end"),
        ("loss in 1", "'1'", r"'\('"),
        ("loss in (1 2)", "'2'", "','"),
        ("loss not like 1", "'like'", "'in'"),
        ("'loss' = 1", "\"'loss'\"", "the name of a field"),
        ("loss = 'x", '"\'x"', "a quote is not closed"),
        ("created_at > yesterday", "'yesterday'", "a date or time"),
        ("not " * 60 + "loss", "'not'", "within each other"),
        ("(" * 60 + "loss" + ")" * 60, r"'\('", "within each other"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, place: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"cannot be read at {place}: .*{reason}"):
        Condition(text)


@pytest.mark.parametrize("text", [None, 5, "x" * 10_001])
def test_a_condition_is_a_short_string(text: Any) -> None:
    with pytest.raises(InvalidArgument, match="must be a string of up to 10,000 characters"):
        Condition(text)


@given(st.text(st.sampled_from("ab.'\"`()<>=!,%\\ \n_#;@[]{}1-é"), max_size=40) | st.text(max_size=20))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    try:
        condition = Condition(text)
    except InvalidArgument:
        return
    assert condition.matches(FIELDS, METADATA) in (True, False)


@given(st.text(), st.text())
def test_any_string_can_be_quoted(value: str, other: str) -> None:
    condition = Condition("x = '{}'".format(value.replace("'", "''")))
    assert condition.matches({}, {"x": value})
    assert condition.matches({}, {"x": other}) == (value == other)


def test_a_condition_cannot_run_code_or_take_long(tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path('{tmp_path}/x').touch()"
    with pytest.raises(InvalidArgument):
        Condition(evil)
    assert not Condition("name.__class__ = str or `__class__` or metadata.__class__").matches(FIELDS, METADATA)
    assert list(tmp_path.iterdir()) == []
    before = time.process_time()
    condition = Condition("x like '" + "a%" * 4000 + "b'")
    assert not condition.matches({}, {"x": "a" * 50_000})
    assert time.process_time() - before < 1
    # As many values as a condition can have, and as many as metadata can have.
    before = time.process_time()
    listed = ", ".join(map(str, range(1_500)))
    assert not Condition(f"x in ({listed})").matches({}, {"x": [-1] * 20_000})
    assert Condition(f"x not in ({listed})").matches({}, {"x": ["y"] * 20_000})
    assert time.process_time() - before < 1


@pytest.mark.parametrize("text", ["x" * 9_000 + " 'y'", "x = " + "y" * 9_000 + " z", "x = 'y" * 1_000])
def test_an_error_about_a_long_condition_is_short(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"x+.*\.\.\.") as refused:
        Condition(text)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metrics.los < 1 or loss = 3", "Nothing here has 'metrics.los'. Did you mean 'metrics.loss'"),
        ("not losss and tags.owner = 'ada'", "Nothing here has 'losss'. Did you mean 'loss'"),
        ("metrics.loss < 0 and name = 'x' and tags.team = 'z'", ""),
    ],
)
def test_a_field_that_nothing_has_is_told(text: str, told: str) -> None:
    [*said] = Condition(text).unknown_fields([({"name": "other"}, {}), (FIELDS, METADATA)])
    assert [each[: len(told)] for each in said] == [told][: bool(told)]
    assert Condition(text).unknown_fields([]) == []


def test_a_search_that_finds_nothing_says_which_field_is_misspelt(caplog: pytest.LogCaptureFixture) -> None:
    manager: SnapshotManager[int] = SnapshotManager("memory://misspelt-field", name="train")
    manager.save_snapshot(1, metadata={"loss": 0.5})
    registry = ArtifactRegistry("memory://misspelt-field")
    registry.log_artifact("model", 1, metadata={"loss": 0.5})
    for search in (manager.search, registry.search, lambda condition: registry.search(condition, "model")):
        caplog.clear()
        assert not search("loss > 1")
        assert not caplog.messages, "the field is there"
        assert not search("los < 1")
        assert caplog.messages == [
            "Nothing meets the condition 'los < 1'. Nothing here has 'los'. Did you mean 'loss'?"
        ]


def test_snapshots_are_searched(tmp_path: Path) -> None:
    manager: SnapshotManager[int] = SnapshotManager(tmp_path / "r", name="x")
    for number in range(4):
        manager.save_snapshot(
            number, f"s{number}", {"metrics": {"loss": number / 10}}, ["even"] if number % 2 == 0 else []
        )
    manager.pin("s3")
    assert [info.id for info in manager.search("metrics.loss < 0.25 and not pinned")] == ["s2", "s1", "s0"]
    assert [info.id for info in manager.search("id in (s1, s3) and size > 0 and pinned")] == ["s3"]
    assert manager.query.evaluate(BySearch("metrics.loss > 0.05") & ByTag("even")) == ["s2"]
    assert manager.search("metrics.loss > 5") == []


def test_versions_are_searched(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    for name, losses in {"a": (0.5, 0.1), "b": (0.2,)}.items():
        for loss in losses:
            registry.log_artifact(name, loss, metadata={"loss": loss})
    registry.promote_artifact("a", 0, to="production")
    registry.describe_artifact("b", "latest", description="The best one.", add_tags="team=a")

    def found(condition: str, *arguments: str) -> list[str]:
        return [f"{info.name}:{info.version}" for info in registry.search(condition, *arguments)]

    assert found("loss < 0.3") == ["b:v0", "a:v1"]
    assert found("loss < 0.3", "a") == ["a:v1"]
    assert found("aliases = production or tags.team = a or description like 'Worst%'") == ["b:v0", "a:v0"]
    assert found("name = b and version = v0 and handler = json and expiry = null and not pinned") == ["b:v0"]
    with pytest.raises(ArtifactNotFound):
        registry.search("loss", "nothing")


def test_names_and_versions_have_tags_and_a_description(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "r")
    with pytest.raises(ArtifactNotFound):
        registry.describe_artifact("a", description="Nothing yet.")
    for value in range(2):
        registry.log_artifact("a", value)
    registry.describe_artifact("a", description="An artifact.", add_tags=["x", "y"])
    registry.describe_artifact("a", 0, description="A version.", add_tags=["v", "w"])
    registry.describe_artifact("a", 0, remove_tags=["v", "nothing"])
    registry.describe_artifact("a", None, add_tags="latest one")
    with pytest.raises(InvalidArgument, match="Nothing was changed"):
        registry.describe_artifact("a", 0)
    with pytest.raises(InvalidArgument, match="up to 10,000"):
        registry.describe_artifact("a", 0, description="x" * 10_001)
    with pytest.raises(InvalidName):
        registry.describe_artifact("a", 0, add_tags=["good", "../bad"])
    target = ArtifactRegistry(tmp_path / "other")
    for each in (registry, ArtifactRegistry(tmp_path / "r")):
        about = each.get_description("a")
        assert (about.description, about.tags) == ("An artifact.", ("x", "y"))
        assert [(info.description, info.tags) for info in each.list_versions("a")] == [
            ("", ("latest one",)),
            ("A version.", ("w",)),
        ]
    assert target.get_artifact("a", registry.promote_artifact("a", 0, to=target).version).tags == ("w",)
    registry.create_release("1", {"a": 0})
    copy = registry.copy_release("1", tmp_path / "third")
    assert (copy.get_artifact("a").description, copy.get_artifact("a").tags) == ("A version.", ("w",))
    registry.rename_artifact("a", "b")
    assert registry.get_description("b") == about
    assert registry.get_artifact("b", 0).description == "A version."
    registry.log_artifact("a", "new")
    assert registry.get_description("a").tags == ()
    registry.describe_artifact("b", description="")
    assert registry.get_description("b").description == ""


def test_what_is_noted_can_be_copied_shown_and_compared(tmp_path: Path) -> None:
    """No value that nests deeply comes into a repository, or out of a program as a bare error."""
    manager: SnapshotManager[int] = SnapshotManager(tmp_path / "r", name="x")
    registry = ArtifactRegistry(tmp_path / "r")
    most: Any = {"list": deep(DEPTH_LIMIT)}
    manager.save_snapshot(1, "most", metadata=most)
    registry.log_artifact("most", 1, metadata=most)
    registry.create_release("most", metadata=most)
    assert manager.list_snapshots()[0].metadata == registry.get_artifact("most").metadata == most
    assert len(registry.get_card("most")) > DEPTH_LIMIT
    itself: list[Any] = []
    itself.append(itself)
    for value in (deep(DEPTH_LIMIT + 1), deep(900), deep(100_000), {"x": {"y": itself}}, _Scalar()):
        for note in (
            lambda metadata: manager.save_snapshot(2, "x", metadata=metadata),
            lambda metadata: manager.update_metadata("most", metadata),
            lambda metadata: registry.log_artifact("x", 2, metadata=metadata),
            lambda metadata: registry.update_artifact_metadata("most", metadata),
            lambda metadata: registry.create_release("x", {"most": 0}, metadata=metadata),
        ):
            with pytest.raises(InvalidArgument, match="within each other"):
                note({"key": value})
    tags: Any
    for tags in ([["a"]], [{"a": 1}], [7], [deep(900)]):
        with pytest.raises(InvalidName, match="A tag must be a string"):
            registry.describe_artifact("most", add_tags=tags)
        with pytest.raises(InvalidName, match="A tag must be a string"):
            manager.save_snapshot(2, "x", tags=tags)
    with pytest.raises(InvalidArgument, match="A description must be a string"):
        registry.describe_artifact("most", description=deep(900))
    assert [info.id for info in manager.list_snapshots()] == ["most"]
    assert registry.list_names() == ["most"]


class _Scalar:
    """Returns itself where a scalar of NumPy returns a number."""

    shape = ()

    def item(self) -> Any:
        return self


@pytest.mark.parametrize("durable", [True, False])
def test_snapshots_and_their_name_have_a_description(tmp_path: Path, durable: bool) -> None:
    manager: SnapshotManager[int] = SnapshotManager(tmp_path / "r" if durable else None, name="x")
    if durable:
        with pytest.raises(SnapshotNotFound):
            manager.describe(description="Nothing yet.")
    manager.save_snapshot(1, "a")
    manager.describe("a", description="One.", add_tags=["t"])
    manager.describe(description="All.", add_tags="team=a")
    manager.save_to_file(tmp_path / "x.snapshots")
    copies = [SnapshotManager.load_from_file(tmp_path / "x.snapshots"), manager.persist(tmp_path / "other")]
    for each in (manager, *copies):
        [info] = each.list_snapshots()
        assert (info.description, info.tags) == ("One.", ("t",))
        assert (each.get_description().description, each.get_description().tags) == ("All.", ("team=a",))
    manager.save_snapshot(2, "a", overwrite=True)
    assert manager.list_snapshots()[0].description == ""
