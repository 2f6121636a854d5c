# SPDX-License-Identifier: MIT
"""Links that break: TCP that is cut, goes silent or moves, an ssh that is killed, ends that go away.

What breaks is a relay in the test, at a number of bytes and not at a time, so that it breaks amid
what is under way; and nothing here is asked to be done by a time that is not many times as long as it
takes.
"""
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import PLENUM, alive, fuse, mounted, mounts_under, wait_for
from test_duct import Pair
from test_ssh import Host, SSHD

pytestmark = fuse


class Relay:
    """TCP that can be cut, held back and pointed elsewhere."""

    def __init__(self, target):
        self.target = target
        self.lock = threading.Lock()
        self.wires = []
        self.passed = 0
        self.cuts = 0
        self.cut_at = None  # so many bytes later
        self.every, self.left = 0, 0
        self.stalled = threading.Event()
        self.server = None
        self.port = 0
        self.listen()

    def listen(self):
        self.server = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.server,), daemon=True).start()

    @property
    def addr(self):
        return f"tcp!127.0.0.1!{self.port}"

    def accept(self, server):
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                self.reset(near)
                continue
            with self.lock:
                self.wires.append((near, far))
            for x, y in (near, far), (far, near):
                threading.Thread(target=self.copy, args=(x, y), daemon=True).start()

    def copy(self, x, y):
        try:
            while data := x.recv(65536):
                if self.stalled.is_set():
                    continue  # swallowed: nobody hears of it, and nothing is closed
                y.sendall(data)
                self.count(len(data))
        except OSError:
            pass
        for s in x, y:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def count(self, n):
        with self.lock:
            self.passed += n
            cut = self.cut_at is not None and self.passed >= self.cut_at
            if cut:
                self.left -= 1
                self.cut_at = self.passed + self.every if self.left else None
        if cut:
            self.cut()

    def cut_every(self, n, times):
        with self.lock:
            self.every, self.left, self.cut_at = n, times, self.passed + n

    @staticmethod
    def reset(s):
        with contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.shutdown(socket.SHUT_RDWR)

    def cut(self):
        with self.lock:
            wires, self.wires = self.wires, []
            self.cuts += 1
        for wire in wires:
            for s in wire:
                self.reset(s)

    def refuse(self):
        """From now on nobody gets through."""
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.cut()


def port_of(addr):
    return int(addr.rsplit("!", 1)[1])


def link(plenum, at):
    return plenum.entry(at)["link"]


def is_down(plenum, at):
    wait_for(lambda: link(plenum, at)["state"] == "down", "the break is not noticed")


def is_up(plenum, at):
    wait_for(lambda: link(plenum, at)["state"] == "up", "it does not come back")


class Far:
    """A directory, served behind a relay and mounted."""

    def __init__(self, plenum, options="", serve=()):
        self.plenum = plenum
        self.dir, self.at = plenum.dir("far"), plenum.dir("at")
        self.server = plenum.serve("--linger", "1m", *serve, self.dir, "tcp!127.0.0.1!0")
        self.relay = Relay(port_of(self.server.addr))
        self.mount(options)

    def mount(self, options):
        args = ["-o", options] if options else []
        self.plenum.run("mount", *args, f"9p:{self.relay.addr}", self.at)
        assert link(self.plenum, self.at)["kind"] == "kept"

    def down(self):
        self.relay.refuse()
        is_down(self.plenum, self.at)

    def back(self):
        self.relay.listen()
        is_up(self.plenum, self.at)


def start(*argv, **kw):
    return subprocess.Popen(list(map(str, argv)), **kw)


def test_cut_amid_a_transfer(plenum):
    far = Far(plenum)
    blob = os.urandom(24 << 20)
    (plenum.tmp / "blob").write_bytes(blob)
    held = os.open(far.at / "held", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(held, fcntl.LOCK_EX)
    far.relay.cut_every(2 << 20, 8)
    assert subprocess.run(["cp", plenum.tmp / "blob", far.at / "copy"]).returncode == 0
    assert (far.dir / "copy").read_bytes() == blob
    far.relay.cut_every(2 << 20, 8)
    far.plenum.run("umount", far.at, rc=1)  # it is in use; and nothing of it is in the kernel's cache below
    assert subprocess.run(["cmp", plenum.tmp / "blob", far.at / "copy"]).returncode == 0
    assert far.relay.cuts >= 8
    # What was open and locked is as it was: the server's session is the same.
    with open(far.dir / "held", "r+b") as f, pytest.raises(BlockingIOError):
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(held, b"still")
    os.close(held)
    assert (far.dir / "held").read_bytes() == b"still"
    is_up(plenum, far.at)
    assert link(plenum, far.at)["breaks"] >= 8
    plenum.run("umount", far.at)


def test_many_small_ones(plenum):
    """Each mutation is applied once: a second time would fail, or leave another size."""
    far = Far(plenum)
    far.relay.cut_every(6000, 30)
    for i in range(150):
        d = far.at / f"d{i}"
        os.mkdir(d)
        with open(d / "log", "ab") as f:
            f.write(b"line\n")
        with open(d / "log", "ab") as f:
            f.write(b"more\n")
        os.rename(d, far.at / f"e{i}")
        if i % 3 == 0:
            os.unlink(far.at / f"e{i}" / "log")
            os.rmdir(far.at / f"e{i}")
    assert far.relay.cuts >= 20
    names = sorted(p.name for p in far.dir.iterdir())
    assert names == sorted(f"e{i}" for i in range(150) if i % 3)
    assert all((far.dir / n / "log").read_bytes() == b"line\nmore\n" for n in names)


def test_both_directions_of_a_duct(plenum):
    pair = Pair(plenum, "relayed")
    pair.check()
    blob = os.urandom(8 << 20)
    for d in pair.dirs:
        (d / "blob").write_bytes(blob)
    pair.relay.cut_every(3 << 20, 8)
    jobs = []
    for i in 0, 1:
        jobs.append(start("cmp", pair.at[i] / "blob", pair.dirs[1 - i] / "blob"))
        jobs.append(start("cp", pair.dirs[i] / "blob", pair.at[i] / "copy"))
    assert [j.wait(50) for j in jobs] == [0] * 4
    for d in pair.dirs:
        assert (d / "copy").read_bytes() == blob
    assert pair.relay.cuts == 8
    for at in pair.at:
        wait_for(lambda at=at: link(plenum, at)["state"] == "up")
        assert link(plenum, at)["kind"] == "kept" and link(plenum, at)["breaks"] > 0
    pair.end()


@pytest.mark.parametrize("first", [0, 1])
def test_one_end_of_a_duct_while_it_is_down(plenum, first):
    """Unmounted at once; and the other direction goes on when the link is back."""
    pair = Pair(plenum, "relayed")
    pair.relay.refuse()
    is_down(plenum, pair.at[0])
    is_down(plenum, pair.at[1])
    plenum.run("umount", pair.at[first])
    assert not mounted(pair.at[first])
    pair.relay.listen()
    other = pair.at[1 - first]
    assert (other / "who").read_text() == "BA"[1 - first]
    (other / "later").write_text("still here")
    assert (pair.dirs[first] / "later").read_text() == "still here"
    pair.end()


@pytest.mark.parametrize("which", [0, 1])
def test_a_duct_is_ended_while_it_is_down(plenum, which):
    pair = Pair(plenum, "relayed")
    pair.relay.refuse()
    is_down(plenum, pair.at[which])
    p = (pair.a, pair.b)[which]
    p.send_signal(signal.SIGINT)
    plenum.ended(p, 0)
    assert not mounted(pair.at[which])


def test_moved(plenum):
    """The same server by another way: a laptop in another network."""
    far = Far(plenum, serve=())
    other = plenum.serve("--linger", "1m", far.dir, "tcp!127.0.0.1!0", "tcp!127.0.0.1!0")
    ports = [port_of(x.rsplit(" on ", 1)[1]) for x in plenum.err(other).splitlines() if " on " in x]
    relay, at = Relay(ports[0]), plenum.dir("at2")
    plenum.run("mount", f"9p:{relay.addr}", at)
    with open(at / "held", "w") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        relay.target = ports[1]
        relay.cut()
        f.write("moved")
        f.flush()
        assert (far.dir / "held").read_text() == "moved"
        with open(far.dir / "held", "r+b") as g, pytest.raises(BlockingIOError):
            fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert link(plenum, at)["breaks"] == 1


def test_half_open(plenum):
    """Nobody closes anything: only silence tells."""
    far = Far(plenum, "keepalive=200ms")
    (far.dir / "f").write_text("x" * 100000)
    far.relay.stalled.set()
    reader = start("cat", far.at / "f", stdout=subprocess.PIPE)
    is_down(plenum, far.at)
    far.relay.stalled.clear()
    assert len(reader.communicate(timeout=30)[0]) == 100000 and reader.returncode == 0
    is_up(plenum, far.at)


def test_soft(plenum):
    far = Far(plenum, "soft=300ms,timeout=0")
    (far.dir / "f").write_text("x")
    assert (far.at / "f").read_text() == "x"
    far.down()
    with pytest.raises(OSError) as e:
        (far.at / "f").read_text()
    assert e.value.errno == errno.ETIMEDOUT
    # From now on nobody waits at all: a hundred calls take no hundred times as long as they may.
    begin = time.monotonic()
    for _ in range(100):
        with pytest.raises(OSError) as e:
            os.listdir(far.at)
        assert e.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - begin < 100 * 0.3
    assert subprocess.run(["ls", far.at], capture_output=True, timeout=20).returncode != 0
    e = plenum.entry(far.at)
    assert e["state"] == "up" and e["link"]["state"] == "down" and e["link"]["since"]
    assert "no link" in plenum.run("status", far.at).out
    far.back()
    assert (far.at / "f").read_text() == "x"


def test_hard(plenum):
    """Callers wait, can be interrupted, and the others get what they asked for."""
    far = Far(plenum, "hard,timeout=0")
    (far.dir / "f").write_text("x")
    far.down()
    callers = [start("cat", far.at / "f", stdout=subprocess.PIPE) for _ in range(4)]
    wait_for(lambda: plenum.entry(far.at)["waiting"] >= 4, "they do not wait")
    callers[0].send_signal(signal.SIGINT)
    callers[1].kill()
    assert callers[0].wait(20) == -signal.SIGINT
    assert callers[1].wait(20) == -signal.SIGKILL
    assert callers[2].poll() is None and callers[3].poll() is None
    far.back()
    for c in callers[2:]:
        assert c.communicate(timeout=20)[0] == b"x" and c.returncode == 0
    assert link(plenum, far.at)["soft"] is None


@pytest.mark.parametrize("how", ["umount", "umount -f", "open", "SIGINT"])
def test_unmounted_while_it_is_down(plenum, how):
    far = Far(plenum, "hard")
    held = None
    if how in ("open", "SIGINT", "umount -f"):
        held = os.open(far.at / "held", os.O_RDWR | os.O_CREAT)
        fcntl.lockf(held, fcntl.LOCK_EX)
    e = plenum.entry(far.at)
    far.down()
    if how == "SIGINT":
        os.kill(e["keeper"], signal.SIGINT)
    elif how == "open":
        assert "use" in plenum.run("umount", far.at, rc=1).err
        plenum.run("umount", "-f", far.at)
    else:
        plenum.run(*how.split(), far.at)
    wait_for(lambda: not mounted(far.at), "it stays")
    wait_for(lambda: not alive(e["server"]) and not alive(e["keeper"]), "its processes stay")
    if held is not None:
        with contextlib.suppress(OSError):
            os.close(held)


def test_linger_is_over(plenum):
    """A clean end on both sides, with the sentence."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve("--linger", "200ms", far, "tcp!127.0.0.1!0")
    relay = Relay(port_of(server.addr))
    p = plenum.start("mount", "-f", "-o", "linger=300ms", f"9p:{relay.addr}", at)
    wait_for(lambda: mounted(at), plenum.err(p))
    held = os.open(at / "held", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(held, fcntl.LOCK_EX)
    relay.refuse()
    says = plenum.ended(p, 1)
    assert f"link to {relay.addr} lost: " in says, says
    assert not mounted(at)
    with contextlib.suppress(OSError):
        os.close(held)

    def free():
        with open(far / "held", "r+b") as f, contextlib.suppress(BlockingIOError):
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
    wait_for(free, "the server keeps the lock of who is gone")
    wait_for(lambda: [e["link"]["peers"] for e in plenum.status() if e["server"] == server.pid] == [0])


def test_no_link_is_agreed_to(plenum):
    """By a server that is told so, or by this end: the first break is the end."""
    far = plenum.dir("far")
    for i, (options, linger) in enumerate((("linger=0", "1m"), ("linger=0", "0"))):
        at = plenum.dir(f"at{i}")
        server = plenum.serve("--linger", linger, far, "tcp!127.0.0.1!0")
        relay = Relay(port_of(server.addr))
        p = plenum.start("mount", "-f", "-o", options, f"9p:{relay.addr}", at)
        wait_for(lambda: mounted(at), plenum.err(p))
        assert link(plenum, at)["kind"] == "none"
        relay.cut()
        assert "lost" in plenum.ended(p, 1)


def test_the_log_tells(plenum):
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    relay = Relay(port_of(server.addr))
    p = plenum.start("mount", "-f", f"9p:{relay.addr}", at)
    wait_for(lambda: mounted(at), plenum.err(p))
    relay.refuse()
    wait_for(lambda: f"link to {relay.addr} is down: " in plenum.err(p))
    assert "1d at most" in plenum.err(p)
    relay.listen()
    wait_for(lambda: f"link to {relay.addr} is up again" in plenum.err(p))
    status = [e for e in plenum.status() if e["server"] == server.pid][0]
    assert status["link"]["peers"] == 1 and status["link"]["breaks"] == 1
    p.send_signal(signal.SIGTERM)
    plenum.ended(p, 0)


@pytest.mark.parametrize("option, says", [
    ("soft=0", "hard"), ("soft=x", "not a time"), ("linger=8d", "7d"), ("linger=", "not a time"),
    ("hard=1", "no value"), ("keepalive=-1", "not a time"), ("lingr=1", "did you mean linger?")])
def test_options(plenum, option, says):
    assert says in plenum.error("mount", "-o", option, "9p:tcp!127.0.0.1!1", plenum.dir("at"), rc=2)


def test_option_of_serve(plenum):
    assert "not a time" in plenum.error("serve", "--linger", "soon", "/", "stdio", rc=2)


# ---- ssh

ssh_there = pytest.mark.skipif(not os.access(SSHD, os.X_OK), reason="needs sshd")


@pytest.fixture
def host(plenum):
    return Host(plenum)


def ssh_clients(host):
    """Of this host's key: their command lines name its directory."""
    found = []
    for d in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if d.name.isdigit() and (d / "comm").read_text() == "ssh\n" and alive(d.name) and \
                    os.fsencode(host.dir) in (d / "cmdline").read_bytes():
                found.append(int(d.name))
    return found


def kill_ssh(host):
    for pid in ssh_clients(host):
        os.kill(pid, signal.SIGKILL)


@ssh_there
@pytest.mark.parametrize("which", ["-L", "-R", "both"])
def test_ssh_is_killed(plenum, host, which):
    here, there = plenum.dir("here"), plenum.dir("there")
    at_here, at_there = plenum.dir("at_here"), plenum.dir("at_there")
    args = [] if which == "-R" else ["-L", f"{at_here}:{there}"]
    args += [] if which == "-L" else ["-R", f"{at_there}:{here}"]
    ways = ([(at_here, there)] if args[0] == "-L" else []) + ([(at_there, here)] if "-R" in args else [])
    p = host.start(*args, host.name)
    wait_for(lambda: all(mounted(at) for at, _ in ways) or p.poll() is not None, plenum.err(p))
    held = []
    for at, _ in ways:
        f = open(at / "held", "w")
        fcntl.lockf(f, fcntl.LOCK_EX)
        held.append(f)
    for turn in range(3):
        breaks = [link(plenum, at)["breaks"] for at, _ in ways]
        kill_ssh(host)
        for at, _ in ways:
            (at / f"f{turn}").write_text(f"after {turn} deaths")
        for (at, d), before in zip(ways, breaks):
            assert (d / f"f{turn}").read_text() == f"after {turn} deaths"
            wait_for(lambda at=at, n=before: link(plenum, at)["breaks"] == n + 1)
    for f, (at, d) in zip(held, ways):
        with open(d / "held", "r+b") as g, pytest.raises(BlockingIOError):
            fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
        f.write("still")
        f.close()
        assert (d / "held").read_text() == "still"
    assert host.runs() == 4
    for at, _ in ways:
        plenum.run("umount", at)
    plenum.ended(p, 0)
    assert not mounts_under(plenum.tmp)
    wait_for(lambda: not ssh_clients(host), "an ssh stays")


@ssh_there
@pytest.mark.parametrize("which", ["-L", "-R", "both"])
def test_ssh_is_killed_and_we_end(plenum, host, which):
    """The far end lingers; when nobody comes back it ends by itself, in good order."""
    here, there = plenum.dir("here"), plenum.dir("there")
    at_here, at_there = plenum.dir("at_here"), plenum.dir("at_there")
    args = [] if which == "-R" else ["-L", f"{at_here}:{there}"]
    args += [] if which == "-L" else ["-R", f"{at_there}:{here}"]
    p = host.start("-o", "linger=1s", *args, host.name)
    ats = [a.split(":")[0] for a in args[1::2]]
    wait_for(lambda: all(map(mounted, ats)) or p.poll() is not None, plenum.err(p))
    far = [e for e in plenum.status() if e["kind"] == "duct" and e["keeper"] != p.pid
           and e["server"] != p.pid]
    assert far
    # Nobody gets in any more, and the ssh that is there dies.
    os.rename(host.dir / "user", host.dir / "user.away")
    kill_ssh(host)
    assert "lost" in plenum.ended(p, 1)
    wait_for(lambda: not mounts_under(plenum.tmp), "a mount stays")
    wait_for(lambda: not any(alive(e[x]) for e in far for x in ("keeper", "server") if e[x]),
             "the far end stays")


@ssh_there
def test_ssh_is_killed_under_a_spec(plenum, host):
    d, at = plenum.dir("d"), plenum.dir("at")
    bin_ = plenum.dir("bin")
    os.symlink(PLENUM, bin_ / "plenum")
    with_path = host.dir / "with-path"
    with_path.write_text(f"#!/bin/sh\nexec {host.ssh} \"$@\"\n")
    with_path.chmod(0o755)
    config = (host.dir / "config").read_text().replace(
        "SetEnv PLENUM_E2E=1\n", f"SetEnv PATH={bin_}:{os.environ['PATH']}\n")
    (host.dir / "config").write_text(config)
    host.sshd.send_signal(signal.SIGHUP)
    wait_for(lambda: plenum.err(host.sshd).count("listening") >= 2)
    plenum.run("mount", f"ssh:{host.name}:{d}", at, env=host.env)
    with open(at / "held", "w") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        for turn in range(3):
            kill_ssh(host)
            (at / f"f{turn}").write_text("x")
            assert (d / f"f{turn}").read_text() == "x"
        with open(d / "held", "r+b") as g, pytest.raises(BlockingIOError):
            fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert link(plenum, at)["breaks"] == 3
    plenum.run("umount", at)
    wait_for(lambda: not ssh_clients(host), "an ssh stays")


def test_relink_to_nobody(plenum):
    """It says in the protocol that the link is gone."""
    body = struct.pack("<IH", 8192, 11) + b"plenum.link"
    ask = struct.pack("<IBH", 7 + len(body), 100, 0xffff) + body
    p = plenum.run("relink", "plenum-0123456789abcdef", input=ask)
    size, kind, tag, _, n = struct.unpack("<IBHIH", p.stdout[:13])
    assert (size, kind, tag) == (len(p.stdout), 101, 0xffff)
    assert p.stdout[13:13 + n] == b"plenum.link gone"
