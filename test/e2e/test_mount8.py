# SPDX-License-Identifier: MIT
"""mount(8), fstab and service managers: mount.plenum as the real mount(8) runs it, and what the keeper
tells on NOTIFY_SOCKET."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest
from conftest import PLENUM, TOP, fuse, mounted, root

pytestmark = fuse

SETUP = """set -e
mkdir "$T/up" && mount -t tmpfs none "$T/up" && mkdir "$T/up/u" "$T/up/w"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$T/up/u,workdir=$T/up/w" none /usr/sbin
ln -s "$P" /usr/sbin/mount.plenum; ln -s "$P" /usr/sbin/mount.fuse.plenum
cd "$T"; mkdir -p src here; echo content > src/f
opts() { sed -n "s|^[^ ]* $T/here fuse.plenum \\([^ ]*\\) .*|,\\1,|p" /proc/mounts; }
"""


def sbin(plenum, script, rc=0):
    """Runs a shell script where the helpers are installed in /sbin, for it alone."""
    p = subprocess.run(["unshare", "-m", "sh", "-c", SETUP + script], capture_output=True, text=True,
                       timeout=50, env=os.environ | {"P": PLENUM, "T": str(plenum.tmp)})
    assert p.returncode == rc, p.stdout + p.stderr
    return p


@root
def test_mount_t_plenum(plenum):
    p = sbin(plenum, """
mount -t plenum "$T/src" "$T/here" -o noexec,noatime,nofail,_netdev,x-systemd.automount,timeout=5s
cat here/f; opts; grep -c "^$T/src $T/here fuse.plenum" /proc/mounts
S=$("$P" status --json here | sed -n 's/.*"server": *\\([0-9]*\\).*/\\1/p'); kill -0 $S
umount here; while kill -0 $S 2>/dev/null; do sleep 0.02; done; opts
mount -v -t fuse.plenum mem: here; opts; umount here
mount -r -t plenum mem: here; opts; umount here
""")
    lines = p.stdout.splitlines()
    assert lines[0] == "content" and lines[2] == "1"
    assert all(f",{o}," in lines[1] for o in ("rw", "noexec", "noatime", "nosuid", "nodev"))
    assert any("mem: on" in x and "mount.plenum:" in x for x in lines), lines
    assert ",ro," in lines[-1] and p.stderr == ""


@root
def test_fstab(plenum):
    sbin(plenum, """mkdir 'a b' other
cat > fstab <<END
$T/src  $T/here     plenum  defaults,ro,noauto,nofail,x-systemd.idle-timeout=60,comment=hi,_netdev 0 0
mem:    $T/a\\\\040b   plenum  rw,user,exec 0 0
host:$T/src  $T/other  fuse.plenum  allow_suid,allow_dev,x-gvfs-show 0 0
END
mount -T fstab "$T/here"; cat here/f; ! touch here/x 2>/dev/null; umount here
mount -a -T fstab; ! grep -q "$T/here " /proc/mounts
grep "$T/a.040b fuse.plenum " /proc/mounts | grep nosuid | grep nodev | grep -qv noexec
grep "$T/other fuse.plenum " /proc/mounts | grep -v nosuid | grep -qv nodev
mount -a -T fstab # all is mounted: nothing to do
[ "$(grep -c "$T.*fuse.plenum" /proc/mounts)" = 2 ]
umount 'a b' other
[ "$(grep -c "$T.*fuse.plenum" /proc/mounts)" = 0 ]
""")


@root
def test_what_is_wrong(plenum):
    def says(arguments, rc, word):
        p = sbin(plenum, f"rmdir up 2>/dev/null || true; exec mount -t plenum {arguments}", rc)
        assert word in p.stderr, p.stderr
        assert not mounted(plenum.tmp / "here")
        subprocess.run(["rm", "-rf", plenum.tmp / "up", plenum.tmp / "src", plenum.tmp / "here"], check=True)

    says('-o nosuchoption mem: here', 1, "nosuchoption: unknown mount option")
    says('-o threads=x mem: here', 1, "threads=x")
    says('nosuch:kind here', 1, "no such kind of tree")
    says('"$T/nowhere" here', 32, "no such directory")
    says('mem: "$T/src"', 32, "not empty")
    says('-o remount,ro mem: here', 1, "mount -i -o remount")
    p = sbin(plenum, """mount -s -o nosuchoption,ro -t plenum mem: here; opts; umount here
mount -f -v -t plenum mem: here; opts; "$P" status""")
    assert ",ro," in p.stdout and p.stdout.count("fuse") == 0


def test_by_hand(plenum):
    """What mount(8) does not pass, or not like this."""
    helper = plenum.tmp / "mount.plenum"
    helper.symlink_to(PLENUM)
    here = plenum.dir("here")

    def run(*args):
        return subprocess.run([helper, *map(str, args)], capture_output=True, text=True, timeout=20,
                              stdin=subprocess.DEVNULL)

    p = run("mem:")
    assert p.returncode == 1 and "a SPEC and a directory" in p.stderr and p.stderr.count("\n") == 1
    assert run("mem:", here, "-Z").returncode == 1
    assert run("mem:", here, "-N", "/proc/1/ns/mnt").returncode == 1
    p = run("mem:", here, "-f", "-n", "-v", "-t", "fuse.plenum", "-o", "rw,users")
    assert p.returncode == 0 and "not really" in p.stdout and not mounted(here)
    p = run("mem:", here, "-o", "rw,,user=me,X-mount.mkdir=0755,relatime")
    assert p.returncode == 0 and p.stdout + p.stderr == ""
    with open("/proc/self/mounts") as f:
        (options,) = [x.split()[3].split(",") for x in f if x.split()[1] == str(here)]
    assert {"noexec", "nosuid", "nodev"} <= set(options)
    plenum.run("umount", here)


# ---- NOTIFY_SOCKET


class Manager:
    """What a service manager would hear."""

    def __init__(self, address):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.s.bind(address)
        self.s.settimeout(15)

    def hears(self):
        return dict(line.split("=", 1) for line in self.s.recv(4096).decode().splitlines())

    def silent(self):
        self.s.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.s.recv(4096)


@pytest.fixture(params=["path", "abstract"])
def manager(request, plenum):
    name = str(plenum.tmp / "notify") if request.param == "path" else f"\0plenum test {plenum.tmp}"
    m = Manager(name)
    m.env = os.environ | {"NOTIFY_SOCKET": name.replace("\0", "@")}
    with m.s:
        yield m


@pytest.mark.parametrize("end", ["signal", "umount"])
def test_notify_in_the_foreground(plenum, manager, end):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", "mem:", here, env=manager.env)
    heard = manager.hears()
    assert heard == {"READY": "1", "MAINPID": str(p.pid), "STATUS": "up: mem:"}
    (here / "x").touch()  # it is true: the mount works now
    if end == "signal":
        p.send_signal(signal.SIGTERM)
        assert manager.hears()["STOPPING"] == "1"
    else:
        plenum.run("umount", here)
    plenum.ended(p)
    manager.silent()


def test_notify_in_the_background(plenum, manager):
    """The keeper is who is told of as the main process: it is no child of who mounted."""
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here, env=manager.env)
    assert manager.hears()["MAINPID"] == str(plenum.entry(here)["keeper"])
    plenum.run("umount", here)


def test_notify_of_a_failure(plenum, manager):
    plenum.run("mount", "-f", plenum.tmp / "nowhere", plenum.dir("here"), env=manager.env, rc=1)
    manager.silent()


def test_notify_is_not_for_what_we_start(plenum, manager):
    here = plenum.dir("here")
    p = plenum.start("mount", "-f", f"exec:env >'{plenum.tmp}/env'; exec '{PLENUM}' serve mem: stdio",
                     here, env=manager.env)
    assert manager.hears()["MAINPID"] == str(p.pid)
    assert "NOTIFY_SOCKET" not in (plenum.tmp / "env").read_text()
    plenum.run("umount", here)
    plenum.ended(p)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "relative", "@", "x" * 200])
def test_notify_that_nobody_hears(plenum, name):
    here = plenum.dir("here")
    plenum.run("mount", "mem:", here, env=os.environ | {"NOTIFY_SOCKET": name})
    plenum.run("umount", here)


# ---- units

UNITS = sorted((TOP / "docs/systemd").glob("*.*"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_units(plenum):
    """The examples are units that systemd understands."""
    assert {u.suffix for u in UNITS} == {".mount", ".automount", ".service"}
    names = []
    for u in UNITS:
        text = u.read_text().replace("/usr/bin/plenum", PLENUM)
        name = u.name.replace("@.", "@example.")
        (plenum.tmp / name).write_text(text)
        names.append(plenum.tmp / name)
    p = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True,
                       timeout=50, env=os.environ | {"SYSTEMD_UNIT_PATH": f"{plenum.tmp}:"})
    assert p.returncode == 0 and p.stderr == "", p.stderr


def test_install(plenum):
    """What `make install` puts where."""
    build = os.environ.get("PLENUM_BUILD", TOP / "build")
    if not shutil.which("meson") or not (pathlib.Path(build) / "build.ninja").exists():
        pytest.skip("needs meson and its build directory")
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", plenum.tmp / "d"],
                   check=True, capture_output=True, timeout=50)
    found = {f: pathlib.Path(d) / f for d, _, files in os.walk(plenum.tmp / "d") for f in files}
    for name in "mount.plenum", "mount.fuse.plenum":
        to = os.readlink(found[name])
        assert to.endswith("/bin/plenum") and (plenum.tmp / "d" / to[1:]).exists()
        if to.startswith(("/usr/bin", "/usr/local/bin")):
            assert found[name].parent == plenum.tmp / "d/sbin"  # where mount(8) looks
    assert "mount.plenum.8" in found and {u.name for u in UNITS} <= set(found)
