# SPDX-License-Identifier: MIT
"""What the drills share: faults that go on while a load runs, and the command line."""
import argparse
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path += [str(HERE), str(HERE.parent / "lib")]


class Broken(Exception):
    pass


class Faults:
    """N of them; who derives it has fault(), run(load), log() and clean(), which says what was not in order."""

    PAUSE = 0.2  # seconds between two, at most; mostly far less

    def __init__(self, plenum, build, faults):
        self.plenum, self.fsx, self.faults = plenum, f"{build}/test/fsx", faults
        self.done = 0
        self.stop, self.failed = threading.Event(), None

    def over(self):
        return self.done >= self.faults or self.failed is not None

    def disturb(self):
        try:
            while not self.stop.is_set() and self.done < self.faults:
                self.stop.wait(random.random() ** 3 * self.PAUSE)
                self.fault()
                self.done += 1
        except Exception as e:  # told when the load has ended
            self.failed = e

    @contextlib.contextmanager
    def going_on(self):
        breaker = threading.Thread(target=self.disturb)
        breaker.start()
        try:
            yield
        finally:
            self.stop.set()
            breaker.join()
        if self.failed:
            raise self.failed


def unmount(plenum, directory):
    """However it is; what was not in order, or nothing."""
    p = subprocess.run([plenum, "umount", str(directory)], capture_output=True, timeout=60)
    if p.returncode:
        subprocess.run([plenum, "umount", "-f", str(directory)], capture_output=True, timeout=60)
    subprocess.run(["umount", "-l", str(directory)], capture_output=True, timeout=30)
    return p.stderr.decode(errors="replace") if p.returncode else ""


def drill(d, load):
    """One load under faults; returns the drill, or raises what went wrong."""
    try:
        d.run(load)
    except BaseException as e:
        log = d.log()
        d.clean()
        if isinstance(e, Exception):
            raise Broken(f"{e}\nThe ends said:\n{log}") from e
        raise
    bad = d.clean()
    if bad:
        raise Broken(f"at the end: {bad}")
    return d


def parser():
    p = argparse.ArgumentParser()
    p.add_argument("--plenum", type=os.path.abspath, default=str(TOP / "build/plenum"))
    p.add_argument("--build", type=os.path.abspath, default=str(TOP / "build"))
    p.add_argument("--options", default="")
    return p


def all_loads(names, one, told):
    """Runs the loads one after the other, each by one(name), which returns its drill; prints a line for each,
    of which told(drill) is the end. The exit status."""
    bad = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up
    for name in names:
        began = time.monotonic()
        try:
            d = one(name)
            print(f"ok   {name:12} {d.done} faults in {time.monotonic() - began:.0f} s{told(d)}", flush=True)
        except Exception:
            bad += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
    return bad > 0
