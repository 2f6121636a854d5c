# SPDX-License-Identifier: MIT
"""Servers, and the commands listen and dial."""
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import time

import pytest
from conftest import PLENUM, alive, as_nobody, root, wait_for


@pytest.mark.parametrize("addr", ["unix!s.sock", "unix:s.sock", "tcp!127.0.0.1!0", "tcp://127.0.0.1:0",
                                  "tcp://[::1]:0", "tcp!localhost!0"])
def test_serve(plenum, addr):
    src = plenum.dir("src")
    (src / "f").write_text("served")
    p = plenum.serve(src, addr)
    assert plenum.run("cat", f"9p:{p.addr}", "f").out == "served"
    (e,) = [e for e in plenum.status() if e["server"] == p.pid]
    assert e["kind"] == "serve" and e["dir"] == "" and e["spec"] == f"host:{src}"
    assert e["requests"] > 0 and p.addr in e["peer"]
    p.terminate()
    assert plenum.ended(p, 0).count("\n") == 1
    assert not (plenum.tmp / "s.sock").exists()
    assert not [e for e in plenum.status() if e["server"] == p.pid]


def test_everywhere_is_warned_of(plenum):
    p = plenum.serve("mem:", "tcp!*!0")
    assert "neither encrypted nor authenticated" in plenum.err(p)
    port = p.addr.rsplit("!", 1)[1]
    for host in "127.0.0.1", "::1":
        plenum.run("ls", f"9p:tcp!{host}!{port}")
    p.send_signal(signal.SIGINT)
    plenum.ended(p, 0)


def test_several_addresses(plenum):
    src = plenum.dir("src")
    p = plenum.serve(src, "unix!a.sock", "unix!b.sock", "tcp!127.0.0.1!0")
    lines = wait_for(lambda: len(plenum.err(p).splitlines()) == 3 and plenum.err(p).splitlines())
    for line in lines:
        plenum.run("ls", "9p:" + line.rsplit(" on ", 1)[1])
    p.terminate()
    plenum.ended(p, 0)


def test_quiet(plenum):
    p = plenum.start("serve", "-q", "mem:", "unix!s.sock")
    wait_for((plenum.tmp / "s.sock").exists)
    p.terminate()
    assert plenum.ended(p, 0) == ""


def test_once(plenum):
    p = plenum.serve("-1", "mem:", "unix!s.sock")
    plenum.run("ls", "9p:unix!s.sock")
    plenum.ended(p, 0)


def test_two_clients_see_each_other(plenum):
    p = plenum.serve("mem:", "unix!s.sock")
    (plenum.tmp / "f").write_text("from one")
    plenum.run("put", "9p:unix!s.sock", "f")
    assert plenum.run("cat", "9p:unix!s.sock", "f").out == "from one"
    many = [plenum.start("cat", "9p:unix!s.sock", "f", stdout=subprocess.PIPE) for _ in range(10)]
    for m in many:
        assert m.stdout.read() == b"from one"
        m.stdout.close()
        plenum.ended(m, 0)
    p.terminate()
    plenum.ended(p, 0)


def test_stdio(plenum):
    src = plenum.dir("src")
    (src / "f").write_text("by stdio")
    assert plenum.run("cat", f"exec:'{PLENUM}' serve '{src}' stdio", "f").out == "by stdio"


def test_aname(plenum):
    plenum.dir("src/below")
    (plenum.tmp / "src/below/f").write_text("deep")
    p = plenum.serve("src", "unix!s.sock")
    assert plenum.run("ls", "9p:unix!s.sock,aname=/below").out == "f\n"
    assert 'nothing named "/nothing"' in plenum.error("ls", "9p:unix!s.sock,aname=/nothing")
    p.terminate()
    plenum.ended(p, 0)


@root
def test_who_may_connect(plenum):
    plenum.tmp.chmod(0o755)
    src = plenum.dir("src")

    def ls(sock):
        return subprocess.run(as_nobody(PLENUM, "ls", f"9p:unix!{plenum.tmp}/{sock}"), timeout=30,
                              capture_output=True, text=True)

    p = plenum.serve(src, "unix!mine.sock")
    assert ls("mine.sock").returncode == 1
    p.terminate()
    plenum.ended(p, 0)
    p = plenum.serve("-a", "65534", src, "unix!his.sock")
    assert ls("his.sock").returncode == 0
    p.terminate()
    plenum.ended(p, 0)
    p = plenum.serve("--anyone", src, "unix!all.sock")
    r = ls("all.sock")
    assert r.returncode == 0, r.stderr
    p.terminate()
    plenum.ended(p, 0)


def test_refused_peer_is_told_of(plenum):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    plenum.tmp.chmod(0o755)
    p = plenum.serve("-a", "12345", "mem:", "unix!s.sock")
    r = subprocess.run(as_nobody(PLENUM, "ls", f"9p:unix!{plenum.tmp}/s.sock"), timeout=30,
                       capture_output=True, text=True)
    assert r.returncode == 1 and r.stderr.count("\n") == 1
    wait_for(lambda: "65534" in plenum.err(p) or "nobody" in plenum.err(p), plenum.err(p))
    p.terminate()
    plenum.ended(p, 0)


HOSTILE = {
    "empty": b"",
    "half a size": b"\x13\0",
    "size zero": struct.pack("<IBH", 0, 100, 0xffff),
    "size of a header": struct.pack("<IBH", 7, 100, 0xffff),
    "huge size": struct.pack("<IBH", 0x7fffffff, 100, 0xffff),
    "truncated": struct.pack("<IBHI", 100, 100, 0xffff, 8192),
    "unknown type": struct.pack("<IBH", 7, 99, 1),
    "string past the end": struct.pack("<IBHIH", 13, 100, 0xffff, 8192, 5000),
    "walk before version": struct.pack("<IBHIIH", 17, 110, 1, 0, 1, 0),
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_messages(plenum, what):
    p = plenum.serve("mem:", "unix!s.sock")
    for wait in False, True:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(plenum.tmp / "s.sock"))
            s.settimeout(0.3)
            s.sendall(HOSTILE[what])
            try:
                while wait and s.recv(4096):
                    pass
            except (TimeoutError, ConnectionResetError):
                pass
    plenum.run("ls", "9p:unix!s.sock")
    assert p.poll() is None
    p.terminate()
    plenum.ended(p, 0)


def test_clients_that_die_leave_nothing(plenum):
    src = plenum.dir("src")
    (src / "big").write_bytes(bytes(1 << 20))
    p = plenum.serve(src, "unix!s.sock")

    def descriptors():
        return len(os.listdir(f"/proc/{p.pid}/fd"))

    plenum.run("ls", "9p:unix!s.sock")
    before = wait_for(descriptors)
    for _ in range(5):
        c = plenum.start("cat", "9p:unix!s.sock", *["big"] * 100, stdout=subprocess.PIPE)
        c.stdout.read(1000)
        c.kill()
        c.stdout.close()
        plenum.ended(c, None)
    wait_for(lambda: descriptors() <= before, "descriptors are left")
    p.terminate()
    plenum.ended(p, 0)


def test_killed_socket_is_replaced(plenum):
    p = plenum.serve("mem:", "unix!s.sock")
    p.kill()
    plenum.ended(p, None)
    assert (plenum.tmp / "s.sock").exists()
    assert "s.sock" in plenum.error("ls", "9p:unix!s.sock")
    p = plenum.serve("mem:", "unix!s.sock")
    plenum.run("ls", "9p:unix!s.sock")
    assert "listens there already" in plenum.error("serve", "mem:", "unix!s.sock")
    p.terminate()
    plenum.ended(p, 0)


# ---- listen and dial


def test_listen_and_dial(plenum):
    p = plenum.start("listen", "unix!s.sock", "sh", "-c",
                     "echo $PLENUM_CHANNEL; read line; echo got $line; echo peer $PLENUM_PEER >&2")
    plenum.listening(p)
    for i in range(3):
        script = f"read a; echo {i}; read b; echo $a $b $PLENUM_CHANNEL >&2"
        c = plenum.run("dial", "unix!s.sock", "sh", "-c", script)
        assert c.err == f"accepted got {i} dialed\n"
    wait_for(lambda: plenum.err(p).count("peer ") == 3)
    kids = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children")
    wait_for(lambda: kids.read_text() == "", "children are not reaped")
    p.terminate()
    plenum.ended(p, 0)
    assert not (plenum.tmp / "s.sock").exists()


def test_listen_once_has_the_status_of_its_command(plenum):
    p = plenum.start("listen", "-1", "unix!s.sock", "sh", "-c", "exit 5")
    plenum.listening(p)
    plenum.run("dial", "unix!s.sock", "true")
    plenum.ended(p, 5)
    assert not (plenum.tmp / "s.sock").exists()


def test_listen_ends_its_commands(plenum):
    p = plenum.start("listen", "unix!s.sock", "sh", "-c", "echo $$ >&2; exec sleep 1000")
    plenum.listening(p)
    c = plenum.start("dial", "unix!s.sock", "sleep", "1000")
    pid = int(wait_for(lambda: [x for x in plenum.err(p).splitlines() if x.isdigit()])[0])
    p.terminate()
    plenum.ended(p, 0)
    assert not alive(pid)
    c.terminate()
    plenum.ended(c, None)


def test_idle_server_sleeps(plenum):
    """No wakeups: no context switch of any thread while nothing happens."""
    p = plenum.serve("mem:", "unix!s.sock")
    plenum.run("ls", "9p:unix!s.sock")
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(plenum.tmp / "s.sock"))

    def switches():
        total = 0
        for task in pathlib.Path(f"/proc/{p.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
        return total

    def asleep():
        before = switches()
        time.sleep(1)
        return switches() == before

    wait_for(asleep, "it keeps waking up")
    client.close()
    p.terminate()
    plenum.ended(p, 0)


def test_dialed_tcp_is_warned_of(plenum):
    addresses = [a for line in json.loads(subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True)
                                          .stdout or "[]") for a in line["addr_info"]
                 if a.get("scope") == "global"]
    if not addresses:
        pytest.skip("no address but loopback")
    p = plenum.serve("mem:", f"tcp!{addresses[0]['local']}!0")
    assert "neither encrypted" in plenum.err(p)
    p.terminate()
    plenum.ended(p, 0)
