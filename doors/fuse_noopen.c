/* SPDX-License-Identifier: MIT */
/*
 * Opens that never leave the kernel. Once OPEN and FLUSH, or OPENDIR, were declined, open and close
 * of what the kernel knows cost nothing, and no RELEASE comes either: requests name the node alone,
 * and are answered through an open file of it that is found here, or opened.
 *
 * The kernel has judged who may open what (it is only agreed where it can), so it is opened as
 * root. The last files read are kept for LINGER after their use, at most FILES_MAX of them: longer,
 * they would be in the way of others on this machine (space not given back). What is open to be
 * written is closed before the reply: nobody says when its last user has closed it, and whoever has
 * made a program runs it next, beside the mount perhaps (ETXTBSY). CREATE still comes, since only
 * it makes a file whatever its mode; its file is not kept either.
 *
 * `lock` guards all of struct fuse_noopen. Files are opened and closed without it.
 */
#include "doors/fuse_noopen.h"
#include "base/thread.h"
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>

#define FILES_MAX 256
#define LINGER    100000000ll /* ns */
#define BUCKETS   256

/* What of open(2)'s flags tells one open file of a node from another. */
#define TELLING (O_APPEND | O_SYNC)
/* Any open file of the node will do, or one for reading. */
#define ANY (-1)

struct cached {
    struct pl_file *file;
    struct cached *next;          /* in the bucket; of those that are to be closed */
    struct cached *newer, *older; /* while nobody uses it */
    int64_t used;                 /* when it was put back */
    unsigned users;
};

struct fuse_noopen {
    struct pl_tree *tree;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct cached *bucket[BUCKETS];
    struct cached *newest, *oldest; /* of those that nobody uses */
    unsigned count;
    bool over, running;
    pthread_t reaper;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* ---- the cache; all with the lock ------------------------------------------------------------ */

static struct cached **bucket_of(struct fuse_noopen *no, const struct pl_node *node)
{
    uint64_t h = (uint64_t)(uintptr_t)node * 0x9e3779b97f4a7c15u;
    return &no->bucket[h >> 32 & (BUCKETS - 1)];
}

static bool serves(const struct pl_file *file, int flags)
{
    int have = file->flags & O_ACCMODE, want = flags & O_ACCMODE;
    if (flags == ANY)
        return true;
    return (have == want || have == O_RDWR) && !((file->flags ^ (uint32_t)flags) & TELLING);
}

static void idle_add(struct fuse_noopen *no, struct cached *c)
{
    c->used = now_ns();
    c->newer = NULL;
    c->older = no->newest;
    *(no->newest ? &no->newest->newer : &no->oldest) = c;
    no->newest = c;
}

static void idle_del(struct fuse_noopen *no, struct cached *c)
{
    *(c->newer ? &c->newer->older : &no->newest) = c->older;
    *(c->older ? &c->older->newer : &no->oldest) = c->newer;
}

/* The use of a file that serves, or NULL. */
static struct cached *use(struct fuse_noopen *no, const struct pl_node *node, int flags)
{
    struct cached *c = *bucket_of(no, node);
    while (c && !(c->file->node == node && serves(c->file, flags)))
        c = c->next;
    if (c && c->users++ == 0)
        idle_del(no, c);
    return c;
}

static void enter(struct fuse_noopen *no, struct cached *c)
{
    struct cached **b = bucket_of(no, c->file->node);
    c->next = *b;
    *b = c;
    no->count++;
}

/* Takes out the unused ones that are not newer than `until`, oldest first, and those that are too
 * many: a list to be closed. */
static struct cached *take_out(struct fuse_noopen *no, int64_t until)
{
    struct cached *list = NULL, *c;
    while ((c = no->oldest) && (c->used <= until || no->count > FILES_MAX)) {
        struct cached **p = bucket_of(no, c->file->node);
        while (*p != c)
            p = &(*p)->next;
        *p = c->next;
        idle_del(no, c);
        no->count--;
        c->next = list;
        list = c;
    }
    return list;
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Without the lock. */
static void close_all(struct fuse_noopen *no, struct cached *list)
{
    struct pl_call call;
    if (!list)
        return;
    pl_call_init(&call, 0, 0);
    while (list) {
        struct cached *c = list;
        list = c->next;
        pl_close(no->tree, &call, c->file);
        free(c);
    }
    pl_call_done(&call);
}

/* Sleeps as long as there is nothing to close. */
static void *reap(void *arg)
{
    struct fuse_noopen *no = arg;
    pthread_mutex_lock(&no->lock);
    while (!no->over) {
        if (!no->oldest) {
            pthread_cond_wait(&no->wake, &no->lock);
            continue;
        }
        int64_t at = no->oldest->used + LINGER + 10000000; /* past a tick of the coarse clock */
        struct timespec t = {at / 1000000000, at % 1000000000};
        pthread_cond_timedwait(&no->wake, &no->lock, &t);
        struct cached *list = take_out(no, now_ns() - LINGER);
        pthread_mutex_unlock(&no->lock);
        close_all(no, list);
        pthread_mutex_lock(&no->lock);
    }
    pthread_mutex_unlock(&no->lock);
    return NULL;
}

/* Nobody uses it now: it is closed later. Called with the lock, lets go of it. */
static void rest_and_unlock(struct fuse_noopen *no, struct cached *c)
{
    bool alone = !no->oldest;
    idle_add(no, c);
    struct cached *list = take_out(no, 0);
    if (!no->running) /* if it fails, by the next */
        no->running = thread_start(&no->reaper, FUSE_STACK, reap, no) == 0;
    else if (alone)
        pthread_cond_signal(&no->wake);
    pthread_mutex_unlock(&no->lock);
    close_all(no, list);
}

/* The process has run out of descriptors. */
static void close_idle(struct fuse_noopen *no)
{
    pthread_mutex_lock(&no->lock);
    struct cached *list = take_out(no, INT64_MAX);
    pthread_mutex_unlock(&no->lock);
    close_all(no, list);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* As root, so that who has a file open may go on whatever its mode becomes (a tree of an ordinary
 * user's does what the owner can); a server far away may think less of root than of the caller. */
static int open_node(struct fuse_req *r, struct pl_node *node, int flags, struct pl_file **ret)
{
    struct fuse_noopen *no = r->s->noopen;
    struct pl_call call;
    int error = 0;
    for (int tries = 0; tries < 2; tries++) {
        pl_call_init(&call, 0, 0);
        call.own = true;
        error = pl_open(no->tree, &call, node, flags, ret);
        pl_call_done(&call);
        if (error == -EACCES || error == -EPERM)
            error = pl_open(no->tree, &r->call, node, flags, ret);
        if (error != -EMFILE && error != -ENFILE)
            break;
        close_idle(no);
    }
    return error;
}

/* The use, during this request, of an open file of the node. 0 or a negative errno. */
static int take(struct fuse_req *r, struct pl_node *node, int flags, int i)
{
    struct fuse_noopen *no = r->s->noopen;
    pthread_mutex_lock(&no->lock);
    struct cached *c = use(no, node, flags);
    pthread_mutex_unlock(&no->lock);
    if (!c) {
        if (flags == ANY)
            flags = O_RDONLY;
        if (node->fmt == S_IFDIR)
            flags |= O_DIRECTORY;
        if (!(c = calloc(1, sizeof(*c))))
            return -ENOMEM;
        int error = open_node(r, node, flags, &c->file);
        if (error < 0) {
            free(c);
            return error;
        }
        c->users = 1;
        pthread_mutex_lock(&no->lock);
        enter(no, c);
        pthread_mutex_unlock(&no->lock);
    }
    r->cached[i] = c;
    r->file[i] = c->file;
    return 0;
}

/* The kernel has put the position of an append where it believes the end to be. */
static int flags_of_write(const struct fuse_req *r)
{
    const struct fuse_write_in *in = &r->m.a.write;
    bool here = (in->write_flags & FUSE_WRITE_CACHE) || (r->s->flags & FUSE_WRITEBACK_CACHE);
    return O_WRONLY | (int)(in->flags & O_SYNC) | (here ? 0 : (int)(in->flags & O_APPEND));
}

static int begin_copy(struct fuse_req *r)
{
    struct pl_node *to = fuse_nodes_get(r->s->nodes, r->m.a.copy.nodeid_out);
    if (!to)
        return -ESTALE;
    int error = take(r, r->node, O_RDONLY, 0);
    if (error == 0)
        error = take(r, to, O_WRONLY, 1);
    pl_node_unref(to);
    return error;
}

/* Does the request come with a handle of ours? */
static bool has_handle(const struct fuse_req *r)
{
    bool file =
        r->node->fmt != S_IFDIR || r->m.h.opcode == FUSE_CREATE || r->m.h.opcode == FUSE_TMPFILE;
    return !(r->s->flags & (file ? FUSE_NO_OPEN_SUPPORT : FUSE_NO_OPENDIR_SUPPORT));
}

int fuse_noopen_begin(struct fuse_req *r)
{
    if (!r->node || has_handle(r))
        return 0;
    switch (r->m.h.opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_FLUSH:
    case FUSE_POLL: /* what has state by open file is not in such a tree */
        return FUSE_NEVER;
    case FUSE_RELEASE: /* what was created before the first OPEN was declined */
    case FUSE_RELEASEDIR:
        fuse_reply(r, NULL, 0);
        return 1;
    case FUSE_CREATE:
    case FUSE_TMPFILE: /* the file will serve others too */
        r->m.a.create.flags &= ~(uint32_t)(O_DIRECT | O_NOATIME);
        return 0;
    case FUSE_SETATTR:
        return r->m.a.setattr.valid & FATTR_FH ? take(r, r->node, O_WRONLY, 0) : 0;
    case FUSE_WRITE:
        return take(r, r->node, flags_of_write(r), 0);
    case FUSE_FALLOCATE:
        return take(r, r->node, O_WRONLY, 0);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_LSEEK:
        return take(r, r->node, O_RDONLY, 0);
    case FUSE_IOCTL: /* "is it a terminal?" is not worth an open */
        return _IOC_TYPE(r->m.a.ioctl.cmd) == 'T' ? -ENOTTY : take(r, r->node, O_RDONLY, 0);
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
        return take(r, r->node, ANY, 0);
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
        return begin_copy(r);
    default:
        return 0;
    }
}

static bool writes(const struct cached *c)
{
    return (c->file->flags & O_ACCMODE) != O_RDONLY;
}

/* Nobody uses it now, nor will: called with the lock, lets go of it. */
static void close_and_unlock(struct fuse_noopen *no, struct cached *c)
{
    struct cached **p = bucket_of(no, c->file->node);
    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    no->count--;
    c->next = NULL;
    pthread_mutex_unlock(&no->lock);
    close_all(no, c);
}

void fuse_noopen_wrote(struct fuse_req *r)
{
    if ((r->cached[0] && writes(r->cached[0])) || (r->cached[1] && writes(r->cached[1])))
        fuse_noopen_end(r);
}

void fuse_noopen_end(struct fuse_req *r)
{
    struct fuse_noopen *no = r->s->noopen;
    for (int i = 0; i < 2; i++) {
        struct cached *c = r->cached[i];
        if (!c)
            continue;
        r->cached[i] = NULL;
        r->file[i] = NULL;
        pthread_mutex_lock(&no->lock);
        if (--c->users)
            pthread_mutex_unlock(&no->lock);
        else if (writes(c))
            close_and_unlock(no, c);
        else
            rest_and_unlock(no, c);
    }
}

int fuse_noopen_created(struct fuse_req *r, struct pl_file *file,
                        const struct fuse_entry_out *entry)
{
    /* What was there before may be cached under another name, and has perhaps been truncated. */
    struct fuse_open_out out = {.open_flags = FOPEN_NOFLUSH};
    pl_close(r->s->noopen->tree, &r->call, file);
    if (fuse_reply2(r, entry, sizeof(*entry), &out, sizeof(out)) < 0)
        fuse_nodes_forget(r->s->nodes, entry->nodeid, 1);
    return 0;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

const char *fuse_noopen_refusal(uint32_t tree, const struct fuse_opts *opts)
{
    if (!opts->kernel_checks)
        return "the kernel must check permissions (leave out nodefault_permissions)";
    if (opts->direct_io)
        return "without the kernel's cache there is nothing to gain (leave out direct_io)";
    if (!(tree & PL_TREE_STATELESS))
        return "what this tree reads as depends on each open; mem:, directories that root "
               "serves, and mine() over one, do without";
    return NULL;
}

uint64_t fuse_noopen_wants(uint32_t tree, const struct fuse_opts *opts)
{
    if (opts->opens == FUSE_OFF)
        return FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
    /* The kernel then caches listings in any case. */
    if (opts->opens == FUSE_ON || opts->attr_timeout == 0 || !opts->kernel_checks ||
        !(tree & PL_TREE_STATELESS))
        return 0;
    return FUSE_NO_OPENDIR_SUPPORT;
}

uint64_t fuse_noopen_agrees(uint32_t tree, uint64_t offered, uint64_t wants)
{
    /* Who may open is the kernel's to say, ACLs included. */
    bool acl = !(tree & PL_TREE_POSIX_ACL) || (offered & FUSE_POSIX_ACL);
    return acl && !(wants & ~offered) ? wants : 0;
}

struct fuse_noopen *fuse_noopen_new(struct pl_tree *tree)
{
    struct fuse_noopen *no = calloc(1, sizeof(*no));
    if (!no)
        return NULL;
    no->tree = tree;
    pthread_mutex_init(&no->lock, NULL);
    pl_cond_init(&no->wake);
    return no;
}

void fuse_noopen_free(struct fuse_noopen *no)
{
    if (!no)
        return;
    pthread_mutex_lock(&no->lock);
    no->over = true;
    pthread_cond_signal(&no->wake);
    pthread_mutex_unlock(&no->lock);
    if (no->running)
        pthread_join(no->reaper, NULL);
    close_all(no, take_out(no, INT64_MAX));
    pthread_cond_destroy(&no->wake);
    pthread_mutex_destroy(&no->lock);
    free(no);
}
