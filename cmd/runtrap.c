/* SPDX-License-Identifier: MIT */
/*
 * The door "trap": a supervisor resolves the paths of the program and of all that it starts
 * (doors/trap.h).
 *
 *     plenum run --fork--> supervisor --trap_start--> CMD
 *
 * plenum run waits for the word how CMD ended and ends so, and hands on the signals that others
 * send it (those of the terminal CMD gets by itself: all are in one group). The supervisor lives as
 * long as anything that CMD has left behind.
 *
 * A change of the view makes the trees of its tops anew, for the processes that it is for; what the
 * others have, and what is open, stays with the old ones.
 */
#include "base/fdpass.h"
#include "base/log.h"
#include "cmd/run.h"
#include "cmd/util.h"
#include "cmd/viewctl.h"
#include "cmd/viewlink.h"
#include "doors/trap.h"
#include "preload_dir.h"
#include "view/pack.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* value: the pid; an errno (index 1: of the program); a status (index 1: and so does the
 * supervisor) */
enum { MSG_STARTED = 1, MSG_FAILED, MSG_ENDED };

/* Views that processes have or had. Without a reference to what the door has made of one, so that
 * its trees go with the last process that uses it; the last entry for an address is the one. */
struct had {
    const struct trap_view *trap;
    struct view *view;
};

struct super {
    const struct run *run;
    struct viewspace space;  /* host and binds; it has no space of its own */
    struct spec_watch links; /* of what is bound from elsewhere */
    struct viewctl *ctl;
    struct viewctl_door door;
    struct trap *trap;
    struct had *had; /* with the control's lock, but for the first */
    size_t nhad;
    int null;
    bool begun; /* as far as the program */
};

/* ---- views ---- */

static int where_is(void *arg, struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                    char *path, size_t size)
{
    struct super *s = arg;
    struct pl_tree *in = NULL;
    while (tree && strcmp(tree->ops->name, "space") != 0)
        tree = tree->lower;
    int r = tree ? pl_space_where(tree, call, node, &in, path, size) : -EXDEV;
    return r == 0 && in != s->space.host ? -EXDEV : r;
}

/* What can be found by the letters, by the preload or by the trap: if there is anything in it that
 * cannot, all is looked for in the tree. */
static void let_preload(struct super *s, struct view *view, struct trap_view *ret)
{
    const char *foreign[VIEW_BINDS];
    void *pack;
    size_t size;
    for (size_t i = 0; i < s->space.nbinds; i++)
        foreign[i] = s->space.binds[i].dir;
    if (view_pack(view, foreign, s->space.nbinds, &pack, &size) < 0)
        return;
    trap_view_preload(ret, pack, size);
    free(pack);
}

/* A file that is bound where nothing else is: a space has a directory for its root, so it has a
 * name in one. NULL: `top` is no such. */
static const struct viewbind *file_at(const struct super *s, const char *top)
{
    for (size_t i = 0; i < s->space.nbinds; i++)
        if (!s->space.binds[i].spec && strcmp(s->space.binds[i].dir, top) == 0)
            return &s->space.binds[i];
    return NULL;
}

static int make_top(struct super *s, struct view *view, const char *path, struct trap_top *ret,
                    struct pl_err *err)
{
    const struct viewbind *file = file_at(s, path);
    ret->path = path;
    if (!file)
        return viewspace_top(&s->space, view, path, &ret->tree, err);
    struct pl_binding b = {.path = "/file",
                           .tree = s->space.host,
                           .sub = file->sub,
                           .how = PL_BIND_REPLACE | PL_BIND_CREATE};
    ret->at = "file";
    return pl_space_new(&b, 1, 0, &ret->tree, err);
}

/* A top that cannot be made is found by its name all the same, if what it would be in is there. */
static int make_missing(struct super *s, const char *top, struct pl_err *err)
{
    char parent[VIEW_PATH];
    struct stat st;
    int r = viewspace_make(s->space.kept, top, err);
    if (r == 0)
        return 0;
    strcpy(parent, top);
    *strrchr(parent, '/') = 0;
    return stat(*parent ? parent : "/", &st) == 0 && S_ISDIR(st.st_mode) ? 0 : r;
}

/* The view as the door takes it, remembered. */
static int make_view(struct super *s, struct view *view, struct trap_view **ret, struct pl_err *err)
{
    const char **top = viewspace_tops(&s->space, view);
    struct trap_top *t = calloc(VIEW_PAIRS + VIEW_BINDS + 1, sizeof(*t));
    struct had *more = reallocarray(s->had, s->nhad + 1, sizeof(*more));
    size_t n = 0;
    int r = top && t && more ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    s->had = more ? more : s->had;
    for (; r == 0 && top[n]; n++) {
        r = make_missing(s, top[n], err);
        r = r < 0 ? r : make_top(s, view, top[n], &t[n], err);
        if (r == 0 && s->ctl && !(t[n].tree = viewctl_trace(s->ctl, t[n].tree)))
            r = pl_fail(err, -ENOMEM, "out of memory");
    }
    viewspace_settle(&s->space);
    r = r < 0 ? r : trap_view_new(t, n, where_is, s, ret, err);
    for (size_t i = 0; t && i < n; i++)
        pl_tree_unref(t[i].tree);
    if (r == 0)
        let_preload(s, view, *ret);
    if (r == 0)
        s->had[s->nhad++] = (struct had){*ret, view_ref(view)};
    free(t);
    free(top);
    return r;
}

static int view_of(void *arg, pid_t pid, struct view **ret)
{
    struct super *s = arg;
    struct trap_view *has;
    if (!s->trap) {
        *ret = view_ref(s->run->view);
        return 0;
    }
    if (trap_get_view(s->trap, pid ? pid : trap_pid(s->trap), &has) < 0)
        return -ESRCH;
    int r = -ESRCH;
    for (size_t i = s->nhad; r < 0 && i-- > 0;)
        if (s->had[i].trap == has) {
            *ret = view_ref(s->had[i].view);
            r = 0;
        }
    trap_view_unref(has);
    return r;
}

static int apply(void *arg, pid_t pid, struct view *was, struct view *view, struct pl_err *err)
{
    struct super *s = arg;
    struct trap_view *has;
    int r = make_view(s, view, &has, err);
    if (r < 0)
        return r;
    r = trap_set_view(s->trap, pid ? pid : trap_pid(s->trap), has);
    trap_view_unref(has);
    return r < 0 ? pl_fail(err, r, "process %d: is not in this view", pid ? pid : trap_pid(s->trap))
                 : 0;
}

static int where(void *arg, pid_t pid, const char *path, char *ret, struct pl_err *err)
{
    struct super *s = arg;
    struct view *view;
    int r = view_of(arg, pid, &view);
    if (r < 0)
        return pl_fail(err, r, "process %d: is not in this view", pid);
    r = viewspace_where_in(&s->space, view, path, ret, err);
    view_unref(view);
    return r;
}

static int on_mount(void *arg, struct trap *trap, pid_t pid, const char *source, const char *target,
                    const char *type, const char *data)
{
    struct super *s = arg;
    if (strcmp(source, "vpath") != 0 || *target)
        return -ENOSYS;
    return viewctl_line(s->ctl, pid);
}

/* ---- the supervisor ---- */

/* The descriptors that CMD is given: they are not for us to hold. */
static int *inherited(int but)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    int *list = calloc(65536, sizeof(*list));
    for (struct dirent *de; d && list && n < 65535 && (de = readdir(d));) {
        int fd = atoi(de->d_name);
        if (fd > 2 && fd != dirfd(d) && fd != but)
            list[n++] = fd;
    }
    if (d)
        closedir(d);
    return list;
}

static void let_go(const struct super *s, const int *given)
{
    static const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGTSTP, SIGTTIN, SIGTTOU};
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        signal(ignored[i], SIG_IGN);
    for (; given && *given; given++)
        close(*given);
    for (int fd = 0; fd < 3; fd++)
        dup2(s->null, fd);
    log_background();
    if (chdir("/") < 0)
        return;
}

static void say(int sock, uint32_t type, uint32_t index, int64_t value, const char *text)
{
    struct fdpass m = {.type = type, .index = index, .value = value};
    m.len = text ? strnlen(text, sizeof(m.data) - 1) : 0;
    if (m.len)
        memcpy(m.data, text, m.len);
    fdpass_send(sock, &m);
}

static int open_trees(struct super *s, struct pl_err *err)
{
    s->space.kept = viewspace_keep();
    int r = s->space.kept ? pl_host_open("/", &s->space.host, err)
                          : pl_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < s->space.nbinds; i++)
        if (s->space.binds[i].spec)
            r = spec_open(s->space.binds[i].spec, &s->links, NULL, &s->space.binds[i].tree, err);
    return r;
}

/* ---- the preload ---- */

int run_preload(char *path, struct pl_err *err)
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(path, '/');
    size_t at = slash ? (size_t)(slash - path) : 0;
    snprintf(path + at, PATH_MAX - at, "/libplenum-preload.so"); /* of a build tree */
    if (slash && access(path, R_OK) == 0)
        return 0;
    snprintf(path, PATH_MAX, "%s/libplenum-preload.so", PL_PRELOAD_DIR);
    return access(path, R_OK) == 0 ? 0 : pl_fail(err, -ENOENT, "%s: %s", path, strerror(errno));
}

/* Some page that programs have no use for: far from where the kernel, and tools that watch memory,
 * put things. Another in each run. 0: there is no randomness. */
static uintptr_t some_page(void)
{
    uint64_t r;
    if (getrandom(&r, sizeof(r), 0) != sizeof(r))
        return 0;
    return (uintptr_t)(0x300000000000 + (r & 0x1fffffffffff & ~(uint64_t)0xffff));
}

/* This environment, with the library loaded first. */
static char **preload_env(void)
{
    extern char **environ;
    static const char name[] = "LD_PRELOAD=";
    char path[PATH_MAX], *word;
    const char *had = "";
    size_t n = 0, k = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof(*env));
    if (!env || run_preload(path, NULL) < 0)
        return free(env), NULL;
    for (size_t i = 0; i < n; i++) {
        if (strncmp(environ[i], name, strlen(name)) == 0)
            had = environ[i] + strlen(name);
        else
            env[k++] = environ[i];
    }
    if (asprintf(&word, "%s%s%s%s", name, path, *had ? ":" : "", had) < 0)
        return free(env), NULL;
    env[k] = word;
    return env;
}

/* Control, then the program: 0, or a negative errno with the sentence. */
static int begin(struct super *s, struct reg_page *page, int meet, struct pl_err *err)
{
    struct trap_view *view;
    uint64_t ns = 0;
    s->door = (struct viewctl_door){s->run->preload ? "preload" : "trap", view_of, apply, where, s};
    viewlink_namespace(0, &ns);
    const struct viewctl_setup setup = {.door = &s->door,
                                        .ns = ns,
                                        .notices = -1,
                                        .meet = meet,
                                        .depth = s->run->depth,
                                        .page = page,
                                        .err = 2};
    int r = viewctl_new(&setup, &s->ctl);
    if (r < 0)
        return pl_fail(err, r, "the view's control cannot be started: %s", strerror(-r));
    r = make_view(s, s->run->view, &view, err);
    if (r < 0)
        return r;
    struct trap_opts opts = {.cwd = s->run->cwd, .mount = on_mount, .mount_arg = s};
    if (s->run->preload && (opts.env = preload_env())) {
        opts.pass_from = some_page();
        opts.pass_to = opts.pass_from ? opts.pass_from + 4096 : 0;
    }
    util_pipe_signal();
    r = trap_start(view, &opts, s->run->argv, &s->trap, err);
    s->begun = true;
    signal(SIGPIPE, SIG_IGN);
    trap_view_unref(view);
    return r;
}

static void fill_page(const struct super *s, struct reg_page *page)
{
    snprintf(page->view.door, sizeof(page->view.door), s->run->preload ? "preload" : "trap");
    atomic_store(&page->view.first, trap_pid(s->trap));
    atomic_store(&page->view.depth, s->run->depth);
    reg_set_state(page, "up");
}

/* Whoever kills plenum run means the program, as where the two are one process. */
static struct {
    pid_t parent;
    int pidfd;
} dies_with;

static void parent_died(int sig)
{
    if (getppid() != dies_with.parent)
        pidfd_send_signal(dies_with.pidfd, SIGKILL, NULL, 0);
}

static void die_with(pid_t parent, pid_t program)
{
    dies_with.parent = parent;
    dies_with.pidfd = pidfd_open(program, 0);
    signal(SIGUSR2, parent_died);
    prctl(PR_SET_PDEATHSIG, SIGUSR2, 0, 0, 0);
    parent_died(SIGUSR2); /* it may have been just before */
}

static _Noreturn void supervise(struct super *s, int sock, pid_t parent)
{
    int *given = inherited(sock), status = 0;
    struct reg_meeting meet;
    struct reg_entry *entry = NULL;
    struct reg_page *page = NULL;
    struct pl_err err = {0};
    char name[32], *text = view_text(s->run->view);
    prctl(PR_SET_NAME, "plenum-trap");
    util_many_descriptors();
    s->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    viewlink_trap_name(getpid(), name);
    reg_meet(name, &meet);
    reg_add("view", "", text ? text : "", &entry, &page);
    if (page)
        atomic_store(&page->server, getpid());
    linkopt_init(&s->links.link);
    int r = open_trees(s, &err);
    r = r < 0 ? r : begin(s, page, meet.fd, &err);
    if (r < 0) {
        if (s->space.kept)
            viewspace_clear(s->space.kept);
        say(sock, MSG_FAILED, s->begun, r, err.text);
        reg_del(entry);
        _exit(1);
    }
    if (page)
        fill_page(s, page);
    say(sock, MSG_STARTED, 0, trap_pid(s->trap), NULL);
    let_go(s, given);
    die_with(parent, trap_pid(s->trap));
    r = trap_wait(s->trap, &status);
    bool over = trap_is_over(s->trap); /* else it is not to be waited for: nothing has to reap us */
    if (!over)
        say(sock, MSG_ENDED, 0, r < 0 ? 1 << 8 : status, NULL);
    trap_end(s->trap);
    viewspace_clear(s->space.kept);
    reg_meet_end(name, &meet);
    reg_del(entry);
    if (over)
        say(sock, MSG_ENDED, 1, r < 0 ? 1 << 8 : status, NULL);
    _exit(0);
}

/* ---- plenum run itself ---- */

static const int watched[] = {SIGINT,  SIGQUIT, SIGTERM,  SIGHUP,
                              SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM};
#define NWATCHED (sizeof(watched) / sizeof(*watched))

static volatile sig_atomic_t program;
static volatile sig_atomic_t early[NWATCHED]; /* what came before we knew of the program */

/* What a process has sent is for the program; what the terminal sends it has got too. */
static void hand_on(int sig, siginfo_t *info, void *context)
{
    if (info->si_code > 0)
        return;
    if (program > 0)
        kill((pid_t)program, sig);
    for (size_t i = 0; program == 0 && i < NWATCHED; i++)
        early[i] |= watched[i] == sig;
}

static void watch_signals(void)
{
    struct sigaction old, act = {.sa_sigaction = hand_on, .sa_flags = SA_SIGINFO | SA_RESTART};
    for (size_t i = 0; i < NWATCHED; i++)
        if (sigaction(watched[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(watched[i], &act, NULL);
}

static void started(pid_t pid)
{
    program = pid; /* from here on the handler adds nothing to the others */
    for (size_t i = 0; i < NWATCHED; i++)
        if (early[i])
            kill(pid, watched[i]);
}

/* Ends as the program did. */
static int end_as(int status)
{
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
    return 128 + WTERMSIG(status);
}

/* What the program reads from and writes to is not for us to hold open; what we say is said to
 * standard error. */
static void let_go_of_streams(int sock)
{
    int *given = inherited(sock), null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int *fd = given; fd && *fd; fd++)
        close(*fd);
    free(given);
    if (null < 0)
        return;
    dup2(null, 0);
    dup2(null, 1);
    close(null);
}

static int follow(const struct run *run, pid_t supervisor, int sock)
{
    struct fdpass m;
    int r;
    let_go_of_streams(sock);
    while ((r = fdpass_recv(sock, &m)) > 0 || r == -EINTR) {
        if (r < 0)
            continue;
        if (m.type == MSG_FAILED && m.index && (m.value == -ENOENT || m.value == -EACCES))
            return run_failed(run, (int)-m.value);
        if (m.type == MSG_FAILED)
            return cmd_fail(run->cmd, "%s", m.data);
        if (m.type == MSG_FAILED || (m.type == MSG_ENDED && m.index))
            waitpid(supervisor, NULL, 0); /* who runs us need not reap what we leave */
        if (m.type == MSG_ENDED)
            return end_as((int)m.value);
        started((pid_t)m.value);
    }
    return cmd_fail(run->cmd, "the supervisor of the view has ended");
}

int run_trap(const struct run *run)
{
    struct super *s = calloc(1, sizeof(*s));
    int pair[2];
    if (!s || fdpass_pair(pair) < 0)
        return cmd_fail(run->cmd, "out of memory or of descriptors");
    s->run = run;
    s->space.binds = run->binds;
    s->space.nbinds = run->nbinds;
    fflush(NULL);
    sigset_t all, old; /* of what comes from here on, nothing is lost */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t self = getpid(), pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        close(pair[0]);
        supervise(s, pair[1], self);
    }
    free(s);
    close(pair[1]);
    if (pid < 0)
        return cmd_fail(run->cmd, "no process: %s", strerror(errno));
    watch_signals();
    sigprocmask(SIG_SETMASK, &old, NULL);
    return follow(run, pid, pair[0]);
}
