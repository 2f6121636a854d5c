/* SPDX-License-Identifier: MIT */
#include "cmd/mounter.h"
#include "base/confine.h"
#include "base/futex.h"
#include "cmd/far.h"
#include "cmd/linkpage.h"
#include "cmd/loss.h"
#include "cmd/relay.h"
#include "cmd/ring.h"
#include "cmd/util.h"
#include "keeper/keeper.h"
#include "keeper/registry.h"
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lives in the server process, up to `text` and `opts` also before the fork. */
struct state {
    const struct mounter *m;
    struct keeper_mount mount;
    struct pl_tree *tree;
    struct ring ring;
    struct loss loss;
    struct spec_watch watch;
    struct spec_far far;
    bool lasts;
};

static void lost(void *arg, const char *sentence)
{
    struct state *s = arg;
    char text[640];
    snprintf(text, sizeof(text), "link to %s lost: %s", *s->far.peer ? s->far.peer : s->m->text,
             sentence);
    loss_tell(&s->loss, text);
}

static void changed(void *arg, const char *down)
{
    struct state *s = arg;
    linkpage_changed(s->mount.page, s->m->prefix, s->far.peer, down);
}

static void ready(void *arg, const struct far *far, struct p9_conn *conn)
{
    struct state *s = arg;
    reg_set_peer(s->mount.page, p9_conn_peer(conn));
    linkpage_up(s->mount.page, far_linkopt(far), p9_conn_link(conn));
}

/* Nobody may ask for anything any more: what is left need not wait for a link that is down. */
static void gone(void *arg)
{
    struct state *s = arg;
    if (s->far.far)
        far_end(s->far.far);
}

/* Can another process carry on with the tree? Says so in the page, for status. */
static bool tree_lasts(struct state *s, const struct pl_tree *tree)
{
    char *word = s->mount.page->stats.lasts;
    const char *why = NULL;
    if (s->m->opts.fuse.uring)
        why = "io_uring forgets what is in flight";
    else if (!(tree->flags & PL_TREE_LASTING))
        why = tree->flags & PL_TREE_REMOTE ? "the connection is its own"
                                           : "its files are in its own memory";
    if (why)
        snprintf(word, sizeof(s->mount.page->stats.lasts), "ends with its server: %s", why);
    else
        snprintf(word, sizeof(s->mount.page->stats.lasts), "outlives its server");
    return !why;
}

/* The other end may be away when a server follows another: it is waited for like a link that is
 * down. What callers ask meanwhile waits in the kernel. */
static int open_tree(struct state *s, struct pl_tree **ret, struct pl_err *err)
{
    struct reg_page *page = s->mount.page;
    int64_t pause = 50, end = mono_now() + atomic_load(&page->link.linger);
    bool follows = atomic_load(&page->restarts) > 0;
    for (;; pause = pause < 5000 ? 2 * pause : 10000) {
        int r = spec_open(s->m->spec, &s->watch, &s->far, ret, err);
        if (r == 0 || !follows || mono_now() >= end)
            return r;
        if (!atomic_load(&page->link.down))
            linkpage_changed(page, s->m->prefix, s->m->text, err->text);
        poll(NULL, 0, (int)pause);
    }
}

static int prepare(void *arg, bool *lasts, struct pl_err *err)
{
    struct state *s = arg;
    struct pl_tree *tree = s->m->tree;
    util_many_descriptors();
    /* What the server before this one had is let go of: its locks would be in our way. */
    char left[sizeof(s->mount.page->link.id)];
    memcpy(left, s->mount.page->link.id, sizeof(left));
    s->watch = (struct spec_watch){.link = s->m->opts.link,
                                   .lost = lost,
                                   .changed = changed,
                                   .ready = ready,
                                   .left = left,
                                   .arg = s,
                                   .keep = s->mount.ledger.keep};
    int r = 0;
    if (s->m->spec) {
        struct relay relay;
        if (!s->m->foreground)
            relay_start(&relay);
        r = open_tree(s, &tree, err);
        if (!s->m->foreground)
            relay_stop(&relay, r == 0);
    }
    if (r < 0)
        return r;
    if (s->far.note)
        fprintf(stderr, "%s: %s: %s\n", s->m->prefix, s->far.peer, s->far.note);
    reg_set_peer(s->mount.page, s->far.peer);
    ring_init(&s->ring, s->mount.page);
    *lasts = tree_lasts(s, tree);
    s->lasts = *lasts;
    if (*lasts)
        pl_keep(tree, s->mount.ledger.keep);
    s->tree = ring_over(&s->ring, tree);
    return s->tree ? 0 : pl_fail(err, -ENOMEM, "out of memory");
}

static int serve(void *arg, size_t i, int fd, struct stats *stats, void (*up)(void *), void *up_arg,
                 struct pl_err *err)
{
    struct state *s = arg;
    int r = loss_begin(&s->loss, i, s->mount.page->dir, s->mount.dev, err);
    if (r < 0)
        return r;
    struct fuse_opts opts = s->m->opts.fuse;
    opts.ledger = s->lasts ? &s->mount.ledger : NULL;
    opts.gone = gone;
    opts.gone_arg = s;
    r = fuse_serve(fd, s->tree, "", &opts, stats, up, up_arg, err);
    return loss_end(&s->loss, i, r, err);
}

static int finish(void *arg, struct pl_err *err)
{
    struct state *s = arg;
    loss_ending(&s->loss);
    gone(s);
    pl_tree_unref(s->tree);
    s->tree = NULL;
    return loss_result(&s->loss, err);
}

int mounter_run(const struct mounter *m)
{
    struct state s = {.m = m};
    if (!m->opts.confine)
        confine_need(CONFINE_NOTHING);
    if (loss_init(&s.loss, 1) < 0)
        return 1;
    s.mount = (struct keeper_mount){
        .dir = m->dir, .spec = m->text, .opts = m->opts.mount, .nodes = m->opts.nodes};
    struct keeper_job job = {
        .kind = "mount",
        .prefix = m->prefix,
        .nmounts = 1,
        .mounts = &s.mount,
        .foreground = m->foreground,
        .lasts = true,
        .hang = m->opts.hang,
        .arg = &s,
        .prepare = prepare,
        .serve = serve,
        .finish = finish,
    };
    job.argc = util_args(&job.argv);
    int status = keeper_run(&job);
    loss_done(&s.loss);
    return status;
}
