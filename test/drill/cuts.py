#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Link drills: two directories mounted on each other through a link that is broken again and again.

usage: test/drill/cuts.py [--plenum FILE] [--build DIR] [--over tcp|ssh|serve] [--faults N]
                          [--how cut,half,stall,slow,vanish,amid,kill] [--options OPTS] [LOAD...]
       LOADs: see loads.py; without one, all that hold over a link.
--over tcp: a duct, dialed through a relay; ssh: `plenum ssh -L -R` whose connection goes through the
relay (kill: the ssh process is killed); serve: a mount of `plenum serve`, which is killed and started
again (kill). A load runs in both directions at once (serve: in one). It may not see one failed call
nor one wrong byte. N faults for each load (100). Prints a line for each load; exit 1 if any failed.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import runner
from runner import Broken
import loads
from relay import Relay
from sshd import Sshd

HOW = ["cut", "half", "stall", "slow", "vanish", "amid"]
PATIENCE = 60
HANG = 180

# Runs the server, and kills it and starts it again after so many seconds as a line says. A process of
# its own: what a thread of ours starts while the server is dead first closes the files that a load
# has open in the mount, which waits for the server.
SERVER = """
import subprocess, sys, time
serving = None
def end():
    if serving:
        serving.kill()
        serving.wait()
for line in sys.stdin:
    end()
    time.sleep(float(line))
    serving = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    print(flush=True, file=sys.stdout)
end()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Side:
    """One direction: what a load sees of it."""

    def __init__(self, drill, name):
        self.drill, self.fsx = drill, drill.fsx
        self.nameless = drill.kind != "serve"  # open files without a name outlive a fault
        self.below, self.mount = drill.base / f"{name}.below", drill.base / f"{name}.mnt"
        self.scratch = str(drill.base / f"{name}.scratch")
        for d in self.below, self.mount, pathlib.Path(self.scratch):
            d.mkdir()
        self.dir = self.back = None

    def over(self):
        """The same to a load in another process."""
        return os.path.exists(self.drill.base / "over")


def child(s, load):
    """A process that runs the load, and where it says what went wrong. Not a thread: who waits in a page
    fault of a mapping holds the interpreter's lock, without which the faults would not go on."""
    r, w = os.pipe()
    pid = os.fork()
    if pid:
        os.close(w)
        return pid, r
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        load(s)
        status = 0
    except BaseException:  # noqa: it is told by the parent
        os.write(w, traceback.format_exc().encode()[-60000:])
    finally:
        os._exit(status)


class Cuts(runner.Faults):
    PAUSE = 0.4

    def __init__(self, plenum, build, faults, how=None, over="tcp", options=""):
        super().__init__(plenum, build, faults)
        self.kind = over
        self.how = how or (["kill"] if over == "serve" else HOW + (["kill"] if over == "ssh" else []))
        self.options = ",".join(["keepalive=1"] + ([options] if options else []))
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="plenum-cuts.", dir="/tmp"))
        self.sides = [Side(self, "a")] + ([Side(self, "b")] if over != "serve" else [])
        self.procs, self.relay, self.serving = [], None, None
        self.count, self.connections, self.passed = {}, 0, 0
        self.over_file = self.base / "over"

    # ---- both ends ----

    def start(self, name, *argv, env=None, stdin=subprocess.DEVNULL, stdout=None):
        log = open(self.base / f"{name}.log", "ab")
        p = subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=stdout or log, stderr=log,
                             env=env, start_new_session=True)
        log.close()
        self.procs.append(p)
        return p

    def log(self):
        return f"after {self.count}\n" + "".join(f"{f.name}: {f.read_text(errors='replace')[-1500:]}\n" for f in sorted(self.base.glob("*.log")))

    def wait_port(self, port):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise Broken(f"nobody listens on port {port}")

    def up_tcp(self):
        a, b = self.sides
        port = free_port()
        self.start("listen", self.plenum, "duct", "-o", self.options, "-l", f"tcp!127.0.0.1!{port}", a.below, b.mount)
        end = time.monotonic() + PATIENCE
        while "listening" not in self.log():
            if time.monotonic() > end:
                raise Broken("duct -l does not listen")
            time.sleep(0.01)
        self.relay = Relay(port)
        self.start("dial", self.plenum, "duct", "-o", self.options, "-d", f"tcp!127.0.0.1!{self.relay.port}",
                   b.below, a.mount)

    def up_ssh(self):
        a, b = self.sides
        sshd = Sshd(self.base / "ssh")
        self.start("sshd", *sshd.argv)
        self.wait_port(sshd.port)
        self.relay = Relay(sshd.port)
        note = f"cd {sshd.dir}; echo $$ >new; mv new pid"
        env = dict(os.environ, PLENUM_SSH=sshd.ssh(self.relay.port, first=note))
        self.start("ssh", self.plenum, "ssh", "-o", self.options, "--remote-plenum", self.plenum,
                   "-L", f"{a.mount}:{a.below}", "-R", f"{b.mount}:{b.below}", sshd.name, env=env)

    def serve(self, after):
        """Starts the server, or kills it and starts it again."""
        os.write(self.serving.stdin.fileno(), f"{after}\n".encode())
        if os.read(self.serving.stdout.fileno(), 1) != b"\n":
            raise Broken("the server cannot be started")
        self.wait_port(self.port)

    def up_serve(self):
        self.port = free_port()
        self.serving = self.start("serve", sys.executable, "-c", SERVER, self.plenum, "serve", "-q",
                                  self.sides[0].below, f"tcp!127.0.0.1!{self.port}",
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.serve(0)
        self.start("mount", self.plenum, "mount", "-f", "-o", self.options, f"9p:tcp!127.0.0.1!{self.port}",
                   self.sides[0].mount)

    def up(self):
        {"tcp": self.up_tcp, "ssh": self.up_ssh, "serve": self.up_serve}[self.kind]()
        end = time.monotonic() + PATIENCE
        while not all(os.path.ismount(s.mount) for s in self.sides):
            if time.monotonic() > end or any(p.poll() is not None for p in self.procs):
                raise Broken("the mounts do not come up")
            time.sleep(0.02)

    # ---- faults ----

    def kill(self):
        if self.kind == "serve":
            self.serve(random.random() * 0.1)
        else:
            pid = int((self.base / "ssh/pid").read_text())
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    ours = str(self.base).encode() in f.read()
                if ours:  # not a pid used anew
                    os.kill(pid, signal.SIGKILL)
            except (OSError, ProcessLookupError):
                pass

    def fault(self):
        how = random.choice(self.how)
        self.count[how] = self.count.get(how, 0) + 1
        before = self.relay.connections if self.relay else 0
        if how == "kill":
            self.kill()
        elif how == "stall":
            self.relay.stall(random.random() * 0.5)
            return
        elif how == "slow":
            self.relay.slow(random.random() * 0.05, random.random())
            return
        elif how == "amid":
            self.relay.cut_after(random.randrange(1, 1 << random.randrange(1, 20)))
            return
        elif how == "half":
            self.relay.half()
        elif how == "vanish":
            self.relay.vanish()
        else:
            self.relay.cut()
        if how in ("half", "vanish") or random.random() < 0.5:
            self.again(before)

    def again(self, before):
        """Waits until the link is up again: others of the faults hit it while it comes up."""
        end = time.monotonic() + PATIENCE
        while self.relay and self.relay.connections == before and not self.stop.is_set():
            if time.monotonic() > end:
                raise Broken(f"not dialed again for {PATIENCE} s")
            time.sleep(0.01)
        # A login takes longer than what is between two faults: else no link would ever be up again.
        if self.kind == "ssh" and random.random() < 0.7 and not self.stop.is_set():
            try:
                subprocess.run(["stat", "-f", self.sides[0].mount], stdout=subprocess.DEVNULL, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise Broken(f"the link does not come back within {PATIENCE} s") from None

    def wait_loads(self, children):
        """Until they have ended, or have had HANG s since there were no faults any more, or there cannot be
        any."""
        failed, left, end = [], dict(children), None
        while left and not self.failed and (end is None or time.monotonic() < end):
            time.sleep(0.02)
            for pid in list(left):
                done, status = os.waitpid(pid, os.WNOHANG)
                if not done:
                    continue
                with open(left.pop(pid), "rb") as f:
                    text = f.read().decode(errors="replace")
                if status:
                    failed.append(text or f"a load ended with status {status:#x}")
            if end is None and (failed or self.over()):
                self.over_file.touch()
                end = time.monotonic() + HANG
        for pid, fd in left.items():
            os.kill(pid, signal.SIGKILL)
            os.close(fd)
            if not self.failed:
                failed.append(f"a load hangs: no end {HANG} s after the last fault")
        if failed:
            raise Broken("\n".join(failed))

    def run(self, load):
        self.up()
        for s in self.sides:
            s.dir, s.back = f"{s.mount}/{load.__name__}", f"{s.below}/{load.__name__}"
            os.mkdir(s.dir)
        children = [child(s, load) for s in self.sides]
        with self.going_on():
            self.wait_loads(children)
        for p in self.procs:
            if p.poll() is not None:
                raise Broken(f"{p.args[1]} has ended with status {p.returncode}")

    def clean(self):
        bad = ""
        for s in self.sides:
            bad += runner.unmount(self.plenum, s.mount)
        for p in reversed(self.procs):
            if p is self.serving:
                p.stdin.close()
            elif "sshd" in str(p.args[0]):
                p.terminate()
            try:
                p.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                bad += f"{p.args[:2]} does not end\n{self.log()}"
                p.kill()
                p.wait()
        if self.relay:
            self.connections, self.passed = self.relay.connections, self.relay.passed
            self.relay.end()
        shutil.rmtree(self.base, ignore_errors=True)
        return bad


def cuts(load, **kw):
    """One load under faults of the link; returns the drill, or raises what went wrong."""
    return runner.drill(Cuts(**kw), load)


# Files without a name are lost with a server that held them; a link keeps them.
def holds(name, over):
    return not (over == "serve" and name == "unlinked")


def counted(d):
    return f" {json.dumps(d.count)}" + (f", {d.connections} connections, {d.passed >> 20} MiB" if d.relay else "")


def main():
    p = runner.parser()
    p.add_argument("--faults", type=int, default=100)
    p.add_argument("--over", default="tcp", choices=["tcp", "ssh", "serve"])
    p.add_argument("--how")
    p.add_argument("load", nargs="*")
    a = p.parse_args()
    return runner.all_loads(a.load or [n for n in loads.LOADS if holds(n, a.over)], lambda name: cuts(
        loads.LOADS[name], plenum=a.plenum, build=a.build, faults=a.faults, how=a.how.split(",") if a.how else None,
        over=a.over, options=a.options), counted)


if __name__ == "__main__":
    sys.exit(main())
