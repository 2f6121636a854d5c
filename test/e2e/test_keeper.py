# SPDX-License-Identifier: MIT
"""The keeper of mounts that outlive their server: what becomes of callers, of nested mounts, of the
processes; upgrades. (Loads under faults: test_survive.py.)
"""
import errno
import os
import resource
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from conftest import PLENUM, TOP, alive, as_nobody, fuse, mounted, mounts_under, root, wait_for
from test_ends import all_gone, processes_of, stop

pytestmark = fuse
EXAMPLES = os.path.join(os.environ.get("PLENUM_BUILD", TOP / "build"), "examples")


def mount(plenum, *options, spec="src"):
    """A directory with a file, mounted."""
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_bytes(b"content" * 1000)
    (src / "d").mkdir()
    plenum.run("mount", *options, spec, here)
    return src, here, plenum.entry(here)


def server(plenum, here, not_this):
    """The entry when another server has come up."""
    def look():
        e = plenum.entry(here)
        return e and e["server"] > 0 and e["server"] != not_this and e["state"] == "up" and e
    return wait_for(look, f"no other server: {plenum.entry(here)}")


def state(plenum, here, begin):
    wait_for(lambda: (plenum.entry(here) or {"state": "none"})["state"].startswith(begin),
             f"not {begin}: {plenum.entry(here)}")


def reader(path):
    """A process that reads the file again and again until it fails."""
    return subprocess.Popen(["sh", "-c", f"while cat {shlex.quote(str(path))}; do :; done"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def end_group(p):
    os.killpg(p.pid, signal.SIGKILL)
    p.wait(10)

    def gone():  # what it had started too, or the mount is busy
        try:
            os.killpg(p.pid, 0)
        except ProcessLookupError:
            return True
    wait_for(gone)


def no_more(e):
    """The server dies, and no other one comes up: none can have a second thread."""
    allow(e, 1)
    os.kill(e["server"], signal.SIGKILL)


def allow(e, memory=resource.RLIM_INFINITY):
    hard = resource.prlimit(e["nursery"], resource.RLIMIT_AS)[1]
    resource.prlimit(e["nursery"], resource.RLIMIT_AS, (memory, hard))


# ---- servers that die


@root
def test_status_says_so(plenum):
    src, here, e = mount(plenum)
    assert e["lasts"] == "outlives its server" and e["restarts"] == 0 and alive(e["nursery"])
    os.kill(e["server"], signal.SIGKILL)
    e2 = server(plenum, here, e["server"])
    assert e2["restarts"] == 1 and e2["keeper"] == e["keeper"] and e2["nursery"] == e["nursery"]
    assert (here / "f").read_bytes() == b"content" * 1000
    plenum.run("umount", here)
    assert not any(map(alive, (e2["keeper"], e2["server"], e2["nursery"])))
    other = plenum.dir("other")
    plenum.run("mount", "mem:", other)
    e = plenum.entry(other)
    assert e["lasts"].startswith("ends with its server: ")
    wait_for(lambda: plenum.entry(other)["nursery"] == 0)
    plenum.run("umount", other)


@root
def test_open_files_stay_open(plenum):
    src, here, e = mount(plenum, "-o", "timeout=0")
    with open(here / "f", "r+b", buffering=0) as f, open(here / "gone", "w+b", buffering=0) as gone:
        gone.write(b"unlinked")
        os.unlink(here / "gone")
        assert f.read(7) == b"content"
        for _ in range(5):
            e = plenum.entry(here)
            os.kill(e["server"], signal.SIGKILL)
            assert f.read(7) == b"content"
            assert os.pread(gone.fileno(), 100, 0) == b"unlinked"
            f.seek(0, os.SEEK_END)
            assert f.write(b"content") == 7
            f.seek(7)
            server(plenum, here, e["server"])
    assert (src / "f").read_bytes() == b"content" * 1005
    plenum.run("umount", here)


@root
def test_many_descriptors(plenum):
    """More than a process may have by default; those that nobody has open any more are closed."""
    src, here, e = mount(plenum)
    (src / "many").mkdir()
    files = [open(here / "many" / str(i), "wb") for i in range(3000)]
    os.kill(e["server"], signal.SIGKILL)
    for i, f in enumerate(files):
        f.write(b"%d" % i)
        f.close()
    e = server(plenum, here, e["server"])
    assert all((src / "many" / str(i)).read_bytes() == b"%d" % i for i in range(3000))

    def few():
        os.statvfs(here)
        e = plenum.entry(here)
        os.kill(e["server"], signal.SIGKILL)
        e = server(plenum, here, e["server"])
        return len(os.listdir(f"/proc/{e['nursery']}/fd")) < 1500  # it keeps some directories at hand
    wait_for(few, "descriptors leak")
    plenum.run("umount", here)


@root
def test_as_an_ordinary_user(plenum, nobody):
    """Through fusermount3, where neither keeper nor server may do much."""
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("hi")
    for d in plenum.tmp, src, here:
        os.chmod(d, 0o755)
    os.chown(here, 65534, 65534)
    os.chown(src, 65534, 65534)

    def user(*argv):
        return subprocess.run(nobody(PLENUM, *argv), capture_output=True, text=True, timeout=30, cwd="/")
    p = user("mount", src, here)
    assert p.returncode == 0, p.stderr
    script = "import json,sys; e=json.load(sys.stdin)[0]; print(e['keeper'], e['server'], e['nursery'])"

    def pids():
        out = user("status", "--json", here).stdout
        return [int(x) for x in subprocess.run(["python3", "-c", script], input=out, text=True,
                                               capture_output=True).stdout.split()]
    before = pids()
    cat = nobody("cat", here / "f")
    for _ in range(3):
        os.kill(pids()[1], signal.SIGKILL)
        assert subprocess.run(cat, capture_output=True, timeout=30).stdout == b"hi"
    p = user("upgrade", here)
    assert p.returncode == 0, p.stderr
    assert subprocess.run(cat, capture_output=True, timeout=30).stdout == b"hi"
    p = user("umount", here)
    assert p.returncode == 0, p.stderr
    wait_for(lambda: not any(map(alive, before)))


@root
def test_in_a_user_namespace(plenum):
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("hi")
    script = f"""set -e
        cd {shlex.quote(str(plenum.tmp))}
        {PLENUM} mount src here
        pid() {{ {PLENUM} status --json here | sed -n 's/.*"server":\\([0-9]*\\).*/\\1/p'; }}
        for i in 1 2 3; do
            kill -9 $(pid)
            cat here/f
        done
        {PLENUM} upgrade here
        cat here/f
        {PLENUM} umount here"""
    p = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=50)
    assert p.returncode == 0, p.stderr
    assert p.stdout.startswith("hihihi") and p.stdout.endswith("hi")


# ---- callers are let go


@root
def test_interrupted_while_stopped(plenum):
    src, here, e = mount(plenum, "-o", "hang=0,timeout=0")
    stop(e["server"])
    state(plenum, here, "stopped")
    waiting = [reader(here / "f") for _ in range(5)]
    time.sleep(0.2)
    for p, sig in zip(waiting, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)):
        os.killpg(p.pid, sig)
        p.wait(5)
    # a program that handles the signal itself
    code = ("import os,sys\ntry:\n os.write(1, b'.')\n os.stat(sys.argv[1])\n"
            "except KeyboardInterrupt: sys.exit(7)")
    p = subprocess.Popen(["python3", "-c", code, str(here / "other")], stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b"."
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    assert p.wait(5) == 7
    os.kill(e["server"], signal.SIGCONT)
    state(plenum, here, "up")
    assert plenum.entry(here)["server"] == e["server"]
    assert waiting[-1].poll() is None  # nothing was lost
    end_group(waiting[-1])
    assert (here / "f").read_bytes() == b"content" * 1000
    plenum.run("umount", here)


@root
def test_interrupted_while_there_is_none(plenum):
    src, here, e = mount(plenum, "-o", "timeout=0")
    no_more(e)
    state(plenum, here, "restarting")
    waiting = [reader(here / "f") for _ in range(2)]
    time.sleep(0.3)
    os.killpg(waiting[0].pid, signal.SIGINT)
    waiting[0].wait(5)
    allow(e)
    server(plenum, here, e["server"])
    assert waiting[1].poll() is None
    end_group(waiting[1])
    plenum.run("umount", here)


@root
def test_stopped_for_too_long(plenum):
    src, here, e = mount(plenum, "-o", "hang=2,timeout=0")
    stop(e["server"])
    assert (here / "f").read_bytes() == b"content" * 1000  # it waits for the next one
    e2 = server(plenum, here, e["server"])
    assert not alive(e["server"]) and e2["restarts"] == 1
    plenum.run("umount", here)


# ---- given up




@root
def test_given_up(plenum):
    src, here, e = mount(plenum, "-o", "timeout=0")
    no_more(e)
    with pytest.raises(OSError) as error:
        (here / "f").read_bytes()
    assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    all_gone(plenum)


@root
def test_given_up_in_the_foreground(plenum):
    src, here = plenum.dir("src"), plenum.dir("here")
    p = plenum.start("mount", "-f", src, here)
    state(plenum, here, "up")
    no_more(plenum.entry(here))
    text = plenum.ended(p, 1)
    assert text.count("the next one carries on") >= 5 and "given up after 6 tries" in text
    all_gone(plenum)


@pytest.mark.parametrize("how", ["umount", "force", "kill"])
@root
def test_nested_below_a_dead_server(plenum, how):
    src, here, e = mount(plenum, "-o", "timeout=0")
    (src / "d" / "way" / "point").mkdir(parents=True, mode=0o711)
    os.chown(src / "d", 7, 8)
    plenum.run("mount", "mem:", here / "d/way/point")
    (here / "d/way/point/x").write_text("below")
    subprocess.run(["mount", "-t", "tmpfs", "none", here / "d/way/point"], check=True)
    (here / "d/way/point/y").write_text("on top")
    no_more(e)
    state(plenum, here, "failed: ")
    wait_for(lambda: not alive(e["server"]) and not alive(e["nursery"]))
    time.sleep(1.1)  # what the kernel was told lasts no longer
    assert os.listdir(here) == ["d"] and os.listdir(here / "d") == ["way"]
    assert (here / "d").stat().st_uid == 7 and (here / "d").stat().st_gid == 8
    assert (here / "d/way").stat().st_mode == (src / "d/way").stat().st_mode
    assert (here / "d/way/point/y").read_text() == "on top"
    with pytest.raises(OSError) as error:
        (here / "f").stat()
    assert error.value.errno == errno.ENOTCONN
    assert "failed" in plenum.run("status", here).out
    if how == "umount":
        subprocess.run(["umount", here / "d/way/point"], check=True)
        assert (here / "d/way/point/x").read_text() == "below"
        plenum.run("umount", here / "d/way/point")
    elif how == "force":
        plenum.run("umount", "-f", here)
    else:
        os.kill(e["keeper"], signal.SIGKILL)
        wait_for(lambda: not alive(e["keeper"]))
        plenum.run("umount", "-f", here)
    wait_for(lambda: here not in mounts_under(here))
    for d in mounts_under(here):  # not to be reached any more
        subprocess.run(["umount", "-l", d])
    for point in plenum.status():
        if point["dir"].startswith(str(here)) and alive(point["keeper"]):
            os.kill(point["keeper"], signal.SIGTERM)
    all_gone(plenum)


# ---- forced, and others that are killed


@pytest.mark.parametrize("what", ["well", "stopped", "dead", "all stopped"])
@root
def test_umount_forced(plenum, what):
    src, here, e = mount(plenum, "-o", "timeout=0")
    held = os.open(here / "f", os.O_RDONLY)
    if what == "dead":
        no_more(e)
        state(plenum, here, "restarting")
    elif what == "stopped":
        stop(e["server"])
    elif what == "all stopped":
        for who in "keeper", "nursery", "server":
            stop(e[who])
    waiting = [reader(here / "f") for _ in range(3)]
    began = time.monotonic()
    plenum.run("umount", "-f", here)
    assert time.monotonic() - began < 20
    for p in waiting:
        p.wait(5)
    os.close(held)
    assert not any(map(alive, (e["keeper"], e["server"], e["nursery"])))
    all_gone(plenum)


@pytest.mark.parametrize("what", ["well", "stopped", "dead"])
@root
def test_keeper_killed(plenum, what):
    src, here, e = mount(plenum, "-o", "timeout=0")
    if what == "stopped":
        stop(e["server"])
    elif what == "dead":
        no_more(e)
        state(plenum, here, "restarting")
    waiting = [reader(here / "f") for _ in range(3)]
    time.sleep(0.2)
    os.kill(e["keeper"], signal.SIGKILL)
    for p in waiting:
        p.wait(10)
    wait_for(lambda: not any(map(alive, (e["keeper"], e["server"], e["nursery"]))))
    assert not mounted(here)
    plenum.run("mount", "mem:", here)
    plenum.run("umount", here)


@root
def test_all_killed(plenum):
    src, here, e = mount(plenum, "-o", "timeout=0")
    waiting = [reader(here / "f") for _ in range(3)]
    for who in "keeper", "nursery", "server":
        stop(e[who])
    for who in "keeper", "nursery", "server":
        os.kill(e[who], signal.SIGKILL)
    for p in waiting:
        p.wait(10)
    assert mounted(here)  # nobody was left to take it away
    plenum.run("mount", "mem:", here)
    (here / "x").write_text("works")
    plenum.run("umount", here)
    assert not mounted(here)


# ---- upgrades


def own(plenum, name="prog"):
    """A copy of the program, to be replaced."""
    path = plenum.tmp / name
    shutil.copy(PLENUM, path)
    return path


def replace(path, make):
    new = path.with_name("new")
    make(new)
    os.chmod(new, 0o755)
    os.rename(new, path)


def runs(pid):
    return os.stat(f"/proc/{pid}/exe").st_ino


@root
def test_upgrade(plenum):
    """From relative paths, under load, twice; and later crashes are the new program's."""
    prog, src, here = own(plenum), plenum.dir("src"), plenum.dir("here")
    (src / "f").write_bytes(b"content" * 1000)
    subprocess.run(["./prog", "mount", "-o", "timeout=0", "src", "here"], cwd=plenum.tmp, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
    e = plenum.entry(here)
    load = [reader(here / "f") for _ in range(3)]
    with open(here / "f", "r+b", buffering=0) as f:
        for _ in range(2):
            replace(prog, lambda new: shutil.copy(PLENUM, new))
            out = plenum.run("upgrade", here).out
            assert "installed program" in out
            e2 = server(plenum, here, e["server"])
            assert runs(e2["server"]) == runs(e2["nursery"]) == prog.stat().st_ino
            assert runs(e2["server"]) != runs(e2["keeper"])
            assert not alive(e["server"]) and e2["nursery"] != e["nursery"]
            wait_for(lambda: not alive(e["nursery"]))
            assert f.read(7) == b"content"
            e = e2
        os.kill(e["server"], signal.SIGKILL)
        assert f.read(7) == b"content"
        e = server(plenum, here, e["server"])
        assert runs(e["server"]) == prog.stat().st_ino
    assert all(p.poll() is None for p in load)
    for p in load:
        end_group(p)
    plenum.run("umount", here)
    all_gone(plenum)


@pytest.mark.parametrize("what, words", [
    ("#!/bin/sh\nexit 3\n", "without a word"),
    ("#!/bin/sh\nexec /bin/sleep 1000\n", "did not get ready in time"),
    ("no program", "cannot be run"),
    (None, "cannot be run"),
], ids=["ends", "hangs", "no program", "missing"])
@root
def test_upgrade_to_what_does_not_work(plenum, what, words):
    prog = own(plenum)
    src, here = plenum.dir("src"), plenum.dir("here")
    (src / "f").write_text("content")
    subprocess.run([prog, "mount", "-o", "timeout=0", src, here], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, timeout=30)
    e = plenum.entry(here)
    if what is None:
        prog.unlink()
    else:
        replace(prog, lambda new: new.write_text(what))
    assert words in plenum.error("upgrade", here)
    assert plenum.entry(here)["server"] == e["server"]
    assert (here / "f").read_text() == "content"
    os.kill(e["server"], signal.SIGKILL)  # the old nursery is there for the next one
    assert (here / "f").read_text() == "content"
    plenum.run("umount", here)
    wait_for(lambda: not any(map(alive, (e["keeper"], e["nursery"]))))


@root
def test_upgrade_of_what_means_something_else(plenum):
    """The directories that the command line named were moved: the new program would open others."""
    prog, src, here = own(plenum), plenum.dir("sub/src"), plenum.dir("sub/here")
    subprocess.run([prog, "mount", "src", "here"], cwd=plenum.tmp / "sub", check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
    e = plenum.entry(here)
    (plenum.tmp / "elsewhere").mkdir()
    src.rename(plenum.tmp / "elsewhere/src")
    os.symlink(plenum.tmp / "elsewhere/src", src)
    assert "another tree" in plenum.error("upgrade", here)
    assert plenum.entry(here)["server"] == e["server"]
    os.listdir(here)
    plenum.run("umount", here)


@root
def test_upgrade_refused(plenum):
    here = plenum.dir("here")
    assert "no mount" in plenum.error("upgrade", here)
    plenum.run("mount", "mem:", here)
    assert "no mount" in plenum.error("upgrade", here) or "ends with its server" in plenum.error("upgrade", here)
    plenum.run("umount", here)
    plenum.error("upgrade", rc=2)
    plenum.error("upgrade", here, here, rc=2)


@root
def test_own_program(plenum):
    """A file server around pl_main gets all of it too."""
    prog, here = plenum.tmp / "clock", plenum.dir("here")
    shutil.copy(f"{EXAMPLES}/clock", prog)
    env = dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(EXAMPLES))
    subprocess.run([prog, here], check=True, timeout=30, env=env, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    e = plenum.entry(here)
    if e["lasts"] != "outlives its server":
        pytest.skip(f"this one cannot: {e['lasts']}")
    names = sorted(os.listdir(here))
    os.kill(e["server"], signal.SIGKILL)
    assert sorted(os.listdir(here)) == names
    e = server(plenum, here, e["server"])
    replace(prog, lambda new: shutil.copy(f"{EXAMPLES}/clock", new))
    plenum.run("upgrade", here)
    assert runs(plenum.entry(here)["server"]) == prog.stat().st_ino
    assert sorted(os.listdir(here)) == names
    plenum.run("umount", here)
    assert not processes_of(plenum)
