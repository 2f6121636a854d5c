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
import argparse
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
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import loads  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parents[2]


class Broken(Exception):
    pass


class Drill:
    """A mount, what is done to it, and what a load needs to know."""

    def __init__(self, plenum, build, faults, how="kill", options="", under="/tmp", spec="host:{}"):
        self.plenum, self.fsx, self.faults, self.how = plenum, f"{build}/test/fsx", faults, how
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="plenum-drill.", dir=under))
        self.scratch = tempfile.mkdtemp(prefix="plenum-drill-native.")
        self.below, self.mount = self.base / "below", self.base / "mnt"
        self.below.mkdir()
        self.mount.mkdir()
        self.options = options
        (self.base / "behind").mkdir()
        self.spec = spec.format(self.below, self.base / "behind")
        self.done, self.pauses = 0, []
        self.stop, self.failed = threading.Event(), None
        self.dir = self.back = self.keeper = None

    def over(self):
        return self.done >= self.faults or self.failed is not None

    def up(self):
        cmd = [self.plenum, "mount", "-f"] + (["-o", self.options] if self.options else [])
        with open(f"{self.scratch}/log", "wb") as log:
            self.keeper = subprocess.Popen(cmd + [self.spec, str(self.mount)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=log)
        self.server()

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

    def fault(self, pid):
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
        return self.server(pid)

    def disturb(self):
        try:
            pid = self.server()
            while not self.stop.is_set() and self.done < self.faults:
                self.stop.wait(random.random() ** 3 * 0.2)
                pid = self.fault(pid)
                self.done += 1
        except Exception as e:  # told by run()
            self.failed = e

    def run(self, load):
        self.up()
        self.dir, self.back = f"{self.mount}/{load.__name__}", f"{self.below}/{load.__name__}"
        os.mkdir(self.dir)
        killer = threading.Thread(target=self.disturb)
        killer.start()
        try:
            load(self)
        finally:
            self.stop.set()
            killer.join()
        if self.failed:
            raise self.failed

    def clean(self):
        """Takes all away; what is left of the mount is a failure of its own."""
        p = subprocess.run([self.plenum, "umount", str(self.mount)], capture_output=True, timeout=60)
        if p.returncode:
            subprocess.run([self.plenum, "umount", "-f", str(self.mount)], capture_output=True, timeout=60)
        subprocess.run(["umount", "-l", str(self.mount)], capture_output=True, timeout=30)
        if self.keeper:
            self.keeper.wait(30)
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return p.returncode == 0, p.stderr.decode(errors="replace")


def drill(load, **kw):
    """One load under one kind of fault; returns the drill, or raises what went wrong."""
    d = Drill(**kw)
    try:
        d.run(load)
    except BaseException as e:
        log = d.log()
        d.clean()
        if isinstance(e, Exception):
            raise Broken(f"{e}\nThe mount said:\n{log}") from e
        raise
    ok, text = d.clean()
    if not ok:
        raise Broken(f"umount afterwards: {text}")
    return d


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--plenum", default=str(TOP / "build/plenum"))
    p.add_argument("--build", default=str(TOP / "build"))
    p.add_argument("--faults", type=int, default=100)
    p.add_argument("--how", default="kill", choices=["kill", "stop", "upgrade", "mixed"])
    p.add_argument("--options", default="")
    p.add_argument("--under", default="/tmp")
    p.add_argument("load", nargs="*")
    a = p.parse_args()
    bad = 0
    for name in a.load or loads.LOADS:
        began = time.monotonic()
        try:
            d = drill(loads.LOADS[name], plenum=os.path.abspath(a.plenum), build=os.path.abspath(a.build),
                      faults=a.faults, how=a.how, options=a.options, under=a.under)
            ms = [x * 1000 for x in d.pauses]
            print(f"ok   {name:12} {d.done} faults in {time.monotonic() - began:.0f} s; to the next answer "
                  f"{statistics.median(ms):.1f} ms (median), {max(ms):.0f} ms (longest)", flush=True)
        except Exception:
            bad += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
