# SPDX-License-Identifier: MIT
"""Servers that nobody here wrote, under our client: QEMU's (9P2000.L and 9P2000.u, by qemu9p.py) and
NFS-Ganesha's (9P2000.L over TCP). diod has a file of its own, Linux's client too."""
import os
import shutil
import subprocess

import pytest
from conftest import PLENUM, TOP, fuse, mounted, root, wait_for
from foreign import commands, fsx, tree  # noqa: F401

GANESHA = shutil.which("ganesha.nfsd") or "/usr/bin/ganesha.nfsd"
pytestmark = [root, fuse]
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"),
                                reason="not installed: qemu-system-x86_64 (apt-get install qemu-system-x86)")
needs_ganesha = pytest.mark.skipif(not os.path.exists(GANESHA),
                                   reason="not installed: ganesha.nfsd (apt-get install nfs-ganesha nfs-ganesha-vfs)")


def work(tree, at):
    """On a mount."""
    subprocess.run(["cp", "-a", TOP / "p9", at / "copy"], check=True, timeout=60)
    subprocess.run(["diff", "-r", TOP / "p9", tree / "copy"], check=True, timeout=60)
    shutil.rmtree(at / "copy")
    with pytest.raises(FileNotFoundError):
        (at / "none").read_text()
    (at / "a").write_text("x" * 5000)
    other = os.open(at / "a", os.O_RDWR)
    fd = os.open(at / "a", os.O_RDWR | os.O_TRUNC)  # not every server heeds that in a Tlopen
    assert os.fstat(fd).st_size == 0 == (tree / "a").stat().st_size and os.pread(other, 10, 0) == b""
    os.write(fd, b"abc")
    os.close(other)
    os.rename(at / "a", at / "b")
    assert (tree / "b").read_text() == "abc"
    os.close(fd)
    (at / "b").write_text("de")
    assert (tree / "b").read_text() == "de"
    os.mknod(at / "made", 0o640)  # nor is a regular file what Tmknod makes everywhere
    assert (tree / "made").stat().st_mode & 0o7777 == 0o640
    os.symlink("b", at / "s")
    os.link(at / "b", at / "h")
    assert (at / "s").read_text() == "de" == (tree / "h").read_text() and os.readlink(tree / "s") == "b"
    os.utime(at / "b", (1000, 2000))
    (at / "b").chmod(0o604)
    st = (tree / "b").stat()
    assert (st.st_mtime, st.st_mode & 0o777, st.st_nlink) == (2000, 0o604, 2)
    for name in "b", "h", "s", "made":
        os.unlink(at / name)
    (at / "dir").mkdir(0o750)
    for i in range(300):
        (at / f"dir/{i}").touch()
    assert sorted(map(int, os.listdir(at / "dir"))) == list(range(300))
    shutil.rmtree(at / "dir")
    fsx(at, "--ops", "300", "--size", "300000")


@needs_qemu
@pytest.mark.parametrize("version", ["9p2000.L", "9p2000.u"])
def test_qemu(plenum, tree, version):
    spec = f"9p:exec!python3 {TOP}/test/e2e/qemu9p.py {tree},version={version}"
    commands(lambda *a: plenum.run(*a).out, plenum, tree, spec)
    at = plenum.dir("at")
    plenum.run("mount", spec, at)
    work(tree, at)
    plenum.run("umount", at)
    assert not mounted(at)


@pytest.fixture
def ganesha(plenum, tree):
    """A network namespace with the server in it, for it listens everywhere: what runs a command there."""
    config = plenum.tmp / "ganesha.conf"
    config.write_text(f"""
NFS_CORE_PARAM {{ Protocols = 9P; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
                 Plugins_Dir = "/usr/lib/{os.uname().machine}-linux-gnu/ganesha"; }}
NFSv4 {{ RecoveryBackend = fs_ng; Graceless = true; }}
_9P {{ _9P_TCP_Port = 5640; _9P_TCP_Msize = 65536; }}
EXPORT {{ Export_Id = 1; Path = {tree}; Pseudo = /d; Tag = d; Access_Type = RW; Squash = No_Root_Squash;
         Protocols = 9P; Transports = TCP; SecType = sys, none; FSAL {{ Name = VFS; }} }}
""")
    p = plenum.start(argv=["unshare", "-n", "sh", "-c", f"ip link set lo up; exec {GANESHA} -F -L {plenum.tmp}/log "
                           f"-f {config} -p {plenum.tmp}/pid -N NIV_EVENT"])
    log = plenum.tmp / "log"
    wait_for(lambda: p.poll() is not None or log.exists() and "dispatcher started" in log.read_text(), "no server")
    assert p.poll() is None, log.read_text()
    return ["nsenter", f"--net=/proc/{p.pid}/ns/net"]


@needs_ganesha
def test_ganesha(plenum, tree, ganesha):
    def run(*args):
        p = subprocess.run([*ganesha, PLENUM, *map(str, args)], capture_output=True, text=True, timeout=50,
                           cwd=plenum.tmp)
        assert p.returncode == 0, p.stderr
        return p.stdout
    spec = f"9p:tcp!127.0.0.1!5640,aname={tree}"
    commands(run, plenum, tree, spec)
    at = plenum.dir("at")
    run("mount", spec, at)
    work(tree, at)
    plenum.run("umount", at)
    assert not mounted(at)
