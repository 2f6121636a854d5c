/* SPDX-License-Identifier: MIT */
/* The mounts that call: what they tell goes to the journal. */
#include "cmd/replicator.h"
#include "cmd/servicedial.h"
#include "layers/service_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (4 * SERVICE_LINE_MAX)

struct replicator_conn {
    struct replicator_conn *next;
    struct replicator *r;
    uint64_t id, session;
    struct chan chan; /* of what is more than descriptors: the rest of it */
    int in, out;
    bool dead; /* guarded by the replicator's lock, as `next` and writing */
    char *buf;
    size_t n;
};

static void say(struct replicator_conn *c, const struct service_msg *m)
{
    size_t n;
    char *text = c->dead ? NULL : service_encode(m, &n);
    /* Who lets its answers pile up does not read them. */
    if (text && write(c->out, text, n) != (ssize_t)n) {
        c->dead = true;
        shutdown(c->in, SHUT_RDWR);
    }
    free(text);
}

void replicator_say(struct replicator *r, uint64_t conn, const struct service_msg *m)
{
    for (struct replicator_conn *c = r->conns; c; c = c->next)
        if ((!conn || c->id == conn) && c->session)
            say(c, m);
}

/* ---- what is told ---- */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* What an event means for the replicas; false: nothing. */
static bool as_record(const struct service_msg *m, struct journal_record *rec)
{
    bool bytes = m->op == PL_OP_write || m->op == PL_OP_copy;
    bool cut = m->op == PL_OP_setattr && (m->flags & PL_SET_SIZE);
    bool cleared = (m->op == PL_OP_open || m->op == PL_OP_create) && (m->flags & O_TRUNC);
    *rec = (struct journal_record){
        .ino = m->ino, .time = now_ns(), .path = (char *)m->path, .path2 = (char *)m->path2};
    if (m->op == SERVICE_OP_LOST || m->op == SERVICE_OP_ON) {
        rec->gap = true;
        return true;
    }
    if (m->result < 0 || m->op < 0 || m->op >= PL_OP_COUNT)
        return false;
    if (m->op == PL_OP_open && !(m->flags & O_TRUNC))
        return false;
    if (m->op != PL_OP_open && (!pl_op_modifies((enum pl_op)m->op) || m->op == PL_OP_tmpfile))
        return false;
    if (bytes) {
        rec->off = m->off;
        rec->len = (uint64_t)m->result;
    } else if (m->op == PL_OP_fallocate) {
        rec->off = m->off;
        rec->len = m->flags & ~3u ? JOURNAL_END(m->off) : m->len; /* what is behind may move */
    } else if (cut || cleared || m->op == PL_OP_ioctl) {
        rec->off = cut && m->len <= INT64_MAX ? m->len : 0;
        rec->len = JOURNAL_END(rec->off);
    }
    if (bytes && !rec->len)
        return false;
    /* A name that is not known could be anywhere; an object at least has its number. */
    bool names = m->op == PL_OP_make || m->op == PL_OP_create || m->op == PL_OP_remove ||
                 m->op == PL_OP_rename;
    rec->gap = (names && (!*m->path || (m->op == PL_OP_rename && !*m->path2))) ||
               (m->op == PL_OP_link && !*m->path2);
    return true;
}

/* Under the lock. */
static int take(struct replicator_conn *c, const struct service_msg *m)
{
    struct replicator *r = c->r;
    struct journal_record rec;
    struct service_msg no = {.kind = SERVICE_ANSWER, .seq = m->seq};
    bool wants = m->want != SERVICE_TELL, full;
    if (m->want == SERVICE_ASK || !as_record(m, &rec)) {
        if (wants) /* nothing is done before the tree does it */
            say(c, &no);
        return 0;
    }
    uint64_t last = r->journal.last;
    int e = journal_add(&r->journal, &rec, c->session, m->seq, &full);
    if (e < 0) {
        no.result = -EIO;
        if (wants)
            say(c, &no);
        return e;
    }
    if (full || rec.gap)
        replicator_event(r, (struct step_event){.what = STEP_GAP, .seq = last + 1});
    replicator_event(
        r, (struct step_event){
               .what = STEP_RECORD, .seq = rec.seq, .conn = wants ? c->id : 0, .cseq = m->seq});
    return 0;
}

/* Is the tree of a mount the source? What is neither said nor plainly another (a layer over it) is,
 * if there is only one. */
static bool is_source(const struct replicator *r, const char *tree, bool alone)
{
    const char *source = spec_text(r->source);
    bool plain = !strncmp(source, "host:", 5) && !strncmp(tree, "host:", 5);
    return !strcmp(source, tree) || (alone && !plain);
}

static void say_no(struct replicator_conn *c, const char *tree)
{
    char why[256];
    struct service_msg no = {.kind = SERVICE_HELLO, .version = SERVICE_VERSION, .no = why};
    snprintf(why, sizeof(why), "replicates %s%s, not %s", spec_text(c->r->source),
             c->r->next ? " and others" : "", *tree ? tree : "this");
    say(c, &no);
}

/* The first line is there: the connection goes to the replicator of the tree that it is of. */
static int choose(struct replicator_conn *c, const struct service_msg *m)
{
    struct replicator *first = c->r, *r = first;
    while (r && !is_source(r, m->tree, !first->next))
        r = r->next;
    if (!r) {
        say_no(c, m->tree);
        return -ENOENT;
    }
    if (r == first)
        return 0;
    pthread_mutex_lock(&first->lock);
    pthread_mutex_lock(&r->lock);
    int e = r->stopping ? -ECONNRESET : 0;
    struct replicator_conn **at = &first->conns;
    while (*at != c)
        at = &(*at)->next;
    if (e == 0) {
        *at = c->next;
        c->r = r;
        c->id = ++r->next_conn;
        c->next = r->conns;
        r->conns = c;
    }
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_unlock(&first->lock);
    return e;
}

/* A mount that was never heard of, or was forgotten: what it did before is not known. */
static int greet(struct replicator_conn *c, const struct service_msg *m)
{
    struct replicator *r = c->r;
    struct service_msg us = {
        .kind = SERVICE_HELLO, .version = SERVICE_VERSION, .keeps = true, .npids = 1};
    struct service_msg refuse = {.kind = SERVICE_REFUSE, .result = -EROFS};
    us.pids[0] = getpid();
    if (m->kind != SERVICE_HELLO || m->version != SERVICE_VERSION || !m->session)
        return -EPROTO;
    if (!journal_heard(&r->journal, m->session, &us.seq)) {
        struct journal_record gap = {.gap = true, .time = now_ns()};
        bool full;
        int e = journal_add(&r->journal, &gap, m->session, 0, &full);
        if (e < 0)
            return e;
        replicator_event(r, (struct step_event){.what = STEP_GAP, .seq = gap.seq});
        replicator_event(r, (struct step_event){.what = STEP_RECORD, .seq = gap.seq});
    }
    c->session = m->session;
    say(c, &us);
    if (r->step.refusing)
        say(c, &refuse);
    return 0;
}

/* The greeting, if it is whole. */
static int take_greeting(struct replicator_conn *c, size_t *ret_used)
{
    struct service_msg m;
    ssize_t used = service_decode(c->buf, c->n, &m);
    if (used <= 0)
        return used < 0 ? -EPROTO : 0;
    *ret_used = (size_t)used;
    int e = m.kind == SERVICE_HELLO ? choose(c, &m) : -EPROTO;
    pthread_mutex_lock(&c->r->lock);
    if (e == 0)
        e = greet(c, &m);
    pthread_mutex_unlock(&c->r->lock);
    return e;
}

/* Everything whole in the buffer: 0, 1 after a goodbye, or an error. Then what was taken is safe.
 */
static int take_all(struct replicator_conn *c)
{
    size_t at = 0;
    int e = c->session ? 0 : take_greeting(c, &at);
    struct service_msg kept = {.kind = SERVICE_KEPT};
    if (e < 0 || !c->session)
        return e;
    pthread_mutex_lock(&c->r->lock);
    while (e == 0 && at < c->n) {
        struct service_msg m;
        ssize_t used = service_decode(c->buf + at, c->n - at, &m);
        if (used == 0)
            break;
        at += used > 0 ? (size_t)used : 0;
        e = used < 0                  ? -EPROTO
            : m.kind == SERVICE_BYE   ? 1
            : m.kind == SERVICE_EVENT ? take(c, &m)
                                      : -EPROTO;
        if (e == 0 && m.kind == SERVICE_EVENT)
            kept.seq = m.seq;
    }
    if (kept.seq) {
        int s = c->r->no_sync ? 0 : journal_sync(&c->r->journal);
        if (s == 0)
            say(c, &kept);
        else
            e = s;
    }
    e = c->dead && e == 0 ? -ECONNRESET : e;
    pthread_mutex_unlock(&c->r->lock);
    memmove(c->buf, c->buf + at, c->n - at);
    c->n -= at;
    return e;
}

static void leave(struct replicator_conn *c)
{
    struct replicator *r = c->r;
    pthread_mutex_lock(&r->lock);
    struct replicator_conn **at = &r->conns;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    if (!r->stopping)
        replicator_event(r, (struct step_event){.what = STEP_LEFT, .conn = c->id});
    close(c->in);
    if (c->out != c->in)
        close(c->out);
    c->chan.in = c->chan.out = -1;
    chan_close(&c->chan);
    free(c->buf);
    free(c);
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static void *serve(void *arg)
{
    struct replicator_conn *c = arg;
    int e = 0;
    while (e == 0) {
        struct pollfd p = {.fd = c->in, .events = POLLIN};
        if (poll(&p, 1, -1) < 0)
            continue;
        ssize_t n = read(c->in, c->buf + c->n, BUFFER - c->n);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            break;
        c->n += (size_t)n;
        e = take_all(c);
        /* Nobody asked for data: what does not fit is no event. */
        if (c->n == BUFFER)
            break;
    }
    leave(c);
    return NULL;
}

void replicator_accept(struct replicator *r, struct chan *chan)
{
    struct replicator_conn *c = calloc(1, sizeof(*c));
    pthread_t thread;
    char *buf = malloc(BUFFER);
    if (!c || !buf || servicedial_plain(chan, &c->in, &c->out) < 0) {
        free(buf);
        free(c);
        chan_close(chan);
        return;
    }
    c->chan = *chan;
    c->buf = buf;
    c->r = r;
    fcntl(c->in, F_SETFL, fcntl(c->in, F_GETFL) | O_NONBLOCK);
    fcntl(c->out, F_SETFL, fcntl(c->out, F_GETFL) | O_NONBLOCK);
    pthread_mutex_lock(&r->lock);
    c->id = ++r->next_conn;
    c->next = r->conns;
    r->conns = c;
    pthread_mutex_unlock(&r->lock);
    if (pthread_create(&thread, NULL, serve, c) != 0)
        leave(c);
    else
        pthread_detach(thread);
}

void replicator_hang_up(struct replicator *r)
{
    pthread_mutex_lock(&r->lock);
    for (struct replicator_conn *c = r->conns; c; c = c->next)
        shutdown(c->in, SHUT_RDWR);
    while (r->conns)
        pthread_cond_wait(&r->cond, &r->lock);
    pthread_mutex_unlock(&r->lock);
}
