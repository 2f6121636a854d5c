/* SPDX-License-Identifier: MIT */
/*
 * Mounts that outlive their server: real mounts and processes, with the few lines of
 * keeper_fixture.h for a door.
 */
#include "keeper_stages.h"

static void state_of(size_t i, char *ret, size_t size)
{
    struct reg_page *p = reg_find(dirs[i]);
    assert_non_null(p);
    snprintf(ret, size, "%s", p->state);
    reg_put(p);
}

static void want_state(size_t i, const char *want)
{
    char now[160] = "";
    for (int ms = 0; ms < 10000; ms++) {
        state_of(i, now, sizeof(now));
        if (strncmp(now, want, strlen(want)) == 0)
            return;
        usleep(1000);
    }
    assert_string_equal(now, want);
}

static void drop_logs(void)
{
    while (recv(log_fd, (char[256]){0}, 256, MSG_DONTWAIT) >= 0)
        ;
}

static unsigned restarts(size_t i)
{
    struct reg_page *p = reg_find(dirs[i]);
    assert_non_null(p);
    unsigned n = atomic_load(&p->restarts);
    reg_put(p);
    return n;
}

static void want_restarts(unsigned n)
{
    while (restarts(0) < n)
        usleep(1000);
    want_state(0, "up");
}

static void unmount_all(pid_t keeper, size_t n)
{
    for (size_t i = 0; i < n; i++)
        while (mount_end(dirs[i], false, NULL) == -EBUSY) /* FORGET, RELEASE */
            usleep(1000);
    assert_int_equal(ended(keeper), 0);
    want_nothing_left();
}

/* A caller inside sees nothing of it. */
static void killed(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0);
    int fd = open(under(0, "f"), O_RDONLY | O_CLOEXEC);
    char buf[8], text[64];
    proc_line(p.nursery, "status", "Name:\t", text, sizeof(text));
    assert_string_equal(text, "plenum-nursery\n");
    assert_true(left_terminal(p.nursery));
    assert_int_not_equal(getsid(p.nursery), getsid(0));
    atomic_store(&note->answers_hang, 1);
    kill(p.server, SIGKILL);
    assert_int_equal(ended(reader), 98); /* it was read */
    assert_int_equal(pread(fd, buf, sizeof(buf), 0), 6);
    want_restarts(1);
    want_logged("the server was killed by signal 9 (Killed): the next one carries on");
    struct pids now = pids_of(0);
    assert_int_equal(now.keeper, p.keeper);
    assert_int_equal(now.nursery, p.nursery);
    assert_int_not_equal(now.server, p.server);
    proc_line(now.server, "status", "Name:\t", text, sizeof(text));
    assert_string_equal(text, "plenum-server\n");
    proc_line(now.server, "status", "PPid:\t", text, sizeof(text));
    assert_int_equal(atoi(text), p.keeper);
    assert_true(left_terminal(now.server));
    close(fd);
    unmount_all(p.keeper, 1);
}

/* Again and again, also before it is up; what one has opened and not claimed is closed. */
static void killed_often(void **state)
{
    struct pids p = background(2, LASTS);
    for (int i = 0; i < 50; i++) {
        struct reg_page *page = reg_find(dirs[0]);
        pid_t server = atomic_load(&page->server);
        reg_put(page);
        if (server > 0)
            kill(server, SIGKILL);
        usleep((useconds_t)(i % 5) * 1000);
        want_works((size_t)i % 2);
    }
    want_state(0, "up");
    drop_logs();
    unmount_all(p.keeper, 2);
}

static void one_of_two_is_gone(void **state)
{
    struct pids p = background(2, LASTS);
    want_works(0);
    want_works(1);
    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    want_state(0, REG_UNMOUNTED);
    kill(p.server, SIGKILL);
    want_works(1);
    want_state(0, REG_UNMOUNTED);
    assert_int_equal(mount_end(dirs[1], false, NULL), 0);
    assert_int_equal(ended(p.keeper), 0);
    want_logged("killed by signal 9");
    want_nothing_left();
}

static void on_signal(int sig) {}

/* A child that looks up `name` ("": asks for statfs, which waits for no other caller); its errno,
 * or 0. SIGINT interrupts it. */
static pid_t looker(const char *name)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct stat st;
        struct sigaction sa = {.sa_handler = on_signal};
        sigaction(SIGINT, &sa, NULL);
        struct statfs sf;
        int rc = *name ? stat(under(0, name), &st) : statfs(dirs[0], &sf);
        _exit(rc < 0 ? errno : 0);
    }
    return pid;
}

/* The same; returns when the server works on it. */
static pid_t looker_hanging(const char *name)
{
    int before = atomic_load(&note->hanging);
    pid_t pid = looker(name);
    while (atomic_load(&note->hanging) == before)
        usleep(1000);
    return pid;
}

/* Is there a child that has ended? */
static bool has_ended(pid_t pid)
{
    siginfo_t si = {0};
    assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT), 0);
    return si.si_pid == pid;
}

/* A server that cannot be opened again for a while: callers are let go meanwhile, others wait. */
static void away(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0), other = hanging_reader(0);
    atomic_store(&note->answers_hang, 1);
    atomic_store(&note->fail_prepare, 4); /* 10, 100, 500 and 2000 ms */
    kill(p.server, SIGKILL);
    want_state(0, "restarting");
    kill(reader, SIGKILL);
    assert_int_equal(ended(reader), 128 + SIGKILL);
    pid_t late = looker("f"), waits = looker("nothing");
    usleep(100000);
    kill(waits, SIGINT);
    assert_int_equal(ended(waits), EINTR);
    assert_true(atomic_load(&note->fail_prepare) > 0 || restarts(0) < 5);
    assert_false(has_ended(other));
    assert_false(has_ended(late));
    assert_int_equal(ended(late), 0);
    assert_int_equal(ended(other), 98);
    want_works(0);
    drop_logs();
    unmount_all(p.keeper, 1);
}

/* For what takes long and is the same whoever mounts. */
static void only_root(void)
{
    if (strcmp(stage, "root") != 0)
        skip();
}

/* Who kills each server that tries is not fed for ever. */
static void given_up(void **state)
{
    only_root();
    struct pids p = background(1, LASTS);
    atomic_store(&note->die, SIGSEGV);
    pid_t caller = looker("die");
    int error = ended(caller);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    assert_int_equal(ended(p.keeper), 1);
    assert_int_equal(note->prepared, 7);
    for (int i = 0; i < 6; i++)
        want_logged("killed by signal 11");
    want_logged("given up after 6 tries");
    want_nothing_left();
}

/* Stopped: callers are let go at once; when it goes on, nothing that was asked is lost. */
static void stopped_server(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0), other = hanging_reader(0);
    kill(p.server, SIGSTOP);
    want_state(0, "stopped");
    pid_t late = looker("f"), waits = looker("nothing");
    usleep(100000);
    kill(reader, SIGKILL);
    assert_int_equal(ended(reader), 128 + SIGKILL);
    kill(waits, SIGINT);
    assert_int_equal(ended(waits), EINTR);
    atomic_store(&note->answers_hang, 1);
    assert_false(has_ended(other));
    assert_false(has_ended(late));
    kill(p.server, SIGCONT);
    assert_int_equal(ended(late), 0);
    assert_int_equal(ended(other), 98);
    want_state(0, "up");
    assert_int_equal(pids_of(0).server, p.server);
    want_works(0);
    unmount_all(p.keeper, 1);
}

/* Stopped, or in a loop of its own, for longer than it may. */
static void hangs(void **state)
{
    struct pids p = background_for(1, LASTS, 1);
    pid_t caller = looker_hanging("spin"), late = looker("");
    assert_int_equal(ended(caller), ENOENT);
    assert_int_equal(ended(late), 0);
    want_restarts(1);
    want_logged("took no requests for 1 s and is killed");
    want_logged("the server hung and was killed: the next one carries on");
    struct pids now = pids_of(0);
    kill(now.server, SIGSTOP);
    want_works(0);
    want_restarts(2);
    assert_int_not_equal(pids_of(0).server, now.server);
    drop_logs();
    unmount_all(p.keeper, 1);
}

/* One that is in a loop and may be so for long lets nobody wait who is interrupted. */
static void hangs_interrupted(void **state)
{
    only_root();
    struct pids p = background_for(1, LASTS, 1000);
    pid_t reader = hanging_reader(0);
    pid_t caller = looker_hanging("spin"), late = looker("");
    want_state(0, "hangs");
    kill(reader, SIGKILL);
    assert_int_equal(ended(reader), 128 + SIGKILL);
    kill(caller, SIGKILL);
    assert_int_equal(ended(caller), 128 + SIGKILL);
    assert_false(has_ended(late));
    kill(p.server, SIGKILL);
    assert_int_equal(ended(late), 0);
    want_restarts(1);
    want_logged("killed by signal 9");
    unmount_all(p.keeper, 1);
}

static int switches(pid_t pid)
{
    char text[64];
    proc_line(pid, "status", "voluntary_ctxt_switches:", text, sizeof(text));
    return atoi(text);
}

/* A mount that nobody uses wakes nobody but, now and then, the keeper. */
static void idle(void **state)
{
    only_root();
    struct pids p = background_for(1, LASTS, 30);
    pid_t pids[] = {p.keeper, p.server, p.nursery};
    int before[3];
    want_works(0);
    sleep(4); /* looks become seldom */
    for (int i = 0; i < 3; i++)
        before[i] = switches(pids[i]);
    sleep(2);
    for (int i = 0; i < 3; i++)
        assert_true(switches(pids[i]) - before[i] <= (i == 0));
    unmount_all(p.keeper, 1);
}

/* A tree that cannot last has no nursery, and its end is that of the mount. */
static void lasts_not(void **state)
{
    struct pids p = background(1, LASTS_NOT);
    struct reg_page *page = reg_find(dirs[0]);
    while (atomic_load(&page->nursery))
        usleep(1000);
    reg_put(page);
    pid_t reader = hanging_reader(0);
    kill(p.server, SIGKILL);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    assert_int_equal(ended(p.keeper), 1);
    want_logged("mount: the server was killed by signal 9 (Killed)");
    want_nothing_left();
}

/* ---- something is mounted below a mount that has no server any more ---- */

static struct pids nested(const char **below)
{
    struct pids p = background(1, LASTS_NOT);
    static char path[256];
    snprintf(path, sizeof(path), "%s", under(0, "d"));
    assert_int_equal(mount("below", path, "tmpfs", 0, NULL), 0);
    close(open(under(0, "d/inside"), O_CREAT | O_WRONLY, 0600));
    *below = path;
    kill(p.server, SIGKILL);
    want_state(0, "failed: the server was killed by signal 9 (Killed)");
    want_logged("it stays until what is mounted below is unmounted");
    return p;
}

static void stands_in(void **state)
{
    const char *below;
    struct stat st;
    struct statfs sf;
    char names[600] = "";
    if (strcmp(stage, "user") == 0)
        skip(); /* may not mount anything else */
    struct pids p = nested(&below);
    usleep(1100000); /* nothing of what it knows is true to the kernel any more */
    DIR *d = opendir(dirs[0]);
    assert_non_null(d);
    for (struct dirent *de; (de = readdir(d));)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s ", de->d_name);
    closedir(d);
    assert_string_equal(names, ". .. d ");
    assert_int_equal(stat(dirs[0], &st), 0);
    assert_int_equal(st.st_mode, S_IFDIR | 0755);
    assert_int_equal(st.st_uid, geteuid());
    assert_int_equal(statfs(dirs[0], &sf), 0);
    assert_int_equal(stat(under(0, "f"), &st), -1);
    assert_int_equal(errno, ENOTCONN);
    assert_int_equal(stat(under(0, "d/inside"), &st), 0);
    assert_int_equal(umount2(below, 0), 0);
    assert_int_equal(ended(p.keeper), 1);
    want_logged("the server was killed by signal 9");
    want_nothing_left();
}

static void stands_in_forced(void **state)
{
    const char *below;
    struct stat st;
    if (strcmp(stage, "user") == 0)
        skip();
    struct pids p = nested(&below);
    assert_int_equal(mount_end(dirs[0], true, NULL), 0);
    assert_int_equal(ended(p.keeper), 1);
    assert_int_equal(stat(below, &st), -1);
    want_logged("the server was killed by signal 9");
    want_nothing_left();
}

static void stands_in_asked(void **state)
{
    const char *below;
    if (strcmp(stage, "user") == 0)
        skip();
    struct pids p = nested(&below);
    kill(p.keeper, SIGTERM);
    assert_int_equal(ended(p.keeper), 1);
    want_logged("the server was killed by signal 9");
    want_nothing_left();
}

/* ---- others are killed ---- */

static void want_gone(pid_t pid)
{
    while (kill(pid, 0) == 0 && waitpid(pid, NULL, WNOHANG) != pid)
        usleep(1000);
}

/* What waits for the mount gets an error. */
static void kill_keeper(const struct pids *p, pid_t reader)
{
    kill(p->keeper, SIGKILL);
    assert_int_equal(ended(p->keeper), 128 + SIGKILL);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
}

static void keeper_killed(void **state)
{
    struct pids p = background(2, LASTS);
    pid_t reader = hanging_reader(1);
    kill_keeper(&p, reader);
    want_gone(p.server);
    want_gone(p.nursery);
    want_logged("the keeper was killed");
    want_nothing_left();
}

static void keeper_killed_server_stopped(void **state)
{
    only_root();
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0);
    kill(p.server, SIGSTOP);
    want_state(0, "stopped");
    kill_keeper(&p, reader);
    want_gone(p.server);
    want_gone(p.nursery);
    want_logged("the keeper was killed");
    want_nothing_left();
}

static void keeper_killed_server_dead(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0);
    atomic_store(&note->fail_prepare, 100);
    kill(p.server, SIGKILL);
    want_state(0, "restarting");
    usleep(700000); /* in the pause of 2 s */
    kill_keeper(&p, reader);
    want_gone(p.nursery);
    while (waitpid(-1, NULL, 0) > 0) /* a server may just have been tried */
        ;
    drop_logs();
    want_nothing_left();
}

static void nursery_killed(void **state)
{
    struct pids p = background(1, LASTS);
    kill(p.nursery, SIGKILL);
    struct reg_page *page = reg_find(dirs[0]);
    while (strncmp(page->stats.lasts, "ends with its server", 20) != 0)
        usleep(1000);
    reg_put(page);
    want_logged("the nursery was killed");
    want_works(0);
    kill(p.server, SIGKILL);
    assert_int_equal(ended(p.keeper), 1);
    want_logged("the server was killed by signal 9 (Killed)");
    want_nothing_left();
}

/* All of them: nothing is left but a dead mount, which the next one clears. */
static void all_killed(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t pids[] = {p.keeper, p.nursery, p.server};
    char path[PATH_MAX];
    for (int i = 0; i < 3; i++)
        kill(pids[i], SIGSTOP);
    for (int i = 0; i < 3; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < 3; i++)
        want_gone(pids[i]);
    assert_int_equal(mount_check(dirs[0], false, path, NULL), 0);
    want_nothing_left();
}

/* ---- ends while there is no server ---- */

static void ended_between_tries(void **state)
{
    for (int how = 0; how < 3; how++) {
        struct pids p = background(1, LASTS);
        pid_t reader = hanging_reader(0);
        atomic_store(&note->fail_prepare, 100);
        kill(p.server, SIGKILL);
        want_state(0, "restarting");
        usleep(700000); /* in the pause of 2 s */
        if (how == 0)
            kill(p.keeper, SIGTERM);
        else
            assert_int_equal(mount_end(dirs[0], true, NULL), 0);
        int error = ended(reader);
        assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
        assert_int_equal(ended(p.keeper), 0);
        drop_logs();
        want_nothing_left();
    }
}

static void forced_while_stopped(void **state)
{
    struct pids p = background(1, LASTS);
    pid_t reader = hanging_reader(0);
    kill(p.server, SIGSTOP);
    want_state(0, "stopped");
    assert_int_equal(mount_end(dirs[0], true, NULL), 0);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    assert_int_equal(ended(p.keeper), 0);
    want_logged(NULL);
    want_nothing_left();
}

static int stage_tests(void)
{
#define T(f) cmocka_unit_test_teardown(f, clean_up)
    const struct CMUnitTest tests[] = {
        T(killed),
        T(killed_often),
        T(one_of_two_is_gone),
        T(away),
        T(given_up),
        T(stopped_server),
        T(hangs),
        T(hangs_interrupted),
        T(idle),
        T(lasts_not),
        T(stands_in),
        T(stands_in_forced),
        T(stands_in_asked),
        T(keeper_killed),
        T(keeper_killed_server_stopped),
        T(keeper_killed_server_dead),
        T(nursery_killed),
        T(all_killed),
        T(ended_between_tries),
        T(forced_while_stopped),
    };
    const char *only = getenv("PLENUM_TEST_ONLY");
    if (only)
        cmocka_set_test_filter(only);
    return cmocka_run_group_tests_name(stage, tests, stage_setup, NULL);
}
