/* SPDX-License-Identifier: MIT */
/* The trap door: programs that run others, threads, signals, and what goes wrong. */
#include "test/unit/sanitizer.h"
#include "test/unit/trap_fixture.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>

/* ---- the same natively and in a view ---- */

static int run(char *const argv[])
{
    pid_t pid;
    int status;
    fflush(stdout);
    int r = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);
    if (r) {
        errno = r;
        return -1;
    }
    waitpid(pid, &status, 0);
    return status;
}

static int copy(const char *from, const char *to)
{
    char cmd[2 * PATH_MAX];
    snprintf(cmd, sizeof(cmd), "cp %s %s", from, to);
    return system(cmd);
}

static int script(const char *path, const char *text)
{
    return put(path, text) < 0 ? -1 : chmod(path, 0755);
}

static void execs(const char *dir)
{
    char text[PATH_MAX + 100], path[PATH_MAX + 20], *env[] = {NULL};
    copy("/bin/echo", "d/prog");
    copy("/bin/sh", "sh");
    R(run((char *[]){"d/prog", "one", NULL}));
    snprintf(path, sizeof(path), "%s/ld/prog", dir);
    R(run((char *[]){path, "two", NULL}));
    R(script("s1", "#!/bin/sh\necho \"s1 $0 $*\"\n"));
    R(run((char *[]){"./s1", "a", "b c", NULL}));
    snprintf(text, sizeof(text), "#! %s/sh -e  \nfalse\necho not this\n", dir);
    R(script("s2", text));
    R(run((char *[]){"./s2", NULL}));
    snprintf(text, sizeof(text), "#!%s/s1 arg\n", dir);
    R(script("s3", text));
    pid_t pid = fork();
    if (pid == 0) { /* a script run by a script: $0 is a path */
        int fd = open("/dev/null", O_WRONLY);
        dup2(fd, 1);
        execl("./s3", "s3", "z", NULL);
        _exit(99);
    }
    int status;
    waitpid(pid, &status, 0);
    R(status);
    R(script("many", "#!/bin/sh\necho $# $1 ${60000}\n"));
    R(system("./many $(seq 60000)"));
    R(system("./many $(seq 100)"));
    R(script("s4", "echo no line\n"));
    R(run((char *[]){"./s4", NULL}));
    R(run((char *[]){"./f", NULL}));
    R(run((char *[]){"./none", NULL}));
    R(run((char *[]){"./d", NULL}));
    R(run((char *[]){"./loop", NULL}));
    R(script("s5", "#!/none/at/all\n"));
    R(run((char *[]){"./s5", NULL}));
    R(system("cd d && ./prog from d && ../d/prog again"));
    R(system("env -i ./d/prog nothing left"));
    R(chmod("d/prog", 0644));
    R(run((char *[]){"d/prog", NULL}));
    R(chmod("d/prog", 0755));
    fflush(stdout);
    if (vfork() == 0) {
        execle("d/prog", "x", "vforked", NULL, env);
        _exit(1);
    }
    wait(&status);
    R(status);
    int fd = open("d/prog", O_RDONLY);
    if (fork() == 0) {
        fexecve(fd, (char *[]){"x", "by descriptor", NULL}, env);
        _exit(1);
    }
    wait(&status);
    R(status);
}

static void tools(const char *dir)
{
    R(system("find . | sort"));
    R(system("tar cf t.tar d l && mkdir u && tar xf t.tar -C u && find u | sort"));
    R(system("cp -a d copy && rm -r d && mv copy d && ls d"));
    R(system("grep -r x d; sed -i s/x/z/ d/x; cat d/x"));
    R(system(
        "python3 -c 'import os, shutil; shutil.copytree(\"d\", \"e\"); "
        "print(sorted(os.listdir(\"e\")), os.path.realpath(\"ld/x\") == os.getcwd() + \"/d/x\")'"));
    R(system("for i in 1 2 3; do echo $i > n$i; done; cat n? | sort -r; rm n?"));
    R(system("ls /proc/self/cwd/ > /dev/null; cat /dev/fd/0 < f; echo; cat < l"));
    R(system("install -m 600 f g && stat -c %a g; touch -d @5 g; stat -c %Y g"));
    R(system("rm -rf d u e; ls"));
}

static void builds(const char *dir)
{
    R(put("a.h", "#define ANSWER 42\n"));
    R(put("a.c", "#include \"a.h\"\n#include <stdio.h>\nint main(void) { printf(\"%d\\n\", "
                 "ANSWER); return 0; }\n"));
    R(put("Makefile", "a: a.o\n\tcc -o $@ $<\na.o: a.c a.h\n\tcc -c -o $@ a.c\n"));
    R(system("make -s && ./a && make -s && ./a"));
    R(system("cc -static -o st a.c && ./st"));
    R(system("git init -q . && git add a.c a.h Makefile && "
             "git -c user.name=n -c user.email=e commit -qm first && git status --short | sort && "
             "echo >> a.h && git diff --stat && git log --format=%s && git checkout -q a.h"));
}

/* What holds the view cannot be let go of. */
static void holds(const char *dir)
{
    char buf[10];
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    syscall(SYS_close_range, 3, ~0u, 0);
    R(access("f", F_OK));
    int low = open("f", O_RDONLY);
    R(low);
    for (int fd = 4; fd < 1024; fd++)
        dup2(low, fd);
    R(access("d/x", F_OK));
    R(read(low, buf, 5));
    syscall(SYS_close_range, 3, 500, 0);
    struct rlimit lim = {64, 64};
    R(setrlimit(RLIMIT_NOFILE, &lim));
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    R(chdir("d"));
    R(access("x", F_OK));
    R(system("cat x; cd ..; cat f"));
    prctl(PR_SET_DUMPABLE, 0);
    show("x");
}

static void *many_calls(void *arg)
{
    char path[40], *bad = NULL;
    struct stat st;
    for (int i = 0; i < 50 && !bad; i++) {
        snprintf(path, sizeof(path), "%s.%d", (char *)arg, i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) < 0 || stat(path, &st) < 0 ||
            unlink(path) < 0 || stat("d/x", &st) < 0 || stat("/usr", &st) < 0)
            bad = strerror(errno);
    }
    return bad;
}

static void threads(const char *dir)
{
    pthread_t id[64];
    char names[64][16];
    int bad = 0;
    for (int i = 0; i < 64; i++) {
        snprintf(names[i], sizeof(names[i]), "t%d", i);
        pthread_create(&id[i], NULL, many_calls, names[i]);
    }
    for (int i = 0; i < 64; i++) {
        void *r;
        pthread_join(id[i], &r);
        if (r)
            printf("%s\n", (char *)r);
        bad += r != NULL;
    }
    R(bad);
}

static atomic_int alarms;

static void on_alarm(int sig)
{
    alarms++;
}

/* A signal in the middle of a call neither ends it nor makes it happen twice. */
static void signals(const char *dir)
{
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval it = {{0, 500}, {0, 500}}, none = {{0, 0}, {0, 0}};
    int bad = 0;
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &it, NULL);
    for (int i = 0; i < 300 || (alarms < 20 && i < 100000); i++)
        bad += mkdir("sig", 0755) < 0 || rename("sig", "sig2") < 0 || rmdir("sig2") < 0;
    setitimer(ITIMER_REAL, &none, NULL);
    R(bad);
    R(alarms >= 20);
}

/* Programs that are killed in the middle of calls leave the others alone. */
static void kills(const char *dir)
{
    struct stat st;
    for (int round = 0; round < 10; round++) {
        pid_t pid[8];
        for (int i = 0; i < 8; i++) {
            if ((pid[i] = fork()) == 0)
                for (;;) {
                    close(open("d/x", O_RDWR));
                    if (chdir("d") < 0 || chdir("..") < 0)
                        abort();
                }
        }
        for (int i = 0; i < 200; i++)
            stat("f", &st);
        for (int i = 0; i < 8; i++)
            kill(pid[i], SIGKILL);
        for (int i = 0; i < 8; i++)
            waitpid(pid[i], NULL, 0);
    }
    R(stat("d/x", &st));
}

static void forks(const char *dir)
{
    struct stat st;
    int bad = 0, status;
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(chdir("d") < 0 || stat("x", &st) < 0 || fork() < 0);
        bad += pid < 0;
    }
    while (wait(&status) > 0)
        bad += status != 0;
    R(bad);
}

/* Waiting for the other end of a FIFO: until it comes, a signal does, or the program is killed. */
static void fifos(const char *dir)
{
    struct sigaction sa = {.sa_handler = on_alarm};
    struct itimerval it = {{0, 20000}, {0, 20000}}, none = {{0, 0}, {0, 0}};
    char buf[10];
    R(mkfifo("p", 0644));
    pid_t pid = fork();
    if (pid == 0) {
        int w = open("p", O_WRONLY);
        _exit(write(w, "abc", 3) != 3);
    }
    int r = open("p", O_RDONLY), status;
    R(read(r, buf, 3));
    R(waitpid(pid, &status, 0) == pid && status == 0);
    R(close(r));
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &it, NULL);
    R(open("p", O_RDONLY));
    setitimer(ITIMER_REAL, &none, NULL);
    if ((pid = fork()) == 0) {
        prctl(PR_SET_NAME, "waits");
        open("p", O_RDONLY);
        _exit(0);
    }
    usleep(20000);
    R(kill(pid, SIGKILL));
    R(waitpid(pid, &status, 0) == pid && status == SIGKILL);
}

/* What no view can be had around. */
static void refused(const char *dir)
{
    char buf[100];
    R(access("/proc/self/fd/1023", F_OK));
    R(read(1023, buf, 10));
    R(fcntl(1023, F_DUPFD, 0));
    R(dup(1023));
    R(close(1023));
    R(dup2(0, 1023));
    R(open("/proc/self/fd/1023", O_RDONLY));
    R(syscall(425, 8, buf));
    R(umask(022) <= 0777);
}

/* What code at the given addresses calls goes to the kernel as it is. */
#define PASS 0x7ea000000000ul /* where a thread sanitizer allows it */

static void passes(const char *dir)
{
    static const unsigned char code[] = {0x89, 0xf8,       /* mov eax, edi */
                                         0x48, 0x89, 0xf7, /* mov rdi, rsi */
                                         0x48, 0x89, 0xd6, /* mov rsi, rdx */
                                         0x48, 0x89, 0xca, /* mov rdx, rcx */
                                         0x4d, 0x89, 0xc2, /* mov r10, r8 */
                                         0x0f, 0x05, 0xc3 /* syscall; ret */};
    void *at = mmap((void *)PASS, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memcpy(at, code, sizeof(code));
    long (*call)(int nr, long dir, const char *path, struct stat *st, long flags) =
        (long (*)(int, long, const char *, struct stat *, long))at;
    char path[PATH_MAX];
    struct stat st;
    snprintf(path, sizeof(path), "%s/f", dir);
    printf("%ld %d\n", call(SYS_newfstatat, AT_FDCWD, path, &st, 0), access(path, F_OK));
}

/* Opens more directories than the supervisor can. */
static void crowds(const char *dir)
{
    int fd, n = 0;
    while ((fd = open("d", O_RDONLY)) >= 0)
        n++;
    bool full = errno == EMFILE || errno == ENFILE;
    bool seen = access("f", F_OK) == 0 || errno == EMFILE || errno == ENFILE;
    for (fd = 3; fd < 200; fd++)
        close(fd);
    struct stat st;
    for (int i = 0; i < 1000 && stat("f", &st) < 0 && (errno == EMFILE || errno == ENFILE); i++)
        usleep(1000); /* until the supervisor has heard of it */
    printf("%d %d %d %d\n", n > 3, full, seen, stat("d/x", &st));
}

static const struct program programs[] = {
    {"execs", execs, false},    {"tools", tools, false},     {"builds", builds, true},
    {"holds", holds, false},    {"threads", threads, false}, {"signals", signals, false},
    {"kills", kills, false},    {"forks", forks, false},     {"fifos", fifos, true},
    {"refused", refused, true}, {"passes", passes, false},   {"crowds", crowds, false},
    {NULL, NULL, false},
};

static const struct program *named(const char *name)
{
    const struct program *p = programs;
    while (strcmp(p->name, name) != 0)
        p++;
    return p;
}

#define SAME(name)                                                                                 \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        compare(named(#name));                                                                     \
    }
SAME(execs)
SAME(tools)
SAME(builds)
SAME(holds)
SAME(threads)
SAME(signals)
SAME(kills)
SAME(forks)
SAME(fifos)

/* ---- only in a view ---- */

static struct trap_view *some_union(void)
{
    remove_all(in_base("up"));
    remove_all(in_base("low"));
    assert_int_equal(mkdir(in_base("up"), 0755), 0);
    assert_int_equal(mkdir(in_base("low"), 0755), 0);
    run_native("fill", in_base("low"), in_base("fill"));
    return union_view(in_base("up"), in_base("low"));
}

static void test_refused(void **state)
{
    struct trap_view *v = some_union();
    run_trapped(v, "refused", in_base("up"), in_base("out"));
    char *text = text_of(in_base("out"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const char *what = strrchr(line, ' ') + 1;
        const char *want = strstr(line, "umask")         ? "1"
                           : strstr(line, "syscall(425") ? "ENOSYS"
                           : strstr(line, "/proc")       ? "ENOENT"
                                                         : "EBADF";
        if (strcmp(what, want) != 0)
            fail_msg("%s, not %s", line, want);
    }
    free(text);
    trap_view_unref(v);
}

/* A view never writes outside its first tree. */
static void test_lower(void **state)
{
    struct trap_view *v = some_union();
    char before[1200], after[1200], cmd[PATH_MAX];
    const char *how = "cd %s && find . -printf '%%p %%m %%s %%T@ %%l\n' | sort > %s";
    snprintf(before, sizeof(before), how, in_base("low"), in_base("before"));
    snprintf(after, sizeof(after), how, in_base("low"), in_base("after"));
    assert_int_equal(system(before), 0);
    run_trapped(v, "tools", in_base("up"), in_base("out"));
    assert_int_equal(system(after), 0);
    snprintf(cmd, sizeof(cmd), "cmp %s/before %s/after", base, base);
    assert_int_equal(system(cmd), 0);
    trap_view_unref(v);
}

static char *line_from(int fd)
{
    static char buf[200];
    ssize_t n = read(fd, buf, sizeof(buf) - 1);
    buf[n > 0 ? n : 0] = 0;
    return buf;
}

/* A shell that says what `f` is whenever it is asked, and its working directory's name. */
static struct trap *asked(struct trap_view *v, int ask[2], int answer[2])
{
    assert_true(pipe2(ask, O_CLOEXEC) == 0 && pipe2(answer, O_CLOEXEC) == 0);
    char cmd[PATH_MAX + 300];
    snprintf(cmd, sizeof(cmd),
             "exec <&%d >&%d; cd %s/d; while read x; do (cd ..; cat f; pwd; exec true); done",
             ask[0], answer[1], in_base("up"));
    fcntl(ask[0], F_SETFD, 0);
    fcntl(answer[1], F_SETFD, 0);
    char *argv[] = {"bash", "-c", cmd, NULL};
    struct trap *t = begin(v, argv, in_base("out"));
    close(ask[0]);
    close(answer[1]);
    return t;
}

static char *ask_it(int ask, int answer)
{
    static char text[500];
    text[0] = 0;
    assert_int_equal(write(ask, "\n", 1), 1);
    while (!strchr(text, '\n'))
        strcat(text, line_from(answer));
    return text;
}

static void test_set_view(void **state)
{
    struct trap_view *v = some_union(), *other, *now;
    assert_int_equal(mkdir(in_base("third"), 0755), 0);
    assert_int_equal(mkdir(in_base("third/d"), 0755), 0);
    assert_int_equal(put(in_base("third/f"), "third"), 0);
    int ask[2], answer[2];
    struct trap *t = asked(v, ask, answer);
    char *got = ask_it(ask[1], answer[0]);
    assert_non_null(strstr(got, "hello"));
    other = union_view(in_base("up"), in_base("third"));
    assert_int_equal(trap_set_view(t, trap_pid(t), other), 0);
    got = ask_it(ask[1], answer[0]);
    if (!strstr(got, "third"))
        fail_msg("still the old view: %s", got);
    assert_non_null(strstr(got, in_base("up")));
    assert_int_equal(trap_get_view(t, trap_pid(t), &now), 0);
    assert_ptr_equal(now, other);
    trap_view_unref(now);
    assert_int_equal(trap_set_view(t, 0x3ffffff0, other), -ESRCH);
    close(ask[1]);
    close(answer[0]);
    assert_int_equal(end(t), 0);
    trap_view_unref(v);
    trap_view_unref(other);
}

/* The supervisor is killed: calls fail with ENOSYS, none hangs. */
static void test_death(void **state)
{
    struct trap_view *v = some_union();
    int ask[2], answer[2], pipe_pid[2];
    assert_int_equal(pipe(pipe_pid), 0);
    pid_t supervisor = fork();
    if (supervisor == 0) {
        struct trap *t = asked(v, ask, answer);
        pid_t pid = trap_pid(t);
        if (write(pipe_pid[1], &pid, sizeof(pid)) < 0)
            _exit(1);
        if (!strstr(ask_it(ask[1], answer[0]), "hello"))
            _exit(2);
        raise(SIGKILL);
    }
    pid_t pid;
    int status;
    assert_int_equal(read(pipe_pid[0], &pid, sizeof(pid)), (ssize_t)sizeof(pid));
    assert_int_equal(waitpid(supervisor, &status, 0), supervisor);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    /* Its pipe is closed, so the shell ends: reaped by init, or by us. */
    for (int i = 0; i < 2000 && kill(pid, 0) == 0 && waitpid(pid, NULL, WNOHANG) != pid; i++)
        usleep(5000);
    assert_int_equal(kill(pid, 0), -1);
    trap_view_unref(v);
}

/* A tree at "/": all but the kernel's own file systems is in it. */
static void test_root(void **state)
{
    static const char *const names[] = {"tools", "execs", "threads"};
    struct trap_view *v = union_view("/", NULL);
    for (size_t i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            const char *dir = in_base(k ? "root" : "plain"), *out = in_base(k ? "out.root" : "out");
            remove_all(dir);
            assert_int_equal(mkdir(dir, 0755), 0);
            run_native("fill", dir, in_base("fill"));
            if (k)
                run_trapped(v, names[i], dir, out);
            else
                run_native(names[i], dir, out);
        }
        char *plain = text_of(in_base("out")), *root = text_of(in_base("out.root"));
        assert_string_equal(plain, root);
        free(plain);
        free(root);
    }
    trap_view_unref(v);
}

static void test_passes(void **state)
{
    struct trap_view *v = some_union();
    struct trap_opts opts = {.pass_from = PASS, .pass_to = PASS + 4096};
    char *argv[] = {self, "case", "passes", in_base("up"), NULL}, *text;
    for (int k = 0; k < 2; k++) {
        struct trap *t;
        int old = redirect(in_base("out"));
        assert_int_equal(trap_start(v, k ? &opts : NULL, argv, &t, NULL), 0);
        dup2(old, 1);
        close(old);
        assert_int_equal(end(t), 0);
        text = text_of(in_base("out"));
        assert_string_equal(text, k ? "-2 0\n" : "0 0\n");
        free(text);
    }
    trap_view_unref(v);
}

static void test_crowds(void **state)
{
    struct trap_view *v = some_union();
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit lim = {80, 80};
        setrlimit(RLIMIT_NOFILE, &lim);
        run_trapped(v, "crowds", in_base("up"), in_base("out"));
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    char *text = text_of(in_base("out"));
    assert_string_equal(text, "1 1 1 0\n");
    free(text);
    trap_view_unref(v);
}

static void mount_said(const char *s, char *to)
{
    strncat(to, s, 50);
    strcat(to, ";");
}

static int on_mount(void *arg, struct trap *t, pid_t pid, const char *source, const char *target,
                    const char *type, const char *data)
{
    mount_said(source, arg);
    mount_said(target, arg);
    mount_said(type, arg);
    mount_said(data, arg);
    return strcmp(type, "vpath") == 0 ? 7 : -EXDEV;
}

static void test_mount(void **state)
{
    char said[300] = "";
    struct trap_view *v = some_union();
    struct trap_opts opts = {.mount = on_mount, .mount_arg = said};
    struct trap *t;
    char *argv[] = {"mount", "-i", "-t", "vpath", "-o", "a=b", "some", "/proc", NULL};
    assert_int_equal(trap_start(v, &opts, argv, &t, NULL), 0);
    end(t);
    if (!strstr(said, "some;/proc;vpath;a=b;") && !said[0])
        print_message("mount(8) asks in another way here\n");
    trap_view_unref(v);
}

static void test_errors(void **state)
{
    struct trap_view *v = some_union();
    struct trap *t;
    struct pl_err err;
    char *none[] = {"/none/at/all", NULL}, *file[] = {in_base("up/f"), NULL};
    assert_int_equal(trap_start(v, NULL, none, &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/none/at/all"));
    assert_int_equal(trap_start(v, NULL, file, &t, &err), -EACCES);
    struct trap_opts opts = {.cwd = "/none"};
    char *true_[] = {"true", NULL};
    assert_int_equal(trap_start(v, &opts, true_, &t, &err), -ENOENT);
    struct trap_view *bad;
    struct trap_top tops[] = {{"relative", host}, {"/a/b", host}, {"/a/b/c", host}};
    assert_int_equal(trap_view_new(tops, 1, NULL, NULL, &bad, &err), -EINVAL);
    assert_int_equal(trap_view_new(tops + 1, 2, NULL, NULL, &bad, &err), -EINVAL);
    trap_view_unref(v);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "case") == 0)
        return program(programs, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_execs),   cmocka_unit_test(test_tools),
        cmocka_unit_test(test_builds),  cmocka_unit_test(test_holds),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_signals),
        cmocka_unit_test(test_kills),   cmocka_unit_test(test_forks),
        cmocka_unit_test(test_fifos),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_lower),   cmocka_unit_test(test_set_view),
        cmocka_unit_test(test_death),   cmocka_unit_test(test_mount),
        cmocka_unit_test(test_root),    cmocka_unit_test(test_crowds),
        cmocka_unit_test(test_passes),  cmocka_unit_test(test_errors),
    };
    fixture_start();
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    if (r == 0)
        fixture_end();
    return r;
}
