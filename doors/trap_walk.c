/* SPDX-License-Identifier: MIT */
/*
 * Where a path leads.
 *
 * Most paths have nothing to do with a tree, and are to cost little: if no tree is on the way by
 * the letters, and the kernel finds no symbolic link on it, the call goes on natively. Else the
 * walk is done here name by name: on the host by the path so far, in a tree by its nodes. It
 * changes over where the canonical path is a tree's, and back at ".." of a root and absolute links.
 */
#include "doors/preload/shared.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A position: a directory, or at the end anything. */
struct pos {
    char path[PATH_MAX];
    const struct top *top;
    struct pl_node *node;
};

struct walk {
    struct tcall *c;
    struct target *ret;
    unsigned flags;
    bool went_in; /* the kernel would find something else */
    bool stale;   /* it begins where the path is no good */
    struct pos at, base;
    char rest[2 * PATH_MAX], name[NAME_MAX + 1];
};

static bool is_in(const char *path, const char *dir, size_t len)
{
    return strncmp(path, dir, len) == 0 && (path[len] == 0 || path[len] == '/');
}

/* A tree that is seen at "/" leaves these to the kernel. */
static bool is_kernels(const char *path)
{
    return is_in(path, "/proc", 5) || is_in(path, "/dev", 4) || is_in(path, "/sys", 4);
}

const struct top *view_top_at(const struct trap_view *view, const char *path, bool exact)
{
    for (size_t i = 0; i < view->n; i++) {
        const struct top *top = &view->tops[i];
        if (exact      ? strcmp(path, top->path) == 0
            : top->len ? is_in(path, top->path, top->len)
                       : !is_kernels(path))
            return top;
    }
    return NULL;
}

/* ---- where it begins ---- */

static void pos_done(struct pos *p)
{
    pl_node_unref(p->node);
    p->node = NULL;
}

static void pos_host(struct pos *p, const char *path)
{
    pos_done(p);
    p->top = NULL;
    if (path != p->path)
        snprintf(p->path, sizeof(p->path), "%s", path);
}

/* True: what the path of it says now is the same. */
static bool pos_place(struct tcall *c, struct pos *p, struct place *place)
{
    bool is = place_path(c->t, place, p->path) && place->view == c->view;
    p->top = place->top;
    p->node = place->node ? pl_node_ref(place->node) : NULL;
    return is;
}

static void pos_copy(struct pos *to, const struct pos *from)
{
    pos_done(to);
    *to = *from;
    if (to->node)
        pl_node_ref(to->node);
}

/* 0; 1: nothing with a path, a pipe; or the error. */
static int begin(struct walk *w, int dirfd)
{
    struct tcall *c = w->c;
    char link[40], path[PATH_MAX];
    if (dirfd == AT_FDCWD && c->state && c->state->place) {
        w->stale = !pos_place(c, &w->at, c->state->place);
        w->went_in = true;
        return 0;
    }
    if (dirfd == AT_FDCWD) {
        snprintf(link, sizeof(link), "/proc/%d/cwd", c->w->tid);
    } else {
        struct item *it = dirfd == c->t->state_fd ? NULL : item_of(c, dirfd, NULL);
        if (it && it->kind != ITEM_STATE) {
            w->stale = !pos_place(c, &w->at, it->place);
            w->went_in = true;
        }
        item_put(c->t, it);
        if (w->went_in || dirfd == c->t->state_fd)
            return w->went_in ? 0 : -EBADF;
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", c->w->tid, dirfd);
    }
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n <= 0)
        return -EBADF;
    if (path[0] != '/')
        return 1;
    path[n] = 0;
    pos_host(&w->at, path);
    return 0;
}

/* ---- the quick way ---- */

/* `path` from `base` into `full`, without doubled slashes; false: it has "." or ".." in it. */
static bool join(const char *base, const char *path, char *full, size_t size)
{
    size_t n = 0;
    if (path[0] != '/') {
        n = strlen(base);
        if (n >= size)
            return false;
        memcpy(full, base, n);
    }
    while (*path) {
        path += strspn(path, "/");
        size_t len = strcspn(path, "/");
        if (len == 0)
            break;
        if ((len == 1 && path[0] == '.') || (len == 2 && path[0] == '.' && path[1] == '.') ||
            n + len + 2 > size)
            return false;
        if (n == 0 || full[n - 1] != '/')
            full[n++] = '/';
        memcpy(full + n, path, len);
        n += len;
        path += len;
    }
    if (n == 0)
        full[n++] = '/';
    full[n] = 0;
    return true;
}

/* Is it in a tree by the letters, and for the table to answer? */
static bool for_table(struct walk *w, const char *path)
{
    char *full = w->ret->path;
    struct tcall *c = w->c;
    size_t n = strlen(path);
    if (!(w->flags & WALK_TABLE) || !c->view->preload || (c->state && c->state->root) || w->stale ||
        path[n - 1] == '/' || !join(w->at.path, path, full, PRELOAD_PATH))
        return false;
    const struct top *top = view_top_at(c->view, full, false);
    return top && full[top->len];
}

/* What `path` is by the letters, with "." and ".." taken out; *dots: there were some. False: one is
 * at the end, or ".." is in a tree. */
static bool settle(const struct trap_view *view, const char *path, char full[PATH_MAX], bool *dots)
{
    size_t n = 0;
    *dots = false;
    for (;;) {
        path += strspn(path, "/");
        size_t len = strcspn(path, "/");
        if (len == 0)
            break;
        bool up = len == 2 && path[0] == '.' && path[1] == '.', here = len == 1 && path[0] == '.';
        if (n + len + 2 > PATH_MAX || ((up || here) && !path[len + strspn(path + len, "/")]))
            return false;
        full[n] = 0;
        if (up && n && view_top_at(view, full, false))
            return false;
        if (up)
            while (n && full[--n] != '/')
                ;
        *dots |= up || here;
        if (!up && !here) {
            full[n++] = '/';
            memcpy(full + n, path, len);
            n += len;
        }
        path += len;
    }
    if (n == 0)
        full[n++] = '/';
    full[n] = 0;
    return true;
}

/* Does no symbolic link lead to it, as far as there is anything? */
static bool is_straight(const char *path, bool follow)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW),
                           .resolve = RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (fd >= 0)
        close(fd);
    return fd >= 0 || (errno != ELOOP && errno != EMFILE && errno != ENFILE);
}

/* Will the kernel find by `path` what the view has? Then that is the target. */
static bool is_native(struct walk *w, const char *path)
{
    char full[PATH_MAX], raw[PATH_MAX], *to = w->ret->path;
    bool dots, relative = path[0] != '/';
    size_t n = strlen(path), base = relative ? strlen(w->at.path) : 0;
    if (base + n + 2 > PATH_MAX)
        return false;
    memcpy(raw, w->at.path, base);
    raw[base] = '/';
    memcpy(raw + base + relative, path, n + 1);
    if (!settle(w->c->view, raw, full, &dots) || view_top_at(w->c->view, full, false))
        return false;
    if (strncmp(full, "/proc/", 6) == 0 ? dots || strstr(full, "/fd/") || strstr(full, "/cwd") ||
                                              strstr(full, "/root") || strstr(full, "/exe")
                                        : !is_straight(raw, w->flags & WALK_FOLLOW))
        return false;
    if (dots)
        strcpy(to, raw);
    else
        sprintf(to, "%s%s", full, n > 1 && path[n - 1] == '/' ? "/" : ""); /* no longer than raw */
    return true;
}

/* On the host, without looking at each name: to the end, or to the last directory, if no link is on
 * the way there. */
static void leap(struct walk *w, bool to_end)
{
    char full[PATH_MAX], *rest = w->rest + strspn(w->rest, "/");
    size_t n = strlen(rest);
    if (w->flags & (WALK_BENEATH | WALK_IN_ROOT) || !join(w->at.path, rest, full, sizeof(full)) ||
        view_top_at(w->c->view, full, false) || strncmp(full, "/proc", 5) == 0)
        return;
    if (to_end && n && is_straight(full, w->flags & WALK_FOLLOW && !(w->flags & WALK_PARENT))) {
        w->ret->slash = rest[n - 1] == '/';
        strcpy(w->at.path, full);
        w->rest[0] = 0;
        return;
    }
    char *name = strrchr(full, '/');
    *name = 0;
    if (name == full || strcmp(full, w->at.path) == 0 || !is_straight(full, true))
        return;
    bool slash = rest[n - 1] == '/';
    sprintf(w->rest, "/%s%s", name + 1, slash ? "/" : "");
    strcpy(w->at.path, full);
}

/* "." and ".." are in directories only, which on the host nobody has looked at yet. */
static int dots_ok(const struct walk *w)
{
    struct stat st;
    if (w->at.top)
        return S_ISDIR(w->at.node->fmt) ? 0 : -ENOTDIR;
    return stat(w->at.path, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

/* ---- name by name ---- */

static bool takes_dots(const char *name)
{
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

/* The next name of w->rest into w->name: 1, 0 at the end. */
static int next_name(struct walk *w)
{
    char *p = w->rest + strspn(w->rest, "/");
    size_t n = strcspn(p, "/");
    if (n > NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(w->name, p, n);
    w->name[n] = 0;
    memmove(w->rest, p + n, strlen(p + n) + 1);
    return n > 0;
}

static bool at_end(const struct walk *w)
{
    return w->rest[strspn(w->rest, "/")] == 0;
}

static void cut(char *path)
{
    char *slash = strrchr(path, '/');
    slash[slash == path] = 0;
}

static int append(char *path, size_t size, const char *name)
{
    size_t n = strlen(path), len = strlen(name);
    if (n + len + 2 > size)
        return -ENAMETOOLONG;
    if (n == 0 || path[n - 1] != '/')
        path[n++] = '/';
    memcpy(path + n, name, len + 1);
    return 0;
}

static int go_up(struct walk *w)
{
    struct pos *at = &w->at;
    if (w->flags & WALK_IN_ROOT && strcmp(at->path, w->base.path) == 0)
        return 0;
    if (w->flags & WALK_BENEATH && strcmp(at->path, w->base.path) == 0)
        return -EXDEV;
    if (!at->top) {
        cut(at->path);
        return 0;
    }
    if (strcmp(at->path, at->top->path) == 0) {
        cut(at->path);
        pos_host(at, at->path);
        return 0;
    }
    struct pl_node *up;
    struct pl_attr attr;
    int r = pl_lookup(at->top->tree, &w->c->call, at->node, "..", &up, &attr);
    if (r < 0)
        return r;
    pos_done(at);
    at->node = up;
    cut(at->path);
    return 0;
}

/* A link was met: what it says comes before the rest. The kernel's own lead out of any root. */
static int follow(struct walk *w, const char *link, bool magic)
{
    char rest[sizeof(w->rest)];
    if (w->flags & WALK_NO_LINKS || ++w->ret->links > TRAP_LINKS)
        return -ELOOP;
    if (!*link)
        return -ENOENT;
    if ((size_t)snprintf(rest, sizeof(rest), "%s/%s", link, w->rest) >= sizeof(rest))
        return -ENAMETOOLONG;
    if (!*w->rest) /* no slash of our own at the end: it would mean a directory */
        snprintf(rest, sizeof(rest), "%s", link);
    memcpy(w->rest, rest, sizeof(rest));
    if (link[0] != '/')
        return 0;
    if (w->flags & WALK_BENEATH)
        return -EXDEV;
    if (w->flags & WALK_IN_ROOT && !magic)
        pos_copy(&w->at, &w->base);
    else
        pos_host(&w->at, "/");
    return 0;
}

static bool to_follow(const struct walk *w, bool last)
{
    return !last || w->flags & WALK_FOLLOW || (w->rest[0] == '/' && !(w->flags & WALK_PARENT));
}

static int enter(struct walk *w, const struct top *top)
{
    w->went_in = true;
    pos_done(&w->at);
    snprintf(w->at.path, sizeof(w->at.path), "%s", top->path);
    w->at.top = top;
    w->at.node = pl_node_ref(top->root);
    return 0;
}

/* A link that the kernel makes up. */
static int step_magic(struct walk *w, const char *path, char link[PATH_MAX], bool last)
{
    if (!proc_is_link(path))
        return -EAGAIN;
    if (w->flags & WALK_NO_MAGIC)
        return -ELOOP;
    int n = proc_link(w->c, path, last, link), r = as_caller(w->c); /* again: it walks as well */
    if (r < 0)
        return r;
    if (n >= 0) {
        w->went_in = true;
        return n;
    }
    if (n != -EAGAIN)
        return n;
    if (last)
        return 0;
    n = (int)readlink(path, link, PATH_MAX - 1);
    return n > 0 && link[0] == '/' ? n : -ENOTDIR;
}

/* One name on the host: 1, go on; 0, the walk is over (the kernel is to say how). */
static int step_host(struct walk *w)
{
    char path[2 * PATH_MAX], link[PATH_MAX];
    bool last = at_end(w);
    snprintf(path, sizeof(path), "%s", w->at.path);
    if (append(path, sizeof(path), w->name) < 0 || strlen(path) >= PATH_MAX)
        return -ENAMETOOLONG;
    const struct top *top = view_top_at(w->c->view, path, true);
    if (top)
        return enter(w, top) < 0 ? -ENOTDIR : 1;
    if (strcmp(path, "/proc/self") == 0)
        snprintf(path, sizeof(path), "/proc/%d", w->c->w->tgid);
    else if (strcmp(path, "/proc/thread-self") == 0)
        snprintf(path, sizeof(path), "/proc/%d/task/%d", w->c->w->tgid, w->c->w->tid);
    ssize_t n = -1;
    if (to_follow(w, last)) {
        n = step_magic(w, path, link, last);
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        bool magic = n >= 0;
        if (!magic)
            n = readlink(path, link, sizeof(link) - 1);
        if (n > 0) {
            link[n] = 0;
            int r = follow(w, link, magic);
            return r < 0 ? r : 1;
        }
    }
    pos_host(&w->at, path);
    return n < 0 && errno == ENOENT && to_follow(w, last) ? 0 : 1;
}

static int read_link(struct walk *w, struct pl_node *node, char link[PATH_MAX])
{
    int n = pl_readlink(w->at.top->tree, &w->c->call, node, link, PATH_MAX - 1);
    if (n >= 0)
        link[n] = 0;
    return n < 0 ? n : follow(w, link, false);
}

/* From a tree at "/" to what is the kernel's all the same. */
static bool leaves_root(struct walk *w)
{
    char path[NAME_MAX + 2];
    if (w->at.path[1])
        return false;
    snprintf(path, sizeof(path), "/%s", w->name);
    if (is_kernels(path))
        pos_host(&w->at, w->at.path);
    return !w->at.top;
}

/* One name in a tree: 1, go on; 0, the target is found, or known to be missing. */
static int step_tree(struct walk *w)
{
    struct pos *at = &w->at;
    bool last = at_end(w);
    char link[PATH_MAX];
    struct pl_node *node = NULL;
    struct pl_attr attr;
    if (!S_ISDIR(at->node->fmt))
        return -ENOTDIR;
    if (at->top->len == 0 && leaves_root(w))
        return step_host(w);
    int r = pl_lookup(at->top->tree, &w->c->call, at->node, w->name, &node, &attr);
    if (r == -ENOENT && last)
        node = NULL;
    else if (r < 0)
        return r;
    if (node && S_ISLNK(node->fmt) && to_follow(w, last)) {
        r = read_link(w, node, link);
        pl_node_unref(node);
        return r < 0 ? r : 1;
    }
    if (node && !last && !S_ISDIR(node->fmt)) {
        pl_node_unref(node);
        return -ENOTDIR;
    }
    if (append(at->path, sizeof(at->path), w->name) < 0) {
        pl_node_unref(node);
        return -ENAMETOOLONG;
    }
    if (last) {
        w->ret->dir = at->node;
        strcpy(w->ret->name, w->name);
        at->node = node;
        return 0;
    }
    pl_node_unref(at->node);
    at->node = node;
    return 1;
}

static int steps(struct walk *w)
{
    int r;
    unsigned links = w->ret->links;
    if (!w->at.top)
        leap(w, false);
    for (;;) {
        const struct top *top = w->at.top ? NULL : view_top_at(w->c->view, w->at.path, true);
        if (top) /* by an absolute link, or ".." */
            enter(w, top);
        if (!w->at.top && w->ret->links != links) { /* a link was followed */
            links = w->ret->links;
            leap(w, true);
        }
        if ((r = next_name(w)) != 1)
            break;
        if (takes_dots(w->name)) {
            r = dots_ok(w);
            if (r == 0 && w->name[1])
                r = go_up(w);
            if (r < 0)
                return r;
            if (at_end(w))
                strcpy(w->ret->name, w->name);
            continue;
        }
        w->ret->name[0] = 0;
        bool last = at_end(w);
        if (last && w->rest[0] == '/')
            w->ret->slash = true;
        bool host = !w->at.top;
        r = host ? step_host(w) : step_tree(w);
        if (r <= 0)
            break;
        if (host && last && !w->at.top && at_end(w))
            strcpy(w->ret->name, w->name);
    }
    if (r == -ENAMETOOLONG && dots_ok(w) < 0)
        r = dots_ok(w);
    return r;
}

/* What is left of the path where the kernel is to say what is wrong with it. */
static int finish(struct walk *w)
{
    struct target *t = w->ret;
    t->top = w->at.top;
    t->node = w->at.node;
    w->at.node = NULL;
    bool dot = w->flags & WALK_PARENT && takes_dots(t->name); /* which is an error to be told */
    int n = snprintf(t->path, sizeof(t->path), "%s%s", w->at.path,
                     t->top       ? ""
                     : !at_end(w) ? w->rest
                     : dot        ? "/."
                     : t->slash   ? "/"
                                  : "");
    if (!t->top) {
        t->native = !w->went_in;
        return n >= (int)sizeof(t->path) ? -ENAMETOOLONG : 0;
    }
    if (t->slash && t->node && !S_ISDIR(t->node->fmt))
        return -ENOTDIR;
    return 0;
}

/* "": the descriptor, or the working directory, itself. */
static int walk_empty(struct walk *w, int dirfd)
{
    if (!(w->flags & WALK_EMPTY))
        return -ENOENT;
    int r = begin(w, dirfd);
    if (r < 0)
        return r;
    w->ret->native = !w->went_in;
    w->ret->top = w->at.top;
    w->ret->node = w->at.node;
    w->at.node = NULL;
    snprintf(w->ret->path, sizeof(w->ret->path), "%s", w->at.path);
    return 0;
}

static int walk_rest(struct walk *w)
{
    int r = as_caller(w->c); /* who may search where is asked as well */
    if (r == 0)
        r = steps(w);
    as_self();
    return r < 0 ? r : finish(w);
}

static int walk_from(struct walk *w, int dirfd, const char *path)
{
    char full[2 * PATH_MAX];
    int r = 0;
    if (!*path)
        return walk_empty(w, dirfd);
    bool scoped = w->flags & (WALK_BENEATH | WALK_IN_ROOT);
    struct place *root = w->c->state ? w->c->state->root : NULL;
    if (path[0] == '/' && w->flags & WALK_BENEATH)
        return -EXDEV;
    if (path[0] != '/' || scoped)
        r = begin(w, dirfd);
    else
        strcpy(w->at.path, "/");
    if (root && !scoped) {
        w->went_in = true;
        w->flags |= WALK_IN_ROOT;
        pos_place(w->c, &w->base, root);
        if (path[0] == '/')
            pos_copy(&w->at, &w->base);
    }
    if (r != 0)
        return r < 0 ? r : -ENOTDIR;
    if ((w->ret->plain = for_table(w, path)))
        return 0;
    bool host = !w->at.top && !w->went_in && !scoped;
    if (host && (w->ret->native = is_native(w, path)))
        return 0;
    bool clean = host && join(w->at.path, path, full, PATH_MAX);
    const struct top *top =
        w->at.top ? NULL : view_top_at(w->c->view, clean ? full : w->at.path, false);
    if (clean && top && full[top->len]) { /* by the letters: what leads there has no links */
        size_t n = strlen(path);
        enter(w, top);
        snprintf(w->rest, sizeof(w->rest), "%s%s", full + top->len, path[n - 1] == '/' ? "/" : "");
        return walk_rest(w);
    }
    if (top) { /* a descriptor from before has a place beneath a tree open */
        snprintf(full, sizeof(full), "%s/%s", path[0] == '/' ? "" : w->at.path, path);
        w->went_in = true;
        strcpy(w->at.path, "/");
        path = full;
    }
    if (path[0] != '/' && (r = dots_ok(w)) < 0)
        return r;
    if (scoped)
        pos_copy(&w->base, &w->at);
    snprintf(w->rest, sizeof(w->rest), "%s", path);
    return walk_rest(w);
}

/* The directory in which a name was looked for: the preload may look there by itself next time. */
static void note(struct tcall *c, const struct walk *w, int r)
{
    const struct target *t = w->ret;
    const char *path = r == 0 && t->dir ? t->path : r == -ENOENT && w->at.top ? w->at.path : NULL;
    const char *end = path && r == 0 ? strrchr(path, '/') : path ? path + strlen(path) : NULL;
    if (path)
        preload_note_dir(c->view->preload, path, (size_t)(end - path));
}

int walk_text(struct tcall *c, int dirfd, const char *path, unsigned flags, struct target *ret)
{
    memset((char *)ret + sizeof(ret->path), 0, sizeof(*ret) - sizeof(ret->path));
    ret->path[0] = 0;
    struct walk w;
    w.c = c;
    w.ret = ret;
    w.flags = flags;
    w.went_in = w.stale = false;
    w.at.path[0] = w.base.path[0] = w.rest[0] = 0;
    w.at.top = w.base.top = NULL;
    w.at.node = w.base.node = NULL;
    int r = walk_from(&w, dirfd, path);
    if (c->view->preload && !(flags & WALK_PARENT))
        note(c, &w, r);
    pos_done(&w.at);
    pos_done(&w.base);
    return r;
}

int walk(struct tcall *c, int dirfd, uint64_t addr, unsigned flags, struct target *ret)
{
    char path[PATH_MAX];
    path[0] = 0;
    memset((char *)ret + sizeof(ret->path), 0, sizeof(*ret) - sizeof(ret->path));
    /* No path at all is taken for one without bytes where the kernel takes it so. */
    int r = addr || !(flags & WALK_EMPTY) ? peek_string(c, addr, path, sizeof(path)) : 0;
    r = r < 0 ? r : walk_text(c, dirfd, path, flags, ret);
    if (r < 0 || ret->native || flags & WALK_LOOKS)
        return r;
    if (ret->top && ret->node)
        known_node(c->t, ret);
    return still_there(c) ? 0 : -ESRCH;
}

int walk_view(struct tcall *c, const char *path, struct target *ret)
{
    struct tcall without = *c;
    without.state = NULL;
    return walk_text(&without, AT_FDCWD, path, 0, ret);
}

int walk_on(struct tcall *c, unsigned flags, struct target *t)
{
    char path[PRELOAD_PATH];
    memcpy(path, t->path, strlen(t->path) + 1);
    return walk_text(c, AT_FDCWD, path, flags & ~(unsigned)WALK_TABLE, t);
}

void target_done(struct target *t)
{
    pl_node_unref(t->dir);
    pl_node_unref(t->node);
    t->dir = t->node = NULL;
}

int node_host(struct tcall *c, const struct top *top, struct pl_node *node, char path[PATH_MAX])
{
    if (!c->view->where)
        return -EXDEV;
    return c->view->where(c->view->where_arg, top->tree, &c->call, node, path, PATH_MAX);
}

int target_host(struct tcall *c, const struct target *t, char path[PATH_MAX])
{
    if (!t->top) {
        memcpy(path, t->path, strlen(t->path) + 1);
        return 0;
    }
    return t->node ? node_host(c, t->top, t->node, path) : -ENOENT;
}

struct place *target_place(struct tcall *c, const struct target *t)
{
    return place_new(c->t, c->view, t->top, t->node, t->path);
}
