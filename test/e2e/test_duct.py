# SPDX-License-Identifier: MIT
"""Ducts: both directions over one channel, of every kind, and every way in which they end."""
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import PLENUM, alive, fuse, mounted, mounts_under, wait_for

pytestmark = fuse


class Pair:
    """Two ducts, joined: a exports A and mounts b's export B on at_a, and the other way round."""

    def __init__(self, plenum, how, export=("A", "B"), at=("at_a", "at_b"), opts=()):
        self.plenum = plenum
        self.opts = opts
        self.dirs = [plenum.dir(x) if x != "-" else x for x in export]
        self.at = [plenum.dir(x) if x != "-" else x for x in at]
        for d, text in zip(self.dirs, "AB"):
            if d != "-":
                (d / "who").write_text(text)
        getattr(self, how)([str(d) for d in self.dirs], [str(d) for d in self.at])
        self.up()

    def up(self):
        for p, at in (self.a, self.at[0]), (self.b, self.at[1]):
            if at != "-":
                wait_for(lambda p=p, at=at: "mounted" in self.plenum.err(p) or p.poll() is not None,
                         f"{p.args} does not mount")
                assert mounted(at), self.plenum.err(p)
            else:
                wait_for(lambda p=p: "exporting" in self.plenum.err(p) or p.poll() is not None)

    def socketpair(self, dirs, at):
        s, t = socket.socketpair()
        with s, t:
            self.a = self.plenum.start("duct", dirs[0], at[0], stdin=s, stdout=s)
            self.b = self.plenum.start("duct", dirs[1], at[1], stdin=t, stdout=t)

    def pipes(self, dirs, at):
        """A pair of pipes that hold 4 KiB each."""
        one, two = os.pipe(), os.pipe()
        for fd in one[1], two[1]:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
        self.a = self.plenum.start("duct", dirs[0], at[0], stdin=one[0], stdout=two[1])
        self.b = self.plenum.start("duct", dirs[1], at[1], stdin=two[0], stdout=one[1])
        for fd in one + two:
            os.close(fd)

    def wait_listening(self):
        line = wait_for(lambda: [x for x in self.plenum.err(self.a).splitlines() if "listening on" in x],
                        "it does not listen")[0]
        return line.rsplit(" on ", 1)[1]

    def old_form(self, dirs, at):
        """listen and dial with duct, which is not installed."""
        self.a = self.plenum.start("listen", "-1", "tcp!127.0.0.1!0", "duct", dirs[0], at[0])
        self.b = self.plenum.start("dial", self.wait_listening(), "duct", dirs[1], at[1])

    def options(self, dirs, at):
        self.a = self.plenum.start("duct", "-l", "unix!d.sock", dirs[0], at[0])
        self.b = self.plenum.start("duct", "-d", self.wait_listening(), dirs[1], at[1])

    def tcp(self, dirs, at):
        self.a = self.plenum.start("duct", *self.opts, "-l", "tcp!127.0.0.1!0", dirs[0], at[0])
        self.addr = self.wait_listening()
        self.b = self.plenum.start("duct", *self.opts, "-d", self.addr, dirs[1], at[1])

    def proxy(self, dirs, at):
        """TCP through ourselves, to be cut."""
        self.a = self.plenum.start("duct", *self.opts, "-l", "tcp!127.0.0.1!0", dirs[0], at[0])
        port = int(self.wait_listening().rsplit("!", 1)[1])
        server = socket.create_server(("127.0.0.1", 0))
        self.b = self.plenum.start("duct", *self.opts, "-d", f"tcp!127.0.0.1!{server.getsockname()[1]}", dirs[1],
                                   at[1])
        near, _ = server.accept()
        far = socket.create_connection(("127.0.0.1", port))
        server.close()
        self.wires = near, far

        def copy(x, y):
            try:
                while data := x.recv(65536):
                    y.sendall(data)
            except OSError:
                pass

        for x, y in (near, far), (far, near):
            threading.Thread(target=copy, args=(x, y), daemon=True).start()

    def relayed(self, dirs, at):
        """TCP through a relay that can be cut, with a link over it."""
        from relay import Relay
        self.a = self.plenum.start("duct", *self.opts, "-l", "tcp!127.0.0.1!0", dirs[0], at[0])
        self.relay = Relay(int(self.wait_listening().rsplit("!", 1)[1]))
        self.b = self.plenum.start("duct", "-d", self.relay.addr, dirs[1], at[1])

    def cut(self):
        for s in self.wires:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.shutdown(socket.SHUT_RDWR)
            s.close()

    def check(self):
        assert (self.at[0] / "who").read_text() == "B"
        assert (self.at[1] / "who").read_text() == "A"

    def end(self):
        """In good order."""
        for p, at in (self.a, self.at[0]), (self.b, self.at[1]):
            if at != "-" and mounted(at):
                self.plenum.run("umount", at)
        self.plenum.ended(self.a, 0)
        self.plenum.ended(self.b, 0)
        assert not mounts_under(self.plenum.tmp)


BARE = ("-o", "linger=0")  # the first break is the end: what follows it is test_link.py's
CHANNELS = ["socketpair", "pipes", "old_form", "options", "tcp", "proxy"]


@pytest.mark.parametrize("how", CHANNELS)
@pytest.mark.parametrize("first", [0, 1])
def test_both_ways(plenum, how, first):
    pair = Pair(plenum, how)
    pair.check()
    (pair.at[0] / "from a").write_text("hello b")
    (pair.at[1] / "from b").write_text("hello a")
    assert (pair.dirs[1] / "from a").read_text() == "hello b"
    assert (pair.dirs[0] / "from b").read_text() == "hello a"
    # One side ends; the other direction goes on.
    plenum.run("umount", pair.at[first])
    assert not mounted(pair.at[first])
    other = pair.at[1 - first]
    assert (other / "who").read_text() == "BA"[1 - first]
    (other / "later").write_text("still here")
    assert (pair.dirs[first] / "later").read_text() == "still here"
    assert pair.a.poll() is None and pair.b.poll() is None
    pair.end()


def test_what_it_says(plenum):
    pair = Pair(plenum, "tcp")
    for i, p in enumerate((pair.a, pair.b)):
        says = plenum.err(p)
        assert f"exporting host:{pair.dirs[i]} to tcp!127.0.0.1!" in says
        assert f" at {pair.at[i]}" in says
    e = plenum.entry(pair.at[0])
    assert e["kind"] == "duct" and e["state"] == "up" and "tcp!" in e["peer"]
    assert e["keeper"] == pair.a.pid and e["server"] != pair.a.pid and alive(e["server"])
    assert e["sent"] > 0 and e["received"] > 0 and e["requests"] > 0
    pair.end()
    assert plenum.entry(pair.at[0]) is None


@pytest.mark.parametrize("export, at", [(("A", "-"), ("-", "at_b")), (("-", "B"), ("at_a", "-"))])
@pytest.mark.parametrize("how", ["socketpair", "tcp", "pipes", "old_form"])
def test_one_half_each(plenum, how, export, at):
    pair = Pair(plenum, how, export, at)
    where = [x for x in pair.at if x != "-"][0]
    assert (where / "who").exists()
    pair.end()


@pytest.mark.parametrize("at", [("at_a", "-"), ("-", "at_b")])
@pytest.mark.parametrize("how", CHANNELS)
def test_one_exports_only(plenum, how, at):
    """The other mounts nothing: it runs on as long as it is used."""
    pair = Pair(plenum, how, at=at)
    where = pair.at[at[0] == "-"]
    assert (where / "who").read_text() == "AB"[at[1] == "-"]
    pair.end()


def test_peer_is_named_by_listen_and_dial(plenum):
    pair = Pair(plenum, "old_form")
    for at in pair.at:
        assert plenum.entry(at)["peer"].startswith("tcp!127.0.0.1!")
    pair.end()


def test_over_a_command(plenum):
    a, b, at_a, at_b = (plenum.dir(x) for x in ("A", "B", "at_a", "at_b"))
    (b / "who").write_text("B")
    (a / "who").write_text("A")
    p = plenum.start("duct", "-e", f"'{PLENUM}' duct '{b}' '{at_b}'", a, at_a)
    wait_for(lambda: plenum.err(p).count("mounted") == 2 or p.poll() is not None)
    assert (at_a / "who").read_text() == "B" and (at_b / "who").read_text() == "A"
    plenum.run("umount", at_b)
    assert (at_a / "who").read_text() == "B"
    plenum.run("umount", at_a)
    plenum.ended(p, 0)


def test_saturated_both_ways(plenum):
    """Both directions at once, reads and writes, over pipes of 4 KiB."""
    pair = Pair(plenum, "pipes")
    blob = os.urandom(8 << 20)
    for d in pair.dirs:
        (d / "blob").write_bytes(blob)
    jobs = []
    for i in 0, 1:
        jobs.append(subprocess.Popen(["cmp", pair.at[i] / "blob", pair.dirs[1 - i] / "blob"]))
        jobs.append(subprocess.Popen(["cp", pair.dirs[i] / "blob", pair.at[i] / "copy"]))
    assert [j.wait(50) for j in jobs] == [0] * 4
    for d in pair.dirs:
        assert (d / "copy").read_bytes() == blob
    pair.end()


@pytest.mark.parametrize("how", ["socketpair", "pipes", "tcp"])
@pytest.mark.parametrize("who", ["keeper", "server", "both"])
@pytest.mark.parametrize("stage", ["idle", "busy", "half ended"])
def test_killed(plenum, how, who, stage):
    pair = Pair(plenum, how, opts=BARE)
    reader = None
    if stage == "half ended":
        plenum.run("umount", pair.at[1])
    if stage == "busy":
        (pair.dirs[0] / "blob").write_bytes(os.urandom(4 << 20))
        reader = subprocess.Popen(["sh", "-c", f"while cat '{pair.at[1]}/blob'; do :; done"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: plenum.entry(pair.at[1])["bytes_read"] > 0)
    e = plenum.entry(pair.at[0])
    for name in (["server", "keeper"] if who == "both" else [who]):
        os.kill(e[name], signal.SIGKILL)
    plenum.ended(pair.a, None)
    if who == "keeper" and stage == "half ended":
        plenum.ended(pair.b, 0)  # the server ended its mount, and nothing was left in use
    else:
        assert "lost" in plenum.ended(pair.b, 1)
    wait_for(lambda: not mounted(pair.at[1]), "the mount stays")
    wait_for(lambda: not alive(e["server"]), "the server stays")
    if who == "keeper":
        plenum.dead(pair.at[0])
    if who != "both":  # with both gone nobody is left to take the killed side's mount away
        wait_for(lambda: not mounted(pair.at[0]), "the mount stays")
    if reader:
        reader.wait(10)


@pytest.mark.parametrize("stage", ["idle", "half ended"])
def test_cut(plenum, stage):
    pair = Pair(plenum, "proxy", opts=BARE)
    pair.check()
    if stage == "half ended":
        plenum.run("umount", pair.at[0])
    pair.cut()
    for p in pair.a, pair.b:
        says = plenum.ended(p, 1)
        assert "link to tcp!127.0.0.1!" in says and "lost" in says
    assert not mounts_under(plenum.tmp)


def test_cut_with_open_files(plenum):
    pair = Pair(plenum, "proxy", opts=BARE)
    held = os.open(pair.at[0] / "who", os.O_RDWR)
    pair.cut()
    plenum.ended(pair.a, 1)
    plenum.ended(pair.b, 1)
    assert not mounts_under(plenum.tmp)
    with pytest.raises(OSError):
        os.write(held, b"x")
    with contextlib.suppress(OSError):
        os.close(held)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal(plenum, sig):
    pair = Pair(plenum, "tcp", opts=BARE)
    pair.a.send_signal(sig)
    plenum.ended(pair.a, 0)
    assert not mounted(pair.at[0])
    assert "lost" in plenum.ended(pair.b, 1)
    assert not mounted(pair.at[1])


def test_one_cannot_mount(plenum):
    at, a, b = plenum.dir("at"), plenum.dir("A"), plenum.dir("B")
    p = plenum.start("duct", "-l", "unix!d.sock", a, at)
    plenum.listening(p)
    assert "no such directory" in plenum.run("duct", "-d", "unix!d.sock", b, "missing", rc=1).err
    p.terminate()
    plenum.ended(p, None)
    assert not mounts_under(plenum.tmp)


# ---- plain peers


def connects(path):
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(str(path)) == 0


def message(kind, tag, body=b""):
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


def string(s):
    return struct.pack("<H", len(s)) + s


def receive(s):
    head = b""
    while len(head) < 7:
        more = s.recv(7 - len(head))
        assert more, "the other end closed"
        head += more
    size, kind, tag = struct.unpack("<IBH", head)
    body = b""
    while len(body) < size - 7:
        body += s.recv(size - 7 - len(body))
    return kind, tag, body


def test_a_plain_client_on_a_duct(plenum):
    at, a = plenum.dir("at"), plenum.dir("A")
    (a / "who").write_text("A")
    p = plenum.start("duct", "-l", "unix!d.sock", a, at)
    plenum.listening(p)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(plenum.tmp / "d.sock"))
        s.settimeout(10)

        def call(kind, tag, body):
            """T-messages of the duct, which a plain client need not understand, are passed over."""
            s.sendall(message(kind, tag, body))
            while True:
                got, t, answer = receive(s)
                if got == kind + 1:
                    assert t == tag
                    return answer
                assert got % 2 == 0, (got, answer)

        answer = call(100, 0xffff, struct.pack("<I", 8192) + string(b"9P2000.L"))
        assert answer.endswith(string(b"9P2000.L"))
        call(104, 1, struct.pack("<II", 1, 0xffffffff) + string(b"root") + string(b"")
             + struct.pack("<I", os.geteuid()))
        call(110, 2, struct.pack("<IIH", 1, 2, 1) + string(b"who"))
        call(12, 3, struct.pack("<II", 2, 0))
        assert call(116, 4, struct.pack("<IQI", 2, 0, 100)) == struct.pack("<I", 1) + b"A"
        call(120, 5, struct.pack("<I", 2))
        wait_for(lambda: "not mounted" in plenum.err(p), "it does not say that it mounts nothing")
        assert not mounted(at)
    assert plenum.ended(p, 0).count("not mounted") == 1


def test_our_client_on_a_duct(plenum):
    at, a = plenum.dir("at"), plenum.dir("A")
    (a / "who").write_text("A")
    p = plenum.start("duct", "-l", "unix!d.sock", a, at)
    plenum.listening(p)
    assert plenum.run("cat", "9p:unix!d.sock", "who").out == "A"
    says = plenum.ended(p, 0)
    assert "not mounted" in says and not mounted(at)


def test_a_client_that_is_done_before_it_was_asked(plenum):
    at, a = plenum.dir("at"), plenum.dir("A")
    p = plenum.start("duct", "-l", "unix!d.sock", a, at)
    plenum.listening(p)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(plenum.tmp / "d.sock"))
        s.settimeout(10)
        s.sendall(message(100, 0xffff, struct.pack("<I", 8192) + string(b"9P2000.L.plenum")))
        while receive(s)[0] != 101:
            pass
        s.sendall(message(200, 256))  # Tend; what the duct asks is never answered
        while receive(s)[0] != 201:
            pass
    says = plenum.ended(p, 0)
    assert "not mounted" in says and not mounted(at)


def test_a_duct_to_our_server(plenum):
    b, at, a = plenum.dir("B"), plenum.dir("at"), plenum.dir("A")
    (b / "who").write_text("B")
    server = plenum.serve(b, "unix!s.sock")
    p = plenum.start("duct", "-d", "unix!s.sock", a, at)
    wait_for(lambda: mounted(at))
    assert (at / "who").read_text() == "B"
    plenum.run("umount", at)
    plenum.ended(p, 0)
    server.terminate()
    plenum.ended(server, 0)


@pytest.mark.skipif(not shutil.which("diod") or os.geteuid() != 0, reason="needs diod, and root for it")
def test_a_duct_to_a_plain_server(plenum):
    b, at, a = plenum.dir("B"), plenum.dir("at"), plenum.dir("A")
    (b / "who").write_text("B")
    sock = plenum.tmp / "diod.sock"
    server = plenum.start(argv=["diod", "-f", "-n", "-e", str(b), "-l", str(sock)])
    wait_for(lambda: connects(sock), "diod does not listen")
    p = plenum.start("duct", "-d", f"unix!{sock}", "--mount", f"{b}:{at}", "--export", f"={a}")
    wait_for(lambda: mounted(at) or p.poll() is not None)
    assert mounted(at), plenum.err(p)
    assert (at / "who").read_text() == "B"
    (at / "new").write_text("to diod")
    assert (b / "new").read_text() == "to diod"
    plenum.run("umount", at)
    plenum.ended(p, 0)
    server.terminate()
    plenum.ended(server, None)


def test_peer_that_never_speaks(plenum):
    """It waits, and a signal ends it; nothing is left mounted."""
    at, a = plenum.dir("at"), plenum.dir("A")
    s, t = socket.socketpair()
    with s, t:
        p = plenum.start("duct", a, at, stdin=t, stdout=t)
        t.close()
        time.sleep(0.5)
        assert p.poll() is None
        p.terminate()
        plenum.ended(p, 0)
    assert not mounted(at)
