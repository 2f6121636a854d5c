#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Memory and descriptors over time: a duct under load whose link breaks, for as long as one wants.

usage: test/drill/soak.py [--plenum FILE] [--build DIR] [--options OPTS] [--minutes N] [--over tcp|ssh|serve]
                          [--out FILE]
Every 10 s the resident memory and the descriptors of all processes of both ends are written as a row
(seconds, faults so far, KiB, descriptors). In the end it compares the last third with the first third
after a warm-up: exit 1 if either grew by more than a tenth (and 4 MiB, 16 descriptors).
"""
import itertools
import os
import shutil
import statistics
import sys
import threading
import time

import cuts
import loads
import runner

CYCLE = ["exclusive", "appends", "fsx", "truncating", "untar", "locks", "unlinked"]
EVERY = 10


def family(pids):
    """Those processes and all that descend from them."""
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                children.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(pid))
        except OSError:
            pass
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found


def measure(pids):
    kib = fds = 0
    for pid in family(pids):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() in ("ssh", "sshd", "sh"):
                    continue
            with open(f"/proc/{pid}/smaps_rollup") as f:
                kib += int(next(x for x in f if x.startswith("Private_Dirty")).split()[1])
            fds += len(os.listdir(f"/proc/{pid}/fd"))
        except (OSError, StopIteration):
            pass
    return kib, fds


def soak(d, out):
    rows, ended = [], threading.Event()

    def sample():
        while not ended.wait(EVERY):
            kib, fds = measure([p.pid for p in d.procs])
            rows.append((time.monotonic() - d.began, d.done, kib, fds))
            print("\t".join(f"{x:.0f}" for x in rows[-1]), file=out, flush=True)

    def mixed(side):
        for n, name in enumerate(itertools.cycle([x for x in CYCLE if cuts.holds(x, d.kind)])):
            if d.over():
                return
            side.dir, side.back = f"{side.mount}/{n}", f"{side.below}/{n}"
            os.mkdir(side.dir)
            loads.LOADS[name](side)
            shutil.rmtree(side.dir)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        d.run(mixed)
    finally:
        ended.set()
        sampler.join()
    return rows


class Soak(cuts.Cuts):
    """Faults go on; each load does one round and gives way to the next."""

    def __init__(self, minutes, **kw):
        super().__init__(faults=1 << 60, **kw)
        self.began, self.minutes = time.monotonic(), minutes
        self.over_file.touch()  # to the loads it always is

    def over(self):
        return self.failed is not None or time.monotonic() - self.began > self.minutes * 60


def flat(rows, column, slack):
    third = len(rows) // 4
    first, last = ([r[column] for r in rows[a:b]] for a, b in ((third, 2 * third), (-third, None)))
    a, b = statistics.median(first), statistics.median(last)
    print(f"{['KiB', 'descriptors'][column - 2]}: {a:.0f} in the second quarter, {b:.0f} in the last")
    return b <= a * 1.1 + slack


def main():
    p = runner.parser()
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--over", default="tcp", choices=["tcp", "ssh", "serve"])
    p.add_argument("--out", default="-")
    a = p.parse_args()
    d = Soak(a.minutes, plenum=a.plenum, build=a.build, over=a.over, options=a.options)
    out = sys.stdout if a.out == "-" else open(a.out, "w")
    print("seconds\tfaults\tKiB\tdescriptors", file=out)
    try:
        rows = soak(d, out)
    except Exception as e:
        print(f"{e}\n{d.log()}")
        d.clean()
        raise
    bad = d.clean()
    print(f"{d.done} faults {d.count}; {bad or 'ended well'}")
    ok = [flat(rows, 2, 4096), flat(rows, 3, 16)] if len(rows) >= 8 else [True]
    return not all(ok) or bool(bad)


if __name__ == "__main__":
    sys.exit(main())
