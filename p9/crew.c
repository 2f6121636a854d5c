/* SPDX-License-Identifier: MIT */
/*
 * The crew: threads that work for any number of connections.
 *
 * A worker takes a task from the queue; where there is none and nobody watches the epoll, it
 * becomes the *watcher*: it waits for one event, sees that another worker can watch in its place,
 * and serves the connection itself. Other idle workers sleep; only a few are kept.
 *
 * The number of workers that run is bounded by `max`. Those that said they wait (crew_block) do not
 * count, up to a hard limit for all.
 *
 * Fairness. Connections with tasks stand in a queue; a worker takes one task of the first and puts
 * it behind the others. A connection gets another worker only while it has fewer than SHARE times
 * those that are free, and never the last: alone, with as many slow requests as it may send, it
 * gets three of four, two of them a little more than two of five each, and so on; who comes then
 * finds one free. A reader is one of its connection's workers while it reads, and its place when it
 * comes free is given by the same rule. A worker that finds tasks whenever it looks also looks for
 * events of connections that have none, and a reader whose client never stops gives way when all
 * are busy and others wait.
 *
 * The tick is one more thread. It runs only while readers run ops: every millisecond it looks at
 * the active connections and takes the reader's role from one that is still in the op in which it
 * was the last time. When nothing has happened for two ticks it sleeps until the next op starts.
 *
 * crew->lock guards all fields but those marked. tick_lock guards `ticking`, and the tick's sleep.
 */
#include "base/thread.h"
#include "p9/priv.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <utlist.h>

enum { KEEP_IDLE = 4, POOL_BYTES = 4 << 20, STACK = 1 << 20, SHARE = 3, TASKS_A_LOOK = 4 };
/* Sizes with room for a message's header; the smallest that fits is used. */
static const size_t class_size[] = {16640, 65792, 262400, 1048832};
enum { KICK, CLOCK /* in epoll events; then place.id of connections */ };
enum { NCLASS = sizeof(class_size) / sizeof(*class_size), SMALL = 8192 };

struct p9_crew {
    pthread_mutex_t lock;
    pthread_cond_t work;   /* idle workers */
    pthread_cond_t done;   /* no pins, no threads */
    struct p9_conn *queue; /* those with tasks, in the order in which they get a worker */
    unsigned max, nthreads, nidle, nblocked;
    unsigned nruns; /* workers that work for a connection, less those that wait */
    unsigned taken; /* tasks, since somebody looked for events */
    bool watched, stopping, any_dead;
    pthread_t dead; /* the last worker that ended; it has joined the one before */
    int epoll, kick;
    int clock;              /* a timerfd: the first of the looks is due */
    struct p9_conn **looks; /* a heap by place.look_at, with room for all connections */
    size_t nlooks, looks_cap;
    uint64_t next_id;
    struct p9_conn *conns; /* hash by place.id */
    atomic_uint dwelling;
    atomic_size_t bytes;

    struct free_buf {
        struct free_buf *next;
    } * pool[NCLASS];
    size_t pooled;

    pthread_mutex_t active_lock; /* guards the list of active connections */
    struct p9_conn *active;

    pthread_mutex_t tick_lock;
    pthread_cond_t tick_cond;
    pthread_t tick;
    bool ticking, tick_stop;
    atomic_bool tick_sleeps;
};

/* ---- threads ---- */

static void *worker(void *arg);

int crew_thread(pthread_t *ret, void *(*run)(void *), void *arg)
{
    return thread_start(ret, STACK, run, arg);
}

static unsigned running(const struct p9_crew *crew)
{
    return crew->nthreads - crew->nblocked;
}

/* Lock held. */
static bool spawn(struct p9_crew *crew)
{
    pthread_t t;
    if (running(crew) >= crew->max || crew->nthreads >= LIMIT_CREW_WAITING)
        return false;
    crew->nthreads++;
    if (crew_thread(&t, worker, crew) == 0)
        return true;
    crew->nthreads--;
    return false;
}

static unsigned nfree(const struct p9_crew *crew)
{
    return crew->nruns < crew->max ? crew->max - crew->nruns : 0;
}

/* A connection for which `runs` work may get one more for an op. It may always have one; another
 * only if afterwards there is still one that is free: for who comes next, and for reading. Lock
 * held, as in all of these. */
static bool may_more(const struct p9_crew *crew, unsigned runs)
{
    unsigned n = nfree(crew);
    return runs == 0 ? n > 0 : n > 1 && runs < SHARE * n;
}

static bool may_begin(const struct p9_crew *crew, const struct p9_conn *conn)
{
    return conn->place.tasks->op ? may_more(crew, conn->place.runs) : nfree(crew) > 0;
}

/* The first that may have a worker. As each that may not has one at least, few are passed over. */
static struct p9_conn *first(const struct p9_crew *crew)
{
    struct p9_conn *c = nfree(crew) ? crew->queue : NULL;
    while (c && !may_begin(crew, c))
        c = c->place.next_q;
    return c;
}

/* What idle workers are needed for, counted until there cannot be as many idle: each task that may
 * be begun, and to watch. */
static unsigned wanted(const struct p9_crew *crew)
{
    unsigned n = !crew->watched;
    for (struct p9_conn *c = first(crew); c && n <= KEEP_IDLE; c = c->place.next_q) {
        unsigned runs = c->place.runs;
        for (struct task *t = c->place.tasks; t && (!t->op || may_more(crew, runs));
             t = t->next, runs++)
            n++;
    }
    return n;
}

/* One more worker, if there is something for it to do. True: it sleeps, and is to be woken when the
 * lock is free. */
static bool more_hands(struct p9_crew *crew)
{
    unsigned n = wanted(crew);
    if (n && crew->nidle >= n)
        return true;
    if (n)
        spawn(crew);
    return false;
}

/* Who goes to work sees to it that what else there is to do is done. Gives the lock up. */
static void run_begins(struct p9_crew *crew, struct p9_conn *conn)
{
    conn->place.runs++;
    crew->nruns++;
    bool wake = more_hands(crew);
    pthread_mutex_unlock(&crew->lock);
    if (wake)
        pthread_cond_signal(&crew->work);
}

static void run_ends(struct p9_crew *crew, struct p9_conn *conn)
{
    pthread_mutex_lock(&crew->lock);
    conn->place.runs--;
    crew->nruns--;
    if (--conn->place.pins == 0)
        pthread_cond_broadcast(&crew->done);
}

static void run_task(struct p9_crew *crew, struct p9_conn *conn)
{
    struct crew_place *l = &conn->place;
    struct task *t = l->tasks;
    l->tasks = t->next;
    DL_DELETE2(crew->queue, conn, place.prev_q, place.next_q);
    if (l->tasks)
        DL_APPEND2(crew->queue, conn, place.prev_q, place.next_q);
    else
        l->tasks_tail = &l->tasks;
    t->queued = false;
    run_begins(crew, conn);
    t->run(conn, t);
    run_ends(crew, conn);
}

/* What is no op comes before all ops: it may be what ends them. Lock held. */
static void enqueue(struct p9_crew *crew, struct task *task)
{
    struct p9_conn *conn = task->conn;
    struct crew_place *l = &conn->place;
    if (!l->tasks)
        DL_APPEND2(crew->queue, conn, place.prev_q, place.next_q);
    struct task **at = task->op ? l->tasks_tail : &l->tasks;
    task->next = *at;
    *at = task;
    if (!task->next)
        l->tasks_tail = &task->next;
    task->queued = true;
}

/* Lock held. *wake: a worker that sleeps is to be woken when the lock is free. */
static bool submit(struct p9_crew *crew, struct task *task, bool *wake)
{
    if (task->queued)
        return true;
    enqueue(crew, task);
    task->conn->place.pins++;
    if (!may_begin(crew, task->conn))
        return false;
    unsigned before = crew->nthreads;
    *wake = more_hands(crew);
    bool hands = *wake || crew->nthreads > before;
    if (!hands && crew->watched) /* the watcher will do it */
        hands = eventfd_write(crew->kick, 1) == 0;
    return hands;
}

/* ---- looks ---- */

static bool earlier(const struct p9_crew *crew, size_t a, size_t b)
{
    return crew->looks[a]->place.look_at < crew->looks[b]->place.look_at;
}

static void swap(struct p9_crew *crew, size_t a, size_t b)
{
    struct p9_conn *c = crew->looks[a];
    crew->looks[a] = crew->looks[b];
    crew->looks[b] = c;
    crew->looks[a]->place.look_pos = a;
    crew->looks[b]->place.look_pos = b;
}

static void sift(struct p9_crew *crew, size_t i)
{
    for (; i && earlier(crew, i, (i - 1) / 2); i = (i - 1) / 2)
        swap(crew, i, (i - 1) / 2);
    for (size_t kid; (kid = 2 * i + 1) < crew->nlooks; i = kid) {
        kid += kid + 1 < crew->nlooks && earlier(crew, kid + 1, kid);
        if (!earlier(crew, kid, i))
            break;
        swap(crew, i, kid);
    }
}

static void set_clock(struct p9_crew *crew)
{
    struct itimerspec t = {.it_value = {0}};
    if (crew->nlooks) {
        int64_t at = crew->looks[0]->place.look_at;
        t.it_value = (struct timespec){at / 1000000000, at % 1000000000};
    }
    timerfd_settime(crew->clock, TFD_TIMER_ABSTIME, &t, NULL);
}

static void unlook(struct p9_crew *crew, struct p9_conn *conn)
{
    size_t i = conn->place.look_pos;
    if (!conn->place.look_at)
        return;
    conn->place.look_at = 0;
    if (i != --crew->nlooks) {
        swap(crew, i, crew->nlooks);
        sift(crew, i);
    }
}

void crew_clock(struct p9_crew *crew, struct p9_conn *conn, int64_t at)
{
    struct crew_place *p = &conn->place;
    pthread_mutex_lock(&crew->lock);
    if (!p->look_at) {
        p->look_at = at;
        p->look_pos = crew->nlooks;
        crew->looks[crew->nlooks++] = conn;
    } else if (at < p->look_at) {
        p->look_at = at;
    }
    sift(crew, p->look_pos);
    if (crew->looks[0] == conn && p->look_at == at)
        set_clock(crew);
    pthread_mutex_unlock(&crew->lock);
}

/* Lock held. */
static void submit_looks(struct p9_crew *crew)
{
    uint64_t n;
    int64_t now = mono_now();
    ssize_t r = read(crew->clock, &n, sizeof(n));
    (void)r; /* it is not blocking; that it was set anew meanwhile does no harm */
    while (crew->nlooks && crew->looks[0]->place.look_at <= now) {
        struct p9_conn *c = crew->looks[0];
        bool wake = false;
        unlook(crew, c);
        submit(crew, &c->look_task, &wake);
        if (wake)
            pthread_cond_signal(&crew->work);
    }
    set_clock(crew);
}

static void watch(struct p9_crew *crew, int timeout)
{
    struct epoll_event ev;
    crew->watched = true;
    crew->taken = 0;
    pthread_mutex_unlock(&crew->lock);
    int n = epoll_wait(crew->epoll, &ev, 1, timeout);
    pthread_mutex_lock(&crew->lock);
    crew->watched = false;
    if (n <= 0)
        return;
    if (ev.data.u64 == CLOCK) {
        submit_looks(crew);
        return;
    }
    if (ev.data.u64 == KICK) {
        eventfd_t v;
        eventfd_read(crew->kick, &v);
        return;
    }
    struct p9_conn *conn;
    HASH_FIND(place.hh, crew->conns, &ev.data.u64, sizeof(ev.data.u64), conn);
    if (!conn)
        return;
    conn->place.pins++;
    run_begins(crew, conn);
    crew_event(conn);
    run_ends(crew, conn);
}

static void *worker(void *arg)
{
    struct p9_crew *crew = arg;
    pthread_setname_np(pthread_self(), "p9-worker");
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        struct p9_conn *conn = first(crew);
        if (conn && (crew->watched || crew->taken++ < TASKS_A_LOOK)) {
            run_task(crew, conn);
        } else if (crew->stopping) {
            break;
        } else if (!crew->watched) {
            watch(crew, conn ? 0 : -1);
        } else if (crew->nidle < KEEP_IDLE && running(crew) <= crew->max) {
            crew->nidle++;
            pthread_cond_wait(&crew->work, &crew->lock);
            crew->nidle--;
        } else {
            break;
        }
    }
    pthread_t before = crew->dead;
    bool join = crew->any_dead;
    crew->dead = pthread_self();
    crew->any_dead = true;
    if (--crew->nthreads == 0)
        pthread_cond_broadcast(&crew->done);
    pthread_mutex_unlock(&crew->lock);
    if (join)
        pthread_join(before, NULL);
    return NULL;
}

bool crew_submit(struct p9_crew *crew, struct task *task)
{
    bool wake = false;
    pthread_mutex_lock(&crew->lock);
    bool hands = submit(crew, task, &wake);
    pthread_mutex_unlock(&crew->lock);
    if (wake)
        pthread_cond_signal(&crew->work);
    return hands;
}

bool crew_block(struct p9_crew *crew, struct p9_conn *conn)
{
    bool wake = false;
    pthread_mutex_lock(&crew->lock);
    bool ok = crew->nblocked < LIMIT_CREW_WAITING - crew->max;
    if (ok) {
        crew->nblocked++;
        crew->nruns--;
        conn->place.runs--;
        wake = more_hands(crew);
    }
    pthread_mutex_unlock(&crew->lock);
    if (wake)
        pthread_cond_signal(&crew->work);
    return ok;
}

void crew_unblock(struct p9_crew *crew, struct p9_conn *conn)
{
    pthread_mutex_lock(&crew->lock);
    assert(crew->nblocked > 0);
    crew->nblocked--;
    crew->nruns++;
    conn->place.runs++;
    pthread_mutex_unlock(&crew->lock);
}

bool crew_may(struct p9_crew *crew, const struct p9_conn *conn)
{
    if (atomic_load_explicit(&conn->place.runs, memory_order_relaxed) <= 1)
        return true;
    pthread_mutex_lock(&crew->lock);
    unsigned n = nfree(crew); /* the asker is none of them, but one of the connection's */
    bool may = n > 0 && conn->place.runs <= SHARE * n;
    pthread_mutex_unlock(&crew->lock);
    return may;
}

bool crew_crowded(struct p9_crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    bool crowded = running(crew) >= crew->max && (crew->queue || !crew->watched);
    pthread_mutex_unlock(&crew->lock);
    return crowded;
}

/* At least half of the threads stay free for connections that are not waited for. */
bool crew_dwell(struct p9_crew *crew)
{
    if (atomic_fetch_add(&crew->dwelling, 1) < crew->max / 2)
        return true;
    crew_undwell(crew);
    return false;
}

void crew_undwell(struct p9_crew *crew)
{
    atomic_fetch_sub(&crew->dwelling, 1);
}

/* ---- events ---- */

static bool more_looks(struct p9_crew *crew)
{
    size_t cap = crew->looks_cap ? 2 * crew->looks_cap : 16;
    struct p9_conn **more = realloc(crew->looks, cap * sizeof(*more));
    if (!more)
        return false;
    crew->looks = more;
    crew->looks_cap = cap;
    return true;
}

int crew_add(struct p9_crew *crew, struct p9_conn *conn, int fd)
{
    pthread_mutex_lock(&crew->lock);
    if (HASH_CNT(place.hh, crew->conns) == crew->looks_cap && !more_looks(crew)) {
        pthread_mutex_unlock(&crew->lock);
        return -ENOMEM;
    }
    conn->place.id = ++crew->next_id;
    conn->place.tasks_tail = &conn->place.tasks;
    struct epoll_event ev = {.events = EPOLLONESHOT, .data.u64 = conn->place.id};
    conn->place.pollable = epoll_ctl(crew->epoll, EPOLL_CTL_ADD, fd, &ev) == 0;
    int r = conn->place.pollable || errno == EPERM ? 0 : -errno;
    if (r == 0)
        HASH_ADD(place.hh, crew->conns, place.id, sizeof(conn->place.id), conn);
    pthread_mutex_unlock(&crew->lock);
    return r;
}

void crew_watch(struct p9_crew *crew, struct p9_conn *conn, int fd)
{
    struct epoll_event ev = {.events = EPOLLONESHOT, .data.u64 = conn->place.id};
    conn->place.pollable = epoll_ctl(crew->epoll, EPOLL_CTL_ADD, fd, &ev) == 0;
}

void crew_unwatch(struct p9_crew *crew, struct p9_conn *conn, int fd)
{
    if (conn->place.pollable)
        epoll_ctl(crew->epoll, EPOLL_CTL_DEL, fd, NULL);
    conn->place.pollable = false;
}

void crew_del(struct p9_crew *crew, struct p9_conn *conn)
{
    pthread_mutex_lock(&crew->lock);
    HASH_DELETE(place.hh, crew->conns, conn);
    unlook(crew, conn);
    while (conn->place.pins)
        pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
}

atomic_size_t *crew_bytes(struct p9_crew *crew)
{
    return &crew->bytes;
}

void crew_arm(struct p9_crew *crew, struct p9_conn *conn, int fd, bool data)
{
    struct epoll_event ev = {.events = EPOLLONESHOT | EPOLLRDHUP | (data ? EPOLLIN : 0),
                             .data.u64 = conn->place.id};
    epoll_ctl(crew->epoll, EPOLL_CTL_MOD, fd, &ev);
}

/* ---- the tick ---- */

void crew_active(struct p9_crew *crew, struct p9_conn *conn, bool active)
{
    struct crew_place *l = &conn->place;
    pthread_mutex_lock(&crew->active_lock);
    if (active && !l->active) {
        l->prev_act = NULL;
        l->next_act = crew->active;
        if (crew->active)
            crew->active->place.prev_act = conn;
        crew->active = conn;
    } else if (!active && l->active) {
        if (l->prev_act)
            l->prev_act->place.next_act = l->next_act;
        else
            crew->active = l->next_act;
        if (l->next_act)
            l->next_act->place.prev_act = l->prev_act;
    }
    l->active = active;
    pthread_mutex_unlock(&crew->active_lock);
}

/* True if anything happened since the last look, or an op runs. */
static bool look(struct p9_crew *crew)
{
    bool busy = false;
    pthread_mutex_lock(&crew->active_lock);
    for (struct p9_conn *c = crew->active; c; c = c->place.next_act) {
        uint64_t seq = atomic_load(&c->op_seq);
        bool op = atomic_load(&c->op_running), same = seq == c->place.tick_seq;
        busy |= op || !same;
        c->place.tick_seq = seq;
        if (op && same)
            read_stuck(c, seq);
    }
    pthread_mutex_unlock(&crew->active_lock);
    return busy;
}

static void drop_pool(struct p9_crew *crew)
{
    struct free_buf *b, *all[NCLASS];
    pthread_mutex_lock(&crew->lock);
    memcpy(all, crew->pool, sizeof(all));
    memset(crew->pool, 0, sizeof(crew->pool));
    crew->pooled = 0;
    pthread_mutex_unlock(&crew->lock);
    for (int i = 0; i < NCLASS; i++)
        while ((b = all[i])) {
            all[i] = b->next;
            free(b);
        }
}

static void *tick(void *arg)
{
    struct p9_crew *crew = arg;
    struct timespec ms = {0, 1000000};
    pthread_setname_np(pthread_self(), "p9-tick");
    int quiet = 0;
    pthread_mutex_lock(&crew->tick_lock);
    while (!crew->tick_stop) {
        pthread_mutex_unlock(&crew->tick_lock);
        nanosleep(&ms, NULL);
        quiet = look(crew) ? 0 : quiet + 1;
        pthread_mutex_lock(&crew->tick_lock);
        if (quiet < 2)
            continue;
        atomic_store(&crew->tick_sleeps, true);
        pthread_mutex_unlock(&crew->tick_lock);
        /* An op that started before it could see that we sleep. */
        if (look(crew))
            crew_tick(crew);
        else
            drop_pool(crew);
        pthread_mutex_lock(&crew->tick_lock);
        while (atomic_load(&crew->tick_sleeps) && !crew->tick_stop)
            pthread_cond_wait(&crew->tick_cond, &crew->tick_lock);
        quiet = 0;
    }
    pthread_mutex_unlock(&crew->tick_lock);
    return NULL;
}

void crew_tick(struct p9_crew *crew)
{
    if (!atomic_load(&crew->tick_sleeps))
        return;
    pthread_mutex_lock(&crew->tick_lock);
    if (!crew->ticking)
        crew->ticking = crew_thread(&crew->tick, tick, crew) == 0;
    if (crew->ticking) {
        atomic_store(&crew->tick_sleeps, false);
        pthread_cond_signal(&crew->tick_cond);
    }
    pthread_mutex_unlock(&crew->tick_lock);
}

/* ---- buffers ---- */

static int class_of(size_t n)
{
    for (int i = 0; n > SMALL && i < NCLASS; i++)
        if (n <= class_size[i])
            return i;
    return -1;
}

void *crew_buf(struct p9_crew *crew, size_t n)
{
    int i = class_of(n);
    if (i < 0)
        return malloc(n ? n : 1);
    pthread_mutex_lock(&crew->lock);
    struct free_buf *b = crew->pool[i];
    if (b) {
        crew->pool[i] = b->next;
        crew->pooled -= class_size[i];
    }
    pthread_mutex_unlock(&crew->lock);
    return b ? (void *)b : malloc(class_size[i]);
}

void crew_buf_free(struct p9_crew *crew, void *buf, size_t n)
{
    int i = class_of(n);
    if (buf && i >= 0) {
        pthread_mutex_lock(&crew->lock);
        if (crew->pooled + class_size[i] <= POOL_BYTES) {
            struct free_buf *b = buf;
            b->next = crew->pool[i];
            crew->pool[i] = b;
            crew->pooled += class_size[i];
            buf = NULL;
        }
        pthread_mutex_unlock(&crew->lock);
    }
    free(buf);
}

/* ---- life ---- */

struct p9_crew *p9_crew_new(unsigned max_threads)
{
    struct p9_crew *crew = calloc(1, sizeof(*crew));
    if (!crew)
        return NULL;
    crew->max = max_threads ? max_threads : LIMIT_CREW;
    if (crew->max > LIMIT_CREW_WAITING / 2)
        crew->max = LIMIT_CREW_WAITING / 2;
    atomic_store(&crew->tick_sleeps, true);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_mutex_init(&crew->active_lock, NULL);
    pthread_mutex_init(&crew->tick_lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    pthread_cond_init(&crew->done, NULL);
    pthread_cond_init(&crew->tick_cond, NULL);
    crew->epoll = epoll_create1(EPOLL_CLOEXEC);
    crew->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    crew->clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    crew->next_id = CLOCK;
    struct epoll_event kick = {.events = EPOLLIN, .data.u64 = KICK};
    struct epoll_event clock = {.events = EPOLLIN, .data.u64 = CLOCK};
    bool ok = crew->epoll >= 0 && crew->kick >= 0 && crew->clock >= 0 &&
              epoll_ctl(crew->epoll, EPOLL_CTL_ADD, crew->kick, &kick) == 0 &&
              epoll_ctl(crew->epoll, EPOLL_CTL_ADD, crew->clock, &clock) == 0;
    pthread_mutex_lock(&crew->lock);
    ok = ok && spawn(crew); /* there is always one */
    pthread_mutex_unlock(&crew->lock);
    if (ok)
        return crew;
    p9_crew_free(crew);
    return NULL;
}

void p9_crew_free(struct p9_crew *crew)
{
    if (!crew)
        return;
    pthread_mutex_lock(&crew->tick_lock);
    crew->tick_stop = true;
    pthread_cond_signal(&crew->tick_cond);
    pthread_mutex_unlock(&crew->tick_lock);
    if (crew->ticking)
        pthread_join(crew->tick, NULL);
    pthread_mutex_lock(&crew->lock);
    assert(!crew->conns);
    crew->stopping = true;
    pthread_cond_broadcast(&crew->work);
    if (crew->kick >= 0)
        eventfd_write(crew->kick, 1);
    while (crew->nthreads)
        pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
    if (crew->any_dead)
        pthread_join(crew->dead, NULL);
    drop_pool(crew);
    if (crew->epoll >= 0)
        close(crew->epoll);
    if (crew->kick >= 0)
        close(crew->kick);
    if (crew->clock >= 0)
        close(crew->clock);
    free(crew->looks);
    pthread_cond_destroy(&crew->work);
    pthread_cond_destroy(&crew->done);
    pthread_cond_destroy(&crew->tick_cond);
    pthread_mutex_destroy(&crew->lock);
    pthread_mutex_destroy(&crew->active_lock);
    pthread_mutex_destroy(&crew->tick_lock);
    free(crew);
}
