"""Histories: what clients were told is compared with what is there in the end, in the way of Jepsen.

Several processes work on every kind at once, while rival prunes and a copy run, and are killed, stopped, forked, and
deceived by lost replies, full disks and jumping clocks. An operation that was acknowledged must have happened, one that
was refused must not, and one in between may or may not - once. What a client was told holds for itself at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from history_rounds import Limit, on_a_disk, on_s3

NIGHTLY = Limit(kills=200)


def new_seed() -> int:
    return int.from_bytes(os.urandom(4))


@pytest.mark.timeout(280)
def test_a_history_on_a_disk(tmp_path: Path) -> None:
    print(on_a_disk(tmp_path, Limit(seconds=8, kills=15, acknowledged=100), seed=new_seed()))


@pytest.mark.timeout(280)
def test_a_history_on_s3(moto_endpoint: str, tmp_path: Path) -> None:
    print(on_s3(moto_endpoint, tmp_path, Limit(seconds=8, kills=2, acknowledged=20), seed=new_seed()))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("password", [False, "one"])
def test_a_long_history_on_a_disk(tmp_path: Path, password: str) -> None:
    print(on_a_disk(tmp_path, NIGHTLY, seed=new_seed(), password=password))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("password", [False, "one"])
def test_a_long_history_on_s3(moto_endpoint: str, tmp_path: Path, password: str) -> None:
    print(on_s3(moto_endpoint, tmp_path, NIGHTLY, seed=new_seed(), password=password))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("seaweedfs")
def test_sixty_four_writers_on_s3(seaweedfs_endpoint: str, tmp_path: Path) -> None:
    # moto performs one request at a time, and so many writers would wait for it.
    print(on_s3(seaweedfs_endpoint, tmp_path, Limit(acknowledged=300), seed=new_seed(), workers=64))
