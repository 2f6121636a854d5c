# SPDX-License-Identifier: MIT
"""ls, cat, stat, get, put, mkdir, rm: trees that are not mounted."""
import json
import os
import pty
import signal
import stat
import subprocess

import pytest
from conftest import PLENUM, root, wait_for


def listing(top):
    """Everything that should survive a copy, by path."""
    found = {}
    names = {}
    for path, dirs, files in os.walk(os.fsencode(top)):
        for name in [b"."] + dirs + files:
            full = os.path.join(path, name)
            st = os.lstat(full)
            rel = os.path.relpath(full, os.fsencode(top))
            entry = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid,
                     st.st_mtime_ns, st.st_rdev]
            if stat.S_ISLNK(st.st_mode):
                entry.append(os.readlink(full))
            elif stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    entry += [f.read(), {k: os.getxattr(full, k) for k in os.listxattr(full)}]
                names.setdefault(st.st_ino, []).append(rel)
            found[rel] = entry
    found["links"] = sorted(sorted(n) for n in names.values())
    return found


@pytest.fixture
def tree(plenum):
    """A directory with a bit of everything."""
    t = plenum.dir("src")
    (t / "a/b").mkdir(parents=True)
    (t / "a/f").write_text("hello\n")
    os.link(t / "a/f", t / "a/b/hard")
    os.symlink("../f", t / "a/b/soft")
    os.symlink("/nonexistent", t / "dangling")
    os.mkfifo(t / "fifo")
    (t / "empty").write_text("")
    (t / "big").write_bytes(os.urandom(9_000_001))
    (t / "big").chmod(0o751)
    (t / ("n" * 255)).write_text("long name")
    with open(t / "sparse", "wb") as f:
        f.seek(50_000_000)
        f.write(b"end")
        f.truncate(60_000_000)
    os.setxattr(t / "a/f", "user.note", b"kept")
    with open(os.fsencode(t) + b"/\xff\x1b[31m\n", "w") as f:
        f.write("strange")
    os.utime(t / "big", ns=(1, 981173106789000001))
    os.utime(t / "a", ns=(1, 981173106789000001))
    os.utime(t / "dangling", ns=(1, 981173106789000001), follow_symlinks=False)
    return t


def test_get_keeps_everything(plenum, tree):
    plenum.run("get", tree, "/", "copy")
    assert listing(tree) == listing(plenum.tmp / "copy")
    assert os.stat(plenum.tmp / "copy/sparse").st_blocks < 1000
    assert not list((plenum.tmp / "copy").glob("**/.plenum-*"))


def test_put_keeps_everything(plenum, tree):
    there = plenum.dir("there")
    plenum.run("put", there, "src")
    assert listing(tree) == listing(there / "src")
    plenum.run("put", there, "src/.", "src2")  # a new name
    assert listing(tree) == listing(there / "src2")
    plenum.run("mkdir", there, "src3")
    plenum.run("put", there, "src/.", "src3")  # what is in it
    mine, theirs = listing(tree), listing(there / "src3")
    mine.pop(b"."), theirs.pop(b".")
    assert mine == theirs


def test_through_9p(plenum, tree):
    server = plenum.serve(plenum.tmp, "unix!s.sock")
    plenum.run("get", "9p:unix!s.sock", "src", "got")
    assert listing(tree) == listing(plenum.tmp / "got")
    plenum.run("put", "9p:unix!s.sock", "src", "sent")
    assert listing(tree) == listing(plenum.tmp / "sent")
    server.terminate()
    plenum.ended(server)


def test_get_one_file(plenum, tree):
    plenum.run("get", tree, "a/f")
    assert (plenum.tmp / "f").read_text() == "hello\n"
    plenum.run("get", tree, "a/f", "g")
    assert (plenum.tmp / "g").read_text() == "hello\n"
    plenum.dir("into")
    plenum.run("get", tree, "a/f", "empty", "into")
    assert sorted(os.listdir(plenum.tmp / "into")) == ["empty", "f"]


def test_get_replaces_as_a_whole(plenum, tree):
    (plenum.tmp / "old").write_text("old")
    held = os.open(plenum.tmp / "old", os.O_RDONLY)
    plenum.run("get", tree, "a/f", "old")
    assert (plenum.tmp / "old").read_text() == "hello\n"
    assert os.read(held, 10) == b"old"
    os.close(held)


def test_a_failing_read_leaves_what_was_there(plenum, tree):
    (plenum.tmp / "old").write_text("old")
    line = plenum.error("get", f"fault(read,EIO,skip=2,{tree})", "big", "old")
    assert "big: Input/output error" in line
    assert (plenum.tmp / "old").read_text() == "old"
    assert not list(plenum.tmp.glob(".plenum-*"))


def test_not_into_itself(plenum):
    """The directory that copies go into is left out, however its tree names it."""
    src = plenum.dir("src")
    (src / "file").write_text("x")
    plenum.dir("src/sub/below")
    server = plenum.serve(src, "unix!s.sock")
    for args in (("get", ".", "src", "src/sub"), ("put", ".", "src", "src/sub/new"),
                 ("get", "9p:unix!s.sock", "/", "src/sub/below"), ("put", ".", "src", ".")):
        assert "not copied into itself" in plenum.error(*args), args
    server.terminate()
    plenum.ended(server)
    for top in ("src", "new", "below"):
        assert (src / "sub" / top / "file").read_text() == "x"
    assert not (src / "sub/src/sub/src").exists()
    assert not (src / "sub/new/sub/new").exists()
    assert not (src / "sub/below/sub/below").exists()
    assert not list(src.glob("**/.plenum-*"))


def test_too_deep(plenum):
    """Ends with a sentence, not with the stack."""
    deep = plenum.dir("deep")
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        fd, up = os.open("d", os.O_RDONLY, dir_fd=fd), fd
        os.close(up)
    os.close(fd)
    for args in (("ls", "-R", deep), ("get", ".", "deep", "copy"), ("rm", "-r", deep, "d")):
        line = plenum.run(*args, rc=1).err
        assert "too many directories in one another" in line and len(line) < 200
    subprocess.run(["rm", "-rf", deep, plenum.tmp / "copy"], check=True)


def test_errors_go_on(plenum, tree):
    p = plenum.run("get", f"fault(open,EACCES,count=2,{tree})", "a", "empty", plenum.dir("out"), rc=1)
    assert p.err.count("\n") == 2
    assert len(p.err.splitlines()) == 2


@root
def test_full_disk(plenum, tree):
    small = plenum.dir("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small], check=True)
    try:
        assert "No space left" in plenum.error("get", tree, "big", small)
        assert os.listdir(small) == []
        assert "No space left" in plenum.error("put", small, tree / "big")
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_interrupted(plenum, tree):
    out = plenum.dir("out")
    p = plenum.start("get", f"delay(100ms,{tree})", "big", out)
    wait_for(lambda: os.listdir(out))
    p.send_signal(signal.SIGINT)
    assert "interrupted" in plenum.ended(p, 1)
    assert os.listdir(out) == []


def on_terminal(stream, *args, rc=0):
    """What the program writes to one of its streams, when that is a terminal."""
    master, slave = pty.openpty()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {stream: slave}
    p = subprocess.Popen([PLENUM, *args], **streams)
    os.close(slave)
    text = b""
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:
        pass
    os.close(master)
    assert p.wait() == rc
    return text


def test_progress_on_a_terminal_only(plenum, tree):
    assert plenum.run("get", tree, "big", "b1").err == ""
    # Slow enough for the line to appear, and for the totals; a failure has a line of its own.
    text = on_terminal("stderr", "get", f"delay(300ms,{tree})", "big", "missing", plenum.dir("b2"), rc=1)
    assert b" MiB of 8.6 MiB, " in text and b"[####" in text
    assert b"\r\x1b[Kplenum: get: missing: No such file or directory\r\n" in text
    assert text.endswith(b"/s\r\n") and b"8.6 MiB, 1 file, " in text


def test_ls(plenum, tree):
    p = plenum.run("ls", tree)
    assert "big" in p.out.split("\n") and "a" in p.out.split("\n")
    assert p.stdout.count(b"\xff\x1b[31m\n") == 1  # raw in a pipe, as ls(1)
    p = plenum.run("ls", "-l", tree, "dangling")
    assert p.out.startswith("lrwxrwxrwx") and p.out.rstrip().endswith("dangling -> /nonexistent")
    assert "/a/b:" in plenum.run("ls", "-R", tree).out
    (tree / ".hidden").write_text("")
    assert ".hidden" not in plenum.run("ls", tree).out
    assert ".hidden" in plenum.run("ls", "-a", tree).out
    found = {e["path"]: e for e in json.loads(plenum.run("ls", "--json", tree).out)}
    assert found["/big"]["size"] == 9_000_001 and found["/big"]["mode"] == "0751"
    assert found["/dangling"]["target"] == "/nonexistent"
    assert any(k.startswith("/\\377\\033[31m\\012") for k in found)


def test_ls_on_a_terminal_escapes(plenum, tree):
    text = on_terminal("stdout", "ls", tree)
    assert b"\x1b" not in text and b"\\377\\033[31m\\012" in text


def test_stat(plenum, tree):
    st = os.stat(tree / "big")
    e = json.loads(plenum.run("stat", "--json", tree, "big").out)[0]
    assert e["type"] == "file" and e["uid"] == st.st_uid and e["nlink"] == 1
    assert e["mtime"] == "2001-02-03T04:05:06.789000001Z"
    assert "a/b/soft -> ../f" in plenum.run("stat", tree, "a/b/soft").out
    assert json.loads(plenum.run("stat", "-L", "--json", tree, "a/b/soft").out)[0]["size"] == 6


def test_cat(plenum, tree):
    assert plenum.run("cat", tree, "a/f", "a/b/soft", "/a//b/../f").out == "hello\n" * 3
    assert plenum.run("cat", tree, "big").stdout == (tree / "big").read_bytes()


def test_symlinks_stay_in_the_tree(plenum, tree):
    os.symlink("/etc/hostname", tree / "out")
    os.symlink("../../../../etc/hostname", tree / "up")
    os.symlink("/a/f", tree / "in")
    os.symlink("loop", tree / "loop")
    assert plenum.run("cat", tree, "in").out == "hello\n"
    for name in "out", "up":
        assert "No such file" in plenum.error("cat", tree, name)
    assert "Too many levels" in plenum.error("cat", tree, "loop")


def test_mkdir_and_rm(plenum):
    t = plenum.dir("t")
    old = os.umask(0o027)
    try:
        plenum.run("mkdir", "-p", t, "a/b/c", "a/b")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(t / "a/b").st_mode) == 0o750
    (t / "a/b/f").write_text("x")
    os.symlink("/etc", t / "a/etc")
    plenum.error("rm", t, "a")
    plenum.run("rm", "-r", t, "a")
    assert os.listdir(t) == []
    plenum.run("rm", "-f", t, "nothing")
    assert os.path.exists("/etc")


def test_rm_of_a_large_directory(plenum):
    t = plenum.dir("t/d")
    for i in range(3000):
        (t / f"{i}").touch()
    assert len(plenum.run("ls", plenum.tmp / "t", "d").out.split()) == 3000
    plenum.run("rm", "-r", plenum.tmp / "t", "d")
    assert os.listdir(plenum.tmp / "t") == []


def test_a_reader_that_leaves(plenum, tree):
    p = subprocess.Popen([PLENUM, "cat", tree, "big"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.read(10)
    p.stdout.close()
    assert p.stderr.read() == b""
    p.wait(10)
