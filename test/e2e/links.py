# SPDX-License-Identifier: MIT
"""What the tests of links have in common: how one is, a file that is held over it, and a transfer that is cut."""
import fcntl
import os
import subprocess
import sys

import pytest
from conftest import wait_for
from relay import end_all


@pytest.fixture(autouse=True)
def relays():
    """They end after the test, and what it mounted, has."""
    yield
    while HOLDERS:
        HOLDERS.pop().end()
    end_all()


def port_of(addr):
    return int(addr.rsplit("!", 1)[1])


def link(plenum, at):
    return plenum.entry(at)["link"]


def is_down(plenum, at):
    wait_for(lambda: link(plenum, at)["state"] == "down", "the break is not noticed")


def is_up(plenum, at):
    wait_for(lambda: link(plenum, at)["state"] == "up", "it does not come back")


HOLD = """
import fcntl, sys
f = open(sys.argv[1], "a+")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
for line in sys.stdin:
    f.write(line)
    f.flush()
    print("written", flush=True)
"""


class Held:
    """A process that has a file of a mount open and locked. (We do not: who starts a process waits until
    that has closed such files, and the other end may have to be asked.)"""

    def __init__(self, path):
        self.p = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        assert self.p.stdout.readline() == "held\n"
        HOLDERS.append(self)

    def write(self, line):
        self.p.stdin.write(f"{line}\n")
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "written\n"

    def close(self):
        self.p.stdin.close()
        assert self.p.wait(30) == 0

    def end(self):
        self.p.kill()
        self.p.stdin.close()
        self.p.stdout.close()


HOLDERS = []


def locked(path):
    """By somebody else."""
    with open(path, "r+b") as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start(*argv, **kw):
    return subprocess.Popen(list(map(str, argv)), **kw)


def cut_amid_a_transfer(plenum, far, below, size):
    """Writes and reads a file of `size` bytes at far.at, which is the mount of `below`, with the connection cut
    by far.relay 8 times each way. What was open and locked is as it was: the server's session is the same."""
    blob = os.urandom(size)
    (plenum.tmp / "blob").write_bytes(blob)
    held = Held(far.at / "held")
    far.relay.cut_every(size // 12, 8)
    assert subprocess.run(["cp", plenum.tmp / "blob", far.at / "copy"]).returncode == 0
    assert (below / "copy").read_bytes() == blob
    (below / "other").write_bytes(blob)  # nothing of it is known here
    far.relay.cut_every(size // 12, 8)
    assert (far.at / "other").read_bytes() == blob
    assert far.relay.cuts >= 16
    assert locked(below / "held")
    held.write("still")
    held.close()
    assert (below / "held").read_bytes() == b"still\n"
    is_up(plenum, far.at)
    assert link(plenum, far.at)["breaks"] >= 8
    plenum.run("umount", far.at)
