/* SPDX-License-Identifier: MIT */
/*
 * A lane is a thread with a ring and one registered entry: it sleeps in io_uring_enter until the
 * kernel has put a request in the entry's memory, runs it, and commits the reply, which asks for
 * the next. The kernel has a queue for each possible processor and blocks what comes for one that
 * has no entry, so each gets a lane at once. A lane whose op is about to wait sees to it that
 * another is there for its queue; lanes are never taken back, since an entry cannot be.
 *
 * The layout of an entry is the kernel's: headers apart from the payload. They are put together
 * right before the payload, where the decoder and the handlers find a request as the device gives
 * it. `lock` guards the list of lanes, who works on what, and the counts.
 */
#include "doors/fuse_uring.h"
#include "base/thread.h"
#include <errno.h>
#include <liburing.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE      4096
#define SMALL     4608 /* as over the device: what is smaller leaves the reply's buffer free */
#define SPARE     4
#define LANES_MAX 256 /* of a queue; then SETLKW is refused and streams do not wait */

enum { CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };

/* What the kernel's <linux/fuse.h> has since 7.42. */
struct cmd {
    uint64_t flags, commit_id;
    uint16_t qid;
    uint8_t pad[6];
};

struct entry {
    char in_out[128]; /* struct fuse_in_header, and of the reply fuse_out_header */
    char op_in[128];  /* the first argument */
    struct {
        uint64_t flags, commit_id;
        uint32_t payload_sz, pad;
        uint64_t reserved;
    } ring;
};
_Static_assert(sizeof(struct entry) == 288, "struct fuse_uring_req_header");

struct queue {
    uint16_t id;
    unsigned lanes, waiting;
};

struct lane {
    struct fuse_req req; /* first */
    struct fuse_uring *u;
    struct queue *q;
    struct lane *next;
    pthread_t thread;
    struct io_uring ring;
    struct entry *entry;
    char *buf; /* a page for the headers, then the payload */
    struct iovec iov[2];
    size_t reply;    /* bytes of payload, once it is replied */
    uint64_t unique; /* guarded by lock, as are the following */
    unsigned cancelling;
    bool waiting;
    char small[SMALL];
};

struct fuse_uring {
    struct fuse_sess *s;
    int fd;
    size_t bufsize;
    pthread_mutex_t lock;
    pthread_cond_t cancelled;
    bool over;
    struct lane *lanes;
    unsigned nqueues;
    struct queue *queue;
};

int fuse_uring_check(struct pl_err *err)
{
    FILE *f = fopen("/sys/module/fuse/parameters/enable_uring", "re");
    int c = f ? getc(f) : EOF;
    if (f)
        fclose(f);
    if (c == 'Y')
        return 0;
    return pl_fail(err, -EOPNOTSUPP, "-o uring: %s",
                   c == EOF ? "this kernel has no FUSE over io_uring (Linux 6.14 or newer)"
                            : "switched off in the kernel (as root: echo Y > "
                              "/sys/module/fuse/parameters/enable_uring)");
}

/* "0-1" or "0,2-7": one more than the largest number; the kernel has a queue for each. */
static unsigned possible_cpus(void)
{
    char text[256] = "";
    FILE *f = fopen("/sys/devices/system/cpu/possible", "re");
    if (f) {
        if (!fgets(text, sizeof(text), f))
            text[0] = 0;
        fclose(f);
    }
    char *last = text + strcspn(text, "\n");
    *last = 0;
    while (last > text && last[-1] >= '0' && last[-1] <= '9')
        last--;
    return (unsigned)strtoul(last, NULL, 10) + 1;
}

/* ---- the ring -------------------------------------------------------------------------------- */

/* One command is in flight at a time, and there is room for more. */
static void prepare(struct lane *l, unsigned op, uint64_t commit_id)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
    struct cmd cmd = {.commit_id = commit_id, .qid = l->q->id};
    if (!sqe)
        abort();
    memset(sqe, 0, 2 * sizeof(*sqe)); /* IORING_SETUP_SQE128 */
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = l->u->fd;
    sqe->cmd_op = op;
    if (op == CMD_REGISTER) {
        sqe->addr = (uint64_t)(uintptr_t)l->iov;
        sqe->len = 2;
    }
    memcpy((char *)sqe + 48, &cmd, sizeof(cmd));
}

/* Sends what is prepared and waits for the next request: 0, or a negative errno: it is over. */
static int fetch(struct lane *l)
{
    struct io_uring_cqe *cqe;
    int r;
    do
        r = io_uring_submit_and_wait(&l->ring, 1);
    while (r == -EINTR || r == -EAGAIN);
    if (r < 0)
        return r;
    while ((r = io_uring_wait_cqe(&l->ring, &cqe)) == -EINTR)
        ;
    if (r < 0)
        return r;
    r = cqe->res;
    io_uring_cqe_seen(&l->ring, cqe);
    return r;
}

static int reply(struct fuse_req *r, const struct iovec *iov, int n)
{
    struct lane *l = (struct lane *)r;
    char *payload = l->buf + PAGE;
    size_t at = 0;
    for (int i = 1; i < n; i++)
        at += iov[i].iov_len;
    if (at > l->u->bufsize)
        return -EINVAL;
    l->reply = at;
    /* From the back, since a later piece may lie in the payload where an earlier one belongs. */
    for (int i = n - 1; i > 0; i--) {
        at -= iov[i].iov_len;
        memmove(payload + at, iov[i].iov_base, iov[i].iov_len);
    }
    struct fuse_out_header h;
    memcpy(&h, iov[0].iov_base, sizeof(h));
    h.unique = r->m.h.unique;
    memset(l->entry->in_out, 0, sizeof(l->entry->in_out));
    memcpy(l->entry->in_out, &h, sizeof(h));
    return 0;
}

/* Puts the request together: fuse_msg_decode's result. */
static int decode(struct lane *l)
{
    struct fuse_req *r = &l->req;
    const struct entry *e = l->entry;
    struct fuse_in_header h;
    memcpy(&h, e->in_out, sizeof(h));
    size_t payload = e->ring.payload_sz, arg = 0;
    if (payload > l->u->bufsize)
        return -EINVAL;
    if (h.len > sizeof(h) + payload)
        arg = h.len - sizeof(h) - payload;
    if (arg > sizeof(e->op_in))
        return -EINVAL;
    size_t n = sizeof(h) + arg + payload;
    char *bytes = l->buf + PAGE - arg - sizeof(h);
    memcpy(bytes, &h, sizeof(h));
    memcpy(bytes + sizeof(h), e->op_in, arg);
    r->buf_used = n > SMALL;
    if (!r->buf_used)
        bytes = memcpy(l->small, bytes, n);
    return fuse_msg_decode(bytes, n, l->u->s->flags & FUSE_SETXATTR_EXT, &r->m);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static void *run(void *arg);

static void free_lane(struct lane *l)
{
    if (l->buf)
        munmap(l->buf, PAGE + l->u->bufsize);
    free(l->entry);
    if (l->ring.ring_fd > 0)
        io_uring_queue_exit(&l->ring);
    free(l);
}

/* A new lane for the queue; called with the lock. 0 or a negative errno. */
static int add_lane(struct fuse_uring *u, struct queue *q)
{
    struct lane *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->u = u;
    l->q = q;
    l->ring.ring_fd = -1;
    l->entry = calloc(1, sizeof(*l->entry));
    l->buf = mmap(NULL, PAGE + u->bufsize, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (l->buf == MAP_FAILED)
        l->buf = NULL;
    int r = l->entry && l->buf ? 0 : -ENOMEM;
    if (r == 0)
        r = io_uring_queue_init(4, &l->ring, IORING_SETUP_SQE128);
    if (r == 0) {
        l->iov[0] = (struct iovec){l->entry, sizeof(*l->entry)};
        l->iov[1] = (struct iovec){l->buf + PAGE, u->bufsize};
        r = thread_start(&l->thread, FUSE_STACK, run, l);
    }
    if (r < 0) {
        free_lane(l);
        return r;
    }
    l->next = u->lanes;
    u->lanes = l;
    q->lanes++;
    return 0;
}

/* The op says that it is about to wait: its queue must have another lane. */
static void blocks(struct pl_call *call)
{
    struct lane *l = (struct lane *)((char *)call - offsetof(struct fuse_req, call));
    pthread_mutex_lock(&l->u->lock);
    if (!l->waiting) {
        l->waiting = true;
        l->q->waiting++;
        if (l->q->waiting + SPARE > l->q->lanes && l->q->lanes < LANES_MAX && !l->u->over)
            add_lane(l->u, l->q); /* if not, those that come wait for one that is through */
    }
    pthread_mutex_unlock(&l->u->lock);
}

/* Called with the lock, which it lets go of meanwhile. */
static void cancel(struct lane *l)
{
    struct fuse_uring *u = l->u;
    l->cancelling++;
    pthread_mutex_unlock(&u->lock);
    pl_call_cancel(&l->req.call);
    pthread_mutex_lock(&u->lock);
    if (--l->cancelling == 0)
        pthread_cond_broadcast(&u->cancelled);
}

static void serve(struct lane *l)
{
    struct fuse_uring *u = l->u;
    struct fuse_req *r = &l->req;
    uint64_t commit_id = l->entry->ring.commit_id;
    int decoded = decode(l);
    r->s = u->s;
    r->buf = l->buf + PAGE;
    r->bufsize = u->bufsize;
    r->send = reply;
    pl_call_init(&r->call, r->m.h.uid, r->m.h.gid);
    r->call.pid = (pid_t)r->m.h.pid;
    r->call.blocks = blocks;
    pthread_mutex_lock(&u->lock);
    r->crowded = l->q->waiting + 1 >= LANES_MAX;
    l->unique = r->m.h.unique;
    if (u->over)
        cancel(l);
    pthread_mutex_unlock(&u->lock);

    l->reply = 0;
    fuse_handle(r, decoded);

    pthread_mutex_lock(&u->lock);
    l->unique = 0;
    while (l->cancelling)
        pthread_cond_wait(&u->cancelled, &u->lock);
    if (l->waiting)
        l->q->waiting--;
    l->waiting = false;
    pthread_mutex_unlock(&u->lock);
    pl_call_done(&r->call);
    l->entry->ring.payload_sz = (uint32_t)l->reply;
    prepare(l, CMD_COMMIT_AND_FETCH, commit_id);
}

static void *run(void *arg)
{
    struct lane *l = arg;
    prepare(l, CMD_REGISTER, 0);
    while (fetch(l) == 0)
        serve(l);
    return NULL;
}

/* ---- from outside ---------------------------------------------------------------------------- */

struct fuse_uring *fuse_uring_start(struct fuse_sess *s, int fd, size_t bufsize)
{
    struct fuse_uring *u = calloc(1, sizeof(*u));
    unsigned n = possible_cpus();
    struct queue *q = u ? calloc(n, sizeof(*q)) : NULL;
    if (!q) {
        free(u);
        errno = ENOMEM;
        return NULL;
    }
    *u = (struct fuse_uring){.s = s, .fd = fd, .bufsize = bufsize, .nqueues = n, .queue = q};
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->cancelled, NULL);
    int r = 0;
    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < n && r == 0; i++) {
        q[i].id = (uint16_t)i;
        while (r == 0 && q[i].lanes < SPARE)
            r = add_lane(u, &q[i]);
    }
    pthread_mutex_unlock(&u->lock);
    if (r == 0)
        return u;
    fuse_uring_end(u);
    errno = -r;
    return NULL;
}

bool fuse_uring_cancel(struct fuse_uring *u, uint64_t unique)
{
    pthread_mutex_lock(&u->lock);
    struct lane *l = u->lanes;
    while (l && (!unique || l->unique != unique))
        l = l->next;
    if (l)
        cancel(l);
    pthread_mutex_unlock(&u->lock);
    return l;
}

void fuse_uring_end(struct fuse_uring *u)
{
    if (!u)
        return;
    pthread_mutex_lock(&u->lock);
    u->over = true;
    for (struct lane *l = u->lanes; l; l = l->next)
        if (l->unique)
            cancel(l);
    pthread_mutex_unlock(&u->lock);
    while (u->lanes) {
        struct lane *l = u->lanes;
        pthread_join(l->thread, NULL);
        u->lanes = l->next;
        free_lane(l);
    }
    pthread_cond_destroy(&u->cancelled);
    pthread_mutex_destroy(&u->lock);
    free(u->queue);
    free(u);
}
