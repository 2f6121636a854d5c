# SPDX-License-Identifier: MIT
"""Views of ordinary users over what others own: in every door it is as if it were a copy that the user had made."""
import os
import shutil
import subprocess

import pytest
import test_view_programs as programs
from conftest import PLENUM, fuse, root
from test_run import SETUP, UID, Views, running, tell

pytestmark = [fuse, root]
NOBODY = 65534


@pytest.fixture(params=["mount", "trap", "preload"])
def views(plenum, request):
    v = Views(plenum, True, request.param)
    yield v
    v.gone()


def foreign(path, files):
    """Files of root: {name: (content or None, mode)}."""
    path.mkdir()
    for name, (content, mode) in files.items():
        p = path / name
        if content is None:
            p.mkdir()
        else:
            p.write_text(content)
    for name, (_, mode) in reversed(files.items()):
        (path / name).chmod(mode)


SOURCE = {"main.c": ("main\n", 0o644), "sub": (None, 0o755), "sub/deep.c": ("deep\n", 0o644), "run": ("#!/bin/sh\necho it runs\n", 0o755),
          "ro": ("ro\n", 0o444), "shut": (None, 0o555), "shut/in": ("in\n", 0o644), "shut/sub": (None, 0o755),
          "more": (None, 0o755), "more/a": ("a\n", 0o644), "more/b": ("b\n", 0o664), "sticky": (None, 0o1777), "sticky/f": ("f\n", 0o644),
          "owners": ("x\n", 0o600 | 0o044), "bits": ("x\n", 0o4755)}
# What a user does to sources; each line says what came of it.
WORK = r"""cd "$V" || exit 1
t() { "$@" 2>&1 | sed 's/^[^:]*: //'; }
t ./run; echo more >>main.c; echo new >sub/new; echo new >new; cat main.c sub/*; rm run; mkdir d; t mv sub/deep.c d/; t mv d/deep.c .
(echo x >ro) 2>&1 | sed 's/.*: //'; t chmod u+w ro; echo w >>ro; cat ro; t chmod 640 main.c owners; t touch -d @5 sub more/a; stat -c '%n %Y' more/a
(echo x >shut/new) 2>&1 | sed 's/.*: //'; t rm shut/in; echo w >>shut/in; cat shut/in; echo w >shut/sub/new; t mv shut/in .; t chmod u+w shut; t mv shut/in .
ln more/a hard; echo h >>hard; cat more/a; ln -sf main.c link; cp -r sub sub2; t mv sub renamed; ls renamed; t mv more/b more/c; t rm -r more; ls more 2>&1
t rm sticky/f; echo t >sticky/t; t chmod 777 sticky; truncate -s 1 owners; t setfattr -n user.x -v y owners; getfattr -n user.x owners
t chown "$(id -u)" bits; t chgrp "$(id -g)" d; test -w link; echo $?; test -w shut; echo $?; test -x bits; echo $?; sed -i s/w/W/ ro; cat ro
"""
STATE = r"""cd "$V" && find . -printf '%y %m %p %l\n' | sort && find . -type f -readable | sort | xargs md5sum"""


def test_as_a_copy(views):
    """What is done in the view comes out as in a copy; what is behind is what it was."""
    foreign(views.dir / "src", SOURCE)
    views.make(fix={})
    views.plain("sh", "-c", "umask 0; cp -r src copy")
    before = views.plain("sh", "-c", f"V=src; {STATE}").stdout
    want = [views.plain("bash", "-c", text, env=views.env | {"V": str(views.dir / "copy")}, rc=None).stdout for text in (WORK, STATE)]
    got = [views.plain(PLENUM, "run", f"--door={views.door}", "--view", "fix", "src", "--", "bash", "-c", text, rc=None,
                       env=views.env | {"V": str(views.dir / "fix")}).stdout for text in (WORK, STATE)]
    assert got[0].replace("fix", "copy") == want[0] and "it runs" in want[0], got[0]
    assert got[1] == want[1]
    assert views.plain("sh", "-c", f"V=src; {STATE}").stdout == before
    assert all(p.stat().st_uid == UID for p in (views.dir / "fix").rglob("*") if not p.is_symlink())


def test_what_cannot_be_read(views):
    """Nobody gains anything by it: such a file can be hidden, and no more."""
    foreign(views.dir / "src", {"secret": ("s\n", 0o600), "d": (None, 0o700), "d/f": ("f\n", 0o644), "wonly": ("w\n", 0o622),
                                   "search": (None, 0o711), "search/f": ("found\n", 0o644), "search/e": (None, 0o755)})
    views.make(fix={})
    out = views.out("--view fix src", r"""cd fix
for f in secret wonly; do
    for w in "cat $f" "(echo x >$f)" "(echo x >>$f)" "chmod 644 $f" "touch $f" "ln $f l" "mv $f m"; do eval "$w" 2>&1 | sed 's/.*: //'; done
    test -r $f; echo $?; test -w $f; echo $?
done
ls d 2>&1 | sed 's/.*: //'; cat d/f 2>&1 | sed 's/.*: //'; (echo x >d/f) 2>&1 | sed 's/.*: //'; rm -f secret; ls; echo mine >secret; cat secret
ls search 2>&1 | sed 's/.*: //'; cat search/f; echo w >>search/f; cat search/f; echo n >search/n; echo e >search/e/x; cat search/n search/e/x""")
    assert out == ("Permission denied\n" * 7 + "1\n1\n") * 2 + "Permission denied\n" * 3 + "d\nsearch\nwonly\nmine\n" + \
        "Permission denied\nfound\nfound\nw\nn\ne\n"
    assert (views.dir / "src/secret").read_text() == "s\n" and os.listdir(views.dir / "fix").count("secret") == 1


def test_others_in_the_own_top(views):
    """What root has put into the user's top: as without a view, he may take it away, and not write it."""
    views.make(A={"d/x": "x"}, B={})
    a = views.dir / "A"
    for name in ("gone", "moved", "kept", "sticky", "grouped"):
        (a / name).write_text(f"{name}\n")
    (a / "full").mkdir()
    (a / "full/f").write_text("f")
    (a / "t").mkdir()
    (a / "t/f").write_text("f")
    os.chmod(a / "t", 0o1777)
    os.chown(a / "grouped", UID, 0)
    text = r"""cd A; for w in "rm -f gone" "mv moved d/moved" "(echo x >>kept)" "chmod 600 kept" "rm -f t/f" "(echo x >full/n)" "rm full/f" "mv full d" "mv full full2" "mv full2 full" \
        "echo x >>grouped" "chmod 600 grouped" "touch d/moved"; do echo "$w"; eval "$w" 2>&1 | sed 's/.*: //'; done; cat kept grouped; ls . d full"""
    views.plain("cp", "-r", "A", "C")  # root's are made again
    shutil.rmtree(views.dir / "C")
    shutil.copytree(a, views.dir / "C")
    for p in [a, *a.rglob("*")]:
        q = views.dir / "C" / p.relative_to(a)
        os.chown(q, p.stat().st_uid, p.stat().st_gid)
        q.chmod(p.stat().st_mode)
    want = views.plain("sh", "-c", text.replace("cd A", "cd C")).stdout
    assert views.out("--view A B", text) == want and "Operation not permitted\n" in want, want


def test_whose_it_looks(views):
    """In the mount all is the user's, with the rights he has; so git works in sources of root's. The trap shows owners."""
    foreign(views.dir / "src", {"f": ("x\n", 0o644), "secret": ("s\n", 0o640), "bits": ("x\n", 0o6755), "other": ("x\n", 0o604)})
    views.make(fix={})
    views.plain("sh", "-c", "true")
    os.system(f"cd {views.dir}/src && git -c init.defaultBranch=main init -q . && git add f && git -c user.name=n -c user.email=e commit -qm one")
    out = views.out("--view fix src", "cd fix; stat -c '%u %g %a %n' f secret bits other")
    if views.door == "mount":
        assert out == f"{UID} {UID} 644 f\n{UID} {UID} 40 secret\n{UID} {UID} 755 bits\n{UID} {UID} 604 other\n"
    else:
        assert out == "0 0 644 f\n0 0 640 secret\n0 0 6755 bits\n0 0 604 other\n"
    safe = "" if views.door == "mount" else "-c safe.directory='*'"
    script = f"cd fix; echo more >>f; git {safe} commit -qam two; git {safe} log --format=%s; git {safe} status --porcelain -uno"
    assert views.out("--view fix src", script) == "two\none\n"


def test_files_stay_open(views):
    """Whoever has a file open goes on with it, whatever its mode has become, or was from the beginning."""
    views.make(A={"f": "old", "d/x": ""}, B={"g": "behind"})
    out = views.out("--view A B", r"""cd A; python3 -c '
import os, time
new = os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
os.write(new, b"one"); time.sleep(0.3); os.write(new, b"two"); os.ftruncate(new, 5)
print(os.pread(new, 9, 0), oct(os.fstat(new).st_mode))
for name in "f", "g":
    fd = os.open(name, os.O_RDWR); os.chmod(name, 0); time.sleep(0.3)
    os.write(fd, b"N"); print(os.pread(fd, 9, 0), oct(os.stat(name).st_mode))
    try:
        os.open(name, os.O_RDONLY)
    except OSError as e:
        print(e.strerror)
d = os.open("d", os.O_RDONLY); os.chmod("d", 0); time.sleep(0.3)
print(os.listdir(d)); os.chmod("d", 0o755)
'""")
    denied = "Permission denied\n"
    assert out == f"b'onetw' 0o100444\nb'Nld' 0o100000\n{denied}b'Nehind' 0o100000\n{denied}['x']\n"


@pytest.mark.parametrize("views", ["mount"], indirect=True)
def test_opens_stay_in_the_kernel(views):
    """As in root's view: opening, reading and listing what the kernel knows costs no request."""
    foreign(views.dir / "src", {"f": ("x\n", 0o644), "d": (None, 0o755), "d/g": ("y\n", 0o644)})
    views.make(A={"own": "z"})
    p = running(views, "--view A src")
    tell(p, "cd A; exec 7</dev/null; look() { for i in 1 2 3 4 5 6 7 8 9 0; do for f in f d/g own; do read x <$f; done; echo d/*; done; }; look; look")
    before = views.status()[0]["requests"]
    tell(p, "for k in 1 2 3 4 5; do look >/dev/null; done")
    assert views.status()[0]["requests"] - before < 20
    p.stdin.close()
    assert p.wait(10) == 0


@pytest.mark.parametrize("case", programs.CASES)
def test_programs_over_what_is_roots(views, case):
    """Real tools, compared with the same in a copy that is the user's."""
    if case == "numbers" and views.door != "mount":
        pytest.skip("descriptors are those of the files, whose number changes when they are copied up")
    views.plain(programs.VIEW / "trees", views.dir)
    for d in ("low", "mix"):
        (views.dir / d / "doc/private").chmod(0o644)
    for p in [views.dir / "low", *(views.dir / "low").rglob("*")]:
        os.chown(p, 0, 0, follow_symlinks=False)
    text, state = programs.script(case), programs.STATE_IN
    if views.door != "mount":
        state = state.replace(" %u %g", "")  # whose they are is shown as it is
    env = views.env | {"V": str(views.dir / "mix"), "HOME": str(views.dir / "mix")}
    low = views.plain("bash", "-c", state, env=env | {"V": str(views.dir / "low")}).stdout
    want = [views.plain("bash", "-c", t, rc=None, env=env) for t in (text, state)]
    env = views.env | {"V": str(views.dir / "top"), "HOME": str(views.dir / "top")}
    got = [views.plain(PLENUM, "run", f"--door={views.door}", "--view", "top", "low", "--", "bash", "-c", t, rc=None, env=env) for t in (text, state)]
    for g, w in zip(got, want):
        assert (g.stdout + g.stderr).replace(f"{views.dir}/top", "V") == (w.stdout + w.stderr).replace(f"{views.dir}/mix", "V")
        assert g.returncode == w.returncode
    assert views.plain("bash", "-c", state, env=env | {"V": str(views.dir / "low")}).stdout == low


def test_over_what_cannot_be_read(views):
    """Said at once, and by vpath."""
    foreign(views.dir / "src", {"d": (None, 0o700), "d/e": (None, 0o755)})
    views.make(fix={})
    for d in ("src/d", "src/d/e"):
        said = f"{views.dir}/{d}: permission denied ({views.dir}/fix can only be over what its user may read)\n"
        assert views.run(f"--view fix {d}", ":", rc=1).stderr == f"plenum: run: {said}"
        assert views.run("", f"$P vpath fix {d}", rc=1).stderr == f"plenum: vpath: {said}"


def test_what_is_bound(views):
    """A union that a SPEC names is as a view; what is read-only says so."""
    foreign(views.dir / "src", SOURCE)
    views.make(fix={}, here={})
    assert views.out("--bind union(fix,src) here", "cd here; echo w >>main.c; rm run; mv sub renamed; cat main.c renamed/deep.c; ls") == \
        "main\nw\ndeep\nbits\nmain.c\nmore\nowners\nrenamed\nro\nshut\nsticky\n"
    out = views.out("--bind ro(src) here", "(echo w >>here/main.c) 2>&1 | sed 's/.*: //'; rm -f here/main.c 2>&1 | sed 's/.*: //'")
    assert out == ("Permission denied\n" if views.door == "mount" else "Read-only file system\n") + "Read-only file system\n"


def test_names_and_read_only(views):
    """What is noted of directories and files that must not be written: where their parts are, which names are one file."""
    foreign(views.dir / "src", {"d": (None, 0o755), "d/a": ("a\n", 0o444), "d/sub": (None, 0o555), "d/sub/f": ("f\n", 0o644), "one": ("1\n", 0o444)})
    os.link(views.dir / "src/one", views.dir / "src/two")
    views.make(fix={})
    out = views.out("--view fix src", """cd fix; mv d/sub d/sub2; mv d e; find . | sort; cat e/sub2/f; echo w >>e/sub2/f; cat e/sub2/f
        chmod u+w one; echo 2 >>one; cat two; stat -c '%a %h %n' one two; stat -c %a e/sub2
        rm -f e/a; rm -rf e 2>/dev/null; chmod u+w e/sub2; rm -r e; ls""")
    assert out.split() == [".", "./e", "./e/a", "./e/sub2", "./e/sub2/f", "./one", "./two", "f", "f", "w", "1", "2", "644", "2", "one", "644", "2",
                           "two", "555", "one", "two"]


def test_by_group(views):
    """A user's other groups count for him: to read, and in the top to write."""
    foreign(views.dir / "src", {"g": ("g\n", 0o660), "h": ("h\n", 0o640), "d": (None, 0o770), "d/f": ("f\n", 0o664)})
    views.make(fix={"x/y": ""})
    views.groups = f"--groups {UID - 1}"
    (views.dir / "fix/t").write_text("t\n")
    (views.dir / "fix/t").chmod(0o664)
    for p in [views.dir / "fix/t", views.dir / "src", *(views.dir / "src").rglob("*")]:
        os.chown(p, 0, UID - 1)
    out = views.out("--view fix src", "cd fix; for f in g h d/f t; do cat $f; echo w >>$f; cat $f; done; echo n >d/n; ls d; stat -c '%a %n' g h d t")
    assert out == "".join(f"{x}\n{x}\nw\n" for x in "ghft") + "f\nn\n660 g\n640 h\n770 d\n664 t\n"
    assert (views.dir / "fix/t").stat().st_uid == 0 and (views.dir / "fix/g").stat().st_uid == UID


@pytest.mark.parametrize("options", ["", "-o noopen"])
def test_mine_in_a_mount(plenum, options):
    """What a view does by itself a user's mount does by mine()."""
    plenum.tmp.chmod(0o755)
    foreign(plenum.tmp / "src", {"f": ("f\n", 0o644), "secret": ("s\n", 0o600), "d": (None, 0o755), "d/g": ("g\n", 0o644)})
    for d in ("fix", "m"):
        (plenum.tmp / d).mkdir()
        os.chown(plenum.tmp / d, NOBODY, NOBODY)
    script = f"""cd {plenum.tmp}; export HOME=$PWD; {PLENUM} mount {options} "mine(union($PWD/fix,$PWD/src))" m || exit
        stat -c '%u %g %a %n' m/f m/secret; echo w >>m/f; cat m/f; mv m/d m/e; echo n >m/e/g; cat m/e/g; cat m/secret 2>&1 | sed 's/.*: //'; {PLENUM} umount m"""
    p = subprocess.run(["unshare", "-m", "sh", "-c", SETUP.replace(str(UID), str(NOBODY)), plenum.tmp, "sh", "-c", script], capture_output=True, text=True, timeout=50)
    assert p.stdout == f"{NOBODY} {NOBODY} 644 m/f\n{NOBODY} {NOBODY} 0 m/secret\nf\nw\nn\nPermission denied\n" and not p.stderr, p.stdout + p.stderr
    assert (plenum.tmp / "src/f").read_text() == "f\n" and (plenum.tmp / "fix/f").read_text() == "f\nw\n"


BY_DESCRIPTOR = r"""
import ctypes, mmap, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def t(name, fn, *args):
    try:
        r = fn(*args)
        print(name, r if isinstance(r, (bytes, str)) else "")
    except OSError as e:
        print(name, e.strerror)
def fd(name, flags=os.O_RDONLY):
    return os.open(name, flags)
t("fchmod", os.fchmod, fd("a"), 0o640)
t("futimens", os.utime, fd("b"), (5, 5))
t("fsetxattr", os.setxattr, fd("c"), "user.k", b"v")
t("fchown", os.fchown, fd("d"), os.getuid(), os.getgid())
t("fchown another", os.fchown, fd("d"), os.getuid(), -1)
t("truncate", os.truncate, "e", 1)
with open("f", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[0:1] = b"M"
t("mapped", lambda: open("f").read())
t("exchange", lambda: libc.syscall(316, -100, b"g", -100, b"h", 2) and print(os.strerror(ctypes.get_errno())))
t("exchanged", lambda: open("g").read() + open("h").read())
tmp = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
t("link", lambda: str(libc.linkat(-100, f"/proc/self/fd/{tmp}".encode(), -100, b"linked", 0x400)))
d = os.open("sub", os.O_RDONLY)
t("openat", lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=d)))
t("unlinkat", lambda: os.unlink("x", dir_fd=d))
t("mkdirat", lambda: os.mkdir("m", dir_fd=d))
t("append", lambda: os.write(fd("i", os.O_WRONLY | os.O_APPEND), b"more"))
t("trunc", lambda: os.close(fd("j", os.O_WRONLY | os.O_TRUNC)))
t("rdonly trunc", lambda: os.close(fd("ro", os.O_RDONLY | os.O_TRUNC)))
t("copy", lambda: os.copy_file_range(fd("a"), fd("k", os.O_WRONLY), 1))
t("rmdir", os.rmdir, "empty")
t("rename over", os.rename, "l", "m")
t("access", lambda: str([os.access(n, os.W_OK) for n in ("n", "ro", "sub", "shut")]))
t("in shut", lambda: os.mkdir("shut/d"))
"""


def test_by_descriptor(views):
    """Calls that no shell makes, as in a copy."""
    files = {n: (f"{n}\n", 0o644) for n in "abcdefghijklmn"} | {"ro": ("ro\n", 0o444), "sub": (None, 0o755), "sub/x": ("x\n", 0o644),
                                                               "empty": (None, 0o755), "shut": (None, 0o555)}
    foreign(views.dir / "src", files)
    views.make(fix={})
    views.plain("sh", "-c", "umask 0; cp -r src copy")
    want = [views.plain("python3", "-c", BY_DESCRIPTOR, "copy").stdout, views.plain("bash", "-c", STATE, env=views.env | {"V": "copy"}).stdout]
    run = [PLENUM, "run", f"--door={views.door}", "--view", "fix", "src", "--"]
    got = [views.plain(*run, "python3", "-c", BY_DESCRIPTOR, "fix").stdout, views.plain(*run, "bash", "-c", STATE, env=views.env | {"V": "fix"}).stdout]
    assert got == want and got[0].count("Permission denied") == 2, got[0]
