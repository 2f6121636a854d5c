# SPDX-License-Identifier: MIT
"""What programs expect of a Linux file system, over a mount of each kind."""
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys

import pytest
from conftest import fuse, root
from places import place  # noqa: F401 (a fixture)

pytestmark = [fuse, root]
libc = ctypes.CDLL(None, use_errno=True)
NOBODY, OTHER = 65534, 12345


def fails(code, f, *args, **kw):
    with pytest.raises(OSError) as e:
        f(*args, **kw)
    assert e.value.errno == code, e.value


def in_child(work, uid=0, gid=0, groups=(), umask=0o022):
    """Runs work() in a process of its own; an assertion that fails there fails here."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.umask(umask)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 (everything, and no clean-up of the parent's)
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(1)
    return pid


def as_user(uid, work, gid=None, groups=(), umask=0o022):
    _, status = os.waitpid(in_child(work, uid, uid if gid is None else gid, groups, umask), 0)
    assert status == 0, "see above"


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


# ---- names


def test_names_of_every_byte(place):
    d = os.fsencode(place.dir)
    names = {bytes([b]) for b in range(1, 256) if b not in b"/."}
    names |= {b"x" + bytes([b]) + b"y" for b in range(1, 256) if b != ord("/")}
    names |= {b"...", b"..x", b".x", b" ", b"\xff" * 255, "é".encode() * 127 + b"!", b"a" * 255}
    for n in names:
        with open(d + b"/" + n, "wb") as f:
            f.write(n)
    assert set(os.listdir(d)) == names
    if place.below:
        assert set(os.listdir(os.fsencode(place.below))) == names
    for n in names:
        with open(d + b"/" + n, "rb") as f:
            assert f.read() == n
        os.rename(d + b"/" + n, d + b"/" + n[:-1] + b"\x01\x02"[len(n) % 2:][:1] if len(n) == 255 else
                  d + b"/" + n + b"\x7f")
    for n in os.listdir(d):
        os.unlink(d + b"/" + n)
    assert os.listdir(d) == []


@pytest.mark.parametrize("n", [256, 1000, 4000])
def test_names_too_long(place, n):
    long = place.dir / ("n" * n)
    fails(errno.ENAMETOOLONG, os.mkdir, long)
    fails(errno.ENAMETOOLONG, os.stat, long)
    fails(errno.ENAMETOOLONG, os.symlink, "x", long)
    (place.dir / "f").touch()
    fails(errno.ENAMETOOLONG, os.rename, place.dir / "f", long)
    fails(errno.ENAMETOOLONG, os.link, place.dir / "f", long)


def test_a_path_of_path_max(place):
    """4095 bytes are a path, one more is none; what is deeper is reached by descriptors."""
    os.chdir(place.dir)
    try:
        path = "/".join(["d" * 99] * 40)
        os.makedirs(path)
        full = path + "/" + "f" * (4095 - len(path) - 1)
        with open(full, "w") as f:
            f.write("deep")
        with open(full) as f:
            assert f.read() == "deep"
        fails(errno.ENAMETOOLONG, os.stat, full + "f")
        fd = os.open(path, os.O_RDONLY)
        for _ in range(60):
            os.mkdir("e" * 199, dir_fd=fd)
            below = os.open("e" * 199, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        os.rename("d" * 99, "top")  # with all of it below and a descriptor at the bottom
        assert os.listdir(fd) == ["bottom"]
        os.stat("bottom", dir_fd=fd)
        os.stat("..", dir_fd=fd)
        os.close(fd)
        subprocess.run(["rm", "-rf", "top"], check=True, timeout=50)
        assert os.listdir(".") == []
    finally:
        os.chdir("/")


def test_symlinks(place):
    d = place.dir
    long = "t" * 4095
    os.symlink(long, d / "long")
    assert os.readlink(d / "long") == long and os.lstat(d / "long").st_size == 4095
    os.symlink(b"\xff/..//\x01", os.fsencode(d / "odd"))
    assert os.readlink(os.fsencode(d / "odd")) == b"\xff/..//\x01"
    os.symlink("loop", d / "loop")
    fails(errno.ELOOP, os.stat, d / "loop")
    (d / "dir").mkdir()
    (d / "dir/f").write_text("by symlink")
    os.symlink("dir", d / "to dir")
    assert (d / "to dir/f").read_text() == "by symlink"
    os.symlink("../../../../../../../../../../etc/hostname", d / "out")  # the client's to follow
    assert (d / "out").read_text() == open("/etc/hostname").read()
    fails(errno.ELOOP, os.open, d / "to dir", os.O_RDONLY | os.O_NOFOLLOW)
    os.utime(d / "loop", ns=(5, 6), follow_symlinks=False)
    assert os.lstat(d / "loop").st_mtime_ns == 6


# ---- sizes


def test_files_over_4_gib(place):
    f = place.dir / "big"
    with open(f, "wb") as out:
        for at in (1 << 31) - 2, (1 << 32) - 3, (5 << 30) + 1:
            out.seek(at)
            out.write(b"%020d" % at)
    size = (5 << 30) + 21
    assert f.stat().st_size == size and f.stat().st_blocks < 4096
    with open(f, "rb") as inp:
        for at in (1 << 31) - 2, (1 << 32) - 3, (5 << 30) + 1:
            inp.seek(at)
            assert inp.read(20) == b"%020d" % at
        assert inp.read() == b""
        fd = inp.fileno()
        data = os.lseek(fd, 0, os.SEEK_DATA)
        assert data > 0 and data <= (1 << 31) - 2
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        assert (1 << 31) < hole < (1 << 32)
        assert os.lseek(fd, size - 1, os.SEEK_HOLE) == size
        fails(errno.ENXIO, os.lseek, fd, size, os.SEEK_DATA)
    copy = place.dir / "copy"
    subprocess.run(["cp", "--sparse=auto", f, copy], check=True, timeout=50)
    assert copy.stat().st_size == size and copy.stat().st_blocks < 4096
    with open(copy, "rb") as inp:
        inp.seek((1 << 32) - 3)
        assert inp.read(20) == b"%020d" % ((1 << 32) - 3)
    os.truncate(f, (1 << 32) + 1)
    os.truncate(f, 1 << 40)
    with open(f, "rb") as inp:
        inp.seek((5 << 30) + 1)
        assert inp.read(20) == bytes(20)
        fails(errno.EINVAL, os.pread, inp.fileno(), 10, -1)
    with open(f, "r+b") as out:
        with pytest.raises(OSError) as e:
            os.pwrite(out.fileno(), b"xx", (1 << 63) - 1)
        assert e.value.errno in (errno.EFBIG, errno.EINVAL)
    assert f.stat().st_size == 1 << 40


def test_sparse_copy_of_nothing_but_a_hole(place):
    f = place.dir / "hole"
    with open(f, "wb") as out:
        out.truncate(3 << 30)
    subprocess.run(["cp", "--sparse=always", f, place.dir / "copy"], check=True, timeout=50)
    assert (place.dir / "copy").stat().st_blocks < 100
    with open(f, "r+b") as out:
        out.seek(1 << 20)
        out.write(b"x" * (1 << 20))
    before = f.stat().st_blocks
    subprocess.run(["fallocate", "-p", "-o", "1M", "-l", "512K", f], check=True)
    assert f.stat().st_blocks < before and f.stat().st_size == 3 << 30
    with open(f, "rb") as inp:
        inp.seek(1 << 20)
        assert inp.read(1 << 20) == bytes(512 << 10) + b"x" * (512 << 10)


def test_size_limit_of_the_process(place):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        fd = os.open(place.dir / "f", os.O_CREAT | os.O_WRONLY)
        assert os.write(fd, bytes(200)) == 100
        fails(errno.EFBIG, os.write, fd, b"x")

    as_user(0, work)
    assert (place.dir / "f").stat().st_size == 100


# ---- links and open files


def test_hard_links(place):
    d = place.dir
    (d / "a").write_text("one")
    (d / "sub").mkdir()
    for n in "b", "sub/c":
        os.link(d / "a", d / n)
    st = [os.stat(d / n) for n in ("a", "b", "sub/c")]
    assert {s.st_ino for s in st} == {st[0].st_ino} and {s.st_nlink for s in st} == {3}
    assert {e.inode() for e in os.scandir(d) if e.name in "ab"} == {st[0].st_ino}
    with open(d / "b", "a") as f:
        f.write(" two")
    assert (d / "sub/c").read_text() == "one two"
    os.rename(d / "a", d / "b")  # the same object: nothing happens
    assert (d / "a").exists() and (d / "b").exists()
    os.unlink(d / "a")
    assert os.stat(d / "b").st_nlink == 2
    (d / "other").write_text("x")
    os.rename(d / "other", d / "b")
    assert os.stat(d / "sub/c").st_nlink == 1 and (d / "sub/c").read_text() == "one two"
    fails(errno.EPERM, os.link, d / "sub", d / "dirlink")
    os.symlink("nowhere", d / "s")
    os.link(d / "s", d / "s2", follow_symlinks=False)
    assert os.lstat(d / "s2").st_nlink == 2


def test_unlinked_but_open(place):
    d = place.dir
    (d / "f").write_text("still here")
    (d / "g").write_text("replaces")
    fd = os.open(d / "f", os.O_RDWR)
    os.unlink(d / "f")
    assert os.listdir(d) == ["g"]
    assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 100, 0) == b"still here"
    os.ftruncate(fd, 5)
    os.fchmod(fd, 0o640)
    os.utime(fd, ns=(1, 2))
    os.setxattr(fd, "user.x", b"y")
    os.pwrite(fd, b"written after", 3)
    assert os.pread(fd, 100, 0) == b"stiwritten after"
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640 and os.getxattr(fd, "user.x") == b"y"
    (d / "f").write_text("another")
    assert os.fstat(fd).st_ino != os.stat(d / "f").st_ino
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    assert os.read(again, 100) == b"stiwritten after"
    os.close(again)
    g = os.open(d / "f", os.O_RDONLY)
    os.rename(d / "g", d / "f")
    assert os.read(g, 100) == b"another" and (d / "f").read_text() == "replaces"
    os.close(g)
    os.close(fd)
    (d / "dir").mkdir()
    fd = os.open(d / "dir", os.O_RDONLY)
    os.rmdir(d / "dir")
    assert os.listdir(fd) == []
    fails(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
    os.close(fd)


def test_renamed_while_open(place):
    d = place.dir
    (d / "a/b").mkdir(parents=True)
    (d / "c").mkdir()
    (d / "a/b/f").write_text("x")
    fd = os.open(d / "a/b/f", os.O_RDWR)
    at = os.open(d / "a/b", os.O_RDONLY)
    os.rename(d / "a", d / "c/a")
    os.pwrite(fd, b"yy", 0)
    assert (d / "c/a/b/f").read_text() == "yy"
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    assert sorted(os.listdir(d / "c/a/b")) == ["f", "new"]
    fails(errno.EINVAL, os.rename, d / "c", d / "c/a/b/c")
    os.close(fd)
    os.close(at)


RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def renameat2(a, b, flags):
    r = libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags)
    if r < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_rename_flags(place):
    d = place.dir
    (d / "a").write_text("a")
    (d / "b").write_text("b")
    (d / "dir/sub").mkdir(parents=True)
    fails(errno.EEXIST, renameat2, d / "a", d / "b", RENAME_NOREPLACE)
    renameat2(d / "a", d / "b", RENAME_EXCHANGE)
    assert (d / "a").read_text() == "b"
    renameat2(d / "a", d / "dir", RENAME_EXCHANGE)
    assert (d / "dir").read_text() == "b" and os.listdir(d / "a") == ["sub"]
    renameat2(d / "a", d / "new", RENAME_NOREPLACE)
    assert not (d / "a").exists()


def test_tmpfile(place):
    fd = os.open(place.dir, os.O_TMPFILE | os.O_RDWR, 0o644)
    os.write(fd, b"from nowhere")
    assert os.listdir(place.dir) == []
    # os.link() follows only when it is given a dir_fd
    assert libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(place.dir / "f"), 0x400) == 0
    os.close(fd)
    assert (place.dir / "f").read_text() == "from nowhere"


# ---- several processes on a file


def append(path, who, n):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for i in range(n):
        line = b"%s %06d %s\n" % (who, i, who * (i % 200))
        assert os.write(fd, line) == len(line)
    os.close(fd)


def check_appended(data, n):
    at = {b"a": 0, b"b": 0}
    for line in data.splitlines():
        who, i, rest = line.split(b" ")
        assert int(i) == at[who] and rest == who * (at[who] % 200)
        at[who] += 1
    assert at == {b"a": n, b"b": n}


def test_appended_by_two(place):
    f = place.dir / "log"
    f.touch()
    pids = [in_child(lambda w=w: append(f, w, 1500)) for w in (b"a", b"b")]
    assert [os.waitpid(p, 0)[1] for p in pids] == [0, 0]
    check_appended(f.read_bytes(), 1500)


def test_shared_mappings(place):
    f = place.dir / "map"
    f.write_bytes(bytes(1 << 20))
    with open(f, "r+b") as one, open(f, "r+b") as two:
        with mmap.mmap(one.fileno(), 1 << 20) as m, mmap.mmap(two.fileno(), 1 << 20) as n:
            m[5000:5005] = b"hello"
            assert n[5000:5005] == b"hello"

            def child():
                n[700_000:700_005] = b"child"

            as_user(0, child)
            assert m[700_000:700_005] == b"child"
            assert os.pread(two.fileno(), 5, 5000) == b"hello"  # what is mapped is what is read
            os.pwrite(two.fileno(), b"J", 5000)
            assert m[5000:5005] == b"Jello"
            m.flush()
            if place.below:
                data = (place.below / "map").read_bytes()
                assert data[5000:5005] == b"Jello" and data[700_000:700_005] == b"child"
            m[-1:] = b"!"
    os.unlink(f)


def test_a_mapping_outlives_its_descriptor(place):
    f = place.dir / "map"
    f.write_bytes(b"x" * 10_000)
    fd = os.open(f, os.O_RDWR)
    m = mmap.mmap(fd, 10_000)
    os.close(fd)
    m[9_999:] = b"y"
    m.close()
    assert f.read_bytes() == b"x" * 9_999 + b"y"
    if place.below:  # closing has no writer to tell, but fsync has
        fd = os.open(f, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        assert (place.below / "map").read_bytes()[9_999:] == b"y"


def test_programs_run_from_it(place):
    shutil.copy("/bin/true", place.dir / "prog")
    subprocess.run([place.dir / "prog"], check=True)
    p = subprocess.Popen([shutil.copy("/bin/sleep", place.dir / "sleep"), "100"])
    try:
        fails(errno.ETXTBSY, os.open, place.dir / "sleep", os.O_WRONLY)
    finally:
        p.kill()
        p.wait()


@pytest.mark.parametrize("how", ["fcntl", "flock"])
def test_locks_between_processes(place, how):
    f = place.dir / "l"
    f.touch()
    take = fcntl.lockf if how == "fcntl" else fcntl.flock
    mine = open(f, "r+")
    take(mine, fcntl.LOCK_EX)

    def refused():
        with open(f, "r+") as g:
            fails(errno.EAGAIN, take, g, fcntl.LOCK_EX | fcntl.LOCK_NB)

    as_user(0, refused)

    def waits():
        with open(f, "r+") as g:
            take(g, fcntl.LOCK_EX)
            g.write("got it")
            g.flush()
            os.kill(os.getpid(), 9)  # and dies with it

    pid = in_child(waits)
    take(mine, fcntl.LOCK_UN)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    take(mine, fcntl.LOCK_EX)  # waits for nobody: the dead hold nothing
    assert f.read_text() == "got it"
    mine.close()


def test_special_files(place):
    d = place.dir
    os.mkfifo(d / "fifo", 0o600)

    def writer():
        with open(d / "fifo", "w") as f:
            f.write("through")

    pid = in_child(writer)
    with open(d / "fifo") as f:
        assert f.read() == "through"
    assert os.waitpid(pid, 0)[1] == 0
    fifo = os.open(d / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    os.close(fifo)
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    st = os.stat(d / "null")
    assert stat.S_ISCHR(st.st_mode) and st.st_rdev == os.makedev(1, 3)
    (d / "null").write_bytes(b"gone")
    assert (d / "null").read_bytes() == b""
    os.mknod(d / "blk", stat.S_IFBLK | 0o600, os.makedev(4000, 1_000_000))
    assert os.stat(d / "blk").st_rdev == os.makedev(4000, 1_000_000)
    os.chdir(d)
    try:
        with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as c:
            s.bind("sock")
            assert stat.S_ISSOCK(os.stat("sock").st_mode)
            s.listen()
            c.connect("sock")
            c.send(b"x")
            a, _ = s.accept()
            assert a.recv(1) == b"x"
            a.close()
        fails(errno.ENXIO, os.open, "sock", os.O_RDONLY)
    finally:
        os.chdir("/")
    kinds = {e.name: e.stat(follow_symlinks=False).st_mode for e in os.scandir(d)}
    assert {stat.S_IFMT(m) for m in kinds.values()} == {stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK,
                                                       stat.S_IFSOCK}


# ---- attributes


def test_xattrs(place):
    f = place.dir / "f"
    f.write_text("")
    names = {f"user.{'n' * i}" for i in (1, 100, 250)}
    for n in names:
        os.setxattr(f, n, n.encode())
    assert {n for n in os.listxattr(f) if n.startswith("user.")} == names
    for n in names:
        assert os.getxattr(f, n) == n.encode()
    fails(errno.EEXIST, os.setxattr, f, "user.n", b"", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, f, "user.m", b"", os.XATTR_REPLACE)
    fails(errno.ENODATA, os.getxattr, f, "user.m")
    fails(errno.ENODATA, os.removexattr, f, "user.m")
    os.setxattr(f, "user.n", b"\0\xff" * 1000)
    assert os.getxattr(f, "user.n") == b"\0\xff" * 1000
    os.setxattr(f, "user.n", b"")
    assert os.getxattr(f, "user.n") == b""
    os.setxattr(f, "trusted.t", b"secret")
    assert os.getxattr(f, "trusted.t") == b"secret"
    f.chmod(0o644)

    def other():
        assert os.getxattr(f, "user.n") == b""
        fails(errno.EACCES, os.setxattr, f, "user.n", b"x")
        with pytest.raises(OSError):
            os.getxattr(f, "trusted.t")

    as_user(NOBODY, other)
    fails(errno.ERANGE, os.setxattr, f, "user." + "n" * 251, b"")
    for n in names:
        os.removexattr(f, n)
    assert not [n for n in os.listxattr(f) if n.startswith("user.")]


def sh(cmd, **kw):
    return subprocess.run(["sh", "-ec", cmd], check=True, timeout=30, capture_output=True, text=True,
                          **kw).stdout


def test_acls(place):
    if place.kind == "mem":
        with pytest.raises(subprocess.CalledProcessError) as e:
            sh("setfacl -m u:1:rw .", cwd=place.dir)
        assert "not supported" in e.value.stderr
        return
    d = place.dir
    f = d / "f"
    f.write_text("mine")
    f.chmod(0o600)
    sh(f"setfacl -m u:{OTHER}:rw,g:{OTHER}:r f", cwd=d)
    assert f"user:{OTHER}:rw-" in sh("getfacl -cn f", cwd=d)
    assert mode(f) == 0o660  # the mask is what shows as the group's

    def other():
        assert f.read_text() == "mine"
        f.write_text("his")

    def stranger():
        fails(errno.EACCES, os.open, f, os.O_RDONLY)

    as_user(OTHER, other)
    as_user(NOBODY, stranger)
    f.chmod(0o600)  # takes the mask, and so the named user's rights
    as_user(OTHER, stranger)
    f.chmod(0o640)
    assert "mask::r--" in sh("getfacl -cn f", cwd=d)
    sh("setfacl -b f", cwd=d)
    assert "mask" not in sh("getfacl -cn f", cwd=d)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
def test_default_acls(place, umask):
    """With one, the umask counts for nothing; without, it does."""
    if place.kind == "mem":
        pytest.skip("a tree in memory has no ACLs")
    d = place.dir / "d"
    d.mkdir()
    sh(f"setfacl -d -m u::rwx,g::rx,o::-,u:{OTHER}:rwx d", cwd=place.dir)

    def work():
        for at, expected in (place.dir, 0o666 & ~umask), (d, 0o660):
            os.close(os.open(at / "file", os.O_CREAT | os.O_WRONLY, 0o666))
            assert mode(at / "file") == expected, oct(mode(at / "file"))
            os.mkdir(at / "sub", 0o777)
            os.mkfifo(at / "fifo", 0o666)
            assert mode(at / "fifo") == expected
        assert mode(place.dir / "sub") == 0o777 & ~umask and mode(d / "sub") == 0o770

    as_user(0, work, umask=umask)
    assert f"default:user:{OTHER}:rwx" in sh("getfacl -cn d/sub", cwd=place.dir)
    assert f"user:{OTHER}:rwx\t#effective:rw-" in sh("getfacl -cn d/file", cwd=place.dir)
    with pytest.raises(OSError):
        os.getxattr(d / "file", "system.posix_acl_default")


def test_other_users(place):
    d = place.dir
    d.chmod(0o777)
    (d / "roots").write_text("x")
    (d / "roots").chmod(0o600)

    def nobody():
        f = d / "his"
        f.write_text("his")
        st = f.stat()
        assert (st.st_uid, st.st_gid) == (NOBODY, NOBODY)
        f.chmod(0o604)
        fails(errno.EPERM, os.chown, f, OTHER, -1)
        fails(errno.EPERM, os.chown, f, -1, OTHER)
        if place.local:
            os.chown(f, NOBODY, 100)  # a group of his
            assert f.stat().st_gid == 100
        fails(errno.EACCES, os.open, d / "roots", os.O_RDONLY)
        fails(errno.EPERM, os.chmod, d / "roots", 0o666)
        fails(errno.EPERM, os.utime, d / "roots", (1, 1))
        fails(errno.EPERM, os.mknod, d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (d / "dir").mkdir()
        (d / "dir/f").touch()
        os.rename(d / "dir/f", d / "f2")

    as_user(NOBODY, nobody, groups=[100])
    os.chown(d / "his", -1, 4243)  # who is unknown to a server is in its nobody's group

    def other():
        fails(errno.EACCES, os.open, d / "his", os.O_WRONLY)
        assert (d / "his").read_text() == "his"
        fails(errno.EPERM, os.chmod, d / "his", 0o777)
        fails(errno.EACCES, os.truncate, d / "his", 0)
        fails(errno.EACCES, os.mkdir, d / "dir/x")

    as_user(OTHER, other)
    d.chmod(0o1777)
    as_user(OTHER, lambda: fails(errno.EPERM, os.unlink, d / "his"))  # sticky
    as_user(OTHER, lambda: fails(errno.EPERM, os.rename, d / "his", d / "mine"))
    os.chown(d / "his", OTHER, 100)
    assert (d / "his").stat().st_uid == OTHER
    if place.below:
        assert (place.below / "his").stat().st_uid == OTHER
    (d / "g").mkdir()
    os.chown(d / "g", 0, 4242)
    (d / "g").chmod(0o2777)

    def inherits():
        (d / "g/f").touch()
        (d / "g/d").mkdir()
        assert (d / "g/f").stat().st_gid == 4242
        assert (d / "g/d").stat().st_gid == 4242 and mode(d / "g/d") & stat.S_ISGID

    as_user(NOBODY, inherits)


def test_supplementary_groups(place):
    if not place.local:
        pytest.skip("9P tells the server who calls; the groups are those that he has there")
    d = place.dir
    f = d / "f"
    f.write_text("for the group")
    os.chown(f, 0, 777)
    f.chmod(0o660)
    (d / "dir").mkdir()
    os.chown(d / "dir", 0, 777)
    (d / "dir").chmod(0o770)

    def member():
        assert f.read_text() in ("for the group", "by a member")
        f.write_text("by a member")
        (d / "dir/x").touch()
        os.unlink(d / "dir/x")

    as_user(NOBODY, member, groups=[5, 777, 9])
    as_user(NOBODY, member, gid=777)
    as_user(NOBODY, lambda: fails(errno.EACCES, os.open, f, os.O_RDONLY), groups=[5])
    assert f.read_text() == "by a member"


def test_suid_is_cleared(place):
    f = place.dir / "f"
    f.touch()
    os.chown(f, NOBODY, NOBODY)
    for how in "write", "truncate", "chown", "fallocate":
        f.chmod(0o6777)
        assert mode(f) == 0o6777

        def work():
            if how == "write":
                f.write_text("x")
            elif how == "truncate":
                os.truncate(f, 10)
            elif how == "fallocate":
                fd = os.open(f, os.O_WRONLY)
                os.posix_fallocate(fd, 0, 100)
                os.close(fd)
            else:
                os.chown(f, -1, NOBODY)

        as_user(NOBODY if how == "chown" else OTHER, work)
        assert mode(f) == 0o777, (how, oct(mode(f)))
    f.chmod(0o6777)
    as_user(0, lambda: f.write_text("root may"))
    f.chmod(0o2745)  # not executable by the group: no suid bit in that sense
    assert mode(f) == 0o2745

    def leaves():  # a group that he is not in
        f.chmod(0o2755)
        assert mode(f) == 0o755

    os.chown(f, NOBODY, 4242)
    as_user(NOBODY, leaves)


def test_times(place):
    f = place.dir / "f"
    f.touch()
    for ns in 1, 981173106_789000001, 4_000_000_000_123456789, -5_000_000_001:
        os.utime(f, ns=(ns, ns + 7))
        st = os.stat(f)
        assert (st.st_atime_ns, st.st_mtime_ns) == (ns, ns + 7)
    f.chmod(0o4755)
    before = os.stat(f)
    with open(f, "a") as g:
        g.write("x")
    after = os.stat(f)
    assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
    at = os.stat(place.dir).st_mtime_ns
    (place.dir / "g").touch()
    assert os.stat(place.dir).st_mtime_ns > at


def test_statfs(place):
    st = os.statvfs(place.dir)
    assert st.f_namemax == 255 and st.f_bsize >= 512
    if place.below:
        below = os.statvfs(place.below)
        assert st.f_blocks * st.f_frsize == below.f_blocks * below.f_frsize
    sh("df . && df -i .", cwd=place.dir)
