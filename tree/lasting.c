/* SPDX-License-Identifier: MIT */
/* What lets a tree outlive its server, and tell of changes: passed to the first tree from the top
 * down that has the op. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <plenum/tree.h>
#include <string.h>
#include <unistd.h>

void pl_keep(struct pl_tree *t, struct pl_keep *keep)
{
    while (!t->ops->keep && t->lower)
        t = t->lower;
    if (t->ops->keep)
        t->ops->keep(t, keep);
}

int pl_resume(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int flags, int kept,
              struct pl_file **ret)
{
    flags &= ~(O_TRUNC | O_CREAT | O_EXCL);
    while (!t->ops->resume && t->lower)
        t = t->lower;
    if (t->ops->resume) {
        int r = t->ops->resume(t, c, node, flags, kept, ret);
        assert(r < 0 || (*ret)->node);
        return r;
    }
    if (kept > 0)
        close(kept);
    return node ? pl_open(t, c, node, flags, ret) : -ESTALE;
}

int pl_watch(struct pl_tree *t, struct pl_watcher *watcher, char how[64])
{
    while (!t->ops->watch && t->lower)
        t = t->lower;
    if (t->ops->watch)
        return t->ops->watch(t, watcher, how);
    strcpy(how, "cannot tell of changes");
    return -EOPNOTSUPP;
}
