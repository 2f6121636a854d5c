# SPDX-License-Identifier: MIT
"""The door preload: what programs find by themselves, and what they leave to the trap. That results are
the same is test_view_programs.py's and unit/preload.c's."""
import os
import subprocess
import textwrap

import pytest
from conftest import PLENUM


@pytest.fixture
def view(plenum):
    """A view of up over low; runs programs in it, in the door preload."""
    for d in ("up", "low"):
        plenum.dir(d).joinpath("both").write_text(d)
    (plenum.tmp / "low/low").write_text("behind")
    there = subprocess.run([PLENUM, "run", "--door=preload", "true"], capture_output=True, text=True)
    assert there.returncode == 0, there.stderr

    def run(*argv, **kw):
        up, low = plenum.tmp / "up", plenum.tmp / "low"
        env = dict(os.environ, LC_ALL="C", **kw.pop("env", {}))
        p = subprocess.run([PLENUM, "run", "--door=preload", "--view", up, low, "--", *argv], cwd=up, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, env=env, **kw)
        assert p.returncode == 0, p.stdout
        return p.stdout
    run.tmp = plenum.tmp
    return run


def compile_c(tmp, name, text, *flags):
    (tmp / f"{name}.c").write_text(textwrap.dedent(text))
    subprocess.run(["cc", "-D_GNU_SOURCE", "-o", tmp / name, tmp / f"{name}.c", *flags], check=True)
    return str(tmp / name)


READER = """
    #include <fcntl.h>
    #include <stdio.h>
    #include <unistd.h>
    int main(void)
    {
        char buf[16];
        int fd = open("low", O_RDONLY);
        ssize_t n = read(fd, buf, sizeof(buf));
        printf("%.*s\\n", n < 0 ? 0 : (int)n, buf);
        return n != 6;
    }
"""


def test_it_is_used(view):
    assert "memfd:plenum-preload" in view("cat", "/proc/self/maps")


def test_verbose_says_so(view):
    p = subprocess.run([PLENUM, "run", "-v", "--door=preload", "true"], capture_output=True, text=True, timeout=60)
    assert "door preload" in p.stderr


def test_environment_taken_away(view):
    assert view("env", "-i", "/bin/sh", "-c", "cat low; cat both; grep -c plenum-preload /proc/self/maps || true") == "behindup0\n"


def test_own_preload_is_kept(view):
    compile_c(view.tmp, "other.so", "__attribute__((constructor)) static void up(void) { }", "-shared", "-fPIC")
    maps = view("cat", "/proc/self/maps", env={"LD_PRELOAD": f"{view.tmp}/other.so"})
    assert "other.so" in maps and "memfd:plenum-preload" in maps


def test_static_program(view):
    assert view(compile_c(view.tmp, "reader", READER, "-static")) == "behind\n"


def test_page_is_taken(view):
    """Somebody has put something where the preload's code was to be: everything goes through the trap."""
    taker = compile_c(view.tmp, "taker.so", """
        #include <fcntl.h>
        #include <stdint.h>
        #include <sys/mman.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        __attribute__((constructor)) static void take(void)
        {
            int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/plenum/view", O_RDONLY);
            uint64_t at = 0;
            if (fd < 0)
                return; /* not in the view yet */
            if (pread(fd, &at, sizeof(at), 16) != sizeof(at) || !at)
                _exit(9);
            void *p = mmap((void *)(uintptr_t)at, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
            if (p != (void *)(uintptr_t)at)
                _exit(8);
            close(fd);
        }
        """, "-shared", "-fPIC")
    out = view("sh", "-c", "cat low; grep -c memfd:plenum-preload /proc/self/maps || true", env={"LD_PRELOAD": taker})
    assert out == "behind0\n"


def test_what_is_behind_is_not_changed(view):
    """A file that was opened to be read, by the preload, is changed through its descriptor."""
    out = view("python3", "-c", textwrap.dedent("""
        import os, time
        time.sleep(0.1)  # what has just changed is for the trap
        for i in range(3):
            fd = os.open("low", os.O_RDONLY)
        print(os.readlink(f"/proc/self/fd/{fd}"))
        os.fchmod(fd, 0o700)
        os.utime(fd, (5, 5))
        print(oct(os.stat("low").st_mode & 0o777), int(os.stat("low").st_mtime))
    """))
    assert out.split() == [f"{view.tmp}/up/low", "0o700", "5"]
    low = (view.tmp / "low/low").stat()
    assert low.st_mode & 0o777 != 0o700 and low.st_mtime != 5


def test_changes_of_others_are_seen(view):
    """Files are made, hidden and removed in both trees by who is not in the view."""
    out = view("python3", "-c", textwrap.dedent("""
        import os, sys, time
        def has(name):
            try:
                return open(name).read() or "empty"
            except OSError as e:
                return e.strerror.split()[0]
        def asked(what):
            open(sys.argv[1], "w").write(what)     # the one outside does it, and says so
            open(sys.argv[2]).read()
        time.sleep(0.1)
        for name in "low", "both", "new":
            has(name)
        for what in "top", "hide", "show", "new", "gone":
            asked(what)
            print(what, has("low"), has("both"), has("new"))
    """), str(fifo(view, "ask")), str(fifo(view, "told")), preexec_fn=outside(view))
    assert out.splitlines() == ["top in-top up No", "hide No up No", "show behind up No", "new behind up made", "gone behind low No"]


def fifo(view, name):
    os.mkfifo(view.tmp / name)
    return view.tmp / name


def outside(view):
    """What happens to the trees meanwhile, in a process of its own that ends with the last request."""
    up, low = view.tmp / "up", view.tmp / "low"
    steps = {"top": lambda: (up / "low").write_text("in-top"),
             "hide": lambda: ((up / "low").unlink(), (up / ".wh.low").touch()),
             "show": lambda: (up / ".wh.low").unlink(),
             "new": lambda: (low / "new").write_text("made"),
             "gone": lambda: ((low / "new").unlink(), (up / "both").unlink())}
    if os.fork() == 0:
        try:
            for _ in steps:
                steps[(view.tmp / "ask").read_text()]()
                (view.tmp / "told").write_text("done")
        finally:
            os._exit(0)
    return None


def test_view_is_changed(view):
    """A program that has begun sees another view from its next call on."""
    (view.tmp / "else").mkdir()
    (view.tmp / "else/other").write_text("other")
    out = view("python3", "-c", textwrap.dedent(f"""
        import os, subprocess
        for i in range(3):
            assert os.path.exists("low") and not os.path.exists("other")
        subprocess.run(["{PLENUM}", "vpath", "{view.tmp}/up", "{view.tmp}/else"], check=True)
        print(os.path.exists("low"), os.path.exists("other"))
        print(subprocess.run(["cat", "{view.tmp}/up/other"], stdout=subprocess.PIPE, text=True).stdout)
    """))
    assert out.split() == ["False", "True", "other"]


def test_threads_and_vfork(view):
    threads = compile_c(view.tmp, "threads", """
        #include <fcntl.h>
        #include <pthread.h>
        #include <stdio.h>
        #include <sys/stat.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static void *look(void *arg)
        {
            struct stat st;
            char buf[8];
            for (int i = 0; i < 2000; i++) {
                int fd = open("low", O_RDONLY | O_CLOEXEC);
                if (fd < 0 || read(fd, buf, 8) != 6 || stat("both", &st) < 0 || st.st_size != 2 || stat("none", &st) == 0)
                    return arg;
                close(fd);
            }
            return NULL;
        }
        int main(void)
        {
            pthread_t t[4];
            void *bad = NULL, *r;
            for (int i = 0; i < 4; i++)
                pthread_create(&t[i], NULL, look, "x");
            for (int i = 0; i < 50; i++) {
                int status;
                pid_t pid = vfork();
                if (pid == 0)
                    _exit(access("low", R_OK) ? 1 : 0);
                waitpid(pid, &status, 0);
                bad = status ? "v" : bad;
            }
            for (int i = 0; i < 4; i++) {
                pthread_join(t[i], &r);
                bad = r ? r : bad;
            }
            printf("%s", bad ? (char *)bad : "ok");
            return 0;
        }
        """, "-pthread")
    assert view(threads) == "ok"
