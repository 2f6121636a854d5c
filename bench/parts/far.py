"""Over a link with a round trip of 50 ms: plenum and sshfs, against a bare TCP stream over the same link."""
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

from .common import goal, median, plenum, program, quick, rounds, table, top
from .wire import free_port

sys.path.append(str(top / "test/lib"))
import sshd  # noqa: E402

RTT = 0.05
MIB = 1 << 20
# What Linux lets one TCP stream have under way (net.ipv4.tcp_rmem): the window of a real link.
WINDOW = 6 * MIB
SIZE = 100  # MiB
LISTED = 1000
PACKED = 60 if quick else 300


class Link:
    """A relay that makes a round trip of the loopback interface."""

    def __init__(self, target, window=None):
        self.port = free_port()
        self.p = subprocess.Popen([program("relay"), str(int(RTT * 500)), str(self.port), str(target)] +
                                  ([str(window)] if window else []), stdout=subprocess.PIPE)
        self.p.stdout.readline()

    def close(self):
        self.p.terminate()
        self.p.wait()


def raw(window):
    """MiB/s of one TCP stream over such a link, there and back."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        link = Link(s.getsockname()[1], window)

        def far_end():
            data = memoryview(os.urandom(MIB))
            c, _ = s.accept()
            with c:
                for _ in range(2):
                    if c.recv(1) == b"r":
                        for _ in range(SIZE):
                            c.sendall(data)
                    else:
                        left = SIZE * MIB
                        while left:
                            left -= len(c.recv(min(left, MIB)))
                        c.sendall(b"x")

        threading.Thread(target=far_end, daemon=True).start()
        with socket.create_connection(("127.0.0.1", link.port)) as c:
            buf = memoryview(bytearray(MIB))
            t0 = time.monotonic()
            c.sendall(b"r")
            left = SIZE * MIB
            while left:
                left -= c.recv_into(buf[:min(left, MIB)])
            t1 = time.monotonic()
            c.sendall(b"w")
            for _ in range(SIZE):
                c.sendall(buf)
            c.recv(1)
            t2 = time.monotonic()
        link.close()
    return t1 - t0, t2 - t1


class Far:
    """Both servers, a link to each, and a mount of one at a time."""

    def __init__(self, window=None):
        self.work = tempfile.mkdtemp(prefix="plenum-far.")
        self.source = tempfile.mkdtemp(prefix="plenum-src.", dir="/dev/shm")
        self.dir = f"{self.work}/mnt"
        os.mkdir(self.dir)
        port = free_port()
        self.started = [subprocess.Popen([plenum, "serve", "-q", self.source, f"tcp!127.0.0.1!{port}"])]
        self.links = {"plenum": Link(port, window)}
        self.names = ["plenum"]
        if shutil.which("sshfs") and sshd.THERE:
            self.sshd = sshd.Sshd(f"{self.work}/ssh")
            self.started.append(subprocess.Popen(self.sshd.argv, stderr=subprocess.DEVNULL))
            self.links["sshfs"] = Link(self.sshd.port, window)
            self.names.append("sshfs")
        time.sleep(0.5)

    def command(self, name):
        port = self.links[name].port
        if name == "plenum":
            return [plenum, "mount", f"9p:tcp!127.0.0.1!{port}", self.dir]
        return ["sshfs", "-p", str(port), "-o", f"IdentityFile={self.sshd.dir}/user,IdentitiesOnly=yes", "-o",
                "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR",
                f"{self.sshd.name}:{self.source}", self.dir]

    def mounted(self, name, job):
        """Seconds that the job takes in a fresh mount."""
        subprocess.run(self.command(name), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True, timeout=60)
        for _ in range(500):
            if os.path.ismount(self.dir):
                break
            time.sleep(0.02)
        else:
            raise SystemExit(f"{name}: not mounted after 10 s")
        try:
            os.stat(self.dir)
            t = time.monotonic()
            subprocess.run(["sh", "-ec", job], cwd=self.dir, check=True, timeout=300, stdout=subprocess.DEVNULL)
            return time.monotonic() - t
        finally:
            for _ in range(50):
                if subprocess.run(["umount", self.dir], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL)
        for link in self.links.values():
            link.close()
        for p in self.started:
            p.terminate()
            p.wait()
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.source, ignore_errors=True)


def archive(path):
    """Small files with owners, modes and times, as an untar finds them."""
    with tempfile.TemporaryDirectory() as d:
        for i in range(PACKED):
            sub = pathlib.Path(d, "t", f"d{i // 25}")
            sub.mkdir(parents=True, exist_ok=True)
            (sub / f"f{i}").write_bytes(os.urandom(100 + i * 37 % 8000))
        with tarfile.open(path, "w") as t:
            t.add(f"{d}/t", "t")


def streams(figures):
    """One big file, over a link as deep as memory, and over one that has a TCP stream's window."""
    for window, link in (None, "deep"), (WINDOW, "6 MiB"):
        with Far(window) as f:
            subprocess.run(["sh", "-c", f"head -c {SIZE}M /dev/urandom >{f.source}/big"], check=True)
            for _ in range(2 if quick else rounds):
                down, up = raw(window)
                figures.setdefault(("read", link, "raw"), []).append(SIZE / down)
                figures.setdefault(("write", link, "raw"), []).append(SIZE / up)
                for name in f.names:
                    t = f.mounted(name, "dd if=big of=/dev/null bs=1M status=none")
                    figures.setdefault(("read", link, name), []).append(SIZE / t)
                    t = f.mounted(name, f"dd if={f.source}/big of=new bs=1M conv=fsync status=none")
                    figures.setdefault(("write", link, name), []).append(SIZE / t)
                    os.unlink(f"{f.source}/new")


def small(figures):
    with Far() as f:
        os.mkdir(f"{f.source}/listed")
        for i in range(LISTED):
            pathlib.Path(f.source, "listed", f"file{i}").write_text("x" * (i % 100))
        archive(f"{f.work}/t.tar")
        for _ in range(2 if quick else rounds):
            for name in f.names:
                figures.setdefault(("ls -l", name), []).append(f.mounted(name, "ls -l listed"))
        for _ in range(1 if quick else 3):
            for name in f.names:
                figures.setdefault(("untar", name), []).append(f.mounted(name, f"tar xf {f.work}/t.tar"))
                shutil.rmtree(f"{f.source}/t")


def far():
    figures = {}
    streams(figures)
    small(figures)
    med = {k: median(v) for k, v in figures.items()}
    rows = []
    for op in "read", "write":
        for link in "deep", "6 MiB":
            bare, ours = med[op, link, "raw"], med[op, link, "plenum"]
            rows.append([f"{op} {SIZE} MiB, {link} window (MiB/s)", f"{bare:.0f}", f"{ours:.0f}",
                         f"{med[op, link, 'sshfs']:.0f}" if (op, link, "sshfs") in med else "-", f"{ours / bare:.2f}"])
            goal(f"far {op}, {link} window : TCP", ours / bare, 0.8, "high")
    for job in "ls -l", "untar":
        ours, peer = med[job, "plenum"], med.get((job, "sshfs"))
        rows.append([f"{job} of {LISTED if job == 'ls -l' else PACKED} files (round trips)", "-", f"{ours / RTT:.1f}",
                     f"{peer / RTT:.1f}" if peer else "-", "-"])
    goal("far ls -l, round trips", med["ls -l", "plenum"] / RTT, 4, "low")
    if ("untar", "sshfs") in med:
        goal("far untar, sshfs : plenum", med["untar", "sshfs"] / med["untar", "plenum"], 2, "high")
    table("Far: a link with 50 ms of round trip", ["", "bare TCP", "plenum", "sshfs", "plenum/TCP"], rows)
