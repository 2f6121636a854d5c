# SPDX-License-Identifier: MIT
"""Unions, compared with a plain copy of the merged tree, and with the kernel's overlayfs: each reads
what the other has written."""
import mmap
import os
import random
import shutil
import stat
import subprocess

import pytest
from conftest import fuse, root

pytestmark = [fuse, root]

NAMES = ["a", "b", "c", "d"]


def populate(top, rng, links=None, depth=0):
    """Files and directories, the same names again and again. `links`: files get more names, too."""
    for name in NAMES:
        path = os.path.join(top, name)
        what = rng.random()
        if what < 0.45 and depth < 3:
            os.mkdir(path)
            populate(path, rng, links, depth + 1)
            os.chmod(path, rng.choice([0o755, 0o700, 0o2775]))
        elif links and what < 0.55:
            os.link(rng.choice(links), path)
        elif what < 0.8:
            with open(path, "w") as f:
                f.write(f"{name} {rng.random()}\n" * rng.randrange(20))
            os.chmod(path, rng.choice([0o644, 0o600, 0o755]))
            os.chown(path, rng.randrange(3), rng.randrange(3))
            os.setxattr(path, "user.mark", name.encode())
            os.utime(path, ns=(10**18 + rng.randrange(10**12), 10**18 + rng.randrange(10**12)))
            if links is not None:
                links.append(path)
        elif what < 0.9:
            os.symlink(f"to {name}", path)


def walk(top):
    """path -> all that a program can see of it, but what is the file system's own affair."""
    seen = {}
    for where, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(where, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, top)
            if rel.startswith(".wh."):
                continue  # ours, seen by a file system that does not know them
            entry = [oct(st.st_mode), st.st_uid, st.st_gid]
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    entry += [f.read(), st.st_mtime_ns]
                entry.append(st.st_nlink)
                entry.append([(x, os.getxattr(path, x)) for x in sorted(os.listxattr(path)) if "mark" in x])
            elif stat.S_ISLNK(st.st_mode):
                entry.append(os.readlink(path))
            seen[rel] = entry
        dirs[:] = [d for d in dirs if not os.path.islink(os.path.join(where, d))]
    return seen


def differences(a, b):
    return [(p, a.get(p), b.get(p)) for p in sorted({*a, *b}) if a.get(p) != b.get(p)]


def path_in(top, rng):
    """Mostly of something that is there, or in a directory that is."""
    if rng.random() < 0.7:
        there = sorted(os.path.relpath(os.path.join(w, n), top) for w, ds, fs in os.walk(top) for n in ds + fs)
        path = os.path.join(top, rng.choice(there)) if there else top
        return os.path.join(path, rng.choice(NAMES)) if not there or rng.random() < 0.4 else path
    return os.path.join(top, *[rng.choice(NAMES) for _ in range(rng.randrange(1, 5))])


def write(path, rng):
    with open(path, rng.choice(["r+", "w", "a"])) as f:
        f.write(f"written {rng.random()}\n")
    os.utime(path, ns=(10**18, 10**18 + rng.randrange(10**12)))


def create(path, rng):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    os.utime(path, ns=(10**18, 10**18 + rng.randrange(10**12)))


def one(top, rng):
    """One random operation; its result."""
    path, other = path_in(top, rng), path_in(top, rng)
    op = rng.choice(["write", "create", "unlink", "mkdir", "rename", "rename", "chmod", "link"] * 3 +
                    ["rmdir", "symlink", "tree"])
    inner = random.Random(rng.random())
    try:
        if op == "write":
            write(path, inner)
        elif op == "create":
            create(path, inner)
        elif op == "unlink":
            os.unlink(path)
        elif op == "mkdir":
            os.mkdir(path, 0o751)
        elif op == "rmdir":
            os.rmdir(path)
        elif op == "rename":
            os.rename(path, other)
        elif op == "chmod":
            os.chmod(path, inner.choice([0o711, 0o750]), follow_symlinks=True)
        elif op == "symlink":
            os.symlink("elsewhere", path)
        elif op == "link":
            os.link(path, other, follow_symlinks=False)
        elif op == "tree":
            shutil.rmtree(path)
    except OSError as e:
        return op, e.errno
    return op, 0


def work(top, seed, count=400):
    rng = random.Random(seed)
    return [one(top, rng) for _ in range(count)]


class Overlay:
    def __init__(self, plenum, seed, links=None):
        self.plenum = plenum
        self.low, self.up, self.wk, self.here, self.copy = (
            plenum.dir(f"{x}{seed}") for x in ("low", "up", "work", "here", "copy"))
        populate(self.low, random.Random(seed), links)
        shutil.rmtree(self.copy)
        subprocess.run(["cp", "-a", self.low, self.copy], check=True)

    def kernel(self, *opts):
        how = ",".join([f"lowerdir={self.low}", f"upperdir={self.up}", f"workdir={self.wk}", *opts])
        p = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", how, self.here], capture_output=True)
        if p.returncode:
            pytest.skip(f"no overlayfs here: {p.stderr.decode().strip()}")

    def ours(self, *opts):
        self.plenum.run("mount", "-o", "timeout=0", f"union({self.up},{self.low})", self.here)

    def done(self):
        subprocess.run(["umount", self.here], check=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_as_a_plain_copy(plenum, seed):
    o = Overlay(plenum, seed, [])
    before = walk(o.low)
    o.ours()
    got, want = work(o.here, seed), work(o.copy, seed)
    assert [(i, g, w) for i, (g, w) in enumerate(zip(got, want)) if g != w] == []
    assert sum(r == 0 for _, r in got) > len(got) // 8
    assert differences(walk(o.here), walk(o.copy)) == []
    plenum.run("umount", o.here)
    o.ours()  # nothing is remembered but what lies in the top
    assert differences(walk(o.here), walk(o.copy)) == []
    plenum.run("umount", o.here)
    assert walk(o.low) == before


@pytest.mark.parametrize("opts", [["redirect_dir=on"], ["userxattr"]])
def test_reads_what_overlayfs_wrote(plenum, opts):
    o = Overlay(plenum, 4)
    o.kernel("index=off", "metacopy=off", *opts)
    work(o.here, 4)
    want = walk(o.here)
    o.done()
    o.ours()
    assert differences(walk(o.here), want) == []
    plenum.run("umount", o.here)


@pytest.mark.parametrize("seed", [5, 6])
def test_overlayfs_reads_what_it_wrote(plenum, seed):
    o = Overlay(plenum, seed)
    o.ours()
    work(o.here, seed)
    want = walk(o.here)
    plenum.run("umount", o.here)
    o.kernel("redirect_dir=on", "index=off", "metacopy=off")
    assert differences(walk(o.here), want) == []
    o.done()


def test_numbers(plenum):
    """A number stays when its object is copied up, moved, and seen by another server."""
    o = Overlay(plenum, 7)
    o.ours()
    files = [os.path.join(w, f) for w, _, fs in os.walk(o.here) for f in fs]
    files = [f for f in files if stat.S_ISREG(os.lstat(f).st_mode)]
    before = {f: os.stat(f).st_ino for f in files}
    for f in files:
        os.chmod(f, 0o640)
    assert {f: os.stat(f).st_ino for f in files} == before
    plenum.run("umount", o.here)
    o.ours()
    assert {f: os.stat(f).st_ino for f in files} == before
    for where, _, _ in os.walk(o.here):
        for e in os.scandir(where):
            assert e.inode() == e.stat(follow_symlinks=False).st_ino, e.path
    plenum.run("umount", o.here)


@pytest.mark.parametrize("opts", [[], ["-o", "nopassthrough"]])
def test_mapping_of_a_copy(plenum, opts):
    """A file is copied up while somebody has it open to read: mappings, too, are of the copy."""
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    (low / "f").write_bytes(b"below" * 4096)
    plenum.run("mount", *opts, f"union({up},{low})", here)
    old, new = os.open(here / "f", os.O_RDONLY), os.open(here / "f", os.O_RDWR)
    with mmap.mmap(old, 0, prot=mmap.PROT_READ) as before, mmap.mmap(new, 0) as after:
        after[:5] = b"above"
        after.flush()
        os.pwrite(new, b"above", 8192)
        assert before[:5] == before[8192:8197] == after[8192:8197] == b"above"
    os.close(old)
    os.close(new)
    plenum.run("umount", here)
    assert (low / "f").read_bytes() == b"below" * 4096
    assert (up / "f").read_bytes()[8192:8197] == b"above"


@pytest.mark.parametrize("opts", [[], ["-o", "nopassthrough"]])
def test_no_old_bytes(plenum, opts):
    """A file that has been read, and is then copied up, is nowhere read as it was."""
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    (low / "f").write_text("0123456789")
    (low / "g").write_bytes(b"old" * 4096)
    plenum.run("mount", *opts, f"union({up},{low})", here)
    assert (here / "f").read_text() == "0123456789"
    os.truncate(here / "f", 3)  # no open comes by
    assert (here / "f").read_text() == "012"
    old, new = os.open(here / "g", os.O_RDONLY), os.open(here / "g", os.O_RDWR)
    os.pwrite(new, b"NEW", 8192)
    os.fsync(new)
    os.posix_fadvise(new, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(old, 3, 8192)  # whatever it reads, it is not what others read then
    assert os.pread(new, 3, 8192) == b"NEW"
    assert (here / "g").read_bytes()[8192:8195] == b"NEW"
    os.close(old)
    os.close(new)
    plenum.run("umount", here)


def test_bad_specs(plenum):
    a = plenum.dir("a")
    for spec in ("union()", f"union({a},)", f"union(del=never,{a})", f"union({a},nosuch:)", f"union({a}"):
        plenum.error("ls", spec, rc=2)
    assert plenum.run("ls", f"union(ro,{a},mem:)").out == ""
    assert "ead-only" in plenum.error("mkdir", f"union(ro,{a})", "/x")
