/* SPDX-License-Identifier: MIT */
/*
 * Bytes of a file that the server lends us, open, over a unix socket (Tlend): read and written
 * without it, at the price of a local file. It is asked for when a file is used for the second
 * time, or for much, and kept until the close; all but reading and writing goes on as ever, through
 * the server. What it refuses, and what fails, goes by messages.
 *
 * The server decides what it lends. What we see to: a set-user-ID file that a caller of ours writes
 * must lose that bit if it would at the server, where the caller acts; the kernel spares root's
 * writes, if it still has CAP_FSETID, which our server of a mount gives up. Appending goes through
 * the server, which remembers it. And a descriptor is used only while the tree is at the server
 * that lent it: the next one may be another.
 */
#include "base/cred.h"
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <unistd.h>

enum { MUCH = 65536, REFUSALS = 8 };

/* Is it what we have open? */
static bool fits(int fd, const struct pl_file *file)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) == (int)(file->flags & O_ACCMODE) &&
           fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* One thread asks; the others go on by messages. The first time the descriptor may be lost: who
 * reads the connection then may have begun before any was to come. */
static int ask(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f)
{
    struct p9_answer a = {.lent = -1};
    int fd = P9S_NOT_LENT, none = P9S_NOT_ASKED, r = 0;
    if (!atomic_compare_exchange_strong(&f->lent, &none, P9S_NOT_LENT))
        return -1;
    if (atomic_fetch_add(&t->lent, 1) >= LIMIT_LENT) {
        atomic_fetch_sub(&t->lent, 1);
        return -1;
    }
    f->lent_by = p9s_generation(t);
    for (int i = 0; i < 2 && r == 0 && a.lent < 0; i++) {
        struct p9_msg m = {.type = P9_Tlend, .fid = f->fid};
        r = p9s_ask(t, call, &m, &a);
        p9_answer_free(&a);
    }
    if (r == 0 && a.lent >= 0 && fits(a.lent, &f->file)) {
        atomic_store(&t->refused, 0);
        atomic_store(&f->lent, a.lent);
        return a.lent;
    }
    if (r == 0 && a.lent >= 0)
        close(a.lent);
    else if (r == -EINTR || r == -ETIMEDOUT)
        fd = P9S_NOT_ASKED;
    else if (r == -EOPNOTSUPP || (r < 0 && atomic_fetch_add(&t->refused, 1) + 1 >= REFUSALS))
        atomic_store(&t->borrows, false);
    atomic_fetch_sub(&t->lent, 1);
    atomic_store(&f->lent, fd);
    return -1;
}

/* The descriptor to use for `n` bytes, or -1. */
static int lent(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, size_t n)
{
    int fd = atomic_load(&f->lent);
    if (fd >= 0)
        return f->lent_by == p9s_generation(t) ? fd : -1;
    if (fd == P9S_NOT_LENT || !atomic_load(&t->borrows) || f->file.stream || f->file.direct)
        return -1;
    return n >= MUCH || atomic_exchange(&f->used, true) ? ask(t, call, f) : -1;
}

ssize_t p9s_lent_read(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, void *buf,
                      size_t n, uint64_t off)
{
    int fd = lent(t, call, f, n);
    if (fd < 0)
        return P9S_NOT_LENT;
    ssize_t r = pread(fd, buf, n, (off_t)off);
    return r < 0 ? -errno : r;
}

ssize_t p9s_lent_write(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                       const void *buf, size_t n, uint64_t off)
{
    bool as_we = t->main.uid != 0 || (call->cred.uid == 0 && cred_effective(CAP_FSETID));
    int fd = as_we && !(f->file.flags & O_APPEND) ? lent(t, call, f, n) : -1;
    if (fd < 0)
        return P9S_NOT_LENT;
    ssize_t r = p9s_settle(t, call, (struct p9s_node *)f->file.node); /* what is on its way first */
    if (r == 0 && (r = pwrite(fd, buf, n, (off_t)off)) < 0)
        r = -errno;
    return r;
}

void p9s_lent_close(struct p9s_tree *t, struct p9s_file *f)
{
    int fd = atomic_load(&f->lent);
    if (fd < 0)
        return;
    close(fd);
    atomic_fetch_sub(&t->lent, 1);
}
