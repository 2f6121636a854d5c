/* SPDX-License-Identifier: MIT */
/*
 * The keeper on real mounts. A few lines that answer INIT, LOOKUP, GETATTR, OPEN and READ stand in
 * for the door.
 *
 * Everything runs in namespaces of its own (mounts, processes), so that whatever a failing test
 * leaves behind goes with them: the outer process only keeps the time. Inside, the same tests run
 * three times: as root, as root of a user namespace, and as an ordinary user through fusermount3.
 */
#include "keeper_stages.h"

static void in_background(void **state)
{
    char text[256];
    struct stat st;
    dev_t dev;
    struct pids p = background(1, PLAIN);
    want_works(0);
    assert_int_equal(stat(dirs[0], &st), 0);
    assert_int_equal(mount_dev(dirs[0], &dev), 0);
    assert_int_equal(st.st_dev, dev);
    assert_true(mount_present(dev));

    struct reg_page *page = reg_find(dirs[0]);
    assert_string_equal(page->kind, "mount");
    assert_string_equal(page->spec, "ro(a b,c\\d)");
    assert_string_equal(page->state, "up");
    assert_true(page->stats.requests > 2);
    reg_put(page);

    /* the kernel's view: type and source */
    char line[256];
    snprintf(line, sizeof(line), "ro(a\\040b,c\\134d) %s fuse.plenum ", dirs[0]);
    proc_line(getpid(), "mounts", line, text, sizeof(text));
    assert_non_null(strstr(text, "nosuid,nodev"));

    proc_line(p.keeper, "status", "Name:\t", text, sizeof(text));
    assert_string_equal(text, "plenum-keeper\n");
    proc_line(p.server, "status", "Name:\t", text, sizeof(text));
    assert_string_equal(text, "plenum-server\n");
#if !THREAD_SANITIZER /* has a thread of its own */
    proc_line(p.keeper, "status", "Threads:\t", text, sizeof(text));
    assert_string_equal(text, "1\n");
#endif
    assert_int_not_equal(getsid(p.keeper), getsid(0));
    assert_int_not_equal(getsid(p.server), getsid(0));
    assert_true(left_terminal(p.keeper));
    assert_true(left_terminal(p.server));
    assert_int_equal(descriptors(p.keeper, "/dev/fuse"), 1);

    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    assert_int_equal(ended(p.keeper), 0);
    assert_int_equal(note->finished, 1);
    assert_int_equal(note->stopped, 0);
    want_logged(NULL);
    want_nothing_left();
}

/* Neither process runs while there is nothing to do. */
static void idle(void **state)
{
    struct pids p = background(1, PLAIN);
    char before[2][64], after[2][64];
    want_works(0);
    usleep(100000); /* FORGET, RELEASE */
    proc_line(p.keeper, "status", "voluntary_ctxt_switches:", before[0], 64);
    proc_line(p.server, "status", "voluntary_ctxt_switches:", before[1], 64);
    usleep(500000);
    proc_line(p.keeper, "status", "voluntary_ctxt_switches:", after[0], 64);
    proc_line(p.server, "status", "voluntary_ctxt_switches:", after[1], 64);
    assert_string_equal(before[0], after[0]);
    assert_string_equal(before[1], after[1]);
    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    assert_int_equal(ended(p.keeper), 0);
    want_nothing_left();
}

static void sigterm(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < 3; i++) {
        struct pids p = background(2, FINISH_WAITS);
        kill(p.keeper, signals[i]);
        assert_int_equal(ended(p.keeper), 0);
        assert_int_equal(note->finished, 1);
        assert_int_equal(note->stopped, 1);
        want_logged(NULL);
        want_nothing_left();
    }
}

/* With a file open and a caller inside: nobody hangs, nothing stays. */
static void sigterm_busy(void **state)
{
    struct pids p = background(1, PLAIN);
    int fd = open(under(0, "f"), O_RDONLY | O_CLOEXEC);
    pid_t reader = hanging_reader(0);
    struct pl_err err = {0};
    assert_int_equal(mount_end(dirs[0], false, &err), -EBUSY);
    assert_non_null(strstr(err.text, "busy: a process works in it"));
    kill(p.keeper, SIGTERM);
    assert_int_equal(ended(p.keeper), 0);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    char c;
    assert_int_equal(read(fd, &c, 1), -1);
    close(fd);
    want_nothing_left();
}

static void force_busy(void **state)
{
    struct pids p = background(1, PLAIN);
    int fd = open(under(0, "f"), O_RDONLY | O_CLOEXEC);
    pid_t reader = hanging_reader(0);
    assert_int_equal(mount_end(dirs[0], true, NULL), 0);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    close(fd);
    assert_int_equal(ended(p.keeper), 0);
    want_nothing_left();
}

static void server_killed(void **state)
{
    struct pids p = background(2, PLAIN);
    int fd = open(under(1, "f"), O_RDONLY | O_CLOEXEC);
    pid_t reader = hanging_reader(0);
    kill(p.server, SIGKILL);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    assert_int_equal(ended(p.keeper), 1);
    close(fd);
    want_logged("mount: the server was killed by signal 9 (Killed)");
    want_nothing_left();
}

/* A server that is stopped cannot be waited for: the second signal kills it. */
static void second_signal(void **state)
{
    struct keeper_job job = job_of(1, true, FINISH_HANGS);
    pid_t keeper = start(&job, -1);
    while (atomic_load(&note->up) == 0)
        usleep(1000);
    kill(keeper, SIGINT);
    while (atomic_load(&note->finished) == 0)
        usleep(1000);
    assert_false(mounted(0));
    kill(keeper, SIGINT);
    assert_int_equal(ended(keeper), 0);
    want_said("");
    want_nothing_left();
}

static void check_says(const char *dir, bool nonempty, int code, const char *words)
{
    char path[PATH_MAX];
    struct pl_err err = {0};
    int rc = mount_check(dir, nonempty, path, &err);
    if (rc != code || (words && !strstr(err.text, words)))
        print_error("%s: got %d \"%s\", want %d \"%s\"\n", dir, rc, err.text, code, words);
    assert_int_equal(rc, code);
    if (words)
        assert_non_null(strstr(err.text, words));
}

static void keeper_killed(void **state)
{
    struct pids p = background(2, FINISH_WAITS);
    pid_t reader = hanging_reader(1);
    kill(p.keeper, SIGKILL);
    assert_int_equal(ended(p.keeper), 128 + SIGKILL);
    int error = ended(reader);
    assert_true(error == ECONNABORTED || error == ENOTCONN || error == EIO);
    assert_int_equal(ended(p.server), 1);
    assert_int_equal(note->finished, 1);
    assert_int_equal(note->stopped, 1);
    want_logged(THREAD_SANITIZER ? "the keeper was killed" /* it is not confined then */
                                 : "the keeper was killed: the mounts are dead");
    for (size_t i = 0; i < 2 && !THREAD_SANITIZER;
         i++) { /* what the server may not take away is cleared by the next */
        struct statfs sf;
        assert_true(mounted(i));
        assert_int_equal(statfs(dirs[i], &sf), -1);
        check_says(dirs[i], false, 0, NULL);
        assert_false(mounted(i));
    }
    want_nothing_left();
}

static void prepare_fails(void **state)
{
    for (int foreground = 0; foreground < 2; foreground++) {
        struct keeper_job job = job_of(2, foreground, PREPARE_FAILS);
        assert_int_equal(ended(start(&job, -1)), 1);
        want_said("plenum: mount: tcp!nowhere!1: connection refused (start it)\n");
        assert_int_equal(note->finished, 0);
        want_logged(NULL);
        want_nothing_left();

        job = job_of(1, foreground, PREPARE_CRASHES);
        assert_int_equal(ended(start(&job, -1)), 1);
        want_said("plenum: mount: the server was killed by signal 6 (Aborted)\n");
        want_nothing_left();
    }
}

/* Ctrl-C, or a killed shell, while it still dials. */
static void ended_while_starting(void **state)
{
    struct keeper_job job = job_of(1, false, PREPARE_BLOCKS);
    pid_t user = start(&job, -1);
    while (atomic_load(&note->prepared) == 0)
        usleep(1000);
    struct pids p = pids_of(0);
    kill(user, SIGKILL);
    assert_int_equal(ended(user), 128 + SIGKILL);
    assert_int_equal(ended(p.keeper), 0);
    want_said("");
    want_nothing_left();

    job = job_of(1, true, PREPARE_BLOCKS);
    user = start(&job, -1);
    while (atomic_load(&note->prepared) == 0)
        usleep(1000);
    kill(user, SIGTERM);
    assert_int_equal(ended(user), 0);
    want_nothing_left();

    job = job_of(1, true, PREPARE_BLOCKS);
    user = start(&job, -1);
    while (atomic_load(&note->prepared) == 0)
        usleep(1000);
    p = pids_of(0);
    kill(user, SIGKILL);
    assert_int_equal(ended(user), 128 + SIGKILL);
    assert_int_equal(ended(p.server), 1);
    want_nothing_left();
}

static void one_of_two(void **state)
{
    struct pids p = background(2, PLAIN);
    assert_int_equal(descriptors(p.keeper, "/dev/fuse"), 2);
    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    while (descriptors(p.keeper, "/dev/fuse") > 1)
        usleep(1000);
    want_works(1);
    assert_false(mounted(0));
    assert_int_equal(note->finished, 0);
    assert_int_equal(mount_end(dirs[1], false, NULL), 0);
    assert_int_equal(ended(p.keeper), 0);
    assert_int_equal(note->finished, 1);
    want_nothing_left();
}

/* The second mount cannot be made: the first goes too, and finish still says goodbye. */
static void second_mount_fails(void **state)
{
    for (int foreground = 0; foreground < 2; foreground++) {
        struct keeper_job job = job_of(2, foreground, PREPARE_BREAKS_SECOND);
        assert_int_equal(ended(start(&job, -1)), 1);
        char buf[512] = "";
        assert_true(read(said_fd, buf, sizeof(buf) - 1) > 0);
        assert_non_null(strstr(buf, dirs[1]));
        assert_ptr_equal(strchr(buf, '\n'), buf + strlen(buf) - 1);
        assert_int_equal(note->finished, 1);
        assert_int_equal(note->up, 0);
        want_nothing_left();
    }
}

static void link_lost(void **state)
{
    struct stat st;
    struct pids p = background(2, PLAIN);
    assert_int_equal(stat(under(0, "quit"), &st), -1);
    assert_int_equal(ended(p.keeper), 1);
    assert_int_equal(note->finished, 1);
    want_logged("mount: link to peer lost: it went away");
    want_nothing_left();
}

static void finish_fails(void **state)
{
    struct keeper_job job = job_of(1, true, FINISH_FAILS);
    pid_t pid = start(&job, -1);
    while (atomic_load(&note->up) == 0)
        usleep(1000);
    while (mount_end(dirs[0], false, NULL) < 0)
        usleep(1000);
    assert_int_equal(ended(pid), 1);
    want_said("plenum: mount: peer: said no goodbye\n");
    want_nothing_left();
}

static void nothing_to_mount(void **state)
{
    for (int foreground = 0; foreground < 2; foreground++) {
        struct keeper_job job = job_of(1, foreground, NOTHING);
        assert_int_equal(ended(start(&job, -1)), 0);
        want_said("");
        while (waitpid(-1, NULL, 0) > 0)
            ;
        assert_int_equal(note->finished, 1);
        want_nothing_left();
    }
}

/* The server alone holds the ends of channels: when it closes one, the peer sees it. */
static void channel_is_the_servers(void **state)
{
    int fd[2], other[2];
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    assert_int_equal(pipe(other), 0); /* one that the keeper must not keep either */
    struct keeper_job job = job_of(1, true, TAKES_STDIN);
    pid_t pid = start(&job, fd[0]);
    close(fd[0]);
    close(other[0]);
    while (atomic_load(&note->up) == 0)
        usleep(1000);
    void (*was)(int) = signal(SIGPIPE, SIG_IGN);
    assert_int_equal(write(fd[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    signal(SIGPIPE, was);
    char name[64];
    struct stat st;
    assert_int_equal(fstat(other[1], &st), 0);
    snprintf(name, sizeof(name), "pipe:[%lu]", (unsigned long)st.st_ino);
    assert_int_equal(descriptors(pid, name), 0);
    close(fd[1]);
    close(other[1]);
    kill(pid, SIGTERM);
    assert_int_equal(ended(pid), 0);
    want_nothing_left();
}

static void mount_points(void **state)
{
    char path[PATH_MAX], file[256], name[256];
    struct keeper_job job = job_of(2, true, PLAIN);
    struct pl_err err = {0};
    snprintf(file, sizeof(file), "%s/file", dirs[0]);
    check_says(under(0, "no"), false, -ENOENT, "no such directory (make it with mkdir)");
    close(open(file, O_CREAT | O_WRONLY, 0600));
    check_says(file, false, -ENOTDIR, "not a directory");
    check_says(dirs[0], false, -ENOTEMPTY, "not empty");
    check_says(dirs[0], true, 0, NULL);
    unlink(file);
    check_says(dirs[0], false, 0, NULL);
    if (strcmp(stage, "user") == 0) {
        check_says("/usr", true, -EACCES, "not permitted to mount on it");
        check_says("/root", false, -EACCES, "not permitted");
    }
    /* relative, and through a symlink */
    assert_int_equal(chdir(base), 0);
    assert_int_equal(symlink("m0", "link"), 0);
    assert_int_equal(mount_check("link", false, path, &err), 0);
    assert_string_equal(path, dirs[0]);
    assert_int_equal(unlink("link"), 0);
    assert_int_equal(mount_check("./m0/../m1/", false, path, &err), 0);
    assert_string_equal(path, dirs[1]);
    assert_int_equal(chdir("/"), 0);
    /* one within the other */
    snprintf(name, sizeof(name), "%s/sub", dirs[0]);
    assert_int_equal(mkdir(name, 0755), 0);
    mounts[1].dir = name;
    mounts[0].opts.nonempty = true;
    assert_int_equal(ended(start(&job, -1)), 1);
    snprintf(
        path, sizeof(path),
        "plenum: mount: %s: is to be mounted together with %s (neither may lie in the other)\n",
        name, dirs[0]);
    want_said(path);
    rmdir(name);
    mounts[1].dir = dirs[0];
    assert_int_equal(ended(start(&job, -1)), 1);
    /* nothing of ours there */
    assert_int_equal(mount_end(dirs[0], true, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a plenum mount"));
    assert_int_equal(mount_end("/proc", true, &err), -EINVAL);
    want_nothing_left();
}

/* Names that mountinfo must escape. */
static void odd_names(void **state)
{
    static const char *const names[] = {
        "with space", "tab\tand\nline", "back\\slash\\040", "comma,and=sign", "-o", "#x"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct keeper_job job = job_of(1, false, PLAIN);
        rmdir(dirs[0]);
        rmdir(dirs[1]);
        snprintf(dirs[0], sizeof(dirs[0]), "%s/%s", base, names[i]);
        assert_int_equal(mkdir(dirs[0], 0755), 0);
        assert_int_equal(ended(start(&job, -1)), 0);
        want_said("");
        assert_true(mounted(0));
        want_works(0);
        pid_t keeper = pids_of(0).keeper;
        check_says(dirs[0], false, -EBUSY, "already a plenum mount of ro(a b,c\\d) (plenum umount");
        assert_int_equal(mount_end(dirs[0], false, NULL), 0);
        assert_int_equal(ended(keeper), 0);
        want_nothing_left();
    }
}

/* A source longer than the kernel takes. */
static void long_source(void **state)
{
    char spec[600];
    struct keeper_job job = job_of(1, false, PLAIN);
    for (size_t i = 0; i + 2 < sizeof(spec); i += 2)
        memcpy(spec + i, "\303\244", 2); /* two bytes each: the cut falls within one */
    spec[sizeof(spec) - 2] = 0;
    mounts[0].spec = spec;
    assert_int_equal(ended(start(&job, -1)), 0);
    want_said("");
    struct reg_page *p = reg_find(dirs[0]);
    assert_string_equal(p->spec, spec);
    pid_t keeper = atomic_load(&p->keeper);
    reg_put(p);
    struct pl_err err = {0};
    char path[PATH_MAX];
    assert_int_equal(mount_check(dirs[0], false, path, &err), -EBUSY);
    assert_null(strstr(err.text, "\\303 ")); /* no half character */
    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    assert_int_equal(ended(keeper), 0);
    want_nothing_left();
}

/* Are all threads of the process in the stopped state? SIGSTOP reaches them one by one. */
static bool stopped(pid_t pid)
{
    char path[64], stat[512];
    bool all = true;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char file[400];
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s/stat", path, e->d_name);
        FILE *f = fopen(file, "r");
        size_t n = f ? fread(stat, 1, sizeof(stat) - 1, f) : 0;
        if (f)
            fclose(f);
        stat[n] = 0;
        char *state = strrchr(stat, ')');
        all = all && state && state[2] == 'T';
    }
    closedir(d);
    return all;
}

/* Both processes killed: the dead mount is cleared by the next check. */
static void wreck(void **state)
{
    struct pids p = background(1, PLAIN);
    struct statfs sf;
    kill(p.server, SIGSTOP);
    while (!stopped(p.server))
        usleep(1000);
    kill(p.keeper, SIGKILL);
    assert_int_equal(ended(p.keeper), 128 + SIGKILL);
    assert_true(mounted(0));
    check_says(dirs[0], false, -EBUSY, "already a plenum mount"); /* the server still lives */
    kill(p.server, SIGKILL);
    assert_int_equal(ended(p.server), 128 + SIGKILL);
    assert_true(mounted(0));
    assert_int_equal(statfs(dirs[0], &sf), -1);
    assert_int_equal(errno, ENOTCONN);
    check_says(dirs[0], false, 0, NULL);
    assert_false(mounted(0));
    p = background(1, PLAIN);
    kill(p.keeper, SIGTERM);
    assert_int_equal(ended(p.keeper), 0);
    want_nothing_left();
}

/* A mount whose server never answers hangs nobody here. */
static void hung(void **state)
{
    struct mount_opts opts;
    struct pl_err err = {0};
    char path[PATH_MAX];
    int fd;
    dev_t dev;
    (void)job_of(1, true, PLAIN);
    mount_opts_init(&opts);
    opts.source = "mem:";
    assert_int_equal(mount_fuse(dirs[0], &opts, &fd, &err), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(mount_dev(dirs[0], &dev), 0);
    assert_int_equal(mount_path(dirs[0], path, &err), 0);
    assert_string_equal(path, dirs[0]);
    check_says(dirs[0], false, -EBUSY, "which does not answer (plenum umount -f");
    assert_int_equal(mount_end_dev(dirs[0], dev + 1, true, &err), -ENOENT);
    assert_true(mounted(0));
    assert_int_equal(mount_end(dirs[0], true, &err), 0);
    assert_false(mount_present(dev));
    close(fd);
    want_nothing_left();
}

/* A dead mount of another program is not ours to clear. */
static void dead_stranger(void **state)
{
    char data[128];
    if (strcmp(stage, "user") == 0)
        skip();
    (void)job_of(1, true, PLAIN);
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    assert_int_equal(mount("sshfs", dirs[0], "fuse.sshfs", 0, data), 0);
    close(fd);
    check_says(dirs[0], false, -EBUSY, "a dead mount (fuse.sshfs) is in the way (clear it: umount");
    check_says(dirs[0], true, -EBUSY, "a dead mount (fuse.sshfs)");
    check_says(under(0, "sub"), true, -ENOTCONN, "lies in a dead mount");
    assert_int_equal(umount2(dirs[0], MNT_DETACH), 0);
    want_nothing_left();
}

static void no_device(void **state)
{
    struct mount_opts opts;
    struct pl_err err = {0};
    int fd;
    if (strcmp(stage, "root") != 0)
        skip();
    (void)job_of(1, true, PLAIN);
    mount_opts_init(&opts);
    assert_int_equal(rename("/dev/fuse", "/dev/fuse.away"), 0);
    int rc = mount_fuse(dirs[0], &opts, &fd, &err);
    assert_int_equal(rename("/dev/fuse.away", "/dev/fuse"), 0);
    assert_int_equal(rc, -ENODEV);
    assert_non_null(strstr(err.text, "/dev/fuse: there is none (load the fuse module"));
    want_nothing_left();
}

static void allow_other(void **state)
{
    struct keeper_job job = job_of(1, true, PLAIN);
    if (strcmp(stage, "user") != 0) {
        assert_true(mounts[0].opts.allow_other);
        want_nothing_left();
        skip();
    }
    assert_false(mounts[0].opts.allow_other);
    mounts[0].opts.allow_other = true;
    assert_int_equal(ended(start(&job, -1)), 1);
    char text[512];
    snprintf(text, sizeof(text),
             "plenum: mount: %s: allow_other is not permitted to users (add the line "
             "user_allow_other to /etc/fuse.conf, or leave the option out)\n",
             dirs[0]);
    want_said(text);
    want_nothing_left();
}

static void options(void **state)
{
    char text[256], line[256];
    struct keeper_job job = job_of(1, false, PLAIN);
    struct mount_opts *o = &mounts[0].opts;
    o->ro = o->noexec = o->noatime = true;
    o->source = "a,b\\c";
    assert_int_equal(ended(start(&job, -1)), 0);
    want_said("");
    snprintf(line, sizeof(line), "a,b\\134c %s fuse.plenum ro,nosuid,nodev,noexec,noatime,",
             dirs[0]);
    proc_line(getpid(), "mounts", line, text, sizeof(text));
    assert_non_null(strstr(text, "default_permissions"));
    pid_t keeper = pids_of(0).keeper;
    assert_int_equal(mount_end(dirs[0], false, NULL), 0);
    assert_int_equal(ended(keeper), 0);
    want_nothing_left();
}

static int stage_tests(void)
{
#define T(f) cmocka_unit_test_teardown(f, clean_up)
    const struct CMUnitTest tests[] = {
        T(in_background),
        T(idle),
        T(sigterm),
        T(sigterm_busy),
        T(force_busy),
        T(server_killed),
        T(second_signal),
        T(keeper_killed),
        T(prepare_fails),
        T(ended_while_starting),
        T(one_of_two),
        T(second_mount_fails),
        T(link_lost),
        T(finish_fails),
        T(nothing_to_mount),
        T(channel_is_the_servers),
        T(mount_points),
        T(odd_names),
        T(long_source),
        T(wreck),
        T(hung),
        T(dead_stranger),
        T(no_device),
        T(allow_other),
        T(options),
    };
    const char *only = getenv("PLENUM_TEST_ONLY");
    if (only)
        cmocka_set_test_filter(only);
    return cmocka_run_group_tests_name(stage, tests, stage_setup, NULL);
}
