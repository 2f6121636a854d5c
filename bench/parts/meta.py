"""Work on a source tree, cold (a fresh mount; the file system below has it all in memory) and warm."""
import os
import pathlib
import shutil
import tempfile
import time

from .common import goal, has_option, median, one_processor, program, quick, rounds, run, table, timed, top
from .mounts import Mounts, libfuse_examples

NAMES = ["native", "plenum", "noopen", "bindfs", "passthrough_hp", "passthrough_ll", "sshfs"]
# GIT_INDEX_FILE: each candidate has an index of its own, which holds its own inode numbers and times.
JOBS = {"find": "find . -printf '%s %T@\\n' >/dev/null",
        "git status": "git -c safe.directory='*' status --porcelain >/dev/null",
        "tar": "tar cf - . | cat >/dev/null",
        "grep -r": "grep -rc plenum . >/dev/null || true",
        "compile": "make -s -j1 -f compile.mk",
        "cat 64 MiB": "cat ../big >/dev/null"}
CLEAN = "rm -rf objects"
NATIVE_GOAL = ("find", "git status", "tar", "compile")  # of the default mount, warm
NOOPEN_GOAL = ("grep -r", "tar", "open+close")          # of noopen, warm
MAKEFILE = """SRC := $(wildcard {dirs})
all: $(SRC:%.c=objects/%.o)
objects/%.o: %.c
	@mkdir -p $(@D)
	gcc -D_GNU_SOURCE -DPL_VERSION='"0"' -Iinclude -I. -c -o $@ $<
"""


def sources():
    """plenum's own, by git if this is a checkout, else without what a build and a run leave."""
    if (top / ".git").exists():
        return [f for f in run(["git", "-C", str(top), "ls-files"]).splitlines() if (top / f).is_file()]
    files = [str(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and not p.is_symlink()]
    return [f for f in files if not f.startswith(("build", "bench/out", "."))]


def prepare(source):
    project = pathlib.Path(source, "project")
    for f in sources():
        (project / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(top / f, project / f)
    run(["cp", "-rL", "/usr/include/linux", "/usr/include/x86_64-linux-gnu", str(project)])
    (project / "compile.mk").write_text(MAKEFILE.format(dirs="tree/*.c" if quick else "base/*.c tree/*.c"))
    with open(project / ".gitignore", "a") as f:
        f.write("objects/\n")
    old = time.time() - 3600  # git does not trust what changed in the moment of its index
    for d, _, files in os.walk(project):
        for f in files:
            os.utime(os.path.join(d, f), (old, old))
    git = ["git", "-C", str(project), "-c", "user.name=b", "-c", "user.email=b", "-c", "gc.auto=0"]
    for cmd in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "b"], ["gc", "-q"]):
        run(git + cmd)
    for n in NAMES:
        shutil.copy(project / ".git/index", project / f".git/index-{n}")
    pathlib.Path(source, "big").write_bytes(b"b" * (64 << 20))
    return sum(len(f) for _, _, f in os.walk(project))


def sh(cmd, d, name):
    env = dict(os.environ, GIT_INDEX_FILE=f".git/index-{name}")
    return timed(["sh", "-c", cmd], cwd=f"{d}/project", env=env)


def one_job(m, job, name, figures):
    sh(CLEAN, m.source, name)  # before it is mounted: nothing below changes behind a mount
    d = m.mount(name)
    figures.setdefault((job, "cold", name), []).append(sh(JOBS[job], d, name))
    for _ in range(1 if job == "compile" else 3):
        sh(CLEAN, d, name)
        figures.setdefault((job, "warm", name), []).append(sh(JOBS[job], d, name))
    m.umount(d)


def open_close(m, figures):
    """All at once; onefile alternates between them."""
    dirs = {n: m.mount(n) for n in m.names}
    file = "project/meson.build"
    answer = run([program("onefile"), "open", "100"] + [f"{d}/{file}" for d in dirs.values()])
    for name, ns in zip(dirs, answer.split()):
        figures.setdefault(("open+close", "warm", name), []).append(float(ns) / 1e6)  # a thousand, in s
    for d in dirs.values():
        m.umount(d)


def measure(source):
    figures = {}
    with one_processor(), Mounts(source, NAMES) as m:
        for job in JOBS:
            sh(CLEAN, source, "native")
            sh(JOBS[job], source, "native")  # into memory, for whoever comes first
        for i in range(2 if quick else rounds):
            for job in JOBS:
                for name in m.names[i % len(m.names):] + m.names[:i % len(m.names)]:
                    one_job(m, job, name, figures)
            open_close(m, figures)
        return m.names, {k: median(v) for k, v in figures.items()}


def goals(job, state, med):
    label = f"{state} {job}"
    if state == "warm" and job in NATIVE_GOAL:
        goal(f"{label} : native", med["plenum"] / med["native"], 1.1, "low")
    if state == "cold" and job in NATIVE_GOAL:
        for peer, limit in (("bindfs", 1.5), ("passthrough_hp", 1.0)):
            if peer in med:
                goal(f"{peer} : {label}", med[peer] / med["plenum"], limit, "high")
    if state == "warm" and job in NOOPEN_GOAL and "noopen" in med:
        goal(f"{label}, noopen : native", med["noopen"] / med["native"], 1.5, "low")


def meta():
    libfuse_examples()
    source = tempfile.mkdtemp(prefix="plenum-src.", dir="/tmp")
    try:
        files = prepare(source)
        names, figures = measure(source)
    finally:
        shutil.rmtree(source)
    ours = [n for n in ("plenum", "noopen") if n in names]
    peers = [n for n in names if n not in ours and n != "native"]
    rows = []
    for job in [*JOBS, "open+close"]:
        for state in ("cold", "warm"):
            med = {n: figures[job, state, n] for n in names if (job, state, n) in figures}
            if med:
                rows.append([f"{state} {job}"] + [f"{med[n] * 1000:.1f}" for n in names] +
                            [f"{med[n] / med['native']:.2f}" for n in ours] +
                            [f"{med[p] / med['plenum']:.2f}" for p in peers])
                goals(job, state, med)
    table(f"Meta: {files} files through the mount, ms (open+close: of 1000)",
          [""] + names + [f"{n}/native" for n in ours] + [f"{p}/plenum" for p in peers], rows)
    if not has_option("noopen"):
        print("  noopen: not available in this build")
