"""What all parts share: the command line, running programs, tables, the figures for the plot."""
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time

top = pathlib.Path(__file__).resolve().parent.parent.parent
args = [a for a in sys.argv[1:] if not a.startswith("-")]
quick = "--quick" in sys.argv
build = pathlib.Path(args.pop(0) if args and pathlib.Path(args[0]).is_dir() else top / "build").resolve()
wanted = args  # the parts that were named
rounds = 3 if quick else 5
out = top / "bench/out"
out.mkdir(exist_ok=True)
plenum = str(build / "plenum")
median = statistics.median
summary = []  # (label, ratio, goal, better) for the plot


def run(cmd, **kw):
    return subprocess.run(cmd, check=True, stdout=subprocess.PIPE, text=True, timeout=300, **kw).stdout


def timed(cmd, **kw):
    """Seconds that a command takes. subprocess's own timeout will not do here: it polls for the
    end, in steps of up to 50 ms."""
    started = []
    watchdog = threading.Timer(300, lambda: started[0].kill())
    watchdog.start()
    try:
        t = time.monotonic()
        started.append(subprocess.Popen(cmd, **kw))
        status = started[0].wait()
        t = time.monotonic() - t
    finally:
        watchdog.cancel()
    if status:
        raise subprocess.CalledProcessError(status, cmd)
    return t


def program(name):
    return str(build / "bench" / name)


def has_option(word):
    """Does plenum mount know it? A part skips what this build has not got."""
    words = re.findall(r"[\[\]a-z_]+", run([plenum, "mount", "--help"]))
    return word in words or f"[no]{word.removeprefix('no')}" in words


@contextlib.contextmanager
def one_processor():
    """This process and its children: waking another processor costs a virtual machine ten times
    what a request does, and drowns every difference."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def goal(label, ratio, limit, better):
    """A row of the plot: `better` is "low" (at most `limit`) or "high" (at least)."""
    summary.append((label, ratio, limit, better))


def table(title, head, rows):
    print(f"\n{title}")
    width = [max(len(str(r[i])) for r in [head] + rows) for i in range(len(head))]
    for r in [head] + rows:
        print("  " + "  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w)
                               for i, (c, w) in enumerate(zip(r, width))))
    sys.stdout.flush()
    with open(out / (title.split()[0].rstrip(":").lower() + ".csv"), "w") as f:
        for r in [head] + rows:
            f.write(",".join(str(c) for c in r) + "\n")
