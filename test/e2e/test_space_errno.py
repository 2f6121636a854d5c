# SPDX-License-Identifier: MIT
"""Every result of a union, errno for errno: beside a plain directory with the merged content, and the kernel's
overlayfs. Each case has a directory of its own, which is below; what OVERLAY names is as there."""
import ctypes
import errno
import os
import shutil
import stat
import struct
import subprocess

import pytest
from conftest import fuse, mount_overlay, root

pytestmark = [fuse, root]
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
NOBODY = 65534
CAPS = bytes.fromhex("0100000200040000000000000000000000000000")


def renameat2(old, new, flags):
    if libc.syscall(316, -100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


ACL = "system.posix_acl_access"


def acl(nobody, others):
    """The owner may do all, the user nobody that, others that."""
    entries = [(1, 7, 2**32 - 1), (2, nobody, NOBODY), (4, 0, 2**32 - 1), (16, 7, 2**32 - 1), (32, others, 2**32 - 1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def below(d):
    """What each case finds in its directory."""
    os.makedirs(f"{d}/dir/sub")
    os.makedirs(f"{d}/empty")
    os.makedirs(f"{d}/removed/x")
    os.makedirs(f"{d}/cleared/x")
    for name in ("f", "g", "gone", "dir/x", "dir/sub/z", "cleared/y"):
        with open(f"{d}/{name}", "w") as f:
            f.write(f"below {name}\n")
        os.setxattr(f"{d}/{name}", "user.colour", b"red")
        os.utime(f"{d}/{name}", ns=(10**18 + 1, 10**18 + 2))
    os.link(f"{d}/f", f"{d}/f2")
    os.symlink("f", f"{d}/link")
    os.mkfifo(f"{d}/fifo")
    with open(f"{d}/holes", "wb") as f:
        f.truncate(1 << 20)
        f.seek(512 << 10)
        f.write(b"x" * 4096)
    with open(f"{d}/caps", "w") as f:
        f.write("runs as root")
    os.chown(f"{d}/caps", 1, 1)
    os.chmod(f"{d}/caps", 0o6755)
    os.setxattr(f"{d}/caps", "security.capability", CAPS)
    os.makedirs(f"{d}/secret/in/x")
    os.chmod(f"{d}/secret", 0o700)
    os.chmod(f"{d}/dir", 0o751)


    with open(f"{d}/let", "w") as f, open(f"{d}/kept", "w") as g:
        f.write("an ACL lets nobody in\n")
        g.write("and keeps nobody out\n")
    os.setxattr(f"{d}/let", ACL, acl(6, 0))
    os.setxattr(f"{d}/kept", ACL, acl(0, 6))
    for name in ("let.d", "other.d"):
        os.makedirs(f"{d}/{name}/sub")
        with open(f"{d}/{name}/f", "w") as f:
            f.write("in it\n")
        os.setxattr(f"{d}/{name}", ACL, acl(7, 0))
        os.setxattr(f"{d}/{name}/sub", ACL, acl(7, 0))
    os.makedirs(f"{d}/kept.d/sub")
    os.setxattr(f"{d}/kept.d/sub", ACL, acl(0, 7))
    os.setxattr(f"{d}/kept.d", ACL, acl(7, 7))


def change(d):
    """What is done before the case, through the union."""
    os.unlink(f"{d}/gone")
    shutil.rmtree(f"{d}/removed")
    os.rmdir(f"{d}/cleared/x")
    os.unlink(f"{d}/cleared/y")
    os.mkdir(f"{d}/new")
    for name in ("up", "new/n", "dir/up"):
        with open(f"{d}/{name}", "w") as f:
            f.write(f"above {name}\n")


def opens(name, flags, mode=0o644):
    def do(d):
        os.close(os.open(f"{d}/{name}", flags, mode))
        return seen(f"{d}/{name}")
    return do


def rename(old, new, flags=0):
    def do(d):
        renameat2(f"{d}/{old}", f"{d}/{new}", flags)
    return do


def by_nobody(fn):
    """In a process of its own, as an ordinary user."""
    def do(d):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                fn(d)
                code = 0
            except OSError as e:
                code = e.errno
            os.write(w, bytes([code]))
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(w)
        code = os.read(r, 1)[0]
        os.close(r)
        if code:
            raise OSError(code, "as nobody")
    return do


def seen(path):
    st = os.lstat(path)
    out = [oct(st.st_mode), st.st_uid, st.st_gid]
    if not stat.S_ISDIR(st.st_mode):
        out += [st.st_nlink, st.st_size]
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as f:
            out.append(hash(f.read()))
        out += [(x, os.getxattr(path, x)) for x in sorted(os.listxattr(path))]
    if st.st_mtime_ns < 1.5 * 10**18:
        out.append(st.st_mtime_ns)
    return out


def all_below(d):
    return sorted((os.path.relpath(os.path.join(w, n), d), seen(os.path.join(w, n)))
                  for w, ds, fs in os.walk(d) for n in ds + fs)


def holes(d):
    os.chmod(f"{d}/holes", 0o600)
    fd = os.open(f"{d}/holes", os.O_RDWR)
    try:
        return [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 512 << 10, os.SEEK_HOLE), os.fstat(fd).st_blocks]
    finally:
        os.close(fd)


def links(d):
    os.chmod(f"{d}/f", 0o600)
    a, b = os.stat(f"{d}/f"), os.stat(f"{d}/f2")
    return [a.st_ino == b.st_ino, a.st_nlink, oct(b.st_mode)]


def open_unlinked(d):
    fd = os.open(f"{d}/g", os.O_RDONLY)
    try:
        os.unlink(f"{d}/g")
        return [os.fstat(fd).st_nlink, os.read(fd, 100)]
    finally:
        os.close(fd)


def reader(d):
    """Copying up a file that is open elsewhere."""
    fd = os.open(f"{d}/g", os.O_RDONLY)
    try:
        os.truncate(f"{d}/g", 3)
        return [os.stat(f"{d}/g").st_size, os.fstat(fd).st_ino == os.stat(f"{d}/g").st_ino]
    finally:
        os.close(fd)


def tmpfile(d):
    fd = os.open(f"{d}/dir", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, b"nameless")
        os.link(f"/proc/self/fd/{fd}", f"{d}/gone", follow_symlinks=True)
    finally:
        os.close(fd)
    return seen(f"{d}/gone")


def twice(d):
    """A directory that is made where one was removed has nothing in it, then or later."""
    os.mkdir(f"{d}/removed")
    first = os.listdir(f"{d}/removed")
    os.mkdir(f"{d}/removed/x")
    os.rmdir(f"{d}/removed/x")
    os.rmdir(f"{d}/removed")
    return first


def in_removed(d):
    fd = os.open(f"{d}/empty", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(f"{d}/empty")
        os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    finally:
        os.close(fd)


def xattr(name, key, value=b"v", flags=0):
    return lambda d: os.setxattr(f"{d}/{name}", key, value, flags)


def moved_out(d):
    """Who may search it need not be able to search where it was."""
    os.rename(f"{d}/secret/in", f"{d}/empty/in")
    by_nobody(lambda d: os.stat(f"{d}/empty/in/x"))(d)


CASES = {
    # xattrs
    "removexattr absent": lambda d: os.removexattr(f"{d}/f", "user.none"),
    "removexattr absent of a directory": lambda d: os.removexattr(f"{d}/dir", "user.none"),
    "removexattr absent acl": lambda d: os.removexattr(f"{d}/f", "system.posix_acl_access"),
    "removexattr absent by nobody": by_nobody(lambda d: os.removexattr(f"{d}/f", "user.none")),
    "removexattr unknown by nobody": by_nobody(lambda d: os.removexattr(f"{d}/f", "system.bogus")),
    "removexattr": lambda d: os.removexattr(f"{d}/f", "user.colour"),
    "setxattr create": xattr("f", "user.colour", flags=os.XATTR_CREATE),
    "setxattr replace": xattr("f", "user.none", flags=os.XATTR_REPLACE),
    "setxattr of a symlink": lambda d: os.setxattr(f"{d}/link", "user.a", b"", follow_symlinks=False),
    "setxattr of a fifo": xattr("fifo", "user.a"),
    "setxattr unknown": xattr("f", "bogus.a"),
    "setxattr without a name": xattr("f", "user."),
    "setxattr by nobody": by_nobody(xattr("f", "user.a")),
    "setxattr trusted by nobody": by_nobody(xattr("f", "trusted.a")),
    "getxattr absent": lambda d: os.getxattr(f"{d}/f", "user.none"),
    # attributes
    "chmod": lambda d: os.chmod(f"{d}/f", 0o4711),
    "chmod of a directory": lambda d: os.chmod(f"{d}/dir", 0o1700),
    "chmod by nobody": by_nobody(lambda d: os.chmod(f"{d}/f", 0o600)),
    "chown": lambda d: os.chown(f"{d}/f", 5, 6),
    "chown of a symlink": lambda d: os.lchown(f"{d}/link", 5, 6),
    "chown by nobody": by_nobody(lambda d: os.chown(f"{d}/f", NOBODY, -1)),
    "chown of nothing": lambda d: os.chown(f"{d}/gone", 5, 6),
    "utime": lambda d: os.utime(f"{d}/f", ns=(10**18, 10**18 + 5)),
    "utime of a symlink": lambda d: os.utime(f"{d}/link", ns=(10**18, 10**18 + 5), follow_symlinks=False),
    "utime by nobody": by_nobody(lambda d: os.utime(f"{d}/f", ns=(10**18, 10**18))),
    "utime to now by nobody": by_nobody(lambda d: os.utime(f"{d}/f")),
    "truncate": lambda d: os.truncate(f"{d}/f", 3),
    "truncate to nothing": lambda d: os.truncate(f"{d}/f", 0),
    "truncate a directory": lambda d: os.truncate(f"{d}/dir", 0),
    "truncate a fifo": lambda d: os.truncate(f"{d}/fifo", 0),
    "truncate by nobody": by_nobody(lambda d: os.truncate(f"{d}/f", 0)),
    "touch what has capabilities": lambda d: os.utime(f"{d}/caps", ns=(10**18, 10**18)),
    "truncate what has capabilities": lambda d: os.truncate(f"{d}/caps", 1),
    "chown what has capabilities": lambda d: os.chown(f"{d}/caps", 2, 2),
    "holes": holes,
    "hard links": links,
    "copied up while it is open": reader,
    "removed while it is open": open_unlinked,
    # opening
    "open trunc": opens("f", os.O_WRONLY | os.O_TRUNC),
    "open trunc to read": opens("f", os.O_RDONLY | os.O_TRUNC),
    "open to write": opens("f", os.O_RDWR),
    "open to write by nobody": by_nobody(opens("f", os.O_RDWR)),
    "open trunc by nobody": by_nobody(opens("f", os.O_RDONLY | os.O_TRUNC)),
    "create over a file": opens("f", os.O_RDWR | os.O_CREAT),
    "create excl over a file": opens("f", os.O_RDWR | os.O_CREAT | os.O_EXCL),
    "create excl over a symlink": opens("link", os.O_RDWR | os.O_CREAT | os.O_EXCL),
    "create through a symlink": opens("link", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
    "create excl over a whiteout": opens("gone", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o4750),
    "create over a whiteout of a directory": opens("removed", os.O_RDWR | os.O_CREAT),
    "create in a removed directory": opens("removed/a", os.O_RDWR | os.O_CREAT),
    "create in a merged directory": opens("dir/a", os.O_RDWR | os.O_CREAT),
    "create in what was only behind": opens("dir/sub/a", os.O_RDWR | os.O_CREAT),
    "create by nobody": by_nobody(opens("dir/a", os.O_RDWR | os.O_CREAT)),
    "create in an open removed directory": in_removed,
    "open a directory to write": opens("dir", os.O_RDWR),
    "open a whiteout": opens("gone", os.O_RDONLY),
    "open a symlink": opens("link", os.O_RDONLY | os.O_NOFOLLOW),
    "open a file as a directory": opens("f", os.O_RDONLY | os.O_DIRECTORY),
    "open below a file": opens("f/x", os.O_RDONLY),
    "a file without a name": tmpfile,
    # making
    "mkdir over a whiteout": lambda d: [os.mkdir(f"{d}/removed"), os.listdir(f"{d}/removed")],
    "mkdir over a whiteout of a file": lambda d: [os.mkdir(f"{d}/gone"), os.listdir(f"{d}/gone")],
    "mkdir again and again": twice,
    "mkdir over a file": lambda d: os.mkdir(f"{d}/f"),
    "mkdir over a directory": lambda d: os.mkdir(f"{d}/dir"),
    "mkdir by nobody": by_nobody(lambda d: os.mkdir(f"{d}/a")),
    "symlink over a whiteout": lambda d: os.symlink("x", f"{d}/gone"),
    "symlink over a file": lambda d: os.symlink("x", f"{d}/f"),
    "mknod over a whiteout": lambda d: os.mknod(f"{d}/gone", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "mknod over a fifo": lambda d: os.mkfifo(f"{d}/fifo"),
    "mknod of a whiteout": lambda d: os.mknod(f"{d}/a", stat.S_IFCHR, 0),
    # links
    "link": lambda d: [os.link(f"{d}/g", f"{d}/a"), os.stat(f"{d}/g").st_nlink],
    "link one of two": lambda d: [os.link(f"{d}/f", f"{d}/a"), os.stat(f"{d}/f2").st_nlink],
    "link over a file": lambda d: os.link(f"{d}/g", f"{d}/f"),
    "link over a whiteout": lambda d: os.link(f"{d}/g", f"{d}/gone"),
    "link over a whiteout of a directory": lambda d: os.link(f"{d}/g", f"{d}/removed"),
    "link a whiteout": lambda d: os.link(f"{d}/gone", f"{d}/a"),
    "link a directory": lambda d: os.link(f"{d}/dir", f"{d}/a"),
    "link a symlink": lambda d: os.link(f"{d}/link", f"{d}/a", follow_symlinks=False),
    "link by nobody": by_nobody(lambda d: os.link(f"{d}/g", f"{d}/a")),
    # ACLs
    "truncate by an acl": by_nobody(lambda d: os.truncate(f"{d}/let", 1)),
    "utime to now by an acl": by_nobody(lambda d: os.utime(f"{d}/let")),
    "setxattr by an acl": by_nobody(xattr("let", "user.a")),
    "open to write by an acl": by_nobody(opens("let", os.O_RDWR)),
    "chmod by an acl": by_nobody(lambda d: os.chmod(f"{d}/let", 0o777)),
    "truncate against an acl": by_nobody(lambda d: os.truncate(f"{d}/kept", 1)),
    "utime to now against an acl": by_nobody(lambda d: os.utime(f"{d}/kept")),
    "setxattr against an acl": by_nobody(xattr("kept", "user.a")),
    "open to write against an acl": by_nobody(opens("kept", os.O_RDWR)),
    "chmod of what has an acl": lambda d: os.chmod(f"{d}/let", 0o640),
    "create by an acl": by_nobody(opens("let.d/new", os.O_RDWR | os.O_CREAT)),
    "unlink by an acl": by_nobody(lambda d: os.unlink(f"{d}/let.d/f")),
    "unlink where it sticks": lambda d: [os.chmod(f"{d}/let.d", 0o1770),
                                         by_nobody(lambda d: os.unlink(f"{d}/let.d/f"))(d)],
    "unlink own where it sticks": lambda d: [os.chmod(f"{d}/let.d", 0o1770), os.chown(f"{d}/let.d/f", NOBODY, -1),
                                             by_nobody(lambda d: os.unlink(f"{d}/let.d/f"))(d)],
    "move a directory by an acl": by_nobody(rename("let.d/sub", "other.d/moved")),
    "exchange directories by an acl": by_nobody(rename("let.d/sub", "other.d/sub", EXCHANGE)),
    "move a directory against an acl": by_nobody(rename("kept.d/sub", "other.d/moved")),
    # removing
    "unlink a file": lambda d: os.unlink(f"{d}/f"),
    "unlink a directory": lambda d: os.unlink(f"{d}/dir"),
    "unlink a whiteout": lambda d: os.unlink(f"{d}/gone"),
    "unlink by nobody": by_nobody(lambda d: os.unlink(f"{d}/f")),
    "rmdir a merged directory": lambda d: os.rmdir(f"{d}/dir"),
    "rmdir what is only behind": lambda d: os.rmdir(f"{d}/dir/sub"),
    "rmdir what is empty": lambda d: os.rmdir(f"{d}/empty"),
    "rmdir what has whiteouts alone": lambda d: os.rmdir(f"{d}/cleared"),
    "rmdir a whiteout": lambda d: os.rmdir(f"{d}/removed"),
    "rmdir a file": lambda d: os.rmdir(f"{d}/f"),
    "rmdir dot": lambda d: os.rmdir(f"{d}/dir/."),
    "rmdir dot dot": lambda d: os.rmdir(f"{d}/dir/.."),
    "rmdir by nobody": by_nobody(lambda d: os.rmdir(f"{d}/empty")),
    # renaming
    "rename a file": rename("f", "a"),
    "rename over a file": rename("f", "g"),
    "rename to another of its names": rename("f", "f2"),
    "rename over a whiteout": rename("f", "gone"),
    "rename a whiteout": rename("gone", "a"),
    "rename what is above over what is below": rename("up", "g"),
    "rename what is below over what is above": rename("g", "up"),
    "rename a file over a directory": rename("f", "dir"),
    "rename a directory over a file": rename("dir", "f"),
    "rename a directory": rename("dir", "a"),
    "look at what was moved": moved_out,
    "rename what is only behind": rename("dir/sub", "a"),
    "rename a directory over a whiteout": rename("dir", "removed"),
    "rename a directory over a whiteout of a file": rename("dir", "gone"),
    "rename over a merged directory": rename("new", "dir"),
    "rename over what is only behind": rename("new", "dir/sub"),
    "rename over an empty directory": rename("dir", "empty"),
    "rename over what has whiteouts alone": rename("dir", "cleared"),
    "rename a new directory over an empty one": rename("new", "empty"),
    "rename a new directory over whiteouts": rename("new", "cleared"),
    "rename into itself": rename("dir", "dir/sub/a"),
    "rename over what it is in": rename("dir/sub", "dir"),
    "rename noreplace": rename("f", "g", NOREPLACE),
    "rename noreplace over a whiteout": rename("f", "gone", NOREPLACE),
    "rename noreplace to itself": rename("f", "f", NOREPLACE),
    "rename by nobody": by_nobody(rename("f", "a")),
    "exchange files": rename("f", "g", EXCHANGE),
    "exchange with what is above": rename("f", "up", EXCHANGE),
    "exchange what is above": rename("up", "f", EXCHANGE),
    "exchange a directory and a file": rename("dir", "up", EXCHANGE),
    "exchange directories": rename("dir", "new", EXCHANGE),
    "exchange with what is only behind": rename("new", "dir/sub", EXCHANGE),
    "exchange with an empty directory": rename("dir", "empty", EXCHANGE),
    "exchange with a whiteout": rename("f", "gone", EXCHANGE),
    "exchange with what is in it": rename("dir", "dir/sub", EXCHANGE),
    "exchange, but do not replace": rename("f", "g", EXCHANGE | NOREPLACE),
    "leave a whiteout": rename("f", "a", WHITEOUT),
    "leave a whiteout over a file": rename("f", "up", WHITEOUT),
    "rename with flags that are none": rename("f", "a", 16),
}

# Where overlayfs is not as a plain directory, for a reason that is ours as well.
OVERLAY = {
    "mknod of a whiteout": "it would hide its own name",
    "leave a whiteout": "whiteouts are the union's to make",
    "leave a whiteout over a file": "whiteouts are the union's to make",
}


def outcome(fn, d):
    try:
        result = fn(d)
    except OSError as e:
        result = errno.errorcode[e.errno]
    return result, all_below(d)


PARTS = 4  # so that none takes long on a busy machine


def names(part):
    return {case: "".join(c if c.isalnum() else "_" for c in case) for case in list(CASES)[part::PARTS]}


def let_in(plenum):
    plenum.tmp.chmod(0o711)  # by_nobody() gets to the cases


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("opts", [[], ["-o", "timeout=0"]])
def test_table(plenum, opts, part):
    let_in(plenum)
    low, plain = plenum.dir("low"), plenum.dir("plain")
    dirs = {who: [plenum.dir(f"{who}.{x}") for x in ("up", "work", "here")] for who in ("ours", "kernel")}
    for d in names(part).values():
        below(f"{low}/{d}")
        below(f"{plain}/{d}")
    before = all_below(low)
    up, work, here = dirs["kernel"]
    mount_overlay(here, f"lowerdir={low}", f"upperdir={up}", f"workdir={work}", "redirect_dir=on", "index=on")
    plenum.run("mount", *opts, f"union({dirs['ours'][0]},{low})", dirs["ours"][2])
    wrong = []
    for case, d in names(part).items():
        got = {}
        for who, top in (("plain", plain), ("kernel", here), ("ours", dirs["ours"][2])):
            change(f"{top}/{d}")
            got[who] = outcome(CASES[case], f"{top}/{d}")
        want = got["kernel" if case in OVERLAY else "plain"]
        if got["ours"] != want:
            diff = [x for x in got["ours"][1] if x not in want[1]] + ["not"] + \
                   [x for x in want[1] if x not in got["ours"][1]]
            wrong.append(f"{case}: {got['ours'][0]}, not {want[0]} (overlayfs: {got['kernel'][0]}) {diff}")
    assert not wrong, "\n".join(wrong)
    assert all_below(low) == before
    if part == 0:  # not copied up for nothing
        assert not os.path.lexists(f"{dirs['ours'][0]}/{names(0)['removexattr absent']}/f")
    subprocess.run(["umount", here], check=True)
    plenum.run("umount", dirs["ours"][2])


@pytest.mark.parametrize("spec", ["union(ro,{up},{low})", "union(ro({up}),{low})", "ro(union({up},{low}))"])
@pytest.mark.parametrize("part", range(PARTS))
def test_read_only(plenum, spec, part):
    """No tree takes changes: EROFS, as of an overlayfs without an upper directory, unless there is something wrong
    with the call itself, which the kernel would not look at."""
    let_in(plenum)
    up, low, plain, here, other = (plenum.dir(x) for x in ("up", "low", "plain", "here", "other"))
    for d in names(part).values():
        os.mkdir(f"{up}/{d}")
        below(f"{low}/{d}")
        below(f"{plain}/{d}")
        for top in (up, plain):
            with open(f"{top}/{d}/up", "w") as f:
                f.write("above\n")
    mount_overlay(here, f"lowerdir={up}:{low}")
    plenum.run("mount", spec.format(up=up, low=low), other)
    wrong, before = [], (all_below(up), all_below(low))
    for case, d in names(part).items():
        was = all_below(f"{plain}/{d}")
        got, kernel, free = (outcome(CASES[case], f"{top}/{d}") for top in (other, here, plain))
        itself = kernel[0] == "EROFS" and (case in OVERLAY or free == (got[0], was))
        if got != kernel and not itself:
            wrong.append(f"{case}: {got[0]}, not {kernel[0]} (writable: {free[0]})")
    assert not wrong, "\n".join(wrong)
    assert (all_below(up), all_below(low)) == before
    subprocess.run(["umount", here], check=True)
    plenum.run("umount", other)


def test_no_room(plenum):
    """The copy does not fit: no half file is left, in either form, and the old one is there."""
    low, small = plenum.dir("low"), plenum.dir("small")
    (low / "big").write_bytes(os.urandom(4 << 20))
    (low / "d").mkdir()
    (low / "d/big").write_bytes(os.urandom(4 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small], check=True)
    up, here = plenum.dir("small/up"), plenum.dir("here")
    plenum.run("mount", f"union({up},{low})", here)
    tries = [lambda p: os.open(p, os.O_RDWR), lambda p: os.chmod(p, 0o600), lambda p: os.truncate(p, 3 << 20),
             lambda p: os.rename(p, f"{p}.new"), lambda p: os.link(p, f"{p}.new")]
    done = []
    for name in ("big", "d/big"):
        for t in tries:
            with pytest.raises(OSError) as e:
                t(here / name)
            assert e.value.errno == errno.ENOSPC
            assert (here / name).read_bytes() == (low / name).read_bytes()
            assert [f for _, _, fs in os.walk(up) for f in fs] == done
        done.append("big")
        os.truncate(here / name, 0)
        assert (here / name).read_bytes() == b""
    plenum.run("umount", here)
    subprocess.run(["umount", "-l", small], check=True)  # the server may still be ending
