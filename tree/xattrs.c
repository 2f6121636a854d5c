/* SPDX-License-Identifier: MIT */
/* Extended attributes of one node, for sources that keep their own: a list, as they are few. */
#include <errno.h>
#include <plenum/tree.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

struct pl_xattr {
    struct pl_xattr *next;
    size_t size;
    char *value; /* after the name, in the same block */
    char name[];
};

static struct pl_xattr **find(struct pl_xattr **at, const char *name)
{
    while (*at && strcmp((*at)->name, name))
        at = &(*at)->next;
    return at;
}

static size_t weight(const struct pl_xattr *x)
{
    return strlen(x->name) + 1 + x->size;
}

ssize_t pl_xattrs_get(struct pl_xattrs *tab, const char *name, void *buf, size_t size)
{
    struct pl_xattr *x = *find(&tab->head, name);
    if (!x)
        return -ENODATA;
    if (size && size < x->size)
        return -ERANGE;
    if (size && x->size)
        memcpy(buf, x->value, x->size);
    return (ssize_t)x->size;
}

int pl_xattrs_remove(struct pl_xattrs *tab, const char *name)
{
    struct pl_xattr **at = find(&tab->head, name), *x = *at;
    if (!x)
        return -ENODATA;
    *at = x->next;
    tab->bytes -= weight(x);
    free(x);
    return 0;
}

int pl_xattrs_set(struct pl_xattrs *tab, const char *name, const void *buf, size_t size, int flags)
{
    struct pl_xattr *was = *find(&tab->head, name);
    size_t len = strlen(name) + 1, bytes = tab->bytes + len - (was ? weight(was) : 0);
    if (was && flags & XATTR_CREATE)
        return -EEXIST;
    if (!was && flags & XATTR_REPLACE)
        return -ENODATA;
    if (size > PL_XATTR_MAX)
        return -E2BIG;
    if (bytes + size > 2 * PL_XATTR_MAX)
        return -ENOSPC;
    struct pl_xattr *x = malloc(sizeof(*x) + len + size);
    if (!x)
        return -ENOMEM;
    memcpy(x->name, name, len);
    x->value = x->name + len;
    x->size = size;
    if (size)
        memcpy(x->value, buf, size);
    if (was)
        pl_xattrs_remove(tab, name);
    x->next = tab->head;
    tab->head = x;
    tab->bytes += weight(x);
    return 0;
}

ssize_t pl_xattrs_list(struct pl_xattrs *tab, bool trusted, char *buf, size_t size)
{
    size_t n = 0;
    for (struct pl_xattr *x = tab->head; x; x = x->next) {
        size_t len = strlen(x->name) + 1;
        if (!trusted && !strncmp(x->name, "trusted.", 8))
            continue;
        if (size && size - n < len)
            return -ERANGE;
        if (size)
            memcpy(buf + n, x->name, len);
        n += len;
    }
    return (ssize_t)n;
}

void pl_xattrs_done(struct pl_xattrs *tab)
{
    while (tab->head)
        pl_xattrs_remove(tab, tab->head->name);
}
