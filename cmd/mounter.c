/* SPDX-License-Identifier: MIT */
#include "cmd/mounter.h"
#include "base/confine.h"
#include "cmd/loss.h"
#include "cmd/relay.h"
#include "cmd/ring.h"
#include "cmd/util.h"
#include "keeper/keeper.h"
#include "keeper/registry.h"
#include <errno.h>
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
};

static void lost(void *arg, const char *sentence)
{
    struct state *s = arg;
    char text[640];
    snprintf(text, sizeof(text), "link to %s lost: %s", *s->far.peer ? s->far.peer : s->m->text,
             sentence);
    loss_tell(&s->loss, text);
}

static int prepare(void *arg, struct pl_err *err)
{
    struct state *s = arg;
    struct pl_tree *tree = s->m->tree;
    util_many_descriptors();
    s->watch = (struct spec_watch){.lost = lost, .arg = s};
    int r = 0;
    if (s->m->spec) {
        struct relay relay;
        if (!s->m->foreground)
            relay_start(&relay);
        r = spec_open(s->m->spec, &s->watch, &s->far, &tree, err);
        if (!s->m->foreground)
            relay_stop(&relay, r == 0);
    }
    if (r < 0)
        return r;
    if (s->far.note)
        fprintf(stderr, "%s: %s: %s\n", s->m->prefix, s->far.peer, s->far.note);
    reg_set_peer(s->mount.page, s->far.peer);
    ring_init(&s->ring, s->mount.page);
    s->tree = ring_over(&s->ring, tree);
    return s->tree ? 0 : pl_fail(err, -ENOMEM, "out of memory");
}

static int serve(void *arg, size_t i, int fd, struct stats *stats, void (*up)(void *), void *up_arg,
                 struct pl_err *err)
{
    struct state *s = arg;
    int r = loss_begin(&s->loss, i, s->mount.page->dir, err);
    if (r < 0)
        return r;
    r = fuse_serve(fd, s->tree, "", &s->m->opts.fuse, stats, up, up_arg, err);
    return loss_end(&s->loss, i, r, err);
}

static int finish(void *arg, struct pl_err *err)
{
    struct state *s = arg;
    loss_ending(&s->loss);
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
    s.mount = (struct keeper_mount){.dir = m->dir, .spec = m->text, .opts = m->opts.mount};
    struct keeper_job job = {
        .kind = "mount",
        .prefix = m->prefix,
        .nmounts = 1,
        .mounts = &s.mount,
        .foreground = m->foreground,
        .arg = &s,
        .prepare = prepare,
        .serve = serve,
        .finish = finish,
    };
    int status = keeper_run(&job);
    loss_done(&s.loss);
    return status;
}
