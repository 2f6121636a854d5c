# SPDX-License-Identifier: MIT
"""What the end-to-end tests share: the program, its processes, directories that are left clean.

PLENUM names the program (else build/plenum). Every test has a directory of its own; what is mounted
beneath it, and every process that the test started, is taken away afterwards, and a test that left
a process behind fails. Nothing that others run is touched.
"""
import errno
import faulthandler
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(TOP / "test/lib"), str(TOP / "test/drill")]
PLENUM = os.path.abspath(os.environ.get("PLENUM", TOP / "build/plenum"))
LIMIT = 60  # seconds a test may take
PATIENCE = 15  # seconds that what was asked for may take to happen


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: changes or measures what all on this machine share; "
                            "tools/test runs it when no other test runs")


def wait_for(what, why="it did not happen", timeout=PATIENCE):
    """Waits until what() is true and returns that; for what other processes do."""
    end = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(why)
        time.sleep(0.01)


def mounts_under(path):
    """Mount points at or beneath path, the deepest first, without asking them anything."""
    found = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            point = os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1"))
            if point == str(path) or point.startswith(f"{path}/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def mounted(path):
    return str(path) in mounts_under(path)


def mounted_elsewhere(path):
    """In a mount namespace that another test has made meanwhile: it is served there still."""
    for p in pathlib.Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if f" {path} " in p.read_text():
                return True
        except OSError:
            pass
    return False


def dead(path):
    """A mount whose keeper was killed: nothing hangs there, and nothing is answered any more."""
    try:
        os.statvfs(path)  # attributes may be known still
    except OSError as e:
        assert e.errno in (errno.ENOTCONN, errno.ECONNABORTED), e
        return True
    return False


def alive(pid):
    """Runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Program:
    """Runs plenum; remembers what it started."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.started = []

    def run(self, *args, rc=0, timeout=30, **kw):
        """Runs to the end. `rc`: the exit status that is expected (None: any)."""
        kw.setdefault("stdin", subprocess.DEVNULL)
        if "input" in kw:
            del kw["stdin"]
        kw.setdefault("cwd", self.tmp)
        p = subprocess.run([PLENUM, *map(str, args)], capture_output=True, timeout=timeout, **kw)
        p.out, p.err = p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")
        if rc is not None:
            assert p.returncode == rc, f"{args}: status {p.returncode}\n{p.out}{p.err}"
        return p

    def error(self, *args, rc=1, **kw):
        """Runs what must fail: the one line that it says."""
        p = self.run(*args, rc=rc, **kw)
        assert p.err.count("\n") == 1 and p.err.startswith("plenum: "), p.err
        return p.err

    def start(self, *args, argv=None, **kw):
        """Starts in the background, with standard error in a file (see err())."""
        log = open(self.tmp / f".err{len(self.started)}", "w+b")
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("cwd", self.tmp)
        p = subprocess.Popen(argv or [PLENUM, *map(str, args)], stderr=log, **kw)
        p.log = log.name
        log.close()
        self.started.append(p)
        return p

    @staticmethod
    def err(p):
        return pathlib.Path(p.log).read_text(errors="replace")

    def listening(self, p):
        """Waits until a process says that it listens (a socket is there a moment before that)."""
        wait_for(lambda: " on " in self.err(p) or p.poll() is not None, "it does not listen")

    def serve(self, *args, **kw):
        """A server that is up; .addr is its (first) address."""
        p = self.start("serve", *args, **kw)
        line = wait_for(lambda: [x for x in self.err(p).splitlines() if " on " in x] or
                        (p.poll() is not None and ["died"]), "the server does not come up")[0]
        assert line != "died", self.err(p)
        p.addr = line.rsplit(" on ", 1)[1]
        return p

    def ended(self, p, rc=0, timeout=PATIENCE):
        """Waits for its end."""
        try:
            got = p.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{p.args} does not end\n{self.err(p)}")
        assert rc is None or got == rc, f"{p.args}: status {got}\n{self.err(p)}"
        return self.err(p)

    def status(self, *args):
        return json.loads(self.run("status", "--json", *args).out)

    def entry(self, directory):
        found = [e for e in self.status() if e["dir"] == str(directory)]
        return found[0] if found else None

    def dead(self, path):
        """Waits until a mount whose keeper was killed is dead, and takes it away (a nursery does)."""
        wait_for(lambda: not mounted(path) or dead(path), "the mount goes on without a keeper")
        self.run("umount", path, rc=None)
        assert not mounted(path)

    def dir(self, name):
        path = self.tmp / name
        path.mkdir(parents=True)
        return path

    def clean(self):
        left, elsewhere = [], []
        for e in self.status():
            if e["dir"].startswith(f"{self.tmp}/"):
                left += [pid for pid in (e["keeper"], e["server"], e["nursery"]) if pid]
                elsewhere += [] if mounted(e["dir"]) else [e["dir"]]
        for p in self.started:
            if p.poll() is None:
                p.terminate()
        for point in mounts_under(self.tmp):
            subprocess.run([PLENUM, "umount", "-f", point], capture_output=True, timeout=30)
            subprocess.run(["umount", "-l", point], capture_output=True, timeout=30)
        for point in filter(mounted_elsewhere, elsewhere):
            subprocess.run([PLENUM, "umount", "-f", point], capture_output=True, timeout=30)
        for p in self.started:
            try:
                p.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                left.append(p.pid)
        deadline = time.monotonic() + PATIENCE
        while any(map(alive, left)) and time.monotonic() < deadline:
            time.sleep(0.05)
        stuck = [pid for pid in left if alive(pid)]
        for pid in stuck:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.tmp, ignore_errors=True)
        return stuck


@pytest.fixture
def plenum():
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="plenum-e2e.", dir=os.environ.get("TMPDIR", "/tmp")))
    program = Program(tmp)

    def late(signum, frame):
        for p in program.started:
            if p.poll() is None:
                p.kill()
        for point in mounts_under(tmp):  # what hangs on a mount goes on
            subprocess.run([PLENUM, "umount", "-f", point], capture_output=True, timeout=30)
        raise TimeoutError(f"the test took more than {LIMIT} s")

    faulthandler.dump_traceback_later(LIMIT + 30, exit=True, file=sys.__stderr__)
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield program
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        stuck = program.clean()
        faulthandler.cancel_dump_traceback_later()
    assert not stuck, f"processes were left behind: {stuck}"


fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse")
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def as_nobody(*argv):
    """The command line as an ordinary user."""
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", *map(str, argv)]


@pytest.fixture
def nobody(tmp_path):
    """As as_nobody, where /dev/fuse is for everyone: a mount namespace of the test's own."""
    setup = ('mount -t fusectl none /sys/fs/fuse/connections; '
             'mount -t tmpfs none "$0" && mknod -m 666 "$0/f" c 10 229 && mount --bind "$0/f" /dev/fuse && echo && exec cat')
    p = subprocess.Popen(["unshare", "-m", "sh", "-c", setup, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"\n"
    yield lambda *argv: ["nsenter", f"--mount=/proc/{p.pid}/ns/mnt", "--", *as_nobody(*argv)]
    p.stdin.close()
    p.wait(PATIENCE)


def mount_overlay(here, *opts):
    """The kernel's own union, to compare with."""
    p = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join(map(str, opts)), here], capture_output=True)
    if p.returncode:
        pytest.skip(f"no overlayfs here: {p.stderr.decode().strip()}")
