# SPDX-License-Identifier: MIT
"""What others change in a host tree, and what is changed through a mount of it, is seen there, though
the kernel may believe for long what it was told."""
import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import threading
import time

import pytest
from conftest import PLENUM, as_nobody, fuse, root, wait_for

pytestmark = fuse
KINDS = ["fanotify", "inotify"]


def mount(plenum, kind=None, *options, src=None):
    src, here = src or plenum.dir("src"), plenum.dir("here")
    env = dict(os.environ)
    if kind:
        env["PLENUM_WATCH"] = kind
    args = ["-o", ",".join(options)] if options else []
    plenum.run("mount", *args, src, here, env=env)
    return src, here


def other(cwd, script):
    """Somebody else, not this process, does it."""
    subprocess.run(["sh", "-ec", script], cwd=cwd, check=True, timeout=20)


def seen(what, why):
    """Visible at some time; how long that took is printed."""
    begin = time.perf_counter()

    def safely():
        try:
            return what()
        except OSError:
            return False

    wait_for(safely, f"{why}: it is not seen", timeout=30)
    print(f"{why}: {(time.perf_counter() - begin) * 1000:.1f} ms")


def know(here):
    """Has the kernel look at everything, and list it."""
    for at, dirs, files in os.walk(here):
        for name in dirs + files:
            os.lstat(os.path.join(at, name))


@pytest.mark.parametrize("kind", KINDS)
def test_by_others(plenum, kind):
    src = plenum.dir("src")
    other(src, "echo one >f; mkdir d; echo x >d/x; ln -s a l; echo e >edited; echo h >h; ln h h2")
    src, here = mount(plenum, kind, src=src)
    assert plenum.entry(here)["told"] == kind
    know(here)
    assert not (here / "new").exists() and (here / "f").read_text() == "one\n"
    requests = plenum.entry(here)["requests"]
    for _ in range(50):
        os.stat(here / "f"), (here / "new").exists(), os.readlink(here / "l"), os.stat(here / "d/x")
    assert plenum.entry(here)["requests"] < requests + 50  # it believes
    steps = [
        ("echo two >>f", lambda: (here / "f").read_text() == "one\ntwo\n"),
        ("echo n >new", lambda: (here / "new").read_text() == "n\n"),
        ("chmod 600 f", lambda: os.stat(here / "f").st_mode & 0o777 == 0o600),
        ("touch -d @1000 f", lambda: os.stat(here / "f").st_mtime == 1000),
        ("rm new", lambda: not (here / "new").exists()),
        ("echo again >new", lambda: (here / "new").read_text() == "again\n"),
        ("echo saved >.tmp; mv .tmp edited", lambda: (here / "edited").read_text() == "saved\n"),
        ("mv f g", lambda: not (here / "f").exists() and (here / "g").exists()),
        ("mkdir d/sub", lambda: sorted(os.listdir(here / "d")) == ["sub", "x"]),
        ("mv d e", lambda: sorted(os.listdir(here / "e")) == ["sub", "x"]),
        ("echo y >>e/x", lambda: (here / "e/x").read_text() == "x\ny\n"),
        ("rm l; ln -s bb l", lambda: os.readlink(here / "l") == "bb"),
        ("truncate -s 5000 g", lambda: os.stat(here / "g").st_size == 5000),
        ("echo more >>h2", lambda: (here / "h").read_text() == "h\nmore\n"),
        ("rm h2", lambda: os.stat(here / "h").st_nlink == 1),
        ("rm -r e", lambda: not (here / "e").exists() and "e" not in os.listdir(here)),
        ("mkdir -p p/q/r; echo deep >p/q/r/f", lambda: (here / "p/q/r/f").read_text() == "deep\n"),
    ]
    for script, what in steps:
        other(src, script)
        seen(what, script)
    if os.geteuid() == 0:
        other(src, "chown 5:6 g")
        seen(lambda: os.stat(here / "g").st_uid == 5, "chown")
    os.setxattr(src / "g", "user.a", b"b")
    seen(lambda: os.getxattr(here / "g", "user.a") == b"b", "setxattr")
    assert plenum.entry(here)["invalidated"] > 0
    plenum.run("umount", here)


def test_open_files_see_it(plenum):
    src, here = mount(plenum)
    (src / "f").write_text("1")
    with open(here / "f") as f:
        assert os.fstat(f.fileno()).st_size == 1
        (src / "f").write_text("22")
        seen(lambda: os.fstat(f.fileno()).st_size == 2 and os.pread(f.fileno(), 9, 0) == b"22", "write")
        os.unlink(src / "f")
        seen(lambda: os.fstat(f.fileno()).st_nlink == 0, "unlink")
    plenum.run("umount", here)


@pytest.mark.alone
@root
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_overflow(plenum, kind, nested):
    """More changes at once than the kernel keeps: nothing stays out of date, mounts within stay."""
    src = plenum.dir("src")
    for i in range(60):
        (src / f"old{i}").touch()
    control = f"/proc/sys/fs/{kind}/max_queued_events"
    with open(control) as f:
        usual = f.read()
    try:
        with open(control, "w") as f:
            f.write("16")
        src, here = mount(plenum, kind, src=src)
    finally:
        with open(control, "w") as f:
            f.write(usual)
    if nested:
        (here / "in").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "t", here / "in"], check=True, timeout=20)
        (here / "in/f").touch()
    for i in range(60):
        assert (here / f"old{i}").exists() and not (here / f"new{i}").exists()
    other(src, "for i in $(seq 0 59); do mv old$i new$i; done" if kind == "inotify" else
          "perl -e 'rename(\"old$_\", \"new$_\") for 0..59'")
    seen(lambda: not any((here / f"old{i}").exists() for i in range(60)), "gone")
    seen(lambda: all((here / f"new{i}").exists() for i in range(60)), "come")
    if nested:
        assert (here / "in/f").exists()
        subprocess.run(["umount", here / "in"], check=True, timeout=20)
    plenum.run("umount", here)


@pytest.mark.alone
@root
def test_lost_is_shown(plenum):
    src = plenum.dir("src")
    with open("/proc/sys/fs/fanotify/max_queued_events") as f:
        usual = f.read()
    try:
        with open("/proc/sys/fs/fanotify/max_queued_events", "w") as f:
            f.write("16")
        src, here = mount(plenum, "fanotify", src=src)
    finally:
        with open("/proc/sys/fs/fanotify/max_queued_events", "w") as f:
            f.write(usual)

    def shown():
        other(src, "perl -e 'for (0..999) { open F, q(>), \"s$_\"; close F; unlink \"s$_\" }'")
        return "lost" in plenum.entry(here)["told"]

    wait_for(shown, "no overflow, or it is not shown", timeout=30)
    wait_for(lambda: plenum.entry(here)["told"] == "fanotify", "the doubt does not end", timeout=30)
    plenum.run("umount", here)


def test_limit(plenum):
    src = plenum.dir("src")
    for i in range(6):
        (src / f"d{i}").mkdir()
        (src / f"d{i}/f").write_text("1")
    src, here = mount(plenum, "fanotify,3", src=src)
    know(here)
    wait_for(lambda: plenum.entry(here)["told"] == "fanotify: 4 of 7 directories are not watched",
             "the limit is not shown")
    for i in range(6):
        assert (here / f"d{i}/f").read_text() == "1"
        (src / f"d{i}/f").write_text("22")
    seen(lambda: all((here / f"d{i}/f").read_text() == "22" for i in range(6)), "all, if not at once")
    plenum.run("umount", here)


def test_without(plenum):
    src, here = mount(plenum, None, "nowatch")
    assert plenum.entry(here)["told"] == "asked again after 1 s: -o nowatch"
    (src / "f").write_text("1")
    assert (here / "f").read_text() == "1"
    (src / "f").write_text("22")
    seen(lambda: (here / "f").read_text() == "22", "asked")
    plenum.run("umount", here)


@root
def test_user_namespace(plenum):
    """Without privileges too."""
    src, here = plenum.dir("src"), plenum.dir("here")
    script = f"""set -e
        cd {plenum.tmp}
        "{PLENUM}" mount src here
        "{PLENUM}" status --json here | grep -q '"told": *"[fi]a\\?notify"'
        test ! -e here/f
        echo 1 >src/f
        i=0; until test -e here/f; do sleep 0.02; i=$((i+1)); test $i -lt 1000; done
        cat here/f; echo 22 >src/f
        i=0; until test "$(cat here/f)" = 22; do sleep 0.02; i=$((i+1)); test $i -lt 1000; done
        "{PLENUM}" umount here"""
    p = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, timeout=50)
    if b"unshare failed" in p.stderr:
        pytest.skip("no user namespaces")
    assert p.returncode == 0, p.stderr + p.stdout


def test_storm(plenum):
    """Changes behind the mount and through it at once: notifications wait for directories that are
    in use, whose users wait for the server. Nobody waits for good."""
    src, here = mount(plenum)
    for i in range(8):
        (src / f"d{i}").mkdir()
    over = time.monotonic() + 5
    failed = []

    def work(base, salt):
        n = 0
        while time.monotonic() < over:
            n += 1
            a, b = base / f"d{n % 8}/f{n % 5}", base / f"d{(n + salt) % 8}/f{n % 3}"
            for step in (lambda: a.write_text(str(n)), lambda: os.rename(a, b), lambda: b.read_text(),
                         lambda: os.listdir(b.parent), lambda: os.stat(a), lambda: os.unlink(b)):
                try:
                    step()
                except FileNotFoundError:
                    pass
                except OSError as e:
                    if e.errno != 116:  # ESTALE: it went while it was opened
                        failed.append(e)

    threads = [threading.Thread(target=work, args=(src if i % 2 else here, i)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(40)
        assert not t.is_alive(), "somebody waits for good"
    assert not failed

    def same():
        for i in range(8):
            want = {n: (src / f"d{i}" / n).read_text() for n in os.listdir(src / f"d{i}")}
            got = {n: (here / f"d{i}" / n).read_text() for n in os.listdir(here / f"d{i}")}
            if want != got:
                return False
        return True

    seen(same, "in the end both are the same")
    plenum.run("umount", here)


FIELDS = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns",
          "st_blocks")


@pytest.mark.parametrize("options", [(), ("nowatch", "timeout=1h")])
def test_through_the_mount(plenum, options):
    """After each operation through the mount all that it concerns has, at once, the attributes that
    the files themselves have."""
    src = plenum.dir("src")
    other(src, "mkdir a b; echo f >a/f; ln a/f a/f2; echo g >b/g; mkdir a/d; ln -s f a/l")
    src, here = mount(plenum, None, *options, src=src)
    held = {}

    def check(what):
        for at, dirs, files in list(os.walk(src)):
            for name in [""] + dirs + files:
                there = os.path.join(at, name).rstrip("/")
                mine = os.path.join(here, os.path.relpath(there, src))
                x, y = os.lstat(there), os.lstat(mine)
                for field in FIELDS:
                    if field == "st_ino" and there == str(src):
                        continue
                    assert getattr(x, field) == getattr(y, field), f"after {what}: {field} of {mine}"
            assert sorted(os.listdir(os.path.join(here, os.path.relpath(at, src)))) == \
                sorted(os.listdir(at)), f"after {what}"
        for name, (mine, there) in held.items():
            x, y = os.fstat(there), os.fstat(mine)
            for field in FIELDS:
                assert getattr(x, field) == getattr(y, field), f"after {what}: {field} of open {name}"

    def hold(path):
        held[path] = (os.open(here / path, os.O_RDWR), os.open(src / path, os.O_RDONLY))

    def chattr(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            flags = struct.unpack("I", fcntl.ioctl(fd, 0x80086601, b"\0" * 8)[:4])[0]
            fcntl.ioctl(fd, 0x40086602, struct.pack("Q", flags | 0x80))  # noatime
        except OSError:
            pass  # not on this file system
        finally:
            os.close(fd)

    def copy(a, b):
        with open(a, "rb") as x, open(b, "r+b") as y:
            os.copy_file_range(x.fileno(), y.fileno(), 100)

    def write(path, data, flags=0):
        fd = os.open(path, os.O_WRONLY | flags)
        os.write(fd, data)
        os.close(fd)

    def fallocate(path):
        fd = os.open(path, os.O_RDWR)
        os.posix_fallocate(fd, 0, 20000)
        os.close(fd)

    A, B = here / "a", here / "b"
    check("nothing")
    hold("a/f")
    hold("b/g")
    steps = [
        ("link", lambda: os.link(A / "f", B / "f3")),
        ("write by another name", lambda: write(B / "f3", b"12345")),
        ("append", lambda: write(A / "f2", b"x" * 9000, os.O_APPEND)),
        ("unlink of one name", lambda: os.unlink(A / "f2")),
        ("chmod", lambda: os.chmod(B / "f3", 0o640)),
        ("utimes", lambda: os.utime(A / "f", (5, 6))),
        ("rename over", lambda: os.rename(A / "f", B / "g")),
        ("rename between", lambda: os.rename(B / "f3", A / "f")),
        ("rename of a directory", lambda: os.rename(A / "d", B / "d")),
        ("mkdir", lambda: os.mkdir(A / "n")),
        ("mkdir in it", lambda: os.mkdir(A / "n/m")),
        ("rmdir", lambda: os.rmdir(A / "n/m")),
        ("symlink", lambda: os.symlink("z", A / "l2")),
        ("mknod", lambda: os.mkfifo(A / "p")),
        ("create", lambda: (A / "c").write_text("c" * 5000)),
        ("truncate", lambda: os.truncate(A / "c", 10)),
        ("open with O_TRUNC", lambda: (A / "c").write_text("new")),
        ("fallocate", lambda: fallocate(A / "c")),
        ("copy", lambda: copy(A / "c", A / "f")),
        ("setxattr", lambda: os.setxattr(A / "c", "user.x", b"1")),
        ("removexattr", lambda: os.removexattr(A / "c", "user.x")),
        ("chattr", lambda: chattr(A / "c")),
        ("read", lambda: (A / "c").read_bytes()),
        ("replace a directory", lambda: os.rename(A / "n", B / "d")),
        ("rename to itself under another name", lambda: os.link(A / "c", A / "c2")),
        ("unlink of the open", lambda: os.unlink(A / "f")),
        ("unlink", lambda: os.unlink(A / "c")),
    ]
    if os.geteuid() == 0:
        steps += [
            ("chown", lambda: os.chown(B / "g", 3, 4)),
            ("set-user-ID", lambda: os.chmod(A / "c2", 0o6777)),
            ("write by another user", lambda: subprocess.run(
                as_nobody("sh", "-c", f"echo x >>{A}/c2"), check=True, timeout=20)),
        ]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in (
            (1, 7, 0xffffffff), (2, 5, 1), (4, 4, 0xffffffff), (16, 5, 0xffffffff), (32, 0, 0xffffffff)))
        steps.append(("ACL", lambda: os.setxattr(B / "g", "system.posix_acl_access", acl)))
        for path in (plenum.tmp, src, here):
            os.chmod(path, 0o755)
    try:
        for what, step in steps:
            with contextlib.suppress(NotImplementedError):
                step()
            check(what)
    finally:
        for mine, there in held.values():
            os.close(mine)
            os.close(there)
    plenum.run("umount", here)


@root
def test_privileges_go(plenum):
    """Whoever writes takes set-user-ID away (HANDLE_KILLPRIV_V2), and that is seen at once; ACLs are
    the kernel's to check."""
    src, here = mount(plenum, None, "suid", "timeout=1h")
    for path in (plenum.tmp, src, here):
        os.chmod(path, 0o755)
    (src / "f").write_text("1")
    os.chmod(src / "f", 0o6777)
    assert os.stat(here / "f").st_mode & 0o6000 == 0o6000
    subprocess.run(as_nobody("sh", "-c", f"echo x >>{here}/f"), check=True, timeout=20)
    assert stat.S_IMODE(os.stat(here / "f").st_mode) == 0o777
    (src / "g").write_text("secret")
    os.chmod(src / "g", 0o600)
    subprocess.run(["setfacl", "-m", "u:65534:r", here / "g"], check=True, timeout=20)
    assert subprocess.run(as_nobody("cat", here / "g"), capture_output=True, timeout=20).stdout == b"secret"
    assert subprocess.run(as_nobody("sh", "-c", f"echo >{here}/g"), capture_output=True, timeout=20).returncode
    plenum.run("umount", here)


@pytest.mark.alone
@root
def test_forgets(plenum):
    """What the kernel lets go of, in batches, the server lets go of, its marks too."""
    src = plenum.dir("src")
    for i in range(300):
        (src / f"d{i}").mkdir()
        (src / f"d{i}/f").touch()
    src, here = mount(plenum, src=src)
    know(here)
    server = plenum.entry(here)["server"]

    def marks():
        count = 0
        for fd in os.listdir(f"/proc/{server}/fdinfo"):
            with contextlib.suppress(OSError), open(f"/proc/{server}/fdinfo/{fd}") as f:
                count += f.read().count("fanotify ino:")
        return count

    assert marks() == 301
    assert len(os.listdir(f"/proc/{server}/fd")) < 1000

    def dropped():
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("2")
        return marks() < 50

    wait_for(dropped, "marks stay", timeout=30)
    (src / "d7/f").write_text("x")
    assert (here / "d7/f").read_text() == "x"
    plenum.run("umount", here)


# ---- unions: live below, and above ----


@contextlib.contextmanager
def union(plenum, *options, kind="fanotify"):
    """A directory over another, mounted; changes are made in plenum.tmp."""
    up, low, here = (plenum.dir(x) for x in ("up", "low", "here"))
    other(plenum.tmp, """echo low >low/f; echo low >low/g; mkdir -p low/d low/only/in up/d up/part/in
        echo l >low/d/l; echo u >up/d/u; echo u >up/part/in/u; echo x >low/only/in/x""")
    env = dict(os.environ, PLENUM_WATCH=kind)
    plenum.run("mount", "-o", ",".join(options), f"union({up},{low})", here, env=env)
    know(here)
    yield here
    plenum.run("umount", here)


@root
@pytest.mark.parametrize("options", [("open",), ("noopen",), ()])
@pytest.mark.parametrize("kind", KINDS)
def test_union(plenum, kind, options):
    """The kernel believes for an hour what it was told, and hears of what is another then."""
    with union(plenum, "timeout=1h", *options, kind=kind) as here:
        assert plenum.entry(here)["told"] == kind
        for _ in range(2):  # the first time, attributes and listings are learnt
            know(here)
            assert not (here / "new").exists() and not (here / "d/new").exists() and not (here / "part/z").exists()
            assert (here / "f").read_text() == "low\n"
        requests = plenum.entry(here)["requests"]
        for _ in range(50):
            os.stat(here / "f"), (here / "new").exists(), os.stat(here / "only/in/x"), (here / "d/new").exists()
        assert plenum.entry(here)["requests"] < requests + 50  # it believes
        if options == ("noopen",):
            before = plenum.entry(here)["requests"]
            for _ in range(50):
                with open(here / "f", "rb", buffering=0) as f:
                    assert f.read(9) == b"low\n"
                assert sorted(os.listdir(here / "d")) == ["l", "u"]
            assert plenum.entry(here)["requests"] < before + 70  # but of isatty()
        steps = [
            ("echo two >>low/f", lambda: (here / "f").read_text() == "low\ntwo\n"),
            ("echo n >low/new", lambda: (here / "new").read_text() == "n\n"),
            ("echo n >low/d/new", lambda: (here / "d/new").exists()),
            ("echo n >low/d/newer", lambda: sorted(os.listdir(here / "d")) == ["l", "new", "newer", "u"]),
            ("touch -d @1000 low/only/in/x", lambda: os.stat(here / "only/in/x").st_mtime == 1000),
            ("echo hides >up/g", lambda: (here / "g").read_text() == "hides\n"),
            ("rm up/g", lambda: (here / "g").read_text() == "low\n"),
            ("mknod up/g c 0 0", lambda: not (here / "g").exists() and "g" not in os.listdir(here)),
            ("rm up/g", lambda: (here / "g").exists() and "g" in os.listdir(here)),
            ("mkdir -p low/part/in; echo z >low/part/z", lambda: (here / "part/z").exists()),
            ("echo y >low/part/in/y", lambda: sorted(os.listdir(here / "part/in")) == ["u", "y"]),
            ("mv low/part low/away", lambda: os.listdir(here / "part") == ["in"] and
             os.listdir(here / "part/in") == ["u"] and (here / "away/in/y").exists()),
            ("setfattr -n trusted.overlay.opaque -v y up/d", lambda: os.listdir(here / "d") == ["u"] and
             not (here / "d/l").exists()),
            ("rm -r low/only", lambda: not (here / "only").exists()),
        ]
        for script, what in steps:
            other(plenum.tmp, script)
            seen(what, script)
        assert plenum.entry(here)["invalidated"] > 0


@root
@pytest.mark.parametrize("options", [("nowatch",), ("nowatch", "open"), ("nowatch", "noopen")])
def test_union_that_is_asked(plenum, options):
    """Nobody tells: a listing of a merged directory is as new as attributes are, though its time is the
    first one's."""
    with union(plenum, "timeout=100ms", *options) as here:
        for _ in range(2):
            assert sorted(os.listdir(here / "d")) == ["l", "u"]
        other(plenum.tmp, "echo n >low/d/new")
        seen(lambda: sorted(os.listdir(here / "d")) == ["l", "new", "u"], "new below")
        other(plenum.tmp, "rm low/d/l")
        seen(lambda: sorted(os.listdir(here / "d")) == ["new", "u"], "gone below")


@root
def test_union_copied_up(plenum):
    """What opening a file changes of it is not kept from the kernel, and the copy is told of, too."""
    with union(plenum, "timeout=1h") as here:
        before = os.stat(here / "f")
        os.close(os.open(here / "f", os.O_RDWR))
        copy = os.stat(plenum.tmp / "up/f")
        assert copy.st_ctime_ns != before.st_ctime_ns
        seen(lambda: os.stat(here / "f").st_ctime_ns == copy.st_ctime_ns, "copied up")
        assert os.stat(here / "f").st_ino == before.st_ino
        other(plenum.tmp, "echo below >>low/f; echo above >>up/f")
        seen(lambda: (here / "f").read_text() == "low\nabove\n", "above")


def tree_of(top):
    found = {}
    for at, dirs, files in os.walk(top):
        rel = os.path.relpath(at, top)
        found[rel] = sorted(dirs), sorted(files), os.stat(at).st_mode
        for name in files:
            path = os.path.join(at, name)
            with open(path) as f:
                found[os.path.join(rel, name)] = f.read(), os.stat(path).st_size
    return found


@root
@pytest.mark.parametrize("options", [("open",), ("noopen",)])
def test_union_storm(plenum, options):
    """Changes behind, in front and through the mount, at once: in the end it shows what one does that knows
    nothing yet."""
    with union(plenum, "timeout=1h", *options) as here:
        up, low, fresh = plenum.tmp / "up", plenum.tmp / "low", plenum.dir("fresh")
        for base in (up, low):
            for i in range(4):
                (base / f"d{i}/in").mkdir(parents=True, exist_ok=True)
        over, failed = time.monotonic() + 4, []
        fine = {errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}

        def work(base, salt):
            n = 0
            while time.monotonic() < over:
                n += 1
                a, b = base / f"d{n % 4}/in/f{n % 5}", base / f"d{(n + salt) % 4}/in/f{n % 3}"
                steps = [lambda: a.write_text(str(n)), lambda: os.rename(a, b), lambda: b.read_text(),
                         lambda: os.listdir(b.parent), lambda: os.stat(a), lambda: os.unlink(b),
                         lambda: os.chmod(a, 0o640)]
                if base == low:
                    steps += [lambda: os.rename(low / f"d{n % 4}", low / f"e{n % 4}"), lambda: (low / f"new{n % 7}").write_text("n"),
                              lambda: os.rename(low / f"e{n % 4}", low / f"d{n % 4}"), lambda: os.unlink(low / f"new{n % 5}")]
                for step in steps:
                    try:
                        step()
                    except OSError as e:
                        if e.errno not in fine and not (base == up and e.errno == errno.ENXIO):  # a whiteout
                            failed.append((base.name, e))

        threads = [threading.Thread(target=work, args=(base, i)) for i, base in enumerate((here, low, here, up, here, low))]
        for t in threads:
            t.start()
        for t in threads:
            t.join(40)
            assert not t.is_alive(), "somebody waits for good"
        assert not failed, failed[:5]
        plenum.run("mount", "-o", "timeout=0,nowatch", f"union({up},{low})", fresh)
        try:
            seen(lambda: tree_of(here) == tree_of(fresh), "in the end both are the same")
        finally:
            a, b = tree_of(here), tree_of(fresh)
            print([(k, a.get(k), b.get(k)) for k in {*a, *b} if a.get(k) != b.get(k)])
            plenum.run("umount", fresh)


@root
def test_union_next_server(plenum):
    """The next server watches, too, and has the kernel ask for what nobody watched meanwhile."""
    with union(plenum, "timeout=1h") as here:
        entry = plenum.entry(here)
        os.kill(entry["server"], signal.SIGKILL)
        other(plenum.tmp, "echo two >>low/f; echo n >low/d/new")
        wait_for(lambda: plenum.entry(here)["server"] not in (0, entry["server"]), "nobody took over")
        seen(lambda: (here / "f").read_text() == "low\ntwo\n", "between two servers")
        seen(lambda: sorted(os.listdir(here / "d")) == ["l", "new", "u"], "a name between two servers")
        know(here)
        other(plenum.tmp, "echo three >>low/f; echo n >low/d/newer")
        seen(lambda: (here / "f").read_text() == "low\ntwo\nthree\n", "by the next server")
        seen(lambda: sorted(os.listdir(here / "d")) == ["l", "new", "newer", "u"], "a name, by the next server")
