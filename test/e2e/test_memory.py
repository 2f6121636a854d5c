# SPDX-License-Identifier: MIT
"""A server that has little memory, while dirty pages of its own mount wait for it. In a Linux guest,
whose control groups are nobody else's."""
import json
import os
import shutil
import subprocess

import pytest
from conftest import PLENUM, TOP, root

pytestmark = [root, pytest.mark.skipif(not shutil.which("linux.uml"), reason="needs user-mode-linux"),
              pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK), reason="no /dev/net/tun"),
              pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs e2fsprogs")]
NOIO, LOCAL_THROTTLE = 0x80000, 0x100000  # what PR_SET_IO_FLUSHER sets of a thread's flags


@pytest.mark.parametrize("where, limit", [("outside", 32 << 20), ("outside", 64 << 20), ("inside", 64 << 20)])
def test_progress(plenum, where, limit):
    """Four times the group's memory is written by a mapping, with the writer outside of it or in it.
    The guest's kernel gets there without locked memory and without IO_FLUSHER too, so that they are
    in force is looked at besides."""
    with open(plenum.tmp / "out", "w+b") as out:
        p = subprocess.run([TOP / "test/guest/run", "-t", "50", TOP / "test/guest/memory", PLENUM, str(limit),
                            where, str(4 * limit >> 20)], stdin=subprocess.DEVNULL, stdout=out,
                           stderr=subprocess.STDOUT)
        out.seek(0)
        said = out.read().decode(errors="replace")
    assert p.returncode == 0, said
    got = json.loads([x for x in said.splitlines() if x.startswith("{")][0])
    assert got["writer"] == 0 and got["right"]
    assert got["events"]["max"] > 0, "the group was large enough for all"
    assert got["events"]["oom_kill"] == 0
    assert got["locked"] > 0
    assert got["flags"] and all(f & NOIO and f & LOCAL_THROTTLE for f in got["flags"])
