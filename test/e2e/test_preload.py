# SPDX-License-Identifier: MIT
"""The door preload: what programs find by themselves, and what they leave to the trap. That results are
the same is test_view_programs.py's and unit/preload.c's."""
import os
import subprocess
import textwrap
import time

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


# ---- directories ----

@pytest.fixture
def lent(view):
    """Directories of one tree each, and one of both; `warm` is what a program does first, so that they are known."""
    for d in ("low/behind", "low/behind/deep", "up/front", "low/merged", "up/merged"):
        (view.tmp / d).mkdir()
        (view.tmp / d / f"in-{d.split('/')[0]}").write_text(d)
    view.warm = textwrap.dedent("""
        import ctypes, errno, fcntl, os, stat, subprocess, sys, time
        time.sleep(0.1)  # what has just changed is for the trap
        def opened(path):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        def is_lent(fd):
            return fcntl.fcntl(fd, fcntl.F_GETSIG) == 64
        for i in range(2):
            for d in "behind", "behind/deep", "front", "merged":
                os.close(opened(d))
        """)
    return view


def python(view, text, *args):
    return view("python3", "-c", view.warm + textwrap.dedent(text), *args).splitlines()


def test_directories_are_lent(lent):
    """One that is in one tree alone is opened by the program itself; names in it are those of the view."""
    out = python(lent, """
        print([is_lent(opened(d)) for d in ("behind", "behind/deep", "front", "merged")])
        fd = opened("behind")
        print(os.readlink(f"/proc/self/fd/{fd}"), stat.S_ISDIR(os.fstat(fd).st_mode))
        print(sorted(os.listdir(fd)), open(os.open("in-low", os.O_RDONLY, dir_fd=fd)).read())
        os.fchdir(fd)
        print(os.getcwd(), os.listdir("."))
        """)
    assert out[0] == "[True, True, True, False]"
    assert out[1] == f"{lent.tmp}/up/behind True"
    assert out[2] == "['deep', 'in-low'] low/behind"
    assert out[3].startswith(f"{lent.tmp}/up/behind [")


def test_what_is_made_in_a_lent_directory(lent):
    """It goes to the front tree, and a listing that begins anew has it, whoever began the last one."""
    out = python(lent, """
        fd = opened("behind")
        copy = os.dup(fd)
        print(is_lent(fd), sorted(os.listdir(fd)))
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
        os.mkdir("sub", dir_fd=copy)
        os.unlink("in-low", dir_fd=fd)
        print(sorted(os.listdir(fd)), sorted(os.listdir(copy)), sorted(os.listdir("behind")))
        os.fchmod(fd, 0o700)
        print(oct(os.stat("behind").st_mode & 0o777), os.stat("made", dir_fd=fd).st_size)
        """)
    now = "['deep', 'made', 'sub']"
    assert out == ["True ['deep', 'in-low']", f"{now} {now} {now}", "0o700 0"]
    assert sorted(os.listdir(lent.tmp / "low/behind")) == ["deep", "in-low"]
    assert (lent.tmp / "low/behind").stat().st_mode & 0o777 != 0o700
    assert (lent.tmp / "up/behind/made").is_file()


def test_lent_directory_is_renamed(lent):
    """Its part behind stays where it is; the descriptors of it and of what is in it go on."""
    out = python(lent, """
        fds = [opened(d) for d in ("behind", "behind/deep", "front")]
        print([is_lent(fd) for fd in fds])
        os.rename("behind", "other")
        os.rename("front", "other/front")
        os.mkdir("behind")
        for fd, name in zip(fds, ("in-low", "in-low", "in-up")):
            os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
            print(os.readlink(f"/proc/self/fd/{fd}"), sorted(os.listdir(fd)), os.stat(name, dir_fd=fd).st_size)
        os.rename("other", "third")
        print(os.readlink(f"/proc/self/fd/{fds[1]}"), os.listdir("behind"))
        os.rename("third/deep", "behind/deeper")  # a part of it, which is not where its letters say
        os.rename("behind", "fourth")
        os.mkdir("sub", dir_fd=fds[1])
        print(os.readlink(f"/proc/self/fd/{fds[1]}"), sorted(os.listdir(fds[1])), os.readlink(f"/proc/self/fd/{fds[0]}"))
        """)
    up = f"{lent.tmp}/up"
    assert out == ["[True, True, True]", f"{up}/other ['deep', 'front', 'in-low', 'made'] 10",
                   f"{up}/other/deep ['in-low', 'made'] 15", f"{up}/other/front ['in-up', 'made'] 8", f"{up}/third/deep []",
                   f"{up}/fourth/deeper ['in-low', 'made', 'sub'] {up}/third"]
    assert sorted(os.listdir(lent.tmp / "low/behind")) == ["deep", "in-low"]


def test_lent_directory_is_removed(lent):
    out = python(lent, """
        fds = [opened(d) for d in ("behind/deep", "front")]
        print([is_lent(fd) for fd in fds])
        for fd, name, d in zip(fds, ("in-low", "in-up"), ("behind/deep", "front")):
            os.unlink(name, dir_fd=fd)
            os.rmdir(d)
            for what in (lambda: os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=fd), lambda: os.stat(name, dir_fd=fd)):
                try:
                    what()
                    print("there")
                except OSError as e:
                    print(errno.errorcode[e.errno])
        """)
    assert out == ["[True, True]"] + 4 * ["ENOENT"]
    assert os.listdir(lent.tmp / "low/behind/deep") == ["in-low"]


def test_lent_directory_outlives_its_view(lent):
    """After a change of the view, what is open stays what it is."""
    (lent.tmp / "else").mkdir()
    out = python(lent, f"""
        fd = opened("behind")
        print(is_lent(fd))
        subprocess.run(["{PLENUM}", "vpath", "{lent.tmp}/up", "{lent.tmp}/else"], check=True)
        print(os.path.exists("behind"), sorted(os.listdir(fd)), os.stat("in-low", dir_fd=fd).st_size)
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
        print(sorted(os.listdir(fd)))
        """)
    assert out == ["True", "False ['deep', 'in-low'] 10", "['deep', 'in-low', 'made']"]
    assert sorted(os.listdir(lent.tmp / "low/behind")) == ["deep", "in-low"]


def test_two_places_are_not_lent(lent):
    """What is seen at two places is not told apart by where it is."""
    (lent.tmp / "up2").mkdir()
    p = subprocess.run([PLENUM, "run", "--door=preload", "--view", lent.tmp / "up", lent.tmp / "low", "--view", lent.tmp / "up2",
                        lent.tmp / "low", "--", "python3", "-c", lent.warm + textwrap.dedent("""
        os.chdir(sys.argv[1])
        for i in range(3):
            fd = opened("behind")
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
        print(is_lent(fd), os.readlink(f"/proc/self/fd/{fd}"), os.path.exists("../up/behind/made"))
        """), str(lent.tmp / "up2")], cwd=lent.tmp / "up", text=True, capture_output=True, timeout=60)
    assert (p.returncode, p.stdout) == (0, f"False {lent.tmp}/up2/behind False\n"), p.stderr


STREAMS = r"""
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <unistd.h>
    static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
    static int rest(DIR *d, char **names)
    {
        int n = 0;
        errno = 0;
        for (struct dirent *e; (e = readdir(d));)
            names[n++] = strdup(e->d_name);
        if (errno)
            perror("readdir");
        return n;
    }
    static void show(const char *what, DIR *d)
    {
        static char *names[5000];
        unsigned long h = 5381;
        int n = rest(d, names);
        qsort(names, n, sizeof(*names), by_name);
        for (int i = 0; i < n; i++)
            for (char *s = names[i]; *s; s++)
                h = h * 33 + (unsigned char)*s;
        printf("%s: %d names %lx, last %s\n", what, n, h, n ? names[n - 1] : "");
    }
    int main(int argc, char **argv)
    {
        static char *first[5000], *again[5000];
        char name[300];
        struct stat st;
        struct dirent ent, *got;
        DIR *d = opendir(argv[1]);
        long start = telldir(d), at[5000], mid;
        int n = 0, m, bad = 0;
        for (struct dirent *e; at[n] = telldir(d), (e = readdir(d)); n++) {
            first[n] = strdup(e->d_name);
            bad += fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0;
            bad += argc == 2 && st.st_ino != e->d_ino;
            bad += e->d_type != DT_UNKNOWN && IFTODT(st.st_mode) != e->d_type;
        }
        printf("%d names, %d bad\n", n, bad);
        for (int i = n; i > 0; i -= 7) { /* back, and on from there */
            seekdir(d, at[i]);
            struct dirent *e = readdir(d);
            bad += i < n ? !e || strcmp(e->d_name, first[i]) : !!e;
        }
        printf("%d bad after seekdir\n", bad);
        mid = at[n / 2];
        seekdir(d, mid);
        m = rest(d, again);
        printf("%d of the second half\n", m);
        seekdir(d, start);
        show("from the start", d);
        snprintf(name, sizeof(name), "%s/zz-new", argv[1]);
        close(creat(name, 0600));
        fclose(fopen(strcat(name, "er"), "wx"));
        snprintf(name, sizeof(name), "%s/%s", argv[1], "file-0001");
        unlink(name);
        rewinddir(d);
        show("after a change", d);
        snprintf(name, sizeof(name), "%s/zz-new", argv[1]);
        unlink(name);
        rewinddir(d);
        show("after another", d);
        rewinddir(d);
        for (m = 0; readdir_r(d, &ent, &got) == 0 && got;)
            m++;
        printf("%d by readdir_r\n", m);
        int fd = dup(dirfd(d));
        closedir(d);
        d = fdopendir(fd);
        rewinddir(d);
        show("of a copy", d);
        fchdir(dirfd(d));
        closedir(d);
        d = opendir(".");
        show("of .", d);
        closedir(d);
        errno = 0;
        printf("%d %s\n", !opendir("file-0002"), strerror(errno));
        printf("%d %s\n", !fdopendir(open("file-0002", O_RDONLY)), strerror(errno));
        printf("%d %s\n", !fdopendir(-1), strerror(errno));
        return 0;
    }
"""


@pytest.mark.parametrize("files", [20, 1500])
@pytest.mark.parametrize("tree", ["up", "low", "both", "native"])
def test_streams(view, files, tree):
    """opendir and its family say what they say of a plain directory: short and long, of one tree, two, and none."""
    dirs = {"up": ["up/d"], "low": ["low/d"], "both": ["up/d", "low/d"], "native": ["d"]}[tree]
    for d in (*dirs, "plain"):
        (view.tmp / d).mkdir()
    for i in range(files):
        for d in (dirs[i % len(dirs)], "plain"):
            (view.tmp / d / f"file-{i:04d}").touch()
    (view.tmp / dirs[-1] / "sub").mkdir()
    (view.tmp / "plain/sub").mkdir()
    program = compile_c(view.tmp, "streams", STREAMS, "-w")
    want = subprocess.run([program, view.tmp / "plain"], stdout=subprocess.PIPE, text=True, check=True).stdout
    path = view.tmp / "d" if tree == "native" else view.tmp / "up/d"
    # Looked at before, so that it is known; what has changed within 20 ms is not.
    got = view("sh", "-c", 'sleep 0.1; ls "$1" >/dev/null; stat "$1/none" 2>/dev/null; ls "$1" >/dev/null; exec "$0" "$@"', program, str(path),
               *["numbers of two trees"] * (tree == "both"))
    assert got == want


def test_listing_is_inherited(lent):
    """A static program lists, and looks in, what its dynamic parent has opened and begun to read."""
    static = compile_c(lent.tmp, "static", r"""
        #include <dirent.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(int argc, char **argv)
        {
            static char buf[4096] __attribute__((aligned(8)));
            struct stat st;
            int fd = atoi(argv[1]), names = 0;
            long n;
            while ((n = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
                for (long at = 0; at < n; at += ((struct dirent *)(buf + at))->d_reclen)
                    names++;
            printf("%d %ld %d ", names, n, fstatat(fd, argv[2], &st, 0));
            lseek(fd, 0, SEEK_SET);
            printf("%d ", syscall(SYS_getdents64, fd, buf, sizeof(buf)) > 0);
            printf("%d %o\n", close(openat(fd, "made", O_CREAT | O_WRONLY, 0640)), fcntl(fd, F_GETFD));
            return 0;
        }
        """, "-static", "-w")
    out = python(lent, f"""
        for d, name in ("behind", "in-low"), ("merged", "in-up"):
            fd = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
            print(is_lent(fd), len(os.listdir(fd)))
            os.set_inheritable(fd, True)
            sys.stdout.flush()
            subprocess.run(["{static}", str(fd), name], close_fds=False, check=True)
            os.lseek(fd, 0, os.SEEK_SET)
            print(sorted(os.listdir(fd)))
        """)
    assert out == ["True 2", "4 0 0 1 0 0", "['deep', 'in-low', 'made']",
                   "False 2", "4 0 0 1 0 0", "['in-low', 'in-up', 'made']"]
    assert sorted(os.listdir(lent.tmp / "low/behind")) == ["deep", "in-low"]


def test_nested_tops(lent):
    """A top in a top: names in it are looked for by the preload too."""
    (lent.tmp / "third").mkdir()
    (lent.tmp / "third/far").write_text("third")
    for d in "up", "low":
        (lent.tmp / d / "merged/both").write_text(d)
    p = subprocess.run([PLENUM, "run", "--door=preload", "--view", lent.tmp / "up", lent.tmp / "low", "--view",
                        lent.tmp / "up/merged", lent.tmp / "third", "--", "python3", "-c", lent.warm + textwrap.dedent("""
        for i in range(2):
            seen = {n: open("merged/" + n).read() for n in sorted(os.listdir("merged"))}
        fd = opened("merged")
        print(seen, sorted(os.listdir("behind")), os.stat("far", dir_fd=fd).st_size)
        print("plenum-preload" in open("/proc/self/maps").read())
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
        print(len(os.listdir("merged")), is_lent(opened("behind")))
        """)], cwd=lent.tmp / "up", text=True, capture_output=True, timeout=60)
    assert p.returncode == 0, p.stderr
    assert p.stdout.splitlines() == [
        "{'both': 'up', 'far': 'third', 'in-low': 'low/merged', 'in-up': 'up/merged'} ['deep', 'in-low'] 5", "True", "5 False"]
    assert sorted(os.listdir(lent.tmp / "third")) == ["far"] and (lent.tmp / "up/merged/made").exists()


RANDOM = r"""
    import errno, fcntl, os, random, sys, time
    rnd = random.Random(int(sys.argv[1]))
    fds, count, lent = [], 0, 0

    def fresh():  # a name is used once: one that is removed and made again is found by it
        global count
        count += 1
        return f"n{count}"

    def found():
        all = list(os.walk("."))
        return sorted(d[2:] or "." for d, _, _ in all), sorted(os.path.join(d, f)[2:] for d, _, fs in all for f in fs)

    def opened(d):
        global lent
        fds.append(os.open(d, os.O_RDONLY | os.O_DIRECTORY))
        lent += fcntl.fcntl(fds[-1], fcntl.F_GETSIG) == 64

    def where(fd):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            path = ""
        return path if os.path.isdir(path) else "removed"

    def stat_one(fd):
        names = sorted(os.listdir(fd))
        return names and os.stat(rnd.choice(names), dir_fd=fd).st_mode

    def step():
        dirs, files = found()
        d, e, f = rnd.choice(dirs), rnd.choice(dirs), rnd.choice(files or [None])
        fd = rnd.choice(fds or [None])
        by_path = [lambda: opened(d), lambda: opened(d), lambda: opened(d), lambda: os.mkdir(os.path.join(d, fresh())),
                   lambda: os.rename(d, os.path.join(e, fresh())) if d != "." and not e.startswith(d) else None,
                   lambda: os.rename(f, os.path.join(d, fresh())) if f else None, lambda: os.unlink(f) if f else None,
                   lambda: os.rmdir(d) if d != "." else None]
        by_fd = [lambda: os.close(os.open(fresh(), os.O_WRONLY | os.O_CREAT, dir_fd=fd)), lambda: os.mkdir(fresh(), dir_fd=fd),
                 lambda: sorted(os.listdir(fd)), lambda: where(fd),
                 lambda: stat_one(fd), lambda: (fds.remove(fd), os.close(fd)) if rnd.randrange(3) == 0 else None]
        return rnd.choice(by_path + (by_fd if fds else []))()

    for i in range(int(sys.argv[2])):
        try:
            print(i, step())
        except OSError as x:
            print(i, errno.errorcode[x.errno])
        if i % 10 == 0:  # what has just changed is not known
            time.sleep(0.03)
            dirs = found()[0]
            for d in dirs:
                os.path.exists(d + "/none")
            for d in rnd.sample(dirs, 3):
                opened(d)
    print(found())
    print(lent, file=sys.stderr)
"""


SEEDS, lendings = 4, []


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_random_with_directories_open(plenum, seed):
    """Directories are open while they, and what is above them, are renamed, removed, and written to."""
    for d in ("up/u/v", "up/m", "low/a/b/c", "low/m/x", "low/z", "low/y/w"):
        (plenum.tmp / d).mkdir(parents=True)
        (plenum.tmp / d / f"of-{d.split('/')[0]}").write_text(d)
    for d in ("low", "up"):
        subprocess.run(["cp", "-a", f"{plenum.tmp}/{d}/.", plenum.tmp / "mix"], check=True)
    (plenum.tmp / "random.py").write_text(textwrap.dedent(RANDOM))
    script = ["python3", plenum.tmp / "random.py", str(seed), "300"]
    want = subprocess.run(script, cwd=plenum.tmp / "mix", text=True, capture_output=True, timeout=60)
    time.sleep(0.1)
    got = subprocess.run([PLENUM, "run", "--door=preload", "--view", plenum.tmp / "up", plenum.tmp / "low", "--", *script],
                         cwd=plenum.tmp / "up", text=True, capture_output=True, timeout=60)
    assert (got.returncode, want.returncode) == (0, 0), got.stderr
    assert got.stdout.replace(f"{plenum.tmp}/up", "$V") == want.stdout.replace(f"{plenum.tmp}/mix", "$V")
    lendings.append(int(got.stderr))  # in one run every directory may have changed too lately for that
    assert len(lendings) < SEEDS or any(lendings), "no directory was lent"
