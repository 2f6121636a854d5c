# SPDX-License-Identifier: MIT
"""Open files whose bytes the kernel moves by itself, and what must not be different for it."""
import ctypes
import errno
import fcntl
import mmap
import os
import pathlib
import resource
import signal
import stat
import subprocess
import threading

import pytest
from conftest import PLENUM, fuse, mounted, root, wait_for

pytestmark = [fuse, root]
BUILD = pathlib.Path(os.environ.get("PLENUM_BUILD", pathlib.Path(PLENUM).parent))


class Mount:
    """A host directory, mounted: `here` is the mount, `below` the directory."""

    def __init__(self, plenum, options="suid", name="", below=None):
        self.plenum = plenum
        plenum.tmp.chmod(0o755)
        self.here, self.below = plenum.dir(f"here{name}"), below or plenum.dir(f"below{name}")
        plenum.run("mount", "-o", options, self.below, self.here)

    def passed(self):
        """Open files so far that the kernel moves by itself."""
        return self.plenum.entry(self.here)["passed"]

    def how(self):
        return self.plenum.entry(self.here)["bytes"]

    def messages(self):
        e = self.plenum.entry(self.here)
        return e["bytes_read"] + e["bytes_written"]


@pytest.fixture
def at(plenum):
    m = Mount(plenum)
    (m.below / "probe").write_bytes(b"x")
    (m.here / "probe").read_bytes()
    if m.how() != "by the kernel (passthrough)":
        pytest.skip(m.how())
    yield m
    plenum.run("umount", m.here)


def opened(path, flags, mode=0o644):
    return os.open(path, flags, mode)


class Tracer:
    """While it runs, the server must see every read and write."""

    def __init__(self, plenum, here):
        self.here, self.path = here, plenum.tmp / "lines"
        self.plenum = plenum
        with open(self.path, "wb") as out:
            self.p = plenum.start("trace", here, stdout=out)
        wait_for(lambda: (os.path.exists(here / "no such"), self.text())[1], "nothing is traced")

    def text(self):
        return self.path.read_text()

    def end(self):
        self.p.send_signal(signal.SIGINT)
        self.plenum.ended(self.p, None)


# ---- which way, and why

def test_status_says_so(plenum, at):
    before = at.messages()
    (at.here / "f").write_bytes(b"x" * 100000)
    assert (at.here / "f").read_bytes() == b"x" * 100000
    assert at.messages() == before and at.passed() >= 3
    out = plenum.run("status", at.here).out
    assert "bytes move by the kernel (passthrough);" in out
    assert f"{at.passed()} open files" in out
    assert "bytes move" not in plenum.run("status").out  # the table stays narrow


@pytest.mark.parametrize("options, why", [
    ("nopassthrough", "as asked for (nopassthrough)"), ("direct_io", "as asked for (direct_io)"),
    ("passthrough,writeback", "the kernel gathers writes (writeback)")])
def test_turned_off(plenum, options, why):
    m = Mount(plenum, options)
    (m.here / "f").write_text("text")
    assert (m.here / "f").read_text() == "text"
    assert m.passed() == 0 and m.how() == f"by messages: {why}"
    plenum.run("umount", m.here)


def test_nothing_to_pass(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    (here / "f").write_text("text")
    e = plenum.entry(here)
    assert e["passed"] == 0 and e["bytes"].startswith("by messages so far: no file")
    plenum.run("umount", here)


def test_without_privilege(plenum):
    """In a user namespace the kernel takes no descriptors: once is enough to know."""
    script = """
        "$0" mount "$1/below" "$1/here" && echo text > "$1/here/f" && cat "$1/here/f" &&
        cat "$1/here/f" && "$0" status --json "$1/here"; "$0" umount "$1/here"
    """
    for name in ("here", "below", "run"):
        plenum.dir(name)
    p = subprocess.run(["unshare", "-Urm", "sh", "-c", script, PLENUM, plenum.tmp], text=True,
                       env={**os.environ, "XDG_RUNTIME_DIR": str(plenum.tmp / "run")},
                       capture_output=True, timeout=30)
    if "unshare" in p.stderr:
        pytest.skip(p.stderr)
    assert p.returncode == 0, p.stderr
    assert p.stdout.startswith("text\ntext\n")
    assert "outside user namespaces" in p.stdout and '"passed":0' in p.stdout


def overlay(plenum, name, lower):
    top = plenum.dir(name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", top], check=True)
    for d in ("upper", "work", "all"):
        (top / d).mkdir()
    r = subprocess.run(["mount", "-t", "overlay", "-o",
                        f"lowerdir={lower},upperdir={top}/upper,workdir={top}/work", "none",
                        top / "all"], capture_output=True)
    return top / "all", r


def test_over_an_overlay(plenum):
    lower = plenum.dir("lower")
    (lower / "f").write_text("low")
    below, r = overlay(plenum, "over", lower)
    if r.returncode:
        pytest.skip("no overlay here")
    m = Mount(plenum, below=below)
    assert (m.here / "f").read_text() == "low"
    with open(m.here / "f", "r+") as f:  # copied up while others read it
        assert (m.here / "f").read_text() == "low"
        f.write("UP!")
    assert (m.here / "f").read_text() == (below / "f").read_text() == "UP!"
    assert (lower / "f").read_text() == "low"
    assert m.passed() > 0
    plenum.run("umount", m.here)


def test_under_an_overlay(plenum, at):
    (at.here / "f").write_text("low")
    over, r = overlay(plenum, "over", at.here)
    assert r.returncode == 0, r.stderr
    assert (over / "f").read_text() == "low"
    (over / "f").write_text("high")
    assert (at.here / "f").read_text() == "low"
    subprocess.run(["umount", over], check=True)


def test_over_itself(plenum, at):
    """A mount of a mount: what does not go by the kernel goes by messages."""
    (at.here / "f").write_text("text")
    m = Mount(plenum, name="2", below=at.here)
    (m.here / "g").write_text("more")
    assert (m.here / "f").read_text() == "text" and (at.below / "g").read_text() == "more"
    plenum.run("umount", m.here)


# ---- one way for all open files of an inode

def test_joined_by_all_kinds(at):
    """Whatever way the second open would have chosen for itself, it works, and sees the same."""
    (at.here / "f").write_bytes(b"0123456789" * 1000)
    os.link(at.here / "f", at.here / "g")
    kinds = [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_DIRECT,
             os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_SYNC]
    for first in kinds:
        for second in kinds:
            a, b = opened(at.here / "f", first), opened(at.here / "g", second)
            for fd, flags in ((a, first), (b, second)):
                if flags & os.O_ACCMODE != os.O_WRONLY:
                    buf = mmap.mmap(-1, 4096)
                    assert os.preadv(fd, [buf], 4096) == 4096
                    assert buf[:] == (at.below / "f").read_bytes()[4096:8192]
            os.close(b)
            os.close(a)


def test_traced_meanwhile(plenum, at):
    """Somebody starts to watch while a file is passed: its next open is seen, and none fails."""
    (at.here / "f").write_bytes(b"a" * 8192)
    fd = opened(at.here / "f", os.O_RDWR)
    t = Tracer(plenum, at.here)
    second = opened(at.here / "f", os.O_RDWR)
    assert os.pread(second, 4096, 0) == b"a" * 4096
    assert os.pwrite(second, b"b" * 10, 4096) == 10
    assert os.pread(fd, 10, 4096) == b"b" * 10  # by the kernel: the same bytes at once
    os.pwrite(fd, b"c" * 10, 0)
    assert os.pread(second, 10, 0) == b"c" * 10
    with mmap.mmap(second, 8192) as m:
        assert m[:10] == b"c" * 10
        m[20] = ord("d")
    assert os.pread(fd, 1, 20) == b"d"
    (at.here / "new").write_text("seen")  # by messages from the first
    assert (at.here / "new").read_text() == "seen"
    wait_for(lambda: t.text().count("write") >= 2 and "read" in t.text(), "not seen")
    third = opened(at.here / "new", os.O_RDONLY)
    t.end()
    before = at.passed()
    wait_for(lambda: (opened_and_closed(at.here / "f"), at.passed() > before)[1])
    assert (at.here / "new").read_text() == "seen"  # joins the one that is by messages
    os.close(third)
    before = at.passed()
    wait_for(lambda: (opened_and_closed(at.here / "new"), at.passed() > before)[1])
    os.close(second)
    os.close(fd)


def opened_and_closed(path):
    os.close(opened(path, os.O_RDONLY))


def test_many_at_once(at):
    """Opens of all kinds race for three inodes."""
    names = [at.here / n for n in "abc"]
    kinds = [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DIRECT,
             os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT]
    for n in names:
        n.write_bytes(b"x" * 4096)
    failed = []

    def work(seed):
        try:
            for i in range(400):
                flags = kinds[(seed * 7 + i * 5) % len(kinds)]
                fd = opened(names[(seed + i) % 3], flags)
                if flags & os.O_ACCMODE == os.O_RDONLY:
                    assert os.pread(fd, 4096, 0).strip(b"xy\0") == b""
                elif not flags & os.O_DIRECT:
                    os.pwrite(fd, b"y" * 100, i % 50)
                os.close(fd)
        except BaseException as e:  # noqa: BLE001 (told below)
            failed.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


# ---- nothing is different

def test_flags_taken_away(at):
    """fcntl(2) changes what the kernel has told the backing file once and for all."""
    (at.here / "f").write_bytes(b"0123456789")
    fd = opened(at.here / "f", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"AA")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"BB", 0)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"CC")
    os.close(fd)
    assert (at.below / "f").read_bytes() == b"BB23456789AACC"
    buf = mmap.mmap(-1, 8192)
    buf[:] = b"d" * 8192
    fd = opened(at.here / "g", os.O_RDWR | os.O_DIRECT | os.O_CREAT)
    assert os.write(fd, buf) == 8192
    os.lseek(fd, 0, os.SEEK_SET)
    assert os.write(fd, memoryview(buf)[:4096]) == 4096
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    assert os.pwrite(fd, b"rest", 8192) == 4  # less than a block, as dd(1) does
    assert os.pread(fd, 5, 8191) == b"drest"
    os.close(fd)
    assert (at.below / "g").read_bytes() == b"d" * 8192 + b"rest"


def test_appends_are_whole(at):
    """Each of a hundred appends arrives in one piece, through the mount and beside it."""
    (at.here / "log").touch()

    def work(path, letter):
        fd = opened(path, os.O_WRONLY | os.O_APPEND)
        for _ in range(100):
            os.write(fd, letter * 10000)
        os.close(fd)

    threads = [threading.Thread(target=work, args=(d / "log", c))
               for d, c in ((at.here, b"a"), (at.below, b"b"), (at.here, b"c"))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    text = (at.below / "log").read_bytes()
    assert len(text) == 3000000
    for i in range(0, len(text), 10000):
        assert len(set(text[i:i + 10000])) == 1


def test_attributes_follow(at):
    """Size and times of what the kernel wrote are those of the file below, at once."""
    fd = opened(at.here / "f", os.O_RDWR | os.O_CREAT)
    for size in (1, 5000, 70000):
        os.pwrite(fd, b"x", size - 1)
        mine, theirs = os.fstat(fd), os.stat(at.below / "f")
        assert mine.st_size == theirs.st_size == size
        assert mine.st_mtime_ns == theirs.st_mtime_ns and mine.st_ctime_ns == theirs.st_ctime_ns
        assert os.lseek(fd, 0, os.SEEK_END) == size
    os.ftruncate(fd, 100)
    assert os.pread(fd, 1000, 0) == b"x" + b"\0" * 99
    os.truncate(at.here / "f", 50)
    assert len(os.pread(fd, 1000, 0)) == 50
    os.pwrite(fd, b"end", 1000)
    assert os.stat(at.here / "f").st_size == 1003
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)


def test_beside_the_mount(at):
    """Native writers and readers, the messages that are left, and the kernel's own moves agree."""
    fd = opened(at.here / "f", os.O_RDWR | os.O_CREAT)
    low = opened(at.below / "f", os.O_RDWR)
    os.pwrite(low, b"low", 0)
    assert os.pread(fd, 10, 0) == b"low"
    os.pwrite(fd, b"high", 10 << 20)
    assert os.pread(low, 10, 10 << 20) == b"high"
    assert os.lseek(fd, 4096, os.SEEK_DATA) == 10 << 20 and os.lseek(fd, 0, os.SEEK_HOLE) == 4096
    os.pwrite(low, b"mid", 1 << 20)
    assert os.lseek(fd, 4096, os.SEEK_DATA) == 1 << 20
    os.posix_fallocate(fd, 0, 11 << 20)
    assert os.fstat(low).st_size == 11 << 20
    out = opened(at.here / "copy", os.O_RDWR | os.O_CREAT)
    os.pwrite(low, b"MID", 1 << 20)
    assert os.copy_file_range(fd, out, 4096, 1 << 20, 100) == 4096
    assert os.pread(out, 3, 100) == b"MID"
    assert os.stat(at.below / "copy").st_size == 4196
    with mmap.mmap(fd, 8192) as m, mmap.mmap(low, 8192) as n:
        m[1] = ord("!")
        assert n[1] == ord("!")
        n[2] = ord("?")
        assert os.pread(fd, 3, 0) == b"l!?"
    r, w = os.pipe()
    assert os.splice(fd, w, 3, offset_src=0) == 3 and os.read(r, 3) == b"l!?"
    os.write(w, b"SPL")
    assert os.splice(r, fd, 3, offset_dst=0) == 3
    assert os.pread(low, 3, 0) == b"SPL"
    for x in (fd, low, out, r, w):
        os.close(x)


def test_mapping_outlives_the_file(at):
    (at.here / "f").write_bytes(b"a" * 4096)
    fd = opened(at.here / "f", os.O_RDWR)
    m = mmap.mmap(fd, 4096)
    os.close(fd)
    m[0] = ord("b")
    assert (at.here / "f").read_bytes()[:2] == b"ba"
    fd = opened(at.here / "f", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"end")
    m[1] = ord("c")
    assert os.pread(fd, 3, 0) == b"bca"
    os.close(fd)
    m.close()
    assert (at.below / "f").read_bytes()[:3] == b"bca"


def test_without_a_name(at):
    fd = opened(at.here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"text")
    os.unlink(at.here / "f")
    second = opened(f"/proc/self/fd/{fd}", os.O_RDWR)
    os.pwrite(second, b"T", 0)
    os.ftruncate(second, 3)
    assert os.pread(fd, 10, 0) == b"Tex" and os.fstat(fd).st_nlink == 0
    os.close(fd)
    assert os.pread(second, 10, 0) == b"Tex"
    os.close(second)
    fd = opened(at.here, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"none")
    assert os.pread(fd, 10, 0) == b"none"
    os.link(f"/proc/self/fd/{fd}", at.here / "named", src_dir_fd=fd)  # so that it follows
    os.close(fd)
    assert (at.here / "named").read_text() == "none"


def in_child(uid, work):
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("first", ["alone", "after root"])
def test_suid_goes(at, first):
    """Who writes and is not root takes these bits away, even by an id that was got for root."""
    f = at.here / "f"
    f.write_text("x")
    f.chmod(0o6777)
    held = opened(f, os.O_RDWR) if first == "after root" else None
    if held:
        os.pwrite(held, b"y", 0)
        assert stat.S_IMODE(os.stat(f).st_mode) == 0o6777

    def work():
        fd = opened(f, os.O_WRONLY)
        os.write(fd, b"z")
        os.close(fd)

    in_child(12345, work)
    assert stat.S_IMODE(os.stat(at.below / "f").st_mode) == 0o777
    assert stat.S_IMODE(os.stat(f).st_mode) == 0o777
    if held:
        os.close(held)


def test_file_size_limit(at):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        fd = opened(at.here / "f", os.O_RDWR | os.O_CREAT)
        assert os.pwrite(fd, b"x" * 8192, 4096) == 10000 - 4096
        try:
            os.pwrite(fd, b"x", 10000)
            os._exit(2)
        except OSError as e:
            assert e.errno == errno.EFBIG
        os.close(fd)

    in_child(0, work)
    assert os.stat(at.below / "f").st_size == 10000


def test_full(plenum):
    below = plenum.dir("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", below], check=True)
    m = Mount(plenum, below=below)
    fd = opened(m.here / "f", os.O_RDWR | os.O_CREAT)
    done = 0
    with pytest.raises(OSError) as e:
        while done < 4 << 20:
            done += os.write(fd, b"x" * 65536)
    assert e.value.errno == errno.ENOSPC and done == 1 << 20
    os.ftruncate(fd, 100)
    assert os.pwrite(fd, b"y" * 1000, 100) == 1000
    os.close(fd)
    assert os.stat(below / "f").st_size == 1100
    assert m.passed() > 0
    plenum.run("umount", m.here)
    subprocess.run(["umount", below], check=True)


def test_locks_and_kept_files(at):
    """A file that is kept for the next open holds no lock, and does not keep others' space."""
    (at.here / "f").write_text("text")
    for lock in (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
                 lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH)):
        fd = opened(at.here / "f", os.O_RDONLY)
        lock(fd)
        os.close(fd)
        with open(at.below / "f", "r+") as f:
            wait_for(lambda: tried(fcntl.flock, f) and tried(fcntl.lockf, f), "still locked")
    (at.here / "g").write_text("gone")
    assert (at.here / "g").read_text() == "gone"
    os.unlink(at.below / "g")
    fds = pathlib.Path(f"/proc/{at.plenum.entry(at.here)['server']}/fd")

    def held():
        """That the file is known (O_PATH) is another matter: it takes a lookup to find it gone."""
        for fd in fds.iterdir():
            try:
                flags = int((fds.parent / "fdinfo" / fd.name).read_text().split()[3], 8)
                if os.readlink(fd).endswith("/g (deleted)") and not flags & os.O_PATH:
                    return True
            except FileNotFoundError:  # closed meanwhile
                pass
        return False

    wait_for(lambda: not held(), "it is still open")
    # run, right after it was written and read
    (at.here / "prog").write_bytes(pathlib.Path("/bin/true").read_bytes())
    (at.here / "prog").chmod(0o755)
    (at.here / "prog").read_bytes()
    subprocess.run([at.below / "prog"], check=True)
    subprocess.run([at.here / "prog"], check=True)


def tried(lock, f):
    try:
        lock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock(f, fcntl.LOCK_UN)
        return True
    except OSError:
        return False


def test_kept_file_is_the_same_user_s(at):
    """Nobody gets at a file through one that another had open a moment ago."""
    (at.here / "f").write_text("secret")
    (at.here / "f").chmod(0o600)
    assert (at.here / "f").read_text() == "secret"

    def work():
        try:
            opened(at.here / "f", os.O_RDONLY)
            os._exit(2)
        except PermissionError:
            pass

    in_child(12345, work)
    os.unlink(at.here / "f")
    (at.here / "f").write_text("another")
    assert (at.here / "f").read_text() == "another"


# ---- documents

DOCUMENTS = BUILD / "test/documents"


@pytest.fixture
def docs(plenum, request):
    if not DOCUMENTS.exists():
        pytest.skip("not built")
    here = plenum.dir("here")
    env = {**os.environ, **getattr(request, "param", {})}
    subprocess.run([DOCUMENTS, here], check=True, env=env, timeout=30, cwd=plenum.tmp)
    assert mounted(here)
    yield here
    plenum.run("umount", here)


def test_document(plenum, docs):
    doc = docs / "doc"
    assert doc.read_text() == "first\n"
    before = plenum.entry(docs)
    doc.write_text("second\n")
    with open(doc, "r+") as f:
        f.seek(6)
        f.write("!\n")
        f.flush()
        os.fsync(f.fileno())
        assert (docs / "log").read_text() == "commit\n" * 2
    assert (docs / "log").read_text() == "commit\n" * 2  # once
    assert doc.read_text() == "second!\n" and (docs / "fixed").read_text() == "fixed\n"
    with open(doc, "a") as f:
        f.write("more\n")
    os.truncate(doc, 3)
    assert doc.read_text() == "sec"
    after = plenum.entry(docs)
    if before["bytes"].startswith("by the kernel"):
        assert after["passed"] - before["passed"] >= 6
        assert after["bytes_written"] - before["bytes_written"] == 5  # what was appended
    with pytest.raises(PermissionError):
        (docs / "fixed").write_text("x")


def test_document_mapped(plenum, docs):
    (docs / "doc").read_text()
    if not plenum.entry(docs)["passed"]:
        pytest.skip("by messages the kernel maps no file of which it does not know the size")
    libc = ctypes.CDLL(None, use_errno=True)  # Python asks for the size, which nobody knows yet
    libc.mmap.restype = ctypes.c_void_p
    fd = opened(docs / "doc", os.O_RDWR)
    p = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd,
                  ctypes.c_long(0))
    assert p not in (None, ctypes.c_void_p(-1).value)
    assert ctypes.string_at(p, 6) == b"first\n"
    ctypes.memset(p, ord("F"), 1)
    os.close(fd)
    libc.munmap(ctypes.c_void_p(p), ctypes.c_size_t(4096))
    assert (docs / "doc").read_text() == "First\n"


def test_document_refused(docs):
    f = open(docs / "doc", "w")
    f.write("bad")
    with pytest.raises(OSError) as e:
        f.close()
    assert e.value.errno == errno.EBADMSG
    wait_for(lambda: (docs / "doc").read_text() == "first\n", "it is still there")


@pytest.mark.parametrize("docs", [{"DOCUMENTS_KEEP": "1"}], indirect=True)
def test_document_kept(docs):
    fd = opened(docs / "doc", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"bad news")
    with pytest.raises(OSError):
        os.fsync(fd)
    with pytest.raises(OSError):
        os.close(fd)
    wait_for(lambda: (docs / "doc").read_text() == "bad news", "it is lost")
    with open(docs / "doc", "r+") as f:
        f.write("GOO")
    assert (docs / "doc").read_text() == "GOO news" and (docs / "log").read_text() == "commit\n"


def test_documents_of_many(docs):
    """Each open has its own copy, whole, whoever reads and writes meanwhile."""
    failed = []
    (docs / "doc").write_text("a" * 50000)

    def write(letter):
        for _ in range(60):
            with open(docs / "doc", "w") as f:
                for _ in range(5):
                    f.write(letter * 10000)
                    f.flush()

    def read():
        for _ in range(120):
            text = (docs / "doc").read_text()
            assert len(text) == 50000 and len(set(text)) == 1, (len(text), set(text))

    def guarded(work, *args):
        try:
            work(*args)
        except BaseException as e:  # noqa: BLE001 (told below)
            failed.append(e)

    threads = [threading.Thread(target=guarded, args=a)
               for a in ((write, "b"), (write, "c"), (read,), (read,))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    one, two = opened(docs / "doc", os.O_RDWR), opened(docs / "doc", os.O_RDWR)
    os.pwrite(one, b"1", 0)
    os.pwrite(two, b"22", 0)
    assert os.pread(one, 2, 0)[:1] == b"1" and os.pread(two, 2, 0) == b"22"
    os.close(two)
    os.close(one)
    assert (docs / "doc").read_text()[:1] == "1"  # the last to close


def test_big_document(plenum, docs):
    big = docs / "big"
    with open(big, "rb") as f:
        f.seek(1000000)
        assert f.read(10) == b"h" * 10
    assert os.getxattr(big, "user.plenum.progress").split(b"/")[1] == b"1048576"
    text = big.read_bytes()
    assert text == b"".join(bytes([97 + i]) * (128 << 10) for i in range(8))
    before = plenum.entry(docs)["passed"]
    if os.getxattr(big, "user.plenum.progress") == b"1048576/1048576":
        wait_for(lambda: big.read_bytes() == text and plenum.entry(docs)["passed"] > before)


# ---- when the server dies

def killed(plenum, here):
    server = plenum.entry(here)["server"]
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: plenum.entry(here)["server"] not in (0, server), "there is no successor")


def test_server_killed(plenum, at):
    """Passed files go on; the next server knows by which ids, and that there are such files."""
    for n in "fgh":
        (at.here / n).write_bytes(n.encode() * 4096)
    fd = opened(at.here / "f", os.O_RDWR)
    held = opened(at.here / "g", os.O_RDONLY)
    (at.here / "h").read_bytes()  # kept by the server
    m = mmap.mmap(fd, 4096)
    killed(plenum, at.here)
    assert os.pwrite(fd, b"1", 0) == 1 and m[:2] == b"1f"
    second = opened(at.here / "f", os.O_RDWR)
    assert os.pwrite(second, b"2", 1) == 1 and os.pread(fd, 3, 0) == b"12f"
    m[2] = ord("3")
    assert os.pread(second, 4, 0) == b"123f"
    os.fsync(fd)
    os.ftruncate(fd, 4)
    assert os.fstat(second).st_size == 4
    assert (at.here / "g").read_bytes() == b"g" * 4096 and (at.here / "h").read_bytes()[:1] == b"h"
    killed(plenum, at.here)
    assert os.pread(second, 10, 0) == os.pread(fd, 10, 0) == b"123f"
    for x in (second, fd, held):
        os.close(x)
    m.close()
    before = at.passed()
    for n in "fgh":
        wait_for(lambda: (opened_and_closed(at.here / n), at.passed() > before)[1])
        before = at.passed()
    assert (at.below / "f").read_bytes() == b"123f"


def test_document_of_a_dead_server(plenum, docs):
    """What was written to an open document is there, whoever moved the bytes, and is committed."""
    fd = opened(docs / "doc", os.O_RDWR)
    other = opened(docs / "doc", os.O_WRONLY | os.O_TRUNC)
    os.pwrite(fd, b"FIR", 0)
    killed(plenum, docs)
    assert os.pread(fd, 10, 0) == b"FIRst\n"
    os.pwrite(fd, b"ST\n", 3)
    os.pwrite(other, b"other", 0)
    os.close(fd)
    assert (docs / "doc").read_text() == "FIRST\n"
    os.close(other)
    assert (docs / "doc").read_text() == "other"
