# SPDX-License-Identifier: MIT
"""-o noopen: opens that never leave the kernel; and -o mask, which takes features away from it."""
import contextlib
import errno
import fcntl
import mmap
import multiprocessing
import os
import shutil
import signal
import subprocess

import pytest
from conftest import as_nobody, fuse, root, wait_for

pytestmark = [fuse, root]


@contextlib.contextmanager
def mount(plenum, *opts):
    """A directory of this machine, and where it is mounted without opens."""
    src, here = plenum.dir("src"), plenum.dir("here")
    plenum.run("mount", "-o", ",".join(("noopen", *opts)), f"host:{src}", here)
    yield src, here
    plenum.run("umount", here)


def open_files(plenum, here, beneath):
    """What the server has open to read or write (not what it merely refers to) below the path."""
    fds = f"/proc/{plenum.entry(here)['server']}/fd"
    found = []
    for fd in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):
            # of O_PATH, the link has no permission
            if os.lstat(f"{fds}/{fd}").st_mode & 0o600 and os.readlink(f"{fds}/{fd}").startswith(f"{beneath}/"):
                found.append(fd)
    return found


def test_nothing_is_asked(plenum):
    with mount(plenum, "timeout=1h") as (src, here):
        (src / "d").mkdir()
        for i in range(50):
            (src / "d" / f"{i}").write_text(f"text {i}")

        def work():
            for name in os.listdir(here / "d"):
                fd = os.open(here / "d" / name, os.O_RDONLY)  # open() would ask it for a terminal
                os.fstat(fd)
                assert os.read(fd, 100).decode() == f"text {name}"
                os.close(fd)

        work()
        work()  # the first reading of all has moved access times
        before = plenum.entry(here)["requests"]
        work()
        assert plenum.entry(here)["requests"] - before <= 4  # directories' attributes; there are 50 files


def test_directories_by_default(plenum):
    """Without the option, a walk over what is known costs nothing either, but opens of files do."""
    src, here = plenum.dir("src"), plenum.dir("here")
    for i in range(30):
        (src / f"d{i}").mkdir()
        (src / f"d{i}" / "f").write_text("text")
    asked = {}
    for opt in ("open", "timeout=1h"):
        plenum.run("mount", "-o", f"{opt},timeout=1h", f"host:{src}", here)

        def walk():
            assert len([os.lstat(f"{d}/{f}") for d, _, ff in os.walk(here) for f in ff]) == 30

        for _ in range(3):  # the first ones learn attributes and access times
            walk()
        before = plenum.entry(here)["requests"]
        walk()
        asked[opt] = plenum.entry(here)["requests"] - before
        for i in range(30):
            assert (here / f"d{i}" / "f").read_text() == "text"
        assert plenum.entry(here)["requests"] - before >= 30
        plenum.run("umount", here)
    assert asked["open"] >= 30 and asked["timeout=1h"] <= 4


def test_unlinked_stays_readable(plenum):
    with mount(plenum) as (src, here):
        (here / "f").write_text("text")
        (here / "g").write_text("old")
        (here / "d").mkdir()
        cwd = os.open(here / "d", os.O_RDONLY)
        with open(here / "f", "r+") as f, open(here / "g") as g:
            (here / "f").unlink()
            (here / "new").write_text("new")
            (here / "new").rename(here / "g")
            (here / "d").rmdir()
            wait_for(lambda: not open_files(plenum, here, src), "files stay open")
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert f.read() == "text" and g.read() == "old"
            f.write("!")
            f.flush()
            assert os.pread(f.fileno(), 10, 0) == b"text!"
            assert os.fstat(f.fileno()).st_nlink == 0 and os.fstat(cwd).st_nlink == 0
            assert os.listdir(cwd) == []
        os.close(cwd)
        assert (here / "g").read_text() == "new"


def test_not_in_the_way_of_others(plenum):
    """What was written can be run behind the mount: the server does not keep it open."""
    with mount(plenum, "exec") as (src, here):
        for i in range(20):
            shutil.copy("/bin/true", here / f"prog{i}")
            subprocess.run([src / f"prog{i}"], check=True)
            subprocess.run([here / f"prog{i}"], check=True)


def test_many_files_at_once(plenum):
    with mount(plenum) as (src, here):
        files = [open(here / f"{i}", "w+") for i in range(700)]
        for turn in "ab":
            for f in files:
                f.write(turn)
                f.flush()
        for i, f in enumerate(files):
            assert os.pread(f.fileno(), 9, 0) == b"ab" and (src / f"{i}").read_text() == "ab"
            f.close()
        assert len(open_files(plenum, here, src)) <= 256


def try_lock(path, kind, result):
    with open(path, "r+") as f:
        try:
            kind(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            result.put(True)
        except OSError:
            result.put(False)


@pytest.mark.parametrize("kind", [fcntl.lockf, fcntl.flock])
def test_locks_within_the_mount(plenum, kind):
    def other(path):
        result = multiprocessing.Queue()
        p = multiprocessing.Process(target=try_lock, args=(path, kind, result))
        p.start()
        got = result.get(timeout=20)
        p.join()
        return got

    with mount(plenum) as (src, here):
        (here / "f").touch()
        with open(here / "f", "r+") as f:
            kind(f, fcntl.LOCK_EX)
            assert not other(here / "f")
            assert other(src / "f")  # as the manual says
        assert other(here / "f")


def test_refused(plenum):
    src, here = plenum.dir("src"), plenum.dir("here")
    assert "-o noopen: the kernel must check permissions" in plenum.error(
        "mount", "-o", "noopen,nodefault_permissions", f"host:{src}", here)
    assert "-o noopen: without the kernel's cache" in plenum.error(
        "mount", "-o", "noopen,direct_io", f"host:{src}", here)
    p = plenum.start("serve", "mem:", f"unix!{plenum.tmp}/s")
    wait_for(lambda: (plenum.tmp / "s").exists())
    assert "-o noopen: what this tree reads as depends on each open" in plenum.error(
        "mount", "-o", "noopen", f"9p:unix!{plenum.tmp}/s", here)
    p.terminate()
    p.wait()
    assert os.listdir(here) == []


def test_mask(plenum):
    here = plenum.dir("here")
    assert "did you mean posix_acl?" in plenum.error("mount", "-o", "mask=posix_acls", "mem:", here, rc=2)
    assert "not a feature" in plenum.error("mount", "-o", "mask", "mem:", here, rc=2)
    plenum.run("mount", "-o", "mask=no_open_support:minor35,noopen", "mem:", here)
    (here / "f").write_text("text")
    assert (here / "f").read_text() == "text"
    plenum.run("umount", here)
    help_ = plenum.run("mount", "--help").out
    assert "noopen" in help_ and "mask" not in help_


@pytest.mark.parametrize("opt", ["noopen", "timeout=1s"])
def test_the_next_server(plenum, opt):
    """What needs no open file needs nothing of the server that died either."""
    src, here = plenum.dir("src"), plenum.dir("here")
    for i in range(2000):
        (src / f"entry{i:04}").touch()
    plenum.run("mount", "-o", opt, f"host:{src}", here)
    with open(here / "f", "w+") as f, open(here / "gone", "w+") as gone, os.scandir(here) as listing:
        names = [next(listing).name]
        gone.write("text")
        gone.flush()
        (here / "gone").unlink()
        server = plenum.entry(here)["server"]
        os.kill(server, signal.SIGKILL)
        f.write("after")
        f.flush()
        assert (src / "f").read_text() == "after"
        gone.write("!")
        gone.flush()
        assert os.pread(gone.fileno(), 10, 0) == b"text!"
        names += [e.name for e in listing if e.name.startswith("entry")]
        assert sorted({n for n in names if n.startswith("entry")}) == [f"entry{i:04}" for i in range(2000)]
        assert len(names) == len(set(names))
        wait_for(lambda: plenum.entry(here)["server"] != server, "nobody took over")
    plenum.run("umount", here)


@contextlib.contextmanager
def union(plenum, *opts):
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    (low / "f").write_text("0123456789")
    os.chmod(low / "f", 0o640)
    plenum.run("mount", "-o", ",".join(("noopen", *opts)), f"union({up},{low})", here)
    yield up, low, here
    plenum.run("umount", here)


def test_union(plenum):
    """What is behind is copied up by whatever comes first, which is no open; and is never changed."""
    with union(plenum, "timeout=1h", "exec") as (up, low, here):
        reader = os.open(here / "f", os.O_RDONLY)
        assert os.read(reader, 4) == b"0123"
        with open(here / "f", "r+") as f:
            assert not os.listdir(up)  # it was opened, and no more
            f.write("AB")
            f.flush()
            assert (up / "f").read_text() == "AB23456789" and os.stat(up / "f").st_mode & 0o777 == 0o640
            assert os.pread(reader, 10, 0) == b"AB23456789"
            os.unlink(here / "f")
            f.write("C")
            f.flush()
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(reader, 10, 0) == b"ABC3456789" and os.fstat(reader).st_nlink == 0
        os.close(reader)
        assert not (here / "f").exists() and (low / "f").read_text() == "0123456789"
        # one that is removed before it is written: its copy never had a name
        (low / "gone").write_text("gone")
        with open(here / "gone", "r+") as f:
            os.unlink(here / "gone")
            f.write("G")
            f.flush()
            assert os.pread(f.fileno(), 9, 0) == b"Gone"
        assert (low / "gone").read_text() == "gone" and "gone" not in os.listdir(here)
        for name, flags, want in (("cut", os.O_TRUNC, "new"), ("more", os.O_APPEND, "oldnew")):
            (low / name).write_text("old")
            fd = os.open(here / name, os.O_WRONLY | flags)
            os.write(fd, b"new")
            os.close(fd)
            assert (here / name).read_text() == (up / name).read_text() == want
            assert (low / name).read_text() == "old"
        (low / "map").write_bytes(b"m" * 10000)
        with open(here / "map", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
            assert m[9000:9001] == b"m"
            m[9000:9001] = b"M"
            m.flush()
        assert (up / "map").read_bytes()[9000:9001] == b"M" and (low / "map").read_bytes() == b"m" * 10000
        shutil.copy("/bin/true", low / "prog")
        subprocess.run([here / "prog"], check=True, timeout=20)
        assert "prog" not in os.listdir(up)
        os.truncate(here / "prog", 4)
        assert (here / "prog").read_bytes() == b"\x7fELF" and os.stat(low / "prog").st_size > 4


def test_union_read_only(plenum):
    """What open would say is said by the first write."""
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    (low / "f").write_text("old")
    plenum.run("mount", "-o", "noopen", f"union(ro,{up},{low})", here)
    fd = os.open(here / "f", os.O_WRONLY)
    with pytest.raises(OSError) as e:
        os.write(fd, b"new")
    assert e.value.errno == errno.EROFS
    os.close(fd)
    plenum.run("umount", here)


def test_union_refused(plenum):
    """One of its trees needs opens."""
    up, here = plenum.dir("up"), plenum.dir("here")
    p = plenum.start("serve", "mem:", f"unix!{plenum.tmp}/s")
    wait_for(lambda: (plenum.tmp / "s").exists())
    assert "-o noopen: what this tree reads as depends on each open" in plenum.error(
        "mount", "-o", "noopen", f"union({up},9p:unix!{plenum.tmp}/s)", here)
    p.terminate()
    p.wait()
