"""Retention keeps exactly what `restic forget` keeps, and for the same reasons.

restic itself is the judge. Its repository holds five histories whose snapshots are sealed here with the repository's
own key, so that thousands of backups need not be made, and its key opens without half a second of scrypt.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_snapshots import ArtifactRegistry, Repository, RetentionPolicy, Snapper, SnapshotManager
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.errors import ArtifactNotFound, InvalidArgument

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]
UNITS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


Row = tuple[datetime, tuple[str, ...]]
"""A time, and why what was made then is kept; no reasons when it goes."""


@dataclass(frozen=True)
class Item:
    name: str
    created_at: datetime
    tags: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()
    host: str = ""
    sources: tuple[str, ...] = ()


# --- against restic -----------------------------------------------------------------------------------------------


class Restic:
    """A repository of restic, with as many snapshots at whatever times as a test wants."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("restic") is None:
            pytest.fail("this test needs restic: apt-get install restic")
        self.folder = folder
        self._environment = {**os.environ, "RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": str(folder)}
        (folder.parent / "data").mkdir()
        self.run("UTC", "init", "--repository-version", "1")  # the other one compresses its snapshots
        self.run("UTC", "backup", str(folder.parent / "data"))
        (key,) = (folder / "keys").iterdir()
        description = json.loads(key.read_bytes())
        user = self._user_key(description)
        master = _open(user, base64.b64decode(description["data"]))
        keys = json.loads(master)
        mac = keys["mac"]
        self._key = tuple(map(base64.b64decode, (keys["encrypt"], mac["k"], mac["r"])))
        description |= {"N": 2, "p": 1}
        description["data"] = base64.b64encode(_seal(self._user_key(description), master)).decode()
        key.unlink()
        self._put("keys", json.dumps(description).encode())
        (first,) = (folder / "snapshots").iterdir()
        self._snapshot = json.loads(_open(self._key, first.read_bytes()))
        first.unlink()

    def add(self, host: str, created_at: datetime, tags: tuple[str, ...]) -> None:
        snapshot = {**self._snapshot, "hostname": host, "time": created_at.isoformat(), "tags": list(tags) or None}
        self._put("snapshots", _seal(self._key, json.dumps(snapshot).encode()))

    def run(self, zone: str, *arguments: str) -> str:
        command = ["restic", "--no-cache", *arguments]
        environment = {**self._environment, "TZ": zone}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def forget(self, zone: str, arguments: list[str]) -> list[Row]:
        """What would be kept, and why, and what would go."""
        groups = json.loads(self.run(zone, "--no-lock", "forget", "--dry-run", "--json", *arguments))
        kept = [(row["snapshot"]["time"], row["matches"]) for group in groups for row in group["reasons"] or ()]
        gone = [(row["time"], ()) for group in groups for row in group["remove"] or ()]
        return _in_order((datetime.fromisoformat(time), tuple(matches)) for time, matches in kept + gone)

    def _put(self, kind: str, data: bytes) -> None:
        (self.folder / kind / hashlib.sha256(data).hexdigest()).write_bytes(data)

    def _user_key(self, description: dict[str, Any]) -> tuple[bytes, ...]:
        scrypt = Scrypt(base64.b64decode(description["salt"]), 64, description["N"], description["r"], description["p"])
        key = scrypt.derive(b"secret")
        return key[:32], key[32:48], key[48:]


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Newest first. restic reads snapshots side by side, so that of equal times now one comes first, now the other."""
    plain = {"has tags [permanent]": "pinned", **{f"{unit} snapshot": unit for unit in UNITS}}
    told = ((time.astimezone(UTC), tuple(sorted(plain.get(one, one) for one in why))) for time, why in rows)
    return sorted(told, reverse=True)


def _open(key: tuple[bytes, ...], data: bytes) -> bytes:
    return Cipher(algorithms.AES(key[0]), modes.CTR(data[:16])).decryptor().update(data[16:-16])


def _seal(key: tuple[bytes, ...], plain: bytes) -> bytes:
    nonce = os.urandom(16)
    sealed = Cipher(algorithms.AES(key[0]), modes.CTR(nonce)).encryptor().update(plain)
    once = Cipher(algorithms.AES(key[1]), modes.ECB()).encryptor().update(nonce)
    return nonce + sealed + Poly1305.generate_tag(key[2] + once, sealed)


def _history(number: int) -> list[Item]:
    """Backups over some years, with bursts, pauses, equal times, New Year, and the hours at which the clocks change."""
    rng = random.Random(number)
    zone = ZoneInfo(ZONES[number])
    times = [datetime(2021, 12, 27, 12, tzinfo=UTC)]
    while times[-1].year < 2025 and len(times) < 150:
        step = rng.choice(["seconds", "minutes", "hours", "hours", "days", "days", "days"])
        times.append(times[-1] + timedelta(**{step: rng.randrange(30)}) + timedelta(microseconds=rng.randrange(9)))
    for year in (2022, 2023, 2024):
        new_year = datetime(year, 12, 31, 22, tzinfo=zone).astimezone(UTC)
        times += [new_year + timedelta(minutes=rng.randrange(360)) for _ in range(3)]
        for change in _changes(zone, year):
            times += [change + timedelta(minutes=rng.randrange(-180, 180)) for _ in range(4)]
    kinds: list[tuple[str, ...]] = [(), (), (), ("a",), ("a", "b"), ("permanent",)]
    times += rng.sample(times, 5)
    rng.shuffle(times)
    # Of equal times restic takes any for the newer one: with equal tags that makes no difference.
    drawn = {time: rng.choice(kinds) for time in times}
    return [
        Item(str(at), time.astimezone(zone), drawn[time], ("pinned",) * ("permanent" in drawn[time]))
        for at, time in enumerate(times)
    ]


def _changes(zone: ZoneInfo, year: int) -> Iterator[datetime]:
    """When the clocks change."""
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=hour) for hour in range(365 * 24)]
    for one, other in itertools.pairwise(hours):
        if one.astimezone(zone).utcoffset() != other.astimezone(zone).utcoffset():
            yield other


def _policy(rng: random.Random, zone: str) -> tuple[RetentionPolicy, list[str]]:
    """A random policy, and what restic calls it."""
    while True:
        counts = {f"keep_{unit}": rng.choice([0, 0, 0, 1, 2, 3, 5, 10, 40, 500, -1]) for unit in UNITS}
        within = {
            f"keep_{unit}within": rng.choice([None, None, None, _duration(rng)])
            for unit in ("", "hourly_", "daily_", "weekly_", "monthly_", "yearly_")
        }
        tags = rng.choice([(), (), ("a",), ("a,b",), ("b", "a")])
        if any(counts.values()):
            break
    arguments = [part for tag in tags for part in ("--keep-tag", tag)]
    for name, count in counts.items():
        # restic knows -1 since version 0.16; before, a count that nothing reaches does the same.
        arguments += [f"--{name.replace('_', '-')}", "99999" if count == -1 else str(count)]
    for name, duration in within.items():
        kind = name.removeprefix("keep_").removesuffix("within").rstrip("_")
        arguments += [f"--keep-within{'-' * bool(kind)}{kind}", duration] if duration else []
    chosen: dict[str, Any] = {**counts, **within}
    return RetentionPolicy(**chosen, keep_tags=tags, timezone=zone), arguments


def _duration(rng: random.Random) -> str:
    limits = {"y": 3, "m": 14, "d": 40, "h": 60}
    chosen = rng.sample(sorted(limits), rng.randrange(1, 5))
    return "".join(f"{rng.randrange(limits[unit])}{unit}" for unit in "ymdh" if unit in chosen)


@pytest.mark.parametrize("policies", [40, pytest.param(500, marks=pytest.mark.nightly)])
def test_restic_keeps_the_same_for_the_same_reasons(tmp_path: Path, policies: int) -> None:
    restic = Restic(tmp_path / "repository")
    rng = random.Random(7)
    histories = {zone: _history(number) for number, zone in enumerate(ZONES)}
    for zone, history in histories.items():
        for item in history:
            restic.add(zone, item.created_at, item.tags)
    kept = gone = 0
    for number in range(policies):
        zone = ZONES[number % len(ZONES)]
        policy, arguments = _policy(rng, zone)
        if number % 4 == 0:
            policy, arguments = replace(policy, group_by=("tags",)), ["--group-by", "tags", *arguments]
        expected = restic.forget(zone, ["--host", zone, "--keep-tag", "permanent", *arguments])
        rows = policy.plan(histories[zone])
        times = {item.name: item.created_at for item in histories[zone]}
        assert all(row.keep == bool(row.reasons) for row in rows)
        assert _in_order((times[row.name], row.reasons) for row in rows) == expected, (zone, arguments)
        kept += sum(row.keep for row in rows)
        gone += sum(not row.keep for row in rows)
    assert min(kept, gone) > 50 * policies / 5


# --- what restic does not say -------------------------------------------------------------------------------------


def _kept(policy: RetentionPolicy, items: Iterable[Item], now: datetime | None = None) -> list[str]:
    return [row.name for row in policy.plan(items, now) if row.keep]


def _days(*days: str, **facts: Any) -> list[Item]:
    return [Item(day, datetime.fromisoformat(day).replace(tzinfo=UTC), **facts) for day in days]


def test_the_default_keeps_ten_and_one_a_week_for_three_months() -> None:
    start = datetime(2025, 1, 1, 12, tzinfo=UTC)
    items = [Item(str(day), start + timedelta(days=day)) for day in range(365)]
    kept = _kept(RetentionPolicy(), items)
    assert kept[:10] == [str(day) for day in range(364, 354, -1)]
    sundays = [item.name for item in items if item.created_at.weekday() == 6]
    assert kept[10:] == [day for day in reversed(sundays) if 364 - 92 < int(day) < 355]


def test_a_week_is_not_split_at_new_year() -> None:
    items = _days("2024-12-29", "2024-12-30", "2024-12-31", "2025-01-01", "2025-01-05", "2025-01-06")
    policy = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_weekly=-1)
    assert _kept(policy, items) == ["2025-01-06", "2025-01-05", "2024-12-29"]


def test_days_are_those_of_the_zone() -> None:
    items = [Item(f"{hour}", datetime(2025, 6, 1, hour, tzinfo=UTC)) for hour in (21, 22, 23)]
    daily: dict[str, Any] = {"keep_last": 0, "keep_weekly_within": None, "keep_daily": -1}
    assert _kept(RetentionPolicy(**daily), items) == ["23"]
    assert _kept(RetentionPolicy(**daily, timezone="Europe/Berlin"), items) == ["23", "21"]


def test_of_equal_times_the_one_given_later_is_newer() -> None:
    twins = [Item(name, datetime(2025, 1, 1, tzinfo=UTC)) for name in "abc"]
    assert _kept(RetentionPolicy(keep_last=2, keep_weekly_within=None), twins) == ["c", "b"]


def test_an_hour_that_comes_twice_is_in_order() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first, second = datetime(2025, 10, 26, 2, 50, tzinfo=zone), datetime(2025, 10, 26, 2, 10, tzinfo=zone, fold=1)
    items = [Item("second", second), Item("first", first)]
    assert [row.name for row in RetentionPolicy(timezone="Europe/Berlin").plan(items)] == ["second", "first"]


def test_a_clock_that_is_ahead_costs_nobody_a_place() -> None:
    now = datetime(2025, 1, 10, tzinfo=UTC)
    items = [*_days("2025-01-01", "2025-01-02"), *_days("2031-01-01")]
    rows = RetentionPolicy(keep_last=1, keep_weekly_within=None).plan(items, now)
    assert [(row.name, row.keep) for row in rows] == [
        ("2031-01-01", True),
        ("2025-01-02", True),
        ("2025-01-01", False),
    ]
    assert rows[0].reasons == ("its time is 2182 days ahead",)


def test_periods_can_begin_now() -> None:
    items = _days("2025-01-01", "2025-01-05")
    policy = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_within="7d")
    assert _kept(policy, items, now := datetime(2025, 1, 10, tzinfo=UTC)) == ["2025-01-05", "2025-01-01"]
    assert _kept(replace(policy, count_from="now"), items, now) == ["2025-01-05"]


def test_each_group_keeps_at_least_one() -> None:
    items = [*_days("2025-01-01", "2025-01-02", host="old"), *_days("2025-03-01", host="new", sources=("b", "a"))]
    policy = RetentionPolicy(
        keep_last=0, keep_weekly_within=None, keep_within="7d", count_from="now", group_by=("host", "sources")
    )
    rows = {row.name: row.reasons for row in policy.plan(items, datetime(2025, 3, 2, tzinfo=UTC))}
    assert rows == {"2025-03-01": ("within 7d",), "2025-01-02": ("last of its group",), "2025-01-01": ()}
    assert policy.group_of(items[2]) == policy.group_of(replace(items[2], sources=("a", "b")))


def test_nothing_at_all_would_be_kept() -> None:
    policy = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_tags=("gold",))
    assert policy.plan([]) == []
    with pytest.raises(InvalidArgument, match="nothing was deleted"):
        policy.plan(_days("2025-01-01", "2025-01-02"))
    assert _kept(policy, _days("2025-01-01", "2025-01-02") + _days("2024-01-01", tags=("gold",))) == ["2024-01-01"]


def test_snapshots_too(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path / "repository")
    for number in range(4):
        manager.save_snapshot(number, f"{number}")
    manager.pin("0")
    rows = manager.cleanup(RetentionPolicy(keep_last=2, keep_weekly_within=None))
    assert [(row.name, row.keep) for row in rows.rows] == [("3", True), ("2", True), ("1", False), ("0", True)]
    assert list(manager) == ["0", "2", "3"]


def _only(**rules: Any) -> RetentionPolicy:
    return RetentionPolicy(**{"keep_last": 0, "keep_weekly_within": None, **rules})


def _saved(manager: SnapshotManager[Any], losses: Iterable[float]) -> list[str | None]:
    return [
        manager.save_snapshot(step, f"{step}", metadata={"step": step, "loss": loss}, tags="odd" if step % 2 else ())
        for step, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("where", [None, "repository"])
@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 2, "keep_best": 1}, ["2", "6", "7"]),
        ({"keep_last": 1, "keep_every": 3}, ["0", "3", "6", "7"]),
        ({"keep_best": 2, "keep_every": 5}, ["0", "2", "4", "5"]),
        ({"keep_best": -1}, ["0", "1", "2", "3", "4", "5", "6", "7"]),
        ({"keep_last": 1, "keep_tags": ("odd",)}, ["1", "3", "5", "7"]),
        ({"keep_last": 1, "keep_interval": "1h"}, ["0", "7"]),
    ],
)
def test_every_save_keeps_what_the_policy_says(
    tmp_path: Path, where: str | None, rules: dict[str, Any], kept: list[str]
) -> None:
    url = where and tmp_path / where
    manager = SnapshotManager(url, rank_by="loss", mode="min", retention=_only(**rules))
    _saved(manager, [8, 7, 1, 6, 2, 5, 4, 3])
    assert list(manager) == kept
    everything = SnapshotManager(None, rank_by="loss", mode="min")
    _saved(everything, [8, 7, 1, 6, 2, 5, 4, 3])
    dry = everything.cleanup(_only(**rules), dry_run=True)
    assert [row.name for row in reversed(dry.rows) if row.keep] == kept
    assert all(row.reasons for row in dry.rows if row.keep)


def test_what_the_policy_does_not_keep_is_not_saved(tmp_path: Path) -> None:
    manager = SnapshotManager(tmp_path, rank_by="loss", mode="min", retention=_only(keep_best=2))
    assert _saved(manager, [3, 2, 9, 1]) == ["0", "1", None, "3"]
    assert list(manager) == ["1", "3"]
    wider = SnapshotManager(tmp_path, rank_by="loss", mode="min")
    wider.save_snapshot(0, "wide", metadata={"loss": 50})
    wider.pin("1")
    assert manager.save_snapshot(0, "worse", metadata={"loss": 60}) is None
    assert list(manager) == ["1", "3"]
    assert manager.save_snapshot(0, "better", metadata={"loss": 0}) == "better"
    assert list(manager) == ["1", "3", "better"]  # the first one is pinned
    nothing = SnapshotManager(None, retention=_only(keep_every=10))
    assert _saved(nothing, range(3)) == ["0", None, None]


def test_an_interval_counts_from_what_it_kept_before() -> None:
    items = _days(*(f"2025-01-{day:02}" for day in (1, 2, 3, 5, 9, 10, 11, 12)))
    policy = _only(keep_interval="3d")
    kept = _kept(policy, items)
    assert kept == ["2025-01-12", "2025-01-09", "2025-01-05", "2025-01-01"]
    # What is kept does not change when it is applied again, or when items are added.
    again = [item for item in items if item.name in kept] + _days("2025-01-13", "2025-01-15")
    assert _kept(policy, again) == ["2025-01-15", *kept]


def test_only_snapshots_have_a_ranking_and_steps(tmp_path: Path) -> None:
    for rules in ({"keep_best": 2}, {"keep_every": 10}):
        with pytest.raises(InvalidArgument, match=r"for snapshots only\. Nothing was deleted"):
            _only(**rules).plan(_days("2025-01-01"))
    with pytest.raises(InvalidArgument, match="either max_snapshots or retention"):
        SnapshotManager(max_snapshots=3, retention=_only(keep_best=3))


LAST_ONE = RetentionPolicy(keep_last=1, keep_weekly_within=None)


def test_artifacts_too(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    for value in range(9):
        registry.log_artifact("model", bytes(random.Random(value).randbytes(200_000)), "pickle")
    for version in (0, 1, 2, 3):
        registry.promote_artifact("model", version, to="production")
    registry.create_release("2026.1", {"model": 5})
    before = registry.cleanup(LAST_ONE, dry_run=True)
    assert len(registry.list_versions("model")) == 9
    assert registry.cleanup(LAST_ONE).rows == before.rows
    assert [row.name for row in before.rows if row.keep] == ["model:v8", "model:v5", "model:v3", "model:v2"]
    assert registry.repository.prune(grace=0).bytes_freed > 5 * 200_000
    again = ArtifactRegistry(Repository(tmp_path / "repository"))
    for each in (registry, again):
        assert [info.version for info in each.list_versions("model")] == ["v8", "v5", "v3", "v2"]
        assert each.load_artifact("model", 5) == random.Random(5).randbytes(200_000)
        with pytest.raises(ArtifactNotFound, match="v4"):
            each.load_artifact("model", "v4")
    assert again.rollback("model", "production").version == "v2"
    with pytest.raises(ArtifactNotFound, match="has no previous version"):
        again.rollback("model", "production")
    assert again.log_artifact("model", 9).version == "v9"
    assert again.repository.check(read_data=True).ok


def test_a_version_that_is_released_meanwhile_stays(tmp_path: Path) -> None:
    """A clean-up and a release of what it is about to remove: one of them is told, and no release is left empty."""
    registry, rival = (ArtifactRegistry(Repository(tmp_path / "repository")) for _ in range(2))
    for value in range(3):
        registry.log_artifact("model", value)
    assert rival.list_versions("model")
    stale = rival._artifacts.artifact("model", "default")
    registry.create_release("first", {"model": 0})
    assert not stale._tracked.view.released  # it has not looked since
    assert [row.name for row in rival.cleanup(LAST_ONE).rows if row.keep] == ["model:v2", "model:v0"]
    with pytest.raises(ArtifactNotFound, match="version 1"):
        registry.create_release("second", {"model": 1})
    assert [release.tag for release in registry.list_releases()] == ["first"]
    assert registry.load_artifact("model", 0) == 0


def test_no_stage_is_a_version_that_was_cleaned_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, rival = (ArtifactRegistry(Repository(tmp_path / "repository")) for _ in range(2))
    for value in range(3):
        registry.log_artifact("model", value)
    model = registry.artifact("model")
    find = model._find

    def then_clean_up(*arguments: Any) -> Any:
        found = find(*arguments)
        rival.cleanup(LAST_ONE)
        return found

    monkeypatch.setattr(model, "_find", then_clean_up)
    with pytest.raises(ArtifactNotFound, match="version 0"):
        registry.set_alias("model", 0, "production")
    assert rival.get_aliases("model") == {}
    assert [info.version for info in rival.list_versions("model")] == ["v2"]


def test_checkpoints_too(tmp_path: Path) -> None:
    for version in range(3):
        Snapper(range(2 + version), abs, repository=tmp_path, name="work", function_version=version).start()
    manager = CheckpointManager(tmp_path)
    planned = manager.cleanup(LAST_ONE, name="work", dry_run=True)
    assert [row.keep for row in planned.rows] == [True, False, False]
    assert len(manager.list_checkpoints()) == 3
    assert planned.rows[0].reasons == ("latest", "last")
    assert manager.cleanup(LAST_ONE) == replace(planned, dry_run=False)
    assert [row.done for row in manager.list_checkpoints()] == [4]
    with pytest.raises(InvalidArgument, match="is empty"):
        manager.cleanup(LAST_ONE, name="")
    with pytest.raises(InvalidArgument, match="Only backups can be grouped by host"):
        manager.cleanup(replace(LAST_ONE, group_by=("host", "tags")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_last": 0, "keep_weekly_within": None},
        {"keep_last": 0, "keep_weekly_within": "0m"},
        {"keep_last": -2},
        {"keep_last": "3"},
        {"keep_last": True},
        {"keep_lst": 3},
        {"keep_best": -2},
        {"keep_every": -1},
        {"keep_every": 0.5},
        {"keep_interval": "1w"},
        {"keep_last": 0, "keep_weekly_within": None, "keep_interval": "0h"},
        {"keep_daily_within": ""},
        {"keep_daily_within": "-1d"},
        {"keep_daily_within": "7"},
        {"keep_daily_within": "3w"},
        {"keep_daily_within": "1d1y"},
        {"keep_tags": "gold"},
        {"keep_tags": ("",)},
        {"keep_tags": ("a,",)},
        {"count_from": "yesterday"},
        {"group_by": "host"},
        {"group_by": ("paths",)},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../etc"},
        {"timezone": ""},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        RetentionPolicy(**wrong)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    hours=st.lists(st.integers(0, 40_000), min_size=1, max_size=40),
    last=st.integers(1, 5),
    pinned=st.sets(st.integers(0, 39)),
    duration=st.sampled_from(["1h", "9999y", "400m", "3000d", "0d", "1y1m1d1h"]),
)
def test_any_history(hours: list[int], last: int, pinned: set[int], duration: str) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    items = [
        Item(str(at), start + timedelta(hours=h), (), ("pinned",) if at in pinned else ()) for at, h in enumerate(hours)
    ]
    rows = RetentionPolicy(keep_last=last, keep_weekly_within=None, keep_within=duration).plan(items)
    assert sorted(row.name for row in rows) == sorted(item.name for item in items)
    assert all(row.keep for row in rows[:last])
    assert all(row.keep for row in rows if int(row.name) in pinned)
    times = {item.name: item.created_at for item in items}
    assert [times[row.name] for row in rows] == sorted(times.values(), reverse=True)
