# SPDX-License-Identifier: MIT
"""Loads for the fault drills: each works on a directory of a mount and knows what must hold.

A load is a function load(d): `d.dir` is a fresh directory in the mount, `d.back` the same one in the
tree below, `d.scratch` a native directory, `d.over()` turns true when the drill has done what it came
for; whole rounds are repeated until then. It raises an exception on any failed call, wrong byte or
broken promise. `children` of it are ended by whoever runs it.
"""
import ctypes
import errno
import fcntl
import hashlib
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import threading
import time


def run(d, *cmd, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    kw.setdefault("cwd", d.scratch)
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, **kw)
    if p.returncode:
        raise AssertionError(f"{cmd[0]} ended with status {p.returncode}:\n{p.stdout.decode(errors='replace')[-3000:]}")
    return p.stdout


def rounds(d):
    """Fresh directories, until the drill is over; at least one."""
    n = 0
    while n == 0 or not d.over():
        path = f"{d.dir}/r{n}"
        os.mkdir(path)
        yield path
        shutil.rmtree(path)
        n += 1


def together(d, *work):
    """Runs functions in threads; the first exception is the result."""
    failed = []

    def one(fn):
        try:
            fn()
        except BaseException as e:  # noqa: it is told by whoever joins
            failed.append(e)

    threads = [threading.Thread(target=one, args=(fn,)) for fn in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]


# ---- programs that verify by themselves ----------------------------------------------------------

def fsx(d):
    for path in rounds(d):
        without = [] if getattr(d, "nameless", True) else ["--without", "orphans"]
        run(d, d.fsx, *without, "--ops", "4000", "--seed", random.randrange(1 << 30), "--path", path)


def fio(d):
    for path in rounds(d):
        run(d, "fio", "--name=verify", f"--directory={path}", "--rw=randrw", "--bs=4k", "--size=4m", "--numjobs=2",
            "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=64", "--output-format=terse")


def dbench(d):
    for path in rounds(d):
        out = run(d, "dbench", "-D", path, "-c", "/usr/share/dbench/client.txt" if
                  os.path.exists("/usr/share/dbench/client.txt") else "/usr/share/doc/dbench/loadfiles/client.txt",
                  "-t", "6", "--skip-cleanup", "2")
        out = out.replace(b"failed to create barrier semaphore", b"")
        if b"failed" in out.lower() or b"ERROR" in out:
            raise AssertionError(out.decode(errors="replace")[-3000:])


# So many bogo ops, and not seconds: at the end of its time stress-ng interrupts what it is in, and who is
# interrupted while a link is down gets EINTR, as is promised.
STRESS = {
    "dentry": ["--dentries", "100", "--dentry-ops", "500"],
    "dir": ["--dir-dirs", "100", "--dir-ops", "3"],
    "rename": ["--rename-ops", "400"],
    "utime": ["--utime-ops", "40"],
    "chmod": ["--chmod-ops", "10"],
    "flock": ["--flock-ops", "300"],
    "lockf": ["--lockf-ops", "300"],
    "xattr": ["--xattr-ops", "5"],
}
STRESS_NAMELESS = {
    "hdd": ["--hdd-bytes", "4m", "--hdd-ops", "400"],
    "fallocate": ["--fallocate-bytes", "4m", "--fallocate-ops", "5"],
    "seek": ["--seek-size", "4m", "--seek-ops", "200"],
}


def stress(d):
    kinds = dict(STRESS, **STRESS_NAMELESS if getattr(d, "nameless", True) else {})
    for path in rounds(d):
        cmd = ["stress-ng", "--temp-path", path, "-t", "0", "--verify", "--no-rand-seed"]
        for k in random.sample(sorted(kinds), 5):
            cmd += [f"--{k}", "1"] + kinds[k]
        run(d, *cmd)


def untar(d):
    archive = f"{d.scratch}/include.tar"
    run(d, "tar", "-cf", archive, "-C", "/usr/include", "linux", "asm-generic")
    for path in rounds(d):
        run(d, "tar", "-xf", archive, "-C", path)
        run(d, "diff", "-r", "/usr/include/linux", f"{path}/linux")
        run(d, "diff", "-r", "/usr/include/asm-generic", f"{path}/asm-generic")


def git(d):
    env = dict(os.environ, GIT_CONFIG_NOSYSTEM="1", HOME=d.scratch, GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b",
               GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")
    first = f"{d.scratch}/first"
    if not os.path.exists(first):
        os.mkdir(first)
        run(d, "git", "init", "-q", first, env=env)
        for i in range(200):
            os.makedirs(f"{first}/d{i % 10}", exist_ok=True)
            with open(f"{first}/d{i % 10}/f{i}", "w") as f:
                f.write(f"{i}\n" * (i + 1))
        run(d, "git", "-C", first, "add", ".", env=env)
        run(d, "git", "-C", first, "commit", "-qm", "all", env=env)
    for path in rounds(d):
        run(d, "git", "clone", "-q", "--no-hardlinks", first, f"{path}/c", env=env)
        run(d, "git", "-C", f"{path}/c", "fsck", "--full", env=env)
        for i in range(5):
            with open(f"{path}/c/d{i}/new", "w") as f:
                f.write(str(i))
            run(d, "git", "-C", f"{path}/c", "add", ".", env=env)
            run(d, "git", "-C", f"{path}/c", "commit", "-qm", f"n{i}", env=env)
        if run(d, "git", "-C", f"{path}/c", "status", "--porcelain", env=env):
            raise AssertionError("git status: not clean")
        run(d, "git", "-C", f"{path}/c", "gc", "-q", env=env)
        run(d, "git", "-C", f"{path}/c", "fsck", "--full", env=env)


def compiling(d):
    def build(where):
        out = []
        for n in range(12):
            with open(f"{where}/f{n}.c", "w") as f:
                f.write(f'#include <stdio.h>\n#include "h.h"\nint f{n}(int x) {{ return x * {n} + H; }}\n')
        with open(f"{where}/h.h", "w") as f:
            f.write("#define H 7\n")
        for n in range(12):
            run(d, "gcc", "-O1", "-c", f"f{n}.c", "-o", f"f{n}.o", cwd=where)
            with open(f"{where}/f{n}.o", "rb") as f:
                out.append(hashlib.sha256(f.read()).hexdigest())
        run(d, "sh", "-c", "ar rc lib.a f*.o && ranlib lib.a && ar t lib.a", cwd=where)
        return out

    native = f"{d.scratch}/native"
    os.makedirs(native, exist_ok=True)
    want = build(native)
    for path in rounds(d):
        if build(path) != want:
            raise AssertionError("compiled objects differ from those compiled natively")


def sqlite(d):
    for path in rounds(d):
        db = sqlite3.connect(f"{path}/db", timeout=60, isolation_level=None)
        mode = random.choice(["delete", "truncate", "persist"])
        db.execute(f"pragma journal_mode={mode}")
        db.execute("create table t(id integer primary key, v blob)")
        for i in range(60):
            db.execute("begin immediate")
            for _ in range(5):
                db.execute("insert into t(v) values(?)", (os.urandom(300),))
            db.execute("commit")
        n = db.execute("select count(*) from t").fetchone()[0]
        check = db.execute("pragma integrity_check").fetchone()[0]
        db.close()
        if n != 300 or check != "ok":
            raise AssertionError(f"sqlite: {n} rows, integrity: {check}")


# ---- models --------------------------------------------------------------------------------------

def exclusive(d):
    """Operations that may be done once only: each must succeed, and its opposite be refused."""
    def must(err, fn, *a):
        try:
            fn(*a)
        except OSError as e:
            if e.errno == err:
                return
            raise
        raise AssertionError(f"{fn.__name__}{a} succeeded")

    def cycle(path, k):
        a, b, c = f"{path}/a{k}", f"{path}/b{k}", f"{path}/c{k}"
        os.mkdir(a)
        must(errno.EEXIST, os.mkdir, a)
        os.rename(a, b)
        must(errno.ENOENT, os.rename, a, b)
        os.rmdir(b)
        must(errno.ENOENT, os.rmdir, b)
        os.close(os.open(a, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444))
        must(errno.EEXIST, os.open, a, os.O_CREAT | os.O_EXCL)
        os.link(a, b)
        must(errno.EEXIST, os.link, a, b)
        if os.stat(a).st_nlink != 2:
            raise AssertionError(f"{a}: link count {os.stat(a).st_nlink} after link")
        os.symlink("x", c)
        must(errno.EEXIST, os.symlink, "x", c)
        os.setxattr(a, "user.k", b"1", os.XATTR_CREATE)
        must(errno.EEXIST, os.setxattr, a, "user.k", b"2", os.XATTR_CREATE)
        os.removexattr(a, "user.k")
        must(errno.ENODATA, os.removexattr, a, "user.k")
        os.rename(a, c)
        os.unlink(c)
        must(errno.ENOENT, os.unlink, c)
        if os.stat(b).st_nlink != 1:
            raise AssertionError(f"{b}: link count {os.stat(b).st_nlink} after unlink")
        os.unlink(b)

    for path in rounds(d):
        def worker(w):
            for i in range(40):
                cycle(path, f"{w}.{i}")
        together(d, *(lambda w=w: worker(w) for w in range(3)))
        if os.listdir(path):
            raise AssertionError(f"left over: {os.listdir(path)}")


def appends(d):
    """Whole records, each exactly once and in the order of its writer."""
    for path in rounds(d):
        n, writers = 400, 3

        def writer(w):
            fd = os.open(f"{path}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for i in range(n):
                rec = struct.pack("<II", w, i) + bytes([w]) * (i % 50 + 10)
                rec = struct.pack("<I", len(rec)) + rec
                if os.write(fd, rec) != len(rec):
                    raise AssertionError("a short write")
            os.close(fd)

        together(d, *(lambda w=w: writer(w) for w in range(writers)))
        with open(f"{path}/log", "rb") as f:
            data = f.read()
        at, seen = 0, [0] * writers
        while at < len(data):
            size, w, i = struct.unpack_from("<III", data, at)
            if w >= writers or i != seen[w] or data[at + 12:at + 4 + size] != bytes([w]) * (i % 50 + 10):
                raise AssertionError(f"record {i} of writer {w} at {at}: expected {seen}")
            seen[w] += 1
            at += 4 + size
        if seen != [n] * writers:
            raise AssertionError(f"records: {seen}, expected {n} each")


def truncating(d):
    """What was written after a truncation stays, what was before does not come back."""
    for path in rounds(d):
        for i in range(150):
            name = f"{path}/t{i % 7}"
            with open(name, "wb", buffering=0) as f:  # O_TRUNC
                f.write(b"a" * 5000)
                f.truncate(100)
                f.seek(0, 2)
                f.write(b"b" * 50)
            with open(name, "r+b", buffering=0) as f:
                f.truncate(4000)
            want = b"a" * 100 + b"b" * 50 + bytes(3850)
            with open(name, "rb") as f:
                if f.read() != want:
                    raise AssertionError(f"{name}: wrong after truncate")


def give_name(fd, path):
    """linkat(2) of an open file without a name (os.link does not follow the symlink here)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, path.encode(), 0x400):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def unlinked(d):
    """Open files without a name, and directories that are somebody's place, go on."""
    for path in rounds(d):
        fds = []
        for i in range(20):
            fd = os.open(f"{path}/u{i}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, b"%06d" % i)
            if i % 2:
                os.unlink(f"{path}/u{i}")
            else:
                os.rename(f"{path}/u{i}", f"{path}/over")
            fds.append(fd)
        tmp = os.open(path, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(tmp, b"nameless")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for i, fd in enumerate(fds):
                if os.pread(fd, 6, 0) != b"%06d" % i:
                    raise AssertionError(f"unlinked file {i}: wrong content")
                os.pwrite(fd, b"x%05d" % i, 100)
                os.pwrite(fd, b"%06d" % i, 0)
                if os.fstat(fd).st_size != 106:
                    raise AssertionError(f"unlinked file {i}: size {os.fstat(fd).st_size}")
            if os.pread(tmp, 8, 0) != b"nameless":
                raise AssertionError("O_TMPFILE: wrong content")
        give_name(tmp, f"{path}/named")
        with open(f"{path}/named", "rb") as f:
            if f.read() != b"nameless":
                raise AssertionError("a linked O_TMPFILE: wrong content")
        for fd in fds + [tmp]:
            os.close(fd)


def listing(d):
    """Every entry exactly once, however often the server died while the directory was open."""
    path = f"{d.dir}/many"
    os.mkdir(path)
    want = {f"entry-with-a-rather-long-name-{i:05d}" for i in range(3000)}
    for name in want:
        os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_WRONLY))
    while True:
        got = []
        with os.scandir(path) as it:
            for e in it:
                got.append(e.name)
                if len(got) % 500 == 0:
                    time.sleep(0.02)
        if len(got) != len(want) or set(got) != want:
            raise AssertionError(f"a listing: {len(got)} entries, {len(set(got))} different, of {len(want)}")
        if d.over():
            return


def locks(d):
    """A counter under a lock: nobody comes in between, ever."""
    def bump(path, n, take):
        for _ in range(n):
            fd = os.open(path, os.O_RDWR)
            take(fd, fcntl.LOCK_EX)
            v = int(os.pread(fd, 20, 0) or b"0")
            os.pwrite(fd, b"%d" % (v + 1), 0)
            os.close(fd)

    for path in rounds(d):
        for take in (fcntl.flock, fcntl.lockf):
            name = f"{path}/{take.__name__}"
            open(name, "w").close()
            pids = []
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    try:
                        bump(name, 100, take)
                        os._exit(0)
                    except OSError as e:
                        os.write(2, f"locks: {e}\n".encode())
                    finally:
                        os._exit(1)
                pids.append(pid)
            bad = [p for p in pids if os.waitpid(p, 0)[1]]
            with open(name) as f:
                v = int(f.read())
            if bad or v != 300:
                raise AssertionError(f"{name}: counted {v} of 300, {len(bad)} processes failed")


def held_lock(d):
    """A lock that is held is held while the server dies."""
    path = f"{d.dir}/held"
    open(path, "w").close()
    holder = os.open(path, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    posix = os.open(path + "2", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(posix, fcntl.LOCK_EX)
    while True:
        for name, call in ((path, fcntl.flock), (path + "2", fcntl.lockf)):
            pid = os.fork()
            if pid == 0:
                try:
                    call(os.open(name, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os._exit(1)
                except BlockingIOError:
                    os._exit(0)
                finally:
                    os._exit(2)
            status = os.waitpid(pid, 0)[1]
            if status:
                raise AssertionError(f"{name}: a lock that is held was given to another (status {status})")
        if d.over():
            os.close(holder)
            os.close(posix)
            return
        time.sleep(0.01)


def renames(d):
    """Threads rename files around; whatever happens, no file is lost or doubled."""
    for path in rounds(d):
        for i in range(4):
            os.mkdir(f"{path}/d{i}")
        files = [f"file{i}" for i in range(12)]
        for name in files:
            with open(f"{path}/d0/{name}", "w") as f:
                f.write(name)

        def mover(mine):
            at = {name: 0 for name in mine}
            for _ in range(120):
                name = random.choice(mine)
                to = random.randrange(4)
                src, dst = f"{path}/d{at[name]}/{name}", f"{path}/d{to}/{name}"
                os.rename(src, dst)
                at[name] = to
                with open(dst) as f:
                    if f.read() != name:
                        raise AssertionError(f"{dst}: wrong content")
            return at

        together(d, *(lambda k=k: mover(files[k::3]) for k in range(3)))
        found = sorted(x for i in range(4) for x in os.listdir(f"{path}/d{i}"))
        if found != sorted(files):
            raise AssertionError(f"after renames: {found}")


def full(d):
    """On a disk that fills up: what was written before ENOSPC is there, and room that is freed is room."""
    for path in rounds(d):
        kept = {}
        for i in range(200):
            data = bytes([i % 251]) * 200000
            try:
                with open(f"{path}/f{i}", "wb", buffering=0) as f:
                    n = f.write(data)
                    kept[f"{path}/f{i}"] = data[:n]
                    if n == len(data):
                        os.fsync(f.fileno())
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                if i % 40 == 39 or len(kept) > 20:
                    break
        for name, data in kept.items():
            with open(name, "rb") as f:
                if f.read() != data:
                    raise AssertionError(f"{name}: not what was written")
            os.unlink(name)


def mapped(d):
    """What was written through a mapping arrives."""
    import mmap
    for path in rounds(d):
        with open(f"{path}/m", "w+b") as f:
            f.truncate(1 << 20)
            with mmap.mmap(f.fileno(), 1 << 20) as m:
                for i in range(0, 1 << 20, 4096):
                    m[i:i + 8] = struct.pack("<Q", i)
                    if i % (1 << 17) == 0:
                        m.flush()
                m.flush()
        with open(f"{path}/m", "rb") as f:
            data = f.read()
        for i in range(0, 1 << 20, 4096):
            if struct.unpack_from("<Q", data, i)[0] != i:
                raise AssertionError(f"a mapping's page {i // 4096} is lost")


LOADS = {f.__name__: f for f in (fsx, fio, dbench, stress, untar, git, compiling, sqlite, exclusive, appends,
                                 truncating, unlinked, listing, locks, held_lock, renames, mapped, full)}
