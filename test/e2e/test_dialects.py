# SPDX-License-Identifier: MIT
"""The older dialects from end to end: commands and mounts that speak them to a server of ours, and a
client that knows 9P2000 by the manual alone."""
import errno
import os
import pwd
import socket
import struct
import subprocess

import pytest
from conftest import fuse, mounted, root


@pytest.fixture
def tree(plenum):
    d = plenum.dir("d")
    (d / "f").write_text("text\n")
    (d / "sub").mkdir()
    (d / "link").symlink_to("f")
    return d


def spec(server, version):
    return f"9p:{server.addr},version={version}"


@pytest.mark.parametrize("version", ["9p2000.u", "9P2000"])
def test_commands(plenum, tree, version):
    s = plenum.serve(tree, "tcp!127.0.0.1!0")
    at = spec(s, version)
    assert plenum.run("cat", at, "f").out == "text\n"
    assert plenum.run("ls", at).out.split() == ["f", "link", "sub"]
    assert ("->" in plenum.run("ls", "-l", at).out) == (version == "9p2000.u")
    (plenum.dir("put") / "x").write_text("x" * 100000)
    plenum.run("put", at, plenum.tmp / "put", "sub/put")
    assert (tree / "sub/put/x").read_text() == "x" * 100000
    plenum.run("get", at, "sub", plenum.tmp / "got")
    subprocess.run(["diff", "-r", tree / "sub", plenum.tmp / "got"], check=True)
    plenum.run("mkdir", at, "new")
    plenum.run("rm", "-r", at, "new", "sub")
    assert sorted(os.listdir(tree)) == ["f", "link"]
    assert "no such dialect" in plenum.run("ls", spec(s, "9p3"), rc=2).err


@root
@fuse
def test_mounts(plenum, tree):
    s = plenum.serve(tree, "tcp!127.0.0.1!0")
    for version in "9p2000.u", "9p2000":
        at = plenum.dir("at-" + version)
        plenum.run("mount", spec(s, version), at)
        (at / "sub/a").write_text("one")
        with open(at / "sub/a", "a") as f:
            f.write(" two")
        assert (tree / "sub/a").read_text() == "one two"
        os.rename(at / "sub/a", at / "sub/b")
        with pytest.raises(OSError) as e:
            os.rename(at / "sub/b", at / "b")
        assert e.value.errno == errno.EXDEV
        subprocess.run(["mv", at / "sub/b", at / "moved"], check=True)
        assert (tree / "moved").read_text() == "one two"
        for i in range(200):
            (at / f"sub/{i}").write_text(str(i))
        assert sorted(map(int, os.listdir(at / "sub"))) == list(range(200))
        subprocess.run("rm -r sub/* moved", shell=True, cwd=at, check=True)
        assert os.path.islink(at / "link") == (version == "9p2000.u")
        assert (at / "link").read_text() == "text\n"
        plenum.run("umount", at)
        assert not mounted(at)


def test_by_the_manual(plenum, tree):
    """What a program sees that was written from section 5 of Plan 9's manual."""
    s = plenum.serve(tree, "tcp!127.0.0.1!0")
    host, port = s.addr.split("!")[1:]
    c = socket.create_connection((host, int(port)), timeout=20)

    def string(b):
        return struct.pack("<H", len(b)) + b

    def rpc(kind, body, tag=1):
        c.sendall(struct.pack("<IBH", 7 + len(body), kind, tag) + body)
        got = b""
        while len(got) < 4 or len(got) < struct.unpack("<I", got[:4])[0]:
            more = c.recv(65536)
            assert more
            got += more
        assert struct.unpack("<H", got[5:7])[0] == tag
        return got[4], got[7:]

    def stats(b):
        while b:
            n, = struct.unpack("<H", b[:2])
            one, b = b[2:2 + n], b[2 + n:]
            mode, = struct.unpack("<I", one[19:23])
            names, rest = [], one[39:]
            for _ in range(4):
                n, = struct.unpack("<H", rest[:2])
                names.append(rest[2:2 + n].decode())
                rest = rest[2 + n:]
            assert not rest
            yield names[0], mode, struct.unpack("<Q", one[31:39])[0], names[1]

    user = pwd.getpwuid(os.geteuid()).pw_name
    assert rpc(100, struct.pack("<I", 8192) + string(b"9P2000.zz"), 0xffff) == (
        101, struct.pack("<I", 8192) + string(b"9P2000"))
    assert rpc(102, struct.pack("<I", 9) + string(user.encode()) + string(b"")) == (
        107, string(b"authentication not required"))
    kind, qid = rpc(104, struct.pack("<II", 0, 0xffffffff) + string(user.encode()) + string(b""))
    assert (kind, qid[0]) == (105, 0x80)
    assert rpc(110, struct.pack("<IIH", 0, 1, 1) + string(b"nothing")) == (107, string(b"file does not exist"))
    assert rpc(110, struct.pack("<IIH", 0, 1, 0)) == (111, b"\0\0")
    assert rpc(112, struct.pack("<IB", 1, 0))[0] == 113
    kind, data = rpc(116, struct.pack("<IQI", 1, 0, 8000))
    assert kind == 117
    assert sorted(stats(data[4:])) == [("f", 0o644, 5, user), ("link", 0o644, 5, user),
                                       ("sub", 0x80000000 | 0o755, 0, user)]
    assert rpc(116, struct.pack("<IQI", 1, len(data) - 4, 8000)) == (117, bytes(4))
    kind, data = rpc(124, struct.pack("<I", 0))
    assert [x[0] for x in stats(data[2:])] == ["/"]
    c.close()
