# SPDX-License-Identifier: MIT
"""plenum run and plenum vpath: programs in views. Each test runs as root and as an ordinary user
in a user namespace (who gets a /dev/fuse that he may open)."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import test_view_programs as programs
from conftest import PLENUM, alive, fuse, root, wait_for

pytestmark = [fuse, root]
UID = 64999
SETUP = f"""mkdir -p "$0/dev" && {{ [ -e "$0/dev/fuse" ] || mknod -m 666 "$0/dev/fuse" c 10 229; }} &&
mount --bind "$0/dev/fuse" /dev/fuse && exec setpriv --reuid {UID} --regid {UID} --clear-groups -- "$@" """


class Views:
    """Runs programs in views, as root or not, in a directory of its own."""

    def __init__(self, plenum, user, door="mount"):
        self.plenum, self.user, self.door, self.groups = plenum, user, door, "--clear-groups"
        plenum.tmp.chmod(0o755)
        self.dir = plenum.dir("w")
        self.own(self.dir)
        self.env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        self.env |= {"P": PLENUM, "D": self.door, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.dir), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
                     "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e", "GIT_COMMITTER_NAME": "n",
                     "GIT_COMMITTER_EMAIL": "e", "GIT_AUTHOR_DATE": "@1 +0000",
                     "GIT_COMMITTER_DATE": "@1 +0000"}

    def own(self, path):
        if self.user:
            os.chown(path, UID, UID, follow_symlinks=False)

    def argv(self, *argv):
        argv = [*map(str, argv)]
        return ["unshare", "-m", "sh", "-c", SETUP.replace("--clear-groups", self.groups), str(self.plenum.tmp), *argv] if self.user else argv

    def make(self, **trees):
        """Files: make(A={"f": "content", "d/": None})."""
        for top, files in trees.items():
            for name, content in {"": None, **files}.items():
                path = self.dir / top / name
                if content is None:
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(content)
                while path != self.dir:
                    self.own(path)
                    path = path.parent

    def plain(self, *argv, rc=0, **kw):
        """Without a view."""
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("cwd", self.dir)
        kw.setdefault("env", self.env)
        p = subprocess.run(self.argv(*argv), capture_output=True, text=True, timeout=50, **kw)
        assert rc is None or p.returncode == rc, f"status {p.returncode}\n{p.stdout}{p.stderr}"
        return p

    def run(self, options, script, rc=0, **kw):
        """A shell script in a view; `options` are words."""
        return self.plain(PLENUM, "run", f"--door={self.door}", *options.split(), "--", "sh", "-c", script, rc=rc, **kw)

    def out(self, options, script, **kw):
        p = self.run(options, script, **kw)
        assert p.stderr == "", p.stderr
        return p.stdout

    def start(self, options, *argv, **kw):
        return self.plenum.start(argv=self.argv(PLENUM, "run", f"--door={self.door}", *options.split(), "--", *argv),
                                 env=self.env, cwd=self.dir, **kw)

    def status(self):
        entries = json.loads(self.plain(PLENUM, "status", "--json").stdout)
        return [e for e in entries if e["kind"] == "view" and str(self.dir) in e["view"]["table"] + e["spec"]]

    def gone(self):
        wait_for(lambda: not self.status(), "the view does not end")


@pytest.fixture(params=["root", "user", "trap"])
def views(plenum, request):
    """root, user: the door mount; trap: that door, as a user."""
    v = Views(plenum, request.param != "root", "trap" if request.param == "trap" else "mount")
    yield v
    v.gone()
    places = pathlib.Path(f"/tmp/plenum-{UID}" if v.user else "/run/plenum") / "views"
    wait_for(lambda: not [p for p in places.glob("*") if not alive(int(p.name))], "places are left")


# ---- what a view is ----


def test_over(views):
    views.make(A={"a": "A"}, B={"a": "B", "b": "B", "d/e": "deep"})
    out = views.out("--view A B", "ls A; cat A/a A/b A/d/e; echo new >A/n; echo more >>A/b; cat A/b; rm A/d/e;"
                    " ls A/d; pwd; cat /proc/self/comm")
    assert out == f"a\nb\nd\nABdeepBmore\n{views.dir}\ncat\n"
    assert (views.dir / "A/n").read_text() == "new\n" and (views.dir / "A/b").read_text() == "Bmore\n"
    assert (views.dir / "B/b").read_text() == "B" and (views.dir / "B/d/e").read_text() == "deep"


def test_a_top_that_does_not_exist(views):
    views.make(B={"f": "1"})
    assert views.out("--view x/y/Z B", "cat x/y/Z/f") == "1"
    views.gone()
    assert os.listdir(views.dir) == ["B"]
    views.out("--view x/y/Z B", "echo 2 >x/y/Z/g")
    views.gone()
    assert os.listdir(views.dir / "x/y/Z") == ["g"]


def test_a_top_that_does_not_exist_is_listed(views):
    views.make(B={"f": "1"}, m={})
    assert views.out("--view x/y/Z B --bind mem: m/n/o", "ls x/y/Z; ls x x/y m/n; $P vpath x/y/Z; $P vpath n/Z B; ls n n/Z") == \
        f"f\nm/n:\no\n\nx:\ny\n\nx/y:\nZ\n{views.dir}/x/y/Z\nn:\nZ\n\nn/Z:\nf\n"
    views.gone()
    assert sorted(os.listdir(views.dir)) == ["B", "m"] and os.listdir(views.dir / "m") == []


def test_symlinks_in_pairs(views):
    """What a word of a pair leads to is meant."""
    views.make(A={"a": "1"}, B={"d/b": "2"})
    for link, to in (("LA", "A"), ("LB", "B"), ("LL", "LB")):
        (views.dir / link).symlink_to(to)
    w = views.dir
    script = """ls A LA/; echo 3 >LA/n; cat A/n; $P vpath LA/b; $P vpath; $P vpath LA -; $P vpath; $P vpath LA/new LL; $P vpath"""
    assert views.out("--view LA LL/d", script) == \
        f"A:\na\nb\n\nLA/:\na\nb\n3\n{w}/B/d/b\n{w}/A {w}/B/d\n\n{w}/A/new {w}/B\n"
    assert views.out("--bind mem: LA", "echo 4 >LA/m; cat A/m; $P vpath LA/m") == "4\nmem::/m\n"


def test_chain_and_dots(views):
    views.make(A={"a": "1"}, B={"a": "2", "b": "2"}, C={"a": "3", "c": "3"})
    out = views.out("--view A B --view B C", "ls A; cat A/a A/.../a A/.../.../a A/c A/b B/c; cd A; cat .../b")
    assert out == "a\nb\nc\n1233232"


def test_content_that_is_behind(views):
    """overlayfs's metacopy, with the marks that a user may set."""
    views.make(A={"f": "", "moved": ""}, B={"f": "below\n", "d/prog": "#!/bin/sh\necho it runs\n"})
    for name, mode in (("f", 0o644), ("moved", 0o755)):
        path = views.dir / "A" / name
        os.truncate(path, os.stat(views.dir / "B" / ("f" if name == "f" else "d/prog")).st_size)
        os.setxattr(path, "user.overlay.metacopy", b"")
        path.chmod(mode)
    os.setxattr(views.dir / "A/moved", "user.overlay.redirect", b"/d/prog")
    os.setxattr(views.dir / "A", "user.overlay.impure", b"y")  # as it is where there are such marks
    out = views.out("--view A B", "cat A/f; A/moved; echo more >>A/f; cat A/f; mv A/moved A/again; A/again; rm A/again; ls A")
    assert out == "below\nit runs\nbelow\nmore\nit runs\nd\nf\n"
    assert (views.dir / "A/f").read_text() == "below\nmore\n" and (views.dir / "B/f").read_text() == "below\n"


def test_bind(views):
    views.make(A={"a": "1"}, B={"b": "2"}, one={"f": "one", "g": "two"})
    assert views.out("--bind B A", "ls A") == "b\n"
    assert views.out("--bind mem: A", "echo hi >A/x; cat A/x; ls A") == "hi\nx\n"
    assert views.out("--bind B new", "ls new") == "b\n"
    assert views.out("--bind one/g one/f", "cat one/f") == "two"
    assert views.out("--bind mem: A --view A B", "ls A; echo 3 >>A/b; cat A/b B/b") == "b\n23\n2"
    assert views.out("--bind ro(B) A", "touch A/x 2>&1; true").endswith("Read-only file system\n")
    assert views.out("--view A B --bind one A/in", "ls A A/in").startswith("A:\na\nb\nin\n\nA/in:\nf\ng")
    wait_for(lambda: not (views.dir / "new").exists(), "what was made stays")


def test_restore(views):
    views.make(A={"a": "1"}, B={"b": "2"})
    views.make(**{"odd name 'x' $(y)": {"c": "3"}})
    saved = views.out("--view A B", 'cd "odd name \'x\' $(echo "(y)" | tr -d x | sed s/^/\\$/)" && $P vpath . ../B && $P vpath')
    assert "%20" in saved and saved.startswith("- /#escaped ")
    (views.dir / "saved").write_text(saved)
    out = views.out("--restore saved", "ls odd*; $P vpath")
    assert out == "b\nc\n" + saved
    for how in ("$P vpath $saved", 'eval "$P vpath $saved"'):
        assert views.out("", f"saved='{saved.strip()}'; {how}; $P vpath; ls A") == saved + "a\nb\n"


# ---- the program ----


def test_exit_status(views):
    assert views.run("", "exit 7", rc=7).stderr == ""
    p = views.plain(PLENUM, "run", f"--door={views.door}", "--", "no-such-program", rc=127)
    assert p.stderr == "plenum: run: no-such-program: no such program\n"
    views.plain(PLENUM, "run", f"--door={views.door}", "--", "/etc/passwd", rc=126)
    for sig in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
        views.run("", f"kill -{int(sig)} $$", rc=-sig)


def test_signals_reach_it(views):
    views.make(A={}, B={})
    p = views.start("--view A B", "sh", "-c", "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done",
                    stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"up\n"
    p.terminate()
    assert p.wait(10) == 5 and p.stdout.read() == b"got\n"


def test_streams_are_its_own(views):
    """What it was given is held by nobody else, and SIGPIPE is what it was."""
    views.make(A={}, B={})
    r, w = os.pipe()
    p = views.start("--view A B", "bash", "-c", f"echo x >&{w}; exec {w}>&- >&-; sleep 1000", pass_fds=[w],
                    stdout=subprocess.PIPE)
    os.close(w)
    assert os.read(r, 10) == b"x\n" and os.read(r, 10) == b""  # the end, though the view lives
    assert p.stdout.read() == b""
    p.kill()
    p.wait()
    os.close(r)
    views.gone()  # its program is killed with plenum run
    out = views.plain("bash", "-c", '"$P" run --door=$D -- yes | head -1; echo ${PIPESTATUS[0]}').stdout
    assert out == "y\n141\n"
    assert views.plain(PLENUM, "run", f"--door={views.door}", "--", "cat", stdin=None, input="in").stdout == "in"


def test_terminal_and_jobs(views):
    """A shell of its own at a terminal: job control works, ^Z and fg, ^C."""
    views.make(A={}, B={"b": "2"})
    script = """import os, pty, sys, time
pid, fd = pty.fork()
if not pid:
    os.environ['PS1'] = '> '
    os.execvp(os.environ['P'], ['plenum', 'run', '--door=' + os.environ['D'], '--view', 'A', 'B', '--', 'bash', '--norc', '-i'])
text = b''
def until(what):
    global text
    while what not in text:
        text += os.read(fd, 4096)
    text = text.split(what, 1)[1]
def say(line):
    os.write(fd, line)
until(b'> ')
say(b'ls A; sleep 100\\n'); until(b'b\\r\\n'); time.sleep(0.5)
say(b'\\x1a'); until(b'Stopped')
say(b'jobs; fg\\n'); until(b'Stopped'); until(b'sleep 100'); time.sleep(0.5)
say(b'\\x03'); until(b'> ')
say(b'echo st$?\\n'); until(b'st130')
say(b'exit 3\\n')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    views.plain("/usr/bin/python3", "-c", script, rc=3)


def test_background_keeps_the_view(views):
    views.make(A={}, B={"b": "2"})
    views.run("--view A B", "(while [ ! -e go ]; do sleep 0.05; done; cat A/b >seen) >/dev/null 2>&1 &")
    entry = views.status()[0]
    assert entry["view"]["door"] == views.door and entry["view"]["processes"]
    (views.dir / "go").touch()
    views.gone()
    assert (views.dir / "seen").read_text() == "2"


def test_status(views):
    views.make(A={}, B={})
    p = views.start("-v --view A B", "sh", "-c", "echo up; cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"up\n"
    assert f"door {views.door}" in views.plenum.err(p)
    entry = views.status()[0]
    assert entry["view"]["table"] == f"{views.dir}/A {views.dir}/B" and entry["view"]["depth"] == 1
    assert entry["view"]["first"] in entry["view"]["processes"] and len(entry["view"]["processes"]) == 2
    text = views.plain(PLENUM, "status").stdout
    assert "view " in text and f"{views.dir}/A {views.dir}/B" in text
    p.stdin.close()
    assert p.wait(10) == 0


# ---- changes while it runs ----


def test_vpath_forms(views):
    views.make(A={"a": "1"}, B={"b": "2"}, C={"c": "3"})
    w = views.dir
    script = """$P vpath A B && ls A && $P vpath A/b && $P vpath A C && ls A && $P vpath A/c &&
ls A/b 2>&1; cd A; $P vpath c; cd ..; $P vpath A -; ls A; $P vpath; $P vpath A B B C; $P vpath; $P vpath - -; $P vpath
$P vpath /etc/passwd; ln -s A L; $P vpath A B; $P vpath L/b"""
    out = views.out("", script)
    assert out == (f"a\nb\n{w}/B/b\na\nc\n{w}/C/c\nls: cannot access 'A/b': No such file or directory\n{w}/C/c\na\n\n"
                   f"{w}/A {w}/B {w}/B {w}/C\n\n/etc/passwd\n{w}/B/b\n")


def test_vpath_json(views):
    views.make(A={}, B={"b": "2"})
    view = json.loads(views.out("--view A B", "$P vpath --json"))
    assert view["door"] == views.door and view["depth"] == 1 and not view["trace"]
    assert view["tops"] == [{"path": f"{views.dir}/A", "dirs": [f"{views.dir}/A", f"{views.dir}/B"]}]
    assert view["pairs"] == [[f"{views.dir}/A", f"{views.dir}/B"]]
    where = json.loads(views.out("--view A B", "$P vpath --json A/b"))
    assert where == {"path": f"{views.dir}/A/b", "physical": f"{views.dir}/B/b"}


def test_what_runs_sees_the_change(views):
    """From outside, for a process that is in the directory, and has a file of it open."""
    views.make(A={"a": "1"}, B={"b": "2"}, C={"b": "3", "c": "3"})
    p = views.start("--view A B", "bash", "-c",
                    "cd A; exec 5<b; echo $BASHPID; read x; cat b c <&-; cat <&5; pwd; ls; read x; ls",
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(p.stdout.readline())
    views.plain(PLENUM, "vpath", "-p", pid, "A", "C")
    assert views.plain(PLENUM, "vpath", "-p", pid).stdout == f"{views.dir}/A {views.dir}/C\n"
    assert views.plain(PLENUM, "vpath", "-p", pid, "A/c").stdout == f"{views.dir}/C/c\n"
    p.stdin.write(b"\n")
    p.stdin.flush()
    got = [p.stdout.readline() for _ in range(4)]
    assert got[:1] == [b"332" + f"{views.dir}/A\n".encode()], got
    p.stdin.write(b"\n")
    p.stdin.close()
    assert p.wait(10) == 0


def test_program_name_and_shell_function(views):
    views.make(A={}, B={"b": "2"})
    (views.dir / "bin").mkdir()
    (views.dir / "bin/vpath").symlink_to(PLENUM)
    assert views.out("", "bin/vpath A B; ls A") == "b\n"
    for shell in filter(shutil.which, ("sh", "bash", "zsh", "ksh")):
        text = f'eval "$($P vpath --shell)"; vpath A B; ls A; vpath; vpath A -; ls A'
        p = views.plain(PLENUM, "run", f"--door={views.door}", "--", shell, "-c", text)
        assert p.stdout == f"b\n{views.dir}/A {views.dir}/B\n" and p.stderr == "", shell


def test_trace(views):
    views.make(A={}, B={"b": "2"})
    p = views.run("--view A B", "$P vpath - /#option/trace; cat A/b; $P vpath - /#option/notrace; cat A/b")
    assert p.stdout == "22" and ' lookup dir ' in p.stderr and '"b"' in p.stderr
    p = views.run("--view A B --view - /#option/trace", "cat A/b")
    assert '"b"' in p.stderr
    p = views.run("", "$P vpath - /#option/debug=1 A B; $P vpath A -; ls A")
    assert f"vpath: itself again: {views.dir}/A\n" in p.stderr


def test_versions(views):
    """NAME/VERSION is seen as NAME: by the list, by name, by path; what is done to it is done to the version."""
    views.make(A={}, B={"lib.c/1": "one", "lib.c/2": "two", "lib.c/3": "three", "d/lib.c/1": "d1", "d/x/2": "x2",
                        "plain/f": "f"})
    script = """cat A/lib.c A/d/lib.c A/d/x; ls A/plain; find A -type f | sort; ls -d A/*
$P vpath lib.c /#vmap/3,1; cat A/lib.c A/d/lib.c; $P vpath A/lib.c /#vmap/1; cat A/lib.c A/d/lib.c; $P vpath A/lib.c
$P vpath A/lib.c /#vmap lib.c /#vmap; cat A/lib.c; echo new >A/t; mv A/t A/lib.c; cat A/lib.c; rm A/lib.c; cat A/lib.c
$P vpath - /#vmap; ls A/lib.c; cat A/lib.c/3"""
    out = views.out("--view A B --view - /#vmap/2,1", script)
    assert out == ("twod1x2f\nA/d/lib.c\nA/d/x\nA/lib.c\nA/plain/f\nA/d\nA/lib.c\nA/plain\n"
                   f"threed1" f"oned1{views.dir}/B/lib.c/1\n" "twonew\none" "1\n3\nthree")
    assert (views.dir / "B/lib.c/2").read_text() == "two"


SERVICE = """#!/bin/sh
echo 'plenum-service 1'
while read seq op rest; do echo "$op $rest" >>"$0.log"; done
echo bye >>"$0.log"
"""


def test_service(views):
    """A directory on a service: it is told of what it asked for there, and of nothing elsewhere; off, on, gone."""
    views.make(A={"s/f": "1"}, B={"s/b": "2"}, x={"svc": SERVICE})
    (views.dir / "x/svc").chmod(0o755)
    log = views.dir / "x/svc.log"
    told = lambda: [x.split()[0] + " " + x.split("path=")[1].split()[0] for x in  # noqa: E731
                    (log.read_text() if log.exists() else "").splitlines() if "path=" in x]
    define = f"exec!{views.dir}/x/svc /#fs/log/monitor/call=create,remove"
    p = running(views, "--view A B")
    tell(p, f"$P vpath '{define.split()[0]}' '{define.split()[1]}' A/s /#log")
    define = define.replace("!", "%21")
    assert tell(p, "$P vpath") == f"- /#escaped {define} {views.dir}/A {views.dir}/B {views.dir}/A/s /#log\n"
    assert tell(p, "ls A A/s; cat A/s/b; touch A/n A/s/n; rm A/s/n; $P vpath A/s/b") == \
        f"A:\ns\n\nA/s:\nb\nf\n2{views.dir}/B/s/b\n"
    wait_for(lambda: told() == ["create /n", "remove /n"], "it is not told")
    tell(p, "$P vpath - /#fs/log/off; touch A/s/o; $P vpath - /#fs/log/on; touch A/s/p")
    wait_for(lambda: told() == ["create /n", "remove /n", "create /p"], "off and on")
    assert "bye" not in log.read_text()
    tell(p, "$P vpath - /#fs/log/-; touch A/s/q")
    wait_for(lambda: "bye" in log.read_text().split("\n"), "it is not hung up")
    assert tell(p, "ls A/s") == "b\nf\no\np\nq\n" and len(told()) == 3
    p.stdin.close()
    assert p.wait(10) == 0


def test_made_and_run(views):
    """A program that was made in a view can be run outside of it as soon as its maker has ended."""
    views.make(A={}, B={})
    for i in range(5):
        views.run("--view A B", f"cp /bin/true A/prog{i}")
        assert views.plain(views.dir / f"A/prog{i}").returncode == 0


def test_deletion(views):
    """How names are removed can be chosen at any time; what is hidden stays hidden."""
    views.make(A={"a": "A"}, B={"a": "B", "b": "B", "c": "B", "s/x": "B"})
    out = views.out("--view A B", "rm A/b; $P vpath - /#option/del=classic; rm A/a; cat A/a; rm A/c 2>/dev/null || echo no;"
                    " ls A; $P vpath - /#option/del=whiteout; rm A/c; ls A; $P vpath")
    assert out == f"Bno\na\nc\ns\na\ns\n{views.dir}/A {views.dir}/B\n"
    assert sorted(os.listdir(views.dir / "B")) == ["a", "b", "c", "s"]


def test_live(views):
    """What others change behind a top, and in it, is seen."""
    views.make(A={"d/u": "u"}, B={"f": "1", "d/l": "l"})
    p = running(views)
    assert tell(p, "cat A/f; ls A/d") == "1l\nu\n"
    assert tell(p, "cat A/f; ls A/d; ls A/n 2>/dev/null") == "1l\nu\n"
    if views.door == "mount":
        assert views.status()[0]["told"] in ("fanotify", "inotify")
    (views.dir / "B/f").write_text("22")
    (views.dir / "B/d/m").write_text("m")
    (views.dir / "B/n").write_text("")
    wait_for(lambda: tell(p, "cat A/f; ls A/d; ls A/n 2>/dev/null") == "22l\nm\nu\nA/n\n", "below")
    os.unlink(views.dir / "A/d/u")
    (views.dir / "A/f").write_text("333")
    wait_for(lambda: tell(p, "cat A/f; ls A/d") == "333l\nm\n", "above")
    p.stdin.close()
    assert p.wait(10) == 0


def test_opens(views):
    """A view needs none where no tree does; then nothing that needs them can come in."""
    views.make(A={"s/f": "1"}, B={"b": "2"}, x={"svc": SERVICE})
    (views.dir / "x/svc").chmod(0o755)
    if views.door == "trap":
        assert "for the door mount alone" in views.plain(PLENUM, "run", "--door=trap", "-o", "open", "--", "true", rc=2).stderr
        return
    assert "unknown mount option (did you mean noopen?)" in views.plain(PLENUM, "run", "-o", "noopn", "--", "true", rc=2).stderr
    define = f"'exec!{views.dir}/x/svc' /#fs/log/monitor/call=open A/s /#log"
    p = running(views)
    said = tell(p, f"$P vpath {define} 2>&1; $P vpath - -; $P vpath A B; cat A/s/f A/b")
    assert said.endswith("12") and "must see each open" in said, said
    p.stdin.close()
    assert p.wait(10) == 0
    views.gone()
    p = running(views, "-o open --view A B")
    tell(p, f"$P vpath {define}; cat A/s/f")
    wait_for(lambda: (views.dir / "x/svc.log").exists() and "open " in (views.dir / "x/svc.log").read_text(), "not told")
    p.stdin.close()
    assert p.wait(10) == 0


@pytest.mark.parametrize("door", ["mount", "trap"])
def test_far_end_is_back(plenum, door):
    """What is bound from elsewhere outlives its connection."""
    far, here = plenum.dir("far"), plenum.dir("m")
    (far / "f").write_text("one")
    p = plenum.serve(f"host:{far}", "tcp!127.0.0.1!0")
    addr = p.addr
    view = plenum.start("run", f"--door={door}", "--bind", f"9p:{addr}", here, "--", "sh", "-c",
                        f"cat {here}/f; echo; read x; cat {here}/f {here}/g; echo; echo in >{here}/h",
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert view.stdout.readline() == b"one\n"
    p.kill()
    p.wait()
    (far / "g").write_text("two")
    p = plenum.serve(f"host:{far}", addr)
    view.stdin.write(b"\n")
    assert view.stdout.readline() == b"onetwo\n"
    assert view.wait(30) == 0 and (far / "h").read_text() == "in\n"
    p.terminate()
    p.wait()


# ---- what is wrong ----


def test_wrong(views):
    views.make(A={"f": "1"}, B={})
    def error(options, script, rc=1):
        p = views.run(options, script, rc=rc)
        assert p.stderr.count("\n") == 1 and p.stderr.startswith("plenum: "), p.stderr
        return p.stderr
    assert "would be over itself" in error("--view A B --view B A", ":")
    assert "A/f: is not a directory" in error("--view A/f B", ":")
    assert "no such option" in error("--view - /#option/none", ":", rc=2)
    assert "no such service" in error("--view A /#none", ":", rc=2)
    if views.door == "mount":
        assert "/: the root directory" in error("--view / B", ":")
    assert "A: cannot be over itself (" in error("--view A A", ":")
    assert "A/f: is not a directory (" in error("--view B A/f", ":")
    assert "A/f: is not a directory (and mem: is bound on one)" in error("--bind mem: A/f", ":")
    assert "B: not a file (" in error("--bind A/f B", ":")
    assert "A/none: no such directory" in error("--bind union(B,A/none) B", ":")
    chain = " ".join(f"--view c{i} c{i + 1}" for i in range(17))
    assert "c0: more than 16 directories over one another (take a pair out" in error(chain, ":")
    deep = " ".join(f"--view {a} {b}" for i, top in enumerate(("n", "n/n", "n/n/n"))
                    for a, b in [(top, f"q{i}x0")] + [(f"q{i}x{k}", f"q{i}x{k + 1}") for k in range(11)])
    assert "n/n/n: more than 32 directories at one path" in error(deep, ":")
    assert "B/none: no such directory (" in error("--view A B/none", ":")
    assert "B/f/g: is not a directory" in error("--view A/f/g B", ":").replace("/A/", "/B/")
    assert '"": not a path' in views.plain(PLENUM, "run", "--view", "", "B", "--", "true", rc=2).stderr
    assert "/#fs/s: nowhere: not an address (want tcp!" in error("--view nowhere /#fs/s/monitor", ":", rc=2)
    assert "no such door" in views.plain(PLENUM, "run", "--door=window", "--", "true", rc=2).stderr
    for pairs, text in (("A B B A", "would be over itself"), ("A/f B", "is not a directory"),
                        ("- /#option/none", "no such option"), ("A /#none", "no such service"),
                        ("A B C", "what goes with it"), ("/ B", "the root directory"), ("B -", "is over nothing"),
                        ("C B C none", "none: no such directory (")):
        if pairs == "/ B" and views.door != "mount":
            continue
        p = views.run("--view A B", f"$P vpath {pairs}; $P vpath")
        assert text in p.stderr and p.stdout == f"{views.dir}/A {views.dir}/B\n", p.stderr
    assert "this is no view (start one: plenum run" in views.plain(PLENUM, "vpath", rc=1).stderr
    p = views.plain("sh", "-c", "$P vpath -p $$; exit $?", rc=1)
    assert "is in no view of this user's" in p.stderr
    if views.user:
        p = views.plain(PLENUM, "vpath", "-p", os.getpid(), rc=1)
        assert "Permission denied (only its user may ask for its view)" in p.stderr
        if views.door == "mount":
            assert ": cannot be made: Permission denied (make it, or" in error("--view /new/top B", ":")


def test_fuse_is_not_for_everybody(plenum):
    """auto takes the next door; who asked for this one is told what helps."""
    plenum.tmp.chmod(0o755)
    argv = ["unshare", "-m", "sh", "-c", SETUP.replace("666", "600"), plenum.tmp, PLENUM, "run"]
    p = subprocess.run([*argv, "--door=mount", "true"], capture_output=True, text=True, timeout=30)
    assert (p.returncode, p.stderr) == (1, "plenum: run: the door mount is closed here: /dev/fuse: Permission denied"
                                        " (root may open it to all: chmod 666 /dev/fuse)\n")
    p = subprocess.run([*argv, "-v", "true"], capture_output=True, text=True, timeout=30)
    assert p.returncode == 0 and p.stderr.startswith("plenum: run: door preload, since the door mount is closed here: ")


def test_what_is_not_there_may_be_in_the_view(views):
    """Over a top that is made by the same change, or over a directory that only the view has."""
    views.make(B={"d/b": "2"})
    assert views.out("--view A new --view new B", "ls A/d; $P vpath C A/d; ls C") == "b\nb\n"


def only_trap(views):
    if views.door == "mount":
        pytest.skip("of the door trap")


def test_root_as_top(views):
    only_trap(views)
    views.make(A={"f": "1"}, B={"views-b/x": "2", "views-b/A/g": "3"})
    assert views.out("--view / B", "cat /views-b/x; cd /views-b; pwd; ls; ls -d /proc/self /dev/null; ls ../views-b/A; cat ../$D/A/f",
                     env=views.env | {"D": str(views.dir)}) == "2/views-b\nA\nx\n/dev/null\n/proc/self\ng\n1"
    out = views.out("--view A B", "cat A/f; $P vpath / B; cat /views-b/x A/f; $P vpath / -; ls /views-b 2>&1 | wc -l; ls A")
    assert out == "1211\nf\nviews-b\n", out
    assert not pathlib.Path("/views-b").exists()


def test_file_on_a_file(views):
    views.make(A={"f": "old\n", "g": "new\n", "d/": None, "d/h": "h\n"}, B={})
    out = views.out("--bind A/g A/f", "cat A/f; echo more >>A/f; rm A/f 2>&1; mv A/f A/x 2>&1; cat A/g; ls A/f/ 2>&1; "
                    "cp A/f B/copy; chmod 600 A/f; stat -c %a A/g; ls A; sh A/f 2>&1; true")
    assert out.startswith("new\nrm: cannot remove 'A/f': Device or resource busy\nmv: cannot move 'A/f' to 'A/x': "
                          "Device or resource busy\nnew\nmore\n"), out
    assert "Not a directory" in out and "\n600\nd\nf\ng\n" in out, out
    assert (views.dir / "A/f").read_text() == "old\n" and (views.dir / "B/copy").read_text() == "new\nmore\n"
    assert views.out("--view A B --bind A/g A/d/h", "cat A/d/h") == "new\nmore\n"


NOBODY_REAPS = """import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what is left behind becomes our child
subprocess.run(sys.argv[1:], check=True)
left = 0
for p in filter(str.isdigit, os.listdir("/proc")):
    try:
        left += open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1] == str(os.getpid())
    except OSError:
        pass
print(left)"""


def test_leaves_nothing(views):
    only_trap(views)
    for _ in range(3):
        p = views.plain("python3", "-c", NOBODY_REAPS, PLENUM, "run", f"--door={views.door}", "--", "true")
        assert p.stdout == "0\n"


def only_mount(views):
    if views.door != "mount":
        pytest.skip("of the door mount")


def test_depth(views):
    if views.door == "trap":
        for outer in ("trap", "preload"):
            for door in ("trap", "mount", "auto"):
                error = views.plain(PLENUM, "run", f"--door={outer}", "--", PLENUM, "run", f"--door={door}", "--", "true", rc=1).stderr
                assert error.startswith("plenum: run: there can be no view in a view of the door trap"), error
        return
    error = views.run("", '"$P" run --door=trap -- true', rc=1).stderr
    assert "a process has one supervisor" in error
    run = '"$P" run --door=$D -- '
    views.out("", run * 7 + "true")
    p = views.run("", run * 8 + "true", rc=1)
    assert p.stderr.startswith("plenum: run: more than 8 views in one another (change the one that there is")


def test_views_in_views(views):
    only_mount(views)
    views.make(A={"a": "1"}, B={"b": "2"}, C={"c": "3"})
    w = views.dir
    out = views.out("--view A B", "$P run --view C A -- sh -c 'ls C; $P vpath; echo x >C/x; $P vpath C B; ls C';"
                    " $P vpath; ls C")
    assert out == f"a\nb\nc\n{w}/C {w}/A\nb\nc\nx\n{w}/A {w}/B\nc\nx\n"
    # one that is in a top of the other
    assert views.out("--view A B", "$P run --view A/n C -- ls A A/n") == "A:\na\nb\nn\n\nA/n:\nc\nx\n"


def test_unset_everything(views):
    """A program that closes and unsets all it can is in the view all the same."""
    views.make(A={}, B={"b": "2"})
    out = views.out("--view A B", "exec env -i P=$P /usr/bin/python3 -c 'import os, subprocess\n"
                    "os.closerange(3, 65536); os.chdir(\"/\"); os.setsid()\n"
                    f"print(open(\"{views.dir}/A/b\").read()); print(subprocess.run([os.environ[\"P\"], \"vpath\"],"
                    " capture_output=True, text=True).stdout)'")
    assert out == f"2\n{views.dir}/A {views.dir}/B\n\n"


def test_setuid(views):
    """A program with the bit gains nothing in a top; elsewhere only where there is somebody to be."""
    views.make(A={}, B={})
    for place in ("B", "."):
        tool = views.dir / place / "id"
        shutil.copy("/usr/bin/id", tool)
        os.chown(tool, 0, 0)
        tool.chmod(0o4755)
    drop = "" if views.user else f"setpriv --reuid {UID} --regid {UID} --clear-groups "
    assert views.out("--view A B", drop + "A/id -u") == f"{UID}\n"
    assert views.out("--view A B", drop + "./id -u") == ("0\n" if not views.user else f"{UID}\n")


# ---- our processes are killed ----


def running(views, options="--view A B"):
    p = views.start(options, "sh", "-c", "echo up; while read x; do eval \"$x\"; done", stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, bufsize=0)
    assert p.stdout.readline() == b"up\n"
    return p


def tell(p, line):
    p.stdin.write(f"{line}; echo ' done'\n".encode())
    lines = b""
    while not lines.endswith(b" done\n"):
        got = p.stdout.readline()
        assert got, "the program in the view has ended"
        lines += got
    return lines[:-6].decode()


def test_server_killed(views):
    """Another takes its place; the table as it was changed, and vpath, are there."""
    only_mount(views)
    views.make(A={}, B={"b": "2"}, C={"c": "3"})
    p = running(views)
    tell(p, "$P vpath C B; exec 7<A/b; cd A")
    entry = views.status()[0]
    if not entry["lasts"].startswith("outlives"):
        p.stdin.close()
        pytest.skip("a space does not outlive its server")
    os.kill(entry["server"], signal.SIGKILL)
    wait_for(lambda: views.status()[0]["server"] not in (0, entry["server"]))
    assert tell(p, "cat b <&7; cat <&7; ls ../C; $P vpath; $P vpath ../A ../C; ls") == \
        f"22b\nc\n{views.dir}/A {views.dir}/B {views.dir}/C {views.dir}/B\nb\nc\n"
    p.stdin.close()
    assert p.wait(10) == 0


@pytest.mark.parametrize("who", ["keeper", "nursery", "all"])
def test_ours_killed(views, who):
    """The tops are dead or go on, never hang; nothing is left when the programs end."""
    only_mount(views)
    views.make(B={"b": "2"})
    p = running(views, "--view x/A B")
    entry = views.status()[0]
    pids = [entry[k] for k in ("keeper", "nursery", "server") if entry[k]]
    for pid in pids if who == "all" else [entry[who]] if entry[who] else []:
        os.kill(pid, signal.SIGKILL)
    if who != "nursery":
        # a name that nobody knows yet: what the kernel knows it goes on answering
        wait_for(lambda: "not connected" in tell(p, "ls x/A/no$(date +%N) 2>&1"))
        wait_for(lambda: tell(p, "$P vpath 2>&1").startswith("plenum: vpath: "))
    p.stdin.close()
    p.wait(10)
    wait_for(lambda: not any(map(alive, pids)))
    views.gone()
    views.out("", ":")  # the next one clears what they could not


def test_run_killed_at_any_time(views):
    """plenum run itself, before it is CMD: nothing stays."""
    views.make(A={}, B={})
    for ms in range(0, 100, 7):
        p = views.start("--view A B", "sleep", "0.2")
        time.sleep(ms / 1000)
        p.kill()
        p.wait()
    views.gone()


# ---- real tools, compared with a plain copy, as an ordinary user ----


def state(views, where):
    return views.plain("bash", "-c", programs.STATE_IN, env=views.env | {"V": str(where)}).stdout


@pytest.mark.parametrize("case", programs.CASES)
def test_programs_of_a_user(plenum, case):
    """What test_view_programs does as root, in a user namespace. (What chowns has its own reasons.)"""
    views = Views(plenum, True)
    views.plain(programs.VIEW / "trees", views.dir)
    low = state(views, views.dir / "low")
    text = programs.script(case)
    want, got = (views.plain(*view, "bash", "-c", text, rc=None, env=views.env | {"V": str(where), "HOME": str(where)})
                 for view, where in (([], views.dir / "mix"),
                                     ([PLENUM, "run", "--view", "top", "low", "--"], views.dir / "top")))
    assert (got.stdout + got.stderr).replace(f"{views.dir}/top", "V") == \
        (want.stdout + want.stderr).replace(f"{views.dir}/mix", "V")
    assert got.returncode == want.returncode
    inside = views.plain(PLENUM, "run", "--view", "top", "low", "--", "bash", "-c", programs.STATE_IN,
                         env=views.env | {"V": str(views.dir / "top")})
    assert inside.stdout == state(views, views.dir / "mix")
    assert state(views, views.dir / "low") == low
    views.gone()


def test_other_name_of_an_open_file(views):
    """A file behind with two names is open for writing when one goes: what is written then is under the other."""
    views.make(A={}, B={"a": "one"})
    os.link(views.dir / "B/a", views.dir / "B/b")
    out = views.out("--view A B", "cd A; exec 5>>a; rm a; echo two >&5; cat b; stat -c %h b; echo three >>b; cat b; ls -A")
    assert out.split() == ["onetwo", "1", "onetwo", "three", "b"] and (views.dir / "B/b").read_text() == "one"
