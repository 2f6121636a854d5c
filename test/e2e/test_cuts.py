# SPDX-License-Identifier: MIT
"""Links that break under load: a duct over TCP and through a real ssh, and a server that is killed.

A few faults for each load here; `test/drill/cuts.py --faults 1000` is the long version. CUTS_FAULTS sets
their number.
"""
import os
import pathlib

import cuts as drills
import loads
import pytest
import sshd
from conftest import PLENUM, fuse, root

FAULTS = int(os.environ.get("CUTS_FAULTS", "12"))
BUILD = os.environ.get("PLENUM_BUILD", str(pathlib.Path(PLENUM).parent))
pytestmark = [fuse, root]


def run(load, **kw):
    d = drills.cuts(loads.LOADS[load], plenum=PLENUM, build=BUILD, **kw)
    assert d.done >= kw["faults"]


@pytest.mark.parametrize("load", ["exclusive", "appends", "fsx", "locks", "unlinked"])
def test_cut(load):
    run(load, faults=FAULTS, over="tcp")


@pytest.mark.skipif(not sshd.THERE, reason="needs ssh and sshd")
@pytest.mark.parametrize("load", ["exclusive", "fsx"])
def test_ssh(load):
    run(load, faults=FAULTS // 2, over="ssh")


@pytest.mark.parametrize("load", ["exclusive", "appends", "fsx", "locks"])
def test_server_killed(load):
    run(load, faults=FAULTS, over="serve")
