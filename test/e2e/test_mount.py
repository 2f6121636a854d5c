# SPDX-License-Identifier: MIT
"""Mounts: their options, what is told of them, and all the ways in which they end."""
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import PLENUM, alive, as_nobody, dead, fuse, mounted, root, wait_for

pytestmark = fuse


def options_of(path):
    with open("/proc/self/mounts") as f:
        return [line.split()[3] for line in f if line.split()[1] == str(path)][0].split(",")


def gone(entry):
    wait_for(lambda: not alive(entry["keeper"]) and not alive(entry["server"]),
             "the processes of the mount do not end")


def test_mount_and_umount(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", "here")  # a relative path
    (here / "x").write_text("hi")
    assert (here / "x").read_text() == "hi"
    e = plenum.entry(here)
    assert e["kind"] == "mount" and e["spec"] == "mem:" and e["state"] == "up" and e["peer"] == ""
    assert alive(e["keeper"]) and alive(e["server"]) and e["keeper"] != e["server"]
    assert e["requests"] > 0 and e["bytes_written"] == 2
    assert str(here) in plenum.run("status").out
    assert plenum.status(here)[0]["dir"] == str(here)
    plenum.run("umount", here)
    assert not mounted(here) and not alive(e["keeper"]) and not alive(e["server"])
    assert plenum.entry(here) is None


def test_host_directory(plenum):
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("content")
    plenum.run("mount", "src", here)
    assert plenum.entry(here)["spec"] == f"host:{src}"
    assert (here / "f").read_text() == "content"
    (here / "g").write_text("back")
    assert (src / "g").read_text() == "back"
    with open("/proc/self/mounts") as f:
        line = [x.split() for x in f if x.split()[1] == str(here)][0]
    assert line[0] == f"host:{src}" and line[2] == "fuse.plenum"
    plenum.run("umount", here)


def test_options(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "-o", "ro,noexec,noatime", "mem:", here)
    assert {"ro", "noexec", "noatime", "nosuid", "nodev"} <= set(options_of(here))
    with pytest.raises(OSError, match="Read-only"):
        (here / "x").write_text("")
    plenum.run("umount", here)
    plenum.run("mount", "-o", "suid,dev", "-o", "timeout=0,max_write=64k,threads=2,direct_io", "mem:",
               here)
    assert not {"ro", "nosuid", "nodev"} & set(options_of(here))
    (here / "x").write_bytes(b"y" * 1_000_000)
    assert (here / "x").read_bytes() == b"y" * 1_000_000
    plenum.run("umount", here)


def test_layers(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "fault(create,ENOSPC,skip=1,count=1,null(mem:))", here)
    (here / "a").touch()
    with pytest.raises(OSError, match="No space"):
        (here / "b").touch()
    (here / "c").touch()
    plenum.run("umount", here)


def test_twice(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    assert "already" in plenum.error("mount", "mem:", here)
    plenum.run("umount", here)


def test_nonempty(plenum):
    here = plenum.dir("here/full").parent
    plenum.run("mount", "-o", "nonempty", "mem:", here)
    assert os.listdir(here) == []
    plenum.run("umount", here)
    assert os.listdir(here) == ["full"]


def test_busy(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    e = plenum.entry(here)
    held = os.open(here / "x", os.O_RDWR | os.O_CREAT)
    assert "busy" in plenum.error("umount", here)
    assert mounted(here)
    plenum.run("umount", "-f", here)
    assert not mounted(here)
    with pytest.raises(OSError):
        os.write(held, b"x")
    with contextlib.suppress(OSError):  # close(2) says so as well
        os.close(held)
    gone(e)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground_ends_by_signal(plenum, sig):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", "mem:", here)
    wait_for(lambda: plenum.entry(here) and plenum.entry(here)["state"] == "up")
    assert plenum.entry(here)["keeper"] == p.pid
    p.send_signal(sig)
    assert plenum.ended(p, 0) == ""
    assert not mounted(here) and plenum.entry(here) is None


def test_foreground_ends_by_umount(plenum):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", "mem:", here)
    wait_for(lambda: plenum.entry(here) and plenum.entry(here)["state"] == "up")
    plenum.run("umount", here)
    assert plenum.ended(p, 0) == ""


def test_umount_8(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    e = plenum.entry(here)
    subprocess.run(["umount" if os.geteuid() == 0 else "fusermount3", *([] if os.geteuid() == 0 else ["-u"]),
                    here], check=True)
    gone(e)
    assert plenum.entry(here) is None


@pytest.mark.parametrize("who", ["server", "keeper"])
def test_killed(plenum, who):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    e = plenum.entry(here)
    os.kill(e[who], signal.SIGKILL)
    if who == "keeper":  # nobody is left who may unmount: the next mount clears the wreck
        wait_for(lambda: dead(here), "the mount goes on")
    else:
        wait_for(lambda: not mounted(here), "the mount stays")
    gone(e)
    assert plenum.entry(here) is None
    plenum.run("mount", "mem:", here)
    plenum.run("umount", here)


def test_force_when_the_server_hangs(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    e = plenum.entry(here)
    os.kill(e["server"], signal.SIGSTOP)
    reader = subprocess.Popen(["stat", here / "x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert plenum.entry(here)["state"] == "up"  # status asks nobody
    plenum.run("umount", "-f", here)
    reader.wait(10)
    assert not mounted(here)
    gone(e)


def test_force_after_an_unmount_was_given_up(plenum):
    """The mount is gone then, and the server that hangs is not."""
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    e = plenum.entry(here)
    os.kill(e["server"], signal.SIGSTOP)
    p = plenum.start("umount", here)
    wait_for(lambda: not mounted(here), "it is still mounted")
    p.kill()
    plenum.ended(p, rc=-signal.SIGKILL)
    assert "its processes have not ended (plenum umount -f" in plenum.error("umount", here)
    plenum.run("umount", "-f", here)
    gone(e)


def test_trace(plenum):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here)
    with open(plenum.tmp / "lines", "wb") as out:
        p = plenum.start("trace", here, stdout=out)
    lines = plenum.tmp / "lines"

    def traced():
        (here / "se\x1bcret").touch()
        (here / "se\x1bcret").unlink()
        return "remove" in lines.read_text()

    wait_for(traced, "nothing is traced")
    assert 'create' in lines.read_text() and '"se\\033cret"' in lines.read_text()
    plenum.run("umount", here)
    assert plenum.ended(p, 0) == ""


def test_trace_layer(plenum):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", "trace(mem:)", here)
    wait_for(lambda: mounted(here) and plenum.entry(here)["state"] == "up")
    (here / "x").touch()
    plenum.run("umount", here)
    assert "create" in plenum.ended(p, 0)


def test_server_lost(plenum):
    """The far end of a 9p tree dies: the mount goes, and both processes."""
    here = plenum.dir("here")
    server = plenum.serve("mem:", "unix!s.sock")
    plenum.run("mount", "9p:unix!s.sock", here)
    e = plenum.entry(here)
    assert "s.sock" in e["peer"]
    (here / "x").write_text("over 9p")
    server.kill()
    plenum.ended(server, None)
    wait_for(lambda: not mounted(here), "the mount stays")
    gone(e)
    assert plenum.entry(here) is None


def test_server_lost_in_the_foreground(plenum):
    here = plenum.dir("here")
    server = plenum.serve("mem:", "unix!s.sock")
    p = plenum.start("mount", "-f", "9p:unix!s.sock", here)
    wait_for(lambda: plenum.entry(here) and plenum.entry(here)["state"] == "up")
    server.kill()
    plenum.ended(server, None)
    says = plenum.ended(p, 1)
    assert "lost" in says and says.count("\n") == 1
    assert not mounted(here)


def test_exec(plenum):
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("by exec")
    plenum.run("mount", f"exec:'{PLENUM}' serve '{src}' stdio", here)
    assert (here / "f").read_text() == "by exec"
    plenum.run("umount", here)


def test_exec_that_fails(plenum):
    here = plenum.dir("here")
    p = plenum.run("mount", "exec:exit 3", here, rc=1)
    assert p.err.count("\n") == 1 and not mounted(here)
    plenum.run("mount", "exec:nosuchcommand", here, rc=1)
    assert not mounted(here)


def in_private(plenum, script):
    """Runs a shell script as nobody, where everybody may open /dev/fuse, as on a usual system."""
    plenum.tmp.chmod(0o755)
    here = plenum.dir("here")
    os.chown(here, 65534, 65534)
    nobody = shlex.join(as_nobody("env", "-u", "XDG_RUNTIME_DIR", "sh", "-ec"))
    outer = (f"mknod -m 666 '{plenum.tmp}/fuse' c 10 229 && mount --bind '{plenum.tmp}/fuse' /dev/fuse && "
             f"P='{PLENUM}' D='{here}' {nobody} {shlex.quote(script)}")
    p = subprocess.run(["unshare", "-m", "sh", "-c", outer], capture_output=True, text=True, timeout=50)
    assert p.returncode == 0, p.stderr
    return p.stdout


WORK = ('"$P" mount mem: "$D"; echo hi > "$D/x"; cat "$D/x"; "$P" status --json "$D"; '
        '"$P" umount "$D"; ls -A "$D"')


@root
@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_ordinary_user(plenum):
    out = in_private(plenum, WORK)
    assert out.startswith("hi\n")
    (e,) = json.loads(out[3:])
    assert e["state"] == "up" and not alive(e["keeper"]) and not alive(e["server"])


@root
def test_in_a_user_namespace(plenum):
    out = in_private(plenum, f"unshare -Urm sh -ec {shlex.quote(WORK)}")
    assert out.startswith("hi\n") and json.loads(out[3:])[0]["state"] == "up"


@root
def test_still_mounted_in_another_namespace(plenum):
    """The server goes on for that one: umount says so instead of waiting for ever."""
    d, at = plenum.dir("d"), plenum.dir("at")
    (d / "f").write_text("x")
    plenum.run("mount", d, at)
    (e,) = json.loads(plenum.run("status", "--json", at).out)
    other = plenum.start(argv=["unshare", "-m", "--propagation", "private", "sh", "-c",
                               f"echo in >{plenum.tmp}/in; read x; cat {at}/f >{plenum.tmp}/read"],
                         stdin=subprocess.PIPE)
    wait_for((plenum.tmp / "in").exists)
    says = plenum.run("umount", at).err
    assert f"process {other.pid} " in says and says.count("\n") == 1 and not mounted(at)
    assert alive(e["server"])
    other.communicate(b"\n", timeout=30)
    assert (plenum.tmp / "read").read_text() == "x"
    wait_for(lambda: not alive(e["server"]) and not alive(e["keeper"]), "the server does not end with the namespace")


@root
def test_who_writes_decides_about_set_uid(plenum):
    """Over 9P too: whoever a server's thread acted for before. Root's writes leave the bits, others' do not."""
    d, at = plenum.dir("d"), plenum.dir("at")
    plenum.tmp.chmod(0o755)
    d.chmod(0o777)
    server = plenum.serve(d, f"unix!{plenum.tmp}/socket")
    plenum.run("mount", "-o", "suid", f"9p:{server.addr}", at)
    (d / "f").touch()
    (d / "f").chmod(0o6777)
    other = (f"import os\nf = os.open({str(at / 'f')!r}, os.O_WRONLY)\n"
             "print(os.write(f, b'theirs'), flush=True)\nos.close(f)")
    f = os.open(at / "f", os.O_WRONLY)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(as_nobody("cat", at / "missing"), check=True, capture_output=True)
    os.write(f, b"root's")
    os.fsync(f)
    assert (d / "f").stat().st_mode & 0o7777 == 0o6777
    subprocess.run(as_nobody(sys.executable, "-c", other), check=True, capture_output=True)
    assert (d / "f").stat().st_mode & 0o7777 == 0o777
    os.close(f)
