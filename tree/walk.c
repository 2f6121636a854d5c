/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <plenum/walk.h>
#include <stdlib.h>
#include <string.h>

enum { SYMLINKS = 40 }; /* as MAXSYMLINKS in the kernel */

struct walk {
    struct pl_tree *tree;
    struct pl_call *call;
    struct pl_node *root;
    struct pl_node *at; /* a reference */
    struct pl_attr attr;
    char *rest; /* still to be walked */
    char *buf;  /* where `rest` is, once a symlink was followed */
    int links, flags;
};

static void move(struct walk *w, struct pl_node *to)
{
    pl_node_unref(w->at);
    w->at = to;
}

/* Puts the target of `link` before the rest of the path. */
static int follow(struct walk *w, struct pl_node *link)
{
    if (++w->links > SYMLINKS || (w->flags & PL_WALK_NOLINKS))
        return -ELOOP;
    char target[PL_PATH_MAX + 1];
    int n = pl_readlink(w->tree, w->call, link, target, PL_PATH_MAX);
    if (n <= 0)
        return n < 0 ? n : -ENOENT;
    size_t rest = strlen(w->rest);
    char *buf = malloc((size_t)n + rest + 2);
    if (!buf)
        return -ENOMEM;
    memcpy(buf, target, (size_t)n);
    /* What follows the link follows its target; a slash behind the last link stays one. */
    memcpy(buf + n, w->rest, rest + 1);
    free(w->buf);
    w->buf = w->rest = buf;
    if (*buf == '/')
        move(w, pl_node_ref(w->root));
    return 0;
}

static int enter(struct walk *w, const char *name)
{
    struct pl_node *next;
    if (!S_ISDIR(w->at->fmt))
        return -ENOTDIR;
    if (!strcmp(name, ".") || (!strcmp(name, "..") && w->at == w->root))
        return pl_getattr(w->tree, w->call, w->at, NULL, &w->attr);
    int r = pl_lookup(w->tree, w->call, w->at, name, &next, &w->attr);
    if (r < 0)
        return r;
    if (S_ISLNK(next->fmt) && (*w->rest || !(w->flags & PL_WALK_NOFOLLOW))) {
        r = follow(w, next);
        pl_node_unref(next);
        return r;
    }
    move(w, next);
    return 0;
}

static int run(struct walk *w)
{
    int r = pl_getattr(w->tree, w->call, w->at, NULL, &w->attr);
    while (r == 0 && *w->rest) {
        char name[PL_NAME_MAX + 1];
        char *from = w->rest + strspn(w->rest, "/");
        size_t n = strcspn(from, "/");
        w->rest = from + n;
        if (n > PL_NAME_MAX)
            return -ENAMETOOLONG;
        if (n == 0) /* slashes alone: what stands before them is a directory */
            return S_ISDIR(w->at->fmt) ? 0 : -ENOTDIR;
        memcpy(name, from, n);
        name[n] = 0;
        r = enter(w, name);
    }
    return r;
}

int pl_walk(struct pl_tree *tree, struct pl_call *call, struct pl_node *root, struct pl_node *dir,
            const char *path, int flags, struct pl_node **ret, struct pl_attr *attr)
{
    struct walk w = {.tree = tree,
                     .call = call,
                     .root = root,
                     .at = pl_node_ref(dir && *path != '/' ? dir : root),
                     .rest = (char *)path, /* never written to */
                     .flags = flags};
    int r = !*path ? -ENOENT : strlen(path) > PL_PATH_MAX ? -ENAMETOOLONG : run(&w);
    free(w.buf);
    if (r < 0) {
        pl_node_unref(w.at);
        return r;
    }
    *ret = w.at;
    if (attr)
        *attr = w.attr;
    return 0;
}

int pl_walk_parent(struct pl_tree *tree, struct pl_call *call, struct pl_node *root,
                   struct pl_node *dir, const char *path, int flags, struct pl_node **ret,
                   char name[PL_NAME_MAX + 1], bool *slash)
{
    size_t whole = strlen(path), end = whole;
    if (!whole)
        return -ENOENT;
    if (whole > PL_PATH_MAX)
        return -ENAMETOOLONG;
    while (end && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start && path[start - 1] != '/')
        start--;
    if (end - start > PL_NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(name, path + start, end - start);
    name[end - start] = 0;
    if (slash)
        *slash = end < whole;
    if (start == end || !strcmp(name, ".") || !strcmp(name, ".."))
        return -EINVAL;
    char *up = start ? strndup(path, start) : strdup(".");
    if (!up)
        return -ENOMEM;
    int r = pl_walk(tree, call, root, dir, up, flags & ~PL_WALK_NOFOLLOW, ret, NULL);
    free(up);
    if (r == 0 && !S_ISDIR((*ret)->fmt)) {
        pl_node_unref(*ret);
        r = -ENOTDIR;
    }
    return r;
}
