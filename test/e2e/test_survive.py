# SPDX-License-Identifier: MIT
"""A mount outlives its server: loads of test/drill under kills, stops and upgrades.

A few faults for each load here; `test/drill/drill.py --faults 1000` is the long version. DRILL_FAULTS
sets another number.
"""
import os
import pathlib
import subprocess

import drill as drills
import loads
import pytest
from conftest import PLENUM, fuse, root

FAULTS = int(os.environ.get("DRILL_FAULTS", "6"))
BUILD = os.environ.get("PLENUM_BUILD", str(pathlib.Path(PLENUM).parent))

pytestmark = [fuse, root]


def survive(load, how="kill", options="", faults=FAULTS, under="/tmp", spec="host:{}"):
    d = drills.drill(loads.LOADS[load], plenum=PLENUM, build=BUILD, faults=faults, how=how, options=options,
                     under=under, spec=spec)
    assert d.done >= faults


@pytest.mark.parametrize("load", list(loads.LOADS))
def test_killed(load):
    survive(load)


@pytest.mark.parametrize("load", ["exclusive", "appends", "unlinked", "fsx", "listing", "mapped"])
def test_killed_with_bytes_by_messages(load):
    survive(load, options="nopassthrough")


@pytest.mark.parametrize("load", ["exclusive", "untar", "renames", "unlinked"])
def test_killed_when_opens_do_not_reach_it(load):
    survive(load, options="noopen")


@pytest.mark.parametrize("load", ["exclusive", "appends", "unlinked", "renames", "listing", "held_lock"])
def test_killed_when_it_is_a_union(load):
    survive(load, spec="union({},{})")


@pytest.mark.parametrize("load", ["exclusive", "appends", "held_lock", "untar"])
def test_upgraded(load):
    survive(load, how="upgrade", faults=4)


@pytest.mark.parametrize("load", ["exclusive", "untar"])
def test_stopped(load):
    survive(load, how="stop", options="hang=1", faults=2)


@pytest.mark.parametrize("load", ["exclusive", "untar", "unlinked", "listing"])
def test_killed_with_a_full_ledger(load):
    survive(load, options="nodes=64")


def test_killed_with_a_full_disk(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", tmp_path], check=True)
    try:
        survive("full", under=str(tmp_path))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


POINTS = ["taken", "begun", "deed", "tables", "done", "replied", "forget", "release", "resume", "resent"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point, monkeypatch):
    """At every named point of the journal."""
    runs = {"exclusive": 7, "appends": 3, "truncating": 40} if point not in ("resume", "resent") else {"exclusive": 1}
    for load, n in runs.items():
        monkeypatch.setenv("PLENUM_CRASH", f"{point}:{n}")
        survive(load, faults=1)
