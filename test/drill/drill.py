#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Fault drills: a mount under load whose server is killed, stopped or replaced, again and again.

usage: test/drill/drill.py [--plenum FILE] [--build DIR] [--faults N] [--how kill|stop|upgrade|mixed]
                           [--options OPTS] [--under DIR] [LOAD...]
       LOADs: see loads.py; without one, all, one after the other.
A load may not see one failed call nor one wrong byte. N faults for each load (100). Prints a line for
each load with the faults done and the median time from a death to the next answer; exit 1 if any
failed. --under: where the directories are made (/tmp).
"""
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import runner
from runner import Broken
import loads


class Drill(runner.Faults):
    """A mount, what is done to it, and what a load needs to know."""

    def __init__(self, plenum, build, faults, how="kill", options="", under="/tmp", spec="host:{}"):
        super().__init__(plenum, build, faults)
        self.how = how
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="plenum-drill.", dir=under))
        self.scratch = tempfile.mkdtemp(prefix="plenum-drill-native.")
        self.below, self.mount = self.base / "below", self.base / "mnt"
        self.below.mkdir()
        self.mount.mkdir()
        self.options = options
        (self.base / "behind").mkdir()
        self.spec = spec.format(self.below, self.base / "behind")
        self.pauses = []
        self.dir = self.back = self.keeper = None
        self.pid = 0

    def up(self):
        cmd = [self.plenum, "mount", "-f"] + (["-o", self.options] if self.options else [])
        with open(f"{self.scratch}/log", "wb") as log:
            self.keeper = subprocess.Popen(cmd + [self.spec, str(self.mount)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=log)
        self.pid = self.server()

    def log(self):
        """What the keeper and the servers have said."""
        with open(f"{self.scratch}/log", errors="replace") as f:
            return f.read()[-2000:]

    def entry(self):
        out = subprocess.run([self.plenum, "status", "--json", str(self.mount)], capture_output=True, timeout=30).stdout
        found = json.loads(out) if out.strip() else []
        return found[0] if found else None

    def server(self, not_this=0, timeout=20):
        """The running server's pid, another than `not_this`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            e = self.entry()
            if e and e["server"] > 0 and e["server"] != not_this and e["state"] == "up":
                return e["server"]
            time.sleep(0.005)
        raise Broken(f"no server {timeout} s after {not_this}: {self.entry()}")

    def fault(self):
        pid = self.pid
        how = self.how if self.how != "mixed" else random.choice(["kill", "kill", "kill", "upgrade", "stop"])
        began = time.monotonic()
        if how == "upgrade":
            p = subprocess.run([self.plenum, "upgrade", str(self.mount)], capture_output=True, timeout=60)
            if p.returncode:
                raise Broken(f"upgrade: {p.stderr.decode(errors='replace')}")
        else:
            try:  # it may have died by itself: PLENUM_CRASH
                fd = os.pidfd_open(pid)
                if (self.entry() or {}).get("server") == pid:  # not a pid used anew
                    signal.pidfd_send_signal(fd, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                os.close(fd)
            except ProcessLookupError:
                pass
        os.statvfs(self.mount)  # asks the server, always
        self.pauses.append(time.monotonic() - began)
        self.pid = self.server(pid)

    def run(self, load):
        self.up()
        self.dir, self.back = f"{self.mount}/{load.__name__}", f"{self.below}/{load.__name__}"
        os.mkdir(self.dir)
        with self.going_on():
            load(self)

    def clean(self):
        """Takes all away; what is left of the mount is a failure of its own."""
        bad = runner.unmount(self.plenum, self.mount)
        if self.keeper:
            self.keeper.wait(30)
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return bad


def drill(load, **kw):
    """One load under one kind of fault; returns the drill, or raises what went wrong."""
    return runner.drill(Drill(**kw), load)


def pauses(d):
    ms = [x * 1000 for x in d.pauses]
    return f"; to the next answer {statistics.median(ms):.1f} ms (median), {max(ms):.0f} ms (longest)"


def main():
    p = runner.parser()
    p.add_argument("--faults", type=int, default=100)
    p.add_argument("--how", default="kill", choices=["kill", "stop", "upgrade", "mixed"])
    p.add_argument("--under", default="/tmp")
    p.add_argument("load", nargs="*")
    a = p.parse_args()
    return runner.all_loads(a.load or loads.LOADS, lambda name: drill(
        loads.LOADS[name], plenum=a.plenum, build=a.build, faults=a.faults, how=a.how, options=a.options,
        under=a.under), pauses)


if __name__ == "__main__":
    sys.exit(main())
