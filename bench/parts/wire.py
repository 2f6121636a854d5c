"""9P: over a unix socket against its floors, over TCP against diod, and what an idle connection costs."""
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

from .common import build, goal, median, plenum, quick, rounds, run, table, timed


def wire():
    rows = []
    goals = {"rtt_us": ("round trip (us)", 1.3, "low"),
             "read_mibs": ("read, 64 MiB file (MiB/s)", 0.8, "high"),
             "write_mibs": ("write, 64 MiB file (MiB/s)", 0.8, "high"),
             "read_hot_mibs": ("read, 1 MiB file (MiB/s)", 0.8, "high"),
             "write_hot_mibs": ("write, 1 MiB file (MiB/s)", 0.8, "high"),
             "read_lent_mibs": ("read, 1 MiB file on tmpfs (MiB/s)", 0.8, "high"),
             "write_lent_mibs": ("write, 1 MiB file on tmpfs (MiB/s)", 0.8, "high")}
    for line in run([str(build / "bench/wire"), str(rounds)]).splitlines():
        key, floor, ours, ratio = line.split()
        label, limit, better = goals[key]
        rows.append([label, floor, ours, ratio, f"{'<=' if better == 'low' else '>='} {limit}"])
        goal(label.split(" (")[0], float(ratio), limit, better)
    table("Wire: 9P over a unix socket between two processes", ["", "floor", "plenum", "ratio", "goal"], rows)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def net():
    if not shutil.which("diodcat"):
        return
    size = 64 if quick else 256
    source = tempfile.mkdtemp(prefix="plenum-src.", dir="/dev/shm")
    subprocess.run(["sh", "-c", f"head -c {size}M /dev/urandom >{source}/big"], check=True)
    servers, figures = [], {}
    try:
        ports = {"plenum serve": free_port(), "diod": free_port()}
        servers.append(subprocess.Popen([plenum, "serve", "-q", source, f"tcp!127.0.0.1!{ports['plenum serve']}"]))
        servers.append(subprocess.Popen(["diod", "-f", "-n", "-N", "-L", "stderr", "-l", f"127.0.0.1:{ports['diod']}",
                                         "-e", source, "-U", "root"], stderr=subprocess.DEVNULL))
        time.sleep(1)
        for _ in range(rounds):
            for server, port in ports.items():
                aname = source if server == "diod" else ""
                for client, cmd in {
                        "plenum cat": [plenum, "cat", f"9p:tcp!127.0.0.1!{port}" + (f",aname={aname}" if aname else ""), "big"],
                        "diodcat": ["diodcat", "-s", f"127.0.0.1:{port}", "-m", "65560", "-a", aname or "/", "big"]}.items():
                    try:
                        t = timed(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    except subprocess.CalledProcessError:
                        continue
                    figures.setdefault((client, server), []).append(size / t)
    finally:
        for s in servers:
            s.terminate()
            s.wait()
        shutil.rmtree(source)
    rows = [[c, s, f"{median(v):.0f}"] for (c, s), v in figures.items()]
    table("Net: one big file over TCP loopback, MiB/s", ["client", "server", "MiB/s"], rows)
    med = {k: median(v) for k, v in figures.items()}
    if ("diodcat", "diod") in med and ("plenum cat", "plenum serve") in med:
        goal("cat over TCP : diod", med["plenum cat", "plenum serve"] / med["diodcat", "diod"], 1.0, "high")


def switches(pid):
    """Context switches of all threads so far: a process that sleeps makes none."""
    n = 0
    for t in os.listdir(f"/proc/{pid}/task"):
        for line in open(f"/proc/{pid}/task/{t}/status"):
            if "ctxt_switches" in line:
                n += int(line.split()[1])
    return n


def own_memory(pid):
    return sum(int(x.split()[1]) for x in open(f"/proc/{pid}/smaps_rollup")
               if x.startswith(("Private_Clean", "Private_Dirty", "Swap:")))


def idle():
    n = 200 if quick else 1000
    work = tempfile.mkdtemp(prefix="plenum-idle.")
    path = f"{work}/s"
    server = subprocess.Popen([plenum, "serve", "-q", "mem:", f"unix!{path}"])
    conns = []

    def say(s, kind, tag, body):
        s.sendall(struct.pack("<IBH", 7 + len(body), kind, tag) + body)
        size = struct.unpack("<I", s.recv(4, socket.MSG_WAITALL))[0]
        return s.recv(size - 4, socket.MSG_WAITALL)

    def connect():
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        if say(s, 100, 0xffff, struct.pack("<IH", 131072, 8) + b"9P2000.L")[0] != 101:
            sys.exit("idle: no Rversion")
        if say(s, 104, 1, struct.pack("<IIHHI", 0, 0xffffffff, 0, 0, os.getuid()))[0] != 105:
            sys.exit("idle: no Rattach")
        conns.append(s)

    try:
        for _ in range(100):
            if os.path.exists(path):
                break
            time.sleep(0.05)
        for _ in range(20):
            connect()
        time.sleep(2)
        before = own_memory(server.pid)
        for _ in range(n):
            connect()
        time.sleep(2)
        each = (own_memory(server.pid) - before) / n
        woke = switches(server.pid)
        time.sleep(3)
        woke = switches(server.pid) - woke
    finally:
        for s in conns:
            s.close()
        server.terminate()
        server.wait()
        shutil.rmtree(work)
    table("Idle: attached connections that say nothing", ["", "measured", "goal"],
          [[f"KiB of the server's own, each of {n}", f"{each:.1f}", "< 32"],
           ["wakeups of the server in 3 s", woke, "0"]])
    goal("idle connection, KiB : 32", each / 32, 1.0, "low")
