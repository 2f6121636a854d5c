# SPDX-License-Identifier: MIT
"""What the server of a mount has given up, and that all that it is there for still works."""
import os
import pathlib
import shutil
import socket
import stat
import subprocess

import pytest
from conftest import PLENUM, as_nobody, fuse, root, wait_for

pytestmark = fuse
CAPS = ("CHOWN 0, DAC_OVERRIDE 1, DAC_READ_SEARCH 2, FOWNER 3, FSETID 4, SETGID 6, SETUID 7, "
        "LINUX_IMMUTABLE 9, IPC_LOCK 14, SYS_PTRACE 19, SYS_ADMIN 21, SYS_RESOURCE 24, MKNOD 27, "
        "SETFCAP 31, SETPCAP 8, NET_ADMIN 12, SYS_MODULE 16, SYS_BOOT 22, SYS_TIME 25, BPF 39, KILL 5")
CAPS = {name: 1 << int(n) for name, n in (c.split() for c in CAPS.split(", "))}
FILES = sum(CAPS[c] for c in ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "SETGID",
                              "SETUID", "LINUX_IMMUTABLE", "SYS_RESOURCE", "MKNOD", "SETFCAP"))


def threads(pid):
    """For each thread: what /proc says of its privileges."""
    found = []
    for t in pathlib.Path(f"/proc/{pid}/task").iterdir():
        lines = dict(x.split(":\t", 1) for x in (t / "status").read_text().splitlines() if ":\t" in x)
        found.append({k: int(lines[k], 16) for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} |
                     {k: int(lines[k]) for k in ("NoNewPrivs", "Seccomp")})
    assert found
    return found


def ours():
    return threads(os.getpid())[0]


def in_initial_namespace():
    return pathlib.Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def kept(needs, lock=True):
    """What of our own capabilities a server keeps. Where the limit on locked memory cannot be
    lifted, IPC_LOCK stands in for that."""
    have = ours()["CapPrm"]
    if lock and not have & CAPS["SYS_RESOURCE"]:
        needs |= CAPS["IPC_LOCK"]
    return have & needs


def check_confined(pid, caps):
    for t in threads(pid):
        assert t["CapPrm"] == caps and t["CapEff"] & ~caps == 0 and t["CapInh"] == t["CapAmb"] == 0
        assert t["CapBnd"] == caps
        assert t["NoNewPrivs"] == 1 and t["Seccomp"] == 2


@root
def test_host(plenum):
    here = plenum.dir("here")
    plenum.run("mount", plenum.dir("src"), here)
    caps = kept(FILES | (CAPS["SYS_ADMIN"] if in_initial_namespace() else 0))
    check_confined(plenum.entry(here)["server"], caps)
    for gone in ("SYS_PTRACE", "SETPCAP", "NET_ADMIN", "SYS_MODULE", "SYS_BOOT", "SYS_TIME", "BPF", "KILL"):
        assert not caps & CAPS[gone]
    for i in range(50):  # by as many threads as it likes
        (here / str(i)).write_bytes(bytes(100_000))
    check_confined(plenum.entry(here)["server"], caps)
    plenum.run("umount", here)


@root
def test_other_trees_need_none(plenum):
    server = plenum.serve("mem:", "unix!s.sock")
    for spec in "mem:", "9p:unix!s.sock", f"exec:'{PLENUM}' serve mem: stdio":
        here = plenum.dir(f"here-{spec[:4]}")
        plenum.run("mount", spec, here)
        check_confined(plenum.entry(here)["server"], kept(0))
        (here / "x").write_text("works")
        assert (here / "x").read_text() == "works"
        plenum.run("umount", here)
    server.terminate()
    plenum.ended(server)


@root
def test_a_duct(plenum):
    """Threads of the engine are at work before there is a mount; what is exported counts too."""
    s, t = socket.socketpair()
    for name in "ab":
        plenum.dir(name), plenum.dir(f"at_{name}")
    with s, t:
        a = plenum.start("duct", "a", "at_a", stdin=s, stdout=s)
        b = plenum.start("duct", "mem:", "at_b", stdin=t, stdout=t)
    at = [plenum.tmp / "at_a", plenum.tmp / "at_b"]
    for p, d in zip((a, b), at):
        wait_for(lambda: plenum.entry(d) and plenum.entry(d)["state"] == "up", plenum.err(p))
    admin = CAPS["SYS_ADMIN"] if in_initial_namespace() else 0
    check_confined(plenum.entry(at[0])["server"], kept(FILES | admin))
    check_confined(plenum.entry(at[1])["server"], kept(0))
    (at[1] / "x").touch()
    os.chown(at[1] / "x", 12, 34)
    assert os.stat(plenum.tmp / "a/x").st_gid == 34
    for d in at:
        plenum.run("umount", d)
    plenum.ended(a)
    plenum.ended(b)


@root
def test_what_was_started_before_is_as_it_was(plenum):
    """The command that serves an exec tree, as root, acts for users like any server."""
    src, here = plenum.dir("src"), plenum.dir("here")
    plenum.run("mount", f"exec:'{PLENUM}' serve '{src}' stdio", here)
    (here / "x").touch()
    os.chown(here / "x", 1, 2)
    assert (os.stat(src / "x").st_uid, os.stat(src / "x").st_gid) == (1, 2)
    plenum.run("umount", here)


@root
def test_noconfine(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "-o", "noconfine", "mem:", here)
    for t in threads(plenum.entry(here)["server"]):
        assert t == ours()
    plenum.run("umount", here)


def test_a_program_of_ones_own(plenum):
    hello = pathlib.Path(PLENUM).parent / "examples/hello"
    if not hello.exists():
        pytest.skip("the examples are not built")
    here = plenum.dir("here")
    subprocess.run([hello, here], check=True, timeout=20)
    admin = CAPS["SYS_ADMIN"] if in_initial_namespace() else 0  # hands files to the kernel
    try:
        for t in threads(plenum.entry(here)["server"]):
            assert t["CapPrm"] == kept(admin) and t["NoNewPrivs"] == 1 and t["Seccomp"] == 2
        assert os.listdir(here)
    finally:
        plenum.run("umount", here)


def test_the_keeper_keeps_what_it_needs(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    assert threads(plenum.entry(here)["keeper"])[0] == ours()
    plenum.run("umount", here)


def work(here, user):
    """As a shell script; what root and what an ordinary user may do."""
    root_only = """
mknod "$D/null" c 1 3; mknod "$D/fifo" p; chown 11:22 "$D/f"; [ "$(stat -c %u:%g "$D/f")" = 11:22 ]
setfattr -n trusted.t -v 1 "$D/f"; setfattr -n security.s -v 1 "$D/f"; getfattr -n trusted.t "$D/f" | grep -q t
chown 65534 "$D/f"; chmod 4755 "$D/f"; [ "$(stat -c %a "$D/f")" = 4755 ]
"""
    return f"""set -e; D='{here}'
echo text > "$D/f"; chmod 600 "$D/f"; mkdir "$D/d"; ln -s f "$D/s"; ln "$D/f" "$D/h"; mkfifo "$D/p"
setfattr -n user.u -v 1 "$D/f"; getfattr -n user.u "$D/f" | grep -q u
truncate -s 100000 "$D/f"; cp "$D/f" "$D/d/g"; mv "$D/d/g" "$D/d/h"; touch -d 2001-01-01 "$D/f"
cp /bin/true "$D/true"; chmod 4755 "$D/true"; [ "$(stat -c %a "$D/true")" = 4755 ]; "$D/true"
{"! mknod '{here}/null' c 1 3 2>/dev/null; ! chown 0 '{here}/f' 2>/dev/null" if user else root_only}
rm -r "$D/d" "$D/s" "$D/h" "$D/p" "$D/true"; [ -O "$D/f" ] || chown 0 "$D/f"
"""


@root
@pytest.mark.parametrize("who", ["root", "user"])
def test_it_still_works(plenum, who):
    """The tests of every mount run confined; these are the rights, once more in one place."""
    plenum.tmp.chmod(0o755)
    src, here = plenum.dir("src"), plenum.dir("here")
    src.chmod(0o777)
    plenum.run("mount", src, here)
    p = subprocess.run([*(as_nobody() if who == "user" else []), "sh", "-c", work(here, who == "user")],
                       capture_output=True, text=True, timeout=30)
    assert p.returncode == 0, p.stderr
    assert os.stat(src / "f").st_uid == (65534 if who == "user" else 0)
    plenum.run("umount", here)


@root
def test_setuid_and_devices_are_off_unless_asked_for(plenum):
    plenum.tmp.chmod(0o755)
    src, here = plenum.dir("src"), plenum.dir("here")
    shutil.copy("/usr/bin/id", src / "id")
    (src / "id").chmod(0o4755)
    os.mknod(src / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))

    def euid():
        p = subprocess.run(as_nobody(here / "id", "-u"), capture_output=True, text=True, timeout=20)
        return p.stdout.strip()

    plenum.run("mount", src, here)
    assert euid() == "65534"
    with pytest.raises(PermissionError):
        open(here / "zero", "rb")
    plenum.run("umount", here)
    plenum.run("mount", "-o", "suid,dev", src, here)
    assert euid() == "0"
    with open(here / "zero", "rb") as f:
        assert f.read(4) == bytes(4)
    plenum.run("umount", here)


@root
def test_groups_where_processes_are_hidden(plenum):
    """With /proc mounted hidepid=2 the caller's supplementary groups are seen all the same."""
    plenum.tmp.chmod(0o755)
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("for the group")
    os.chown(src / "f", 0, 4242)
    (src / "f").chmod(0o640)
    script = f"""set -e; mount -t proc -o hidepid=2 proc /proc
'{PLENUM}' mount '{src}' '{here}'; trap "'{PLENUM}' umount '{here}'" EXIT
setpriv --reuid 65534 --regid 65534 --clear-groups cat '{here}/f' 2>/dev/null && exit 1
setpriv --reuid 65534 --regid 65534 --groups 4242 cat '{here}/f'
setpriv --reuid 65534 --regid 65534 --groups 4242 sh -c ': >>'"'{here}/f'" 2>/dev/null && exit 1
exit 0"""
    p = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=40)
    assert p.returncode == 0 and p.stdout == "for the group", p.stderr


@root
def test_in_a_user_namespace(plenum):
    """Root there has few rights outside; of those it has inside, the same are kept, and no more."""
    plenum.tmp.chmod(0o755)
    script = f"""set -e; cd '{plenum.tmp}'; mkdir -p n/src n/here
'{PLENUM}' mount n/src n/here; touch n/here/x
S=$('{PLENUM}' status --json n/here | sed -n 's/.*"server": *\\([0-9]*\\).*/\\1/p')
grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/$S/status; '{PLENUM}' umount n/here"""
    p = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=40)
    assert p.returncode == 0, p.stderr
    got = dict(line.split(":\t") for line in p.stdout.splitlines())
    assert int(got["CapEff"], 16) & ~(FILES | CAPS["IPC_LOCK"]) == 0
    assert got["NoNewPrivs"] == "1" and got["Seccomp"] == "2"


@root
def test_memory_is_locked(plenum):
    """What is used, and no more: neither whole stacks nor whole buffers."""
    here = plenum.dir("here")
    plenum.run("mount", plenum.dir("src"), here)
    pid = plenum.entry(here)["server"]

    def status(name):
        with open(f"/proc/{pid}/status") as f:
            return int([x for x in f if x.startswith(name)][0].split()[1])

    assert status("VmLck") > status("VmRSS") / 2
    assert status("VmRSS") < 32 << 10 < status("VmSize")
    (here / "x").write_bytes(bytes(20 << 20))
    assert status("VmRSS") < 32 << 10
    plenum.run("umount", here)


# ---- plenum serve ----



def serving(plenum, user=False, spec=None, *args):
    plenum.tmp.chmod(0o755)
    src = plenum.dir("src")
    src.chmod(0o777)
    (plenum.dir("sibling") / "secret").write_text("not served")
    sock = plenum.dir("run")
    sock.chmod(0o777)
    argv = [PLENUM, "serve", *args, spec or str(src), f"unix!{sock}/s"]
    server = plenum.start(argv=as_nobody(*argv) if user else argv)
    plenum.listening(server)
    return server, src, f"unix!{sock}/s"


@root
def test_serve_gives_up_capabilities(plenum):
    server, src, addr = serving(plenum)
    admin = CAPS["SYS_ADMIN"] if in_initial_namespace() else 0
    check_confined(server.pid, kept(FILES | admin) & ~CAPS["IPC_LOCK"])
    assert plenum.run("ls", f"9p:{addr}").returncode == 0
    server.terminate()
    plenum.ended(server)
    assert not (plenum.tmp / "run/s").exists()


@root
def test_serve_noconfine(plenum):
    server, _, _ = serving(plenum, False, None, "--noconfine")
    for t in threads(server.pid):
        assert t == ours()
    server.terminate()
    plenum.ended(server)


@pytest.mark.parametrize("user", [pytest.param(False, marks=root), True], ids=["root", "user"])
def test_serve_ro(plenum, user):
    """What is served read-only can be read as ever; the server has no rights left to change it
    (test/unit/confine.c tries), but those that it needs for itself: the state of operations, its socket."""
    if user and os.geteuid() != 0:
        pytest.skip("as root, which can be nobody")
    server, src, addr = serving(plenum, user, f"ro(null({plenum.tmp}/src))")
    if not user:
        reads = sum(CAPS[c] for c in ("DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"))
        admin = CAPS["SYS_ADMIN"] if in_initial_namespace() else 0
        check_confined(server.pid, kept(reads | admin, lock=False))
    (src / "d").mkdir()
    for i in range(200):
        (src / "d" / str(i)).write_text(f"text {i}\n")
    (src / "d/0").chmod(0o600)  # for root as the client, by its rights
    assert len(plenum.run("ls", "-l", f"9p:{addr}", "d").out.splitlines()) == 200
    assert plenum.run("cat", f"9p:{addr}", "d/7").out == "text 7\n"
    assert plenum.run("cat", f"9p:{addr}", "d/0", rc=1 if user else 0).out == ("" if user else "text 0\n")
    for args in (["mkdir", f"9p:{addr}", "e"], ["rm", f"9p:{addr}", "d/7"],
                 ["put", f"9p:{addr}", src / "d/7", "new"]):
        assert "Read-only file system" in plenum.error(*args)
    assert plenum.run("ls", f"9p:{addr}", "d", "d").returncode == 0
    server.terminate()
    plenum.ended(server)
    assert not (plenum.tmp / "run/s").exists()
