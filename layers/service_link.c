/* SPDX-License-Identifier: MIT */
/*
 * Locks: `lock` guards everything but what only the thread touches (the descriptors, `in`). Waiters
 * are on their callers' stacks. `cond` is for all that changes: answers, room, the state.
 */
#include "layers/service_link.h"
#include "base/confine.h"
#include "base/futex.h"
#include "base/text.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define AT_ONCE   (32u << 10) /* so many bytes are not kept waiting for more */
#define VECTORS   64
#define READ_SIZE (64u << 10)
#define HELLO_NS  10000000000ll
#define PARTING_NS                                                                                 \
    2000000000ll /* a server that is away and may be: how long the end waits for it */
#define BACKOFF_LO 50000000ll
#define BACKOFF_HI 5000000000ll

struct record {
    struct record *next;
    uint64_t seq;
    size_t n;
    bool written, waited; /* waited: it goes when it was answered */
    char bytes[];
};

struct waiter {
    struct waiter *next;
    uint64_t seq;
    bool ask, done;
    int result;
};

struct service_link {
    struct service_attrs attrs;
    struct service_dialer dialer;
    char name[SERVICE_NAME];
    char *spec;    /* what it is a layer over */
    char why[256]; /* the server does not serve that; the thread's */
    uint64_t session;
    pthread_t thread;
    int wake, stop; /* eventfds: something to write; the end */
    int over;       /* a timer: the end, whatever is left to say */

    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct record *head, *tail;
    struct record *next; /* the first that is not wholly written */
    size_t bytes;        /* of all records */
    int64_t since;       /* when the first of the unwritten came */
    bool urgent;         /* somebody waits for one of them */
    uint64_t seq, kept;
    uint64_t missed; /* operations that went by untold */
    struct waiter *waiters;
    bool up, keeps, stuck, off, stopping;
    bool parted; /* the connection broke at the end */
    bool tried;  /* dialing has come to something once, good or bad */
    int refusal;
    pid_t pids[SERVICE_PIDS + 1];
    size_t npids;

    size_t written; /* of `next`; the thread's */
    int in_fd, out_fd;
    char *in;
    size_t in_n, in_room;
};

static void nudge(int fd)
{
    if (write(fd, &(uint64_t){1}, 8) < 0)
        return; /* it is full, and so readable */
}

/* ---- records; under the lock ---- */

static void pop_done(struct service_link *l)
{
    bool room = false;
    while (l->head && l->head != l->next && !l->head->waited &&
           (!l->keeps || l->head->seq <= l->kept)) {
        struct record *r = l->head;
        l->head = r->next;
        if (!l->head)
            l->tail = NULL;
        l->bytes -= r->n;
        free(r);
        room = true;
    }
    if (room)
        pthread_cond_broadcast(&l->cond);
}

static struct record *find(struct service_link *l, uint64_t seq)
{
    struct record *r = l->head;
    while (r && r->seq != seq)
        r = r->next;
    return r;
}

/* Puts the message at the end of the queue: its number, or 0 when there is no memory. */
static uint64_t append(struct service_link *l, struct service_msg *m)
{
    size_t n;
    m->seq = l->seq + 1;
    m->kind = SERVICE_EVENT;
    char *text = service_encode(m, &n);
    struct record *r = text ? malloc(sizeof(*r) + n) : NULL;
    if (r) {
        *r = (struct record){.seq = m->seq, .n = n, .waited = m->want != SERVICE_TELL};
        memcpy(r->bytes, text, n);
        l->seq++;
        bool first = !l->next;
        if (l->tail)
            l->tail->next = r;
        else
            l->head = r;
        l->tail = r;
        l->next = l->next ? l->next : r;
        if (first)
            l->since = mono_now();
        bool was = l->bytes < AT_ONCE;
        l->bytes += n;
        l->urgent |= r->waited;
        if (first || r->waited || (was && l->bytes >= AT_ONCE))
            nudge(l->wake);
    } else {
        l->missed++;
    }
    free(text);
    return r ? m->seq : 0;
}

static bool room(const struct service_link *l)
{
    return l->bytes < l->attrs.queue;
}

/* What went by is told before anything else. */
static void tell_missed(struct service_link *l)
{
    if (!l->missed)
        return;
    struct service_msg m = {.op = SERVICE_OP_LOST, .len = l->missed};
    l->missed = 0;
    append(l, &m);
}

/* ---- callers ---- */

static void wake_call(void *arg)
{
    struct service_link *l = arg;
    pthread_mutex_lock(&l->lock);
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

/* Waits for a change, at most until `until` (0: for ever): false, it is past. */
static bool wait(struct service_link *l, struct pl_call *call, int64_t until)
{
    if (call && call->deadline && (!until || call->deadline < until))
        until = call->deadline;
    if (!until) {
        pthread_cond_wait(&l->cond, &l->lock);
        return true;
    }
    struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    pthread_cond_timedwait(&l->cond, &l->lock, &t);
    return mono_now() < until;
}

static int64_t patience(const struct service_link *l)
{
    return l->attrs.lost == SERVICE_LOST_HOLD ? 0 : mono_now() + l->attrs.timeout;
}

bool service_link_off(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    bool off = l->off;
    pthread_mutex_unlock(&l->lock);
    return off;
}

static void switched(struct service_link *l, bool on)
{
    if (l->off == !on)
        return;
    l->off = !on;
    struct service_msg m = {.op = on ? SERVICE_OP_ON : SERVICE_OP_OFF};
    append(l, &m);
    pthread_cond_broadcast(&l->cond); /* who waits need not any more */
}

void service_link_switch(struct service_link *l, bool on)
{
    pthread_mutex_lock(&l->lock);
    switched(l, on);
    pthread_mutex_unlock(&l->lock);
}

bool service_link_self(struct service_link *l, pid_t pid)
{
    bool self = false;
    if (pid <= 0)
        return false;
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->npids && !self; i++)
        self = l->pids[i] == pid || syscall(SYS_tgkill, l->pids[i], pid, 0) == 0 || errno == EPERM;
    pthread_mutex_unlock(&l->lock);
    return self;
}

/* Nothing can be told now, and it is not to be waited for. */
static bool hopeless(const struct service_link *l)
{
    return l->attrs.lost == SERVICE_LOST_ERROR && l->tried && (!l->up || l->stuck);
}

/* Has to wait before it begins. */
static bool blocked(const struct service_link *l)
{
    if (l->off || hopeless(l))
        return false;
    if (!l->up && l->attrs.lost != SERVICE_LOST_IGNORE)
        return true;
    return !room(l) && !(l->attrs.lost == SERVICE_LOST_IGNORE && (!l->up || l->stuck));
}

int service_link_admit(struct service_link *l, struct pl_call *call, bool modifies)
{
    int r = pl_call_over(call);
    if (r < 0)
        return r;
    pthread_mutex_lock(&l->lock);
    if (blocked(l)) {
        pthread_mutex_unlock(&l->lock);
        r = pl_call_block(call, wake_call, l);
        if (r < 0)
            return r;
        pthread_mutex_lock(&l->lock);
        int64_t until = patience(l);
        while (blocked(l) && !(r = pl_call_over(call))) {
            if (!wait(l, call, until) && !pl_call_over(call)) {
                l->stuck = l->tried = true;
                break;
            }
        }
        pthread_mutex_unlock(&l->lock);
        pl_call_unblock(call);
        pthread_mutex_lock(&l->lock);
    }
    if (r == 0 && !l->off)
        r = modifies && l->refusal ? l->refusal : hopeless(l) ? -EIO : 0;
    pthread_mutex_unlock(&l->lock);
    return r;
}

/* What a caller gets when there is no answer to be had. */
static int without(const struct service_link *l)
{
    return l->attrs.lost == SERVICE_LOST_IGNORE ? 0 : -EIO;
}

static void unwait(struct service_link *l, struct waiter *w)
{
    struct waiter **at = &l->waiters;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    struct record *rec = find(l, w->seq);
    if (rec)
        rec->waited = false;
    pop_done(l);
}

static int wait_answer(struct service_link *l, struct pl_call *call, struct waiter *w)
{
    int64_t until = patience(l);
    int r = 0;
    while (!w->done && !(r = pl_call_over(call)))
        if (!wait(l, call, until) && !w->done && !pl_call_over(call)) {
            l->stuck = true;
            r = without(l);
            break;
        }
    if (w->done)
        r = w->result;
    unwait(l, w);
    return r;
}

int service_link_tell(struct service_link *l, struct pl_call *call, struct service_msg *msg)
{
    struct waiter w = {.ask = msg->want == SERVICE_ASK};
    bool waits = msg->want != SERVICE_TELL;
    int r = waits ? pl_call_block(call, wake_call, l) : 0;
    if (r < 0) { /* cancelled already: what was done is told all the same */
        waits = false;
        if (w.ask)
            return r;
        msg->want = SERVICE_TELL;
    }
    pthread_mutex_lock(&l->lock);
    if (l->attrs.lost == SERVICE_LOST_IGNORE && !room(l)) {
        l->missed++;
    } else {
        tell_missed(l);
        w.seq = append(l, msg);
        if (w.seq && waits) {
            w.next = l->waiters;
            l->waiters = &w;
            r = !l->up && l->attrs.lost != SERVICE_LOST_HOLD ? (unwait(l, &w), without(l))
                                                             : wait_answer(l, call, &w);
        } else if (waits) {
            r = without(l);
        }
    }
    pthread_mutex_unlock(&l->lock);
    if (waits)
        pl_call_unblock(call);
    return r;
}

int service_link_drain(struct service_link *l, struct pl_call *call)
{
    int r = pl_call_block(call, wake_call, l);
    if (r < 0)
        return r;
    pthread_mutex_lock(&l->lock);
    while (l->head && !(r = pl_call_over(call)))
        wait(l, call, 0);
    pthread_mutex_unlock(&l->lock);
    pl_call_unblock(call);
    return r;
}

/* ---- the thread ---- */

static void answered(struct service_link *l, uint64_t seq, int result)
{
    for (struct waiter *w = l->waiters; w; w = w->next) {
        if (w->seq == seq) {
            w->done = true;
            w->result = result;
        }
    }
    struct record *rec = find(l, seq);
    if (rec)
        rec->waited = false;
    pop_done(l);
    pthread_cond_broadcast(&l->cond);
}

static int take(struct service_link *l, const struct service_msg *m)
{
    int r = 0;
    pthread_mutex_lock(&l->lock);
    l->stuck = false;
    switch (m->kind) {
    case SERVICE_ANSWER:
        answered(l, m->seq, m->result < 0 ? (int)m->result : 0);
        break;
    case SERVICE_KEPT:
        l->kept = m->seq > l->kept && m->seq <= l->seq ? m->seq : l->kept;
        pop_done(l);
        break;
    case SERVICE_REFUSE:
        l->refusal = (int)m->result;
        break;
    case SERVICE_ACCEPT:
        l->refusal = 0;
        break;
    case SERVICE_ON:
    case SERVICE_OFF:
        switched(l, m->kind == SERVICE_ON);
        break;
    default:
        r = -EPROTO;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

static bool grow(struct service_link *l)
{
    if (l->in_n < l->in_room)
        return true;
    size_t room_now = l->in_room ? 2 * l->in_room : READ_SIZE;
    char *more = room_now <= 4 * SERVICE_LINE_MAX ? realloc(l->in, room_now) : NULL;
    if (!more)
        return false;
    l->in = more;
    l->in_room = room_now;
    return true;
}

/* What is there to read, the server's first line first (*greeted): 0, or why the connection is
 * over.
 */
static int read_some(struct service_link *l, bool *greeted)
{
    if (!grow(l))
        return -EPROTO;
    ssize_t n = read(l->in_fd, l->in + l->in_n, l->in_room - l->in_n);
    if (n <= 0)
        return n == 0 ? -ECONNRESET : errno == EAGAIN || errno == EINTR ? 0 : -errno;
    l->in_n += (size_t)n;
    size_t at = 0;
    struct service_msg m;
    while (at < l->in_n) {
        ssize_t used = service_decode(l->in + at, l->in_n - at, &m);
        if (used == 0)
            break;
        if (used < 0)
            return -EPROTO;
        at += (size_t)used;
        if (*greeted ? take(l, &m) < 0 : m.kind != SERVICE_HELLO || m.version != SERVICE_VERSION)
            return -EPROTO;
        if (!*greeted) {
            *greeted = true;
            text_escape(l->why, sizeof(l->why), m.no, strlen(m.no));
            pthread_mutex_lock(&l->lock);
            l->keeps = m.keeps;
            for (size_t i = 0; i < m.npids; i++)
                l->pids[l->npids++] = m.pids[i];
            if (m.keeps && m.seq > l->kept && m.seq <= l->seq)
                l->kept = m.seq;
            pthread_mutex_unlock(&l->lock);
        }
    }
    memmove(l->in, l->in + at, l->in_n - at);
    l->in_n -= at;
    return 0;
}

/* Writes what can be written; 0, or why the connection is over. */
static int write_some(struct service_link *l)
{
    struct iovec iov[VECTORS];
    int n = 0, r = 0;
    pthread_mutex_lock(&l->lock);
    for (struct record *rec = l->next; rec && n < VECTORS; rec = rec->next, n++) {
        size_t off = n ? 0 : l->written;
        iov[n] = (struct iovec){rec->bytes + off, rec->n - off};
    }
    pthread_mutex_unlock(&l->lock);
    /* Nothing that is not written leaves the queue, so the lock is not needed for this. */
    ssize_t done = n ? writev(l->out_fd, iov, n) : 0;
    if (done < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    pthread_mutex_lock(&l->lock);
    l->written += (size_t)done;
    while (l->next && l->written >= l->next->n) {
        l->written -= l->next->n;
        l->next->written = true;
        l->next = l->next->next;
    }
    l->since = mono_now();
    l->urgent = l->urgent && l->next;
    pop_done(l);
    pthread_mutex_unlock(&l->lock);
    return r;
}

/* How long what is to be written may still wait: ns; 0: not at all; -1: there is nothing. */
static int64_t may_wait(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    int64_t ns = -1;
    if (l->next) {
        ns = l->since + l->attrs.batch - mono_now();
        if (l->urgent || l->bytes >= AT_ONCE || l->stopping || l->written || ns < 0)
            ns = 0;
    }
    pthread_mutex_unlock(&l->lock);
    return ns;
}

static void drain_wake(int fd)
{
    uint64_t n;
    if (read(fd, &n, sizeof(n)) < 0)
        return;
}

static int greet(struct service_link *l)
{
    struct service_msg m = {.kind = SERVICE_HELLO,
                            .version = SERVICE_VERSION,
                            .service = l->name,
                            .tree = l->spec,
                            .session = l->session};
    bool greeted = false;
    size_t n;
    char *text = service_encode(&m, &n);
    if (!text)
        return -ENOMEM;
    ssize_t w = write(l->out_fd, text, n);
    free(text);
    if (w != (ssize_t)n)
        return -ECONNRESET;
    int64_t until = mono_now() + HELLO_NS;
    l->in_n = 0;
    while (!greeted) {
        struct pollfd p[2] = {{.fd = l->in_fd, .events = POLLIN},
                              {.fd = l->over, .events = POLLIN}};
        int64_t left = until - mono_now();
        if (left <= 0)
            return -ETIMEDOUT;
        if (poll(p, 2, (int)(left / 1000000) + 1) < 0) {
            if (errno != EINTR)
                return -errno;
            continue;
        }
        if (p[1].revents)
            return -ECANCELED;
        int r = p[0].revents ? read_some(l, &greeted) : 0;
        if (r < 0)
            return r;
    }
    return *l->why ? -EACCES : 0;
}

static bool finished(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    bool end = l->stopping && !l->head;
    pthread_mutex_unlock(&l->lock);
    return end;
}

/* Carries until the connection or the layer is at its end. */
static int carry(struct service_link *l)
{
    bool greeted = true, stopping = false;
    for (;;) {
        int64_t ns = may_wait(l);
        if (stopping && finished(l))
            return 0;
        struct pollfd p[5] = {{.fd = l->in_fd, .events = POLLIN},
                              {.fd = l->wake, .events = POLLIN},
                              {.fd = stopping ? -1 : l->stop, .events = POLLIN},
                              {.fd = ns == 0 ? l->out_fd : -1, .events = POLLOUT},
                              {.fd = l->over, .events = POLLIN}};
        int ms = ns > 0 ? (int)((ns + 999999) / 1000000) : -1;
        if (poll(p, 5, ms) < 0) {
            if (errno != EINTR)
                return -errno;
            continue;
        }
        if (p[4].revents)
            return 0;
        if (p[1].revents)
            drain_wake(l->wake);
        stopping |= p[2].revents != 0;
        int r = p[0].revents ? read_some(l, &greeted) : 0;
        if (r == 0 && p[3].revents)
            r = write_some(l);
        if (r < 0)
            return r;
    }
}

/* Under the lock: the end comes, in as much time as there is for a server that is there (or that is
 * held for), or that is away; at once if all was said. */
static void end_in(struct service_link *l)
{
    int64_t ns = l->attrs.timeout ? l->attrs.timeout : HELLO_NS;
    if (!l->up && l->attrs.lost != SERVICE_LOST_HOLD && ns > PARTING_NS)
        ns = PARTING_NS;
    if (!l->head && !l->missed)
        ns = 1;
    struct itimerspec end = {.it_value = {ns / 1000000000, ns % 1000000000}};
    timerfd_settime(l->over, 0, &end, NULL);
}

/* What the server had and has not kept goes again; who may not wait for it does not. */
static void disconnected(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->up = l->stuck = false;
    l->tried = true;
    l->npids = 0;
    l->written = 0;
    if (l->attrs.lost != SERVICE_LOST_HOLD) {
        for (struct record *r = l->head; r; r = r->next)
            r->waited = false;
        for (struct waiter *w = l->waiters; w; w = w->next) {
            if (!w->done) {
                w->done = true;
                w->result = without(l);
            }
        }
    }
    pop_done(l);
    for (struct record *r = l->head; r; r = r->next)
        r->written = false;
    l->next = l->head;
    l->urgent = l->next;
    if (l->stopping && !l->parted)
        end_in(l);
    l->parted = l->stopping;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

static void connected(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->up = l->tried = true;
    while (l->keeps && l->head && l->head->seq <= l->kept && !l->head->waited) {
        if (l->next == l->head)
            l->next = l->head->next;
        l->head->written = true;
        pop_done(l);
    }
    tell_missed(l);
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
    if (l->dialer.changed)
        l->dialer.changed(l->dialer.arg, NULL);
}

static void hang_up(struct service_link *l)
{
    if (l->out_fd != l->in_fd)
        close(l->out_fd);
    close(l->in_fd);
    if (l->dialer.hung_up)
        l->dialer.hung_up(l->dialer.arg);
}

static int once(struct service_link *l, struct pl_err *err)
{
    pid_t pid = 0;
    int r = l->dialer.dial(l->dialer.arg, l->over, &l->in_fd, &l->out_fd, &pid, err);
    if (r < 0) {
        pthread_mutex_lock(&l->lock);
        l->tried = true;
        pthread_cond_broadcast(&l->cond);
        pthread_mutex_unlock(&l->lock);
        return r;
    }
    fcntl(l->in_fd, F_SETFL, fcntl(l->in_fd, F_GETFL) | O_NONBLOCK);
    fcntl(l->out_fd, F_SETFL, fcntl(l->out_fd, F_GETFL) | O_NONBLOCK);
    pthread_mutex_lock(&l->lock);
    l->npids = 0;
    l->refusal = 0;
    if (pid > 0 && pid != getpid())
        l->pids[l->npids++] = pid;
    pthread_mutex_unlock(&l->lock);
    *l->why = 0;
    r = greet(l);
    if (r == 0) {
        connected(l);
        r = carry(l);
        if (r == 0 && write(l->out_fd, "bye\n", 4) < 0)
            r = -ECONNRESET;
    }
    hang_up(l);
    if (r < 0)
        pl_fail(err, r, "%s",
                r == -EPROTO ? "does not speak the protocol of services (docs/services.md)"
                : *l->why    ? l->why
                             : strerror(-r));
    disconnected(l);
    return r;
}

/* Until it is time to dial again, which it is when the end begins (*parting). True: it is over. */
static bool pause_until(struct service_link *l, int64_t until, bool *parting)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = l->over, .events = POLLIN},
                              {.fd = *parting ? -1 : l->stop, .events = POLLIN}};
        int64_t left = until - mono_now();
        int ready = poll(p, 2, left > 0 ? (int)(left / 1000000) + 1 : 0);
        if (ready > 0 && p[0].revents)
            return true;
        if (ready > 0)
            *parting = true;
        if (ready >= 0)
            return false;
    }
}

static void *run(void *arg)
{
    struct service_link *l = arg;
    int64_t wait_ns = BACKOFF_LO;
    sigset_t all;
    bool said = false, parting = false;
    sigfillset(&all);
    sigdelset(&all, CONFINE_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        struct pl_err err = {0};
        int64_t began = mono_now();
        int r = once(l, &err);
        if (r == 0 || r == -ECANCELED)
            break;
        bool worked = mono_now() - began > BACKOFF_HI;
        if (l->dialer.changed && (!said || worked))
            l->dialer.changed(l->dialer.arg, err.text);
        said = true;
        wait_ns = worked ? BACKOFF_LO : wait_ns;
        if (pause_until(l, mono_now() + (parting ? BACKOFF_LO : wait_ns), &parting))
            break;
        wait_ns = wait_ns * 2 > BACKOFF_HI ? BACKOFF_HI : wait_ns * 2;
    }
    return NULL;
}

struct service_link *service_link_new(const char *name, const char *spec,
                                      const struct service_attrs *attrs,
                                      const struct service_dialer *dialer)
{
    struct service_link *l = calloc(1, sizeof(*l));
    if (l) {
        *l = (struct service_link){.attrs = *attrs, .dialer = *dialer, .off = attrs->off};
        snprintf(l->name, sizeof(l->name), "%s", name);
        l->spec = strdup(spec);
        l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        l->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        l->over = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        pthread_mutex_init(&l->lock, NULL);
        pl_cond_init(&l->cond);
        while (l->session == 0)
            if (getrandom(&l->session, sizeof(l->session), 0) != sizeof(l->session))
                l->session = (uint64_t)mono_now();
        if (l->spec && l->wake >= 0 && l->stop >= 0 && l->over >= 0 &&
            pthread_create(&l->thread, NULL, run, l) == 0)
            return l;
        close(l->wake);
        close(l->stop);
        close(l->over);
        pthread_cond_destroy(&l->cond);
        pthread_mutex_destroy(&l->lock);
        free(l->spec);
        free(l);
    }
    if (dialer->done)
        dialer->done(dialer->arg);
    return NULL;
}

/* What is left in the queue was not told, or nobody knows. */
static void drop_all(struct service_link *l)
{
    char text[160];
    uint64_t n = l->missed;
    while (l->head) {
        struct record *r = l->head;
        l->head = r->next;
        free(r);
        n++;
    }
    snprintf(text, sizeof(text),
             "%llu operations may not have reached it: it was not there at the end",
             (unsigned long long)n);
    if (n && l->dialer.changed)
        l->dialer.changed(l->dialer.arg, text);
}

void service_link_free(struct service_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    end_in(l);
    pthread_mutex_unlock(&l->lock);
    nudge(l->stop);
    pthread_join(l->thread, NULL);
    drop_all(l);
    if (l->dialer.done)
        l->dialer.done(l->dialer.arg);
    close(l->wake);
    close(l->stop);
    close(l->over);
    pthread_cond_destroy(&l->cond);
    pthread_mutex_destroy(&l->lock);
    free(l->in);
    free(l->spec);
    free(l);
}
