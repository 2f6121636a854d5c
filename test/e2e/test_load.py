# SPDX-License-Identifier: MIT
"""Real programs, large directories, many at once, two clients on a server; and doing nothing."""
import fcntl
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time

import pytest
from conftest import alive, fuse, mounted, root, wait_for
from places import Place, place, tool  # noqa: F401 (place is a fixture)
from test_duct import Pair
from test_linux import append, as_user, check_appended, in_child

pytestmark = [fuse, root]
FSX = pathlib.Path(os.environ.get("FSX", tool("fsx")))
OPS = os.environ.get("FSX_OPS", "3000")


def all_end_well(*jobs):
    """jobs: process ids."""
    assert [os.waitpid(p, 0)[1] for p in jobs] == [0] * len(jobs)


def run(*argv, **kw):
    kw.setdefault("timeout", 50)
    p = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)
    out = p.stdout.decode(errors="replace")
    assert p.returncode == 0, f"{argv}: status {p.returncode}\n{out[-4000:]}"
    return out


# ---- fsx


@pytest.mark.skipif(not FSX.exists(), reason="fsx is not built")
def test_fsx(place):
    run(FSX, "--ops", OPS, "--seed", "11", "--path", place.dir)


@pytest.mark.skipif(not FSX.exists(), reason="fsx is not built")
def test_fsx_at_both_ends_of_a_duct(plenum):
    pair = Pair(plenum, "socketpair")
    for d in pair.at:
        (d / "fsx").mkdir()
    jobs = [subprocess.Popen([FSX, "--ops", OPS, "--seed", str(s), "--path", d / "fsx"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for s, d in zip((3, 4), pair.at)]
    for j in jobs:
        out, _ = j.communicate(timeout=50)
        assert j.returncode == 0, out.decode()
    pair.end()


# ---- random operations on the tree, against the same in a directory without us


def observed(path):
    st = os.lstat(path)
    what = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid]
    if not stat.S_ISDIR(st.st_mode):
        what += [st.st_nlink, st.st_size]
    if stat.S_ISLNK(st.st_mode):
        what.append(os.readlink(path))
    elif stat.S_ISREG(st.st_mode):
        with open(path, "rb") as f:
            what.append(hashlib.md5(f.read()).hexdigest())
    elif stat.S_ISDIR(st.st_mode):
        what.append(sorted(os.listdir(path)))
    return what


def whole(top):
    found = {".": observed(top)}
    for path, dirs, files in os.walk(top):
        for n in dirs + files:
            full = os.path.join(path, n)
            found[os.path.relpath(full, top)] = observed(full)
    return found


class Both:
    """Does everything in two directories; results and errors must be the same."""

    def __init__(self, one, two, seed):
        self.tops = [str(one), str(two)]
        self.rnd = random.Random(seed)
        self.said = []

    def do(self, what, f):
        results = []
        for top in self.tops:
            try:
                r = f(top)
            except OSError as e:
                r = f"errno {e.errno}"
            results.append(r)
        self.said.append(f"{what}: {results[0]}")
        assert results[0] == results[1], "\n".join(self.said[-15:]) + f"\nbelow: {results[1]}"
        return results[0]

    def name(self):
        """Few of them, so that they meet; some lead through files, symlinks and nothing."""
        depth = self.rnd.choice((1, 1, 2, 2, 3))
        return "/".join(self.rnd.choice("abcd") for _ in range(depth))

    def step(self):
        r, a, b = self.rnd, self.name(), self.name()
        n, off = r.randrange(1, 20000), r.randrange(0, 30000)
        bits = r.choice((0o600, 0o644, 0o755, 0o4711, 0o700, 0o1777))
        data = r.randbytes(n)

        def rw(top, flags):
            fd = os.open(f"{top}/{a}", flags | os.O_NONBLOCK, bits)
            try:
                if flags & os.O_ACCMODE == os.O_RDONLY:
                    return os.pread(fd, n, off)
                return os.pwrite(fd, data, off), os.fstat(fd).st_size
            finally:
                os.close(fd)

        def rename2(top):
            fd = os.open(top, os.O_RDONLY)
            try:
                return run_rename(top, a, b, r2)
            finally:
                os.close(fd)

        r2 = r.choice((1, 2))
        flags = r.choice((os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                          os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_NOFOLLOW,
                          os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        kind = r.choices(("mkdir", "rw", "rename", "rename2", "unlink", "rmdir", "link", "symlink",
                          "truncate", "chmod", "chown", "stat", "list", "xattr", "utime", "mknod"),
                         (8, 14, 8, 4, 3, 3, 5, 5, 4, 4, 2, 10, 4, 4, 3, 2))[0]
        self.do(f"{kind} {a} {b} {flags:#o} {bits:#o} {n} {off}", {
            "mkdir": lambda t: os.mkdir(f"{t}/{a}", bits & 0o777 | 0o300),
            "rw": lambda t: rw(t, flags),
            "rename": lambda t: os.rename(f"{t}/{a}", f"{t}/{b}"),
            "rename2": rename2,
            "unlink": lambda t: os.unlink(f"{t}/{a}"),
            "rmdir": lambda t: os.rmdir(f"{t}/{a}"),
            "link": lambda t: os.link(f"{t}/{a}", f"{t}/{b}", follow_symlinks=False),
            "symlink": lambda t: os.symlink(r2 * "../" + b, f"{t}/{a}"),
            "truncate": lambda t: os.truncate(f"{t}/{a}", off),
            "chmod": lambda t: os.chmod(f"{t}/{a}", bits),
            "chown": lambda t: os.chown(f"{t}/{a}", n % 3, off % 3, follow_symlinks=bool(n & 1)),
            "stat": lambda t: observed(f"{t}/{a}"),
            "list": lambda t: sorted(os.listdir(f"{t}/{a}")),
            "xattr": lambda t: (os.setxattr(f"{t}/{a}", "user.x", data[:10]), os.listxattr(f"{t}/{a}")),
            "utime": lambda t: (os.utime(f"{t}/{a}", ns=(n, off)), os.stat(f"{t}/{a}").st_mtime_ns),
            "mknod": lambda t: os.mknod(f"{t}/{a}", stat.S_IFIFO | 0o600),
        }[kind])


def run_rename(top, a, b, flags):
    from test_linux import renameat2
    return renameat2(f"{top}/{a}", f"{top}/{b}", flags)


def test_random_operations(place):
    """Four processes, each in a part of its own, each step compared."""
    steps, seed = int(os.environ.get("STEPS", 700)), int(os.environ.get("SEED", 1))
    shadow = place.plenum.dir("shadow")

    def work(i):
        signal.alarm(50)
        # So deep that symlinks with .. do not lead to where another process is.
        both = Both(place.dir / f"p{i}/x/y", shadow / f"p{i}/x/y", seed * 100 + i)
        for top in both.tops:
            os.makedirs(top)
        for _ in range(steps):
            both.step()
        assert whole(both.tops[0]) == whole(both.tops[1])

    jobs = [in_child(lambda i=i: work(i)) for i in range(4)]
    all_end_well(*jobs)
    assert whole(place.dir) == whole(shadow)
    if place.below and place.below != place.dir:
        assert whole(place.below) == whole(shadow)
    run("rm", "-rf", *os.scandir(place.dir))


# ---- large directories


@pytest.mark.alone
def test_10000_files(place):
    d = place.dir / "many"
    d.mkdir()
    names = [f"file-{i:05}-{'x' * (i % 60)}" for i in range(10_000)]
    for n in names:
        os.close(os.open(d / n, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert sorted(os.listdir(d)) == names
    inodes = {e.name: e.inode() for e in os.scandir(d)}
    assert len(set(inodes.values())) == 10_000
    for n in names[::10]:
        assert os.stat(d / n).st_ino == inodes[n]
    assert len(run("ls", "-l", d).splitlines()) == 10_001
    # What is there throughout is listed once, whatever comes and goes meanwhile.
    seen = []
    with os.scandir(d) as it:
        for k, e in enumerate(it):
            seen.append(e.name)
            if k % 4 == 0 and 2 * k + 1 < len(names):
                os.unlink(d / names[2 * k + 1])
                os.close(os.open(d / f"new-{k}", os.O_CREAT | os.O_WRONLY))
    assert len(set(seen)) == len(seen)
    left = set(os.listdir(d))
    assert left & set(names) <= set(seen)
    for n in sorted(left)[:1000]:
        os.rename(d / n, d / f"renamed-{n}")
    assert len(os.listdir(d)) == len(left)
    run("rm", "-r", d)
    assert os.listdir(place.dir) == []


def test_removed_while_listed(place):
    """rm -r does so: nothing stays behind."""
    for i in range(3000):
        (place.dir / f"{i}").touch()
    for e in os.scandir(place.dir):
        os.unlink(e.path)
    assert os.listdir(place.dir) == []


# ---- programs


def test_tar(place):
    src = place.plenum.dir("src")
    for i in range(30):
        d = src / f"d{i}"
        d.mkdir()
        for j in range(10):
            (d / f"f{j}").write_bytes(random.Random(i * 10 + j).randbytes(j * 3001))
            os.chown(d / f"f{j}", i, j)
            (d / f"f{j}").chmod(0o600 + j)
        os.link(d / "f3", d / "hard")
        os.symlink("f4", d / "soft")
    os.mkfifo(src / "fifo")
    run("tar", "-C", src, "-cf", place.plenum.tmp / "x.tar", ".")
    run("tar", "-C", place.dir, "-xpf", place.plenum.tmp / "x.tar")
    assert run("tar", "-C", place.dir, "-df", place.plenum.tmp / "x.tar") == ""
    assert whole(place.dir) == whole(src)
    run("tar", "-C", place.dir, "-cf", place.dir / "y.tar", "--exclude=y.tar", ".")
    assert run("tar", "-C", src, "-df", place.dir / "y.tar") == ""


@pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync")
def test_rsync(place):
    src = place.plenum.dir("src")
    for i in range(100):
        (src / f"f{i}").write_bytes(os.urandom(i * 100))
        os.utime(src / f"f{i}", ns=(i * 10**9 + i, i * 10**9 + 7 * i))
        if i % 10 == 0:
            os.setxattr(src / f"f{i}", "user.n", b"%d" % i)
            os.link(src / f"f{i}", src / f"h{i}")
            os.symlink(f"f{i}", src / f"s{i}")
    flags = "-aHX" if place.kind == "mem" else "-aHAX"
    if place.kind != "mem":
        run("setfacl", "-m", "u:123:rw", src / "f7")
        run("setfacl", "-d", "-m", "u:123:rw", src)
    os.mknod(src / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with open(src / "sparse", "wb") as f:
        f.truncate(50 << 20)
    run("rsync", flags, "--sparse", f"{src}/", f"{place.dir}/")
    assert run("rsync", flags, "-n", "-i", "--checksum", "--delete", f"{src}/", f"{place.dir}/") == ""
    assert run("rsync", flags, "-n", "-i", "--checksum", "--delete", f"{place.dir}/", f"{src}/") == ""
    (src / "f9").write_text("changed")
    (src / "f8").unlink()
    run("rsync", flags, "--inplace", "--delete", f"{src}/", f"{place.dir}/")
    assert run("rsync", flags, "-n", "-i", "--checksum", "--delete", f"{src}/", f"{place.dir}/") == ""


def sources(d, n=16):
    """A small program in n + 1 files."""
    for i in range(n):
        (d / f"m{i}.c").write_text(f'#include "all.h"\nint m{i}(int x) {{ return x * {i} + 1; }}\n')
    (d / "all.h").write_text("".join(f"int m{i}(int);\n" for i in range(n)))
    calls = " + ".join(f"m{i}({i})" for i in range(n))
    (d / "main.c").write_text(f'#include "all.h"\nint main(void) {{ return ({calls}) % 100; }}\n')
    (d / "Makefile").write_text("OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n"
                                "\t$(CC) -o $@ $^\n$(OBJ): all.h\nclean:\n\trm -f prog *.o\n")
    return sum(i * i + 1 for i in range(n)) % 100


@pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("make"), reason="no compiler")
def test_make(place):
    status = sources(place.dir)
    run("make", "-j2", "CFLAGS=-O0", cwd=place.dir)
    assert subprocess.run([place.dir / "prog"]).returncode == status
    assert "up to date" in run("make", cwd=place.dir)
    (place.dir / "m3.c").write_text('#include "all.h"\nint m3(int x) { return x; }\n')
    out = run("make", "CFLAGS=-O0", cwd=place.dir)
    assert out.count("-c") == 1
    run("make", "clean", cwd=place.dir)


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_git(place):
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
               GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a",
               GIT_COMMITTER_EMAIL="a@b", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory",
               GIT_CONFIG_VALUE_0="*")
    src = place.plenum.dir("src")

    def git(d, *args):
        return run("git", "-C", d, *args, env=env)

    git(src, "init", "-q")
    for k in range(5):
        sources(src, 5 + k)
        (src / f"bin{k}").write_bytes(random.Random(k).randbytes(100_000))
        (src / "link").unlink(missing_ok=True)
        os.symlink(f"bin{k}", src / "link")
        git(src, "add", ".")
        git(src, "commit", "-q", "-m", f"number {k}")
    clone = place.dir / "clone"
    git("/", "clone", "-q", f"file://{src}", clone)
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == git(src, "rev-parse", "HEAD")
    git(clone, "checkout", "-q", "-b", "topic", "HEAD~3")
    (clone / "m1.c").write_text("changed\n")
    assert git(clone, "status", "--porcelain") == " M m1.c\n"
    git(clone, "commit", "-q", "-a", "-m", "mine")
    git(clone, "merge", "-q", "-X", "ours", "-m", "merged", "origin/HEAD")
    git(clone, "gc", "-q", "--prune=now")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git("/", "clone", "-q", clone, place.dir / "local clone")  # by hard links
    git(place.dir / "local clone", "fsck")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(place, journal):
    path = place.dir / "db"

    def connect():
        c = sqlite3.connect(path, timeout=60, isolation_level=None)
        c.execute("pragma synchronous=normal")
        return c

    c = connect()
    assert c.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
    c.execute("create table t (who, n, pad)")
    c.execute("create index i on t (pad)")
    c.close()

    def work(who):
        rnd, c = random.Random(who), connect()
        for n in range(40):
            c.execute("begin immediate")
            last = c.execute("select max(n) from t where who=?", (who,)).fetchone()[0]
            assert last == (n - 1 if n else None)
            for _ in range(5):
                c.execute("insert into t values (?, ?, ?)", (who, n, rnd.randbytes(300).hex()))
            c.execute("rollback" if n % 7 == 6 else "commit")
            if n % 7 == 6:  # done again, and for good
                c.execute("insert into t values (?, ?, '')", (who, n))
        c.close()

    all_end_well(*[in_child(lambda w=w: work(w)) for w in range(3)])
    c = connect()
    assert c.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert c.execute("select count(*), count(distinct who || ' ' || n) from t").fetchone() == (540, 120)
    c.execute("vacuum")
    assert c.execute("pragma integrity_check").fetchall() == [("ok",)]
    c.close()


# ---- two clients on one server


class Two:
    """Two mounts of one server. With options timeout=0 nothing is believed without asking."""

    def __init__(self, plenum, spec=None, options="timeout=0"):
        self.plenum, self.below = plenum, plenum.dir("below")
        self.server = plenum.serve(spec or self.below, "unix!s.sock")
        self.at = [plenum.dir("one"), plenum.dir("two")]
        for d in self.at:
            plenum.run("mount", "-o", options, "9p:unix!s.sock", d)

    def end(self):
        for d in self.at:
            if mounted(d):
                self.plenum.run("umount", d)
        self.server.terminate()
        self.plenum.ended(self.server, 0)


@pytest.fixture(params=["host", "mem"])
def two(request, plenum):
    t = Two(plenum, None if request.param == "host" else "mem:")
    yield t
    t.end()


def race(n, works):
    """Each of the works goes through the same n rounds: the rounds that each has won."""
    pipes, pids = [], []
    go_r, go_w = os.pipe()
    for w in works:
        r, out = os.pipe()

        def child(w=w, out=out):
            os.read(go_r, 1)
            for i in range(n):
                try:
                    w(i)
                    os.write(out, b"%d\n" % i)
                except (FileExistsError, FileNotFoundError):
                    pass

        pids.append(in_child(child))
        os.close(out)
        pipes.append(r)
    os.write(go_w, b"x" * len(works))
    os.close(go_w)
    os.close(go_r)
    won = []
    for r in pipes:
        with open(r) as f:
            won.append([int(x) for x in f.read().split()])
    all_end_well(*pids)
    return won


@pytest.mark.parametrize("what", ["create", "mkdir", "link", "rename", "take"])
def test_exactly_one_wins(two, what):
    from test_linux import renameat2
    n = 300
    two_dirs = [d for d in two.at for _ in range(2)]
    for k in range(len(two_dirs)):
        (two.at[0] / f"mine{k}").touch()
    if what == "take":
        for i in range(n):
            (two.at[0] / f"x{i}").touch()

    def work(k, d, i):
        if what == "create":
            fd = os.open(d / f"x{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(fd, b"%d" % k)
            os.close(fd)
        elif what == "mkdir":
            os.mkdir(d / f"x{i}")
        elif what == "link":
            os.link(d / f"mine{k}", d / f"x{i}")
        elif what == "rename":
            (d / f"own{k}").touch()
            renameat2(d / f"own{k}", d / f"x{i}", 1)
        else:
            os.rename(d / f"x{i}", d / f"taken{i} by {k}")

    won = race(n, [lambda i, k=k, d=d: work(k, d, i) for k, d in enumerate(two_dirs)])
    assert sorted(itertools.chain(*won)) == list(range(n))
    for k, rounds in enumerate(won):
        for i in rounds:
            if what == "create":
                assert (two.at[k % 2] / f"x{i}").read_text() == str(k)
            if what == "take":
                assert (two.at[k % 2] / f"taken{i} by {k}").exists()


def test_what_one_does_the_other_sees(two):
    """Without delay: neither caches what it has not asked for again."""
    one, other = two.at
    for i in range(30):
        (one / "f").write_text(f"round {i}" * 1000)
        assert (other / "f").read_text() == f"round {i}" * 1000
        (other / "f").write_text(f"other {i}" * 1000)  # as long as it was
        assert (one / "f").read_text() == f"other {i}" * 1000
        os.rename(one / "f", one / f"g{i}")
        assert not (other / "f").exists() and (other / f"g{i}").exists()
        os.mkdir(other / f"d{i}")
        assert os.listdir(one / f"d{i}") == [] and f"d{i}" in os.listdir(one)
        (one / f"d{i}/sub").touch()
        assert os.listdir(other / f"d{i}") == ["sub"]
        os.unlink(other / f"d{i}/sub")
        os.rmdir(one / f"d{i}")
        assert not (other / f"d{i}").exists()
        os.chmod(one / f"g{i}", 0o640)
        assert stat.S_IMODE(os.stat(other / f"g{i}").st_mode) == 0o640
        os.rename(other / f"g{i}", other / "f")
    with open(one / "f", "r+b", buffering=0) as w, open(other / "f", "rb", buffering=0) as r:
        for i in range(30):  # both stay open; what was read before is not believed either
            w.seek(0)
            w.write(b"%06d" % i)
            os.fsync(w.fileno())  # it is on its way before, and others see it when it has arrived
            r.seek(0)
            assert r.read(6) == b"%06d" % i
        os.truncate(other / "f", 3)
        assert os.fstat(w.fileno()).st_size == 3
        os.unlink(one / "f")
        if two.below and os.listdir(two.below):
            assert os.fstat(r.fileno()).st_nlink == 0
        r.seek(0)
        assert r.read() == b"000"


def test_seen_with_the_usual_timeouts(plenum):
    t = Two(plenum, options="noatime")
    one, other = t.at
    (one / "f").write_text("a")
    (one / "g").write_text("g")
    assert (other / "f").read_text() == "a" and (other / "g").exists() and not (other / "new").exists()
    (one / "f").write_text("bb")
    (one / "new").write_text("new")
    os.unlink(one / "g")
    wait_for(lambda: (other / "f").read_text() == "bb", "the content is not seen")
    wait_for(lambda: (other / "new").exists(), "a new file is not seen")
    wait_for(lambda: not (other / "g").exists(), "a removal is not seen")
    (other / "f").write_text("cc")  # the size stays
    wait_for(lambda: (one / "f").read_text() == "cc", "content of the same size is not seen")
    t.end()


def test_appended_by_two_clients(two):
    f = [d / "log" for d in two.at]
    f[0].touch()
    all_end_well(*[in_child(lambda k=k, w=w: append(f[k], w, 400)) for k, w in enumerate((b"a", b"b"))])
    check_appended(f[0].read_bytes(), 400)


LOCKS = {"fcntl": fcntl.lockf, "flock": fcntl.flock}


@pytest.mark.parametrize("how", LOCKS)
def test_locks_between_clients(two, how):
    take = LOCKS[how]
    f, g = (d / "l" for d in two.at)
    f.write_text("0")
    with open(f, "r+") as mine, open(g, "r+") as his:
        take(mine, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            take(his, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            take(his, fcntl.LOCK_SH | fcntl.LOCK_NB)
        take(mine, fcntl.LOCK_SH)
        take(his, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            take(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        take(his, fcntl.LOCK_UN)
        take(mine, fcntl.LOCK_UN)

    def count(path):
        for _ in range(60):
            with open(path, "r+") as x:
                take(x, fcntl.LOCK_EX)
                n = int(x.read())
                x.seek(0)
                x.write(str(n + 1))
                x.truncate()
                x.flush()  # closing gives the lock back

    all_end_well(*[in_child(lambda p=p: count(p)) for p in (f, g, f, g)])
    assert f.read_text() == "240"


@pytest.mark.parametrize("how", LOCKS)
@pytest.mark.parametrize("who", ["process", "server", "keeper"])
def test_locks_of_the_dead(plenum, how, who):
    t = Two(plenum)
    take = LOCKS[how]
    f, g = (d / "l" for d in t.at)
    f.touch()
    r, w = os.pipe()

    def holds():
        x = open(g, "r+")
        take(x, fcntl.LOCK_EX)
        os.write(w, b"x")
        signal.pause()

    holder = in_child(holds)
    os.read(r, 1)
    with open(f, "r+") as x:
        with pytest.raises(BlockingIOError):
            take(x, fcntl.LOCK_EX | fcntl.LOCK_NB)
    e = plenum.entry(t.at[1])

    def waits():
        with open(f, "r+") as x:
            take(x, fcntl.LOCK_EX)

    waiter = in_child(waits)
    wait_for(lambda: plenum.entry(t.at[0])["waiting"] > 0, "nobody waits")
    os.kill(holder if who == "process" else e[who], signal.SIGKILL)
    all_end_well(waiter)
    if who != "process":
        os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    if who == "keeper":
        plenum.dead(t.at[1])
    if who != "process":
        wait_for(lambda: not mounted(t.at[1]))
    os.close(r)
    os.close(w)
    t.end()


# ---- both directions at once


def stream(d, seed, n, size):
    """Writes n files in d, reads each back past the cache."""
    rnd = random.Random(seed)
    for k in range(n):
        data = rnd.randbytes(size)
        path = d / f"{seed}-{k}"
        with open(path, "wb", buffering=0) as f:
            for i in range(0, size, 300_000):
                assert f.write(data[i:i + 300_000]) == len(data[i:i + 300_000])
            os.fsync(f.fileno())
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got = hashlib.md5()
        while chunk := os.read(fd, 1 << 20):
            got.update(chunk)
        os.close(fd)
        assert got.digest() == hashlib.md5(data).digest()


def fuss(d, seed, n):
    """Small requests meanwhile."""
    sub = d / f"fuss{seed}"
    for k in range(n):
        sub.mkdir()
        for j in range(10):
            (sub / f"{j}").write_text(f"{k}")
        assert len(os.listdir(sub)) == 10
        shutil.rmtree(sub)


@pytest.mark.parametrize("how", ["socketpair", "pipes", "tcp", "small_socketpair"])
def test_saturated(plenum, how):
    if how == "small_socketpair":
        def small(self, dirs, at):
            s, t = socket.socketpair()
            with s, t:
                for x in s, t:
                    x.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                    x.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self.a = self.plenum.start("duct", dirs[0], at[0], stdin=s, stdout=s)
                self.b = self.plenum.start("duct", dirs[1], at[1], stdin=t, stdout=t)
        Pair.small_socketpair = small
    pair = Pair(plenum, how)
    jobs = []
    for end in 0, 1:
        for k in range(3):
            jobs.append(in_child(lambda e=end, k=k: stream(pair.at[e], f"{e}{k}", 2, 2_500_007)))
        jobs.append(in_child(lambda e=end: fuss(pair.at[e], e, 10)))
    all_end_well(*jobs)
    for end in 0, 1:
        for k in range(3):
            rnd = random.Random(f"{end}{k}")
            for i in range(2):
                data = (pair.dirs[1 - end] / f"{end}{k}-{i}").read_bytes()
                assert data == rnd.randbytes(2_500_007)
    pair.end()


def test_many_readers_of_one_mount(place):
    """Fifty processes on a mount of sixteen threads."""
    blob = os.urandom(300_000)
    for i in range(10):
        (place.dir / f"{i}").write_bytes(blob)

    def work(k):
        for i in range(10):
            fd = os.open(place.dir / f"{(i + k) % 10}", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.read(fd, 400_000) == blob
            os.close(fd)
            (place.dir / f"w{k}-{i}").write_text(str(k))

    all_end_well(*[in_child(lambda k=k: work(k)) for k in range(50)])
    assert len(os.listdir(place.dir)) == 510


# ---- idle


def switches(*pids):
    total = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
    return total


@pytest.mark.alone
def test_idle_mounts_sleep(plenum):
    """No context switch of any thread of a server while nothing happens; its keeper looks ever more seldom
    whether it hangs."""
    host, t = Place(plenum, "host", "h"), Two(plenum)
    pair = Pair(plenum, "tcp", export=("A", "B"), at=("at_a", "at_b"))
    pids, keepers = [t.server.pid], []
    for d in [host.dir, *t.at, *pair.at]:
        (d / "x").write_text("used")
        os.listdir(d)
        e = plenum.entry(d)
        pids += [e["server"], e["nursery"]] if e["nursery"] else [e["server"]]
        keepers.append(e["keeper"])

    def asleep():
        before, looked = switches(*pids), [switches(k) for k in keepers]
        time.sleep(2)
        return switches(*pids) == before and all(switches(k) <= n + 1 for k, n in zip(keepers, looked))

    wait_for(asleep, "something keeps waking up")
    host.end()
    t.end()
    pair.end()
    wait_for(lambda: not any(map(alive, pids + keepers)))
