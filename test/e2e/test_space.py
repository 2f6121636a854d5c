# SPDX-License-Identifier: MIT
"""Unions, compared with a plain copy of the merged tree, and with the kernel's overlayfs: each reads
what the other has written."""
import errno
import mmap
import os
import random
import shutil
import stat
import subprocess

import pytest
from conftest import fuse, mount_overlay, root

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
        mount_overlay(self.here, f"lowerdir={self.low}", f"upperdir={self.up}", f"workdir={self.wk}", *opts)

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


@pytest.mark.parametrize("seed", [8, 9])
def test_reads_metacopy(plenum, seed):
    """overlayfs left the content of files below, and moved them, and their directories."""
    o = Overlay(plenum, seed)
    files = [os.path.join(w, f) for w, _, fs in os.walk(o.low) for f in fs]
    for f in [f for f in files if not os.path.islink(f)][::2]:
        os.chmod(f, 0o4755)
        os.setxattr(f, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    o.kernel("metacopy=on", "redirect_dir=on", "index=off")
    rng = random.Random(seed)
    for f in [f for f in files if rng.random() < 0.7 and not os.path.islink(f)]:
        os.chown(f.replace(str(o.low), str(o.here)), 7, 8)
    for i, (w, ds, fs) in enumerate(list(os.walk(o.here, topdown=False))):
        for n in [n for n in ds + fs if rng.random() < 0.5]:
            os.rename(os.path.join(w, n), os.path.join(o.here, f"moved{i}{n}"))
    want = walk(o.here)
    o.done()
    hollow = [f for w, _, fs in os.walk(o.up) for f in (os.path.join(w, n) for n in fs)
              if not os.path.islink(f) and "trusted.overlay.metacopy" in os.listxattr(f)]
    assert len(hollow) > 3
    before = walk(o.low)
    # As the top, behind another top, and read-only.
    for spec in (f"union({o.up},{o.low})", f"union(mem:,{o.up},{o.low})", f"union(ro,{o.up},{o.low})"):
        plenum.run("mount", spec, o.here)
        assert differences(walk(o.here), want) == []
        plenum.run("umount", o.here)
    # What is done to them brings the content along.
    hollow = [f for f in hollow if os.stat(f).st_size]
    for top in (o.up, plenum.dir("other")):
        o.ours() if top == o.up else plenum.run("mount", f"union({top},{o.up},{o.low})", o.here)
        for i, f in enumerate(hollow):
            there = f.replace(str(o.up), str(o.here))
            with open(there, "rb") as old:
                text = old.read()
                caps = "security.capability" in os.listxattr(there)
                if i % 5 == 0:
                    os.chmod(there, 0o4751)
                elif i % 5 == 1:
                    os.link(there, there + ".link")
                elif i % 5 == 2:
                    os.rename(there, there + ".new")
                    os.rename(there + ".new", there)
                elif i % 5 == 3:
                    with open(there, "r+b") as new:
                        new.seek(0, 2)
                        new.write(b"more")
                    text, caps = text + b"more", False
                else:
                    os.truncate(there, 0)
                    text, caps = b"", False
                old.seek(0)
                assert old.read() == text, there
            with open(there, "rb") as new:
                assert new.read() == text, there
            assert ("security.capability" in os.listxattr(there)) == caps
        plenum.run("umount", o.here)
        for i, f in enumerate(hollow):  # and it is in the top
            inside = f.replace(str(o.up), str(top))
            if os.path.exists(inside + ".link"):
                os.unlink(inside + ".link")
            assert "trusted.overlay.metacopy" not in os.listxattr(inside), i
            assert os.stat(inside).st_size == 0 or open(inside, "rb").read(1) != b"\0"
        if top == o.up:  # as it was
            o.kernel("metacopy=on", "redirect_dir=on", "index=off")
            for f in hollow:
                os.chown(f.replace(str(o.up), str(o.here)), 9, 9)
            o.done()
    assert walk(o.low) == before


def test_no_content_anywhere(plenum):
    """A file whose content is gone is an error, and not zeros."""
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    (up / "f").write_bytes(b"\0" * 100)
    (up / "g").write_bytes(b"\0" * 100)
    (low / "dir").mkdir()
    os.setxattr(up / "f", "trusted.overlay.metacopy", b"")
    os.setxattr(up / "g", "user.overlay.metacopy", b"")
    os.setxattr(up / "g", "user.overlay.redirect", b"/dir")
    plenum.run("mount", f"union({up},{low})", here)
    for name in ("f", "g"):
        assert os.stat(here / name).st_size == 100
        for fn in (lambda p: open(p, "rb"), lambda p: open(p, "r+b"), lambda p: os.chmod(p, 0o600)):
            with pytest.raises(OSError) as e:
                fn(here / name)
            assert e.value.errno == errno.EIO
    (low / "f").write_bytes(b"x" * 100)  # but it may come
    assert (here / "f").read_bytes() == b"x" * 100
    os.unlink(here / "g")
    (here / "g").write_text("new")
    plenum.run("umount", here)


def test_whiteouts_by_xattr(plenum):
    """Files that hide names, in directories that say that they have such: as overlayfs reads them."""
    low, mid, up, work, here = (plenum.dir(x) for x in ("low", "mid", "up", "work", "here"))
    for top, names in ((low, "abcdefgh"), (mid, "abxyz")):
        for d in ("marked", "plain", "marked/sub"):
            (top / d).mkdir()
            for n in names:
                (top / d / n).write_text("" if top == mid else f"{d}/{n}")
    os.setxattr(mid / "marked", "trusted.overlay.opaque", b"x")
    for n in ("a", "x", "y"):
        os.setxattr(mid / "marked" / n, "trusted.overlay.whiteout", b"" if n == "a" else b"y")
    (mid / "marked/y").write_text("not empty")
    (mid / "marked/sub").rename(mid / "marked/gone")
    shutil.rmtree(mid / "marked/gone")
    (mid / "marked/sub").write_text("")
    os.setxattr(mid / "marked/sub", "trusted.overlay.whiteout", b"y")
    try:
        mount_overlay(here, f"lowerdir={mid}:{low}", f"upperdir={up}", f"workdir={work}")
        want = walk(here)
        subprocess.run(["umount", here], check=True)
    finally:
        shutil.rmtree(up)
        up.mkdir()
    if "marked/a" in want:
        pytest.skip("this kernel's overlayfs does not know them")
    assert "marked/sub" not in want and "plain/a" in want and "marked/y" in want
    os.setxattr(mid / "plain/a", "trusted.overlay.whiteout", b"y")  # where nothing says so: a file, to be found and listed
    plenum.run("mount", f"union({up},{mid},{low})", here)
    assert differences(walk(here), want) == []
    (here / "marked/a").write_text("again")
    (here / "marked/sub").mkdir()
    assert os.listdir(here / "marked/sub") == []
    shutil.rmtree(here / "marked")
    assert sorted(os.listdir(here)) == ["plain"]
    plenum.run("umount", here)
    # As the top, too, where overlayfs lists what it does not find.
    plenum.run("mount", f"union({mid},{low})", here)
    assert differences(walk(here), want) == []
    (here / "marked/a").write_text("again")
    (here / "marked/sub").mkdir()
    assert os.listdir(here / "marked/sub") == [] and (here / "marked/a").read_text() == "again"
    shutil.rmtree(here / "marked")
    os.mkdir(here / "marked")
    assert os.listdir(here / "marked") == []
    plenum.run("umount", here)


def test_marks_are_private(plenum):
    """The marks of a union are not seen through it, nor can they be set: what is set is another one's, escaped as
    overlayfs does, so that unions may stand on unions."""
    low, up, work, ours, here, there = (plenum.dir(x) for x in ("low", "up", "work", "ours", "here", "there"))
    for d in ("dir", "other"):
        (low / d).mkdir()
        (low / d / "f").write_text("below")
    os.setxattr(low / "dir", "trusted.overlay.origin", b"?")
    os.setxattr(low / "dir", "trusted.overlay.overlay.opaque", b"n")
    os.setxattr(low / "dir", "trusted.overlay.overlay.overlay.deep", b"d")
    os.setxattr(low / "dir", "user.overlay.overlay.foo", b"u")
    os.setxattr(low / "dir", "user.plenum.origin", b"17")
    mount_overlay(here, f"lowerdir={low}", f"upperdir={up}", f"workdir={work}")
    plenum.run("mount", f"union({ours},{low})", there)

    def all_of(d):
        return {x: os.getxattr(d, x) for x in os.listxattr(d) if x.startswith("trusted")}

    def each(name, value):
        got = []
        for top in (here, there):
            os.setxattr(top / "dir", name, value)
            os.setxattr(top / "dir/f", name, value)
            got.append((all_of(top / "dir"), all_of(top / "dir/f"), sorted(os.listdir(top / "dir"))))
        return got

    assert all_of(there / "dir") == all_of(here / "dir") == {"trusted.overlay.opaque": b"n",
                                                             "trusted.overlay.overlay.deep": b"d"}
    assert os.getxattr(there / "dir", "user.overlay.foo") == b"u"
    assert "user.plenum.origin" not in os.listxattr(there / "dir")
    with pytest.raises(OSError) as e:
        os.setxattr(there / "dir", "user.plenum.origin", b"1")
    assert e.value.errno == errno.EOPNOTSUPP
    for name, value in (("trusted.overlay.opaque", b"y"), ("trusted.overlay.whiteout", b""), ("trusted.overlay.redirect", b"/other")):
        kernel, got = each(name, value)
        assert got == kernel
    for top in (here, there):
        os.removexattr(top / "dir", "trusted.overlay.opaque")
        with pytest.raises(OSError) as e:
            os.removexattr(top / "dir", "trusted.overlay.opaque")
        assert e.value.errno == errno.ENODATA
        with pytest.raises(OSError) as e:
            os.getxattr(top / "dir", "trusted.overlay.origin")
        assert e.value.errno == errno.ENODATA
    assert all_of(here / "dir") == all_of(there / "dir")
    assert os.getxattr(ours / "dir", "trusted.overlay.overlay.redirect") == b"/other"
    subprocess.run(["umount", here], check=True)
    plenum.run("umount", there)
    plenum.run("mount", f"union({ours},{low})", there)
    assert sorted(os.listdir(there / "dir")) == ["f"]
    plenum.run("umount", there)


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
    a, f = plenum.dir("a"), plenum.tmp / "f"
    f.write_text("a file")
    for spec, text in ((f"union()", "a SPEC is missing"), (f"union({a},)", "a SPEC is missing"),
                       (f"union(del=never,{a})", "del=whiteout or del=classic"), (f"union({a},nosuch:)", "plenum help spec"),
                       (f"union(work=x,{a})", "union(work=...): no such option (ro, del=whiteout, del=classic;"),
                       (f"union(ro,opt=1,{a})", "no such option"), (f"union({a}", "")):
        assert text in plenum.error("ls", spec, rc=2), spec
        assert text in plenum.error("mount", spec, a, rc=2), spec
    here = plenum.dir("here")
    for spec, text in ((f"union({f},{a})", f"{f}: not a directory"), (f"union({a},{f})", f"{f}: not a directory"),
                       (f"union({a},{a}/none)", f"{a}/none: no such directory"),
                       (f"union({','.join(['mem:'] * 33)})", "more than 32 trees (make a union of some")):
        assert text in plenum.error("ls", spec), spec
        assert text in plenum.error("mount", spec, here), spec
    plenum.run("ls", f"union({','.join(['mem:'] * 32)})")
    assert plenum.run("ls", f"union(ro,{a},mem:)").out == ""
    (plenum.tmp / "b=c").mkdir()
    assert plenum.run("ls", "union(./b=c,mem:)").out == ""
    assert "ead-only" in plenum.error("mkdir", f"union(ro,{a})", "/x")


def test_union_of_itself(plenum):
    """The mount as a layer of itself, once there is one: whoever looks is told, and nobody waits for himself."""
    a, here = plenum.dir("a"), plenum.dir("here")
    (a / "f").write_text("below")
    plenum.run("mount", f"union({a},{plenum.dir('b')})", here)
    p = plenum.run("mount", f"union({here},{a})", here, rc=None, timeout=20)
    assert p.returncode == 1 and str(here) in p.err and "(" in p.err, p.err
    assert (here / "f").read_text() == "below"
    plenum.run("umount", here)
