/* SPDX-License-Identifier: MIT */
/*
 * The trap door: views, the start and the end of a run, and what is common to all calls.
 */
#include "base/cred.h"
#include "base/fdpass.h"
#include "doors/trap_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* 6.6: the one who is woken runs at once, on this processor \
                                       */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS      SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

/* ---- views ---- */

static int top_path(const char *path, char **ret)
{
    char dir[PATH_MAX], real[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (strcmp(path, "/") == 0)
        return (*ret = strdup(path)) ? 0 : -ENOMEM;
    if (path[0] != '/' || !slash[1] || strlen(path) >= sizeof(dir))
        return -EINVAL;
    snprintf(dir, sizeof(dir), "%.*s", (int)(slash == path ? 1 : slash - path), path);
    if (!realpath(dir, real)) /* a parent that is not there has no links either */
        strcpy(real, dir);
    return asprintf(ret, "%s%s", strcmp(real, "/") == 0 ? "" : real, slash) < 0 ? -ENOMEM : 0;
}

static int top_init(struct top *top, const struct trap_top *from, size_t i, struct pl_err *err)
{
    int r = top_path(from->path, &top->path);
    if (r < 0)
        return pl_fail(err, r, "%s: no absolute path", from->path);
    top->len = top->path[1] ? strlen(top->path) : 0;
    top->dev = makedev(0, (unsigned)(0xfff00 + i));
    struct pl_call call;
    pl_call_init_self(&call);
    r = pl_attach(from->tree, &call, from->at ? from->at : "", &top->root, &(struct pl_attr){0});
    pl_call_done(&call);
    if (r < 0)
        return pl_fail(err, r, "%s: its tree has no root: %s", from->path, strerror(-r));
    top->tree = pl_tree_ref(from->tree);
    return 0;
}

int trap_view_new(const struct trap_top *tops, size_t n, trap_where_fn *where, void *where_arg,
                  struct trap_view **ret, struct pl_err *err)
{
    struct trap_view *v = calloc(1, sizeof(*v));
    if (!v || !(v->tops = calloc(n + 1, sizeof(*v->tops)))) {
        free(v);
        return pl_fail(err, -ENOMEM, "no memory for a view");
    }
    atomic_init(&v->refs, 1);
    v->where = where;
    v->where_arg = where_arg;
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        v->n = i + 1;
        r = top_init(&v->tops[i], &tops[i], i, err);
    }
    for (size_t i = 0; r == 0 && i < n; i++) {
        for (size_t j = 0; r == 0 && j < n; j++) {
            const struct top *a = &v->tops[i], *b = &v->tops[j];
            if (i != j && strncmp(a->path, b->path, a->len) == 0 &&
                (b->path[a->len] == 0 || b->path[a->len] == '/'))
                r = pl_fail(err, -EINVAL, "%s: lies in %s", b->path, a->path);
        }
    }
    if (r < 0)
        trap_view_unref(v);
    else
        *ret = v;
    return r;
}

struct trap_view *trap_view_ref(struct trap_view *view)
{
    atomic_fetch_add(&view->refs, 1);
    return view;
}

void trap_view_unref(struct trap_view *view)
{
    if (!view || atomic_fetch_sub(&view->refs, 1) > 1)
        return;
    for (size_t i = 0; i < view->n; i++) {
        pl_node_unref(view->tops[i].root);
        if (view->tops[i].tree)
            pl_tree_unref(view->tops[i].tree);
        free(view->tops[i].path);
    }
    preload_table_free(view->preload);
    free(view->tops);
    free(view);
}

/* ---- which calls ---- */

#define MAX_CALL 512
static trap_fn *handlers[MAX_CALL];
static int numbers[MAX_CALL];

static void make_table(void)
{
    static const struct {
        const char *name;
        trap_fn *fn;
    } table[] = {
#define X(name) {#name, call_##name},
        CALL_FNS(X)
#undef X
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        int nr = strcmp(table[i].name, "fchmodat2") == 0
                     ? 452 /* on every architecture; newer than libseccomp */
                     : seccomp_syscall_resolve_name(table[i].name);
        if (nr < 0 || nr >= MAX_CALL)
            continue;
        handlers[nr] = table[i].fn;
        numbers[n++] = nr;
    }
    numbers[n] = -1;
}

static pthread_once_t table_once = PTHREAD_ONCE_INIT;

const int *trap_numbers(void)
{
    pthread_once(&table_once, make_table);
    return numbers;
}

trap_fn *trap_handler(int nr)
{
    return nr >= 0 && nr < MAX_CALL ? handlers[nr] : NULL;
}

/* ---- answers ---- */

int trap_answer(struct tcall *c, int64_t result)
{
    union {
        struct seccomp_notif_resp r;
        char room[256];
    } u;
    memset(&u, 0, sizeof(u));
    u.r.id = c->n->id;
    if (result == TRAP_NATIVE)
        u.r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else if (result < 0)
        u.r.error = (int)result;
    else
        u.r.val = result;
    return ioctl(c->t->listener, SECCOMP_IOCTL_NOTIF_SEND, &u.r) < 0 ? -errno : 0;
}

static int add_at(struct tcall *c, int fd, uint32_t flags, int at, bool cloexec)
{
    struct seccomp_notif_addfd a = {.id = c->n->id,
                                    .flags = flags,
                                    .srcfd = (uint32_t)fd,
                                    .newfd = at < 0 ? 0 : (uint32_t)at,
                                    .newfd_flags = cloexec ? O_CLOEXEC : 0};
    int r = ioctl(c->t->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
    return r < 0 ? -errno : r;
}

int add_fd(struct tcall *c, int fd, bool cloexec)
{
    return add_at(c, fd, 0, -1, cloexec);
}

/* The result of the call. */
int64_t give_fd(struct tcall *c, int fd, bool cloexec)
{
    int r = add_at(c, fd, SECCOMP_ADDFD_FLAG_SEND, -1, cloexec);
    if (r == -EINVAL) { /* before 5.14: not in one */
        r = add_fd(c, fd, cloexec);
        return r;
    }
    return r < 0 ? r : TRAP_DONE;
}

int set_state(struct tcall *c, struct trap_view *view, struct place *place, struct place *root)
{
    int fd, at = c->t->state_fd;
    int r = item_state(c->t, view, place, root, &fd);
    if (r < 0)
        return r;
    r = add_at(c, fd, SECCOMP_ADDFD_FLAG_SETFD, at, false);
    struct rlimit old, more = {(rlim_t)at + 1, (rlim_t)at + 1};
    /* The program has lowered its limit since: for a moment it is raised. */
    if (r == -EBADF && prlimit(c->w->tgid, RLIMIT_NOFILE, NULL, &old) == 0) {
        more.rlim_max = old.rlim_max > more.rlim_cur ? old.rlim_max : more.rlim_cur;
        if (prlimit(c->w->tgid, RLIMIT_NOFILE, &more, NULL) == 0) {
            r = add_at(c, fd, SECCOMP_ADDFD_FLAG_SETFD, at, false);
            prlimit(c->w->tgid, RLIMIT_NOFILE, &old, NULL);
        }
    }
    close(fd);
    atomic_fetch_add(&c->t->states, 1); /* others may share the descriptor */
    return r < 0 ? r : 0;
}

/* ---- a call ---- */

/* The caller and its state; false: it is gone. */
static bool know(struct tcall *c)
{
    for (int tries = 0; tries < 2; tries++) {
        c->w = who_get(c->t, (pid_t)c->n->pid);
        if (!c->w)
            return false;
        if ((c->state = who_state(c->t, c->w)))
            break;
        uint64_t states = atomic_load(&c->t->states);
        c->state = item_of(c, c->t->state_fd, NULL);
        if (c->state)
            who_note(c->t, c->w, c->state, states);
        if (c->state || c->broken)
            break;
        who_drop(c->t, c->w); /* of another thread, that had the number before */
        if (tries == 0) {
            who_put(c->t, c->w);
            c->w = NULL;
        }
    }
    c->view = trap_view_ref(c->state ? c->state->view : c->t->view);
    pl_call_init(&c->call, c->w->uid, c->w->gid);
    c->call.pid = c->w->tgid;
    c->call.umask = atomic_load(&c->w->umask);
    c->call.cred.groups = c->w->groups;
    c->call.cred.ngroups = c->w->ngroups;
    crew_begins(c);
    return true;
}

static void forget(struct tcall *c)
{
    crew_ends(c);
    pl_call_done(&c->call);
    trap_view_unref(c->view);
    item_put(c->t, c->state);
    who_put(c->t, c->w);
}

static void pending_free(struct pending *p)
{
    close(p->pidfd);
    trap_view_unref(p->view);
    free(p);
}

/* The view that somebody else gave the caller's process meanwhile. */
static void renew(struct tcall *c)
{
    struct pending *p;
    pthread_mutex_lock(&c->t->who_lock);
    HASH_FIND_INT(c->t->pending, &c->w->tgid, p);
    if (p) {
        HASH_DEL(c->t->pending, p);
        atomic_fetch_sub(&c->t->npending, 1);
    }
    pthread_mutex_unlock(&c->t->who_lock);
    if (!p)
        return;
    /* The process for which it was meant may be gone, and its number another's. */
    bool is = syscall(SYS_pidfd_send_signal, p->pidfd, 0, NULL, 0) == 0 || errno == EPERM;
    if (is) {
        struct place *place = NULL;
        struct target *t = NULL;
        char path[PATH_MAX];
        trap_view_unref(c->view);
        c->view = trap_view_ref(p->view);
        if (c->state && c->state->place && (t = malloc(sizeof(*t)))) {
            place_path(c->t, c->state->place, path);
            if (walk_text(c, AT_FDCWD, path, WALK_FOLLOW, t) == 0)
                place = target_place(c, t);
            target_done(t);
            free(t);
        }
        set_state(c, p->view, place, c->state ? c->state->root : NULL);
        place_unref(c->t, place);
        int fd = who_fd(c->w, c->t->state_fd);
        if (fd >= 0) {
            item_put(c->t, c->state);
            c->state = item_find(c->t, fd);
            close(fd);
        }
    }
    pending_free(p);
}

/* fstat(2), the call that is made most, of a descriptor that is the kernel's: nothing of the state
 * has to be known for it. */
static bool at_once(struct tcall *c)
{
    bool by_path = c->d->nr == SYS_newfstatat && !(c->d->args[3] & AT_EMPTY_PATH);
    int fd = (int)c->d->args[0], copy = -1;
    if ((c->d->nr != SYS_fstat && c->d->nr != SYS_newfstatat) || by_path || fd < 0 ||
        fd == c->t->state_fd ||
        (c->d->nr == SYS_newfstatat && path_is_empty(c, c->d->args[1], (int)c->d->args[3]) != 1))
        return false;
    if (!atomic_load(&c->t->nitems)) {
        atomic_fetch_add(&c->t->native, 1);
        trap_answer(c, TRAP_NATIVE);
        return true;
    }
    struct who *w = who_get(c->t, (pid_t)c->n->pid);
    if (w)
        copy = who_fd(w, fd);
    struct item *it = copy >= 0 ? item_find(c->t, copy) : NULL;
    if (copy >= 0)
        close(copy);
    item_put(c->t, it);
    if (w)
        who_put(c->t, w);
    if (copy < 0 || it) /* one that is gone may have had the number, too */
        return false;
    atomic_fetch_add(&c->t->native, 1);
    trap_answer(c, TRAP_NATIVE);
    return true;
}

void trap_serve(struct worker *w, struct seccomp_notif *n)
{
    struct trap *t = w->t;
    struct tcall c = {.t = t, .worker = w, .n = n, .d = &n->data};
    cred_reset();
    if (at_once(&c))
        return;
    if (!know(&c) && (who_spare(t), !know(&c))) { /* it was killed, or may not be looked into */
        trap_answer(&c, -EPERM);
        return;
    }
    if (atomic_load(&t->npending))
        renew(&c);
    trap_fn *fn = trap_handler(n->data.nr);
    int64_t r = c.broken ? c.broken : fn ? fn(&c) : TRAP_NATIVE;
    as_self();
    if (c.broken && r != TRAP_DONE)
        r = c.broken;
    atomic_fetch_add(r == TRAP_NATIVE ? &t->native : &t->done, 1);
    if (r != TRAP_DONE)
        trap_answer(&c, r);
    forget(&c);
}

/* Hears of what was closed, and looks after those that wait, until the end. */
static void *closer(void *arg)
{
    struct trap *t = arg;
    for (bool any = false;;) {
        char byte;
        struct pollfd p[2] = {{.fd = t->inotify, .events = POLLIN},
                              {.fd = t->stop[0], .events = POLLIN}};
        poll(p, 2, any ? 20 : -1);
        if (p[1].revents && read(t->stop[0], &byte, 1) == 1 && byte == 's')
            return NULL;
        items_closed(t);
        any = wait_look(t);
    }
}

/* ---- start ---- */

static void child_fails(int sock, int why)
{
    fdpass_send(sock, &(struct fdpass){.type = 'e', .value = why});
    _exit(127);
}

struct child {
    int sock; /* closes when it has become the program */
    int state;
    struct sock_filter *filter;
    int nfilter;
    char *const *argv;
};

/* Becomes the program. */
static void child_main(struct trap *t, const struct child *c)
{
    int sock = c->sock;
    if (dup2(c->state, t->state_fd) < 0)
        child_fails(sock, -errno);
    int fd = trap_filter_install(c->filter, c->nfilter);
    if (fd < 0)
        child_fails(sock, fd);
    struct fdpass msg = {.type = 'l', .nfd = 1, .fd = {fd}};
    if (fdpass_send(sock, &msg) < 0)
        _exit(127);
    close(fd);
    if (fdpass_recv(sock, &msg) <= 0) /* nobody would answer */
        _exit(127);
    if (t->opts.cwd && chdir(t->opts.cwd) < 0)
        child_fails(sock, -errno);
    execvpe(c->argv[0], c->argv, t->opts.env ? t->opts.env : environ);
    child_fails(sock, -errno);
}

static bool recv_ends_by_itself(void)
{
    struct utsname u;
    int major = 0, minor = 0;
    return uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 11));
}

static int begin(struct trap *t, int sock, const char *name, struct pl_err *err)
{
    struct fdpass msg;
    int r = fdpass_recv(sock, &msg);
    if (r == 1 && msg.type == 'l' && msg.nfd == 1) {
        t->listener = msg.fd[0];
        fcntl(t->listener, F_SETFD, FD_CLOEXEC);
    } else {
        r = r == 1 ? (int)msg.value : -EIO;
        return pl_fail(err, r, "seccomp: %s (%s)", strerror(-r),
                       r == -EBUSY ? "this process is in a view itself; leave it first"
                                   : "the kernel needs CONFIG_SECCOMP_FILTER, from 5.9 on");
    }
    ioctl(t->listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    bool started = crew_start(t);
    t->closing = pthread_create(&t->closer, NULL, closer, t) == 0;
    if (!started || !t->closing)
        return pl_fail(err, -EAGAIN, "no thread can be started");
    fdpass_send(sock, &(struct fdpass){.type = 'g'});
    r = fdpass_recv(sock, &msg);
    if (r == 1)
        return pl_fail(err, (int)msg.value, "%s: %s", name, strerror((int)-msg.value));
    return 0;
}

static void trap_free(struct trap *t)
{
    items_done(t);
    who_done(t);
    struct pending *p, *next;
    HASH_ITER (hh, t->pending, p, next) {
        HASH_DEL(t->pending, p);
        pending_free(p);
    }
    for (int i = 0; i < 2; i++)
        if (t->stop[i] >= 0)
            close(t->stop[i]);
    if (t->listener >= 0)
        close(t->listener);
    lent_done(t);
    trap_view_unref(t->view);
    free(t);
}

static int pick_number(struct trap *t, struct pl_err *err)
{
    struct rlimit lim;
    t->state_fd = t->opts.fd_max > 0 ? t->opts.fd_max : TRAP_FD;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur < 16)
        return pl_fail(err, -EMFILE, "too few descriptors are allowed (raise ulimit -n)");
    if ((rlim_t)t->state_fd >= lim.rlim_cur)
        t->state_fd = (int)lim.rlim_cur - 1;
    return 0;
}

/* Each directory that a program has open is open here as well. */
static void more_descriptors(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

static struct trap *trap_new(struct trap_view *view, const struct trap_opts *opts)
{
    struct trap *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    if (opts)
        t->opts = *opts;
    if (!t->opts.threads)
        t->opts.threads = 64;
    t->view = trap_view_ref(view);
    atomic_init(&t->states, 1);
    t->listener = t->inotify = t->scratch = t->stop[0] = t->stop[1] = -1;
    t->poll_first = !recv_ends_by_itself();
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->closed_lock, NULL);
    pthread_mutex_init(&t->who_lock, NULL);
    pthread_mutex_init(&t->wait_lock, NULL);
    crew_init(t);
    trap_numbers();
    return t;
}

int trap_start(struct trap_view *view, const struct trap_opts *opts, char *const argv[],
               struct trap **ret, struct pl_err *err)
{
    struct trap *t = trap_new(view, opts);
    if (!t)
        return pl_fail(err, -ENOMEM, "no memory");
    int sock[2] = {-1, -1};
    struct child child = {.state = -1, .argv = argv};
    int r = items_init(t, err);
    if (r == 0)
        r = pick_number(t, err);
    if (r == 0 && syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &t->sizes) < 0)
        r = pl_fail(err, -ENOSYS, "seccomp: the kernel has no supervised filters (5.9 has)");
    if (r == 0 &&
        ((r = item_state(t, view, NULL, NULL, &child.state)) < 0 || (r = fdpass_pair(sock)) < 0 ||
         (r = pipe2(t->stop, O_CLOEXEC) < 0 ? -errno : 0) < 0))
        pl_fail(err, r, "no descriptors: %s", strerror(-r));
    if (r == 0 && (r = child.nfilter = trap_filter_new(t->state_fd, t->opts.pass_from,
                                                       t->opts.pass_to, &child.filter)) < 0)
        pl_fail(err, r, "seccomp: no filter can be made: %s", strerror(-r));
    if (r < 0) {
        close(child.state);
        close(sock[0]);
        close(sock[1]);
        trap_free(t);
        return r;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    wait_init();
    t->child = fork();
    if (t->child == 0) {
        close(sock[0]);
        child.sock = sock[1];
        child_main(t, &child);
    }
    close(sock[1]);
    close(child.state);
    free(child.filter);
    more_descriptors();
    r = t->child < 0 ? pl_fail(err, -errno, "fork: %s", strerror(errno))
                     : begin(t, sock[0], argv[0], err);
    close(sock[0]);
    if (r < 0) {
        if (t->child > 0 && t->listener < 0)
            kill(t->child, SIGKILL);
        if (t->child > 0)
            waitpid(t->child, NULL, 0);
        trap_end(t);
        return r;
    }
    *ret = t;
    return 0;
}

pid_t trap_pid(const struct trap *trap)
{
    return trap->child;
}

/* Other threads stop programs by ptrace for a moment: their stops are not ours to wait for. */
int trap_wait(struct trap *trap, int *status)
{
    for (;;) {
        pid_t pid = waitpid(-1, status, __WNOTHREAD);
        if (pid == trap->child)
            return 0;
        if (pid < 0 && errno != EINTR)
            return -errno;
    }
}

bool trap_is_over(const struct trap *trap)
{
    struct pollfd p = {.fd = trap->listener};
    return poll(&p, 1, 0) > 0 && p.revents & POLLHUP;
}

/* ---- views from outside ---- */

struct proc {
    pid_t pid, ppid;
    bool in;
};

/* All processes there are: how many, in *ret, to be freed. */
static size_t list_procs(struct proc **ret)
{
    size_t n = 0, room = 0;
    struct proc *p = NULL;
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[40], line[512];
        int pid = atoi(e->d_name);
        if (pid <= 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t len = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
        if (fd >= 0)
            close(fd);
        line[len > 0 ? len : 0] = 0;
        const char *s = strrchr(line, ')');
        int ppid;
        if (!s || sscanf(s + 1, " %*c %d", &ppid) != 1)
            continue;
        if (n == room) {
            struct proc *more = realloc(p, (room = room ? 2 * room : 256) * sizeof(*p));
            if (!more)
                break;
            p = more;
        }
        p[n++] = (struct proc){pid, ppid, false};
    }
    if (d)
        closedir(d);
    *ret = p;
    return n;
}

/* Marks `pid` and what descends from it. */
static void mark(struct proc *p, size_t n, pid_t pid)
{
    bool more = true;
    for (size_t i = 0; i < n; i++)
        p[i].in = p[i].pid == pid;
    while (more) {
        more = false;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; !p[i].in && j < n; j++)
                if (p[j].in && p[i].ppid == p[j].pid)
                    more = p[i].in = true;
    }
}

static bool is_ours(struct trap *t, pid_t pid, struct trap_view **ret)
{
    struct who *w = who_get(t, pid);
    int fd = w ? who_fd(w, t->state_fd) : -1;
    struct item *it = fd >= 0 ? item_find(t, fd) : NULL;
    bool is = it && it->kind == ITEM_STATE;
    if (is && ret)
        *ret = trap_view_ref(it->view);
    item_put(t, it);
    if (fd >= 0)
        close(fd);
    if (w && !is)
        who_drop(t, w);
    if (w)
        who_put(t, w);
    return is;
}

/* True if it was not to get this view before. */
static bool set_pending(struct trap *t, pid_t pid, struct trap_view *view)
{
    struct pending *p = calloc(1, sizeof(*p)), *old;
    int fd = p ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) {
        free(p);
        return false;
    }
    *p = (struct pending){.tgid = pid, .pidfd = fd, .view = trap_view_ref(view)};
    pthread_mutex_lock(&t->who_lock);
    HASH_FIND_INT(t->pending, &pid, old);
    bool is_new = !old || old->view != view;
    if (old)
        HASH_DEL(t->pending, old);
    else
        atomic_fetch_add(&t->npending, 1);
    HASH_ADD_INT(t->pending, tgid, p);
    pthread_mutex_unlock(&t->who_lock);
    if (old)
        pending_free(old);
    return is_new;
}

/* Those of processes that have ended since would keep their views. */
static void drop_pending(struct trap *t)
{
    struct pending *p, *next, *over = NULL;
    pthread_mutex_lock(&t->who_lock);
    HASH_ITER (hh, t->pending, p, next) {
        struct pollfd end = {.fd = p->pidfd, .events = POLLIN};
        if (poll(&end, 1, 0) <= 0)
            continue;
        HASH_DEL(t->pending, p);
        atomic_fetch_sub(&t->npending, 1);
        p->hh.next = over;
        over = p;
    }
    pthread_mutex_unlock(&t->who_lock);
    for (; over; over = next) {
        next = over->hh.next;
        pending_free(over);
    }
}

/* Those that a fork which was let on before made meanwhile are found by looking again. */
int trap_set_view(struct trap *trap, pid_t pid, struct trap_view *view)
{
    bool any = false, more = true;
    drop_pending(trap);
    for (int round = 0; more && round < 8; round++) {
        struct proc *p;
        struct trap_view *has;
        size_t n = list_procs(&p);
        mark(p, n, pid);
        more = false;
        for (size_t i = 0; i < n; i++) {
            if (!p[i].in || !is_ours(trap, p[i].pid, &has))
                continue;
            any = true;
            if (has != view) {
                if (trap->opts.pass_from) /* programs read its table, and go by it */
                    lent_former(trap, has);
                known_forget(trap, has);
                more |= set_pending(trap, p[i].pid, view);
            }
            trap_view_unref(has);
        }
        free(p);
    }
    return any ? 0 : -ESRCH;
}

int trap_get_view(struct trap *trap, pid_t pid, struct trap_view **ret)
{
    struct pending *p;
    pthread_mutex_lock(&trap->who_lock);
    HASH_FIND_INT(trap->pending, &pid, p);
    if (p)
        *ret = trap_view_ref(p->view);
    pthread_mutex_unlock(&trap->who_lock);
    return p || is_ours(trap, pid, ret) ? 0 : -ESRCH;
}

void trap_count(struct trap *trap, struct trap_counts *ret)
{
    *ret = (struct trap_counts){atomic_load(&trap->calls), atomic_load(&trap->native),
                                atomic_load(&trap->done)};
}

void trap_end(struct trap *t)
{
    struct pollfd p = {.fd = t->listener};
    while (t->listener >= 0 && poll(&p, 1, 1000) <= 0)
        while (waitpid(-1, NULL, __WNOTHREAD | WNOHANG) > 0)
            ;
    crew_end(t);
    if (t->closing) {
        while (write(t->stop[1], "s", 1) < 0 && errno == EINTR)
            ;
        pthread_join(t->closer, NULL);
    }
    while (waitpid(-1, NULL, __WNOTHREAD | WNOHANG) > 0)
        ;
    trap_free(t);
}
