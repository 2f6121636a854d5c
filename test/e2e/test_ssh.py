# SPDX-License-Identifier: MIT
"""plenum ssh, and ssh: trees, through a real sshd of our own on the loopback interface."""
import errno
import os
import pathlib
import signal
import stat
import subprocess

import pytest
import sshd
from conftest import PLENUM, alive, fuse, mounted, mounts_under, wait_for
from sshd import Sshd

pytestmark = [fuse, pytest.mark.skipif(not sshd.THERE, reason="needs ssh and sshd")]


class Host(Sshd):
    """It runs, and is left with the test."""

    def __init__(self, plenum):
        self.plenum = plenum
        super().__init__(plenum.dir("ssh"))
        self.mark = f"PLENUM_E2E={self.dir}"
        self.config(f"SetEnv {self.mark}")
        self.sshd = plenum.start(argv=self.argv)
        wait_for(lambda: "listening" in plenum.err(self.sshd) or self.sshd.poll() is not None)
        assert self.sshd.poll() is None, plenum.err(self.sshd)
        # One program for everything that runs ssh; it notes that it ran.
        self.wrapper = self.ssh(first=f"echo x >> {self.dir}/runs")
        self.env = dict(os.environ, PLENUM_SSH=self.wrapper)

    def again(self, lines):
        """With another configuration."""
        said = self.plenum.err(self.sshd).count("listening")
        self.config(lines)
        self.sshd.send_signal(signal.SIGHUP)
        wait_for(lambda: self.plenum.err(self.sshd).count("listening") > said)

    def runs(self):
        return (self.dir / "runs").read_text().count("x")

    def far(self):
        """What `status` says of the ducts that came by this sshd."""
        mark = self.mark.encode()

        def came_by_us(pid):
            try:
                return mark in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                return False
        return [e for e in self.plenum.status() if e["kind"] == "duct" and came_by_us(e["server"])]

    def start(self, *args, **kw):
        return self.plenum.start("ssh", "--remote-plenum", PLENUM, *args, env=self.env, **kw)


@pytest.fixture
def host(plenum):
    return Host(plenum)


def tree(plenum, name, text):
    d = plenum.dir(name)
    (d / "who").write_text(text)
    return d


def up(plenum, p, *dirs):
    wait_for(lambda: all(mounted(d) for d in dirs) or p.poll() is not None, plenum.err(p))
    assert p.poll() is None, plenum.err(p)


@pytest.mark.parametrize("first", [0, 1])
def test_both_ways(plenum, host, first):
    here, there = tree(plenum, "here", "here"), tree(plenum, "there's (a) \"dir", "there")
    at_here, at_there = plenum.dir("at_here"), plenum.dir("at $there")
    p = host.start("-L", f"{at_here}:{there}", "-R", f"{at_there}:{here}", host.name)
    up(plenum, p, at_here, at_there)
    assert host.runs() == 1
    assert (at_here / "who").read_text() == "there"
    assert (at_there / "who").read_text() == "here"
    (at_here / "x").write_text("written")
    assert (there / "x").read_text() == "written"
    order = [at_here, at_there]
    plenum.run("umount", order[first])
    assert (order[1 - first] / "who").read_text() == ["here", "there"][first]
    assert p.poll() is None
    plenum.run("umount", order[1 - first])
    says = plenum.ended(p, 0)
    assert "lost" not in says
    assert not mounts_under(plenum.tmp)


def test_access(plenum, host):
    """What the other host may do with our directories: an access file, in which it is "ssh"."""
    dirs = [tree(plenum, f"t{i}", str(i)) for i in range(2)]
    at = [plenum.dir(f"at{i}") for i in range(2)]
    access = plenum.tmp / "access"
    access.write_text("ssh /R0 ro caller+root\nssh /R1 rw caller+root\n")
    args = ["--access", "access", "-R", f"{at[0]}:{dirs[0]}", "-R", f"{at[1]}:{dirs[1]}", host.name]
    p = host.start(*args)
    up(plenum, p, *at)
    assert (at[0] / "who").read_text() == "0" and (at[1] / "who").read_text() == "1"
    with pytest.raises(OSError) as e:
        (at[0] / "new").touch()
    assert e.value.errno == errno.EROFS
    (at[1] / "new").touch()
    for d in at:
        plenum.run("umount", d)
    plenum.ended(p, 0)
    access.write_text("* / rx caller\n")  # told before there is an ssh
    runs = host.runs()
    assert "line 1: rx: neither ro nor rw" in plenum.error("ssh", *args, env=host.env)
    assert host.runs() == runs


def test_several(plenum, host):
    dirs = [tree(plenum, f"t{i}", str(i)) for i in range(4)]
    at = [plenum.dir(f"at{i}") for i in range(4)]
    p = host.start("-L", f"{at[0]}:{dirs[0]}", "-L", f"{at[1]}:{dirs[1]}", "-R", f"{at[2]}:{dirs[2]}",
                   "-R", f"{at[3]}:{dirs[3]}", host.name)
    up(plenum, p, *at)
    for i in range(4):
        assert (at[i] / "who").read_text() == str(i)
    for d in at:
        plenum.run("umount", d)
    plenum.ended(p, 0)


@pytest.mark.parametrize("which", ["-L", "-R"])
def test_one_way(plenum, host, which):
    d, at = tree(plenum, "d", "d"), plenum.dir("at")
    p = host.start(which, f"{at}:{d}", host.name)
    up(plenum, p, at)
    assert (at / "who").read_text() == "d"
    plenum.run("umount", at)
    plenum.ended(p, 0)


@pytest.mark.parametrize("which", ["-L", "-R", "both"])
def test_interrupted(plenum, host, which):
    """Ctrl-C: the terminal sends it to the whole group, ssh included."""
    d, at, at2 = tree(plenum, "d", "d"), plenum.dir("at"), plenum.dir("at2")
    args = ["-L", f"{at}:{d}", "-R", f"{at2}:{d}"]
    args = args if which == "both" else args[:2] if which == "-L" else args[2:]
    p = host.start(*args, host.name, start_new_session=True)
    up(plenum, p, *[x.split(":")[0] for x in args[1::2]])
    os.killpg(p.pid, signal.SIGINT)
    assert "lost" not in plenum.ended(p, 0)
    wait_for(lambda: not mounts_under(plenum.tmp), "a mount stays")


def test_noisy_shell(plenum, host):
    """What start-up files print does not disturb."""
    noisy = host.dir / "noisy"
    noisy.write_text(f"#!/bin/sh\necho welcome; head -c 20000 /dev/zero; printf 'no newline'\n"
                     f"exec '{PLENUM}' \"$@\"\n")
    noisy.chmod(0o755)
    d, at = tree(plenum, "d", "d"), plenum.dir("at")
    p = plenum.start("ssh", "--remote-plenum", noisy, "-L", f"{at}:{d}", host.name, env=host.env)
    up(plenum, p, at)
    assert (at / "who").read_text() == "d"
    plenum.run("umount", at)
    plenum.ended(p, 0)
    noisy.write_text("#!/bin/sh\nhead -c 100000 /dev/zero; cat >/dev/null\n")
    line = plenum.error("ssh", "--remote-plenum", noisy, "-L", f"{at}:{d}", host.name, env=host.env)
    assert "64 KiB" in line


def test_ssh_options(plenum, host):
    d, at = tree(plenum, "d", "d"), plenum.dir("at")
    log = plenum.tmp / "ssh.log"
    p = host.start("-L", f"{at}:{d}", host.name, "--", "-v", "-E", log)
    up(plenum, p, at)
    assert "debug1" in log.read_text()
    plenum.run("umount", at)
    plenum.ended(p, 0)


def test_no_plenum_there(plenum, host):
    at = plenum.dir("at")
    line = plenum.error("ssh", "--remote-plenum", "/nonexistent/plenum", "-L", f"{at}:/", host.name,
                        env=host.env)
    assert "no plenum there" in line


def test_ssh_fails(plenum, host):
    at = plenum.dir("at")
    p = plenum.run("ssh", "-L", f"{at}:/", "nobody-at-all@127.0.0.1", env=host.env, rc=1)
    assert "Permission denied" in p.err and "status 255" in p.err


def test_far_directory_missing(plenum, host):
    d, at = tree(plenum, "d", "d"), plenum.dir("at")
    p = plenum.run("ssh", "--remote-plenum", PLENUM, "-L", f"{at}:{plenum.tmp}/missing", host.name,
                   env=host.env, rc=1)
    assert "missing: no such directory" in p.err
    assert not mounted(at)
    p = plenum.run("ssh", "--remote-plenum", PLENUM, "-R", f"{plenum.tmp}/missing:{d}", host.name,
                   env=host.env, rc=1)
    assert "missing: no such directory" in p.err


@pytest.mark.parametrize("what", ["ssh", "server"])
def test_lost(plenum, host, what):
    d, at, at2 = tree(plenum, "d", "d"), plenum.dir("at"), plenum.dir("at2")
    p = host.start("-o", "linger=0", "-L", f"{at}:{d}", "-R", f"{at2}:{d}", host.name)
    up(plenum, p, at, at2)
    near, far = plenum.entry(at), plenum.entry(at2)
    if what == "ssh":
        with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
            for pid in map(int, f.read().split()):
                with open(f"/proc/{pid}/comm") as comm:
                    if comm.read() == "ssh\n":
                        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(far["server"], signal.SIGKILL)
    assert "lost" in plenum.ended(p, 1)
    wait_for(lambda: not mounts_under(plenum.tmp), "a mount stays")
    wait_for(lambda: not any(alive(e[x]) for e in (near, far) for x in ("keeper", "server")))


def test_spec(plenum, host):
    d = tree(plenum, "d", "by ssh")
    # The program is looked for in PATH and /usr/local/bin there.
    bin_ = plenum.dir("bin")
    os.symlink(PLENUM, bin_ / "plenum")
    wrapper = host.dir / "with-path"
    wrapper.write_text(f"#!/bin/sh\nexec {host.wrapper} -o SetEnv=X=1 \"$@\"\n")
    wrapper.chmod(0o755)
    host.again(f"SetEnv PATH={bin_}:{os.environ['PATH']}")
    assert plenum.run("cat", f"ssh:{host.name}:{d}", "who", env=host.env).out == "by ssh"
    at = plenum.dir("at")
    plenum.run("mount", f"ssh:{host.name}:{d}", at, env=host.env)
    assert (at / "who").read_text() == "by ssh"
    assert stat.S_ISDIR(os.stat(at).st_mode)
    plenum.run("umount", at)
