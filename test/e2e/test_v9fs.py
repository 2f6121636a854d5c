# SPDX-License-Identifier: MIT
"""The Linux kernel's 9P client (v9fs) on our servers: a user-mode Linux guest, in a network namespace
of the test's own, mounts them over TCP and works on them (test/guest/v9fs.py says what).

NFS, virtiofs and others can be tested in the same guest: see the class Guest, and test/guest/run.
"""
import faulthandler
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest
from conftest import PLENUM, TOP, mounted, root, wait_for

BUILD = os.path.abspath(os.environ.get("PLENUM_BUILD", TOP / "build"))
NEEDED = ["linux.uml", "busybox", "ip", "cc", "setfacl", "git"]
missing_mounters = [x for x in ("9mount", "mount.diod") if not shutil.which(x)]
missing = [x for x in NEEDED if not shutil.which(x)]

pytestmark = [
    root,
    pytest.mark.skipif(missing, reason=f"not installed: {', '.join(missing)} "
                       "(apt-get install user-mode-linux busybox iproute2 gcc acl git)"),
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]


class Guest:
    """A network namespace with servers in it, and guests that use them."""

    def __init__(self, plenum):
        self.plenum = plenum
        self.net = plenum.start(argv=["unshare", "-n", "sleep", "3600"])
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{self.net.pid}/ns/net") != own)
        self.inside("ip", "link", "set", "lo", "up")
        self.ports = 5000
        self.share = plenum.dir("share")
        self.memory = tempfile.mkdtemp(prefix="plenum-e2e.", dir="/dev/shm")

    def argv(self, *argv):
        return ["nsenter", f"--net=/proc/{self.net.pid}/ns/net", *map(str, argv)]

    def inside(self, *argv, **kw):
        return subprocess.run(self.argv(*argv), check=True, timeout=30, capture_output=True, text=True, **kw)

    def start(self, *argv, says, **kw):
        """A process in the namespace that has said that it is up."""
        p = self.plenum.start(argv=self.argv(*argv), **kw)
        wait_for(lambda: says in self.plenum.err(p) or p.poll() is not None, "the server does not come up")
        assert p.poll() is None, self.plenum.err(p)
        return p

    def serve(self, *spec, program=(PLENUM, "serve"), **kw):
        self.ports += 1
        p = self.start(*program, *spec, f"tcp!0.0.0.0!{self.ports}", says=" on tcp!", **kw)
        p.port = self.ports
        p.had = self.fds(p)
        return p

    @staticmethod
    def fds(p):
        """How many descriptors it has, but for those of /proc, which it keeps once it has them."""
        found = 0
        for x in os.scandir(f"/proc/{p.pid}/fd"):
            try:
                found += not os.readlink(x).startswith("/proc/")
            except FileNotFoundError:
                pass
        return found

    def boot(self, *argv, limit=50):
        """A guest that runs a program, in the background; .log has its output."""
        log = self.plenum.tmp / "guest"
        with open(log, "wb") as f:
            p = self.plenum.start(argv=[TOP / "test/guest/run", "-n", str(self.net.pid), "-s",
                                        str(self.share), "-t", str(limit), *map(str, argv)], stdout=f,
                                  env=dict(os.environ, GUEST_MEMORY=self.memory))
        p.guest_log = log
        return p

    def work(self, *jobs, limit=50):
        """A guest that does jobs: each (server, options, cases)."""
        p = self.boot(TOP / "test/guest/v9fs.py", TOP, BUILD,
                      *(f"{name}:{server.port}:{options}:{cases}" for name, server, options, cases in jobs),
                      limit=limit)
        status = p.wait(limit + 10)
        out = p.guest_log.read_text(errors="replace")
        if status == 126:
            pytest.skip(f"linux.uml does not boot here: {out[-300:]}")
        assert status == 0 and "FAIL" not in out, f"status {status}\n{out}\n{self.plenum.err(p)}"
        assert out.count("ok   ") == sum(cases.count("+") + 1 for *_, cases in jobs), out

    def nothing_left(self, *servers):
        """A server has what it had before anybody came (and a program of made files the file system
        for what is open, which it makes when it first needs it)."""
        for p in servers:
            wait_for(lambda p=p: self.fds(p) <= p.had + 1, f"{p.args}: {self.fds(p)} descriptors, had {p.had}")
            assert p.poll() is None
            assert [e["waiting"] for e in self.plenum.status() if e["server"] == p.pid] == [0]

    def down(self, p):
        """The power goes: nothing in the guest ends in order, no connection is closed."""
        pid, = pathlib.Path(self.memory).glob("guest.*/guest/pid")
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        assert p.wait(10) == 125


@pytest.fixture
def guest(plenum):
    g = Guest(plenum)
    yield g
    shutil.rmtree(g.memory, ignore_errors=True)


@pytest.mark.parametrize("work", [
    "copy+tar+compile+names+unlinked+attrs+xattrs+acls+inherited_acls",
    "locks+some+sparse+truncates+statfs+private_maps+append+shared_append+fsx+processes+users+mounts",
], ids=["tools", "calls"])
def test_host(guest, plenum, work):
    """All that the client can do, every operation at the server."""
    d = plenum.dir("d")
    s = guest.serve(d)
    guest.work(("host", s, "access=client,cache=none,posixacl,msize=1048576", work))
    guest.nothing_left(s)
    assert os.listdir(d) == []


@pytest.mark.parametrize("options, work", [
    ("access=user,cache=mmap,msize=8192",
     "git+names+unlinked+attrs+xattrs+sparse+truncates+maps+append+fsx+big+users"),
    ("access=client,cache=loose,posixacl,msize=131096",
     "tar+names+unlinked+attrs+acls+truncates+maps+append+fsx+processes"),
    ("access=any,uname=root,cache=fscache", "names+maps+one_user"),
], ids=["mmap", "loose", "fscache"])
def test_caches(guest, plenum, options, work):
    """With the client's caches, and with small and large messages."""
    d = plenum.dir("d")
    s = guest.serve(d)
    guest.work(("host", s, options, work))
    guest.nothing_left(s)
    assert os.listdir(d) == []


U = "version=9p2000.u"


@pytest.mark.parametrize("options, work", [
    ("access=client,cache=none", "copy+git+unlinked+attrs+some+truncates+private_maps+append+fsx+fio"),
    ("access=user,cache=mmap,msize=8192", "compile+maps+fsx+append+big"),
    ("access=client,cache=loose", "tar+maps+processes"),
], ids=["none", "mmap", "loose"])
def test_u(guest, plenum, options, work):
    """9P2000.u: all but locks, extended attributes and renames from one directory to another."""
    d = plenum.dir("d")
    s = guest.serve(d)
    guest.work(("u", s, f"{options},{U}", work))
    guest.nothing_left(s)
    assert os.listdir(d) == []


def test_base(guest, plenum):
    """9P2000 itself."""
    d = plenum.dir("d")
    (d / "file").write_text("text")
    (d / "link").symlink_to("file")
    (d / "out").symlink_to("/etc")
    (d / "dir").mkdir()
    s = guest.serve(d)
    options = "access=any,uname=root,version=9p2000"
    guest.work(("base", s, f"{options},cache=none", "/plain+compile+some+truncates+private_maps+append+big+fio"),
               ("base", s, f"{options},cache=mmap,msize=8192", "compile+maps"))
    guest.nothing_left(s)


@pytest.mark.skipif(missing_mounters, reason=f"not installed: {', '.join(missing_mounters)}")
def test_mounters(guest, plenum):
    d = plenum.dir("d")
    (d / "a").write_text("a")
    (d / "sub").mkdir()
    s = guest.serve(d)
    guest.work(("mounters", s, "access=client", "/mounters"))
    guest.nothing_left(s)


@pytest.mark.skipif(not os.environ.get("PLENUM_V9FS"), reason="PLENUM_V9FS=all: several minutes")
@pytest.mark.parametrize("cache", ["none", "mmap", "loose", "fscache"])
@pytest.mark.parametrize("version", ["9p2000.L", "9p2000.u", "9p2000"])
def test_matrix(guest, plenum, version, cache):
    """The conformance suite by this client, in every cache= mode that its kernel knows; 9P2000, which
    has neither links nor owners by number, does without the suite."""
    signal.alarm(2000) # not the minute that others have
    faulthandler.dump_traceback_later(2030, exit=True, file=sys.__stderr__)
    d = plenum.dir("d")
    s = guest.serve(d)
    work = "some+truncates+append+big+fio+compile" if version == "9p2000" else "conform+fio+compile"
    access = "any,uname=root" if version == "9p2000" else "client"
    guest.work(("matrix", s, f"access={access},cache={cache},version={version}", work), limit=1900)
    guest.nothing_left(s)


def test_mem(guest):
    s = guest.serve("mem:")
    guest.work(("mem", s, "access=client,cache=none", "names+unlinked+attrs+xattrs+locks+users"),
               ("mem", s, "access=client,cache=mmap", "some+sparse+truncates+statfs+maps+append+fsx"))
    guest.nothing_left(s)


def test_other_trees(guest, plenum):
    """A read-only tree, a directory of 10,000 files, generated files, and programs of the guest's own."""
    ro, many, kv = plenum.dir("ro"), plenum.dir("many"), plenum.tmp / "kv"
    (ro / "a").write_text("a")
    (ro / "sub").mkdir()
    for i in range(10000):
        (many / f"file number {i}").touch()
    a = guest.serve(f"ro({ro})")
    b = guest.serve(f"null({many})")
    c = guest.serve(program=(f"{BUILD}/examples/kv", "--serve"), env=dict(os.environ, KV_DIR=str(kv)))
    guest.work(("ro", a, "access=client", "/read_only"),
               ("many", b, "access=client,cache=none", "/listing"),
               ("kv", c, "access=any,uname=root,cache=none", "/documents"),
               ("kv", c, "access=any,uname=root,cache=mmap", "/documents"),
               ("unix", a, "access=client", "/local"))
    guest.nothing_left(a, b, c)


def test_power_lost(guest, plenum):
    """A guest that is gone all at once: its files and locks go when its connection is given up."""
    d = plenum.dir("d")
    s = guest.serve(d)
    p = guest.boot(TOP / "test/guest/v9fs.py", TOP, BUILD, f"host:{s.port}:access=client,cache=none:holds")
    wait_for(lambda: (guest.share / "ready").exists() or p.poll() is not None, "the guest does not come up", 40)
    assert p.poll() is None, p.guest_log.read_text()
    assert guest.fds(s) >= s.had + 20
    left = d / "0-holds"

    def lock(name):
        with open(left / name, "r+") as f:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for name in "open0", "open1":
        with pytest.raises(BlockingIOError):
            lock(name)
    guest.down(p)
    # What the server's kernel would find out in two minutes:
    killed = guest.inside("ss", "-K", "dst", "192.168.99.2")
    if "192.168.99.2" not in killed.stdout:
        pytest.skip("this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY)")
    guest.nothing_left(s)
    # Nothing is locked any more; what was written is there.
    assert sorted(os.listdir(left)) == sorted(f"open{i}" for i in range(20) if i != 3)
    lock("open0")
    lock("open1")


def test_duct(guest, plenum):
    """The exporting half of a duct, used by a client that knows nothing of the other half."""
    d, at = plenum.dir("d"), plenum.dir("at")
    ducts = []
    for mount in "-", at:
        guest.ports += 1
        p = guest.start(PLENUM, "duct", "-l", f"tcp!0.0.0.0!{guest.ports}", d, mount, says="listening")
        p.port = guest.ports
        ducts.append(p)
    one, both = ducts
    guest.work(("one half", one, "access=client,cache=none", "names+locks+xattrs"),
               ("both", both, "access=client,cache=none", "names"))
    plenum.ended(one, 0)
    says = plenum.ended(both, None)
    assert str(at) in says and not mounted(at), says
