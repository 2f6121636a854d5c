# SPDX-License-Identifier: MIT
"""Messages that nobody should send: errors for who sends them, service for others, and limits that hold."""
import os
import pathlib
import random
import re
import resource
import select
import socket
import struct
import subprocess
import threading

import pytest
from conftest import TOP, fuse, mounted, root, wait_for
from test_ends import Wire, all_gone

pytestmark = root


def message(kind, tag, body=b""):
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


def string(s):
    return struct.pack("<H", len(s)) + s


# The dialect of each version string, as p9/table.h has it.
OURS, PLAIN, UNIX, BASE = b"9P2000.L.plenum", b"9P2000.L", b"9P2000.u", b"9P2000"
LACKS = {OURS: {"U_U4", "U_STR"}, PLAIN: {"U_U4", "U_STR", "OP"}, UNIX: {"OP"},
         BASE: {"OP", "EXT4", "U_U4", "U_STR"}}


def rows():
    """The requests, from the program's own table: {number: [kinds of fields]}, and a stat's kinds."""
    text = (TOP / "p9/table.h").read_text().replace("\\\n", " ")
    for name in "P9_ATTR_FIELDS", "P9_LOCK_FIELDS":
        value = re.search(rf"#define {name}\s+(.*)", text).group(1)
        text = re.sub(rf"(?<!#define ){name}", lambda m: value, text)
    found = {}
    for m in re.finditer(r"M\((\d+), (T\w+)((?:,\s+\w+\([\w.\[\]]+\))*)\)", text):
        found[int(m.group(1))] = re.findall(r"(\w+)\(", m.group(3))
    assert len(found) == len(re.findall(r"M\(\d+, T", text)) > 45 and found[100] == ["U4", "STR"]
    stat = re.findall(r"(\w+)\(", re.search(r"#define P9_STAT_FIELDS\s+(.*)", text).group(1))
    assert stat[:3] == ["U2", "U4", "QID"]
    return found, stat


ROWS, STAT = rows()
# {version: {number: kinds}}; what a dialect does not have is sent in it all the same.
TABLE = {v: {n: [k if k != "STAT" else ("STAT", [x for x in STAT if x not in lacks]) for k in kinds if k not in lacks]
             for n, kinds in ROWS.items()} for v, lacks in LACKS.items()}
SIZES = {"U1": 1, "U2": 2, "U4": 4, "FID": 4, "U8": 8, "OPT4": 4, "EXT4": 4, "U_U4": 4, "OP": 8}
STRINGS = {"STR", "NAME", "U_STR"}


def texts(kinds):
    """Whether there is a length in it that can lie."""
    return any(type(k) is tuple or k in STRINGS | {"NAMES", "DATA"} for k in kinds)


def body(kinds, rnd, number=None, text=b"name", count=None):
    out = b""
    for k in kinds:
        if type(k) is tuple:  # a stat: n[2] size[2] and so many bytes
            stat = body(k[1], rnd, number, text)
            n = len(stat)
            out += struct.pack("<HH", n + 2 if count is None else count & 0xffff,
                               n if count is None else count - 2 & 0xffff) + stat
        elif k == "QID":
            out += body(["U1", "U4", "U8"], rnd, number)
        elif k in SIZES:
            n = SIZES[k]
            value = rnd.choice((0, 1, 2, 7, 100, rnd.getrandbits(8 * n), (1 << 8 * n) - 1)) if number is None else number
            out += (value & ((1 << 8 * n) - 1)).to_bytes(n, "little")
        elif k in STRINGS:
            out += struct.pack("<H", len(text) if count is None else count & 0xffff) + text
        elif k == "NAMES":
            out += struct.pack("<H", 2 if count is None else count & 0xffff) + string(text) * 2
        elif k == "DATA":
            out += struct.pack("<I", len(text) if count is None else count) + text
        else:
            raise AssertionError(k)
    return out


class Raw:
    """A client by hand."""

    def __init__(self, path, version=PLAIN, msize=8192):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(str(path))
        self.s.settimeout(20)
        self.version = version
        self.error = 7 if version in (OURS, PLAIN) else 107
        assert self.call(100, struct.pack("<I", msize) + string(version), 0xffff) \
            == (101, 0xffff, struct.pack("<I", msize) + string(version))

    def attach(self, fid=0):
        got = self.call(104, struct.pack("<II", fid, 0xffffffff) + string(b"root") + string(b"")
                        + (struct.pack("<I", os.geteuid()) if self.version != BASE else b""))
        assert got[0] == 105, got
        return self

    def open_some(self, name):
        """Fids that mean something: 1 the root again, 2 an open directory, 7 an open file if it may be."""
        for fid in 1, 2, 7:
            assert self.call(110, struct.pack("<IIH", 0, fid, 0))[0] == 111
        if self.error == 7:
            assert self.call(12, struct.pack("<II", 2, 0))[0] == 13
            got = self.call(14, struct.pack("<I", 7) + string(name) + struct.pack("<III", 2 | 0o100, 0o644, 0))
        else:
            assert self.call(112, struct.pack("<IB", 2, 0))[0] == 113
            got = self.call(114, struct.pack("<I", 7) + string(name) + struct.pack("<IB", 0o644, 2)
                            + (string(b"") if self.version == UNIX else b""))
        assert got[0] in (self.error, 15, 115)
        return self

    def call(self, kind, data=b"", tag=1):
        self.s.sendall(message(kind, tag, data))
        return self.answer()

    def answer(self):
        """(type, tag, body), or None at the end. Requests of theirs are passed over."""
        while (a := self.any_message()) is not None and a[0] % 2 == 0:
            pass
        return a

    def exactly(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.s.recv(n - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            data += more
        return data

    def any_message(self):
        head = self.exactly(7)
        if head is None:
            return None
        size, kind, tag = struct.unpack("<IBH", head)
        rest = self.exactly(size - 7)
        return None if rest is None else (kind, tag, rest)

    def close(self):
        self.s.close()


HOSTILE = {
    "truncated": lambda k, f, rnd: body(f, rnd, 1)[:-1] if f else None,
    "nothing": lambda k, f, rnd: b"" if f else None,
    "longer than it is": lambda k, f, rnd: body(f, rnd, 1) + b"more",
    "long string": lambda k, f, rnd: body(f, rnd, 1, count=0xfff0) if texts(f) else None,
    "all ones": lambda k, f, rnd: body(f, rnd, -1),
    "zeros": lambda k, f, rnd: body(f, rnd, 0, text=b""),
    "bad name": lambda k, f, rnd: body(f, rnd, 0, text=rnd.choice((b"../..", b"a/b", b"..", b".", b"", b"n\0l", b"x" * 300)))
    if texts(f) and "DATA" not in f else None,
    "random": lambda k, f, rnd: rnd.randbytes(rnd.randrange(200)),
    "random values": lambda k, f, rnd: body(f, rnd),
}


@pytest.mark.parametrize("version", LACKS, ids=bytes.decode)
@pytest.mark.parametrize("spec", ["host", "mem"])
@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_requests(plenum, how, spec, version):
    """Of each kind: an error or the end of that connection, and others are served as before."""
    src = plenum.dir("src")
    (plenum.tmp / "secret").write_text("outside")
    p = plenum.serve(src if spec == "host" else "mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    good = Raw(path).attach()
    before = None
    rnd = random.Random(how)
    for _ in range(2):
        for kind, fields in TABLE[version].items():
            data = HOSTILE[how](kind, fields, rnd)
            if data is None or kind == 100 and how == "longer than it is":
                continue
            c = Raw(path, version).attach().open_some(b"f%d" % kind)
            c.s.sendall(message(kind, 5, data))
            c.s.sendall(message(108, 6, struct.pack("<H", 5)))  # a lock may wait
            c.s.shutdown(socket.SHUT_WR)
            while (a := c.answer()) is not None:
                assert a[0] in (7, 107, kind + 1, 109), (kind, a)
            c.close()
        assert p.poll() is None, plenum.err(p)
        assert good.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
        fds = len(os.listdir(f"/proc/{p.pid}/fd"))
        if before is not None:
            wait_for(lambda: len(os.listdir(f"/proc/{p.pid}/fd")) <= before, "descriptors are left")
        else:
            wait_for(lambda: len(os.listdir(f"/proc/{p.pid}/fd")) < 25)
            before = len(os.listdir(f"/proc/{p.pid}/fd")) + 2
    good.close()
    assert (plenum.tmp / "secret").read_text() == "outside"
    assert sorted(x.name for x in plenum.tmp.iterdir() if not x.name.startswith(".err")) == ["s.sock", "secret", "src"]
    plenum.run("ls", "9p:unix!s.sock")
    p.terminate()
    plenum.ended(p, 0)


def resident(p):
    """Bytes, or None with a sanitizer, which keeps what is freed."""
    if "san.so" in pathlib.Path(f"/proc/{p.pid}/maps").read_text():
        return None
    status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024


@pytest.mark.alone
def test_limits(plenum):
    """More of everything than anybody is given: errors for that client, service for others."""
    p = plenum.serve("mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    c = Raw(path).attach()
    taken, empty = 0, resident(p)
    for fid in range(1, 1 << 21, 1000):  # fids without end
        c.s.sendall(b"".join(message(110, k, struct.pack("<IIH", 0, fid + k, 0)) for k in range(1000)))
        answers = c.exactly(1000 * 9)
        if answers is None or sorted(answers[i:i + 9] for i in range(0, 9000, 9)) != \
                sorted(message(111, k, b"\0\0") for k in range(1000)):
            break
        taken += 1000
    else:
        pytest.fail("there is no limit on fids")
    assert 100_000 < taken <= 1 << 20
    full = resident(p)
    assert full is None or full - empty < 176 * taken, f"{(full - empty) / taken:.0f} bytes a fid"
    other = Raw(path).attach()
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    c.close()
    c = Raw(path).attach()  # requests without end, never reading the answers
    c.s.setblocking(False)
    sent = 0
    data = b"".join(message(24, t % 60_000, struct.pack("<IQ", 0, 0x7ff)) for t in range(2000))
    for _ in range(200):
        try:
            sent += c.s.send(data[sent % 19:][:0] or data)
        except BlockingIOError:
            break
    else:
        pytest.fail(f"{sent} bytes of requests were taken from who reads nothing")
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    c.close()
    rss = resident(p)
    assert rss is None or rss < 200_000_000
    clients = [Raw(path).attach(k) for k in range(50)]
    for k in clients:
        k.s.sendall(struct.pack("<IBH", 8192, 118, 1))  # a write that never comes
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    for k in clients:
        k.close()
    other.close()
    p.terminate()
    plenum.ended(p, 0)


def limit(plenum, name):
    """As the table has it."""
    return int(re.search(rf"^  {name} +([0-9]+) ", plenum.run("help", "limits").out, re.M).group(1))


@pytest.mark.alone
def test_connections_of_one_peer(plenum):
    """As many as one address may have; others come in all the same, and he again when one of them goes."""
    most = limit(plenum, "PEER")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < most + 100:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    p = plenum.serve("mem:", "tcp!127.0.0.1!0")
    port = int(p.addr.rsplit("!", 1)[1])
    hello = message(100, 0xffff, struct.pack("<I", 8192) + string(PLAIN))

    def dial(source):
        s = socket.create_connection(("127.0.0.1", port), 30, (source, 0))
        s.sendall(hello)
        return s

    def taken(s):
        try:
            return s.recv(100)[4:5] == bytes([101])
        except ConnectionResetError:
            return False
    mine = []
    try:
        for n in range(0, most, 64):  # no more at once than wait to be accepted
            mine += [dial("127.0.0.2") for _ in range(min(64, most - n))]
            assert all(taken(s) for s in mine[n:])
        for _ in range(3):
            s = dial("127.0.0.2")
            assert not taken(s)
            s.close()
        other = dial("127.0.0.3")
        assert taken(other)
        other.close()
        assert plenum.err(p).count("no more are taken") == 1
        mine.pop().close()

        def again():
            mine.append(dial("127.0.0.2"))
            return taken(mine[-1]) or mine.pop().close()
        wait_for(again)
    finally:
        for s in mine:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    p.terminate()
    plenum.ended(p, 0)


@pytest.mark.parametrize("version", LACKS, ids=bytes.decode)
def test_a_flood_of_flushes(plenum, version):
    """Flushes of what never was, without end: all are answered to who reads, who does not read has to
    stop, and neither costs memory."""
    p = plenum.serve("mem:", "unix!s.sock")
    path = plenum.tmp / "s.sock"
    other = Raw(path).attach()
    empty = resident(p)
    reads, deaf = Raw(path, version).attach(), Raw(path, version).attach()
    flood = b"".join(message(108, t, struct.pack("<H", 40_000 + t)) for t in range(10_000))
    for _ in range(20):
        sender = threading.Thread(target=reads.s.sendall, args=[flood])
        sender.start()
        answers = reads.exactly(10_000 * 7)
        sender.join()
        assert sorted(answers[i:i + 7] for i in range(0, len(answers), 7)) == sorted(message(109, t) for t in range(10_000))
    deaf.s.setblocking(False)
    sent, end = 0, 100 << 20
    while sent < end:
        try:
            sent += deaf.s.send(flood[sent % len(flood):])
        except BlockingIOError:
            if not select.select([], [deaf.s], [], 1)[1]:
                break
    assert sent < end, f"{sent} bytes of requests were taken from who reads nothing"
    assert other.call(24, struct.pack("<IQ", 0, 0x7ff))[0] == 25
    full = resident(p)
    assert full is None or full - empty < 64 << 20, f"{(full - empty) >> 10} kB for {sent} bytes of flushes"
    for c in reads, deaf, other:
        c.close()
    p.terminate()
    plenum.ended(p, 0)


class Liar(Wire):
    """A Wire that spoils a message now and then."""

    def __init__(self, one, other, rnd, after, every):
        self.rnd, self.left, self.every = rnd, after, every
        super().__init__(one, other, None)

    def put(self, sink, frame):
        if len(frame) > 4:
            self.left -= 1
            if self.left <= 0:
                self.left = self.every
                frame = bytearray(frame)
                how = self.rnd.randrange(4)
                if how == 0:
                    frame[self.rnd.randrange(len(frame))] ^= 1 << self.rnd.randrange(8)
                elif how == 1:
                    frame[self.rnd.randrange(4, len(frame))] = self.rnd.randrange(256)
                elif how == 2 and len(frame) > 11:  # consistent in itself, and cut
                    frame = frame[:self.rnd.randrange(7, len(frame))]
                    frame[:4] = len(frame).to_bytes(4, "little")
                else:
                    frame = frame + frame  # twice
        Wire.put(sink, bytes(frame))


@fuse
@pytest.mark.parametrize("seed", range(int(os.environ.get("LIES", 12))))
def test_lying_links(plenum, seed):
    """Messages that were spoiled on the way: errors, or the end of the mount. Nobody crashes or hangs."""
    rnd = random.Random(seed)
    below, at = plenum.dir("below"), plenum.dir("at")
    (below / "big").write_bytes(bytes(300_000))
    (below / "d").mkdir()
    for i in range(50):
        (below / f"d/{i}").touch()
    server = plenum.serve(below, "unix!s.sock")
    lis = socket.socket(socket.AF_UNIX)
    lis.bind(str(plenum.tmp / "w.sock"))
    lis.listen()
    p = plenum.start("mount", "-f", "-o", "timeout=0", f"9p:unix!{plenum.tmp}/w.sock", at)
    near = lis.accept()[0].detach()
    lis.close()
    far = socket.socket(socket.AF_UNIX)
    far.connect(str(plenum.tmp / "s.sock"))
    far = far.detach()
    wire = Liar((near, near), (far, far), rnd, rnd.choice((3, 10, 40)), rnd.choice((1, 5, 30)))
    wait_for(lambda: mounted(at) or p.poll() is not None or not wire.threads[0].is_alive(), timeout=5) \
        if seed % 3 else None
    script = ('cd "$0" && for i in 1 2 3 4 5; do cat big >/dev/null; ls -lR .; echo $i > new$i; mv new$i d/; '
              'mkdir x$i; ln -s a s$i; cat s$i; rm -r x$i; cp big copy; stat d/*; done')
    worker = subprocess.Popen(["timeout", "-s", "KILL", "5", "sh", "-c", script, at], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        worker.wait(8)
    except subprocess.TimeoutExpired:
        pass  # a spoiled tag has no answer: unmounting must still work
    assert server.poll() is None, plenum.err(server)
    if mounted(at):
        plenum.run("umount", "-f", at, rc=None)
    else:
        p.terminate()  # it may wait for an answer that was spoiled
    worker.wait(15)
    plenum.ended(p, None)
    assert p.returncode in (0, 1, -15), p.returncode  # -15: it was about to end by itself
    err = plenum.err(p)
    assert "Sanitizer" not in err and "signal 6" not in err and "signal 11" not in err, err
    plenum.run("ls", "9p:unix!s.sock")
    server.terminate()
    assert "Sanitizer" not in plenum.ended(server, 0)
    all_gone(plenum)
    wire.done()
