# SPDX-License-Identifier: MIT
"""Services and replication: mounts that tell a server, trees that are kept like another."""
import errno
import json
import os
import pathlib
import random
import stat
import subprocess
import sys
import threading
import time

import pytest
from conftest import PLENUM, TOP, fuse, root, wait_for
from relay import Relay, end_all

pytestmark = [fuse, root]
BUILD = pathlib.Path(PLENUM).parent


@pytest.fixture(autouse=True)
def relays():
    yield
    end_all()


def tree(top):
    """Everything that is to be the same, of all objects beneath."""
    found, links = {}, {}
    for directory, dirs, files in os.walk(top):
        for name in [".", *dirs, *(f for f in files if not f.startswith(".mark"))]:
            path = os.path.normpath(os.path.join(directory, name))
            if name == "." and directory != str(top):
                continue
            st, rel = os.lstat(path), os.path.relpath(path, top)
            what = [stat.filemode(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns if rel != "." else 0]
            if stat.S_ISREG(st.st_mode):
                what.append(pathlib.Path(path).read_bytes())
                links.setdefault(st.st_ino, []).append(rel)
            elif stat.S_ISLNK(st.st_mode):
                what.append(os.readlink(path))
            if not stat.S_ISLNK(st.st_mode):
                what.append({x: os.getxattr(path, x) for x in os.listxattr(path)})
            found[rel] = what
    return found, sorted(sorted(v) for v in links.values() if len(v) > 1)


def same(a, b):
    (x, xl), (y, yl) = tree(a), tree(b)
    assert sorted(x) == sorted(y)
    for path in x:
        assert x[path] == y[path], path
    assert xl == yl


class Replicated:
    """A source, a local replica, one behind a server that may die, and the mount that tells of it all."""

    def __init__(self, plenum, attrs="monitor", *options):
        self.plenum, self.options, self.attrs = plenum, options, attrs
        self.src, self.near, self.far, self.at = (plenum.dir(x) for x in ("src", "near", "far", "at"))
        self.state = plenum.tmp / "state"
        self.sock = plenum.tmp / "rpl.sock"
        self.server = self.replicator = None
        self.serve()
        self.start()

    def serve(self):
        self.server = self.plenum.serve(self.far, f"unix!{self.plenum.tmp}/far.sock")

    def start(self):
        self.replicator = self.plenum.start(
            "replicate", "-s", self.state, "-l", f"unix!{self.sock}", *self.options, self.src, self.near,
            f"9p:unix!{self.plenum.tmp}/far.sock")
        self.plenum.listening(self.replicator)

    def mount(self):
        self.plenum.run("mount", f"service(rpl/{self.attrs},unix!{self.sock},{self.src})", self.at)

    def status(self):
        return json.loads(self.plenum.run("replicate", "--status", "--json", "-s", self.state).out)

    def in_step(self, n=2):
        """Whether n replicas have all there is."""
        try:
            s = self.status()
        except AssertionError:
            return None
        good = [r for r in s["replicas"] if r["state"] == "in" and r["lag_records"] == 0]
        return s if s["running"] and s["pid"] == self.replicator.pid and len(good) >= n else None

    def settled(self, n=2):
        return wait_for(lambda: self.in_step(n), "the replicas are not in step", 30)

    def end(self):
        """Everything told, and carried out: what was made after something was seen at the replicas is
        of a later batch, so that all of the earlier one is done when that is seen."""
        for mark in (".mark1", ".mark2"):
            (self.at / mark).touch()
            wait_for(lambda: all((x / mark).exists() for x in (self.near, self.far)),
                     "the replicas do not follow", 40)
        self.plenum.run("umount", self.at)
        return wait_for(lambda: self.in_step(2), "the replicas are not in step", 30)


@pytest.fixture
def replicated(plenum):
    def make(*args):
        return Replicated(plenum, *args)
    return make


def work(at, rng, rounds, stop=lambda: False):
    """Files made, written in places, cut, renamed with their directories, linked, removed."""
    dirs, files = [at], []
    for i in range(rounds):
        if stop():
            return
        do = rng.choice(["file", "file", "write", "write", "write", "append", "cut", "rename", "rename",
                         "dir", "movedir", "link", "symlink", "remove", "chmod", "xattr", "over"])
        f = rng.choice(files) if files else None
        d = rng.choice(dirs)
        if do == "file" or f is None:
            f = d / f"f{i} %é\n"
            f.write_bytes(rng.randbytes(rng.choice([0, 10, 5000, 200000])))
            files.append(f)
        elif do in ("write", "append"):
            with open(f, "ab" if do == "append" else "r+b") as o:
                if do == "write":
                    o.seek(rng.randrange(300000))
                o.write(rng.randbytes(rng.randrange(1, 9000)))
        elif do == "cut":
            os.truncate(f, rng.randrange(100000))
        elif do == "rename":
            to = d / f"r{i}"
            f.rename(to)
            files[files.index(f)] = to
        elif do == "over":
            g = rng.choice(files)
            if g != f and os.lstat(f).st_ino != os.lstat(g).st_ino:
                f.rename(g)
                files.remove(f)
        elif do == "dir":
            dirs.append(d / f"d{i}")
            dirs[-1].mkdir()
        elif do == "movedir" and len(dirs) > 1:
            a, to = rng.choice(dirs[1:]), at / f"m{i}"
            a.rename(to)

            def moved(p):
                return to / p.relative_to(a) if p == a or a in p.parents else p
            dirs, files = [moved(p) for p in dirs], [moved(p) for p in files]
        elif do == "link":
            os.link(f, d / f"l{i}")
            files.append(d / f"l{i}")
        elif do == "symlink":
            os.symlink(f"to/{i}", d / f"s{i}")
        elif do == "remove":
            f.unlink()
            files.remove(f)
        elif do == "chmod":
            f.chmod(rng.choice([0o600, 0o644, 0o4755, 0o400]))
        elif do == "xattr":
            os.setxattr(f, "user.n", str(i).encode())


def test_once(plenum):
    src, to = plenum.dir("src"), plenum.dir("to")
    work(src, random.Random(1), 200)
    out = plenum.run("replicate", "-s", "st", "-n", src, to)
    assert "would: " in out.err and not any(to.iterdir())
    plenum.run("replicate", "-s", "st", src, to)
    same(src, to)
    # What somebody else changes is told, and not touched.
    victim = next(p for p in sorted(to.rglob("*")) if p.is_file() and not p.is_symlink())
    mine = os.path.relpath(victim, to)
    victim.write_bytes(b"his own")
    (src / mine).write_bytes(b"ours")
    p = plenum.run("replicate", "-s", "st", src, to, rc=1)
    assert "diverged" in p.err and victim.read_bytes() == b"his own"
    s = json.loads(plenum.run("replicate", "--status", "--json", "-s", "st").out)
    assert not s["running"] and s["replicas"][0]["diverged"] == ["/" + mine]
    plenum.run("replicate", "-s", "st", "--resolve=keep", src, to)
    kept = [p for p in to.rglob("*.kept-*")]
    assert [p.read_bytes() for p in kept] == [b"his own"] and victim.read_bytes() == b"ours"
    victim.write_bytes(b"again")
    plenum.run("replicate", "-s", "st", "--resolve=ours", src, to)
    assert victim.read_bytes() == b"ours"


def test_wrong_usage(plenum):
    src = plenum.dir("src")
    assert "at least one REPLICA" in plenum.error("replicate", src, rc=2)
    assert "a replica of itself" in plenum.error("replicate", src, src, rc=2)
    assert "in its source" in plenum.error("replicate", src, plenum.dir("src/in"), rc=2)
    assert "in its replica" in plenum.error("replicate", src / "in", src, rc=2)
    assert "fail, ours or keep" in plenum.error("replicate", "--resolve=x", src, "/x", rc=2)
    assert "not that many" in plenum.error("replicate", "--least=2", src, plenum.dir("a"), rc=2)
    assert "no status" in plenum.error("replicate", "--status", "-s", plenum.tmp / "none")
    for spec, says in (("service(x,/srv)", "an address"), ("service(x/cal=open,unix!/x,/srv)", "cal"),
                       ("service(x/call=opn,unix!/x,/srv)", "opn"), ("service(a b,unix!/x,/srv)", "not a name"),
                       ("service(x,nowhere,/srv)", "nowhere")):
        assert says in plenum.error("ls", spec, rc=2)


def test_a_write_that_returned_is_there(replicated):
    r = replicated("monitor/ack=write+rename+create+remove")
    r.mount()
    r.settled()
    for i in range(20):
        f = r.at / f"f{i}"
        f.write_bytes(b"x" * i * 1000)
        assert (r.near / f.name).read_bytes() == (r.far / f.name).read_bytes() == b"x" * i * 1000
        f.rename(r.at / "moved")
        assert (r.near / "moved").stat().st_size == (r.far / "moved").stat().st_size == i * 1000
    r.end()
    same(r.src, r.near)
    same(r.src, r.far)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_kinds_of_changes(replicated, seed):
    r = replicated()
    r.mount()
    work(r.at, random.Random(seed), 600)
    r.end()
    same(r.src, r.near)
    same(r.src, r.far)


@pytest.mark.parametrize("attrs", ["monitor", "monitor/ack=write/lost=hold"])
def test_kills(replicated, plenum, attrs):
    r = replicated(attrs, "--no-sync")
    r.mount()
    rng = random.Random(7)
    errors, kills = [], 0

    def job():
        try:
            n = 0
            while n == 0 or kills < 10:  # however quickly it goes
                at = r.at / f"work{n}"
                at.mkdir()
                work(at, random.Random(8 + n), 400)
                n += 1
            env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a",
                   "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
            repo = r.at / "repo"
            subprocess.run(["cp", "-r", TOP / "docs", repo], check=True)
            for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["gc", "-q"], ["status"]):
                subprocess.run(["git", *command], cwd=repo, check=True, env=env, capture_output=True)
            tar = subprocess.run(["tar", "-c", "-C", TOP, "base", "p9"], check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", r.at], input=tar, check=True)
        except Exception as e:  # told by the main thread
            errors.append(e)

    t = threading.Thread(target=job)
    t.start()
    while t.is_alive() and kills < 25:
        time.sleep(rng.random() * 0.3)
        kills += 1
        if rng.random() < 0.6:
            r.replicator.kill()
            r.replicator.wait()
            r.start()
        else:
            r.server.kill()
            r.server.wait()
            r.serve()
    t.join()
    assert not errors, errors
    s = r.end()
    assert all(not x["diverged"] for x in s["replicas"]), [(x["spec"], x["diverged"]) for x in s["replicas"]]
    same(r.src, r.near)
    same(r.src, r.far)
    assert kills >= 10


def test_what_diverged_is_told_by_the_next_one_too(replicated):
    r = replicated("monitor/ack=write")
    r.mount()
    r.settled()
    (r.at / "f").write_bytes(b"one")
    (r.near / "f").write_bytes(b"his own")
    (r.at / "f").write_bytes(b"two")
    wait_for(lambda: [x["diverged"] for x in r.status()["replicas"]] == [["/f"], []], "it is not told")
    r.replicator.kill()
    r.replicator.wait()
    r.start()
    s = r.settled()
    assert [x["diverged"] for x in s["replicas"]] == [["/f"], []]
    assert (r.near / "f").read_bytes() == b"his own" and (r.far / "f").read_bytes() == b"two"


def test_what_a_dead_one_has_sent_comes_too_late(plenum):
    """A write that is still on its way when its replicator is killed does not go over what its successor
    has written."""
    src, to = plenum.dir("src"), plenum.dir("to")
    server = plenum.serve(to, "tcp!127.0.0.1!0")
    relay = Relay(int(server.addr.rsplit("!", 1)[1]))
    command = ["replicate", "-s", "st", src, f"9p:{relay.addr}"]
    (src / "f").write_bytes(b"first version\n")
    plenum.run(*command)
    relay.hold("second version")
    (src / "f").write_bytes(b"second version")
    p = plenum.start(*command)
    wait_for(lambda: relay.held == 1, "it writes nothing")
    p.kill()
    p.wait()
    (src / "f").write_bytes(b"third version\n")
    plenum.run(*command)
    relay.release()
    wait_for(lambda: relay.held == 0, "the old connection is not over")
    same(src, to)
    assert not plenum.run(*command, "--check").err


def test_several_sources(plenum):
    """One server for two directories that are on one service: each goes to its own replica. A directory
    that is of no source is told so, and not taken for one."""
    a, b, c, to_a, to_b = (plenum.dir(x) for x in ("a", "b", "c", "to_a", "to_b"))
    sock = plenum.tmp / "rpl.sock"
    env = {**os.environ, "XDG_STATE_HOME": str(plenum.dir("state"))}
    p = plenum.start("replicate", "-l", f"unix!{sock}", a, to_a, "and", b, to_b, env=env)
    plenum.listening(p)
    view = ["run", "--door=mount", "--view", f"unix!{sock}", "/#fs/rpl/monitor/ack=write"]
    for d in (a, b, c):
        view += ["--view", d, "/#rpl"]
    out = plenum.run(*view, "--", "sh", "-c", f"echo 1 >{a}/of_a; echo 2 >{b}/of_b; ! echo 3 >{c}/of_c")
    assert f"replicates host:{a} and others, not host:{c}" in out.err
    assert [x.name for x in to_a.iterdir()] == ["of_a"] and (to_a / "of_a").read_bytes() == b"1\n"
    assert [x.name for x in to_b.iterdir()] == ["of_b"] and (to_b / "of_b").read_bytes() == b"2\n"
    p.terminate()
    plenum.ended(p, 0)
    for d in (a, b):
        s = json.loads(plenum.run("replicate", "--status", "--json", d, env=env).out)
        assert [x["lag_records"] for x in s["replicas"]] == [0]
    assert "one SOURCE" in plenum.error("replicate", "-s", "st", a, to_a, "and", b, to_b, rc=2)
    assert "at least one REPLICA" in plenum.error("replicate", a, to_a, "and", b, rc=2)


def test_one_out_does_not_stop_the_other(replicated, plenum):
    r = replicated("monitor/ack=write")
    r.mount()
    r.settled()
    r.server.kill()
    r.server.wait()
    (r.at / "f").write_bytes(b"while it was away")
    assert (r.near / "f").read_bytes() == b"while it was away"
    (r.at / "g").write_bytes(b"1" * 100000)
    (r.at / "g").rename(r.at / "h")
    s = wait_for(lambda: [x for x in r.status()["replicas"] if x["state"] == "out" and x["lag_records"] >= 3])
    assert s[0]["why"] and s[0]["lag_bytes"] >= 100000 and s[0]["lag_seconds"] > 0
    assert "far.sock" in plenum.run("replicate", "--status", "-s", r.state).out
    assert not (r.far / "f").exists()
    r.serve()
    r.settled()
    r.end()
    same(r.src, r.near)
    same(r.src, r.far)


def test_read_only_with_too_few(replicated, plenum):
    r = replicated("monitor/ack=write", "--least=2")
    r.mount()
    r.settled()
    (r.at / "f").write_bytes(b"1")
    r.server.kill()
    r.server.wait()

    def refused():
        try:
            (r.at / "x").write_bytes(b"2")
        except OSError as e:
            return e.errno == errno.EROFS
        return False
    wait_for(refused)
    assert (r.at / "f").read_bytes() == b"1"
    with pytest.raises(OSError) as e:
        (r.at / "f").rename(r.at / "g")
    assert e.value.errno == errno.EROFS
    r.serve()

    def accepted():
        try:
            (r.at / "y").write_bytes(b"3")
            return True
        except OSError:
            return False
    wait_for(accepted)
    r.end()
    same(r.src, r.far)


def test_few_bytes_are_sent(replicated):
    r = replicated()
    r.mount()
    big = r.at / "big"
    with open(big, "wb") as f:
        f.write(random.Random(1).randbytes(8 << 20))
    wait_for(lambda: all((x / "big").exists() and (x / "big").stat().st_size == 8 << 20 for x in (r.near, r.far)))
    r.settled()
    wait_for(lambda: all(x["bytes_sent"] >= 8 << 20 for x in r.status()["replicas"]))
    before = [x["bytes_sent"] for x in r.status()["replicas"]]
    (r.at / "dir").mkdir()
    big.rename(r.at / "dir/large")
    (r.at / "dir").rename(r.at / "other")
    with open(r.at / "other/large", "r+b") as f:
        f.seek(1 << 20)
        f.write(b"changed")
    s = r.end()
    sent = [x["bytes_sent"] - b for x, b in zip(s["replicas"], before)]
    assert all(n <= 8192 for n in sent), sent  # a page at most: the kernel's writes
    same(r.src, r.near)
    same(r.src, r.far)


def test_examples(plenum):
    src, at = plenum.dir("src"), plenum.dir("at")
    log = plenum.tmp / "log"
    command = f"exec {BUILD}/examples/monitor 2>{log}"
    plenum.run("mount", f"service(log/monitor/call=open+rename,exec!{command},{src})", at)
    (at / "a\nb").write_bytes(b"1")
    os.rename(at / "a\nb", at / "c")
    (at / "c").read_bytes()
    plenum.run("umount", at)
    lines = log.read_text().splitlines()
    assert "uid 0 rename /a%0Ab to /c: 0" in lines and "uid 0 open /c: 0" in lines
    sock = plenum.tmp / "guard.sock"
    guard = plenum.start(argv=[sys.executable, TOP / "examples/guard.py", sock, src])
    wait_for(sock.exists)
    plenum.run("mount", "-o", "allow_other", f"service(guard/call=remove/match=*.lock,unix!{sock},{src})", at)
    at.chmod(0o777)
    plenum.tmp.chmod(0o755)
    for name in ("x.lock", "y"):
        (at / name).touch()
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "rm", "-f"]
    assert b"not permitted" in subprocess.run([*nobody, at / "x.lock"], capture_output=True).stderr
    assert (at / "x.lock").exists()
    assert subprocess.run([*nobody, at / "y"]).returncode == 0 and not (at / "y").exists()
    (at / "x.lock").unlink()
    guard.kill()
    guard.wait()
    (at / "z.lock").touch()
    with pytest.raises(OSError) as e:  # nobody decides
        (at / "z.lock").unlink()
    assert e.value.errno == errno.EIO
    plenum.run("umount", at)


def test_server_uses_the_mount(plenum):
    """A server that answers only after it has looked into the very tree: it is not told of itself.
    (What makes a name holds its directory in the kernel, for as long as it waits.)"""
    src, at, sock = plenum.dir("src"), plenum.dir("at"), plenum.tmp / "s.sock"
    code = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
c = s.accept()[0]; f = c.makefile("rwb", 0); f.write(b"plenum-service 1\\n")
for line in f:
    w = line.split()
    if w[0].isdigit():
        open(sys.argv[2] + "/seen", "ab").write(w[1] + b"\\n")
        os.listdir(sys.argv[2])
        f.write(b"answer %s 0\\n" % w[0])
"""
    p = plenum.start(argv=[sys.executable, "-c", code, sock, at])
    wait_for(sock.exists)
    plenum.run("mount", f"service(s/call=open+write,unix!{sock},{src})", at)
    for i in range(20):
        (at / f"f{i}").write_bytes(b"x")
    assert (at / "seen").read_text().split().count("write") == 20
    plenum.run("umount", at)
    plenum.ended(p, 0)
