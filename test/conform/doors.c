/* SPDX-License-Identifier: MIT */
/* The levels of a stack that are doors: 9P over a socket pair, FUSE through the kernel. */
#include "stack.h"

#include "doors/fuse.h"
#include "doors/p9.h"
#include "keeper/mount.h"
#include "sources/p9.h"
#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- 9P -------------------------------------------------------------------------------------- */

#define CLIENTS_MAX 4096 /* with those of p9-cut that have come to an end */

struct p9_level {
    struct pl_tree *inner;
    struct stats stats;
    struct p9_crew *crew, *client_crew;
    struct p9_door *door;
    struct p9_conn *conn[CLIENTS_MAX]; /* the serving ends */
    size_t nconns;
    pthread_mutex_t mutex; /* guards the two above */
};

/* The serving end of one more connection; `ret` is the other. */
static int serve_one(struct p9_level *p, struct chan *ret, struct pl_err *err)
{
    int fds[2];
    assert(p->nconns < CLIENTS_MAX);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return pl_fail(err, -errno, "socketpair: %m");
    struct chan here = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
    *ret = (struct chan){
        .in = fds[1], .out = fds[1], .role = CHAN_DIALED, .uid = geteuid(), .peer = "server"};
    int r = p9_door_conn(p->door, &here, false, NULL, NULL, &p->conn[p->nconns], err);
    if (r == 0)
        p->nconns++;
    return r;
}

static const char *version_of(const struct level *l)
{
    switch (l->kind) {
    case S_P9BASE:
    case S_CUT_P9BASE:
        return P9_VERSION;
    case S_P9U:
    case S_CUT_P9U:
        return P9_VERSION_U;
    default:
        return NULL;
    }
}

int level_connect(struct level *l, struct pl_call *call, struct p9_conn **ret, struct pl_err *err)
{
    struct p9_level *p = l->p9;
    struct chan chan;
    struct p9_conn_opts opts = {.crew = p->client_crew, .use = true, .version = version_of(l)};
    pthread_mutex_lock(&p->mutex);
    int r = serve_one(p, &chan, err);
    pthread_mutex_unlock(&p->mutex);
    if (r == 0)
        r = p9_conn_new(&chan, &opts, ret, err);
    if (r == 0 && (r = p9_use(*ret, call, err)) < 0)
        p9_conn_free(*ret);
    return r;
}

int level_dial(struct level *l, struct pl_tree **ret, struct pl_err *err)
{
    struct p9_conn *conn;
    if (level_is_cut(l))
        return level_cut(l, ret, err);
    int r = level_connect(l, me, &conn, err);
    return r < 0 ? r
                 : pl_p9_open(conn, &(struct pl_p9_opts){.uname = "root", .own = true}, ret, err);
}

int level_serve(struct level *l, struct pl_tree *inner, struct pl_tree **ret, struct pl_err *err)
{
    struct p9_level *p = l->p9 = calloc(1, sizeof(*p));
    struct p9_export e = {"", inner};
    if (!p || !(p->crew = p9_crew_new(16)) || !(p->client_crew = p9_crew_new(4)))
        return pl_fail(err, -ENOMEM, "out of memory");
    p->inner = inner;
    pthread_mutex_init(&p->mutex, NULL);
    int r = p9_door_new(&e, 1, p->crew, &p->stats, &p->door);
    return r < 0 ? pl_fail(err, r, "the 9P door does not open") : level_dial(l, ret, err);
}

int level_unserve(struct level *l, struct pl_err *err)
{
    struct p9_level *p = l->p9;
    int r = 0;
    for (size_t i = 0; i < p->nconns; i++) {
        int r2 = p9_conn_wait(p->conn[i], err);
        r = r < 0 || level_is_cut(l) ? r : r2;
        p9_conn_free(p->conn[i]);
    }
    level_cut_free();
    p9_door_free(p->door);
    p9_crew_free(p->crew);
    p9_crew_free(p->client_crew);
    pl_tree_unref(p->inner);
    pthread_mutex_destroy(&p->mutex);
    int64_t waiting = atomic_load(&p->stats.waiting);
    free(p);
    if (r == 0 && waiting)
        r = pl_fail(err, -EIO, "%lld requests are still waiting", (long long)waiting);
    return r;
}

/* ---- FUSE ------------------------------------------------------------------------------------ */

uint64_t fuse_mask;
uint32_t fuse_mask_minor;

/* Tells the waiting parent that the mount works; a sentence instead says why not. */
static void up(void *arg)
{
    ssize_t n = write(*(int *)arg, "", 1);
    assert(n == 1);
    (void)n;
}

static _Noreturn void server(struct level *l, const char *scratch, int fuse_fd, int ready_fd)
{
    struct pl_err err = {0};
    struct fuse_opts opts;
    struct stats stats = {0};
    struct pl_tree *inner;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN); /* nobody listens to ready_fd any more once the mount works */
    fuse_opts_init(&opts);
    opts.kernel_checks = true;
    opts.opens = l->kind == S_NOOPEN ? FUSE_OFF : FUSE_AUTO;
    opts.mask = fuse_mask;
    opts.mask_minor = fuse_mask_minor;
    int r = level_open(l->inner, scratch, &inner, &err);
    if (r == 0) {
        r = fuse_serve(fuse_fd, inner, "", &opts, &stats, up, &ready_fd, &err);
        close(fuse_fd);
        pl_tree_unref(inner);
        int r2 = level_close(l->inner, &err);
        r = r < 0 ? r : r2;
    }
    if (r < 0 && write(ready_fd, err.text, strlen(err.text)) < 0)
        fprintf(stderr, "%s\n", err.text);
    exit(r < 0 ? 1 : 0);
}

int level_mount(struct level *l, const char *scratch, struct pl_tree **ret, struct pl_err *err)
{
    static int depth;
    char text[512] = "";
    struct mount_opts opts;
    int fuse_fd, ready[2];
    mount_opts_init(&opts);
    opts.source = "conform";
    opts.nosuid = opts.nodev = false;
    snprintf(l->dir, sizeof(l->dir), "%.4000s/mnt%d", scratch, depth++);
    if (mkdir(l->dir, 0755) < 0 || pipe2(ready, O_CLOEXEC) < 0)
        return pl_fail(err, -errno, "%s: %m", l->dir);
    int r = mount_fuse(l->dir, &opts, &fuse_fd, err);
    if (r < 0)
        return r;
    fflush(NULL);
    l->server = fork();
    if (l->server == 0)
        server(l, scratch, fuse_fd, ready[1]);
    close(ready[1]);
    close(fuse_fd);
    ssize_t n = read(ready[0], text, sizeof(text) - 1);
    close(ready[0]);
    if (n != 1)
        return pl_fail(err, -EIO, "the server of %s did not come up: %s", l->dir, text);
    return pl_host_open(l->dir, ret, err);
}

int level_unmount(struct level *l, struct pl_err *err)
{
    int status;
    int r = mount_end(l->dir, false, err);
    if (r < 0)
        return r;
    if (waitpid(l->server, &status, 0) != l->server)
        return pl_fail(err, -errno, "waitpid: %m");
    if (WIFSIGNALED(status))
        return pl_fail(err, -EIO, "the server died of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status))
        return pl_fail(err, -EIO, "the server's exit status is %d", WEXITSTATUS(status));
    return 0;
}
