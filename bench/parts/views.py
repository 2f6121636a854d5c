"""Programs in a view of one tree over another: every door, and what others have for it."""
import pathlib
import shutil
import subprocess
import tempfile

from . import meta
from .common import goal, median, one_processor, plenum, program, quick, rounds, run, table

FILES = 8000
DOORS = ["mount", "mount-user", "trap", "preload"]  # all root's, but one: an ordinary user's over root's files
USER = 64999
JOBS = {"find": "find . -printf '%s %T@\\n'", "grep -r": "grep -rc plenum .",
        "git status": "git -c safe.directory='*' --no-optional-locks status --porcelain",
        "compile": "rm -rf objects; make -s -j1 -f compile.mk"}
SINGLE = {"open+close": "open", "stat": "stat", "read 4 KiB": "read4k"}
# Each candidate has a git index of its own, for the numbers of files differ, and brings it up to date first.
# Runs each job in one shell, the first times unseen, and prints microseconds; then the single operations.
SCRIPT = """cd "$V" || exit 1
git -c safe.directory='*' status --porcelain >/dev/null
job() {{ local a=$EPOCHREALTIME b; eval "$1" >/dev/null 2>&1; b=$EPOCHREALTIME; echo $((${{b/./}} - ${{a/./}})); }}
{jobs}
{single}
"""
GOALS = [  # door, job, of what, ratio, better
    ("preload", "compile", "native", 1.5, "low"), ("preload", "find", "native", 2, "low"),
    ("preload", "grep -r", "native", 2, "low"), ("mount", "find", "native", 1.3, "low"),
    ("mount", "grep -r", "native", 1.3, "low"), ("mount", "compile", "native", 1.3, "low"),
    ("mount-user", "find", "native", 1.3, "low"), ("mount-user", "grep -r", "native", 1.3, "low"),
    ("mount-user", "compile", "native", 1.3, "low"), ("mount", "read 4 KiB", "native", 1.1, "low"), ("trap", "read 4 KiB", "native", 1.1, "low"),
    ("preload", "read 4 KiB", "native", 1.1, "low"), ("mount", "grep -r", "proot", 10, "high"),
    ("preload", "grep -r", "proot", 10, "high"), ("mount", "find", "fuse-overlayfs", 3, "high"),
    ("preload", "find", "fuse-overlayfs", 3, "high")]


def script():
    # Unseen twice: the first time files are read, the second time what that has moved is learnt (access times).
    jobs = "\n".join(f"job {quoted(c)} >/dev/null; " * 2 + f"job {quoted(c)}" for c in JOBS.values())
    single = "\n".join(f"{program('onefile')} {k} 100 \"$V/big\"" for k in SINGLE.values())
    return SCRIPT.format(jobs=jobs, single=single)


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


class Candidate:
    """Where a merged tree is seen, and how a command is run there."""

    def __init__(self, name, base):
        self.name, self.base, self.where, self.wrap, self.mounted = name, base, f"{base}/top", [], []
        getattr(self, "make_" + name.replace("-", "_"))()

    def make_native(self):
        self.where = f"{self.base}/plain"

    def make_overlayfs(self):
        self.wrap = ["unshare", "-rm", "sh", "-c", f"mount -t overlay o -o userxattr,lowerdir={self.base}/low,"
                     f"upperdir={self.base}/top,workdir={self.base}/work {self.base}/top && exec \"$@\"", "sh"]

    def make_fuse_overlayfs(self):
        self.where = f"{self.base}/seen"
        run(["fuse-overlayfs", "-o", f"lowerdir={self.base}/low,upperdir={self.base}/top,"
             f"workdir={self.base}/work", self.where], stderr=subprocess.DEVNULL)
        self.mounted = [self.where]

    def make_mergerfs(self):
        self.where = f"{self.base}/seen"
        run(["mergerfs", "-o", "cache.files=auto-full,func.getattr=ff", f"{self.base}/top:{self.base}/low", self.where])
        self.mounted = [self.where]

    def make_proot(self):  # has no union: the merged tree at another path
        self.wrap = ["proot", "-b", f"{self.base}/plain:{self.base}/top"]

    def make_fakechroot(self):  # nor this: what is outside is left as it is
        root = f"{self.base}/root"
        pathlib.Path(root).mkdir(exist_ok=True)
        shutil.copytree(f"{self.base}/plain", f"{root}/plain", symlinks=True, dirs_exist_ok=True)
        self.where = "/plain"
        self.wrap = ["env", "FAKECHROOT_EXCLUDE_PATH=/usr:/bin:/lib:/lib64:/etc:/proc:/dev:" + program("onefile"), "fakechroot",
                     "chroot", root]

    def make_mount(self):
        self.wrap = [plenum, "run", f"--door={self.name}", "--view", f"{self.base}/top", f"{self.base}/low", "--"]

    make_trap = make_preload = make_mount

    def make_mount_user(self):
        self.where = f"{self.base}/user"
        self.wrap = as_user(self.base, [plenum, "run", "--door=mount", "--view", self.where, f"{self.base}/low", "--"])

    def measure(self):
        env = {"V": self.where, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": self.base,
               "GIT_INDEX_FILE": f".git/index-{self.name}"}
        answer = run([*self.wrap, "/bin/bash", "-c", script()], env=env).split()
        values = [float(x) / 1e6 for x in answer[:len(JOBS)]] + [float(x) / 1e6 for x in answer[len(JOBS):]]
        return dict(zip([*JOBS, *SINGLE], values))  # in s; the single ones of a thousand

    def done(self):
        for d in self.mounted:
            run(["umount", d])


def as_user(base, argv):
    """An ordinary user, who may open a /dev/fuse."""
    pathlib.Path(base).chmod(0o711)
    return ["unshare", "-m", "sh", "-c", f"""[ -e {base}/fuse ] || mknod -m 666 {base}/fuse c 10 229
mount --bind {base}/fuse /dev/fuse && exec setpriv --reuid {USER} --regid {USER} --clear-groups -- "$@" """, "sh", *argv]


def files_in(tree):
    return sum(1 for p in tree.rglob("*") if p.is_file() and ".git" not in p.parts)


def prepare(base, candidates):
    """8,000 files (headers, several times) and a few over them, and the same merged."""
    meta.prepare(f"{base}/made")
    shutil.move(f"{base}/made/project", f"{base}/low")
    pathlib.Path(base, "low/big").write_bytes(b"b" * (4 << 20))
    low, upper = pathlib.Path(base, "low"), pathlib.Path(base, "top")
    with open(low / ".gitignore", "a") as f:
        f.write("more/\n")
    for i in range(1, 100):
        if files_in(low) >= FILES:
            break
        shutil.copytree(low / "linux", low / f"more/linux{i}")
    for d in ("seen", "work", "top"):
        pathlib.Path(base, d).mkdir()
    for f in sorted(low.glob("tree/*.c"))[:3] + [low / "README.md"]:
        (upper / f.relative_to(low)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f, upper / f.relative_to(low))
    (upper / ".git").mkdir()
    for n in candidates:
        shutil.copy2(low / ".git/index", upper / f".git/index-{n}")
    run(["cp", "-a", f"{base}/top", f"{base}/user"])
    run(["chown", "-R", f"{USER}:{USER}", f"{base}/user"])
    run(["cp", "-a", f"{base}/low", f"{base}/plain"])
    run(["cp", "-a", f"{base}/top/.", f"{base}/plain/"])
    return files_in(low)


def names():
    found = ["native", "overlayfs"] + [n for n in ("fuse-overlayfs", "proot", "fakechroot", "mergerfs") if shutil.which(n)]
    with tempfile.TemporaryDirectory(prefix="plenum-views.", dir="/tmp") as tmp:
        for d in DOORS:
            argv = [plenum, "run", f"--door={d.split('-')[0]}", "--", "true"]
            argv = as_user(tmp, argv) if d == "mount-user" else argv
            if subprocess.run(argv, capture_output=True).returncode == 0:
                found.append(d)
            else:
                print(f"  {d}: not available in this build or on this machine")
    return found


def views():
    base = tempfile.mkdtemp(prefix="plenum-views.", dir="/tmp")
    figures, all_names = {}, names()
    try:
        files = prepare(base, all_names)
        with one_processor():
            for i in range(2 if quick else rounds):
                for name in all_names[i % len(all_names):] + all_names[:i % len(all_names)]:
                    c = Candidate(name, base)
                    try:
                        for job, seconds in c.measure().items():
                            figures.setdefault((job, name), []).append(seconds)
                    finally:
                        c.done()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    med = {k: median(v) for k, v in figures.items()}
    rows = [[job] + [f"{med[job, n] * 1000:.2f}" for n in all_names] +
            [f"{med[job, n] / med[job, 'native']:.2f}" for n in all_names[1:]] for job in [*JOBS, *SINGLE]]
    table(f"Views: {files} files, one tree over another, warm; ms (single operations: of 1000)",
          [""] + all_names + [f"{n}/native" for n in all_names[1:]], rows)
    for door, job, other, limit, better in GOALS:
        if (job, door) in med and (job, other) in med:
            ratio = med[job, door] / med[job, other] if better == "low" else med[job, other] / med[job, door]
            label = f"{door} {job} : {other}" if better == "low" else f"{other} : {door} {job}"
            goal(label, ratio, limit, better)
