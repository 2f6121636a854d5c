# SPDX-License-Identifier: MIT
"""Bad input: one sentence each and the right status, nothing left mounted, nothing lost."""
import errno
import os
import pathlib
import random
import re
import resource
import select
import shutil
import socket
import struct
import subprocess
import threading

import pytest
from conftest import PLENUM, TOP, as_nobody, fuse, mounted, mounts_under, root, wait_for
from places import Place
from test_ends import Wire, all_gone

pytestmark = root


def one_line(text, subcommand, says=""):
    """plenum: SUBCOMMAND: OBJECT: what is wrong"""
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert re.match(rf"plenum: {subcommand}: .+", text), text
    assert says in text, text


def check(plenum, args, rc, says, **kw):
    p = plenum.run(*args, rc=rc, **kw)
    one_line(p.err, args[0], says)
    assert p.out == ""
    assert not mounts_under(plenum.tmp)
    return p.err


# ---- SPEC, ADDR, mount points


WRONG_SPECS = ["nonsense:x", "hst:/", "ro(/usr", "ro()", "rx(/)", "9p:", "9p:bogus!x", "9p:tcp!", "9p:unix!",
               "ssh:", "ssh:host", "exec:", "mem:many", "delay(x,/)", "fault(open,E,/)", "union("]


@pytest.mark.parametrize("spec", WRONG_SPECS)
def test_unknown_specs(plenum, spec):
    plenum.dir("here")
    for args in (["mount", spec, "here"], ["serve", spec, "unix!s.sock"], ["ls", spec],
                 ["duct", "-l", "unix!s.sock", spec, "here"]):
        check(plenum, args, 2, "")
    assert not (plenum.tmp / "s.sock").exists()


WRONG_ADDRS = ["", "tcp", "tcp!", "tcp!h!p!q", "tcp!127.0.0.1!99999", "tcp!127.0.0.1!-1", "unix!", "vsock!x!y",
               "udp!h!1", "exec!", "fd!", "fd!x,y", "http://h/", "tcp://[::1", "tcp://::1:5", "stdio!x"]


@pytest.mark.parametrize("addr", WRONG_ADDRS)
def test_unknown_addresses(plenum, addr):
    plenum.dir("here")
    for args in (["serve", "mem:", addr], ["dial", addr, "true"], ["duct", "-d", addr, ".", "here"],
                 ["duct", "-l", addr, ".", "here"], ["listen", addr, "true"], ["ls", f"9p:{addr}"]):
        check(plenum, args, 2, "")


def test_descriptors_that_are_not_open(plenum):
    plenum.dir("here")
    for args in (["duct", "-d", "fd!77,78", ".", "here"], ["ls", "9p:fd!77,78"], ["dial", "fd!77,78", "true"]):
        check(plenum, args, 1, "77")


@fuse
@pytest.mark.parametrize("how", ["mount", "duct"])
def test_mount_points(plenum, how):
    (plenum.tmp / "file").write_text("kept")
    plenum.dir("full/of")
    plenum.dir("ours")
    plenum.dir("good")
    os.symlink("missing", plenum.tmp / "dangling")
    os.symlink("ours", plenum.tmp / "link")
    server = plenum.serve("mem:", "unix!s.sock")
    plenum.run("mount", "mem:", "ours")
    try:
        def attempt(d):
            if how == "mount":
                return plenum.run("mount", "mem:", d, rc=1).err
            return plenum.run("duct", "-d", "unix!s.sock", ".", d, rc=1).err

        for d, says in (("missing", "no such directory"), ("file", "not a directory"), ("full", "not empty"),
                        ("dangling", "no such directory"), ("ours", "already"), ("ours/", "already"),
                        ("link", "already"), ("file/x", "ot a directory"), ("x" * 300, "too long")):
            one_line(attempt(d), how, says)
        assert mounts_under(plenum.tmp) == [str(plenum.tmp / "ours")]
        (plenum.tmp / "ours/x").write_text("works on")
        plenum.run("mount", "-o", "nonempty", "mem:", "ours/", rc=1)
    finally:
        plenum.run("umount", "ours")
    assert os.listdir(plenum.tmp / "full") == ["of"] and (plenum.tmp / "file").read_text() == "kept"
    server.terminate()
    plenum.ended(server, 0)


@fuse
def test_below_a_mount_of_ours(plenum):
    """A mount within a mount, and the outer one taken away first."""
    plenum.dir("a")
    plenum.run("mount", "mem:", "a")
    (plenum.tmp / "a/b").mkdir()
    plenum.run("mount", "mem:", "a/b")
    (plenum.tmp / "a/b/x").write_text("inner")
    assert "busy" in plenum.error("umount", "a")
    assert (plenum.tmp / "a/b/x").read_text() == "inner"
    plenum.run("umount", "a/b")
    plenum.run("umount", "a")
    all_gone(plenum)


@fuse
def test_a_mount_exported_through_itself(plenum):
    """A host directory that holds its own mount: looking into it must not hang."""
    src = plenum.dir("src")
    (src / "here").mkdir()
    plenum.run("mount", src, src / "here")
    p = subprocess.run(["find", src], capture_output=True, timeout=20)
    assert b"here" in p.stdout
    p = subprocess.run(["ls", "-lR", src / "here"], capture_output=True, timeout=20)
    plenum.run("umount", src / "here")
    all_gone(plenum)


def test_things_in_the_way_of_a_socket(plenum):
    (plenum.tmp / "file").write_text("kept")
    plenum.dir("dir")
    os.mkfifo(plenum.tmp / "fifo")
    for name in "file", "dir", "fifo":
        check(plenum, ["serve", "mem:", f"unix!{name}"], 1, name)
        assert (plenum.tmp / name).exists()
    assert (plenum.tmp / "file").read_text() == "kept"


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_port_in_use(plenum, family, host):
    plenum.dir("here")
    with socket.create_server((host, 0), family=family) as s:
        addr = f"tcp!{host}!{s.getsockname()[1]}"
        for args in (["serve", "mem:", addr], ["listen", addr, "true"], ["duct", "-l", addr, ".", "here"]):
            check(plenum, args, 1, "in use")
        # One of several that cannot be: none is left behind.
        check(plenum, ["serve", "mem:", "unix!s.sock", addr], 1, "in use")
        assert not (plenum.tmp / "s.sock").exists()


# ---- what is missing


def hidden(plenum, script, *argv, **kw):
    """Runs a command line in a mount namespace in which script was run first."""
    return subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script + '; exec "$@"', "sh",
                           *map(str, argv)], capture_output=True, text=True, timeout=30, cwd=plenum.tmp, **kw)


@fuse
@pytest.mark.parametrize("script", ["mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3",
                                    "mount --bind /dev/null /dev/fuse"], ids=["missing", "something else"])
def test_no_dev_fuse(plenum, script):
    plenum.dir("here")
    server = plenum.serve("mem:", "unix!s.sock")
    for args in (["mount", "mem:", "here"], ["mount", "-f", "mem:", "here"],
                 ["duct", "-q", "-d", "unix!s.sock", ".", "here"]):
        p = hidden(plenum, script, PLENUM, *args)
        assert p.returncode == 1
        one_line(p.stderr, args[0], "/dev/fuse" if "tmpfs" in script else "")
    p = hidden(plenum, script, PLENUM, "ls", "9p:unix!s.sock")  # what needs none works
    assert p.returncode == 0 and p.stderr == ""
    server.terminate()
    plenum.ended(server, 0)
    all_gone(plenum)


@fuse
def test_no_permission(plenum):
    """An ordinary user."""
    plenum.tmp.chmod(0o755)
    mine = plenum.dir("mine")
    os.chown(mine, 65534, 65534)
    secret = plenum.dir("secret")
    secret.chmod(0o700)
    plenum.dir("roots")
    env = dict(os.environ, PATH="/nonexistent")
    setpriv = shutil.which("setpriv")

    def nobody(*args, rc=1):
        p = subprocess.run([setpriv, *as_nobody(PLENUM, *args)[1:]], capture_output=True, text=True, timeout=30,
                           env=env, cwd=plenum.tmp)
        assert p.returncode == rc, p.stderr
        one_line(p.stderr, args[0])
        return p.stderr

    if os.stat("/dev/fuse").st_mode & 0o006 == 0:  # else fusermount3 mounts it
        assert "/dev/fuse: not permitted to open it (its mode" in nobody("mount", "mem:", "mine")
        nobody("duct", "-q", "-e", f"'{PLENUM}' serve mem: stdio", ".", "mine")
    assert "ermission" in nobody("mount", "secret", "mine")
    nobody("mount", "mem:", "roots")
    assert "ermission" in nobody("serve", "secret", "tcp!127.0.0.1!0")
    assert "ermission" in nobody("serve", "mem:", "unix!roots/s.sock")
    assert "ermission" in nobody("ls", "secret")
    assert "ermission" in nobody("put", "roots", "/etc/hostname")
    assert not mounts_under(plenum.tmp)
    plenum.run("mount", "mem:", "roots")
    nobody("umount", "roots")
    nobody("umount", "-f", "roots")
    assert mounted(plenum.tmp / "roots")
    plenum.run("umount", "roots")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) > 564:
            assert "not permitted" in nobody("serve", "mem:", "tcp!127.0.0.1!564")
    server = plenum.serve("mem:", "unix!s.sock")
    nobody("ls", "9p:unix!s.sock")
    server.terminate()
    plenum.ended(server, 0)


def test_no_ssh_in_path(plenum):
    plenum.dir("here")
    env = {k: v for k, v in os.environ.items() if k != "PLENUM_SSH"} | {"PATH": str(plenum.dir("empty"))}
    for args in (["ls", "ssh:host:/x"], ["mount", "ssh:host:/x", "here"], ["ssh", "-L", "here:/x", "host"]):
        check(plenum, args, 1, "ssh", env=env)


# ---- peers


def listener(talk):
    """Runs talk(socket) with each who connects: the port."""
    s = socket.create_server(("127.0.0.1", 0))

    def run():
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            with c:
                try:
                    talk(c)
                except OSError:
                    pass

    threading.Thread(target=run, daemon=True).start()
    return s


SAYS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>what?</html>\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "smtp": b"220 mail.example.org ESMTP\r\n",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "random": random.Random(1).randbytes(5000),
    "zeros": bytes(5000),
    "nothing": b"",
    "one byte": b"\x13",
    "half an answer": struct.pack("<IBHIH", 19, 101, 0xffff, 8192, 8) + b"9P2",
    "a lie": struct.pack("<IBHIH", 21, 101, 0xffff, 1 << 31, 8) + b"9P2000.L",
    "tiny msize": struct.pack("<IBHIH", 21, 101, 0xffff, 10, 8) + b"9P2000.L",
    "old 9P": struct.pack("<IBHIH", 20, 101, 0xffff, 8192, 7) + b"unknown",
    "error": struct.pack("<IBHI", 11, 7, 0xffff, 5),
    "wrong tag": struct.pack("<IBHIH", 21, 101, 7, 8192, 8) + b"9P2000.L",
    "a request": struct.pack("<IBHI", 11, 120, 1, 1),
}


@fuse
@pytest.mark.parametrize("what", SAYS)
@pytest.mark.parametrize("when", ["first", "when asked"])
def test_peers_that_speak_something_else(plenum, what, when):
    here = plenum.dir("here")

    def talk(c):
        if when == "first":
            c.sendall(SAYS[what])
            c.shutdown(socket.SHUT_WR)
            while c.recv(4096):
                pass
        else:
            c.recv(4096)
            c.sendall(SAYS[what])

    s = listener(talk)
    addr = f"tcp!127.0.0.1!{s.getsockname()[1]}"
    check(plenum, ["ls", f"9p:{addr}"], 1, addr)
    check(plenum, ["mount", f"9p:{addr}", here], 1, addr)
    check(plenum, ["mount", "-f", f"9p:{addr}", here], 1, addr)
    check(plenum, ["duct", "-q", "-d", addr, ".", here], 1, addr)
    s.close()
    # And the other way round: they call us.
    p = plenum.start("duct", "-q", "-l", "tcp!127.0.0.1!0", ".", here)
    q = plenum.start("serve", "mem:", "tcp!127.0.0.1!0")
    for x in p, q:
        port = wait_for(lambda x=x: re.search(r"127\.0\.0\.1!(\d+)\n", plenum.err(x))
                        or open_port(x), "it does not listen")
        port = int(port.group(1) if isinstance(port, re.Match) else port)
        with socket.create_connection(("127.0.0.1", port)) as c:
            c.settimeout(10)
            try:
                c.sendall(SAYS[what])
                c.shutdown(socket.SHUT_WR)
                while c.recv(4096):
                    pass
            except OSError:
                pass
    says = plenum.ended(p, 1)
    one_line(says, "duct")
    assert q.poll() is None
    q.terminate()
    plenum.ended(q, 0)
    all_gone(plenum)


def open_port(p):
    """The port that a quiet program listens at."""
    inodes = set()
    for fd in os.listdir(f"/proc/{p.pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{p.pid}/fd/{fd}"))
        except OSError:
            pass
    for kid in pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split():
        for fd in os.listdir(f"/proc/{kid}/fd"):
            try:
                inodes.add(os.readlink(f"/proc/{kid}/fd/{fd}"))
            except OSError:
                pass
    with open("/proc/net/tcp") as f:
        for line in f.readlines()[1:]:
            w = line.split()
            if w[3] == "0A" and f"socket:[{w[9]}]" in inodes:
                return int(w[1].split(":")[1], 16)
    return None


@fuse
def test_nobody_there(plenum):
    plenum.dir("here")
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(plenum.tmp / "dead.sock"))
    for addr in f"tcp!127.0.0.1!{port}", f"tcp!localhost!{port}", f"tcp://127.0.0.1:{port}", "unix!dead.sock":
        for args in (["ls", f"9p:{addr}"], ["mount", f"9p:{addr}", "here"], ["dial", addr, "true"],
                     ["duct", "-d", addr, ".", "here"], ["mount", "-f", f"9p:{addr}", "here"],
                     ["cat", f"9p:{addr}", "x"], ["put", f"9p:{addr}", PLENUM]):
            check(plenum, args, 1, "refused" if "tcp" in addr else "nobody listens")
    for spec, says in (("exec:exit 3", ""), ("exec:true", ""), ("exec:nosuchcommand", ""),
                       ("exec:kill -9 $$", ""), ("9p:unix!none.sock", "none.sock")):
        for args in ["ls", spec], ["mount", spec, "here"]:
            p = plenum.run(*args, rc=1)
            lines = [x for x in p.err.splitlines() if x.startswith("plenum: ")]
            assert len(lines) == 1 and says in lines[0], p.err
            assert not mounts_under(plenum.tmp)


# ---- a full disk below


@fuse
@pytest.mark.parametrize("kind", ["host", "9p", "duct"])
def test_full_disk(plenum, kind):
    disk = plenum.dir("below")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M,nr_inodes=60", "none", disk], check=True)
    try:
        (disk / "below").mkdir()
        place = Place.__new__(Place)
        place.plenum, place.kind = plenum, kind
        place.dir, place.below = plenum.dir("at"), disk / "below"
        getattr(place, f"make_{kind}")("", "suid")
        before = os.urandom(500_000)
        (place.dir / "before").write_bytes(before)
        written = 0
        fd = os.open(place.dir / "big", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError) as e:
            while True:
                n = os.write(fd, b"x" * 100_000)
                if kind != "host":
                    os.fsync(fd)  # behind a wire write(2) may say yes to what does not fit: docs/far.md
                written += n
        assert e.value.errno == errno.ENOSPC and written > 1_000_000
        os.close(fd)
        # What was said to be written is there, and what was there before.
        assert (place.dir / "before").read_bytes() == before
        assert (place.below / "big").read_bytes()[:written] == b"x" * written
        with pytest.raises(OSError) as e:
            fd = os.open(place.dir / "reserved", os.O_CREAT | os.O_WRONLY)
            try:
                os.posix_fallocate(fd, 0, 1_000_000)
            finally:
                os.close(fd)
        assert e.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as e:  # who does not ask before is told by close(2) at the latest
            fd = os.open(place.dir / "unasked", os.O_CREAT | os.O_WRONLY)
            try:
                os.write(fd, before)
                os.write(fd, before)
            finally:
                os.close(fd)
        assert e.value.errno == errno.ENOSPC
        os.unlink(place.dir / "unasked")
        assert (place.below / "big").read_bytes()[:written] == b"x" * written
        p = subprocess.run(["cp", place.dir / "before", place.dir / "copy"], capture_output=True, text=True)
        assert p.returncode == 1 and "No space left" in p.stderr
        os.unlink(place.dir / "big")
        os.unlink(place.dir / "copy")
        (place.dir / "again").write_bytes(before)
        assert (place.below / "again").read_bytes() == before
        with pytest.raises(OSError) as e:
            for i in range(100):
                (place.dir / f"d{i}").mkdir()
        assert e.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as e:
            (place.dir / "one more").touch()
        assert e.value.errno == errno.ENOSPC
        assert not (place.dir / "one more").exists()
        assert os.statvfs(place.dir).f_favail == 0
        for d in place.dir.glob("d*"):
            d.rmdir()
        (place.dir / "one more").touch()
        place.end()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@fuse
@pytest.mark.parametrize("kind", ["host", "9p"])
def test_quota_of_mem_and_read_only_below(plenum, kind):
    """A disk that is read-only below says so; a tree in memory has its limit."""
    disk = plenum.dir("below")
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        (disk / "f").write_text("x")
        place = Place.__new__(Place)
        place.plenum, place.kind, place.dir, place.below = plenum, kind, plenum.dir("at"), disk
        getattr(place, f"make_{kind}")("", "suid")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for f in (lambda: (place.dir / "f").write_text("y"), lambda: (place.dir / "g").touch(),
                  lambda: (place.dir / "f").unlink(), lambda: (place.dir / "f").chmod(0o600)):
            with pytest.raises(OSError) as e:
                f()
            assert e.value.errno == errno.EROFS
        assert (place.dir / "f").read_text() == "x"
        place.end()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_tree_in_memory(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:1M", here)
    with pytest.raises(OSError) as e:
        (here / "big").write_bytes(bytes(2_000_000))
    assert e.value.errno == errno.ENOSPC
    os.unlink(here / "big")
    (here / "small").write_bytes(bytes(500_000))
    plenum.run("umount", here)


# ---- messages


def message(kind, tag, body=b""):
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


def string(s):
    return struct.pack("<H", len(s)) + s


# The dialect of each version string, as p9/table.h has it.
OURS, PLAIN, UNIX, BASE = b"9P2000.L.plenum", b"9P2000.L", b"9P2000.u", b"9P2000"
LACKS = {OURS: {"U_U4", "U_STR"}, PLAIN: {"U_U4", "U_STR", "OP"}, UNIX: {"OP"},
         BASE: {"OP", "EXT4", "U_U4", "U_STR"}}


def rows():
    """The requests, from the program's own table: {number: [kinds of fields]}, and a stat's kinds."""
    text = (TOP / "p9/table.h").read_text().replace("\\\n", " ")
    for name in "P9_ATTR_FIELDS", "P9_LOCK_FIELDS":
        value = re.search(rf"#define {name}\s+(.*)", text).group(1)
        text = re.sub(rf"(?<!#define ){name}", lambda m: value, text)
    found = {}
    for m in re.finditer(r"M\((\d+), (T\w+)((?:,\s+\w+\([\w.\[\]]+\))*)\)", text):
        found[int(m.group(1))] = re.findall(r"(\w+)\(", m.group(3))
    assert len(found) == len(re.findall(r"M\(\d+, T", text)) > 45 and found[100] == ["U4", "STR"]
    stat = re.findall(r"(\w+)\(", re.search(r"#define P9_STAT_FIELDS\s+(.*)", text).group(1))
    assert stat[:3] == ["U2", "U4", "QID"]
    return found, stat


ROWS, STAT = rows()
# {version: {number: kinds}}; what a dialect does not have is sent in it all the same.
TABLE = {v: {n: [k if k != "STAT" else ("STAT", [x for x in STAT if x not in lacks]) for k in kinds if k not in lacks]
             for n, kinds in ROWS.items()} for v, lacks in LACKS.items()}
SIZES = {"U1": 1, "U2": 2, "U4": 4, "FID": 4, "U8": 8, "OPT4": 4, "EXT4": 4, "U_U4": 4, "OP": 8}
STRINGS = {"STR", "NAME", "U_STR"}


def texts(kinds):
    """Whether there is a length in it that can lie."""
    return any(type(k) is tuple or k in STRINGS | {"NAMES", "DATA"} for k in kinds)


def body(kinds, rnd, number=None, text=b"name", count=None):
    out = b""
    for k in kinds:
        if type(k) is tuple:  # a stat: n[2] size[2] and so many bytes
            stat = body(k[1], rnd, number, text)
            n = len(stat)
            out += struct.pack("<HH", n + 2 if count is None else count & 0xffff,
                               n if count is None else count - 2 & 0xffff) + stat
        elif k == "QID":
            out += body(["U1", "U4", "U8"], rnd, number)
        elif k in SIZES:
            n = SIZES[k]
            value = rnd.choice((0, 1, 2, 7, 100, rnd.getrandbits(8 * n), (1 << 8 * n) - 1)) if number is None else number
            out += (value & ((1 << 8 * n) - 1)).to_bytes(n, "little")
        elif k in STRINGS:
            out += struct.pack("<H", len(text) if count is None else count & 0xffff) + text
        elif k == "NAMES":
            out += struct.pack("<H", 2 if count is None else count & 0xffff) + string(text) * 2
        elif k == "DATA":
            out += struct.pack("<I", len(text) if count is None else count) + text
        else:
            raise AssertionError(k)
    return out


class Raw:
    """A client by hand."""

    def __init__(self, path, version=PLAIN, msize=8192):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(str(path))
        self.s.settimeout(20)
        self.version = version
        self.error = 7 if version in (OURS, PLAIN) else 107
        assert self.call(100, struct.pack("<I", msize) + string(version), 0xffff) \
            == (101, 0xffff, struct.pack("<I", msize) + string(version))

    def attach(self, fid=0):
        got = self.call(104, struct.pack("<II", fid, 0xffffffff) + string(b"root") + string(b"")
                        + (struct.pack("<I", os.geteuid()) if self.version != BASE else b""))
        assert got[0] == 105, got
        return self

    def open_some(self, name):
        """Fids that mean something: 1 the root again, 2 an open directory, 7 an open file if it may be."""
        for fid in 1, 2, 7:
            assert self.call(110, struct.pack("<IIH", 0, fid, 0))[0] == 111
        if self.error == 7:
            assert self.call(12, struct.pack("<II", 2, 0))[0] == 13
            got = self.call(14, struct.pack("<I", 7) + string(name) + struct.pack("<III", 2 | 0o100, 0o644, 0))
        else:
            assert self.call(112, struct.pack("<IB", 2, 0))[0] == 113
            got = self.call(114, struct.pack("<I", 7) + string(name) + struct.pack("<IB", 0o644, 2)
                            + (string(b"") if self.version == UNIX else b""))
        assert got[0] in (self.error, 15, 115)
        return self

    def call(self, kind, data=b"", tag=1):
        self.s.sendall(message(kind, tag, data))
        return self.answer()

    def answer(self):
        """(type, tag, body), or None at the end. Requests of theirs are passed over."""
        while (a := self.any_message()) is not None and a[0] % 2 == 0:
            pass
        return a

    def exactly(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.s.recv(n - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            data += more
        return data

    def any_message(self):
        head = self.exactly(7)
        if head is None:
            return None
        size, kind, tag = struct.unpack("<IBH", head)
        rest = self.exactly(size - 7)
        return None if rest is None else (kind, tag, rest)

    def close(self):
        self.s.close()


HOSTILE = {
    "truncated": lambda k, f, rnd: body(f, rnd, 1)[:-1] if f else None,
    "nothing": lambda k, f, rnd: b"" if f else None,
    "longer than it is": lambda k, f, rnd: body(f, rnd, 1) + b"more",
    "long string": lambda k, f, rnd: body(f, rnd, 1, count=0xfff0) if texts(f) else None,
    "all ones": lambda k, f, rnd: body(f, rnd, -1),
    "zeros": lambda k, f, rnd: body(f, rnd, 0, text=b""),
    "bad name": lambda k, f, rnd: body(f, rnd, 0, text=rnd.choice((b"../..", b"a/b", b"..", b".", b"", b"n\0l", b"x" * 300)))
    if texts(f) and "DATA" not in f else None,
    "random": lambda k, f, rnd: rnd.randbytes(rnd.randrange(200)),
    "random values": lambda k, f, rnd: body(f, rnd),
}


@pytest.mark.parametrize("version", LACKS, ids=bytes.decode)
@pytest.mark.parametrize("spec", ["host", "mem"])
@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_requests(plenum, how, spec, version):
    """Of each kind: an error or the end of that connection, and others are served as before."""
    src = plenum.dir("src")
    (plenum.tmp / "secret").write_text("outside")
    p = plenum.serve(src if spec == "host" else "mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    good = Raw(path).attach()
    before = None
    rnd = random.Random(how)
    for _ in range(2):
        for kind, fields in TABLE[version].items():
            data = HOSTILE[how](kind, fields, rnd)
            if data is None or kind == 100 and how == "longer than it is":
                continue
            c = Raw(path, version).attach().open_some(b"f%d" % kind)
            c.s.sendall(message(kind, 5, data))
            c.s.sendall(message(108, 6, struct.pack("<H", 5)))  # a lock may wait
            c.s.shutdown(socket.SHUT_WR)
            while (a := c.answer()) is not None:
                assert a[0] in (7, 107, kind + 1, 109), (kind, a)
            c.close()
        assert p.poll() is None, plenum.err(p)
        assert good.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
        fds = len(os.listdir(f"/proc/{p.pid}/fd"))
        if before is not None:
            wait_for(lambda: len(os.listdir(f"/proc/{p.pid}/fd")) <= before, "descriptors are left")
        else:
            wait_for(lambda: len(os.listdir(f"/proc/{p.pid}/fd")) < 25)
            before = len(os.listdir(f"/proc/{p.pid}/fd")) + 2
    good.close()
    assert (plenum.tmp / "secret").read_text() == "outside"
    assert sorted(x.name for x in plenum.tmp.iterdir() if not x.name.startswith(".err")) == ["s.sock", "secret", "src"]
    plenum.run("ls", "9p:unix!s.sock")
    p.terminate()
    plenum.ended(p, 0)


def resident(p):
    """Bytes, or None with a sanitizer, which keeps what is freed."""
    if "san.so" in pathlib.Path(f"/proc/{p.pid}/maps").read_text():
        return None
    status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024


@pytest.mark.alone
def test_limits(plenum):
    """More of everything than anybody is given: errors for that client, service for others."""
    p = plenum.serve("mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    c = Raw(path).attach()
    taken, empty = 0, resident(p)
    for fid in range(1, 1 << 21, 1000):  # fids without end
        c.s.sendall(b"".join(message(110, k, struct.pack("<IIH", 0, fid + k, 0)) for k in range(1000)))
        answers = c.exactly(1000 * 9)
        if answers is None or sorted(answers[i:i + 9] for i in range(0, 9000, 9)) != \
                sorted(message(111, k, b"\0\0") for k in range(1000)):
            break
        taken += 1000
    else:
        pytest.fail("there is no limit on fids")
    assert 100_000 < taken <= 1 << 20
    full = resident(p)
    assert full is None or full - empty < 176 * taken, f"{(full - empty) / taken:.0f} bytes a fid"
    other = Raw(path).attach()
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    c.close()
    c = Raw(path).attach()  # requests without end, never reading the answers
    c.s.setblocking(False)
    sent = 0
    data = b"".join(message(24, t % 60_000, struct.pack("<IQ", 0, 0x7ff)) for t in range(2000))
    for _ in range(200):
        try:
            sent += c.s.send(data[sent % 19:][:0] or data)
        except BlockingIOError:
            break
    else:
        pytest.fail(f"{sent} bytes of requests were taken from who reads nothing")
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    c.close()
    rss = resident(p)
    assert rss is None or rss < 200_000_000
    clients = [Raw(path).attach(k) for k in range(50)]
    for k in clients:
        k.s.sendall(struct.pack("<IBH", 8192, 118, 1))  # a write that never comes
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    for k in clients:
        k.close()
    other.close()
    p.terminate()
    plenum.ended(p, 0)


def limit(plenum, name):
    """As the table has it."""
    return int(re.search(rf"^  {name} +([0-9]+) ", plenum.run("help", "limits").out, re.M).group(1))


@pytest.mark.alone
def test_connections_of_one_peer(plenum):
    """As many as one address may have; others come in all the same, and he again when one of them goes."""
    most = limit(plenum, "PEER")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < most + 100:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    p = plenum.serve("mem:", "tcp!127.0.0.1!0")
    port = int(p.addr.rsplit("!", 1)[1])
    hello = message(100, 0xffff, struct.pack("<I", 8192) + string(PLAIN))

    def dial(source):
        s = socket.create_connection(("127.0.0.1", port), 30, (source, 0))
        s.sendall(hello)
        return s

    def taken(s):
        try:
            return s.recv(100)[4:5] == bytes([101])
        except ConnectionResetError:
            return False
    mine = []
    try:
        for n in range(0, most, 64):  # no more at once than wait to be accepted
            mine += [dial("127.0.0.2") for _ in range(min(64, most - n))]
            assert all(taken(s) for s in mine[n:])
        for _ in range(3):
            s = dial("127.0.0.2")
            assert not taken(s)
            s.close()
        other = dial("127.0.0.3")
        assert taken(other)
        other.close()
        assert plenum.err(p).count("no more are taken") == 1
        mine.pop().close()

        def again():
            mine.append(dial("127.0.0.2"))
            return taken(mine[-1]) or mine.pop().close()
        wait_for(again)
    finally:
        for s in mine:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    p.terminate()
    plenum.ended(p, 0)


@pytest.mark.parametrize("version", LACKS, ids=bytes.decode)
def test_a_flood_of_flushes(plenum, version):
    """Flushes of what never was, without end: all are answered to who reads, who does not read has to
    stop, and neither costs memory."""
    p = plenum.serve("mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    other = Raw(path).attach()
    empty = resident(p)
    reads, deaf = Raw(path, version).attach(), Raw(path, version).attach()
    flood = b"".join(message(108, t, struct.pack("<H", 40_000 + t)) for t in range(10_000))
    for _ in range(20):
        sender = threading.Thread(target=reads.s.sendall, args=[flood])
        sender.start()
        answers = reads.exactly(10_000 * 7)
        sender.join()
        assert sorted(answers[i:i + 7] for i in range(0, len(answers), 7)) == sorted(message(109, t) for t in range(10_000))
    deaf.s.setblocking(False)
    sent, end = 0, 100 << 20
    while sent < end:
        try:
            sent += deaf.s.send(flood[sent % len(flood):])
        except BlockingIOError:
            if not select.select([], [deaf.s], [], 1)[1]:
                break
    assert sent < end, f"{sent} bytes of requests were taken from who reads nothing"
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    full = resident(p)
    assert full is None or full - empty < 64 << 20, f"{(full - empty) >> 10} kB for {sent} bytes of flushes"
    for c in reads, deaf, other:
        c.close()
    p.terminate()
    plenum.ended(p, 0)


class Liar(Wire):
    """A Wire that spoils a message now and then."""

    def __init__(self, one, other, rnd, after, every):
        self.rnd, self.left, self.every = rnd, after, every
        super().__init__(one, other, None)

    def put(self, sink, frame):
        if len(frame) > 4:
            self.left -= 1
            if self.left <= 0:
                self.left = self.every
                frame = bytearray(frame)
                how = self.rnd.randrange(4)
                if how == 0:
                    frame[self.rnd.randrange(len(frame))] ^= 1 << self.rnd.randrange(8)
                elif how == 1:
                    frame[self.rnd.randrange(4, len(frame))] = self.rnd.randrange(256)
                elif how == 2 and len(frame) > 11:  # consistent in itself, and cut
                    frame = frame[:self.rnd.randrange(7, len(frame))]
                    frame[:4] = len(frame).to_bytes(4, "little")
                else:
                    frame = frame + frame  # twice
        Wire.put(sink, bytes(frame))


@fuse
@pytest.mark.parametrize("seed", range(int(os.environ.get("LIES", 12))))
def test_lying_links(plenum, seed):
    """Messages that were spoiled on the way: errors, or the end of the mount. Nobody crashes or hangs."""
    rnd = random.Random(seed)
    below, at = plenum.dir("below"), plenum.dir("at")
    (below / "big").write_bytes(bytes(300_000))
    (below / "d").mkdir()
    for i in range(50):
        (below / f"d/{i}").touch()
    server = plenum.serve(below, "unix!s.sock")
    lis = socket.socket(socket.AF_UNIX)
    lis.bind(str(plenum.tmp / "w.sock"))
    lis.listen()
    p = plenum.start("mount", "-f", "-o", "timeout=0", f"9p:unix!{plenum.tmp}/w.sock", at)
    near = lis.accept()[0].detach()
    lis.close()
    far = socket.socket(socket.AF_UNIX)
    far.connect(str(plenum.tmp / "s.sock"))
    far = far.detach()
    wire = Liar((near, near), (far, far), rnd, rnd.choice((3, 10, 40)), rnd.choice((1, 5, 30)))
    wait_for(lambda: mounted(at) or p.poll() is not None or not wire.threads[0].is_alive(), timeout=5) \
        if seed % 3 else None
    script = ('cd "$0" && for i in 1 2 3 4 5; do cat big >/dev/null; ls -lR .; echo $i > new$i; mv new$i d/; '
              'mkdir x$i; ln -s a s$i; cat s$i; rm -r x$i; cp big copy; stat d/*; done')
    worker = subprocess.Popen(["timeout", "-s", "KILL", "5", "sh", "-c", script, at], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        worker.wait(8)
    except subprocess.TimeoutExpired:
        pass  # a spoiled tag has no answer: unmounting must still work
    assert server.poll() is None, plenum.err(server)
    if mounted(at):
        plenum.run("umount", "-f", at, rc=None)
    else:
        p.terminate()  # it may wait for an answer that was spoiled
    worker.wait(15)
    plenum.ended(p, None)
    assert p.returncode in (0, 1, -15), p.returncode  # -15: it was about to end by itself
    err = plenum.err(p)
    assert "Sanitizer" not in err and "signal 6" not in err and "signal 11" not in err, err
    plenum.run("ls", "9p:unix!s.sock")
    server.terminate()
    assert "Sanitizer" not in plenum.ended(server, 0)
    all_gone(plenum)
    wire.done()
