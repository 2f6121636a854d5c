# SPDX-License-Identifier: MIT
"""Usage, exit statuses, and the sentence for each kind of bad input."""
import os
import re
import socket
import subprocess
import threading

import pytest
from conftest import PLENUM, TOP, as_nobody, fuse, mounted, root, wait_for

SUBCOMMANDS = ("mount umount serve duct ssh listen dial ls cat stat get put mkdir rm status trace upgrade key run "
               "vpath replicate version help").split()


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help(plenum, name):
    p = plenum.run(name, "--help")
    assert p.out.startswith(f"usage: plenum {name}")
    assert f"plenum {name}" in p.out.partition("Example:\n")[2] or (name == "duct" and "Example:" in p.out)
    assert p.err == ""
    assert plenum.run("help", name).out == p.out
    assert plenum.run(name, "-h").out == p.out


def test_help_lists_all(plenum):
    out = plenum.run("help").out
    for name in SUBCOMMANDS:
        assert re.search(rf"^  {name} ", out, re.M), name
    assert plenum.run("--help").out == out
    for kind in "host: mem: 9p: ssh: exec: ro( null( trace( delay( fault(".split():
        assert kind in plenum.run("help", "spec").out
    for form in "tcp! tcp:// unix! vsock! exec! stdio fd!".split():
        assert form in plenum.run("help", "addr").out
    limits = re.findall(r"X\(([A-Z_]+), ([0-9]+)", (TOP / "base/limits.h").read_text())
    out = plenum.run("help", "limits").out
    assert len(limits) > 50
    for name, value in limits:
        assert re.search(rf"^  {name} +{value} ", out, re.M), name


def test_version(plenum):
    out = plenum.run("version").out
    assert re.fullmatch(r"plenum \d+\.\d+\.\d+\n", out)
    assert plenum.run("--version").out == out


def test_output_that_cannot_be_written(plenum):
    with open("/dev/full", "wb") as full:
        p = subprocess.run([PLENUM, "help"], stdout=full, stderr=subprocess.PIPE)
    assert p.returncode == 1 and b"No space left" in p.stderr


@pytest.mark.parametrize("args, says", [
    ([], "which subcommand"),
    (["mont"], "did you mean mount?"),
    (["mount"], "a SPEC and a directory are needed"),
    (["mount", "mem:", "a", "b"], "a SPEC and a directory are needed"),
    (["mount", "-x", "mem:", "a"], "-x: unknown option"),
    (["ls", "--jsn", "mem:"], "did you mean --json?"),
    (["ls", "--json=1", "mem:"], "takes no argument"),
    (["mount", "-o"], "needs an argument"),
    (["mount", "-o", "row", "mem:", "a"], "unknown mount option (did you mean ro?)"),
    (["mount", "-o", "ro=1", "mem:", "a"], "takes no value"),
    (["mount", "-o", "timeout=soon", "mem:", "a"], "not a time"),
    (["mount", "-o", "threads=0", "mem:", "a"], "not a number from 1"),
    (["mount", "-o", "max_write=1", "mem:", "a"], "not a size"),
    (["mount", "hst:/srv", "a"], 'did you mean "host"?'),
    (["ls", "ro(/usr"], "is missing"),
    (["ls", "ro(/nonexistent))"], "too many"),
    (["ls", "rx(/usr)"], 'no such kind of layer: "rx"'),
    (["ls", "ro()"], "a SPEC is missing"),
    (["ls", "delay(/usr)"], "a time and a SPEC"),
    (["ls", "fault(opne,EIO,/usr)"], "did you mean open"),
    (["ls", "fault(open,EWHAT,/usr)"], "not the name of an error"),
    (["ls", "fault(open,EIO,skip=x,/usr)"], "not a number"),
    (["ls", "mem:lots"], "not a size"),
    (["ls", "9p:nowhere"], "not an address"),
    (["ls", "ssh:host"], "a host and a directory are needed"),
    (["ls", ""], "an empty SPEC"),
    (["ls", "tcp!host!564"], "served there: 9p:tcp!host!564"),
    (["ls", "tcp://host:564"], "served there: 9p:tcp://host:564"),
    (["ls", "ro(unix:/run/x)"], "served there: 9p:unix:/run/x)"),
    (["ls", "9p:tcp!host!99999"], "bad port"),
    (["serve", "mem:", "tcp!ho st!1"], "bad host"),
    (["serve", "-a", "root", "mem:", "tcp!localhost!0"], "-a is for unix sockets"),
    (["listen", "-a", "root", "tcp!localhost!0", "true"], "-a is for unix sockets"),
    (["serve", "mem:", "nowhere"], "not an address"),
    (["listen", "nowhere", "true"], "not an address"),
    (["dial", "nowhere", "true"], "not an address"),
    (["dial", "tcp!localhost!1"], "a command"),
    (["serve", "-a", "nosuchuser", "mem:", "stdio"], "no such user"),
    (["duct", "-", "-"], "nothing to do"),
    (["duct", "a"], "EXPORT and DIR"),
    (["duct", "-l", "tcp!*!1", "-d", "tcp!x!1", "a", "b"], "only one of"),
    (["ssh", "host"], "without -L or -R"),
    (["ssh", "-L", "a", "host"], "two directories"),
    (["ssh", "-L", "a:b"], "a host is needed"),
    (["ssh", "-L", "a:b", "host", "ls"], "behind --"),
    (["cat", "mem:"], "a path"),
    (["get", "mem:"], "a path"),
    (["umount"], "one directory"),
    (["help", "nonsense"], "no such subcommand"),
    (["help", "mont"], "help: mont: no such subcommand (did you mean mount?"),
])
def test_wrong_usage(plenum, args, says):
    assert says in plenum.error(*args, rc=2)


@pytest.mark.parametrize("args, says", [
    (["mount", "/nonexistent", "here"], "no such directory"),
    (["mount", "/etc/passwd", "here"], "not a directory"),
    (["mount", "mem:", "missing"], "missing: no such directory (make it"),
    (["mount", "mem:", "file"], "not a directory"),
    (["mount", "mem:", "full"], "not empty"),
    (["umount", "here"], "not a plenum mount"),
    (["umount", "missing"], "missing: no such directory\n"),
    (["mount", "mem:", ""], "'': no such directory"),
    (["ssh", "-L", "missing:/x", "host.invalid"], "missing: no such directory (make it"),
    (["ssh", "-R", "/x:missing", "host.invalid"], "missing: no such directory\n"),
    (["rm", "-r", ".", "/"], "has no name of its own"),
    (["trace", "here"], "no mount"),
    (["status", "here"], "no mount"),
    (["ls", "/nonexistent"], "no such directory"),
    (["ls", ".", "missing"], "missing: No such file"),
    (["cat", ".", "here"], "Is a directory"),
    (["mkdir", ".", "here"], "File exists"),
    (["mkdir", ".", "a/b"], "a/b: No such file"),
    (["rm", ".", "here"], "is a directory (-r"),
    (["get", ".", "missing"], "missing: No such file"),
    (["get", ".", "file", "full", "nowhere"], "nowhere: not a directory"),
    (["put", ".", "missing"], "missing: No such file"),
    (["mkdir", "ro(.)", "x"], "Read-only file system"),
    (["ls", "9p:unix!nosuch.sock"], "nosuch.sock"),
    (["ls", "9p:tcp!127.0.0.1!1"], "refused"),
    (["ls", "9p:tcp!nosuchhost.invalid!1"], "nosuchhost.invalid"),
    (["dial", "tcp!127.0.0.1!1", "true"], "refused"),
    (["duct", "-d", "tcp!127.0.0.1!1", ".", "here"], "refused"),
    (["duct", "/nonexistent", "here"], "no such directory"),
    (["serve", "mem:", "unix!missing/x.sock"], "missing/x.sock"),
    (["serve", "mem:", "unix!" + "x" * 200], "shorter"),
])
def test_bad_input(plenum, args, says):
    (plenum.tmp / "file").write_text("x")
    plenum.dir("here")
    plenum.dir("full/of")
    assert says in plenum.error(*args)
    assert not mounted(plenum.tmp / "here")


def test_escapes_names_in_errors(plenum):
    line = plenum.error("ls", ".", b"\x1b[31m\xff".decode("utf-8", "surrogateescape"))
    assert "\x1b" not in line and "\\033[31m\\377" in line


def test_commands_not_found(plenum):
    p = plenum.serve("mem:", "unix!x.sock")
    assert "no such command" in plenum.error("dial", "unix!x.sock", "nosuchcommand", rc=127)
    plenum.run("dial", "unix!x.sock", "sh", "-c", "exit 7", rc=7)
    p.terminate()
    plenum.ended(p)


@fuse
def test_service_without_a_server(plenum):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", f"service(s,unix!{plenum.tmp}/none,{plenum.dir('tree')})", here)
    wait_for(lambda: mounted(here))
    with pytest.raises(OSError):
        os.listdir(here)
    wait_for(lambda: plenum.err(p) == f"plenum: service s: unix!{plenum.tmp}/none: no such socket"
             " (is the server running?)\n", "it is not said")


def test_port_in_use(plenum):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        assert "in use" in plenum.error("serve", "mem:", f"tcp!127.0.0.1!{port}")
        assert "in use" in plenum.error("listen", f"tcp!127.0.0.1!{port}", "true")


def peer(plenum, talk):
    """A listener that runs talk(socket) with the first who connects: its address."""
    s = socket.create_server(("127.0.0.1", 0))

    def run():
        c, _ = s.accept()
        with c:
            talk(c)
        s.close()

    threading.Thread(target=run, daemon=True).start()
    return f"tcp!127.0.0.1!{s.getsockname()[1]}"


@pytest.mark.parametrize("what", ["http", "zeros", "closes", "truncated", "huge"])
def test_peer_that_speaks_something_else(plenum, what):
    says = {
        "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"x" * 4096,
        "zeros": bytes(4096),
        "closes": b"",
        "truncated": b"\x13\0\0\0\x65\xff\xff",
        "huge": b"\xff\xff\xff\x7f\x65\xff\xff" + b"x" * 100,
    }[what]

    def talk(c):
        c.recv(4096)
        c.sendall(says)

    line = plenum.error("ls", f"9p:{peer(plenum, talk)}")
    assert "127.0.0.1" in line


@fuse
def test_mount_of_a_dead_peer(plenum):
    here = plenum.dir("here")
    plenum.error("mount", f"9p:{peer(plenum, lambda c: c.recv(4096))}", here)
    assert not mounted(here) and not plenum.entry(here)


def test_no_ssh(plenum):
    env = dict(os.environ, PLENUM_SSH="/nonexistent/ssh")
    assert "apt-get install openssh-client" in plenum.error("ls", "ssh:host:/x", env=env)
    plenum.dir("here")
    line = plenum.error("ssh", "-L", "here:/x", "host", env=env)
    assert "apt-get install openssh-client" in line
    env["PLENUM_SSH"] = "/bin/false"
    assert "status 1" in plenum.error("ssh", "-L", "here:/x", "host", env=env)


@root
def test_no_dev_fuse(plenum):
    here = plenum.dir("here")
    p = subprocess.run(["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /dev && exec '{PLENUM}' mount "
                        f"mem: '{here}'"], capture_output=True, text=True, timeout=30)
    assert p.returncode == 1 and "/dev/fuse" in p.stderr and p.stderr.count("\n") == 1, p.stderr


@root
@fuse
def test_no_permission(plenum):
    plenum.tmp.chmod(0o755)
    here = plenum.dir("here")
    p = subprocess.run(as_nobody(PLENUM, "mount", "mem:", here), capture_output=True, text=True,
                       timeout=30)
    assert p.returncode == 1 and str(here) in p.stderr and p.stderr.count("\n") == 1, p.stderr
    assert not mounted(here)
