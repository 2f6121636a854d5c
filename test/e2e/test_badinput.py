# SPDX-License-Identifier: MIT
"""Bad input: one sentence each and the right status, nothing left mounted, nothing lost."""
import errno
import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import threading

import pytest
from conftest import PLENUM, as_nobody, fuse, mounted, mounts_under, root, wait_for
from places import Place
from test_ends import all_gone

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
