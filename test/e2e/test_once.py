# SPDX-License-Identifier: MIT
"""plenum serve is killed amid changes, and another takes its place: each change is made once.

The clients here speak 9P2000.L.plenum by themselves (docs/9p-extensions.md) and send again what was
not answered; each knows what must come of it.
"""
import errno
import os
import random
import socket
import struct
import threading

import pytest

from conftest import wait_for

NOFID = 0xFFFFFFFF
TSESSION, TWRITE2, TEND = 180, 182, 200
TVERSION, TATTACH, TWALK, TLOPEN, TLCREATE, TCLUNK = 100, 104, 110, 12, 14, 120
TMKDIR, TRENAMEAT, TUNLINKAT, TSYMLINK, TLINK = 72, 74, 76, 16, 70
RLERROR = 7
REMEMBERS, KNOWN = 1, 2
O_WRONLY, O_EXCL, O_APPEND = 1, 0o200, 0o2000
AT_REMOVEDIR = 0x200


def s(text):
    data = text.encode()
    return struct.pack("<H", len(data)) + data


class Lost(Exception):
    pass


class Client:
    """One client: it has an id, and connections as they come."""

    def __init__(self, path, session=None):
        self.path, self.op, self.sock = path, 0, None
        self.id = session or os.urandom(16)
        self.prepare = lambda: None

    def connect(self):
        self.close()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        try:
            self.sock.connect(self.path)
        except OSError as e:
            raise Lost from e
        self.rpc(TVERSION, struct.pack("<I", 65536) + s("9P2000.L.plenum"), tag=0xFFFF)
        self.flags = struct.unpack("<I", self.rpc(TSESSION, self.id))[0]
        self.rpc(TATTACH, struct.pack("<II", 0, NOFID) + s("root") + s("") + struct.pack("<I", os.geteuid()))
        self.prepare()

    def close(self):
        if self.sock:
            self.sock.close()
            self.sock = None

    def get(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.sock.recv(n - len(data))
            except ConnectionError as e:
                raise Lost from e
            if not more:
                raise Lost
            data += more
        return data

    def rpc(self, kind, body, tag=1):
        try:
            self.sock.sendall(struct.pack("<IBH", 7 + len(body), kind, tag) + body)
        except OSError as e:
            raise Lost from e
        while True:
            size, got, its = struct.unpack("<IBH", self.get(7))
            answer = self.get(size - 7)
            if got % 2:
                break
            self.answer(got, its, answer)
        assert its == tag
        if got == RLERROR:
            raise OSError(struct.unpack("<I", answer)[0], f"message {kind}")
        assert got == kind + 1
        return answer

    def answer(self, kind, tag, body):
        """The server's own, unused direction begins and ends."""
        assert kind in (TVERSION, TEND)
        try:
            self.sock.sendall(struct.pack("<IBH", 7 + len(body), kind + 1, tag) + body)
        except OSError as e:
            raise Lost from e

    def walk(self, fid, newfid, *names):
        self.rpc(TWALK, struct.pack("<IIH", fid, newfid, len(names)) + b"".join(map(s, names)))

    def change(self, kind, body, data=None):
        """Once, whatever happens to connections: the answer."""
        self.op += 1
        op = struct.pack("<Q", self.op)
        message = body + op + (struct.pack("<I", len(data)) + data if data is not None else b"")
        while True:
            try:
                if not self.sock:
                    self.connect()
                    assert self.flags == REMEMBERS | KNOWN
                return self.rpc(kind, message)
            except Lost:
                self.close()


class Worker(threading.Thread):
    """A client that changes things in a directory of its own, and appends to a file that all have."""

    def __init__(self, path, name, log):
        super().__init__(daemon=True)
        self.client, self.name, self.log = Client(path), name, log
        self.client.prepare = self.prepare
        self.random = random.Random(name)
        self.dirs, self.files, self.lines, self.done, self.stop, self.error = set(), set(), [], 0, False, None
        self.serial = 0

    def prepare(self):
        self.client.walk(0, 1, self.name)
        self.client.walk(0, 2, self.log)
        self.client.rpc(TLOPEN, struct.pack("<II", 2, O_WRONLY | O_APPEND))

    def fresh(self, kind):
        self.serial += 1
        return f"{kind}{self.serial}"

    def make_dir(self):
        name = self.fresh("d")
        self.client.change(TMKDIR, struct.pack("<I", 1) + s(name) + struct.pack("<II", 0o755, os.getegid()))
        self.dirs.add(name)

    def make_link(self):
        name = self.fresh("l")
        self.client.change(TSYMLINK, struct.pack("<I", 1) + s(name) + s("target") + struct.pack("<I", os.getegid()))
        self.files.add(name)

    def create(self):
        c, name = self.client, self.fresh("f")
        prepare = c.prepare

        def dir_too():
            prepare()
            c.walk(1, 3)

        while True:  # the fid that is to become the file, which is no change
            try:
                if not c.sock:
                    c.connect()
                c.walk(1, 3)
                break
            except Lost:
                c.close()
        c.prepare = dir_too
        c.change(TLCREATE, struct.pack("<I", 3) + s(name) +
                 struct.pack("<III", O_WRONLY | O_EXCL, 0o644, os.getegid()))
        c.prepare = prepare
        self.files.add(name)
        try:  # it is open
            c.rpc(118, struct.pack("<IQI", 3, 0, 1) + b"x")
            c.rpc(TCLUNK, struct.pack("<I", 3))
        except Lost:
            c.close()

    def remove(self):
        known = self.dirs or self.files
        if known:
            name = self.random.choice(sorted(known))
            flags = AT_REMOVEDIR if known is self.dirs else 0
            self.client.change(TUNLINKAT, struct.pack("<I", 1) + s(name) + struct.pack("<I", flags))
            known.remove(name)

    def rename(self):
        known = self.files or self.dirs
        if known:
            name, new = self.random.choice(sorted(known)), self.fresh("r")
            self.client.change(TRENAMEAT, struct.pack("<I", 1) + s(name) + struct.pack("<I", 1) + s(new))
            known.remove(name)
            known.add(new)

    def append(self):
        line = f"{self.name} {len(self.lines)}\n"
        got = self.client.change(TWRITE2, struct.pack("<IQ", 2, 0), line.encode())
        assert struct.unpack("<I", got)[0] == len(line)
        self.lines.append(line)

    def run(self):
        deeds = [self.make_dir, self.make_link, self.create, self.remove, self.remove, self.rename, self.append,
                 self.append]
        try:
            self.client.connect()
            while not self.stop:
                self.random.choice(deeds)()
                self.done += 1
        except BaseException as e:  # pylint: disable=broad-except
            self.error = e
        self.client.close()


@pytest.mark.parametrize("kills", [int(os.environ.get("ONCE_KILLS", 25))])
def test_each_change_is_made_once(plenum, kills):
    tree, state = plenum.dir("tree"), plenum.tmp / "state"
    names = ["a", "b", "c"]
    for name in names:
        (tree / name).mkdir()
    (tree / "log").touch()
    address = f"unix!{plenum.tmp}/sock"
    serve = ["--state", state, tree, address]
    server = plenum.serve(*serve)
    workers = [Worker(f"{plenum.tmp}/sock", name, "log") for name in names]
    for w in workers:
        w.start()
    rnd = random.Random(1)
    for _ in range(kills):
        # amid changes of all of them
        goals = [w.done + rnd.randrange(1, 40) for w in workers]
        wait_for(lambda: all(w.done >= g or w.error for w, g in zip(workers, goals)), "no progress")
        server.kill()
        server.wait()
        server = plenum.serve(*serve)
    for w in workers:
        w.stop = True
    for w in workers:
        w.join(30)
        assert not w.is_alive()
        if w.error:
            raise w.error
        assert set(os.listdir(tree / w.name)) == w.dirs | w.files
    lines = (tree / "log").read_text().splitlines(keepends=True)
    assert sorted(lines) == sorted(line for w in workers for line in w.lines)
    for w in workers:  # in order, too
        assert [line for line in lines if line.startswith(w.name)] == w.lines


def connected(plenum, path, session=None):
    c = Client(str(path), session)
    c.connect()
    return c


def test_what_is_remembered(plenum):
    tree = plenum.dir("tree")
    mkdir = struct.pack("<I", 0) + s("d") + struct.pack("<IIQ", 0o755, os.getegid(), 1)
    for args, spec, lasts, known in [
            ([], tree, "its successor remembers operations", True),
            (["--state", "none"], tree, "operations die with it: by request", False),
            ([], "mem:", "operations die with it: the tree ends with it", False)]:
        server = plenum.serve(*args, spec, f"unix!{plenum.tmp}/sock")
        entry = [e for e in plenum.status() if e["server"] == server.pid][0]
        assert entry["lasts"] == lasts
        c = connected(plenum, plenum.tmp / "sock")
        assert c.flags == REMEMBERS
        c.rpc(TMKDIR, mkdir)
        c.rpc(TMKDIR, mkdir)
        again = connected(plenum, plenum.tmp / "sock", c.id)
        assert again.flags == REMEMBERS | KNOWN
        again.rpc(TMKDIR, mkdir)
        server.kill()
        server.wait()
        again.close()
        server = plenum.serve(*args, spec, f"unix!{plenum.tmp}/sock")
        again = connected(plenum, plenum.tmp / "sock", c.id)
        assert again.flags == (REMEMBERS | KNOWN if known else REMEMBERS)
        if known:
            again.rpc(TMKDIR, mkdir)
            with pytest.raises(OSError) as e:
                again.rpc(TMKDIR, mkdir[:-8] + struct.pack("<Q", 2))
            assert e.value.errno == errno.EEXIST
        again.rpc(TEND, b"")  # nothing is left behind
        again.close()
        if (tree / "d").exists():
            (tree / "d").rmdir()
        server.terminate()
        server.wait()


def test_state_that_is_not_private(plenum):
    state = plenum.dir("state")
    state.chmod(0o777)
    said = plenum.error("serve", "--state", state, plenum.dir("tree"), f"unix!{plenum.tmp}/sock")
    assert f"{state}: not private" in said
    said = plenum.error("serve", "--state", plenum.tmp / "a/b", plenum.tmp, f"unix!{plenum.tmp}/sock")
    assert "No such file" in said
