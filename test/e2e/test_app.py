# SPDX-License-Identifier: MIT
"""Programs of one's own (pl_main): the examples, each of which mounts itself, serves, and speaks 9P."""
import os
import pathlib
import subprocess

import pytest
from conftest import PLENUM, fuse, mounted, wait_for

BUILD = pathlib.Path(os.environ.get("PLENUM_BUILD", pathlib.Path(PLENUM).parent))
HELLO = BUILD / "examples/hello"
pytestmark = pytest.mark.skipif(not HELLO.exists(), reason="the examples are not built")


def hello(plenum, *args, rc=0):
    p = subprocess.run([HELLO, *map(str, args)], capture_output=True, text=True, timeout=30,
                       cwd=plenum.tmp)
    assert p.returncode == rc, p.stderr
    return p


@fuse
def test_mounts_itself(plenum):
    here = plenum.dir("here")
    hello(plenum, "-o", "ro", here)
    assert mounted(here)
    (name,) = os.listdir(here)
    assert "hello" in (here / name).read_text().lower()
    assert plenum.entry(here)["spec"] == "hello"
    plenum.run("umount", here)


def test_client(plenum):
    """It reads a file of a server; what does not work is said."""
    (plenum.dir("tree") / "f").write_text("here")
    address = f"unix!{plenum.tmp}/s"
    plenum.start("serve", plenum.tmp / "tree", address)
    wait_for(lambda: (plenum.tmp / "s").exists())
    for words, out, err in (([address, "/f"], "here", ""),
                            ([address, "/none"], "", "/none: No such file or directory\n"),
                            ([address, "/"], "", "/: Is a directory\n"),
                            ([f"{address}.none", "/f"], "", f"{address}.none: no such socket (is the server running?)\n"),
                            ([address], "", "usage: client ADDR PATH\n")):
        p = subprocess.run([BUILD / "examples/client", *words], capture_output=True, text=True, timeout=30)
        assert (p.stdout, p.stderr, p.returncode) == (out, err, int(err != "")), words


@fuse
def test_stays_in_the_foreground(plenum):
    here = plenum.dir("here")
    p = plenum.start(argv=[HELLO, "-f", here])
    wait_for(lambda: mounted(here))
    plenum.run("umount", here)
    plenum.ended(p, 0)


def test_serves(plenum):
    p = plenum.start(argv=[HELLO, "--serve", "unix!h.sock"])
    plenum.listening(p)
    assert plenum.run("ls", "9p:unix!h.sock").out.strip()
    p.terminate()
    plenum.ended(p, 0)


def test_speaks_9p(plenum):
    assert plenum.run("ls", f"exec:'{HELLO}' --stdio").out.strip()


def test_usage(plenum):
    assert "--serve ADDR" in hello(plenum, "--help").stdout
    for args in [], ["--serve"], ["--stdio", "x"], ["--nonsense"], ["a", "b"], ["-o", "row", "x"]:
        p = hello(plenum, *args, rc=2)
        assert p.stderr.startswith("hello: ") and p.stderr.count("\n") == 1
    assert "no such directory" in hello(plenum, "missing", rc=1).stderr
