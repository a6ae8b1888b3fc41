"""Every error says what happened and what to do, is in one of four groups, and has its place in the documentation."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import error_page
import pytest

from prefect_snapshots import errors
from prefect_snapshots.errors import SnapshotsError

PAGE = Path(__file__).parent.parent / "docs/reference/errors.md"

EVERY_ERROR = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, SnapshotsError) and kind is not SnapshotsError
]


def test_the_page_says_what_the_docstrings_say() -> None:
    """If not: `python tests/error_page.py docs/reference/errors.md`."""
    assert PAGE.read_text() == error_page.page()


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_has_a_group_a_cause_and_a_remedy(kind: type[SnapshotsError]) -> None:
    assert kind in error_page.GROUPS or sum(kind in error_page.in_group(group) for group in error_page.GROUPS) == 1
    for said in kind.explanation():
        assert re.match(r"[A-Z]", said)
        assert said.endswith(".")


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_has_a_heading(kind: type[SnapshotsError]) -> None:
    assert kind.public_name() in re.findall(r"^##+ (.*)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_no_error_shows_a_control_character(kind: type[SnapshotsError]) -> None:
    given = [each for each in inspect.signature(kind.__init__).parameters.values() if each.name != "self"]
    wanted = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in given)
    shown = str(kind(*["a\x1b[2J\nERROR: forged\u202e"] * max(1, wanted)))
    assert shown.isprintable()
    assert r"\x1b[2J\nERROR: forged\u202e" in shown


def test_a_subclass_of_another_module_has_the_name_of_its_base() -> None:
    class Own(errors.StorageFull):
        pass

    assert Own.public_name() == "StorageFull"


def test_an_error_survives_pickling() -> None:
    examples: list[SnapshotsError] = [
        errors.DamagedObject("packs/x", "cut"),
        errors.CommitUnknown("token", "why"),
        errors.IncompleteResults(1, 0, 2, 0),
        errors.NotProven("b", ["x"]),
        errors.RepositoryChanged("other"),
        errors.WrongPassword("wrong"),
    ]
    for error in examples:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
