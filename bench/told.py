#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How soon a change behind a mount is seen through it, and what watching costs.

usage: bench/told.py [BUILDDIR] [DIR]     DIR: where the files are, /tmp unless given
Latency: from the return of the system call that makes the change to the first look that shows it,
for each way of watching and without; of single changes, and of changes in a stream. Costs: writes of
4 KiB and creation of files by the mount and by others, each round in turn, on one processor.
"""
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

top = pathlib.Path(__file__).resolve().parent.parent
build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else top / "build").resolve()
work = pathlib.Path(tempfile.mkdtemp(prefix="told.", dir=sys.argv[2] if len(sys.argv) > 2 else "/tmp"))
src, here = work / "src", work / "here"
WAYS = {"fanotify": "watch", "inotify": "watch", "none": "nowatch"}
ROUNDS, CHANGES, WRITES, FILES = 3, 150, 20000, 2000


def mount(way):
    env = dict(os.environ, PLENUM_WATCH=way)
    subprocess.run([build / "plenum", "mount", "-o", WAYS[way], src, here], check=True, timeout=30,
                   env=env)


def umount():
    subprocess.run([build / "plenum", "umount", here], check=True, timeout=30)


def latency(way, stream):
    """Milliseconds until each of some changes is seen."""
    found = []
    path, mine = src / "f", here / "f"
    for i in range(CHANGES if way != "none" else 8):
        os.stat(mine)
        time.sleep(0 if stream else 0.025 + random.random() / 50)
        os.utime(path, (i, i))
        begin = time.perf_counter()
        while os.stat(mine).st_mtime != i:
            if time.perf_counter() - begin > 10:
                sys.exit("a change is not seen at all")
            time.sleep(0.0002)
        found.append((time.perf_counter() - begin) * 1000)
    return found


def writes(path):
    fd, block = os.open(path, os.O_RDWR), b"x" * 4096
    begin = time.perf_counter()
    for i in range(WRITES):
        os.pwrite(fd, block, i % 256 * 4096)
    took = time.perf_counter() - begin
    os.close(fd)
    return took / WRITES * 1e6


def creates(directory):
    begin = time.perf_counter()
    for i in range(FILES):
        os.close(os.open(directory / f"c{i}", os.O_CREAT | os.O_WRONLY, 0o644))
    took = time.perf_counter() - begin
    for i in range(FILES):
        os.unlink(directory / f"c{i}")
    return took / FILES * 1e6


def main():
    src.mkdir()
    here.mkdir()
    (src / "f").write_bytes(b"y" * (1 << 20))
    print("visible after, ms                 median    95 %     max")
    for way in WAYS:
        mount(way)
        for stream in (False, True):
            ms = sorted(latency(way, stream))
            print(f"{way:10} {'in a stream' if stream else 'single':18}"
                  f" {statistics.median(ms):10.1f} {ms[int(len(ms) * .95)]:7.1f} {ms[-1]:7.1f}")
        umount()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    costs = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            mount(way)
            os.stat(here / "f"), os.listdir(here)
            costs[way].append((writes(here / "f"), writes(src / "f"), creates(here), creates(src)))
            umount()
    print("\nus each, one processor   4k write by mount  by others   create by mount  by others")
    for way, rows in costs.items():
        best = [statistics.median(x) for x in zip(*rows)]
        print(f"{way:22} {best[0]:19.2f} {best[1]:10.2f} {best[2]:17.1f} {best[3]:10.1f}")


try:
    main()
finally:
    if os.path.ismount(here):
        subprocess.run([build / "plenum", "umount", "-f", here], timeout=30)
    shutil.rmtree(work, ignore_errors=True)
