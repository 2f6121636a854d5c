# SPDX-License-Identifier: MIT
"""Two trees on one duct, whose serving process is killed amid changes: each change of either tree is
made once, and nobody is left in doubt. And what ducts leave behind where they are remembered."""
import os
import pathlib
import re
import signal
import threading

import pytest
import sshd
from conftest import fuse, mounted, wait_for
from test_ssh import Host

pytestmark = [fuse, pytest.mark.skipif(not sshd.THERE, reason="needs ssh and sshd")]
KILLS = 8


@pytest.fixture
def host(plenum):
    return Host(plenum)


class Worker(threading.Thread):
    """Changes that fail, or can be seen, when they are made twice or not at all."""

    def __init__(self, at, far):
        super().__init__(daemon=True)
        self.at, self.far, self.rounds, self.stop, self.error = at, far, 0, False, None

    def round(self, i):
        name, other = self.at / f"d{i}", self.at / f"e{i}"
        os.mkdir(name)
        os.rename(name, other)
        os.rmdir(other)
        fd = os.open(self.at / f"f{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"%d" % i)
        os.close(fd)
        os.link(self.at / f"f{i}", self.at / f"l{i}")
        os.unlink(self.at / f"f{i}")
        fd = os.open(self.at / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, b"%d\n" % i)
        os.close(fd)

    def run(self):
        try:
            while not self.stop:
                self.round(self.rounds)
                self.rounds += 1
        except OSError as e:
            self.error = f"round {self.rounds}: {e}"

    def check(self):
        assert self.error is None, self.error
        lines = [str(i) for i in range(self.rounds)]
        assert (self.far / "log").read_text().split() == lines
        assert sorted(os.listdir(self.far)) == sorted(["log", *(f"l{i}" for i in range(self.rounds))])


def both(plenum, host, at, dirs):
    """A duct with two trees: its process."""
    p = host.start("-o", "hard", "-L", f"{at[0]}:{dirs[0]}", "-L", f"{at[1]}:{dirs[1]}", host.name)
    wait_for(lambda: all(mounted(d) for d in at) or p.poll() is not None, plenum.err(p))
    assert p.poll() is None, plenum.err(p)
    return p


def places(plenum):
    return [[plenum.dir(f"{name}{i}") for i in range(2)] for name in ("at", "far")]


def end(plenum, p, at):
    for d in at:
        plenum.run("umount", d)
    plenum.ended(p, 0)


def test_each_change_of_both_is_made_once(plenum, host):
    at, dirs = places(plenum)
    p = both(plenum, host, at, dirs)
    workers = [Worker(at[i], dirs[i]) for i in range(2)]
    for w in workers:
        w.start()
    for i in range(KILLS):
        before = [w.rounds for w in workers]
        wait_for(lambda: all(w.error or w.rounds > n + i % 4 for w, n in zip(workers, before)), "nothing moves")
        wait_for(lambda: len(host.far()) == 1, "there is no far end")
        os.kill(host.far()[0]["server"], signal.SIGKILL)
    before = [w.rounds for w in workers]
    wait_for(lambda: all(w.error or w.rounds > n for w, n in zip(workers, before)), "nothing moves")
    for w in workers:
        w.stop = True
    for w in workers:
        w.join(60)
        assert not w.is_alive()
        w.check()
    end(plenum, p, at)


def memory_of(pid):
    """The directory in which a server remembers its clients, each in a file; it holds it open."""
    links = [os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
    return next(pathlib.Path(x) for x in links if re.search("/ops/[0-9a-f]{16}$", x))


def test_ducts_that_have_ended_are_forgotten(plenum, host):
    """Where their operations were remembered: each is one client there, whatever its trees are."""
    at, dirs = places(plenum)
    for _ in range(4):
        p = both(plenum, host, at, dirs)
        for d in at:
            os.mkdir(d / "d")
            os.rmdir(d / "d")
        memory = memory_of(host.far()[0]["server"])
        assert len(list(memory.iterdir())) == 1
        end(plenum, p, at)
        wait_for(lambda: not list(memory.iterdir()), "it is still remembered")
