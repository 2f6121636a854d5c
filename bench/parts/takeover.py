"""How long a client waits when the server of its mount is killed, or replaced by an upgrade."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from .common import goal, has_option, median, out, plenum, program, quick, run, table
from .mounts import Mounts

TIMES = 15 if quick else 100
SETTLE = 0.2  # seconds between two deaths, in which the client works undisturbed
GOAL_MS = 50


class Unavailable(Exception):
    pass


class Client:
    """bench/pause: one process that makes call after call."""

    def __init__(self, file, kind):
        self.p = subprocess.Popen([program("pause"), file, kind], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)

    def say(self, command):
        print(command, file=self.p.stdin, flush=True)
        return self.p.stdout.readline().strip()

    def report(self):
        """Of the time since the mark: ms until the call that found no server returned, ms of the
        longest call, how many failed, and with what."""
        answer = self.say("report")
        if answer == "hung":
            raise Unavailable("no call has returned for 30 s")
        waited, longest, _, errors, errno = answer.split()
        return float(waited) / 1000, float(longest) / 1000, int(errors), int(errno)

    def end(self):
        self.p.kill()
        self.p.wait()


def server(d):
    """The process id of plenum's server; None while there is none, or no mount any more."""
    r = subprocess.run([plenum, "status", "--json", d], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                       text=True, timeout=30)
    entries = json.loads(r.stdout) if r.returncode == 0 else []
    return entries[0]["server"] or None if entries else None


def successor(find, old):
    for _ in range(1500):
        pid = find()
        if pid and pid != old:
            return pid
        time.sleep(0.02)
    raise Unavailable("no other server after 30 s")


def deaths(client, find):
    """Kills the server again and again: ms from each death to the next answer, and failed calls."""
    pauses, failed = [], 0
    pid = find()
    for _ in range(TIMES):
        client.say("mark")
        time.sleep(SETTLE)
        if client.say(f"kill {pid}") != "ok":
            raise Unavailable(f"no process {pid} to kill")
        time.sleep(SETTLE)
        waited, _, errors, errno = client.report()
        if errors and not pauses:
            raise Unavailable(f"calls fail when the server dies: {os.strerror(errno)}")
        pauses.append(waited)
        failed += errors
        pid = successor(find, pid)
    return pauses, failed


def upgrades(client, d):
    """The longest call during each upgrade."""
    pauses, failed = [], 0
    for _ in range(TIMES):
        time.sleep(SETTLE)
        old = server(d)
        client.say("mark")
        run([plenum, "upgrade", d])
        time.sleep(SETTLE)
        _, longest, errors, _ = client.report()
        pauses.append(longest)
        failed += errors
        if server(d) == old:
            raise Unavailable("plenum upgrade left the same server")
    return pauses, failed


def raw_death(m, kind):
    d, p = m.raw("raw", "-k")
    client = Client(f"{d}/f000000", kind)
    try:
        # one line for each server: the next one is there when this returns
        return deaths(client, lambda: int(p.stdout.readline()))
    finally:
        client.end()
        m.umount(d)


def plenum_row(m, kind, how):
    options = ["attr_timeout=0"] if kind == "stat" else ["direct_io"]
    if has_option("nopassthrough"):
        options.append("nopassthrough")  # else the kernel reads on without any server
    d = m.mount("plenum", ",".join(options))
    client = Client(f"{d}/f000000", kind)
    try:
        return deaths(client, lambda: server(d)) if how == "kill" else upgrades(client, d)
    finally:
        client.end()
        m.umount(d)


def has_upgrade():
    return subprocess.run([plenum, "upgrade", "--help"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def histogram(series):
    """A panel a row of the table, in classes of 2 ms."""
    if not series or not shutil.which("gnuplot"):
        return
    data = out / "takeover.dat"
    with open(data, "w") as f:
        f.write("\n\n\n".join("\n".join(f"{ms:.3f}" for ms in pauses) for pauses in series.values()) + "\n")
    most = max(GOAL_MS * 1.2, *(max(pauses) * 1.05 for pauses in series.values()))
    panels = "\n".join(
        f"set title '{label}'\nplot '{data}' index {i} using (2 * floor($1 / 2) + 1):(1) smooth frequency "
        "with boxes fs solid 0.5 notitle" for i, label in enumerate(series))
    script = f"""
set terminal pngcairo size 900,{60 + 170 * len(series)} noenhanced
set output '{out}/takeover.png'
set multiplot layout {len(series)},1 title 'plenum: ms from the death of a server to the next answer (dashed: goal)'
set boxwidth 1.8; set grid y; set ylabel 'times'; set xrange [0:{most:.0f}]; set yrange [0:*]
set arrow from {GOAL_MS}, graph 0 to {GOAL_MS}, graph 1 nohead dashtype 2
{panels}
unset multiplot
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    print("plot: bench/out/takeover.png")


def takeover():
    source = tempfile.mkdtemp(prefix="plenum-src.", dir="/dev/shm")
    pathlib.Path(source, "f000000").write_bytes(b"f" * (64 << 10))
    rows, series = [], {}

    def row(label, measure, limit):
        try:
            pauses, failed = measure()
        except Unavailable as e:
            rows.append([label, "", "", "", "", "", "not available in this build"])
            print(f"{label}: {e}")
            return
        series[label] = pauses
        p95 = sorted(pauses)[int(len(pauses) * 0.95) - 1]
        rows.append([label, len(pauses), f"{median(pauses):.1f}", f"{p95:.1f}", f"{max(pauses):.1f}", failed,
                     f"<= {limit}" if limit else "the floor"])
        if limit:
            goal(f"{label} : {limit} ms", median(pauses) / limit, 1.0, "low")
            goal(f"{label}, failed calls", failed, 0, "low")

    try:
        with Mounts(source, ["plenum"]) as m:
            for kind in ("read", "stat"):
                row(f"kill, {kind}, raw server", lambda: raw_death(m, kind), None)
                row(f"kill, {kind}", lambda: plenum_row(m, kind, "kill"), GOAL_MS)
            if has_upgrade():
                for kind in ("read", "stat"):
                    row(f"upgrade, {kind}", lambda: plenum_row(m, kind, "upgrade"), GOAL_MS)
            else:
                rows.append(["upgrade", "", "", "", "", "", "not available in this build"])
    finally:
        shutil.rmtree(source)
    table("Takeover: from a server's death to the next answer, ms (upgrade: the longest call)",
          ["", "times", "median", "p95", "max", "failed", "goal of the median"], rows)
    histogram(series)
