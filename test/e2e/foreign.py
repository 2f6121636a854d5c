# SPDX-License-Identifier: MIT
"""What is done with every server that nobody here wrote."""
import os
import subprocess

import pytest
from conftest import TOP

FSX = os.path.join(os.path.abspath(os.environ.get("PLENUM_BUILD", TOP / "build")), "test/fsx")


def fsx(at, *args):
    """Random operations at a mount; a file without a name is not every server's to keep."""
    p = subprocess.run([FSX, "--without", "orphans", *args, "--path", at], capture_output=True, text=True, timeout=50)
    assert p.returncode == 0, p.stdout[-3000:]


@pytest.fixture
def tree(plenum):
    d = plenum.dir("d")
    (d / "f").write_text("text\n")
    (d / "sub/deep").mkdir(parents=True)
    (d / "sub/x").write_text("in sub\n")
    return d


def commands(run, plenum, tree, spec):
    """Our commands; run(...) runs one and returns its output."""
    assert run("cat", spec, "f") == "text\n"
    assert run("ls", spec).split() == ["f", "sub"]
    listing = run("ls", "-lR", spec)
    assert "sub/deep" in listing and "in sub" not in listing
    (plenum.tmp / "big").write_bytes(os.urandom(3_000_000))
    run("put", spec, plenum.tmp / "big", "big")
    run("get", spec, "big", "sub", plenum.dir("got"))
    assert (plenum.tmp / "got/big").read_bytes() == (plenum.tmp / "big").read_bytes() == (tree / "big").read_bytes()
    run("put", spec, plenum.tmp / "got", "put")
    subprocess.run(["diff", "-r", plenum.tmp / "got", tree / "put"], check=True)
    run("mkdir", spec, "new")
    run("rm", "-r", spec, "new", "put", "big")
    assert sorted(os.listdir(tree)) == ["f", "sub"]
