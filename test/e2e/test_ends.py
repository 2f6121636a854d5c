# SPDX-License-Identifier: MIT
"""Every end: who unmounts when, who is killed at which stage of a conversation, links that are cut.

Always: both mounts gone, every program ended with its status and its sentence, no process left, no
caller left waiting, nothing in the registry.
"""
import errno
import fcntl
import os
import pathlib
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import PATIENCE, PLENUM, alive, fuse, mounted, mounts_under, root, wait_for
from test_duct import Pair
from test_linux import in_child

pytestmark = [fuse, root]


# ---- who is who


def children(pid):
    try:
        return [int(x) for x in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def child(pid, name):
    """The keeper's child of that name: plenum-server, plenum-nursery."""
    def look():
        found = [p for p in children(pid) if pathlib.Path(f"/proc/{p}/comm").read_text() == f"{name}\n"]
        return found[0] if found else None
    return wait_for(look, f"no {name}")


def processes_of(plenum):
    """The plenum processes that were started for this test: its directory is on their command line."""
    found = []
    for d in pathlib.Path("/proc").iterdir():
        try:
            if d.name.isdigit() and os.fsencode(plenum.tmp) in (d / "cmdline").read_bytes() and \
                    os.readlink(d / "exe").startswith(PLENUM) and alive(d.name):
                found.append(int(d.name))
        except OSError:
            pass
    return found


def all_gone(plenum, but_mounts=False):
    wait_for(lambda: not processes_of(plenum), f"processes are left: {processes_of(plenum)}")
    wait_for(lambda: but_mounts or not mounts_under(plenum.tmp), "a mount is left")
    left = [e for e in plenum.status() if e["dir"].startswith(str(plenum.tmp))]
    assert not left, f"left in the registry: {left}"


def reaped(*pids):
    """What worked on the mounts ends, whatever it was told."""
    left = set(pids)

    def done():
        for p in list(left):
            if os.waitpid(p, os.WNOHANG)[0]:
                left.discard(p)
        return not left

    try:
        wait_for(done, "a caller hangs")
    finally:
        for p in left:
            os.kill(p, signal.SIGKILL)


# ---- a wire that stops where it is told to

TVERSION, RVERSION, RATTACH, RREAD, TWRITE, RWRITE, RREADDIR, TLOCK = 100, 101, 105, 117, 118, 119, 41, 52
RLIST = 189  # instead of Rreaddir where both ends know it

# stage: (type of the message, or types, at which the wire stops, its least size, how much of it still passes)
STOPS = {
    "nothing was said": (None, 0, 0),
    "Tversion": (RVERSION, 0, 0),
    "attaching": (RATTACH, 0, 0.5),
    "idle": None,
    "reading": (RREAD, 5000, 0.5),
    "writing": (TWRITE, 5000, 0.5),
    "written": (RWRITE, 0, 0),
    "locking": None,
    "listing": ((RREADDIR, RLIST), 1000, 0.5),
}


class Wire:
    """Passes 9P messages between two ends, each (what to read from, what to write to)."""

    def __init__(self, one, other, stop):
        self.ends, self.stop = [one, other], stop
        self.stopped = threading.Event()
        self.held = threading.Event()  # nothing passes any more, in either direction
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.copy, args=pair, daemon=True)
                        for pair in ((one[0], other[1]), (other[0], one[1]))]
        for t in self.threads:
            t.start()

    def hits(self, kind, size):
        if not self.stop:
            return False
        kinds, least, _ = self.stop
        return size >= least and (kinds is None or kind in (kinds if type(kinds) is tuple else (kinds,)))

    def copy(self, source, sink):
        try:
            buf = b""
            while data := os.read(source, 1 << 16):
                if self.held.is_set():
                    continue
                buf += data
                while len(buf) >= 7:
                    size = int.from_bytes(buf[:4], "little")
                    if len(buf) < size:
                        break
                    frame, buf = buf[:size], buf[size:]
                    if self.hits(frame[4], size):
                        self.held.set()
                        self.put(sink, frame[:int(size * self.stop[2])])
                        self.stopped.set()
                        break
                    self.put(sink, frame)
        except OSError:
            pass
        self.close(sink)

    @staticmethod
    def put(sink, data):
        while data:
            data = data[os.write(sink, data):]

    def close(self, *fds):
        """An end for who reads what was written to them, and a broken pipe for who still writes."""
        with self.lock:
            for fd in fds:
                try:
                    if os.path.realpath(f"/proc/self/fd/{fd}").find("socket:") >= 0:
                        s = socket.socket(fileno=os.dup(fd))
                        s.shutdown(socket.SHUT_WR)
                        s.close()
                    else:
                        null = os.open("/dev/null", os.O_RDWR)
                        os.dup2(null, fd)
                        os.close(null)
                except OSError:
                    pass

    def cut(self):
        with self.lock:
            for pair in self.ends:
                for fd in set(pair):
                    if "socket:" in os.path.realpath(f"/proc/self/fd/{fd}"):
                        s = socket.socket(fileno=os.dup(fd))
                        try:
                            s.shutdown(socket.SHUT_RDWR)
                        except OSError:
                            pass
                        s.close()
        self.close(*[p[1] for p in self.ends])
        # A reader of ours that sleeps in a pipe keeps it; its writer hears of it at its next word.

    def done(self):
        for t in self.threads:
            t.join(PATIENCE)
        for fd in {fd for pair in self.ends for fd in pair}:
            os.close(fd)


class Joined:
    """Two ducts with a Wire between them. Neither is waited for."""

    def __init__(self, plenum, how, stop):
        self.plenum = plenum
        self.dirs = [plenum.dir(x) for x in "AB"]
        self.at = [plenum.dir(x) for x in ("at_a", "at_b")]
        ends = getattr(self, how)()
        self.wire = Wire(*ends, stop)

    def start(self, i, stdin, stdout):
        return self.plenum.start("duct", self.dirs[i], self.at[i], stdin=stdin, stdout=stdout)

    def sockets(self):
        self.p, ends = [], []
        for i in 0, 1:
            s, t = socket.socketpair()
            self.p.append(self.start(i, s, s))
            s.close()
            fd = t.detach()
            ends.append((fd, fd))
        return ends

    def pipes(self):
        self.p, ends = [], []
        for i in 0, 1:
            (r1, w1), (r2, w2) = os.pipe(), os.pipe()
            for w in w1, w2:
                fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
            self.p.append(self.start(i, r1, w2))
            os.close(r1)
            os.close(w2)
            ends.append((r2, w1))
        return ends

    def tcp(self):
        """One listens, the other dials; we are in between, and understand 9P alone."""
        a = self.plenum.start("duct", "-o", "linger=0", "-l", "tcp!127.0.0.1!0", self.dirs[0], self.at[0])
        line = wait_for(lambda: [x for x in self.plenum.err(a).splitlines() if "listening on" in x])[0]
        server = socket.create_server(("127.0.0.1", 0))
        b = self.plenum.start("duct", "-o", "linger=0", "-d",
                              f"tcp!127.0.0.1!{server.getsockname()[1]}", self.dirs[1], self.at[1])
        near = server.accept()[0].detach()
        server.close()
        far = socket.create_connection(("127.0.0.1", int(line.rsplit("!", 1)[1]))).detach()
        self.p = [a, b]
        return [(far, far), (near, near)]

    def up(self):
        for p, at in zip(self.p, self.at):
            wait_for(lambda: mounted(at) and "mounted" in self.plenum.err(p) or p.poll() is not None)
            assert mounted(at), self.plenum.err(p)


def worker(f, keep=-1):
    """A caller that goes on until the mount fails it."""
    def work():
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != keep:  # the ends of a Wire are ours alone
                try:
                    os.close(fd)
                except OSError:
                    pass
        try:
            while True:
                f()
        except OSError:
            pass
    return in_child(work)


def read_uncached(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    while os.read(fd, 1 << 20):
        pass
    os.close(fd)


def rewrite(path):
    with open(path, "r+b") as f:  # not made anew where the mount was
        f.write(bytes(4 << 20))


def hold_and_wait(path):
    """Two processes: one has the lock, the other waits for it."""
    r, w = os.pipe()

    def holds():
        f = open(path, "r+")
        fcntl.lockf(f, fcntl.LOCK_EX)
        os.write(w, b"x")
        while True:
            os.stat(path)  # until the mount is gone
            select.select([], [], [], 0.01)

    def waits():
        with open(path, "r+") as f:
            fcntl.lockf(f, fcntl.LOCK_EX)

    pids = [worker(holds, keep=w)]
    os.read(r, 1)
    pids.append(worker(waits))
    os.close(r)
    os.close(w)
    return pids


def busy(plenum, stage, at, below):
    """Something of that stage goes on at a mount: who does it."""
    if stage == "reading":
        (below / "big").write_bytes(bytes(4 << 20))
        return [worker(lambda: read_uncached(at / "big"))]
    if stage in ("writing", "written"):
        (below / "new").touch()
        return [worker(lambda: rewrite(at / "new"))]
    if stage == "listing":
        (below / "list").mkdir()
        for i in range(500):
            (below / f"list/file {i}").touch()
        return [worker(lambda: os.listdir(at / "list"))]
    if stage == "locking":
        (below / "l").touch()
        pids = hold_and_wait(at / "l")
        wait_for(lambda: plenum.entry(at)["waiting"] > 0, "nobody waits for the lock")
        return pids
    return []


EARLY = ("nothing was said", "Tversion", "attaching")


def check_end(plenum, p, killed):
    """How a duct ends whose link is lost. `killed`: of its own processes."""
    if killed == "keeper":
        plenum.ended(p, -signal.SIGKILL)
        return
    says = plenum.ended(p, 1)
    lines = [x for x in says.splitlines() if x.startswith("plenum: duct: ") and "exporting" not in x
             and "mounted" not in x and "listening" not in x]
    assert len(lines) == 1, says


def run_stage(plenum, how, stage, what):
    j = Joined(plenum, how, STOPS[stage])
    workers = []
    if stage not in EARLY:
        j.up()
        # The first asks, the second answers.
        workers = busy(plenum, stage, j.at[0], j.dirs[1])
    if STOPS[stage]:
        assert j.wire.stopped.wait(PATIENCE), "it does not come to that"
    killed = [None, None]
    if what == "cut":
        j.wire.cut()
    else:
        side, who = what
        i = "ab".index(side)
        killed[i] = who
        pid = j.p[i].pid
        if who == "server":
            (pid,) = wait_for(lambda: children(pid))
        os.kill(pid, signal.SIGKILL)
    for p, k in zip(j.p, killed):
        check_end(plenum, p, k)
    reaped(*workers)
    for k, at in zip(killed, j.at):
        if k == "keeper" and mounted(at):
            plenum.dead(at)
    all_gone(plenum)
    j.wire.done()


WHAT = ["cut", ("a", "server"), ("a", "keeper"), ("b", "server"), ("b", "keeper")]


# A server without its keeper gives a silent peer some seconds, so not at every stage.
STAGES = [(stage, what) for stage in STOPS for what in WHAT
          if what[1] != "keeper" or stage not in ("written", "listing")]


@pytest.mark.parametrize("stage, what", STAGES, ids=lambda w: "-".join(w) if type(w) is tuple else w)
def test_killed_at_every_stage(plenum, stage, what):
    run_stage(plenum, "tcp", stage, what)


OTHERS = [(how, stage, WHAT[(i + j) % len(WHAT)]) for j, how in enumerate(("sockets", "pipes"))
          for i, stage in enumerate(STOPS)]


@pytest.mark.parametrize("how, stage, what", OTHERS, ids=lambda w: "-".join(w) if type(w) is tuple else w)
def test_killed_over_another_channel(plenum, how, stage, what):
    run_stage(plenum, how, stage, what)


@pytest.mark.parametrize("stage", ["idle", "reading", "writing", "locking"])
@pytest.mark.parametrize("what", ["near server", "near keeper", "far server", "far keeper", "shell"])
def test_killed_over_a_command(plenum, stage, what):
    a, b, at_a, at_b = (plenum.dir(x) for x in ("A", "B", "at_a", "at_b"))
    # The shell stays in between, as it would for a command that is more than one word.
    p = plenum.start("duct", "-e", f"'{PLENUM}' duct '{b}' '{at_b}'; exit $?", a, at_a)
    wait_for(lambda: plenum.err(p).count("mounted") == 2 or p.poll() is not None)
    near, far = plenum.entry(at_a), plenum.entry(at_b)
    workers = busy(plenum, stage, at_a, b)
    who = what.split()[-1]
    if who == "shell":
        with open(f"/proc/{far['keeper']}/stat") as f:
            shell = int(f.read().rsplit(")", 1)[1].split()[1])
        assert shell not in (p.pid, os.getpid())
        os.kill(shell, signal.SIGKILL)
        for d in at_b, at_a:  # the duct that it ran lives on, and the link with it
            plenum.run("umount", "-f", d)
    else:
        os.kill((near if "near" in what else far)[who], signal.SIGKILL)
    plenum.ended(p, {"near keeper": -9, "shell": None}.get(what, 1))
    reaped(*workers)
    if who == "keeper":
        plenum.dead(at_a if "near" in what else at_b)
    all_gone(plenum)


def stop(pid):
    """Stops a process, and returns when all of its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = f"/proc/{pid}/task"
    while not all(open(f"{tasks}/{t}/stat").read().rsplit(")", 1)[1].split()[0] == "T"
                  for t in os.listdir(tasks)):
        time.sleep(0.001)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("stage", ["idle", "reading"])
def test_both_processes_of_a_side_killed(plenum, side, stage):
    """Nobody is left to take that side's mount away: umount does it. The other side is clean."""
    j = Joined(plenum, "sockets", None)
    j.up()
    workers = busy(plenum, stage, j.at[0], j.dirs[1])
    pids = [j.p[side].pid, *children(j.p[side].pid)]
    for pid in pids:
        stop(pid)  # so that none sees the other's end
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    plenum.ended(j.p[side], -9)
    check_end(plenum, j.p[1 - side], None)
    reaped(*workers)
    wait_for(lambda: not mounted(j.at[1 - side]))
    if mounted(j.at[side]):
        with pytest.raises(OSError) as e:
            os.statvfs(j.at[side])  # asked, whatever is known
        assert e.value.errno == errno.ENOTCONN
        plenum.run("umount", j.at[side])
    all_gone(plenum)
    j.wire.done()


# ---- ends in good order


def channels(plenum, how):
    if how != "exec":
        pair = Pair(plenum, how)
        return pair.at, [pair.a, pair.b]
    a, b, at_a, at_b = (plenum.dir(x) for x in ("A", "B", "at_a", "at_b"))
    p = plenum.start("duct", "-e", f"'{PLENUM}' duct '{b}' '{at_b}'", a, at_a)
    wait_for(lambda: plenum.err(p).count("mounted") == 2 or p.poll() is not None)
    assert p.poll() is None, plenum.err(p)
    return [at_a, at_b], [p]


@pytest.mark.parametrize("how", ["socketpair", "pipes", "tcp", "old_form", "exec"])
@pytest.mark.parametrize("order", ["first", "second", "both"])
def test_unmounted(plenum, how, order):
    at, programs = channels(plenum, how)
    for d in at:
        (d / "x").write_text("used")
    if order == "both":
        jobs = [subprocess.Popen([PLENUM, "umount", d], stderr=subprocess.PIPE) for d in at]
        for j in jobs:
            assert j.communicate(timeout=PATIENCE)[1] == b"" and j.returncode == 0
    else:
        for d in at if order == "first" else at[::-1]:
            plenum.run("umount", d)
    for p in programs:
        assert "lost" not in plenum.ended(p, 0)
    all_gone(plenum)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_ended_by_umount_8(plenum, order):
    """The system's own umount, which knows nothing of us."""
    pair = Pair(plenum, "tcp")
    jobs = [subprocess.Popen(["umount", pair.at[i]]) for i in ((0,), (1,), (0, 1))[order]]
    assert [j.wait(PATIENCE) for j in jobs] == [0] * len(jobs)
    for d in pair.at:
        if mounted(d):
            assert (d / "who").exists()
            subprocess.run(["umount", d], check=True)
    plenum.ended(pair.a, 0)
    plenum.ended(pair.b, 0)
    all_gone(plenum)


@pytest.mark.parametrize("how", ["tcp", "pipes", "exec"])
def test_both_told_to_end(plenum, how):
    at, programs = channels(plenum, how)
    for p in programs:
        p.send_signal(signal.SIGTERM)
    for p in programs:
        plenum.ended(p, None)
    assert programs[0].returncode == 0 or "lost" in plenum.err(programs[0])
    all_gone(plenum)


@pytest.mark.parametrize("stage", ["reading", "writing", "locking", "listing"])
def test_forced_while_busy(plenum, stage):
    j = Joined(plenum, "tcp", None)
    j.up()
    workers = busy(plenum, stage, j.at[0], j.dirs[1])
    p = plenum.run("umount", j.at[0], rc=None)
    assert p.returncode in (0, 1) and p.err.count("\n") == p.returncode  # busy, or just then not
    if p.returncode:
        assert "busy" in p.err and mounted(j.at[0])
        plenum.run("umount", "-f", j.at[0])
    reaped(*workers)
    assert not mounted(j.at[0])
    (j.at[1] / "still").write_text("here")  # the other direction goes on
    assert (j.dirs[0] / "still").read_text() == "here"
    plenum.run("umount", j.at[1])
    for p in j.p:
        plenum.ended(p, 0)
    all_gone(plenum)
    j.wire.done()


def test_forced_by_a_user(plenum, nobody):
    """Whose force is an unmount, then an abort: of the other direction's, nothing."""
    A, B, at_a, at_b = (plenum.dir(x) for x in ("A", "B", "at_a", "at_b"))
    for d in plenum.tmp, A, B, at_a, at_b:
        os.chown(d, 65534, 65534)
    (B / "f").write_text("")
    ends = socket.socketpair()

    def run(script, rc=0):
        p = subprocess.run(nobody("sh", "-c", script, PLENUM), cwd="/", capture_output=True, text=True, timeout=50)
        assert p.returncode == rc, p.stderr
        return p
    ducts = [plenum.start(argv=nobody(PLENUM, "duct", d, at), stdin=s, stdout=s)
             for s, d, at in zip(ends, (A, B), (at_a, at_b))]
    for s in ends:
        s.close()
    wait_for(lambda: all("mounted" in plenum.err(p) or p.poll() is not None for p in ducts))
    holder = plenum.start(argv=nobody("tail", "-f", at_a / "f"))
    wait_for(lambda: holder.poll() is not None or str(at_a / "f") in map(os.readlink, pathlib.Path(f"/proc/{holder.pid}/fd").glob("*")))
    run(f"$0 umount {at_a} 2>/dev/null", rc=1)
    run(f"$0 umount -f {at_a}")
    assert run(f"! mountpoint -q {at_a} && echo here >{at_b}/still && cat {A}/still").stdout == "here\n"
    holder.terminate()
    run(f"$0 umount {at_b}")
    for p in ducts:
        assert "lost" not in plenum.ended(p, 0)


@pytest.mark.parametrize("stage", ["nothing was said", "Tversion", "attaching", "reading"])
def test_told_to_end_while_the_peer_is_silent(plenum, stage):
    """Neither signals nor umount wait for somebody who says nothing any more."""
    j = Joined(plenum, "tcp", STOPS[stage])
    workers = []
    if stage not in EARLY:
        j.up()
        workers = busy(plenum, stage, j.at[0], j.dirs[1])
    if STOPS[stage]:
        assert j.wire.stopped.wait(PATIENCE)
    else:
        j.wire.held.set()
    if stage in EARLY:
        for p in j.p:
            p.send_signal(signal.SIGTERM)
    else:
        for d in j.at:
            if mounted(d):  # taking one away may end the other
                plenum.run("umount", "-f", d, timeout=40, rc=None)
    reaped(*workers)
    for p in j.p:
        plenum.ended(p, None, timeout=40)
    all_gone(plenum)
    j.wire.done()


def test_peer_that_stops_while_ending(plenum):
    """A stopped peer does not hold us: a second signal ends the wait for its goodbye."""
    pair = Pair(plenum, "socketpair")
    far = plenum.entry(pair.at[1])
    for pid in far["keeper"], far["server"]:
        stop(pid)
    try:
        plenum.run("umount", "-f", pair.at[0], timeout=40)
        assert not mounted(pair.at[0])
        pair.a.send_signal(signal.SIGTERM)
        pair.a.send_signal(signal.SIGINT)
        plenum.ended(pair.a, None)
    finally:
        for pid in far["keeper"], far["server"]:
            os.kill(pid, signal.SIGCONT)
    plenum.ended(pair.b, None)
    all_gone(plenum)


# ---- a server and its clients


class Client:
    """A mount of a served tree, through a Wire."""

    def __init__(self, plenum, stop):
        self.plenum = plenum
        self.below, self.at = plenum.dir("below"), plenum.dir("at")
        self.server = plenum.serve(self.below, "unix!s.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(plenum.tmp / "w.sock"))
        listener.listen()
        self.p = plenum.start("mount", "-f", f"9p:unix!{plenum.tmp}/w.sock", self.at)
        near = listener.accept()[0].detach()
        listener.close()
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(plenum.tmp / "s.sock"))
        far = far.detach()
        self.wire = Wire((near, near), (far, far), stop)


@pytest.mark.parametrize("stage", STOPS)
@pytest.mark.parametrize("what", ["cut", "serve", "server", "keeper"])
def test_client_and_server_at_every_stage(plenum, stage, what):
    c = Client(plenum, STOPS[stage])
    workers = []
    if stage not in EARLY:
        wait_for(lambda: plenum.entry(c.at) and plenum.entry(c.at)["state"] == "up", plenum.err(c.p))
        workers = busy(plenum, stage, c.at, c.below)
    if STOPS[stage]:
        assert c.wire.stopped.wait(PATIENCE)
    if what == "cut":
        c.wire.cut()
    else:
        pid = c.server.pid if what == "serve" else c.p.pid
        if what == "server":
            pid = child(pid, "plenum-server")
            if stage not in EARLY:  # else the mount would outlive it
                os.kill(child(c.p.pid, "plenum-nursery"), signal.SIGKILL)
                wait_for(lambda: "nursery was killed" in plenum.err(c.p))
        os.kill(pid, signal.SIGKILL)
    if what == "keeper":
        plenum.ended(c.p, -9)
    else:
        says = plenum.ended(c.p, 1)
        assert says.count("\n") == 1 + says.count("nursery") and says.startswith("plenum: mount: "), says
    reaped(*workers)
    if what == "keeper" and mounted(c.at):
        plenum.dead(c.at)
    wait_for(lambda: not mounted(c.at), "the mount stays")
    if what == "serve":
        plenum.ended(c.server, -9)
    else:  # it goes on, for others, and has forgotten the client
        (c.below / "l").touch()
        with open(c.below / "l", "r+") as f:
            fcntl.lockf(f, fcntl.LOCK_EX)
        plenum.run("ls", "9p:unix!s.sock")
        wait_for(lambda: len([x for x in os.listdir(f"/proc/{c.server.pid}/fd")]) < 30)
        c.server.terminate()
        plenum.ended(c.server, 0)
    all_gone(plenum)
    c.wire.done()


def test_clients_that_come_and_go(plenum):
    """Mounts of one server, killed in the middle of work, again and again: nothing gathers there."""
    below, at = plenum.dir("below"), plenum.dir("at")
    (below / "big").write_bytes(bytes(8 << 20))
    (below / "x").touch()
    server = plenum.serve(below, "unix!s.sock")

    def held():
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    for _ in range(3):
        plenum.run("ls", "9p:unix!s.sock")
    before = held()
    for _ in range(6):
        plenum.run("mount", "9p:unix!s.sock", at)
        e = plenum.entry(at)
        workers = [worker(lambda: read_uncached(at / "big")), worker(lambda: rewrite(at / "x"))]
        wait_for(lambda: plenum.entry(at)["bytes_read"] > 0)
        os.kill(e["server"], signal.SIGKILL)
        reaped(*workers)
        wait_for(lambda: not mounted(at) and not alive(e["keeper"]))
    wait_for(lambda: held() <= before, f"{held()} are held, {before} were before")
    server.terminate()
    plenum.ended(server, 0)
    all_gone(plenum)
