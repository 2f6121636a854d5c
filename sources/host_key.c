/* SPDX-License-Identifier: MIT */
/*
 * Keys, and the way back from them.
 *
 *   'F' fsid[8] type len handle[len] (type len handle[len] of the parent, unless a directory)
 *   'N' dev[8] ino[8] btime-hash[4] hash[2] of each name on the way from the root
 *
 * The first kind is the kernel's file handle. Whoever presents one may have made it up, so what it
 * opens counts only if it is found beneath the root: a node that is known is; a directory tells its
 * path; a file may have to be looked for in its parent. The second kind works without privileges:
 * it is found by walking down along names with the right hashes.
 *
 * Nor does it count unless the caller could walk there: from the root, or from where he has
 * attached. So the way is walked, in his name.
 *
 * A door that looks for a key out of its own ledger (call->own) has had the node from us: a handle
 * is then as good as the node, whatever has been renamed since. The second kind goes stale when
 * anything on the way is renamed; the door looks in the last parent that it knows for an entry of
 * the same inode number then (the numbers of readdir are those of lookup, or 0 where they cannot
 * be told without one).
 */
#include "base/cred.h"
#include "sources/host.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* ---- paths ---- */

bool host_beneath(struct host *h, int fd, char *rel, size_t size)
{
    char root[PATH_MAX], path[PATH_MAX];
    int rootfd = host_fd(h, h->root);
    ssize_t nr = readlink(host_proc(rootfd).path, root, sizeof(root) - 1);
    ssize_t np = readlink(host_proc(fd).path, path, sizeof(path) - 1);
    host_fd_done(h, h->root);
    if (nr <= 0 || np <= 0 || root[0] != '/' || path[0] != '/')
        return false;
    root[nr] = path[np] = '\0';
    if (nr == 1)
        nr = 0; /* "/" */
    if (memcmp(path, root, (size_t)(nr < np ? nr : np)) != 0 || np < nr ||
        (path[nr] != '/' && path[nr] != '\0'))
        return false;
    const char *p = path + nr;
    p += *p == '/';
    return (size_t)snprintf(rel, size, "%s", p) < size;
}

/* A child as the process itself. */
static int child(struct host *h, struct host_node *dir, const char *name, struct host_node **ret,
                 struct pl_attr *attr)
{
    bool crossed;
    int dirfd = host_fd(h, dir);
    if (dirfd < 0)
        return dirfd;
    cred_reset();
    int fd = host_open_child(dirfd, name, &crossed);
    host_fd_done(h, dir);
    return fd < 0 ? fd : host_adopt(h, dir, name, fd, true, crossed, ret, attr);
}

int host_walk(struct host *h, const char *rel, struct host_node **ret, struct pl_attr *attr)
{
    struct host_node *at = h->root, *next;
    pl_node_ref(&at->h.node);
    int r = *rel ? 0 : host_getattr(&h->tree, NULL, &at->h.node, NULL, attr);
    while (r == 0 && *rel) {
        char name[PL_NAME_MAX + 1];
        size_t n = strcspn(rel, "/");
        if (n == 0 || n > PL_NAME_MAX) {
            r = -ESTALE;
            break;
        }
        memcpy(name, rel, n);
        name[n] = '\0';
        rel += n + (rel[n] == '/');
        r = S_ISDIR(at->h.node.fmt) ? child(h, at, name, &next, attr) : -ESTALE;
        if (r == 0) {
            pl_node_unref(&at->h.node);
            at = next;
        }
    }
    if (r == 0)
        *ret = at;
    else
        pl_node_unref(&at->h.node);
    return r;
}

/* ---- bytes ---- */

static void put(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static uint64_t hash(const void *data, size_t n)
{
    uint64_t x = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        x = (x ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return x ^ x >> 29;
}

static unsigned name_hash(const char *name, size_t n)
{
    return (unsigned)(hash(name, n) & 0xffff);
}

static uint32_t btime_hash(int64_t btime)
{
    return (uint32_t)hash(&btime, sizeof(btime));
}

/* ---- by handle ---- */

enum { F_HEAD = 9, N_HEAD = 21 };

static int put_handle(uint8_t *p, size_t room, const struct host_node *n)
{
    if (n->handle_type < 0 || n->handle_type > 255 || room < 2u + n->handle_len)
        return 0;
    p[0] = (uint8_t)n->handle_type;
    p[1] = n->handle_len;
    memcpy(p + 2, n->handle, n->handle_len);
    return 2 + n->handle_len;
}

/* 0: it does not fit. */
static int key_of_handle(struct host *h, struct host_node *n, uint8_t key[PL_KEY_MAX])
{
    if (!n->handle_len || !n->mount->fsid)
        return 0;
    key[0] = 'F';
    put(key + 1, n->mount->fsid, 8);
    int len = put_handle(key + F_HEAD, PL_KEY_MAX - F_HEAD, n);
    if (len == 0)
        return 0;
    len += F_HEAD;
    if (S_ISDIR(n->h.node.fmt))
        return len;
    struct host_node *up = host_parent(h, n);
    if (up && up->mount == n->mount && up->handle_len)
        len += put_handle(key + len, (size_t)(PL_KEY_MAX - len), up);
    if (up)
        pl_node_unref(&up->h.node);
    return len;
}

struct mount_want {
    struct host *h;
    uint64_t fsid;
    struct host_mount *found;
};

static bool is_mount(void *arg, const char *rel)
{
    struct mount_want *w = arg;
    struct host_node *n;
    struct pl_attr attr;
    if (host_walk(w->h, rel, &n, &attr) < 0)
        return false;
    if (n->mount->fsid == w->fsid && n->mount->fd >= 0)
        w->found = host_mount_ref(w->h, n->mount);
    pl_node_unref(&n->h.node);
    return w->found;
}

/* A mount of this file system, with a reference. NULL: none. */
static struct host_mount *find_mount(struct host *h, uint64_t fsid)
{
    struct mount_want w = {.h = h, .fsid = fsid};
    if (h->root->mount->fsid == fsid)
        return host_mount_ref(h, h->root->mount);
    w.found = host_mount_find(h, fsid);
    if (!w.found)
        host_each_point(h, is_mount, &w);
    return w.found;
}

/* The object that `fd` has open, if its path leads to it beneath the root. */
static int by_path(struct host *h, int fd, struct pl_id id, struct host_node **ret,
                   struct pl_attr *attr)
{
    char rel[PATH_MAX];
    if (!host_beneath(h, fd, rel, sizeof(rel)) || host_walk(h, rel, ret, attr) < 0)
        return -ESTALE;
    if ((*ret)->h.id.hi == id.hi && (*ret)->h.id.lo == id.lo)
        return 0;
    pl_node_unref(&(*ret)->h.node);
    return -ESTALE;
}

/* The same by looking for it in the directory of the handle at `p`. */
static int in_parent(struct host *h, struct host_mount *m, const uint8_t *p, size_t len,
                     struct pl_id id, struct host_node **ret, struct pl_attr *attr)
{
    if (len < 2 || len != 2u + p[1])
        return -ESTALE;
    int fd = host_open_handle(m, p[0], p + 2, p[1], O_PATH | O_DIRECTORY);
    if (fd < 0)
        return -ESTALE;
    struct statx stx;
    struct host_node *dir;
    struct pl_attr dir_attr;
    int r = host_statx(fd, &stx);
    if (r == 0)
        r = by_path(h, fd, host_id(&stx), &dir, &dir_attr);
    if (r == 0) {
        char name[PL_NAME_MAX + 1];
        int c = host_search(fd, id, name);
        r = c < 0 ? c : host_adopt(h, dir, name, c, true, false, ret, attr);
        pl_node_unref(&dir->h.node);
    }
    close(fd);
    return r;
}

static int find_handle(struct host *h, const uint8_t *key, size_t len, bool own,
                       struct host_node **ret, struct pl_attr *attr)
{
    struct statx stx;
    if (len < F_HEAD + 2 || len < (size_t)F_HEAD + 2 + key[F_HEAD + 1])
        return -EINVAL;
    cred_reset();
    struct host_mount *in = find_mount(h, get(key + 1, 8));
    if (!in)
        return -ESTALE;
    const uint8_t *hd = key + F_HEAD;
    size_t used = F_HEAD + 2u + hd[1];
    int fd = host_open_handle(in, hd[0], hd + 2, hd[1], O_PATH);
    int r = fd < 0 ? -ESTALE : host_statx(fd, &stx);
    if (r == 0) {
        struct host_node *n = host_known(h, fd, &stx);
        if (n) {
            host_attr(n, &stx, attr);
            *ret = n;
        } else if (own) {
            r = host_adopt(h, NULL, NULL, fd, true, true, ret, attr);
            fd = -1;
        } else {
            r = by_path(h, fd, host_id(&stx), ret, attr);
            if (r < 0 && !S_ISDIR(stx.stx_mode))
                r = in_parent(h, in, key + used, len - used, host_id(&stx), ret, attr);
        }
    }
    if (fd >= 0)
        close(fd);
    host_mount_unref(h, in);
    return r;
}

/* ---- by names ---- */

static int key_of_names(struct host *h, struct host_node *n, uint8_t key[PL_KEY_MAX])
{
    char rel[PATH_MAX];
    int fd = host_fd(h, n);
    if (fd < 0)
        return fd;
    bool ok = host_beneath(h, fd, rel, sizeof(rel));
    host_fd_done(h, n);
    if (!ok)
        return -EOPNOTSUPP;
    key[0] = 'N';
    put(key + 1, n->h.id.hi, 8);
    put(key + 9, n->h.id.lo, 8);
    put(key + 17, btime_hash(n->btime), 4);
    size_t len = N_HEAD;
    for (const char *p = rel; *p; len += 2) {
        size_t c = strcspn(p, "/");
        if (len + 2 > PL_KEY_MAX)
            return -EOPNOTSUPP; /* too deep for a key */
        put(key + len, name_hash(p, c), 2);
        p += c + (p[c] == '/');
    }
    return (int)len;
}

static bool is_it(const struct host_node *n, const uint8_t *key)
{
    return n->h.id.lo == get(key + 9, 8) && btime_hash(n->btime) == (uint32_t)get(key + 17, 4);
}

/* Below `dir` along the hashes from `at` on. At most 22 deep. */
static int search_names(struct host *h, struct host_node *dir, const uint8_t *key, size_t at,
                        size_t len, struct host_node **ret, struct pl_attr *attr)
{
    int path = host_fd(h, dir);
    if (path < 0)
        return path;
    cred_reset();
    int fd = open(host_proc(path).path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    host_fd_done(h, dir);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return -ESTALE;
    }
    struct dirent *e;
    int r = -ESTALE;
    while (r < 0 && (e = readdir(d))) {
        struct host_node *n;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            name_hash(e->d_name, strlen(e->d_name)) != get(key + at, 2) ||
            child(h, dir, e->d_name, &n, attr) < 0)
            continue;
        if (at + 2 == len && is_it(n, key)) {
            *ret = n;
            r = 0;
            break;
        }
        if (at + 2 < len && S_ISDIR(n->h.node.fmt))
            r = search_names(h, n, key, at + 2, len, ret, attr);
        pl_node_unref(&n->h.node);
    }
    closedir(d);
    return r;
}

static int find_names(struct host *h, const uint8_t *key, size_t len, struct host_node **ret,
                      struct pl_attr *attr)
{
    if (len < N_HEAD || (len - N_HEAD) % 2)
        return -EINVAL;
    struct pl_id id = {get(key + 1, 8), get(key + 9, 8)};
    struct host_node *n = (struct host_node *)pl_nodes_get(h->nodes, id);
    if (!n && len == N_HEAD) {
        n = h->root;
        pl_node_ref(&n->h.node);
    }
    if (n && is_it(n, key)) {
        int r = host_getattr(&h->tree, NULL, &n->h.node, NULL, attr);
        if (r == 0) {
            *ret = n;
            return 0;
        }
        /* It is known and cannot be reached by what we know of its name: the key may do. */
    }
    if (n)
        pl_node_unref(&n->h.node);
    return len == N_HEAD ? -ESTALE : search_names(h, h->root, key, N_HEAD, len, ret, attr);
}

/* ---- the caller's way ---- */

/* Does `rel` lead to the node, past `from`, and may the caller walk it from there on? */
static bool leads(struct host *h, struct pl_call *call, const char *rel, struct host_node *from,
                  const struct host_node *want)
{
    struct host_node *at = h->root, *next;
    struct pl_attr attr;
    pl_node_ref(&at->h.node);
    bool past = at == from;
    int r = 0;
    while (r == 0 && *rel) {
        char name[PL_NAME_MAX + 1];
        size_t n = strcspn(rel, "/");
        if (n == 0 || n > PL_NAME_MAX || !S_ISDIR(at->h.node.fmt)) {
            r = -ESTALE;
            break;
        }
        memcpy(name, rel, n);
        name[n] = '\0';
        rel += n + (rel[n] == '/');
        struct pl_node *node = NULL;
        r = past ? pl_lookup(&h->tree, call, &at->h.node, name, &node, &attr)
                 : child(h, at, name, &next, &attr);
        if (r == 0) {
            pl_node_unref(&at->h.node);
            at = node ? node_of(node) : next;
            past |= at == from;
        }
    }
    bool found = r == 0 && past && at == want;
    pl_node_unref(&at->h.node);
    return found;
}

/* The way to what `fd` has open, or through the parent that is known: a file that was opened by its
 * handle may have no path of its own. */
static bool way_to(struct host *h, struct host_node *n, bool by_parent, char rel[PATH_MAX])
{
    struct host_node *at = by_parent ? host_parent(h, n) : n;
    char name[PL_NAME_MAX + 1];
    int fd = at ? host_fd(h, at) : -ESTALE;
    bool found = fd >= 0 && host_beneath(h, fd, rel, PATH_MAX);
    if (found && by_parent) {
        size_t len = strlen(rel);
        int child = host_search(fd, n->h.id, name);
        found = child >= 0 && len + strlen(name) + 2 <= PATH_MAX;
        if (found)
            sprintf(rel + len, "%s%s", len ? "/" : "", name);
        if (child >= 0)
            close(child);
    }
    if (fd >= 0)
        host_fd_done(h, at);
    if (by_parent && at)
        pl_node_unref(&at->h.node);
    return found;
}

/* Could the caller walk to the node from where he is? */
static bool within_reach(struct host *h, struct pl_call *call, struct host_node *n)
{
    struct host_node *from = call->beneath ? node_of(call->beneath) : h->root;
    char rel[PATH_MAX];
    if (n == from)
        return true;
    cred_reset();
    if (way_to(h, n, false, rel) && leads(h, call, rel, from, n))
        return true;
    cred_reset();
    return !S_ISDIR(n->h.node.fmt) && way_to(h, n, true, rel) && leads(h, call, rel, from, n);
}

/* ---- the ops ---- */

int host_key(HOST_T, struct pl_node *node, uint8_t key[PL_KEY_MAX])
{
    struct host *h = host_of(tree);
    int len = key_of_handle(h, node_of(node), key);
    return len ? len : key_of_names(h, node_of(node), key);
}

int host_find(HOST_T, const uint8_t *key, size_t len, struct pl_node **ret, struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *n = NULL;
    int r = key[0] == 'F'   ? find_handle(h, key, len, call->own, &n, attr)
            : key[0] == 'N' ? find_names(h, key, len, &n, attr)
                            : -EINVAL;
    if (r == 0 && call->own) {
        host_claim_over(h, n);
    } else if (r == 0 && !within_reach(h, call, n)) {
        pl_node_unref(&n->h.node);
        r = -ESTALE;
    }
    if (r == 0)
        *ret = &n->h.node;
    host_end();
    return r;
}
