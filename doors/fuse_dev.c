/* SPDX-License-Identifier: MIT */
/*
 * The transport over /dev/fuse: threads that each read a request, run it and write the reply.
 *
 * A worker is idle (it waits in read), running (it works on a request), waiting (its op has said
 * by pl_call_block that it waits), parked (on a condition, since there are idle ones enough) or
 * gone. idle + running <= opts.threads; those that wait are not counted, up to WAITING_MAX.
 *
 * While requests come one by one, one worker takes them all: a second one in read would be woken
 * half of the time for nothing. When an op is about to wait, another takes its place at once. The
 * rest is the monitor's: as long as requests come it looks every TICK whether one is stuck or
 * others queue up, and if so, keeps `spare` workers in read, until they are not needed any more.
 * When nothing comes, nothing wakes up.
 *
 * A worker in read has a buffer of the largest request's size from a pool; small requests are
 * copied out of it, so that one that waits has given its buffer back, unless its data are in there.
 *
 * A request may come a second time while the first is still in hand: the kernel was told to ask
 * again while we were stopped. Then whoever has it in hand answers under the newer name, and the
 * second is dropped; if its answer is on its way just then, it is waited for. And a worker that has
 * read the first may be so slow that the second is answered before the first is looked at: so it is
 * remembered what came again (`again`).
 *
 * Locks: `lock` guards the counts, lists and buffers, and who works on which request. It is not
 * held while a call is cancelled, for that may take long; the worker waits for it at its end.
 */
#include "base/thread.h"
#include "doors/fuse_again.h"
#include "doors/fuse_door.h"
#include "doors/fuse_uring.h"
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WAITING_MAX 1024 /* beyond, SETLKW is refused and streams do not wait */
#define PARKED_MAX  4
#define SPARE       2       /* workers in read beside the first, when there is concurrency */
#define TICK        2000000 /* ns; how long an op that does not announce it holds up others */
#define REPLY_SMALL 512     /* replies up to this are sent from one piece of memory */
#define PAGE        4096
#define WRITE_HEAD  (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
/* Every request without bulk data fits: SYMLINK's header, name and target are 40 + 256 + 4096. */
#define SMALL 4608
#define SECTOR                                                                                     \
    512 /* data of a WRITE begins at a multiple of it, for files opened with O_DIRECT              \
         */

struct dev;

struct worker {
    struct fuse_req req; /* first */
    struct dev *dev;
    struct worker *next_worker; /* of all, for ever */
    struct worker *next_gone;
    pthread_t thread;
    char *buf; /* from the pool; NULL: given back */
    bool waiting;
    bool working;            /* counted in dev.working; its own */
    uint64_t unique;         /* of the request it works on, or 0; guarded by dev.lock */
    unsigned cancelling;     /* threads that use req, which must stay; likewise */
    bool before;             /* it may be about to take what is sent again; likewise */
    _Atomic uint64_t answer; /* the unique under which to answer; 0: it has been taken */
    int sent;                /* what came of the answer; 1: there was none yet */
    struct ledger_slot *slot;
    char small[SMALL + SECTOR];
};

struct dev {
    struct fuse_sess s;
    int fd;
    size_t bufsize;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t unpark, ended, tick, cancelled;
    unsigned threads, idle, running, waiting, parked, unparking, spare;
    atomic_bool over;        /* set under the lock */
    bool swept;              /* all that was sent again has come, or nothing was */
    unsigned before;         /* workers of which that is not known */
    bool asleep;             /* the monitor waits for the next request */
    uint64_t taken, overlap; /* requests so far; of those, taken while others were worked on */
    atomic_uint working;     /* requests taken and not answered; not guarded */
    int error;               /* why it is over, 0: unmounted */
    struct worker *workers, *gone;
    char *buffers; /* free ones, linked by their first bytes */
    unsigned nbuffers;
    struct fuse_uring *uring; /* or NULL */
    struct fuse_again again;
};

/* ---- buffers --------------------------------------------------------------------------------- */

/* A buffer is a page, at whose end the heads of a WRITE are read, and then the data: page-aligned,
 * and at least as large as any reply.
 *
 * Where there is to be a successor all of it is there from the start: the kernel hands a request
 * over by copying it, and if a page is missing and the reader is being killed, the request has
 * failed (EIO) before anybody has had it. */
static char *buffer_get(struct dev *d)
{
    char *buf = d->buffers;
    if (buf) {
        memcpy(&d->buffers, buf, sizeof(char *));
        d->nbuffers--;
        return buf;
    }
    buf = mmap(NULL, PAGE + d->bufsize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buf == MAP_FAILED)
        return NULL;
    /* (MAP_POPULATE does nothing where memory is locked on fault.) */
    for (size_t i = 0; fuse_lasts(&d->s) && i < PAGE + d->bufsize; i += PAGE)
        ((volatile char *)buf)[i] = 0;
    return buf;
}

static void buffer_put(struct dev *d, char *buf)
{
    if (!buf)
        return;
    if (d->nbuffers > SPARE) {
        munmap(buf, PAGE + d->bufsize);
        return;
    }
    memcpy(buf, &d->buffers, sizeof(char *));
    d->buffers = buf;
    d->nbuffers++;
}

/* ---- the wire -------------------------------------------------------------------------------- */

static int send_iov(int fd, const struct iovec *iov, int n)
{
    char small[REPLY_SMALL];
    size_t size = 0;
    for (int i = 0; i < n; i++)
        size += iov[i].iov_len;
    struct iovec one = {small, 0};
    if (n > 1 && size <= sizeof(small)) { /* the device pins the pages of each piece */
        for (int i = 0; i < n; i++) {
            memcpy(small + one.iov_len, iov[i].iov_base, iov[i].iov_len);
            one.iov_len += iov[i].iov_len;
        }
        iov = &one;
        n = 1;
    }
    while ((n == 1 ? write(fd, iov->iov_base, iov->iov_len) : writev(fd, iov, n)) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* No longer counts as working: it is done but for going back to read, or it waits. */
static void worked(struct worker *w)
{
    if (w->working)
        atomic_fetch_sub_explicit(&w->dev->working, 1, memory_order_relaxed);
    w->working = false;
}

static int req_send(struct fuse_req *r, const struct iovec *iov, int n)
{
    struct worker *w = (struct worker *)r;
    struct fuse_out_header *h = iov->iov_base;
    worked(w);
    h->unique = atomic_exchange(&w->answer, 0);
    return w->sent = send_iov(w->dev->fd, iov, n);
}

static int notify(struct fuse_sess *s, const struct iovec *iov, int n)
{
    return send_iov(((struct dev *)s->transport)->fd, iov, n);
}

static int32_t backing_open(struct fuse_sess *s, int fd)
{
    struct fuse_backing_map map = {.fd = fd};
    int id = ioctl(((struct dev *)s->transport)->fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
    return id > 0 ? id : id < 0 ? -errno : -EIO;
}

static void backing_close(struct fuse_sess *s, int32_t id)
{
    uint32_t arg = (uint32_t)id;
    ioctl(((struct dev *)s->transport)->fd, FUSE_DEV_IOC_BACKING_CLOSE, &arg);
}

/* Reads a request: its length; 0: unmounted; -ENOTCONN: aborted; another error. */
static ssize_t receive(struct dev *d, char *buf)
{
    for (;;) {
        ssize_t n = read(d->fd, buf + PAGE - WRITE_HEAD, WRITE_HEAD + d->bufsize);
        if (n >= 0)
            return n;
        switch (errno) {
        case EINTR:
        case ENOENT: /* the request was taken back while it was being read */
            continue;
        case EAGAIN:
            poll(&(struct pollfd){.fd = d->fd, .events = POLLIN}, 1, -1);
            continue;
        case ENODEV:
        case ECONNRESET: /* of a socket in a test, with replies unread */
            return 0;
        case ECONNABORTED:
            return -ENOTCONN;
        default:
            return -errno;
        }
    }
}

/* ---- workers --------------------------------------------------------------------------------- */

static void *work(void *arg);

/* Starts a worker; the caller has counted it as idle. Called with the lock, which it lets go of. */
static void start_and_unlock(struct dev *d)
{
    struct worker *w = d->gone;
    bool used = w;
    if (w)
        d->gone = w->next_gone;
    pthread_mutex_unlock(&d->lock);

    if (w) {
        pthread_join(w->thread, NULL);
    } else if ((w = calloc(1, sizeof(*w)))) {
        w->dev = d;
    }
    int error = ENOMEM;
    if (w) {
        /* Under the lock, so that the list is complete and `thread` set before the worker runs. */
        pthread_mutex_lock(&d->lock);
        error = -thread_start(&w->thread, FUSE_STACK, work, w);
        if (!error && !used) {
            w->next_worker = d->workers;
            d->workers = w;
        }
        pthread_mutex_unlock(&d->lock);
    }
    if (!error)
        return;
    pthread_mutex_lock(&d->lock); /* those there are have to do */
    d->idle--;
    d->threads--;
    if (d->threads == 0)
        pthread_cond_signal(&d->ended);
    if (used) { /* joined already */
        struct worker **p = &d->workers;
        while (*p != w)
            p = &(*p)->next_worker;
        *p = w->next_worker;
    }
    pthread_mutex_unlock(&d->lock);
    free(w);
}

/* If nobody reads any more and somebody may: sees to it. Called with the lock, lets go of it. */
static void replace_and_unlock(struct dev *d)
{
    if (d->over || d->idle > 0 || d->running >= d->s.opts.threads) {
        pthread_mutex_unlock(&d->lock);
        return;
    }
    d->idle++;
    if (d->parked > d->unparking) {
        d->unparking++;
        pthread_cond_signal(&d->unpark);
        pthread_mutex_unlock(&d->lock);
        return;
    }
    d->threads++;
    start_and_unlock(d);
}

/* A request was taken. Called with the lock, lets go of it. */
static void took_and_unlock(struct worker *w)
{
    struct dev *d = w->dev;
    d->running++;
    d->taken++;
    w->working = true;
    if (atomic_fetch_add_explicit(&d->working, 1, memory_order_relaxed) > 0)
        d->overlap++;
    if (d->asleep) {
        d->asleep = false;
        pthread_cond_signal(&d->tick);
    }
    if (d->spare)
        replace_and_unlock(d);
    else
        pthread_mutex_unlock(&d->lock);
}

/* Does a request wait in the kernel for somebody to read it? */
static bool queued(struct dev *d)
{
    struct pollfd p = {.fd = d->fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* Looks at what went on since the last look (*taken, *overlap: what was counted then): does it need
 * more workers in read, or fewer? `streak` counts the looks in a row that found requests queued;
 * one alone means little, since a worker may be on its way back. Called with the lock. */
static void look(struct dev *d, uint64_t *taken, uint64_t *overlap, unsigned *streak)
{
    bool busy = d->idle == 0 && atomic_load_explicit(&d->working, memory_order_relaxed) > 0;
    bool stuck = busy && d->taken == *taken;
    *streak = busy && queued(d) ? *streak + 1 : 0;
    if (stuck || *streak >= 3) {
        d->spare = SPARE;
        replace_and_unlock(d);
        pthread_mutex_lock(&d->lock);
    } else if ((d->overlap - *overlap) * 4 < d->taken - *taken) {
        d->spare = 0;
    }
    *taken = d->taken;
    *overlap = d->overlap;
}

static int wait_for(struct dev *d, long ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ns;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return pthread_cond_timedwait(&d->tick, &d->lock, &t);
}

/* See fuse_bytes_tidy(). Called with the lock, which it lets go of meanwhile. */
static bool tidy(struct dev *d)
{
    pthread_mutex_unlock(&d->lock);
    bool more = fuse_bytes_tidy(&d->s);
    pthread_mutex_lock(&d->lock);
    return more;
}

static void *monitor(void *arg)
{
    struct dev *d = arg;
    uint64_t taken = 0, overlap = 0;
    unsigned streak = 0;
    pthread_mutex_lock(&d->lock);
    while (!d->over) {
        d->asleep = d->taken == taken && (d->idle > 0 || d->running == 0);
        look(d, &taken, &overlap, &streak);
        while (d->asleep && !d->over) {
            bool more = tidy(d);
            if (!d->asleep || d->over)
                break;
            if (more)
                wait_for(d, 1000000000);
            else
                pthread_cond_wait(&d->tick, &d->lock);
        }
        while (!d->over && wait_for(d, TICK) != ETIMEDOUT)
            ;
        tidy(d);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* The op says that it is about to wait. */
static void blocks(struct pl_call *call)
{
    struct worker *w =
        (struct worker *)((char *)call - offsetof(struct fuse_req, call)); /* req is first */
    struct dev *d = w->dev;
    pthread_mutex_lock(&d->lock);
    if (d->waiting >= WAITING_MAX) {
        pthread_mutex_unlock(&d->lock);
        return;
    }
    worked(w);
    if (w->req.slot)
        atomic_store(&w->req.slot->waits, 1);
    w->waiting = true;
    d->running--;
    d->waiting++;
    d->spare = SPARE;
    d->overlap++;
    if (!w->req.buf_used) {
        buffer_put(d, w->buf);
        w->buf = NULL;
    }
    replace_and_unlock(d);
}

/* Cancels what `w` works on. Called with the lock, which it lets go of meanwhile; workers are never
 * freed, so that a walk through their list may go on. */
static void cancel(struct dev *d, struct worker *w)
{
    w->cancelling++;
    pthread_mutex_unlock(&d->lock);
    pl_call_cancel(&w->req.call);
    pthread_mutex_lock(&d->lock);
    if (--w->cancelling == 0)
        pthread_cond_broadcast(&d->cancelled);
}

/* The kernel is gone: nobody waits for an answer any more. */
static void end(struct dev *d, int error)
{
    pthread_mutex_lock(&d->lock);
    if (!d->over) {
        d->over = true;
        d->error = error;
        pthread_cond_broadcast(&d->unpark);
        pthread_cond_signal(&d->tick);
        for (struct worker *w = d->workers; w; w = w->next_worker)
            if (w->unique)
                cancel(d, w);
    }
    pthread_mutex_unlock(&d->lock);
}

/* Who but `self` works on the request of that name, or had it by another. Called with the lock. */
static struct worker *at_work(struct dev *d, uint64_t unique, const struct worker *self)
{
    struct worker *w = d->workers;
    unique &= ~FUSE_UNIQUE_RESEND;
    while (w && (!unique || w == self || (w->unique & ~FUSE_UNIQUE_RESEND) != unique))
        w = w->next_worker;
    return w;
}

/* Somebody else answers the request, or has, which comes again as `unique`. Called with the lock.
 */
static bool is_answered(struct dev *d, const struct worker *self, uint64_t unique)
{
    struct worker *w;
    while ((w = at_work(d, unique, self))) {
        uint64_t name = atomic_load(&w->answer);
        if (name && atomic_compare_exchange_strong(&w->answer, &name, unique)) {
            w->unique = unique;
            return true;
        }
        w->cancelling++;
        while (w->unique)
            pthread_cond_wait(&d->cancelled, &d->lock);
        bool sent = w->sent == 0;
        if (--w->cancelling == 0)
            pthread_cond_broadcast(&d->cancelled);
        if (sent)
            return true;
        /* It was not; of all who have waited for it one goes on, and the others find that one. */
    }
    return again_is_sent(&d->again, unique);
}

/* A request that comes again: true if somebody has it in hand already and will answer it, or has.
 */
static bool duplicate(struct worker *self)
{
    struct dev *d = self->dev;
    uint64_t unique = self->req.m.h.unique;
    pthread_mutex_lock(&d->lock);
    bool dropped = is_answered(d, self, unique);
    again_taken(&d->again, unique);
    if (dropped) /* whom an INTERRUPT means is the other */
        self->unique = 0;
    pthread_mutex_unlock(&d->lock);
    return dropped;
}

/* Is it behind all that is sent again? FORGET and INTERRUPT have queues of their own. */
static bool comes_in_turn(const struct fuse_in_header *h)
{
    return !(h->unique & FUSE_UNIQUE_RESEND) && h->opcode != FUSE_FORGET &&
           h->opcode != FUSE_BATCH_FORGET && h->opcode != FUSE_INTERRUPT;
}

/* The first request that is not sent again was taken: the kernel has handed out all that is, but
 * another worker may have read one and not yet looked for its slot. Called with the lock. */
static void sweep_from(struct dev *d, const struct worker *self)
{
    d->swept = true;
    for (struct worker *w = d->workers; w; w = w->next_worker) {
        w->before = w != self && w->buf; /* else it does not read */
        d->before += w->before;
    }
    if (d->before == 0)
        fuse_journal_sweep(&d->s);
}

/* Cancels the request meant. If it is not there, it has been answered, or a worker has just read
 * it and not yet entered it: the kernel knows which, and on EAGAIN asks again if need be. */
static void interrupt(struct dev *d, struct fuse_req *r)
{
    pthread_mutex_lock(&d->lock);
    struct worker *w = at_work(d, r->m.a.interrupt.unique, NULL);
    if (w)
        cancel(d, w);
    pthread_mutex_unlock(&d->lock);
    if (w || (d->uring && fuse_uring_cancel(d->uring, r->m.a.interrupt.unique)))
        return;
    sched_yield();
    struct fuse_out_header h = {sizeof(h), -EAGAIN, r->m.h.unique};
    struct iovec iov = {&h, sizeof(h)};
    r->send(r, &iov, 1);
}

/* Decodes the request of `n` bytes that is in the worker's buffer: fuse_msg_decode's result. */
static int decode(struct worker *w, size_t n)
{
    struct fuse_req *r = &w->req;
    struct dev *d = w->dev;
    const char *bytes = w->buf + PAGE - WRITE_HEAD;
    r->buf_used = n > SMALL;
    if (!r->buf_used) {
        char *data = w->small + WRITE_HEAD;
        data += -(uintptr_t)data & (SECTOR - 1);
        bytes = memcpy(data - WRITE_HEAD, bytes, n);
    }
    r->s = &d->s;
    r->buf = w->buf + PAGE;
    r->bufsize = d->bufsize;
    r->send = req_send;
    int decoded = fuse_msg_decode(bytes, n, d->s.flags & FUSE_SETXATTR_EXT, &r->m);
    pl_call_init(&r->call, r->m.h.uid, r->m.h.gid);
    r->call.pid = (pid_t)r->m.h.pid;
    r->call.blocks = blocks;
    return decoded;
}

/* The request is done: true if this worker should read again; called with the lock. */
static bool go_on(struct worker *w)
{
    struct dev *d = w->dev;
    if (w->unique & FUSE_UNIQUE_RESEND)
        again_done(&d->again, w->unique, w->sent == 0);
    w->unique = 0;
    if (w->cancelling)
        pthread_cond_broadcast(&d->cancelled);
    if (w->before) {
        w->before = false;
        if (--d->before == 0)
            fuse_journal_sweep(&d->s);
    }
    while (w->cancelling)
        pthread_cond_wait(&d->cancelled, &d->lock);
    pl_call_done(&w->req.call);
    worked(w);
    if (w->waiting)
        d->waiting--;
    else
        d->running--;
    w->waiting = false;
    while (!d->over) {
        if (d->idle < 1 + d->spare && d->idle + d->running < d->s.opts.threads) {
            if (w->buf || (w->buf = buffer_get(d))) {
                d->idle++;
                return true;
            }
        }
        if (d->parked >= PARKED_MAX)
            return false;
        buffer_put(d, w->buf);
        w->buf = NULL;
        d->parked++;
        while (!d->over && !d->unparking)
            pthread_cond_wait(&d->unpark, &d->lock);
        d->parked--;
        if (!d->unparking)
            break;
        d->unparking--; /* whoever woke us has counted us as idle */
        w->buf = buffer_get(d);
        if (w->buf)
            return true;
        d->idle--;
    }
    return false;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct dev *d = w->dev;
    pthread_mutex_lock(&d->lock);
    w->buf = buffer_get(d);
    w->slot = fuse_journal_slot(&d->s);
    bool on = w->buf && !d->over;
    if (!on)
        d->idle--;
    while (on) {
        pthread_mutex_unlock(&d->lock);
        ssize_t n = receive(d, w->buf);
        if (n <= 0)
            end(d, (int)n);
        int decoded = n > 0 ? decode(w, (size_t)n) : 0;
        pthread_mutex_lock(&d->lock);
        d->idle--;
        if (n <= 0)
            break;
        w->req.crowded = d->waiting >= WAITING_MAX;
        uint64_t unique = w->req.m.h.unique;
        bool old = again_is_old(&d->again, unique);
        w->unique = old ? 0 : unique;
        w->sent = 1;
        atomic_store_explicit(&w->answer, unique, memory_order_relaxed);
        if (!d->swept && decoded == 0 && comes_in_turn(&w->req.m.h))
            sweep_from(d, w);
        if (d->over)
            cancel(d, w);
        took_and_unlock(w);
        w->req.slot = w->slot;
        if (decoded == 0 && w->req.m.h.opcode == FUSE_INTERRUPT)
            interrupt(d, &w->req);
        else if (!old && (!(unique & FUSE_UNIQUE_RESEND) || !duplicate(w)))
            fuse_handle(&w->req, decoded);
        fuse_journal_end(&w->req, &w->slot);
        pthread_mutex_lock(&d->lock);
        on = go_on(w);
    }
    fuse_journal_slot_done(&d->s, w->slot);
    w->slot = NULL;
    buffer_put(d, w->buf);
    w->buf = NULL;
    w->next_gone = d->gone;
    d->gone = w;
    if (--d->threads == 0)
        pthread_cond_signal(&d->ended);
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* ---- from INIT to the end -------------------------------------------------------------------- */

/* Answers INIT: 1 agreed, 0 unmounted before that, or a negative errno and sentence. */
static int greet(struct dev *d, struct pl_err *err)
{
    char *buf = buffer_get(d);
    struct fuse_msg m;
    ssize_t n;
    int agreed = 0;
    if (!buf)
        return pl_fail(err, -ENOMEM, "out of memory");
    while (!agreed && (n = receive(d, buf)) > 0) {
        int decoded = fuse_msg_decode(buf + PAGE - WRITE_HEAD, (size_t)n, false, &m);
        struct fuse_init_out out = {0};
        bool init = decoded == 0 && m.h.opcode == FUSE_INIT;
        agreed = init ? fuse_sess_agree(&d->s, &m.a.init, &out) : 0;
        struct fuse_out_header h = {sizeof(h), init ? 0 : -EIO, m.h.unique};
        struct iovec iov[2] = {{&h, sizeof(h)}, {&out, sizeof(out)}};
        if (init && agreed >= 0)
            h.len += (uint32_t)sizeof(out);
        else if (init)
            h.error = agreed;
        int sent = send_iov(d->fd, iov, h.error ? 1 : 2);
        if (sent < 0 && agreed > 0) /* unmounted before it was answered: that is no error */
            agreed = sent == -ENODEV || sent == -ENOENT ? 0 : sent;
        if (sent < 0 && agreed == 0)
            break;
    }
    buffer_put(d, buf);
    if (agreed > 0)
        atomic_store(&d->s.ledger->head->agreed, 1);
    if (agreed == -EPROTO)
        return pl_fail(err, agreed,
                       "the kernel speaks FUSE %u.%u, older than %u.%u (use Linux 5.4 or newer)",
                       m.a.init.major, m.a.init.minor, FUSE_MAJOR, FUSE_MINOR_MIN);
    if (agreed == 0 && n < 0)
        agreed = (int)n;
    if (agreed < 0)
        return pl_fail(err, agreed, "/dev/fuse: %s", strerror(-agreed));
    return agreed;
}

/* The same where a predecessor has agreed with the kernel already. */
static int carry_on(struct dev *d, struct pl_err *err)
{
    d->swept = false;
    int r = fuse_carry_on(&d->s);
    if (r == -ENODEV) /* unmounted meanwhile */
        return 0;
    if (r < 0)
        return pl_fail(err, r,
                       "the kernel cannot ask again for what the dead server left unanswered: %s "
                       "(this takes Linux 6.9 or newer)",
                       strerror(-r));
    return 1;
}

static int begin(struct dev *d, struct pl_err *err)
{
    return atomic_load(&d->s.ledger->head->agreed) ? carry_on(d, err) : greet(d, err);
}

static int run(struct dev *d)
{
    pthread_t watch;
    int error = thread_start(&watch, FUSE_STACK, monitor, d);
    if (error < 0)
        return error;
    pthread_mutex_lock(&d->lock);
    d->idle = d->threads = 1;
    start_and_unlock(d);
    pthread_mutex_lock(&d->lock);
    while (d->threads > 0)
        pthread_cond_wait(&d->ended, &d->lock);
    if (!d->over)
        error = EAGAIN; /* not one worker could be started */
    d->over = true;
    pthread_cond_signal(&d->tick);
    pthread_mutex_unlock(&d->lock);
    pthread_join(watch, NULL);
    while (d->workers) {
        struct worker *w = d->workers;
        d->workers = w->next_worker;
        pthread_join(w->thread, NULL);
        free(w);
    }
    return error ? -error : d->error;
}

int fuse_serve(int fd, struct pl_tree *tree, const char *aname, const struct fuse_opts *opts,
               struct stats *stats, void (*up)(void *), void *up_arg, struct pl_err *err)
{
    struct dev *d = calloc(1, sizeof(*d));
    if (!d)
        return pl_fail(err, -ENOMEM, "out of memory");
    int r = opts && opts->uring ? fuse_uring_check(err) : 0;
    if (r == 0)
        r = fuse_sess_init(&d->s, tree, aname, opts, stats, err);
    if (r < 0) {
        free(d);
        return r;
    }
    d->fd = fd;
    d->s.notify = notify;
    d->s.backing_open = backing_open;
    d->s.backing_close = backing_close;
    d->s.transport = d;
    d->swept = true;
    d->bufsize = d->s.opts.max_write > 128 << 10 ? d->s.opts.max_write : 128 << 10;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->unpark, NULL);
    pthread_cond_init(&d->ended, NULL);
    pthread_cond_init(&d->cancelled, NULL);
    pl_cond_init(&d->tick);

    r = begin(d, err);
    if (r > 0 && (d->s.flags & FUSE_OVER_IO_URING) &&
        !(d->uring = fuse_uring_start(&d->s, fd, d->bufsize)))
        r = pl_fail(err, -errno, "-o uring: no ring: %s", strerror(errno));
    if (r > 0) {
        fuse_told_start(&d->s);
        if (up)
            up(up_arg);
        r = run(d);
        if (r == -ENOTCONN)
            pl_fail(err, r, "the kernel's connection was aborted");
        else if (r < 0)
            pl_fail(err, r, "/dev/fuse: %s", strerror(-r));
        if (d->s.opts.gone)
            d->s.opts.gone(d->s.opts.gone_arg);
    }
    fuse_uring_end(d->uring);
    fuse_told_stop(&d->s);
    fuse_sess_done(&d->s);
    while (d->buffers)
        munmap(buffer_get(d), PAGE + d->bufsize);
    pthread_cond_destroy(&d->tick);
    pthread_cond_destroy(&d->cancelled);
    pthread_cond_destroy(&d->ended);
    pthread_cond_destroy(&d->unpark);
    pthread_mutex_destroy(&d->lock);
    free(d);
    return r;
}
