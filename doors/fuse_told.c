/* SPDX-License-Identifier: MIT */
/*
 * The kernel is told, not asked: what others change behind the tree's back is passed on to it, so
 * that it may believe for long what it was told.
 *
 * Notifications are sent from the thread in which the tree tells us, and from one of our own, never
 * from one that serves requests: the kernel takes the lock of the directory in question for
 * INVAL_ENTRY, and waits for pages that are being read or written for INVAL_INODE, and whoever
 * holds those waits for an answer of ours. As long as requests are served meanwhile nobody waits in
 * a circle. (Of attributes alone it takes no lock that is held during a request: those may be
 * invalidated anywhere.) What comes through the mount itself the kernel knows, but for a few
 * things: see fuse_told_attr().
 *
 * A reply may be on its way while a change is told. Of three cases
 *  - the op has begun and the node or name is not in our table yet: the reply says that it is not
 *    to be believed (fuse_valid());
 *  - an inode that the kernel knows: it drops attributes older than the notification itself;
 *  - an inode that the kernel is about to make: it says ENOENT, and is told again, until it knows
 *    the inode or has forgotten it. An entry that is being validated, which happens without the
 *    directory's lock, is told twice for the same reason.
 *
 * Entries are expired, not dropped: whoever drops one takes away what is mounted on it, even if the
 * name still stands for the same. A kernel that cannot expire them (before 6.2) is told attributes
 * only, and asks for names as ever.
 */
#include "base/futex.h"
#include "base/log.h"
#include "base/own.h"
#include "base/thread.h"
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#define MS          1000000ll
#define DOUBT       (10000 * MS) /* after changes were lost, timeouts are short for so long */
#define AGAIN_FIRST (5 * MS)     /* then twice as long each time */
#define AGAIN_TRIES 8            /* of inodes: for about a second */
#define AGAIN_MAX   1024

/* To be told once more. */
struct again {
    int64_t due;
    uint64_t nodeid;
    unsigned tries;
    char *name; /* an entry of the directory nodeid; NULL: the inode */
};

struct fuse_told {
    struct pl_watcher watcher; /* first */
    struct fuse_sess *s;
    _Atomic uint64_t seq;  /* changes so far */
    _Atomic int64_t doubt; /* when the doubt is over; 0: there is none */
    char how[64];          /* as the tree says. Guarded by lock, as all below */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    bool over;
    bool anew; /* a predecessor watched what the kernel believes: its watch is over */
    struct again again[AGAIN_MAX];
    size_t nagain;
};

uint64_t fuse_told_seq(struct fuse_sess *s)
{
    return s->told ? atomic_load(&s->told->seq) : 0;
}

bool fuse_told_in_doubt(struct fuse_sess *s)
{
    return s->told && atomic_load_explicit(&s->told->doubt, memory_order_acquire);
}

/* ---- notifications --------------------------------------------------------------------------- */

/* A kernel that has not gone through the root has nothing of it that it could believe. */
static int inval_inode(struct fuse_sess *s, uint64_t nodeid, bool data)
{
    if (nodeid == FUSE_ROOT_ID && !fuse_told_is_entered(s))
        return 0;
    struct fuse_notify_inval_inode_out out = {nodeid, data ? 0 : -1, 0};
    struct fuse_out_header h = {sizeof(h) + sizeof(out), FUSE_NOTIFY_INVAL_INODE, 0};
    struct iovec iov[2] = {{&h, sizeof(h)}, {&out, sizeof(out)}};
    stats_add(&s->stats->invalidated, 1);
    return s->notify(s, iov, 2);
}

static int inval_entry(struct fuse_sess *s, uint64_t dir, const char *name)
{
    uint32_t n = (uint32_t)strlen(name);
    struct fuse_notify_inval_entry_out out = {dir, n, FUSE_EXPIRE_ONLY};
    if (!(s->flags & FUSE_HAS_EXPIRE_ONLY))
        return 0;
    struct fuse_out_header h = {(uint32_t)(sizeof(h) + sizeof(out)) + n + 1,
                                FUSE_NOTIFY_INVAL_ENTRY, 0};
    struct iovec iov[3] = {{&h, sizeof(h)}, {&out, sizeof(out)}, {(void *)name, n + 1}};
    stats_add(&s->stats->invalidated, 1);
    return s->notify(s, iov, 3);
}

bool fuse_told_is_entered(const struct fuse_sess *s)
{
    const struct ledger_node *root = &s->ledger->node[FUSE_ROOT_ID];
    return atomic_load_explicit(&root->flags, memory_order_relaxed) & LEDGER_ENTERED;
}

void fuse_told_entered(struct fuse_req *r)
{
    struct ledger_node *root = &r->s->ledger->node[FUSE_ROOT_ID];
    switch (r->m.h.opcode) {
    case FUSE_LOOKUP:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        if (!fuse_told_is_entered(r->s))
            atomic_fetch_or_explicit(&root->flags, LEDGER_ENTERED, memory_order_relaxed);
    }
}

void fuse_told_attr(struct fuse_sess *s, uint64_t nodeid)
{
    inval_inode(s, nodeid, false);
}

void fuse_told_dir(struct fuse_sess *s, uint64_t nodeid, const struct pl_attr *attr)
{
    if (s->told)
        fuse_nodes_set_watched(s->nodes, nodeid, attr->told);
    /* Where the kernel asks before it lists (OPENDIR), it hears so from the answer. */
    if (s->flags & FUSE_NO_OPENDIR_SUPPORT && fuse_nodes_stale(s->nodes, nodeid))
        inval_inode(s, nodeid, true);
}

/* ---- once more ------------------------------------------------------------------------------- */

static void tell_again(struct fuse_told *t, uint64_t nodeid, const char *name)
{
    char *copy = name ? strdup(name) : NULL;
    pthread_mutex_lock(&t->lock);
    bool room = t->nagain < AGAIN_MAX && (copy || !name);
    if (room) {
        t->again[t->nagain++] = (struct again){mono_now() + AGAIN_FIRST, nodeid, 0, copy};
        pthread_cond_signal(&t->cond);
    }
    pthread_mutex_unlock(&t->lock);
    if (room)
        return;
    free(copy);
    if (!name) /* so many at once: the kernel may believe what is not so */
        fuse_told_doubt(t->s, "more changes at once than can be told");
}

/* Takes out what is due, if anything is: true. Else *next is when to look again, 0: not before
 * something comes. Called with the lock. */
static bool take_due(struct fuse_told *t, struct again *ret, int64_t *next)
{
    int64_t now = mono_now();
    *next = 0;
    for (size_t i = 0; i < t->nagain; i++) {
        if (t->again[i].due <= now) {
            *ret = t->again[i];
            t->again[i] = t->again[--t->nagain];
            return true;
        }
        if (!*next || t->again[i].due < *next)
            *next = t->again[i].due;
    }
    return false;
}

static void once_more(struct fuse_told *t, struct again *a)
{
    struct fuse_sess *s = t->s;
    if (a->name) {
        inval_entry(s, a->nodeid, a->name);
        free(a->name);
        return;
    }
    struct pl_node *node = fuse_nodes_get(s->nodes, a->nodeid);
    if (node && inval_inode(s, a->nodeid, false) == -ENOENT && ++a->tries < AGAIN_TRIES) {
        a->due = mono_now() + (AGAIN_FIRST << a->tries);
        pthread_mutex_lock(&t->lock);
        if (t->nagain < AGAIN_MAX)
            t->again[t->nagain++] = *a;
        pthread_mutex_unlock(&t->lock);
    }
    pl_node_unref(node);
}

/* What status shows. Called with the lock. */
static void show(struct fuse_told *t)
{
    char *told = t->s->stats->told;
    bool doubt = atomic_load(&t->doubt);
    snprintf(told, sizeof(t->s->stats->told), "%.55s%s", t->how,
             doubt ? " (lost track: it asks)" : "");
}

/* ---- what the tree says ---------------------------------------------------------------------- */

static void changed(struct pl_watcher *w, struct pl_node *node, uint64_t ino, uint32_t what)
{
    struct fuse_told *t = (struct fuse_told *)w;
    atomic_fetch_add(&t->seq, 1); /* before it is looked up: see fuse_valid() */
    uint64_t id = fuse_nodes_id(t->s->nodes, node, ino);
    if (id && inval_inode(t->s, id, what & PL_CHANGED_DATA) == -ENOENT)
        tell_again(t, id, NULL);
}

static void renamed(struct pl_watcher *w, struct pl_node *dir, uint64_t ino, const char *name)
{
    struct fuse_told *t = (struct fuse_told *)w;
    atomic_fetch_add(&t->seq, 1);
    uint64_t id = fuse_nodes_id(t->s->nodes, dir, ino);
    if (id && inval_entry(t->s, id, name) == 0)
        tell_again(t, id, name);
}

/* ---- all is in doubt ------------------------------------------------------------------------- */

static void send_epoch(struct fuse_sess *s)
{
    struct fuse_out_header h = {sizeof(h), FUSE_NOTIFY_INC_EPOCH, 0};
    struct iovec iov = {&h, sizeof(h)};
    stats_add(&s->stats->invalidated, 1);
    s->notify(s, &iov, 1);
}

/* Is anything mounted within a mount of this process? A new epoch would take it away. (So it would
 * from other mount namespaces, which we do not see.) */
static bool has_inner_mounts(void)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0, nours = 0;
    int ours[64];
    bool found = !f;
    while (!found && getline(&line, &size, f) > 0) {
        int id, parent;
        unsigned major, minor;
        if (sscanf(line, "%d %d %u:%u", &id, &parent, &major, &minor) != 4)
            continue;
        for (size_t i = 0; i < nours; i++)
            found |= ours[i] == parent; /* parents come first */
        if (own_mount_has(makedev(major, minor))) {
            found |= nours == 64;
            ours[nours++ % 64] = id;
        }
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

struct expiring {
    struct fuse_sess *s;
    uint64_t dir;
};

static int expire(void *arg, const struct pl_dirent *ent)
{
    struct expiring *e = arg;
    if (strcmp(ent->name, ".") && strcmp(ent->name, ".."))
        inval_entry(e->s, e->dir, ent->name);
    return 0;
}

/* Expires the names that are in a directory now, by which the kernel may know something else. */
static void expire_names(struct fuse_sess *s, uint64_t nodeid, struct pl_node *dir)
{
    struct expiring e = {s, nodeid};
    struct pl_file *file;
    struct pl_call call;
    pl_call_init_self(&call);
    if (pl_open(s->tree, &call, dir, O_RDONLY | O_DIRECTORY, &file) == 0) {
        pl_readdir(s->tree, &call, file, 0, expire, &e);
        pl_close(s->tree, &call, file);
    }
    pl_call_done(&call);
}

/* The kernel lets go of names of known nodes that nobody uses: of those that are no more, too. */
static void prune(struct fuse_sess *s, const uint64_t *ids, uint32_t n)
{
    struct fuse_notify_prune_out out = {.count = n};
    struct fuse_out_header h = {(uint32_t)(sizeof(h) + sizeof(out) + n * sizeof(*ids)),
                                FUSE_NOTIFY_PRUNE, 0};
    struct iovec iov[3] = {{&h, sizeof(h)}, {&out, sizeof(out)}, {(void *)ids, n * sizeof(*ids)}};
    if (n)
        s->notify(s, iov, 3);
}

/* Without an epoch. What remains is the name of something in use that is not there any more: that
 * lasts as long as it was told to. */
static void doubt_names(struct fuse_sess *s)
{
    uint64_t ids[256], last = 0;
    for (uint64_t id = 0; (id = fuse_nodes_next(s->nodes, id));) {
        struct pl_node *node = fuse_nodes_get(s->nodes, id);
        if (node && node->fmt == S_IFDIR)
            expire_names(s, id, node);
        pl_node_unref(node);
        last = id;
    }
    /* Children mostly have the greater nodeids, and hold their directories. */
    uint32_t n = 0;
    for (uint64_t id = last; s->minor >= FUSE_MINOR_PRUNE && id > FUSE_ROOT_ID; id--) {
        ids[n++] = id;
        if (n == 256) {
            prune(s, ids, n);
            n = 0;
        }
    }
    prune(s, ids, n);
}

/* Names and attributes, and (`data`) what is in the page cache. */
static void doubt_all(struct fuse_sess *s, bool data)
{
    if (s->minor >= FUSE_MINOR_EPOCH && !s->opts.elsewhere && !has_inner_mounts())
        send_epoch(s);
    else
        doubt_names(s);
    for (uint64_t id = 0; (id = fuse_nodes_next(s->nodes, id));)
        inval_inode(s, id, data);
}

void fuse_told_doubt(struct fuse_sess *s, const char *sentence)
{
    struct fuse_told *t = s->told;
    if (!t)
        return;
    atomic_fetch_add(&t->seq, 1);
    pthread_mutex_lock(&t->lock);
    bool new = !atomic_exchange(&t->doubt, mono_now() + DOUBT);
    show(t);
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
    if (new)
        log_say(false, "changes went by unseen (%s): for a while the kernel asks more often",
                sentence);
    doubt_all(s, true);
}

/* Nobody has watched since the predecessor died: the kernel asks for all that it knows once more.
 */
static void ask_anew(struct fuse_sess *s)
{
    doubt_all(s, false);
}

void fuse_anew_ask(struct fuse_anew *anew)
{
    pthread_mutex_lock(&anew->lock);
    if (anew->sess) {
        if (anew->sess->told)
            atomic_fetch_add(&anew->sess->told->seq, 1);
        doubt_all(anew->sess, true);
    }
    pthread_mutex_unlock(&anew->lock);
}

static void set_anew(struct fuse_sess *s, bool on)
{
    struct fuse_anew *anew = s->opts.anew;
    if (!anew)
        return;
    pthread_mutex_lock(&anew->lock);
    anew->sess = on ? s : NULL;
    pthread_mutex_unlock(&anew->lock);
}

/* Sleeps unless something is to be told again or a doubt ends. */
static void *run(void *arg)
{
    struct fuse_told *t = arg;
    struct again a;
    int64_t next;
    if (t->anew)
        ask_anew(t->s);
    pthread_mutex_lock(&t->lock);
    while (!t->over) {
        if (take_due(t, &a, &next)) {
            pthread_mutex_unlock(&t->lock);
            once_more(t, &a);
            pthread_mutex_lock(&t->lock);
            continue;
        }
        int64_t doubt = atomic_load(&t->doubt);
        if (doubt && doubt <= mono_now()) {
            atomic_store(&t->doubt, 0);
            show(t);
            continue;
        }
        if (doubt && (!next || doubt < next))
            next = doubt;
        struct timespec ts = {next / (1000 * MS), next % (1000 * MS)};
        if (next)
            pthread_cond_timedwait(&t->cond, &t->lock, &ts);
        else
            pthread_cond_wait(&t->cond, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void lost(struct pl_watcher *w, const char *sentence)
{
    fuse_told_doubt(((struct fuse_told *)w)->s, sentence);
}

static void how(struct pl_watcher *w, const char *words)
{
    struct fuse_told *t = (struct fuse_told *)w;
    pthread_mutex_lock(&t->lock);
    snprintf(t->how, sizeof(t->how), "%s", words);
    show(t);
    pthread_mutex_unlock(&t->lock);
}

/* ---- on and off ------------------------------------------------------------------------------ */

/* The tree is not watched: says why, and how often the kernel asks. */
static void show_asked(struct fuse_sess *s, const char *why)
{
    struct fuse_valid v = s->asked[FUSE_OF_ATTR];
    double seconds = (double)v.sec + v.nsec / 1e9;
    snprintf(s->stats->told, sizeof(s->stats->told), "asked again after %.3g s: %.44s", seconds,
             why);
}

static void free_told(struct fuse_told *t)
{
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void fuse_told_start(struct fuse_sess *s)
{
    set_anew(s, true);
    struct fuse_told *t = s->opts.watch == FUSE_OFF ? NULL : calloc(1, sizeof(*t));
    if (!t) {
        show_asked(s, s->opts.watch == FUSE_OFF ? "-o nowatch" : "out of memory");
        return;
    }
    t->watcher = (struct pl_watcher){changed, renamed, lost, how};
    t->s = s;
    t->anew = atomic_load(&s->ledger->head->epoch) > 0;
    pthread_mutex_init(&t->lock, NULL);
    pl_cond_init(&t->cond);
    s->told = t; /* from its first word on it may be told things */
    char words[64];
    int r = pl_watch(s->tree, &t->watcher, words);
    if (r == 0 && (r = thread_start(&t->thread, 0, run, t)) < 0) {
        pl_watch(s->tree, NULL, words);
        snprintf(words, sizeof(words), "no thread for it: %s", strerror(-r));
    }
    if (r == 0) {
        how(&t->watcher, words);
        return;
    }
    s->told = NULL;
    free_told(t);
    show_asked(s, words);
}

void fuse_told_stop(struct fuse_sess *s)
{
    struct fuse_told *t = s->told;
    char words[64];
    set_anew(s, false);
    if (!t)
        return;
    pl_watch(s->tree, NULL, words);
    pthread_mutex_lock(&t->lock);
    t->over = true;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    for (size_t i = 0; i < t->nagain; i++)
        free(t->again[i].name);
    s->told = NULL;
    free_told(t);
}
