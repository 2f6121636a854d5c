# SPDX-License-Identifier: MIT
"""diod, another 9P2000.L implementation: its tools on our servers, our client on its server."""
import os
import shutil
import socket
import subprocess

import pytest
from conftest import TOP, fuse, mounted, root, wait_for
from foreign import commands, fsx, tree  # noqa: F401

pytestmark = pytest.mark.skipif(not shutil.which("diod"), reason="needs diod")


def tool(server, *args, rc=0):
    """One of diod's programs, on our server."""
    port = server.addr.rsplit("!", 1)[1]
    p = subprocess.run([args[0], "-s", f"127.0.0.1:{port}", *map(str, args[1:])], capture_output=True, timeout=30)
    assert p.returncode == rc, p.stderr
    return p.stdout


@pytest.fixture
def diod(plenum, tree):
    """A server of diod's for `tree`: its SPEC."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    p = plenum.start(argv=["diod", "-f", "-n", "-N", "-L", "stderr", "-l", f"127.0.0.1:{port}", "-e", str(tree)])

    def up():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for(lambda: up() or p.poll() is not None)
    assert p.poll() is None, plenum.err(p)
    return f"9p:tcp!127.0.0.1!{port},aname={tree}"


def test_its_tools(plenum, tree):
    (tree / "big").write_bytes(os.urandom(3_000_000))
    s = plenum.serve(tree, "tcp!127.0.0.1!0")
    assert tool(s, "diodcat", "-a", "/", "f", "sub/x") == b"text\nin sub\n"
    assert tool(s, "diodcat", "-a", "/sub", "x") == b"in sub\n"
    for msize in 4096, 8192, 65536, 1 << 20:
        assert tool(s, "diodcat", "-a", "/", "-m", msize, "big") == (tree / "big").read_bytes()
    assert sorted(tool(s, "diodls", "-a", "/").split()) == [b"big", b"f", b"sub"]
    lines = tool(s, "diodls", "-l", "-a", "/", "sub", ".").decode().splitlines()
    assert {x.split()[-1] for x in lines if x.startswith("d")} == {".", "..", "deep", "sub"}
    assert tool(s, "diodcat", "-a", "/", "none", rc=1) == b""


def test_its_load(plenum, tree):
    """diodload wants the files zero and null at the aname ctl."""
    (tree / "ctl").mkdir()
    (tree / "ctl/zero").write_bytes(bytes(1 << 20))
    (tree / "ctl/null").touch()
    s = plenum.serve(tree, "tcp!127.0.0.1!0")
    for how in ["-r1"], ["-r1", "-g"], ["-r1", "-m", "8192", "-n", "3"]:
        says = subprocess.run(["diodload", "-s", f"127.0.0.1:{s.addr.rsplit('!', 1)[1]}", *how],
                              capture_output=True, timeout=30, text=True)
        both = says.stdout + says.stderr
        assert " ops/s" in both and "error" not in both and " 0 ops/s" not in both, both


@root
def test_our_commands(plenum, tree, diod):
    commands(lambda *a: plenum.run(*a).out, plenum, tree, diod)
    assert "aname=" in plenum.error("ls", diod.split(",")[0])
    assert f"\"{tree}/none\"" in plenum.error("ls", diod + "/none")


@root
@fuse
def test_our_mount(plenum, tree, diod):
    at = plenum.dir("at")
    plenum.run("mount", diod, at)
    subprocess.run(["cp", "-a", TOP / "p9", at / "copy"], check=True, timeout=60)
    subprocess.run(["diff", "-r", TOP / "p9", tree / "copy"], check=True, timeout=60)
    # A rename leaves diod's fids behind: what is open goes on all the same.
    with open(at / "a", "w+") as f:
        f.write("x" * 100)
        f.flush()
        os.rename(at / "a", at / "b")
        (at / "a").write_text("another")
        assert os.fstat(f.fileno()).st_size == 100
        os.ftruncate(f.fileno(), 3)
        os.fchmod(f.fileno(), 0o600)
        assert (tree / "a").read_text() == "another" and (tree / "b").read_text() == "xxx"
        assert (tree / "b").stat().st_mode & 0o777 == 0o600
        # Of a file without a name it has the bytes, and no more.
        os.unlink(at / "b")
        assert os.pread(f.fileno(), 10, 0) == b"xxx" and os.pwrite(f.fileno(), b"y", 3) == 1
        with pytest.raises(OSError):
            os.fstat(f.fileno())
    (at / "copy/new").mkdir()
    os.rename(at / "copy", at / "moved")
    assert (at / "moved/new").is_dir() and sorted(os.listdir(at / "moved")) == sorted(os.listdir(tree / "moved"))
    for seed in 1, 2:
        fsx(at, "--seed", str(seed), "--ops", "1000")
    shutil.rmtree(at / "moved")
    plenum.run("umount", at)
    assert not mounted(at)
