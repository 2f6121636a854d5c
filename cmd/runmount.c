/* SPDX-License-Identifier: MIT */
/*
 * The door "mount": a mount namespace in which the tops of the view are mounts.
 *
 *     plenum run --fork--> starter --> keeper --> server, all outside of the view
 *         |                  |
 *         | 1. makes the namespaces, mounts the whole space at a private place in them, loads the
 *         |    filter; hands /dev/fuse and the filter's descriptor over
 *         |                  | 2. starts keeper and server (keeper/keeper.h), and says so
 *         | 3. binds each slot of the space over its top, enters its directory again
 *         v 4. becomes CMD, under the same process id: signals, job control and the exit status
 *              need no help
 *
 * The mounts are in that namespace alone, so that they end when its last process does, and the
 * server with them. It serves the physical tree, since it never was in the view. Nothing else holds
 * the namespace.
 */
#include "base/confine.h"
#include "base/fdpass.h"
#include "cmd/mountopt.h"
#include "cmd/run.h"
#include "cmd/util.h"
#include "cmd/viewctl.h"
#include "cmd/viewlink.h"
#include "cmd/viewns.h"
#include "doors/fuse_noopen.h"
#include "keeper/keeper.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/sources.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MSG_MOUNTED = 1 /* index: has notices; value: the device; data: the namespace */ };

/* Of the starter, the keeper and the servers. */
struct host {
    const struct run *run;
    struct viewspace space;
    struct viewctl *ctl;
    struct viewctl_door door;
    struct keeper_mount mount;
    struct mountopt opts;
    struct spec_watch links; /* of what is bound from elsewhere */
    struct pl_tree *tree;
    struct fuse_anew anew;
    char place[PATH_MAX];
    uint64_t ns;
    pid_t first;
    struct reg_meeting meet;
    int notices, err;
    bool lasts;
};

/* ---- changes of the view ---- */

static bool among(const char *const *list, const char *top)
{
    for (; *list; list++)
        if (!strcmp(*list, top))
            return true;
    return false;
}

/* What is in `a` and not in `b`: one is taken away or made. */
static int move_tops(struct host *h, const char *const *a, const char *const *b, bool make,
                     struct pl_err *err)
{
    struct viewns_mount *m = calloc(VIEW_PAIRS + VIEW_BINDS + 1, sizeof(*m));
    size_t n = 0;
    int r = m ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && a[i]; i++) {
        if (among(b, a[i]))
            continue;
        m[n++] = (struct viewns_mount){.top = a[i], .slot = viewspace_slot(&h->space, a[i])};
    }
    if (n)
        r = viewns_change(h->ns, h->place, h->mount.dev, m, n, make, err);
    free(m);
    return r;
}

/* Directories that must be there to be mounted on. */
static int make_missing(struct host *h, const char *const *top, struct pl_err *err)
{
    int r = 0;
    for (; r == 0 && *top; top++)
        r = viewspace_make(h->space.kept, *top, err);
    return r;
}

/* What the kernel knows by the old table it asks for again: names that are in it before, names that
 * are new after it. */
static int set_space(struct host *h, struct view *view, struct pl_err *err)
{
    fuse_anew_ask(&h->anew);
    int r = viewspace_set(&h->space, view, err);
    if (r == 0)
        fuse_anew_ask(&h->anew);
    return r;
}

/* That opens do not leave the kernel was agreed, and cannot be taken back. */
static int check_opens(struct host *h, const struct view *view, struct pl_err *err)
{
    bool empty = !view->ntops && !h->space.nbinds; /* there is nothing to open */
    uint32_t stateless = geteuid() ? PL_TREE_STATELESS_SELF : PL_TREE_STATELESS;
    if (h->opts.fuse.opens != FUSE_OFF || h->space.space->flags & stateless || empty)
        return 0;
    return pl_fail(err, -EBUSY,
                   "there is something in it that must see each open, and this view "
                   "began without (plenum run -o open)");
}

static int apply(void *arg, pid_t pid, struct view *was, struct view *view, struct pl_err *err)
{
    struct host *h = arg;
    struct viewspace *s = &h->space;
    const char **old = viewspace_tops(s, was), **new = viewspace_tops(s, view);
    int r = old && new ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    r = r < 0 ? r : make_missing(h, new, err);
    r = r < 0 ? r : set_space(h, view, err);
    if (r == 0) {
        r = check_opens(h, view, err);
        r = r < 0 ? r : move_tops(h, old, new, false, err);
        r = r < 0 ? r : move_tops(h, new, old, true, err);
        r = r < 0 ? r : viewspace_publish(s->kept, view);
        if (r < 0) { /* as it was, as far as that can be */
            move_tops(h, new, old, false, NULL);
            move_tops(h, old, new, true, NULL);
            set_space(h, was, NULL);
        }
    }
    free(old);
    free(new);
    return r;
}

/* The view is one for all processes. */
static int view_of(void *arg, pid_t pid, struct view **ret)
{
    struct host *h = arg;
    *ret = view_ref(h->space.view);
    return 0;
}

static int where(void *arg, pid_t pid, const char *path, char *ret, struct pl_err *err)
{
    struct host *h = arg;
    return viewspace_where(&h->space, path, ret, err);
}

/* ---- the server ---- */

static int prepare(void *arg, bool *lasts, struct pl_err *err)
{
    struct host *h = arg;
    struct reg_page *page = h->mount.page;
    util_many_descriptors();
    pthread_mutex_init(&h->anew.lock, NULL);
    h->links = (struct spec_watch){.link = h->opts.link};
    int r = viewspace_open(&h->space, &h->links, err);
    if (r < 0)
        return r;
    snprintf(page->view.door, sizeof(page->view.door), "mount");
    atomic_store(&page->view.ns, h->ns);
    atomic_store(&page->view.first, h->first);
    atomic_store(&page->view.depth, h->run->depth);
    /* What is opened again and again (sources, headers) is worth more than what big files cost. */
    struct fuse_opts *opts = &h->opts.fuse;
    h->tree = pl_tree_ref(h->space.tree);
    if (geteuid() != 0)
        h->tree = pl_mine_new(h->tree);
    if (h->tree && opts->opens == FUSE_AUTO && !fuse_noopen_refusal(h->tree->flags, opts))
        opts->opens = FUSE_OFF;
    h->door = (struct viewctl_door){"mount", view_of, apply, where, h};
    struct viewctl_setup setup = {.door = &h->door,
                                  .ns = h->ns,
                                  .notices = h->notices,
                                  .meet = h->meet.fd,
                                  .depth = h->run->depth,
                                  .page = page,
                                  .err = h->err};
    r = viewctl_new(&setup, &h->ctl);
    if (r < 0)
        return pl_fail(err, r, "the view's control cannot be started: %s", strerror(-r));
    h->tree = viewctl_trace(h->ctl, h->tree);
    if (!h->tree)
        return pl_fail(err, -ENOMEM, "out of memory");
    *lasts = h->lasts = h->tree->flags & PL_TREE_LASTING;
    snprintf(page->stats.lasts, sizeof(page->stats.lasts), "%s",
             *lasts ? "outlives its server" : "ends with its server: of what is bound in it");
    if (*lasts)
        pl_keep(h->tree, h->mount.ledger.keep);
    return 0;
}

static int serve(void *arg, size_t i, int fd, struct stats *stats, void (*up)(void *), void *up_arg,
                 struct pl_err *err)
{
    struct host *h = arg;
    struct fuse_opts opts = h->opts.fuse;
    opts.ledger = h->lasts ? &h->mount.ledger : NULL;
    opts.anew = &h->anew;
    opts.elsewhere = true;
    return fuse_serve(fd, h->tree, "", &opts, stats, up, up_arg, err);
}

/* Asked to end, or nobody keeps the view any more: its files are no longer there. */
static void stop(void *arg)
{
    struct host *h = arg;
    mount_abort(h->mount.dev);
}

static void clear(struct host *h)
{
    viewspace_clear(h->space.kept);
    rmdir(h->place);
}

static int finish(void *arg, struct pl_err *err)
{
    struct host *h = arg;
    char name[32];
    viewctl_free(h->ctl);
    pl_tree_unref(h->tree);
    viewspace_close(&h->space);
    viewlink_name(h->ns, name);
    reg_meet_end(name, &h->meet);
    clear(h);
    return 0;
}

/* ---- the starter ---- */

/* Takes what step 1 hands over. False: there was nothing. */
static bool take_mounted(struct host *h, int sock)
{
    struct fdpass m;
    char name[32];
    if (fdpass_recv(sock, &m) <= 0 || m.type != MSG_MOUNTED || !m.nfd)
        return false;
    h->mount.given = true;
    h->mount.fd = m.fd[0];
    h->mount.dev = (dev_t)m.value;
    h->notices = m.nfd > 1 ? m.fd[1] : -1;
    h->ns = strtoull(m.data, NULL, 10);
    viewlink_name(h->ns, name);
    reg_meet(name, &h->meet);
    return true;
}

/* Only the socket and (if it is there) `err` stay open besides the standard descriptors: what CMD
 * is given must not be held by others. */
static int keep_two(int sock, int *err)
{
    int first = fcntl(sock, F_DUPFD_CLOEXEC, 5);
    int second = *err < 0 ? -1 : fcntl(*err, F_DUPFD_CLOEXEC, 5);
    if (first < 0 || (*err >= 0 && second < 0))
        _exit(1);
    dup3(first, 3, O_CLOEXEC);
    if (second >= 0)
        dup3(second, 4, O_CLOEXEC);
    close_range(*err < 0 ? 4 : 5, ~0u, 0);
    *err = *err < 0 ? -1 : 4;
    return 3;
}

static _Noreturn void start(struct host *h, int sock)
{
    prctl(PR_SET_NAME, "plenum-starter");
    sock = keep_two(sock, &h->err);
    if (!take_mounted(h, sock)) {
        clear(h);
        _exit(1);
    }
    close(sock);
    char *text = view_text(h->run->view);
    confine_need(CONFINE_NOTHING); /* it enters the view's namespaces to change mounts there */
    h->mount.dir = h->place;
    h->mount.spec = text ? text : "";
    struct keeper_job job = {
        .kind = "view",
        .prefix = "plenum: run",
        .nmounts = 1,
        .mounts = &h->mount,
        .lasts = true,
        .hang = h->opts.hang,
        .arg = h,
        .prepare = prepare,
        .serve = serve,
        .finish = finish,
        .stop = stop,
    };
    int status = keeper_run(&job);
    if (status)
        clear(h);
    _exit(status);
}

/* ---- the process that becomes CMD ---- */

static int is_place(void *arg, struct reg_page *page)
{
    const char *slash = strrchr(page->dir, '/');
    return !strcmp(page->kind, "view") && slash && !strcmp(slash + 1, arg);
}

/* What killed servers have left: places of no view, whose process is no more. (A directory that is
 * mounted on in another namespace can be removed, with that mount: so only these.) */
static void clear_places(int dir)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    for (struct dirent *de; d && (de = readdir(d));) {
        pid_t pid = atoi(de->d_name);
        if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH && !reg_each(is_place, de->d_name))
            unlinkat(dir, de->d_name, AT_REMOVEDIR);
    }
    if (d)
        closedir(d);
}

/* A directory of this user's alone to mount the space at. */
static int make_place(char place[PATH_MAX], struct pl_err *err)
{
    char link[64], name[32];
    int dir = reg_dir("views");
    if (dir < 0)
        return pl_fail(err, dir, "no place for the view's mount: %s", strerror(-dir));
    clear_places(dir);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
    snprintf(name, sizeof(name), "/%d", getpid());
    ssize_t n = readlink(link, place, PATH_MAX - sizeof(name));
    place[n < 0 ? 0 : n] = 0;
    strcat(place, name);
    int r = n < 0 ? -errno : mkdir(place, 0700) < 0 && errno != EEXIST ? -errno : 0;
    close(dir);
    return r < 0 ? pl_fail(err, r, "%s: cannot be made: %s", place, strerror(-r)) : 0;
}

/* Step 1. */
static int mount_space(struct host *h, int sock, struct pl_err *err)
{
    bool user;
    int fd, r = viewns_enter(&user, err);
    r = r < 0 ? r : mount_fuse(h->place, &h->opts.mount, &fd, err);
    if (r < 0)
        return r;
    uint64_t ns;
    struct fdpass m = {.type = MSG_MOUNTED, .nfd = 1, .fd = {fd}};
    dev_t dev;
    r = mount_dev(h->place, &dev);
    r = r < 0 ? r : viewlink_namespace(0, &ns);
    if (r < 0)
        return pl_fail(err, r, "%s: %s", h->place, strerror(-r));
    int notices = viewns_filter();
    if (notices >= 0)
        m.fd[m.nfd++] = notices;
    m.value = (int64_t)dev;
    m.len = (size_t)snprintf(m.data, sizeof(m.data), "%llu", (unsigned long long)ns);
    r = fdpass_send(sock, &m);
    close(fd);
    if (notices >= 0)
        close(notices);
    return r < 0 ? pl_fail(err, r, "the starter has ended") : 0;
}

static int wait_for_starter(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return EXIT_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

/* Step 3. */
static int bind_tops(struct host *h, struct pl_err *err)
{
    const char **top = viewspace_tops(&h->space, h->run->view);
    struct viewns_mount *m = calloc(VIEW_PAIRS + VIEW_BINDS + 1, sizeof(*m));
    size_t n = 0;
    int r = top && m ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    for (; r == 0 && top[n]; n++)
        m[n] = (struct viewns_mount){top[n], viewspace_slot(&h->space, top[n])};
    r = r < 0 ? r : viewns_mount(h->place, m, n, err);
    if (r == 0 && chdir(h->run->cwd) < 0)
        r = pl_fail(err, -errno, "%s: not in the view: %s", h->run->cwd, strerror(errno));
    free(m);
    free(top);
    return r;
}

/* All that must be there before anything is started. */
static int set_up(struct host *h, struct pl_err *err)
{
    const char **top;
    int r = 0;
    h->space.kept = viewspace_keep();
    h->space.binds = h->run->binds;
    h->space.nbinds = h->run->nbinds;
    if (!h->space.kept || !(top = viewspace_tops(&h->space, h->run->view)))
        return pl_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && top[i]; i++) {
        r = viewspace_make(h->space.kept, top[i], err);
        if (r == 0 && viewspace_slot(&h->space, top[i]) < 0)
            r = pl_fail(err, -E2BIG, "more than %d tops", VIEW_SLOTS);
    }
    free(top);
    if (r == 0 && (r = viewspace_publish(h->space.kept, h->run->view)) < 0)
        pl_fail(err, r, "the view is too large: %s", strerror(-r));
    return r < 0 ? r : make_place(h->place, err);
}

static int run_host(struct host *h)
{
    const struct run *run = h->run;
    struct pl_err err = {0};
    int pair[2];
    mountopt_init(&h->opts);
    if (run->opts && mountopt_parse(&h->opts, run->opts, &err) < 0)
        return cmd_wrong(run->cmd, &err);
    h->opts.mount.source = "view";
    /* In a user namespace all are one user, and the modes are shown as what he may. */
    h->opts.mount.allow_other = geteuid() == 0;
    h->opts.fuse.kernel_checks = h->opts.mount.default_permissions = true;
    if (run->view->trace || run->view->debug)
        h->err = fcntl(2, F_DUPFD_CLOEXEC, 3);
    if (set_up(h, &err) < 0 || fdpass_pair(pair) < 0) {
        if (h->space.kept)
            viewspace_clear(h->space.kept);
        return *err.text ? cmd_error(run->cmd, &err)
                         : cmd_fail(run->cmd, "no sockets: %s", strerror(errno));
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        start(h, pair[1]);
    }
    close(pair[1]);
    int r = pid < 0 ? pl_fail(&err, -errno, "no process: %s", strerror(errno))
                    : mount_space(h, pair[0], &err);
    close(pair[0]);
    int status = pid < 0 ? EXIT_FAILED : wait_for_starter(pid);
    if (r < 0)
        return cmd_error(run->cmd, &err);
    if (status) /* it has said why */
        return EXIT_FAILED;
    return bind_tops(h, &err) < 0 ? cmd_error(run->cmd, &err) : run_exec(run);
}

int run_mount(const struct run *run)
{
    struct host *h = calloc(1, sizeof(*h)); /* the starter's servers have it too */
    if (!h)
        return cmd_fail(run->cmd, "out of memory");
    *h = (struct host){.run = run, .notices = -1, .meet.fd = -1, .err = -1, .first = getpid()};
    int status = run_host(h);
    if (h->space.kept)
        munmap(h->space.kept, sizeof(*h->space.kept));
    free(h);
    return status;
}
