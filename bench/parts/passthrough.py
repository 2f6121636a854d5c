"""Bytes of an open file against native, and single answers against a server that only answers."""
import json
import pathlib
import shutil
import tempfile

from .common import (goal, has_option, median, one_processor, plenum, program, quick, rounds, run, table)
from .mounts import Mounts, libfuse_examples

KINDS = {"read4k": "read 4 KiB in order", "rread4k": "read 4 KiB at random", "read1m": "read 1 MiB in order",
         "rread1m": "read 1 MiB at random", "write4k": "write 4 KiB in order",
         "rwrite4k": "write 4 KiB at random", "write1m": "write 1 MiB in order",
         "rwrite1m": "write 1 MiB at random", "mmap": "map and read 1 MiB"}


def onefile(kind, files):
    ms = "50" if quick else "150"
    return [float(x) / 1000 for x in run([program("onefile"), kind, ms, *files]).split()]


def measure(kinds, files):
    """{(kind, name): microseconds}; `files` is {name: path}. onefile alternates between them."""
    figures = {}
    for _ in range(rounds):
        for kind in kinds:
            for name, us in zip(files, onefile(kind, list(files.values()))):
                figures.setdefault((kind, name), []).append(us)
    return {k: median(v) for k, v in figures.items()}


def through_server(d):
    status = json.loads(run([plenum, "status", "--json", d]))[0]
    return status["bytes_read"] + status["bytes_written"]


def bytes_of_an_open_file(source):
    with Mounts(source, ["native", "plenum", "nopassthrough", "bindfs", "passthrough_hp"]) as m:
        dirs = {n: m.mount(n) for n in m.names}
        med = measure(KINDS, {n: f"{d}/big" for n, d in dirs.items()})
        moved = through_server(dirs["plenum"]) >> 20
    rows = []
    for kind, label in KINDS.items():
        speed = med[kind, "native"] / med[kind, "plenum"]
        rows.append([label] + [f"{med[kind, n]:.2f}" for n in m.names] + [f"{speed:.2f}", ">= 0.95"])
        goal(f"{label} : native", speed, 0.95, "high")
    table("Pass: a warm file of 32 MiB on tmpfs, us an operation", [""] + m.names + ["native/plenum", "goal"], rows)
    print(f"  plenum's server moved {moved} MiB of it itself" if moved else
          "  not one byte passed through plenum's server")
    if not has_option("passthrough"):
        print("  passthrough: not available in this build")


def answers(source):
    """Each row has floors of its own: the same timeouts, and what an open hands down."""
    small = f"{source}/f000000"
    with Mounts(source, ["native", "plenum", "bindfs", "passthrough_hp"]) as m:
        dirs = {n: m.mount(n) for n in m.names}
        dirs["raw"], _ = m.raw("raw", "-t", "1", "-p", small)
        dirs["raw, no FLUSH"], _ = m.raw("raw-noflush", "-t", "1", "-p", small, "-F")
        med = measure(["open"], {n: f"{d}/f000000" for n, d in dirs.items()})
    with Mounts(source, ["native", "plenum", "bindfs"]) as m:
        dirs = {n: m.mount(n, "attr_timeout=0") for n in m.names}
        dirs["raw"], _ = m.raw("raw", "-t", "0")
        med.update(measure(["stat"], {n: f"{d}/f000000" for n, d in dirs.items()}))
    names = ["native", "raw", "raw, no FLUSH", "plenum", "bindfs", "passthrough_hp"]
    names = [n for n in names if ("open", n) in med]
    rows = []
    for kind, label in (("open", "open+close, passthrough"), ("stat", "stat, uncached")):
        ratio = med[kind, "plenum"] / med[kind, "raw"]
        rows.append([label] + [f"{med[kind, n]:.2f}" if (kind, n) in med else "" for n in names] +
                    [f"{ratio:.2f}", "<= 1.15"])
        goal(f"{label} : raw server", ratio, 1.15, "low")
    table("Answers: against a /dev/fuse server that only answers, us", [""] + names + ["plenum/raw", "goal"], rows)


def passthrough():
    libfuse_examples()
    source = tempfile.mkdtemp(prefix="plenum-src.", dir="/dev/shm")
    try:
        pathlib.Path(source, "big").write_bytes(b"b" * (32 << 20))
        pathlib.Path(source, "f000000").write_bytes(b"f" * (64 << 10))
        with one_processor():
            bytes_of_an_open_file(source)
            answers(source)
    finally:
        shutil.rmtree(source)
