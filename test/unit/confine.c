/* SPDX-License-Identifier: MIT */
/* Giving up rights: in all threads, whatever they do meanwhile; what is denied and what goes on. */
#include "base/confine.h"
#include "base/cred.h"
#include "base/filter.h"
#include "base/memory.h"
#include "sanitizer.h"
#include "sources/host.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BIT(name) (UINT64_C(1) << (name))
extern char **environ;

/* Confinement is for good, so each test is a child; what fails there is its exit status. */
static int in_child(int (*run)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(run());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Ends the child with the line's number, in steps that fit an exit status. */
#define WANT(what)                                                                                 \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            dprintf(2, "line %d: %s (errno %d)\n", __LINE__, #what, errno);                        \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

struct caps {
    uint64_t effective, permitted, inheritable;
};

static struct caps caps_now(void)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct c[2] = {0};
    syscall(SYS_capget, &hdr, c);
    return (struct caps){c[0].effective | (uint64_t)c[1].effective << 32,
                         c[0].permitted | (uint64_t)c[1].permitted << 32,
                         c[0].inheritable | (uint64_t)c[1].inheritable << 32};
}

/* Of this thread. Before any is given up: all that this process has. */
static uint64_t had;

static bool confined(uint64_t keep)
{
    struct caps c = caps_now();
    bool bounded = true;
    for (int i = 0; i < 41; i++)
        if (!(keep >> i & 1) && had & BIT(CAP_SETPCAP) && prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
            bounded = false;
    return !(c.permitted & ~keep) && !(c.effective & ~keep) && !c.inheritable && bounded &&
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

/* ---- the capabilities that needs keep ---- */

static void needs(void **state)
{
    assert_int_equal(confine_keep(0, UINT64_MAX), 0);
    assert_int_equal(confine_keep(CONFINE_ADMIN, UINT64_MAX), BIT(CAP_SYS_ADMIN));
    assert_int_equal(confine_keep(CONFINE_ADMIN | CONFINE_FILES, 0), 0);
    assert_int_equal(confine_keep(CONFINE_NOTHING | CONFINE_FILES, 12345), 12345);
    uint64_t files = confine_keep(CONFINE_FILES, UINT64_MAX);
    assert_true(files & BIT(CAP_CHOWN) && files & BIT(CAP_DAC_READ_SEARCH));
    uint64_t reads = confine_keep(CONFINE_READS, UINT64_MAX);
    assert_true(reads & BIT(CAP_DAC_READ_SEARCH) && !(reads & ~files));
    assert_false(reads & (BIT(CAP_CHOWN) | BIT(CAP_MKNOD) | BIT(CAP_LINUX_IMMUTABLE)));
    assert_false(files & (BIT(CAP_SYS_ADMIN) | BIT(CAP_SYS_PTRACE) | BIT(CAP_SYS_MODULE) |
                          BIT(CAP_NET_ADMIN) | BIT(CAP_SETPCAP) | BIT(CAP_SYS_BOOT) |
                          BIT(CAP_SYS_TIME) | BIT(CAP_SYS_RAWIO) | BIT(CAP_KILL)));
}

/* ---- the filter ---- */

static int denied(void)
{
    static const long calls[] = {SYS_mount,
                                 SYS_umount2,
                                 SYS_ptrace,
                                 SYS_reboot,
                                 SYS_bpf,
                                 SYS_setns,
                                 SYS_kexec_load,
                                 SYS_init_module,
                                 SYS_settimeofday,
                                 SYS_swapon,
                                 SYS_perf_event_open,
                                 SYS_keyctl,
                                 SYS_pivot_root,
                                 SYS_process_vm_readv,
                                 SYS_process_vm_writev,
                                 SYS_finit_module,
                                 SYS_delete_module,
                                 SYS_clock_settime,
                                 SYS_chroot,
                                 SYS_sethostname,
                                 SYS_fsopen,
                                 SYS_move_mount,
                                 SYS_open_tree,
                                 SYS_userfaultfd};
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
#if ADDRESS_SANITIZER /* which needs it to look for leaks */
        if (calls[i] == SYS_ptrace)
            continue;
#endif
        errno = 0;
        long r = syscall(calls[i], 0, 0, 0, 0, 0, 0);
        if (r != -1 || errno != EPERM) {
            dprintf(2, "call %ld: %ld, errno %d\n", calls[i], r, errno);
            return 1;
        }
    }
    WANT(unshare(CLONE_NEWUSER) == -1 && errno == EPERM);
    WANT(unshare(CLONE_NEWNS | CLONE_FS) == -1 && errno == EPERM);
    WANT(unshare(CLONE_FS) == 0);
    WANT(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EPERM);
    WANT(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
    return 0;
}

static void *denied_thread(void *arg)
{
    atomic_bool *go = arg;
    while (!atomic_load(go))
        usleep(1000);
    return (void *)(intptr_t)denied();
}

static int filter(void)
{
    static atomic_bool go;
    pthread_t before, after;
    void *result;
    WANT(pthread_create(&before, NULL, denied_thread, &go) == 0);
    WANT(filter_load(false) == 0);
    WANT(denied() == 0);
    atomic_store(&go, true);
    WANT(pthread_create(&after, NULL, denied_thread, &go) == 0); /* without clone3 */
    WANT(pthread_join(before, &result) == 0 && !result);
    WANT(pthread_join(after, &result) == 0 && !result);
    /* what a tree starts later lives under it */
    pid_t pid;
    char *argv[] = {(char *)"sh", (char *)"-c",
                    (char *)"grep -q '^Seccomp:.2' /proc/self/status && ! unshare -U true", NULL};
    int status, null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 2);
    WANT(posix_spawnp(&pid, "sh", NULL, NULL, argv, environ) == 0);
    WANT(waitpid(pid, &status, 0) == pid && status == 0);
    return 0;
}

static void filters(void **state)
{
    assert_int_equal(in_child(filter), 0);
}

/* ---- threads ---- */

static atomic_bool stop;
static atomic_uint started, bad;
static uint64_t kept;

/* Acts for others all the while, as a server of exports does. */
static void *switching(void *arg)
{
    atomic_fetch_add(&started, 1);
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        if (cred_set(i % 3 ? 1000 + i % 3 : 0, 1000, NULL, 0) < 0)
            atomic_fetch_add(&bad, 1);
        cred_end();
    }
    cred_reset();
    if (!confined(kept) || caps_now().effective != kept)
        atomic_fetch_add(&bad, 1);
    return NULL;
}

static void *short_lived(void *arg)
{
    usleep(3000);
    if (atomic_load(&stop) && !confined(kept))
        atomic_fetch_add(&bad, 1);
    return NULL;
}

/* Starts threads all the while. */
static void *spawning(void *arg)
{
    pthread_t t[4];
    atomic_fetch_add(&started, 1);
    for (bool on = true; on;) {
        on = !atomic_load(&stop);
        for (size_t i = 0; i < 4; i++)
            pthread_create(&t[i], NULL, short_lived, NULL);
        for (size_t i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
    }
    return NULL;
}

static void *sleeping(void *arg)
{
    atomic_fetch_add(&started, 1);
    while (!atomic_load(&stop))
        usleep(10000);
    if (!confined(kept))
        atomic_fetch_add(&bad, 1);
    return NULL;
}

static int threads(void)
{
    void *(*const kinds[])(void *) = {switching, spawning, sleeping, switching, sleeping};
    pthread_t t[5];
    confine_need(CONFINE_FILES);
    cred_able();
    kept = confine_keep(CONFINE_FILES, had);
    if (memory_lock() == MEMORY_BY_CAP)
        kept |= BIT(CAP_IPC_LOCK);
    for (size_t i = 0; i < 5; i++)
        WANT(pthread_create(&t[i], NULL, kinds[i], NULL) == 0);
    while (atomic_load(&started) < 5)
        sched_yield();
    WANT(confine_server() == 0);
    WANT(confined(kept));
    atomic_store(&stop, true);
    for (size_t i = 0; i < 5; i++)
        WANT(pthread_join(t[i], NULL) == 0);
    WANT(atomic_load(&bad) == 0);
    return 0;
}

static void all_threads(void **state)
{
    if (THREAD_SANITIZER ||
        geteuid() != 0) /* it delivers signals late, and has a thread of its own */
        skip();
    assert_int_equal(in_child(threads), 0);
}

/* A thread that cannot be reached is told of, and nothing waits for it for good. */
static void *deaf(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    atomic_fetch_add(&started, 1);
    while (!atomic_load(&stop))
        pause();
    return NULL;
}

static int unreachable(void)
{
    pthread_t t;
    WANT(pthread_create(&t, NULL, deaf, NULL) == 0);
    while (atomic_load(&started) < 1)
        sched_yield();
    WANT(confine_server() == -EBUSY);
    return 0;
}

static void deaf_thread(void **state)
{
    assert_int_equal(in_child(unreachable), 0);
}

static int nothing(void)
{
    struct caps before = caps_now();
    confine_need(CONFINE_FILES);
    confine_need(CONFINE_NOTHING);
    WANT(confine_server() == 0);
    struct caps after = caps_now();
    WANT(!memcmp(&before, &after, sizeof(before)));
    WANT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    return 0;
}

static void nothing_given_up(void **state)
{
    assert_int_equal(in_child(nothing), 0);
}

/* ---- paths ---- */

static char tree[] = "/tmp/confine.XXXXXX";

static int open_in(const char *name, int flags)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", tree, name);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static void *opens(void *arg)
{
    atomic_fetch_add(&started, 1);
    while (!atomic_load(&stop))
        usleep(1000);
    if (open_in("served/f", O_RDWR) != 0 || open_in("sibling/f", O_RDONLY) != -EACCES)
        atomic_fetch_add(&bad, 1);
    return NULL;
}

/* As a server would that was taken over: whatever it tries, and in whichever thread. */
static int exporter(void)
{
    char served[200], sibling[200];
    enum confine_paths paths;
    pthread_t t;
    snprintf(served, sizeof(served), "%s/served", tree);
    snprintf(sibling, sizeof(sibling), "%s/sibling", tree);
    WANT(mkdir(served, 0755) == 0 && mkdir(sibling, 0755) == 0);
    WANT(open_in("served/f", O_RDWR | O_CREAT) == 0 && open_in("sibling/f", O_RDWR | O_CREAT) == 0);
    int dir = open(served, O_PATH | O_CLOEXEC);
    WANT(dir >= 0 && confine_path_of(dir, CONFINE_READ | CONFINE_CHANGE) == 0);
    WANT(pthread_create(&t, NULL, opens, NULL) == 0);
    while (atomic_load(&started) < 1)
        sched_yield();
    WANT(confine_exporter(&paths) == 0);
    atomic_store(&stop, true);
    WANT(pthread_join(t, NULL) == 0);
    if (paths == CONFINED_NOT) /* an old kernel */
        return 0;
    WANT(paths == CONFINED_ALL && atomic_load(&bad) == 0);
    WANT(open_in("served/f", O_RDWR | O_TRUNC) == 0);
    WANT(open_in("served/g", O_WRONLY | O_CREAT) == 0);
    WANT(renameat(dir, "g", dir, "h") == 0 && unlinkat(dir, "h", 0) == 0);
    WANT(open_in("sibling/f", O_RDONLY) == -EACCES);
    WANT(open_in("sibling/g", O_WRONLY | O_CREAT) == -EACCES);
    WANT(openat(dir, "../sibling/f", O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
    WANT(renameat(dir, "f", AT_FDCWD, "/tmp/stolen") < 0);
    WANT(open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
    WANT(open("/etc/ssh", O_RDONLY | O_CLOEXEC) < 0);
    WANT(getpwuid(0)); /* users can still be told */
    return 0;
}

static void paths(void **state)
{
    if (THREAD_SANITIZER)
        skip();
    char cmd[100];
    assert_non_null(mkdtemp(tree));
    int r = in_child(exporter);
    snprintf(cmd, sizeof(cmd), "rm -r %s", tree);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(r, 0);
}

/* With a need that paths would stand in the way of, nothing is said of them. */
static int commands(void)
{
    enum confine_paths paths;
    confine_need(CONFINE_COMMANDS);
    WANT(confine_exporter(&paths) == 0 && paths == CONFINED_NOT);
    WANT(system("cat /etc/hostname >/dev/null") == 0);
    return 0;
}

static void paths_not(void **state)
{
    if (THREAD_SANITIZER)
        skip();
    assert_int_equal(in_child(commands), 0);
}

/* A host directory that is only read, without the ro layer that refuses at once what would change
 * it: the kernel does. */
static int reader(void)
{
    enum confine_paths paths;
    char path[200];
    struct pl_tree *h;
    struct pl_err err;
    struct pl_call call;
    struct pl_node *root, *f, *made;
    struct pl_file *file;
    struct pl_attr attr;
    snprintf(path, sizeof(path), "%s/read", tree);
    WANT(mkdir(path, 0755) == 0 && open_in("read/f", O_RDWR | O_CREAT) == 0);
    WANT(open_in("state", O_RDWR | O_CREAT) == 0 && confine_parent(path, CONFINE_READ) == 0);
    snprintf(path, sizeof(path), "%s/state", tree);
    WANT(confine_path(path, CONFINE_CHANGE) == 0);
    snprintf(path, sizeof(path), "%s/read", tree);
    WANT(host_open_kept(path, HOST_READS, NULL, &h, &err) == 0);
    pl_call_init_self(&call);
    WANT(confine_exporter(&paths) == 0);
    WANT(confined(confine_keep(CONFINE_READS | CONFINE_ADMIN, had)));
    if (had & BIT(CAP_DAC_READ_SEARCH)) /* all can be read: by handles, which have no paths */
        WANT(paths != CONFINED_ALL && open_in("state", O_RDONLY) == 0);
    WANT(pl_attach(h, &call, "", &root, &attr) == 0);
    WANT(pl_lookup(h, &call, root, "f", &f, &attr) == 0);
    WANT(pl_open(h, &call, f, O_RDONLY, &file) == 0 && pl_close(h, &call, file) == 0);
    struct pl_setattr mode = {.valid = PL_SET_MODE, .mode = 0666},
                      owner = {.valid = PL_SET_UID, .uid = 12},
                      time = {.valid = PL_SET_MTIME, .mtime = {.tv_sec = 1}};
    WANT(pl_setattr(h, &call, f, NULL, &mode, &attr) == -EPERM);
    WANT(pl_setattr(h, &call, f, NULL, &owner, &attr) == -EPERM);
    WANT(pl_setattr(h, &call, f, NULL, &time, &attr) == -EPERM);
    WANT(pl_setxattr(h, &call, f, "user.x", "x", 1, 0) < 0);
    if (paths == CONFINED_NOT) /* an old kernel */
        return 0;
    struct pl_setattr size = {.valid = PL_SET_SIZE, .size = 1};
    struct pl_make dir = {.mode = S_IFDIR | 0755};
    WANT(pl_open(h, &call, f, O_RDWR, &file) == -EACCES);
    WANT(pl_open(h, &call, f, O_RDONLY | O_TRUNC, &file) == -EACCES);
    WANT(pl_setattr(h, &call, f, NULL, &size, &attr) == -EACCES);
    WANT(pl_make(h, &call, root, "d", &dir, &made, &attr) == -EACCES);
    WANT(pl_create(h, &call, root, "g", O_RDWR, 0600, &made, &attr, &file) == -EACCES);
    WANT(pl_remove(h, &call, root, "f", 0) == -EACCES);
    WANT(pl_rename(h, &call, root, "f", root, "g", 0) == -EACCES);
    WANT(pl_link(h, &call, f, root, "g", &attr) == -EACCES);
    WANT(open_in("state", O_WRONLY) == 0 && open_in("f", O_WRONLY | O_CREAT) == -EACCES);
    return 0;
}

static void reads(void **state)
{
    char cmd[100];
    if (THREAD_SANITIZER)
        skip();
    assert_non_null(mkdtemp(strcpy(tree, "/tmp/confine.XXXXXX")));
    int r = in_child(reader);
    snprintf(cmd, sizeof(cmd), "rm -r %s", tree);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(r, 0);
}

/* ---- memory ---- */

static int under_a_limit(void)
{
    struct rlimit small = {64 << 10, 64 << 10};
    WANT(setrlimit(RLIMIT_MEMLOCK, &small) == 0);
    if (geteuid() == 0)
        WANT(setresuid(65534, 65534, 65534) == 0);
    WANT(memory_lock() == MEMORY_FREE);
    char *p = malloc(50 << 20); /* and so nothing is in the way of an allocation */
    WANT(p);
    memset(p, 1, 50 << 20);
    free(p);
    return 0;
}

static int without_a_limit(void)
{
    uint64_t may = BIT(CAP_IPC_LOCK) | BIT(CAP_SYS_RESOURCE);
    enum memory_lock got = memory_lock();
    if (!(had & may))
        return 0;
    WANT(got == (had & BIT(CAP_SYS_RESOURCE) ? MEMORY_LOCKED : MEMORY_BY_CAP));
    WANT(malloc(50 << 20));
    memory_flusher();
    if (had & BIT(CAP_SYS_RESOURCE))
        WANT(prctl(58 /* PR_GET_IO_FLUSHER */, 0, 0, 0, 0) == 1);
    return 0;
}

static void locking(void **state)
{
#if !ADDRESS_SANITIZER /* which leaves locking out */
    assert_int_equal(in_child(under_a_limit), 0);
    assert_int_equal(in_child(without_a_limit), 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needs),
        cmocka_unit_test(filters),
        cmocka_unit_test(all_threads),
        cmocka_unit_test(deaf_thread),
        cmocka_unit_test(nothing_given_up),
        cmocka_unit_test(paths),
        cmocka_unit_test(paths_not),
        cmocka_unit_test(reads),
        cmocka_unit_test(locking),
    };
    had = caps_now().permitted;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
