/* SPDX-License-Identifier: MIT */
/*
 * Advisory locks. The kernel keeps them, so that they hold against all processes of the machine.
 *
 * POSIX locks belong to owners that the door names, not to this process: each owner with locks on a
 * node has a descriptor of its own there, and its locks are OFD locks on it. What an owner holds is
 * also noted (`held`, without types), so that the descriptor goes when nothing is left. flock locks
 * are on the open file's own descriptor.
 *
 * A successor finds the locks where they are: each owner's descriptor is recorded before anything
 * is locked through it, and the kernel tells what is (/proc/self/fdinfo).
 *
 * To wait is to try again: at once when a lock of ours is dropped, else after growing pauses.
 * `locks.mutex` guards owners and the files' lists of them; no system call is made under it.
 */
#include "base/cred.h"
#include "base/futex.h"
#include "sources/host.h"

#include <errno.h>
#include <plenum/keep.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct held {
    uint64_t start, end;
};

struct host_owner {
    struct host_owner *next; /* of the node's */
    uint64_t owner;
    uint32_t pid, record; /* record: pl_keep's */
    int fd;
    int file; /* descriptor of the open file by which it came (resumed: in the predecessor) */
    bool writes, reads; /* what fd was opened for */
    bool blind;         /* no memory to note what is held: kept until flush */
    bool dead;          /* out of the list; the last user closes it */
    unsigned users;     /* ops under way with fd */
    struct held *held;  /* disjoint */
    size_t nheld;
};

/* ---- what an owner holds ---- */

static void not_held(struct host_owner *o, uint64_t start, uint64_t end)
{
    for (size_t i = o->nheld; i-- > 0;) {
        struct held *x = &o->held[i];
        if (x->end < start || x->start > end)
            continue;
        if (x->start < start && x->end > end) {
            struct held *more = realloc(o->held, (o->nheld + 1) * sizeof(*more));
            if (!more) {
                o->blind = true;
                return;
            }
            o->held = more;
            o->held[o->nheld++] = (struct held){end + 1, o->held[i].end};
            o->held[i].end = start - 1;
        } else if (x->start < start) {
            x->end = start - 1;
        } else if (x->end > end) {
            x->start = end + 1;
        } else {
            *x = o->held[--o->nheld];
        }
    }
}

static void is_held(struct host_owner *o, uint64_t start, uint64_t end)
{
    not_held(o, start, end);
    struct held *more = realloc(o->held, (o->nheld + 1) * sizeof(*more));
    if (!more) {
        o->blind = true;
        return;
    }
    o->held = more;
    o->held[o->nheld++] = (struct held){start, end};
}

static bool holds(const struct host_owner *o, uint64_t start, uint64_t end)
{
    for (size_t i = 0; i < o->nheld; i++)
        if (o->held[i].start <= end && start <= o->held[i].end)
            return true;
    return false;
}

/* ---- owners ---- */

static struct host_owner *find_owner(struct host_node *n, uint64_t owner)
{
    struct host_owner *o = n->owners;
    while (o && o->owner != owner)
        o = o->next;
    return o;
}

static void unlist(struct host *h, struct host_node *n, struct host_owner *o)
{
    struct host_owner **p = &n->owners;
    while (*p != o)
        p = &(*p)->next;
    *p = o->next;
    o->dead = true;
    atomic_fetch_sub(&h->locks.owners, 1);
}

static void free_owner(struct host *h, struct host_owner *o)
{
    pl_keep_del(h->keep, o->record);
    close(o->fd);
    free(o->held);
    free(o);
}

/* A lock was dropped: those who wait try again. Call with the mutex held. */
static void dropped(struct host *h)
{
    h->locks.gen++;
    pthread_cond_broadcast(&h->locks.cond);
}

/* What is recorded of an owner. */
struct kept_owner {
    uint8_t kind, pad[3];
    uint32_t pid;
    uint64_t owner;
    struct host_kept_id id;
    int32_t file;
};

static void keep_owner(struct host *h, const struct host_node *n, struct host_owner *o)
{
    struct kept_owner k = {.kind = HOST_KEPT_LOCK,
                           .pid = o->pid,
                           .owner = o->owner,
                           .id = host_kept_id(n),
                           .file = o->file};
    o->record = pl_keep_add(h->keep, o->fd, &k, sizeof(k));
}

static struct host_owner *open_owner(struct host *h, struct host_file *f, const struct pl_lock *l)
{
    struct host_owner *o = calloc(1, sizeof(*o));
    if (!o) {
        errno = ENOMEM;
        return NULL;
    }
    int acc = (int)(f->f.flags & O_ACCMODE), add = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    struct host_proc p = host_proc(f->fd);
    cred_reset();
    /* For both, so that what is locked through other open files later fits on it too. */
    o->fd = open(p.path, O_RDWR | add);
    if (o->fd < 0 && errno == EMFILE) {
        host_fds_drop(h);
        o->fd = open(p.path, O_RDWR | add);
    }
    o->writes = o->reads = o->fd >= 0;
    if (o->fd < 0 && errno != EMFILE) {
        o->fd = open(p.path, acc | add);
        o->writes = acc != O_RDONLY;
        o->reads = acc != O_WRONLY;
    }
    if (o->fd < 0) {
        free(o);
        return NULL;
    }
    o->owner = l->owner;
    o->pid = l->pid;
    o->file = f->fd;
    keep_owner(h, node_of(f->f.node), o);
    return o;
}

/* Notes that the owner's locks go when this file is closed. */
static int note_file(struct host_file *f, uint64_t owner)
{
    for (size_t i = 0; i < f->nowners; i++)
        if (f->owners[i] == owner)
            return 0;
    uint64_t *more = realloc(f->owners, (f->nowners + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    f->owners = more;
    f->owners[f->nowners++] = owner;
    return 0;
}

/* The owner's entry with a use of it; *ret NULL when it has none and asks only to unlock. */
static int get_owner(struct host *h, struct host_node *n, struct host_file *f,
                     const struct pl_lock *l, struct host_owner **ret)
{
    struct host_owner *fresh = NULL, *o;
    int r = 0;
    pthread_mutex_lock(&h->locks.mutex);
    o = find_owner(n, l->owner);
    if (!o && l->type != F_UNLCK) {
        pthread_mutex_unlock(&h->locks.mutex);
        fresh = open_owner(h, f, l);
        r = fresh ? 0 : -errno;
        pthread_mutex_lock(&h->locks.mutex);
        o = find_owner(n, l->owner);
        if (!o && fresh) {
            o = fresh;
            fresh = NULL;
            o->next = n->owners;
            n->owners = o;
            atomic_fetch_add(&h->locks.owners, 1);
        }
    }
    if (o) {
        r = l->type == F_UNLCK ? 0 : note_file(f, l->owner);
        o->users++;
    }
    pthread_mutex_unlock(&h->locks.mutex);
    if (fresh)
        free_owner(h, fresh);
    *ret = o;
    return r;
}

static void put_owner(struct host *h, struct host_node *n, struct host_owner *o)
{
    pthread_mutex_lock(&h->locks.mutex);
    bool last = --o->users == 0;
    if (last && !o->dead && o->nheld == 0 && !o->blind)
        unlist(h, n, o);
    last = last && o->dead;
    pthread_mutex_unlock(&h->locks.mutex);
    if (!last)
        return;
    free_owner(h, o);
    pthread_mutex_lock(&h->locks.mutex);
    dropped(h);
    pthread_mutex_unlock(&h->locks.mutex);
}

/* ---- locking ---- */

struct want {
    int fd;
    bool flock;
    short type;
    uint64_t start, end;
};

static struct flock flock_of(const struct want *w)
{
    return (struct flock){
        .l_type = w->type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)w->start,
        .l_len = w->end >= PL_OFF_MAX ? 0 : (off_t)(w->end - w->start + 1),
    };
}

static int attempt(const struct want *w)
{
    int r;
    if (w->flock) {
        int op = w->type == F_RDLCK ? LOCK_SH : w->type == F_WRLCK ? LOCK_EX : LOCK_UN;
        r = flock(w->fd, op | LOCK_NB);
    } else {
        struct flock fl = flock_of(w);
        r = fcntl(w->fd, F_OFD_SETLK, &fl);
    }
    if (r == 0)
        return 0;
    return errno == EACCES || errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

static void wake(void *arg)
{
    struct host *h = arg;
    pthread_mutex_lock(&h->locks.mutex);
    pthread_cond_broadcast(&h->locks.cond);
    pthread_mutex_unlock(&h->locks.mutex);
}

#define PAUSE_MIN 5000000
#define PAUSE_MAX 250000000

/* Waits until a lock of ours is dropped, the pause is over, or the call. */
static int wait_turn(struct host *h, struct pl_call *call, uint64_t gen, int64_t pause)
{
    int64_t until = mono_now() + pause;
    if (call->deadline && call->deadline < until)
        until = call->deadline;
    struct timespec t = {until / 1000000000, until % 1000000000};
    int r;
    pthread_mutex_lock(&h->locks.mutex);
    while (!(r = pl_call_over(call)) && gen == h->locks.gen && mono_now() < until)
        pthread_cond_timedwait(&h->locks.cond, &h->locks.mutex, &t);
    pthread_mutex_unlock(&h->locks.mutex);
    return r;
}

static int attain(struct host *h, struct pl_call *call, const struct want *w, bool wait)
{
    int r = attempt(w);
    if (r != -EAGAIN || !wait)
        return r;
    r = pl_call_block(call, wake, h);
    if (r < 0)
        return r;
    for (int64_t pause = PAUSE_MIN;; pause = pause < PAUSE_MAX / 2 ? pause * 2 : PAUSE_MAX) {
        pthread_mutex_lock(&h->locks.mutex);
        uint64_t gen = h->locks.gen;
        pthread_mutex_unlock(&h->locks.mutex);
        r = attempt(w);
        if (r != -EAGAIN)
            break;
        r = wait_turn(h, call, gen, pause);
        if (r < 0)
            break;
    }
    pl_call_unblock(call);
    return r;
}

static int lock_flock(struct host *h, struct pl_call *call, struct host_file *f,
                      const struct pl_lock *l)
{
    struct want w = {.fd = f->fd, .flock = true, .type = (short)l->type};
    int r = attain(h, call, &w, l->wait);
    if (r == 0 && l->type != F_WRLCK) {
        pthread_mutex_lock(&h->locks.mutex);
        dropped(h);
        pthread_mutex_unlock(&h->locks.mutex);
    }
    return r;
}

int host_lock(HOST_T, struct pl_file *file, const struct pl_lock *l)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(file->node);
    struct host_owner *o;
    if (l->flock)
        return lock_flock(h, call, file_of(file), l);
    int r = get_owner(h, n, file_of(file), l, &o);
    if (!o)
        return r;
    if (r == 0 && ((l->type == F_WRLCK && !o->writes) || (l->type == F_RDLCK && !o->reads)))
        r = -ENOLCK; /* its descriptor allows only the other kind, and more is not permitted */
    if (r == 0) {
        struct want w = {.fd = o->fd, .type = (short)l->type, .start = l->start, .end = l->end};
        r = attain(h, call, &w, l->wait);
    }
    if (r == 0) {
        pthread_mutex_lock(&h->locks.mutex);
        if (l->type == F_UNLCK)
            not_held(o, l->start, l->end);
        else
            is_held(o, l->start, l->end);
        if (l->type != F_UNLCK)
            o->pid = l->pid;
        if (l->type != F_WRLCK)
            dropped(h);
        pthread_mutex_unlock(&h->locks.mutex);
    }
    put_owner(h, n, o);
    return r;
}

/* Whose lock of ours lies in the range, for what the kernel calls an OFD lock: a pid or 0. */
static uint32_t pid_of(struct host *h, struct host_node *n, const struct pl_lock *l)
{
    uint32_t pid = 0;
    pthread_mutex_lock(&h->locks.mutex);
    for (struct host_owner *o = n->owners; o && !pid; o = o->next)
        if (o->owner != l->owner && holds(o, l->start, l->end))
            pid = o->pid;
    pthread_mutex_unlock(&h->locks.mutex);
    return pid;
}

int host_getlock(HOST_T, struct pl_file *file, struct pl_lock *l)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(file->node);
    if (l->flock)
        return -EOPNOTSUPP; /* the kernel does not tell */
    pthread_mutex_lock(&h->locks.mutex);
    struct host_owner *o = find_owner(n, l->owner);
    if (o)
        o->users++;
    uint32_t own = o ? o->pid : 0;
    pthread_mutex_unlock(&h->locks.mutex);
    if (!o && l->type == F_UNLCK)
        return 0;
    bool ask_own = l->type == F_UNLCK;
    /* The file's own descriptor has no such locks: to the kernel it asks as a stranger. */
    struct want w = {.fd = o ? o->fd : file_of(file)->fd,
                     .type = (short)l->type,
                     .start = l->start,
                     .end = l->end};
    struct flock fl = flock_of(&w);
    int r = fcntl(w.fd, F_OFD_GETLK, &fl) < 0 ? -errno : 0;
    if (o)
        put_owner(h, n, o);
    if (r < 0)
        return r;
    l->type = fl.l_type;
    if (fl.l_type == F_UNLCK)
        return 0;
    l->start = (uint64_t)fl.l_start;
    l->end = fl.l_len ? (uint64_t)(fl.l_start + fl.l_len - 1) : PL_OFF_MAX;
    l->pid = fl.l_pid > 0 ? (uint32_t)fl.l_pid : ask_own ? own : pid_of(h, n, l);
    return 0;
}

/* ---- the end of locks ---- */

void host_unlock_owner(struct host *h, struct host_node *n, uint64_t owner)
{
    pthread_mutex_lock(&h->locks.mutex);
    struct host_owner *o = find_owner(n, owner);
    bool last = false;
    int fd = -1;
    if (o) {
        unlist(h, n, o);
        last = o->users == 0;
        fd = o->fd;
        o->users++; /* ours, so that fd stays open */
    }
    pthread_mutex_unlock(&h->locks.mutex);
    if (!o)
        return;
    if (!last) {
        struct want all = {.fd = fd, .type = F_UNLCK, .end = PL_OFF_MAX};
        attempt(&all);
    }
    put_owner(h, n, o);
}

void host_unlock_by(struct host *h, struct host_file *f, uint64_t owner)
{
    /* The close of the file comes later, and perhaps much later: what the owner may have locked by
     * then, through another open file, is none of its business. */
    pthread_mutex_lock(&h->locks.mutex);
    for (size_t i = 0; i < f->nowners; i++)
        if (f->owners[i] == owner)
            f->owners[i--] = f->owners[--f->nowners];
    pthread_mutex_unlock(&h->locks.mutex);
    host_unlock_owner(h, node_of(f->f.node), owner);
}

void host_unlock_file(struct host *h, struct host_node *n, struct host_file *f)
{
    /* The file is being closed: nobody else uses its list any more. */
    for (size_t i = 0; i < f->nowners; i++)
        host_unlock_owner(h, n, f->owners[i]);
    free(f->owners);
    f->owners = NULL;
    f->nowners = 0;
}

void host_unlock_all(struct host *h, struct host_node *n)
{
    while (n->owners)
        host_unlock_owner(h, n, n->owners->owner);
}

/* ---- the locks of a predecessor ---- */

/* What is locked through the descriptor, as the kernel tells: "lock: 1: OFDLCK ADVISORY WRITE -1
 * 08:01:1234 0 EOF". */
static void ask_held(struct host_owner *o)
{
    char path[64], line[256], end[24];
    unsigned long long start;
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", o->fd);
    FILE *f = fopen(path, "re");
    o->blind = !f;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "lock: %*d: OFDLCK %*s %*s %*d %*s %llu %23s", &start, end) == 2)
            is_held(o, start, strcmp(end, "EOF") ? strtoull(end, NULL, 10) : PL_OFF_MAX);
    if (f)
        fclose(f);
}

int host_lock_take(struct host *h, const struct pl_kept *kept)
{
    struct kept_owner k;
    struct host_node *n;
    struct pl_attr attr;
    struct host_owner *o = calloc(1, sizeof(*o));
    int r = o && kept->n == sizeof(k) ? 0 : -EINVAL;
    if (r == 0) {
        memcpy(&k, kept->data, sizeof(k));
        r = host_kept_node(h, kept->fd, k.id, &n, &attr);
    }
    if (r < 0) {
        free(o);
        return r;
    }
    int how = fcntl(kept->fd, F_GETFL) & O_ACCMODE;
    *o = (struct host_owner){.owner = k.owner,
                             .pid = k.pid,
                             .record = kept->record,
                             .fd = kept->fd,
                             .file = k.file,
                             .writes = how != O_RDONLY,
                             .reads = how != O_WRONLY};
    ask_held(o);
    pthread_mutex_lock(&h->locks.mutex);
    bool use = (o->nheld || o->blind) && !find_owner(n, o->owner);
    if (use) {
        o->next = n->owners;
        n->owners = o;
        atomic_fetch_add(&h->locks.owners, 1);
    }
    pthread_mutex_unlock(&h->locks.mutex);
    if (use) {
        host_claim(h, n);
        return 0;
    }
    free(o->held);
    free(o);
    pl_node_unref(&n->h.node);
    return -ESTALE; /* nothing was locked yet */
}

void host_lock_resume(struct host *h, struct host_node *n, struct host_file *f)
{
    pthread_mutex_lock(&h->locks.mutex);
    for (struct host_owner *o = n->owners; o; o = o->next)
        if (o->file == f->fd)
            note_file(f, o->owner);
    pthread_mutex_unlock(&h->locks.mutex);
}
