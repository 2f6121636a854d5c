# SPDX-License-Identifier: MIT
"""Links that break: TCP that is cut, goes silent or moves, an ssh that is killed, ends that go away.

What breaks is a relay in the test, at a number of bytes and not at a time, so that it breaks amid
what is under way; and nothing here is asked to be done by a time that is not many times as long as it
takes.
"""
import contextlib
import errno
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import pytest
import sshd
from conftest import PLENUM, alive, as_nobody, fuse, mounted, mounts_under, root, wait_for
from links import Held, cut_amid_a_transfer, is_down, is_up, link, locked, port_of, relays, start  # noqa: F401
from relay import Relay
from test_duct import Pair
from test_ssh import Host

pytestmark = fuse


class Far:
    """A directory, served behind a relay and mounted."""

    def __init__(self, plenum, options="", serve=()):
        self.plenum = plenum
        self.dir, self.at = plenum.dir("far"), plenum.dir("at")
        self.server = plenum.serve("--linger", "1m", *serve, self.dir, "tcp!127.0.0.1!0")
        self.relay = Relay(port_of(self.server.addr))
        self.mount(options)

    def mount(self, options):
        args = ["-o", options] if options else []
        self.plenum.run("mount", *args, f"9p:{self.relay.addr}", self.at)
        assert link(self.plenum, self.at)["kind"] == "kept"

    def down(self):
        self.relay.refuse()
        is_down(self.plenum, self.at)

    def back(self):
        self.relay.listen()
        is_up(self.plenum, self.at)


def test_cut_amid_a_transfer(plenum):
    far = Far(plenum)
    cut_amid_a_transfer(plenum, far, far.dir, 24 << 20)


def test_commands_that_run_once(plenum):
    """put, get and cat of much, with the connection cut amid it."""
    d = plenum.dir("far")
    server = plenum.serve(d, "tcp!127.0.0.1!0")
    relay = Relay(port_of(server.addr))
    spec, blob = f"9p:{relay.addr}", os.urandom(16 << 20)
    (plenum.dir("near") / "blob").write_bytes(blob)
    for args in ["put", spec, plenum.tmp / "near/blob", "copy"], ["get", spec, "copy", plenum.tmp / "got"], \
            ["cat", spec, "copy"]:
        cuts = relay.cuts
        relay.cut_every(2 << 20, 3)
        p = plenum.run(*args)
        assert relay.cuts - cuts >= 3 and p.err.count("encrypted") == p.err.count("\n")
    assert p.stdout == blob == (d / "copy").read_bytes() == (plenum.tmp / "got").read_bytes()


def test_many_small_ones(plenum):
    """Each mutation is applied once: a second time would fail, or leave another size."""
    far = Far(plenum)
    far.relay.cut_every(12000, 10)
    for i in range(80):
        d = far.at / f"d{i}"
        os.mkdir(d)
        with open(d / "log", "ab") as f:
            f.write(b"line\n")
        with open(d / "log", "ab") as f:
            f.write(b"more\n")
        os.rename(d, far.at / f"e{i}")
        if i % 3 == 0:
            os.unlink(far.at / f"e{i}" / "log")
            os.rmdir(far.at / f"e{i}")
    assert far.relay.cuts >= 8
    names = sorted(p.name for p in far.dir.iterdir())
    assert names == sorted(f"e{i}" for i in range(80) if i % 3)
    assert all((far.dir / n / "log").read_bytes() == b"line\nmore\n" for n in names)


def test_both_directions_of_a_duct(plenum):
    pair = Pair(plenum, "relayed")
    pair.check()
    blob = os.urandom(8 << 20)
    for d in pair.dirs:
        (d / "blob").write_bytes(blob)
    pair.relay.cut_every(3 << 20, 8)
    jobs = []
    for i in 0, 1:
        jobs.append(start("cmp", pair.at[i] / "blob", pair.dirs[1 - i] / "blob"))
        jobs.append(start("cp", pair.dirs[i] / "blob", pair.at[i] / "copy"))
    assert [j.wait(50) for j in jobs] == [0] * 4
    for d in pair.dirs:
        assert (d / "copy").read_bytes() == blob
    assert pair.relay.cuts == 8
    for at in pair.at:
        wait_for(lambda at=at: link(plenum, at)["state"] == "up")
        assert link(plenum, at)["kind"] == "kept" and link(plenum, at)["breaks"] > 0
    pair.end()


@pytest.mark.parametrize("first", [0, 1])
def test_one_end_of_a_duct_while_it_is_down(plenum, first):
    """Unmounted at once; and the other direction goes on when the link is back."""
    pair = Pair(plenum, "relayed")
    pair.relay.refuse()
    is_down(plenum, pair.at[0])
    is_down(plenum, pair.at[1])
    plenum.run("umount", pair.at[first])
    assert not mounted(pair.at[first])
    pair.relay.listen()
    other = pair.at[1 - first]
    assert (other / "who").read_text() == "BA"[1 - first]
    (other / "later").write_text("still here")
    assert (pair.dirs[first] / "later").read_text() == "still here"
    pair.end()


@pytest.mark.parametrize("which", [0, 1])
def test_a_duct_is_ended_while_it_is_down(plenum, which):
    pair = Pair(plenum, "relayed")
    pair.relay.refuse()
    is_down(plenum, pair.at[which])
    p = (pair.a, pair.b)[which]
    p.send_signal(signal.SIGINT)
    plenum.ended(p, 0)
    assert not mounted(pair.at[which])


def test_moved(plenum):
    """The same server by another way: a laptop in another network."""
    far = Far(plenum, serve=())
    other = plenum.serve("--linger", "1m", far.dir, "tcp!127.0.0.1!0", "tcp!127.0.0.1!0")
    ports = [port_of(x.rsplit(" on ", 1)[1]) for x in plenum.err(other).splitlines() if " on " in x]
    relay, at = Relay(ports[0]), plenum.dir("at2")
    plenum.run("mount", f"9p:{relay.addr}", at)
    held = Held(at / "held")
    relay.point(ports[1])
    relay.cut()
    held.write("moved")
    assert (far.dir / "held").read_text() == "moved\n"
    wait_for(lambda: locked(far.dir / "held"), "the lock is not taken again")
    held.close()
    assert link(plenum, at)["breaks"] == 1


def test_half_open(plenum):
    """Nobody closes anything: only silence tells."""
    far = Far(plenum, "keepalive=200ms")
    (far.dir / "f").write_text("x" * 100000)
    far.relay.stall(3600)
    reader = start("cat", far.at / "f", stdout=subprocess.PIPE)
    is_down(plenum, far.at)
    far.relay.stall(0)
    assert len(reader.communicate(timeout=30)[0]) == 100000 and reader.returncode == 0
    is_up(plenum, far.at)


def test_soft(plenum):
    far = Far(plenum, "soft=300ms,timeout=0")
    (far.dir / "f").write_text("x")
    assert (far.at / "f").read_text() == "x"
    far.down()
    with pytest.raises(OSError) as e:
        (far.at / "f").read_text()
    assert e.value.errno == errno.ETIMEDOUT
    # From now on nobody waits at all: a hundred calls take no hundred times as long as they may.
    begin = time.monotonic()
    for _ in range(100):
        with pytest.raises(OSError) as e:
            os.listdir(far.at)
        assert e.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - begin < 100 * 0.3
    assert subprocess.run(["ls", far.at], capture_output=True, timeout=20).returncode != 0
    e = plenum.entry(far.at)
    assert e["state"] == "up" and e["link"]["state"] == "down" and e["link"]["since"]
    assert "no link" in plenum.run("status", far.at).out
    far.back()
    assert (far.at / "f").read_text() == "x"


def test_hard(plenum):
    """Callers wait, can be interrupted, and the others get what they asked for."""
    far = Far(plenum, "hard,timeout=0")
    (far.dir / "f").write_text("x")
    far.down()
    callers = [start("cat", far.at / "f", stdout=subprocess.PIPE) for _ in range(4)]
    wait_for(lambda: plenum.entry(far.at)["waiting"] >= 4, "they do not wait")
    callers[0].send_signal(signal.SIGINT)
    callers[1].kill()
    assert callers[0].wait(20) == -signal.SIGINT
    assert callers[1].wait(20) == -signal.SIGKILL
    assert callers[2].poll() is None and callers[3].poll() is None
    far.back()
    for c in callers[2:]:
        assert c.communicate(timeout=20)[0] == b"x" and c.returncode == 0
    assert link(plenum, far.at)["soft"] is None


@pytest.mark.parametrize("how", ["umount", "umount -f", "open", "SIGINT"])
def test_unmounted_while_it_is_down(plenum, how):
    far = Far(plenum, "hard")
    if how != "umount":
        Held(far.at / "held")
    e = plenum.entry(far.at)
    far.down()
    if how == "SIGINT":
        os.kill(e["keeper"], signal.SIGINT)
    elif how == "open":
        assert "use" in plenum.run("umount", far.at, rc=1).err
        plenum.run("umount", "-f", far.at)
    else:
        plenum.run(*how.split(), far.at)
    wait_for(lambda: not mounted(far.at), "it stays")
    wait_for(lambda: not alive(e["server"]) and not alive(e["keeper"]), "its processes stay")


def test_linger_is_over(plenum):
    """A clean end on both sides, with the sentence."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve("--linger", "200ms", far, "tcp!127.0.0.1!0")
    relay = Relay(port_of(server.addr))
    p = plenum.start("mount", "-f", "-o", "linger=300ms", f"9p:{relay.addr}", at)
    wait_for(lambda: mounted(at), plenum.err(p))
    Held(at / "held")
    relay.refuse()
    says = plenum.ended(p, 1)
    assert f"link to {relay.addr} lost: " in says, says
    assert not mounted(at)
    wait_for(lambda: not locked(far / "held"), "the server keeps the lock of who is gone")
    wait_for(lambda: [e["link"]["peers"] for e in plenum.status() if e["server"] == server.pid] == [0])


def test_no_link_is_agreed_to(plenum):
    """By a server that is told so, or by this end: the first break is the end."""
    far = plenum.dir("far")
    for i, (options, linger) in enumerate((("linger=0", "1m"), ("linger=0", "0"))):
        at = plenum.dir(f"at{i}")
        server = plenum.serve("--linger", linger, far, "tcp!127.0.0.1!0")
        relay = Relay(port_of(server.addr))
        p = plenum.start("mount", "-f", "-o", options, f"9p:{relay.addr}", at)
        wait_for(lambda: mounted(at), plenum.err(p))
        assert link(plenum, at)["kind"] == "none"
        relay.cut()
        assert "lost" in plenum.ended(p, 1)


def test_the_log_tells(plenum):
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    relay = Relay(port_of(server.addr))
    p = plenum.start("mount", "-f", f"9p:{relay.addr}", at)
    wait_for(lambda: mounted(at), plenum.err(p))
    relay.refuse()
    wait_for(lambda: f"link to {relay.addr} is down: " in plenum.err(p))
    assert "1d at most" in plenum.err(p)
    relay.listen()
    wait_for(lambda: f"link to {relay.addr} is up again" in plenum.err(p))
    status = [e for e in plenum.status() if e["server"] == server.pid][0]
    assert status["link"]["peers"] == 1 and status["link"]["breaks"] == 1
    p.send_signal(signal.SIGTERM)
    plenum.ended(p, 0)


# ---- servers that go away


def serve_again(plenum, server, *args):
    """At the same address; its predecessor was killed, or has ended."""
    plenum.ended(server, None)
    return plenum.serve(*args, server.addr)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_server_restarted(plenum, how):
    """Open files and locks are as they were, as far as nobody else came in between."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", "-o", "hard", f"9p:{server.addr}", at)
    f = Held(at / "open")
    f.write("before")
    for turn in range(3):
        server.send_signal(how)
        server = serve_again(plenum, server, far)
        f.write(turn)
        os.mkdir(at / f"d{turn}")
        wait_for(lambda: locked(far / "open"), "the lock is not taken again")
    f.close()
    assert (far / "open").read_text() == "before\n0\n1\n2\n"
    assert sorted(p.name for p in far.iterdir()) == ["d0", "d1", "d2", "open"]
    wait_for(lambda: link(plenum, at)["state"] == "up")
    assert link(plenum, at)["breaks"] == 3
    plenum.run("umount", at)


def test_failover(plenum):
    """Two servers of one directory, in order; and back to the first when the second goes. (Nothing is under
    way when they go: whether it was done the other cannot know.)"""
    far, at = plenum.dir("far"), plenum.dir("at")
    one, two = [plenum.serve(far, "tcp!127.0.0.1!0") for _ in range(2)]
    plenum.run("mount", "-o", "hard", f"9p:{one.addr},or={two.addr}", at)
    assert plenum.entry(at)["peer"] == one.addr
    f = Held(at / "open")
    f.write("one")
    one.kill()
    wait_for(lambda: plenum.entry(at)["peer"] == two.addr, "it stays with who is gone")
    f.write("two")
    one = serve_again(plenum, one, far)
    two.kill()
    wait_for(lambda: plenum.entry(at)["peer"] == one.addr, "it stays with who is gone")
    f.write("one again")
    f.close()
    assert (far / "open").read_text() == "one\ntwo\none again\n"


def test_no_failover_while_nobody_answers(plenum):
    """It is the network that is away: the link is kept, with its server."""
    far = plenum.dir("far")
    at = plenum.dir("at")
    servers = [plenum.serve(far, "tcp!127.0.0.1!0") for _ in range(2)]
    relays = [Relay(port_of(s.addr)) for s in servers]
    plenum.run("mount", "-o", "hard", f"9p:{relays[0].addr},or={relays[1].addr}", at)
    f = Held(at / "held")
    for r in relays:
        r.refuse()
    is_down(plenum, at)
    relays[0].listen()
    is_up(plenum, at)
    wait_for(lambda: locked(far / "held"), "the lock is not taken again")
    f.close()
    assert plenum.entry(at)["peer"] == relays[0].addr and relays[1].passed == 0


def test_server_on_a_unix_socket(plenum):
    """It is waited for if that is asked for."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, f"unix!{plenum.tmp}/s")
    plenum.run("mount", "-o", "linger=1m,hard", f"9p:{server.addr}", at)
    (at / "f").write_text("1")
    server.kill()
    server = serve_again(plenum, server, far)
    (at / "f").write_text("2")
    assert (far / "f").read_text() == "2"


@pytest.mark.parametrize("version", ["9p2000.u", "9p2000"])
def test_server_of_an_older_dialect(plenum, version):
    """It is killed and started again: files are found by name, and open ones go on."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", "-o", "hard", f"9p:{server.addr},version={version}", at)
    os.mkdir(at / "d")
    with open(at / "d/f", "w", buffering=1) as f:
        for i in range(3):
            f.write(f"{i}\n")
            server.kill()
            server = serve_again(plenum, server, far)
            os.rename(at / "d/f", at / "d/g")
            os.rename(at / "d/g", at / "d/f")
        f.write("end\n")
    assert (far / "d/f").read_text() == "0\n1\n2\nend\n"
    assert os.listdir(at / "d") == ["f"]


def test_both_servers_die(plenum):
    """Of the mount, and what it mounts: the one that follows waits for the other."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", f"9p:{server.addr}", at)
    f = Held(at / "open")
    f.write("before")
    e = plenum.entry(at)
    server.kill()
    os.kill(e["server"], signal.SIGKILL)
    is_down(plenum, at)
    server = serve_again(plenum, server, far)
    f.write("after")
    f.close()
    assert (far / "open").read_text() == "before\nafter\n"


def gets(call):
    """The errno that a call fails with; None if it does not."""
    try:
        call()
    except OSError as e:
        return e.errno


def test_both_servers_die_and_callers_do_not_wait_for_ever(plenum):
    """Whoever waits while the one that follows does gets ETIMEDOUT after `soft`, and whoever comes at once.
    Then all goes on where it was."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", "-o", "soft=5", f"9p:{server.addr}", at)
    f, g = Held(at / "open"), Held(at / "closed")
    f.write("before")
    e = plenum.entry(at)
    server.kill()
    os.kill(e["server"], signal.SIGKILL)
    assert gets(lambda: os.stat(at / "newer")) == errno.ETIMEDOUT
    for _ in range(3):
        assert gets(lambda: os.mkdir(at / "d")) == errno.ETIMEDOUT
        assert gets(lambda: os.listdir(at)) == errno.ETIMEDOUT
    gets(g.close)
    server = serve_again(plenum, server, far)
    wait_for(lambda: plenum.entry(at)["state"] == "up", "it does not come back")
    f.write("after")
    f.close()
    assert (far / "open").read_text() == "before\nafter\n"
    os.mkdir(at / "d")
    assert sorted(os.listdir(at)) == ["closed", "d", "open"]


def test_both_servers_die_and_callers_end(plenum):
    """Who waits for the one that follows can be interrupted, also where the wait itself has no end."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", "-o", "hard", f"9p:{server.addr}", at)
    e = plenum.entry(at)
    server.kill()
    os.kill(e["server"], signal.SIGKILL)
    is_down(plenum, at)
    for sig in signal.SIGINT, signal.SIGTERM, signal.SIGKILL:
        waits = subprocess.Popen(["stat", at / "new"], stderr=subprocess.DEVNULL)
        stat = pathlib.Path(f"/proc/{waits.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] in "SD", "it does not wait")
        waits.send_signal(sig)
        assert waits.wait(60) == -sig
    plenum.run("umount", "-f", at)


def test_locks_of_a_killed_server_of_a_mount(plenum):
    """The session that it left at the other end is not in the way of who follows it."""
    far, at = plenum.dir("far"), plenum.dir("at")
    server = plenum.serve(far, "tcp!127.0.0.1!0")
    plenum.run("mount", f"9p:{server.addr}", at)
    f = Held(at / "f")
    for i in range(3):
        e = plenum.entry(at)
        os.kill(e["server"], signal.SIGKILL)
        wait_for(lambda: plenum.entry(at)["server"] not in (0, e["server"]))
        f.write(i)
        wait_for(lambda: locked(far / "f"), "the lock is not taken again")
    f.close()
    wait_for(lambda: not locked(far / "f"), "the first server's session is kept")
    assert (far / "f").read_text() == "0\n1\n2\n"
    peers = [e["link"]["peers"] for e in plenum.status() if e["server"] == server.pid]
    assert peers == [1]


@pytest.mark.parametrize("option, says", [
    ("soft=0", "hard"), ("soft=x", "not a time"), ("linger=8d", "7d"), ("linger=", "not a time"),
    ("hard=1", "no value"), ("keepalive=-1", "not a time"), ("lingr=1", "did you mean linger?")])
def test_options(plenum, option, says):
    assert says in plenum.error("mount", "-o", option, "9p:tcp!127.0.0.1!1", plenum.dir("at"), rc=2)


def test_option_of_serve(plenum):
    assert "not a time" in plenum.error("serve", "--linger", "soon", "/", "stdio", rc=2)


# ---- ssh

FAKE_SSH = """#!%s
import os, re, signal, subprocess, sys, threading
command = sys.argv[-1]
token = re.search(r"plenum-[0-9a-f]+", command).group()
with open(%r, "a") as f:
    f.write(f"{os.getpid()} {token}\\n")
p = subprocess.Popen([*%r, "sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                     start_new_session=True)
def pump(a, b):
    while data := os.read(a, 65536):
        os.write(b, data)
    os.close(b)
threading.Thread(target=pump, args=(0, p.stdin.fileno()), daemon=True).start()
pump(p.stdout.fileno(), 1)
os._exit(0)
"""
ssh_there = pytest.mark.skipif(not sshd.THERE, reason="needs ssh and sshd")


@pytest.fixture
def host(plenum):
    return Host(plenum)


def ssh_clients(host):
    """Of this host's key: their command lines name its directory."""
    found = []
    for d in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if d.name.isdigit() and (d / "comm").read_text() == "ssh\n" and alive(d.name) and \
                    os.fsencode(host.dir) in (d / "cmdline").read_bytes():
                found.append(int(d.name))
    return found


def ducts(plenum):
    """This test's, for others may run some too."""
    return [e for e in plenum.status() if e["kind"] == "duct" and str(plenum.tmp) in e["dir"] + e["spec"]]


def kill_ssh(host):
    for pid in ssh_clients(host):
        os.kill(pid, signal.SIGKILL)


def directions(plenum, which):
    """Options of plenum ssh, and where what is mounted."""
    ways = {"-L": (plenum.dir("at_here"), plenum.dir("there")), "-R": (plenum.dir("at_there"), plenum.dir("here"))}
    chosen = [o for o in ways if which in (o, "both")]
    return [word for o in chosen for word in (o, "{}:{}".format(*ways[o]))], [ways[o] for o in chosen]


@ssh_there
@pytest.mark.parametrize("which", ["-L", "-R", "both"])
def test_ssh_is_killed(plenum, host, which):
    args, ways = directions(plenum, which)
    p = host.start(*args, host.name)
    wait_for(lambda: all(mounted(at) for at, _ in ways) or p.poll() is not None, plenum.err(p))
    held = [Held(at / "held") for at, _ in ways]
    for turn in range(3):
        breaks = [link(plenum, at)["breaks"] for at, _ in ways]
        kill_ssh(host)
        for at, _ in ways:
            (at / f"f{turn}").write_text(f"after {turn} deaths")
        for (at, d), before in zip(ways, breaks):
            assert (d / f"f{turn}").read_text() == f"after {turn} deaths"
            wait_for(lambda at=at, n=before: link(plenum, at)["breaks"] == n + 1)
    for f, (at, d) in zip(held, ways):
        wait_for(lambda: locked(d / "held"), "the lock is not taken again")
        f.write("still")
        f.close()
        assert (d / "held").read_text() == "still\n"
    assert host.runs() == 4
    for at, _ in ways:
        plenum.run("umount", at)
    plenum.ended(p, 0)
    assert not mounts_under(plenum.tmp)
    wait_for(lambda: not ssh_clients(host), "an ssh stays")


@ssh_there
@pytest.mark.parametrize("which", ["-L", "-R", "both"])
def test_ssh_is_killed_and_we_end(plenum, host, which):
    """The far end lingers; when nobody comes back it ends by itself, in good order."""
    args, ways = directions(plenum, which)
    p = host.start("-o", "linger=1s", *args, host.name)
    ats = [at for at, _ in ways]
    wait_for(lambda: all(map(mounted, ats)) or p.poll() is not None, plenum.err(p))
    far = host.far()
    assert far
    # Nobody gets in any more, and the ssh that is there dies.
    os.rename(host.dir / "user", host.dir / "user.away")
    kill_ssh(host)
    assert "lost" in plenum.ended(p, 1)
    wait_for(lambda: not mounts_under(plenum.tmp), "a mount stays")
    wait_for(lambda: not any(alive(e[x]) for e in far for x in ("keeper", "server") if e[x]),
             "the far end stays")


@ssh_there
def test_ssh_that_does_not_listen_is_not_waited_for(plenum, host):
    """The duct is unmounted while its ssh is run again, which hangs, and does not mind SIGTERM. (Who happens
    to look at the mount just then is let go by `soft`.)"""
    at, there = plenum.dir("at"), plenum.dir("there")
    p = host.start("-o", "soft=1", "-L", f"{at}:{there}", host.name)
    wait_for(lambda: mounted(at) or p.poll() is not None, plenum.err(p))
    hangs = host.dir / "hangs"
    pathlib.Path(host.wrapper).write_text(f"#!/bin/sh\ntrap '' TERM HUP INT\necho $$ >> {hangs}\nwhile :; do sleep 1; done\n")
    kill_ssh(host)
    wait_for(hangs.exists, "it is not dialed again")
    plenum.run("umount", at)
    plenum.ended(p, None)
    wait_for(lambda: not any(alive(int(x)) for x in hangs.read_text().split()), "an ssh stays")
    for e in host.far():  # nobody could tell it
        os.kill(e["server"], signal.SIGTERM)
    wait_for(lambda: not host.far(), "the far end stays")


@ssh_there
def test_ssh_is_killed_under_a_spec(plenum, host):
    d, at = plenum.dir("d"), plenum.dir("at")
    bin_ = plenum.dir("bin")
    os.symlink(PLENUM, bin_ / "plenum")
    host.again(f"SetEnv PATH={bin_}:{os.environ['PATH']}")
    plenum.run("mount", f"ssh:{host.name}:{d}", at, env=host.env)
    held = Held(at / "held")
    for turn in range(3):
        kill_ssh(host)
        (at / f"f{turn}").write_text("x")
        assert (d / f"f{turn}").read_text() == "x"
    wait_for(lambda: locked(d / "held"), "the lock is not taken again")
    held.close()
    assert link(plenum, at)["breaks"] == 3
    plenum.run("umount", at)
    wait_for(lambda: not ssh_clients(host), "an ssh stays")


@root
@pytest.mark.parametrize("who", ["root", "user"])
def test_a_server_behind_ssh_that_is_confined(plenum, who):
    """It is found again, and takes its meeting point's name away in the end. What stands for ssh runs
    the far end as another user, and passes bytes until it is killed."""
    d, at = plenum.dir("d"), plenum.dir("at")
    plenum.tmp.chmod(0o755)
    d.chmod(0o777)
    ssh = plenum.tmp / "ssh"
    ssh.write_text(FAKE_SSH % (sys.executable, f"{plenum.tmp}/pids",
                               as_nobody() if who == "user" else ["env"]))
    ssh.chmod(0o755)
    bin_ = plenum.dir("bin")
    os.symlink(PLENUM, bin_ / "plenum")
    env = dict(os.environ, PLENUM_SSH=str(ssh), PATH=f"{bin_}:{os.environ['PATH']}")
    env.pop("XDG_RUNTIME_DIR", None)
    meet = pathlib.Path("/tmp/plenum-65534" if who == "user" else "/run/plenum")

    def started():
        return (plenum.tmp / "pids").read_text().splitlines()

    def meetings():
        return [m for m in started()[:1] if (meet / f"meet-{m.split()[1]}").exists()]

    # The near end keeps the right to be another user: that is ssh in this test.
    plenum.run("mount", "-o", "noconfine,linger=1m", f"ssh:nowhere:{d}", at, env=env)
    assert meetings()
    for turn in range(2):
        os.kill(int(started()[-1].split()[0]), signal.SIGKILL)
        (at / f"f{turn}").write_text("x")
        assert (d / f"f{turn}").read_text() == "x"
    assert len(started()) == 3 and link(plenum, at)["breaks"] == 2
    plenum.run("umount", at)
    wait_for(lambda: not meetings(), "the meeting point stays")


def test_relink_to_nobody(plenum):
    """It says in the protocol that the link is gone."""
    body = struct.pack("<IH", 8192, 11) + b"plenum.link"
    ask = struct.pack("<IBH", 7 + len(body), 100, 0xffff) + body
    p = plenum.run("relink", "plenum-0123456789abcdef", input=ask)
    size, kind, tag, _, n = struct.unpack("<IBHIH", p.stdout[:13])
    assert (size, kind, tag) == (len(p.stdout), 101, 0xffff)
    assert p.stdout[13:13 + n] == b"plenum.link gone"


# ---- the other end of a duct goes away


@pytest.mark.parametrize("which", [0, 1])
def test_the_peer_of_a_duct_ends(plenum, which):
    """On purpose: nobody waits for it."""
    pair = Pair(plenum, "tcp")
    p, other = ((pair.a, pair.b), (pair.b, pair.a))[which]
    p.send_signal(signal.SIGTERM)
    plenum.ended(p, 0)
    assert "lost" in plenum.ended(other, 1)
    assert not mounts_under(plenum.tmp)


def test_the_peer_of_a_duct_is_killed(plenum):
    """... and started again, where it is dialed: both directions are there again."""
    pair = Pair(plenum, "tcp")
    e = plenum.entry(pair.at[0])
    held = Held(pair.at[1] / "held")
    held.write("1")
    for pid in e["server"], e["keeper"]:
        os.kill(pid, signal.SIGKILL)
    plenum.ended(pair.a, None)
    plenum.dead(pair.at[0])
    pair.a = plenum.start("duct", "-l", pair.addr, pair.dirs[0], pair.at[0])
    wait_for(lambda: mounted(pair.at[0]) or pair.a.poll() is not None, plenum.err(pair.a))
    held.write("2")
    held.close()
    assert (pair.dirs[0] / "held").read_text() == "1\n2\n"
    pair.check()
    pair.end()


@ssh_there
@pytest.mark.parametrize("which", ["-L", "both"])
def test_the_far_end_of_ssh_is_killed(plenum, host, which):
    """Another one is started, with all that it has to mount."""
    here, there = plenum.dir("here"), plenum.dir("there")
    at_here, at_there = plenum.dir("at_here"), plenum.dir("at_there")
    args = ["-L", f"{at_here}:{there}"] + (["-R", f"{at_there}:{here}"] if which == "both" else [])
    p = host.start(*args, host.name)
    wait_for(lambda: all(mounted(x.split(":")[0]) for x in args[1::2]) or p.poll() is not None,
             plenum.err(p))
    (at_here / "f").write_text("1")
    far = host.far()
    assert len(far) == 1
    os.kill(far[0]["server"], signal.SIGKILL)
    if far[0]["keeper"]:
        wait_for(lambda: not alive(far[0]["keeper"]), "its keeper stays")
    (at_here / "f").write_text("2")
    assert (there / "f").read_text() == "2"
    if which == "both":
        wait_for(lambda: mounted(at_there), "it is not mounted again")
        (at_there / "g").write_text("3")
        assert (here / "g").read_text() == "3"
    for x in args[1::2]:
        plenum.run("umount", x.split(":")[0])
    plenum.ended(p, 0)
    wait_for(lambda: not ssh_clients(host), "an ssh stays")
