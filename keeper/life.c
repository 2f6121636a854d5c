/* SPDX-License-Identifier: MIT */
/*
 * The servers, one after the other, and whether one hangs.
 *
 * A server is *away* when it does not read the device: from its death (or stop) until its successor
 * says MSG_UP (or it goes on). After AWAY ms of that the keeper reads the device itself, so that
 * interrupted callers are let go (stand_in.h); not at once, since most are back sooner, and then
 * nobody shall notice anything. It stops when the successor is told to go (MSG_GO): one that is not
 * up job->hang seconds after its start is killed, and one that is stopped before it has answered
 * anything is killed at once.
 *
 * A server that is there and hangs is found by looking whether requests wait and none was taken
 * since the last look: every LOOK ms while something happens, else ever more seldom, down to twice
 * in job->hang. So a busy mount wakes the keeper four times a second, an idle one four times a
 * minute (with the default of 30 s), and a server is killed between one and one and a half times
 * job->hang after it took its last request. (Polling the device tells nothing: that would wake us
 * at each request.) While a server hangs, the keeper reads in its place for a moment every SLOW / 2
 * ms and has all asked again at once, since it may be only slow.
 */
#include "base/futex.h"
#include "base/log.h"
#include "fuse/proto.h"
#include "keeper/nested.h"
#include "keeper/state.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AWAY    50
#define LOOK    250
#define SLOW    2000 /* from the first look that found it so; then every SLOW / 2 */
#define LONG    10000
#define QUICK   1000 /* a crash that soon after its start ... */
#define CRASHES 20   /* ... so many times in a row is as if nothing had been answered */

static const int backoff[] = {10, 100, 500, 2000, 5000};
#define TRIES (sizeof(backoff) / sizeof(*backoff))

enum { SERVER, NURSERY };

void life_signal(const struct keeper *k, int sig)
{
    if (k->server > 0)
        kill(k->server, sig);
}

/* ---- making one ---- */

static uint64_t answered(const struct keeper *k)
{
    uint64_t n = 0;
    for (size_t i = 0; i < k->n; i++)
        if (k->m[i].ledger)
            n += atomic_load(&k->m[i].ledger->head->answered);
    return n;
}

/* The server's process id is known. */
static void has_pid(struct keeper *k, pid_t pid)
{
    k->server = pid;
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->server, pid);
    if (k->forced)
        kill(pid, SIGKILL);
    else if (k->stop_sent && !k->ready) /* asked to end before it could be told */
        kill(pid, SIGTERM);
}

/* A fresh pair for the next server: its end, or a negative errno. */
static int new_sock(struct keeper *k)
{
    int pair[2];
    int rc = fdpass_pair(pair);
    if (rc < 0)
        return rc;
    if (k->sock >= 0)
        close(k->sock);
    k->sock = pair[0];
    fcntl(k->sock, F_SETFL, O_NONBLOCK); /* so that it can be drained */
    return pair[1];
}

/* Has the nursery make a server: 0 or a negative errno. */
static int ask(struct keeper *k)
{
    int end = new_sock(k);
    if (end < 0)
        return end;
    struct fdpass m = {.type = MSG_START, .nfd = 1, .fd = {end}};
    int rc = fdpass_send(k->life.nurse, &m);
    close(end);
    k->life.begun = rc == 0;
    k->life.began_at = mono_ms();
    k->life.answered = answered(k);
    k->life.stopped = k->life.hung = false;
    return rc;
}

/* Forks the nursery: 0 or a negative errno. */
static int make_nursery(struct keeper *k, const sigset_t *mask)
{
    int pair[2];
    int rc = fdpass_pair(pair);
    if (rc < 0)
        return rc;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        keeper_let_go(k);
        nursery_run(k->job, k->m, pair[1], mask);
    }
    rc = -errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return rc;
    }
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    k->life.nurse = pair[0];
    k->life.nursery = pid;
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->nursery, pid);
    return 0;
}

/* The server as a child of the keeper's own, with a table of descriptors of its own. */
static int make_server(struct keeper *k, const sigset_t *mask)
{
    int end = new_sock(k);
    if (end < 0)
        return end;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        keeper_let_go(k);
        server_signals(mask);
        server_run(k->job, k->m, end);
    }
    int rc = -errno;
    close(end);
    if (pid < 0)
        return rc;
    has_pid(k, pid);
    return 0;
}

int life_first(struct keeper *k, const int *given, const sigset_t *mask, struct pl_err *err)
{
    int rc = k->job->lasts && k->n ? make_nursery(k, mask) : make_server(k, mask);
    if (rc < 0)
        return pl_fail(err, rc, "cannot start the server process: %s", strerror(-rc));
    if (k->life.nursery) {
        rc = ask(k);
        if (rc < 0)
            return pl_fail(err, rc, "no socket: %s", strerror(-rc));
    }
    /* the ends of channels are the server's now */
    for (; given && *given >= 0; given++)
        close(*given);
    wire_null_stdio(false);
    return 0;
}

void life_give_up(struct keeper *k, const char *text)
{
    char state[sizeof(k->m->page->state)];
    bool stays = false;
    keeper_note(k, text);
    k->life.retry_at = k->life.away_at = k->life.look_at = 0;
    life_dismiss(k);
    snprintf(state, sizeof(state), "failed: %s", text);
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        if (m->mounted && nested_begin(m))
            stays = true;
        else
            keeper_take_away(k, i);
    }
    k->phase = stays ? FAILED : ENDING;
    keeper_state(k, state);
    if (!stays)
        return;
    k->life.mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    log_say(true, "%s: %s; it stays until what is mounted below is unmounted", k->job->prefix,
            text);
}

void life_begin(struct keeper *k)
{
    struct life *l = &k->life;
    l->retry_at = 0;
    l->restarted = true;
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        m->up = false;
        m->slow = 0;
        atomic_store(&m->page->stats.waiting, 0);
        atomic_fetch_add(&m->page->restarts, 1);
    }
    k->ready = k->done = false;
    l->look_at = 0;
    int rc = ask(k);
    if (rc < 0) {
        snprintf(l->why, sizeof(l->why), "no next server could be started: %s", strerror(-rc));
        life_give_up(k, l->why);
        return;
    }
    if (l->leaving[SERVER])
        wire_say(k->sock, MSG_LEAVE, 0, 0, NULL);
    keeper_send_mounts(k);
}

void life_ready(struct keeper *k, bool lasts)
{
    k->life.lasts = lasts && k->life.nurse >= 0; /* if not: see life_tick() */
}

/* From here on, until it is up, only it may read the devices. It has all asked again that its
 * predecessor has left, and takes the first request that is new for a sign that it has seen those:
 * one that we held back would come too late, and might be done twice. */
void life_next_ready(struct keeper *k, bool lasts)
{
    life_ready(k, lasts);
    for (size_t i = 0; i < k->n; i++)
        stand_in_settle(&k->m[i]);
    wire_say(k->sock, MSG_GO, 0, 0, NULL);
}

void life_not_ready(struct keeper *k, const char *text)
{
    snprintf(k->life.why, sizeof(k->life.why), "%s", text);
}

bool life_over(const struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++)
        if (!k->m[i].over && !k->m[i].gone)
            return false;
    return true;
}

static bool all_up(const struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++)
        if (!k->m[i].up && !k->m[i].gone)
            return false;
    return true;
}

/* Can the kernel ask again what a dead server has left unanswered? */
static bool asks_again(const struct kept *m)
{
    return !m->ledger || (m->ledger->head->flags & FUSE_HAS_RESEND);
}

void life_up(struct keeper *k, struct kept *m)
{
    m->up = true;
    if (!asks_again(m)) {
        k->life.lasts = false;
        snprintf(m->page->stats.lasts, sizeof(m->page->stats.lasts),
                 "ends with its server: the kernel cannot ask again (Linux 6.9 or newer can)");
    }
    if (k->phase != UP || !all_up(k) || k->life.stopped)
        return;
    k->life.away_at = 0;
    keeper_state(k, "up");
    control_up(k);
}

/* ---- ends ---- */

/* The kernel's end of the mount is closed: unmounted, or aborted. A server that is well has seen it
 * too and ends by itself. */
static void device_over(struct keeper *k, struct kept *m)
{
    m->over = true;
    if (k->server == 0 && !k->life.begun) {
        m->gone = true;
        keeper_take_away(k, (size_t)(m - k->m));
    }
    if (!life_over(k))
        return;
    if (k->server == 0 && !k->life.begun)
        k->life.retry_at = 0; /* nobody needs it any more */
    else if (k->life.stopped)
        life_signal(k, SIGKILL);
    else
        keeper_expect_end(k);
}

/* POLLIN: a request waits. */
static short device(struct keeper *k, struct kept *m)
{
    struct pollfd p = {.fd = m->fd, .events = POLLIN};
    if (m->fd < 0 || m->over || poll(&p, 1, 0) <= 0)
        return 0;
    if (p.revents & (POLLERR | POLLHUP))
        device_over(k, m);
    return p.revents;
}

/* Did the server that has just ended leave something undone without having done anything? One that
 * somebody has killed after some time may just have had nothing but a long operation in hand. */
static bool in_vain(struct keeper *k, bool fault)
{
    int64_t age = mono_ms() - k->life.began_at;
    if (!all_up(k))
        return true;
    if (answered(k) != k->life.answered || (!fault && age >= LONG))
        return false;
    for (size_t i = 0; i < k->n; i++)
        if (atomic_load(&k->m[i].page->stats.waiting) > 0 ||
            (age < QUICK && (device(k, &k->m[i]) & POLLIN)))
            return true;
    return false;
}

/* How long to wait before the next one, in ms; -1: no more. */
static int next_try(struct keeper *k, bool crashed)
{
    struct life *l = &k->life;
    l->quick = crashed && mono_ms() - l->began_at < QUICK ? l->quick + 1 : 0;
    if (!in_vain(k, crashed || l->hung) && l->quick < CRASHES) {
        l->tries = 0;
        return 0;
    }
    return l->tries < TRIES ? backoff[l->tries++] : -1;
}

bool life_next(struct keeper *k, int status, const char *text)
{
    struct life *l = &k->life;
    char line[400];
    bool crashed = !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
    if (k->phase != UP || !l->lasts || l->nurse < 0)
        return false;
    for (size_t i = 0; i < k->n; i++)
        device(k, &k->m[i]);
    if (life_over(k)) /* it was killed while it ended */
        return false;
    if (!*l->why || l->hung)
        snprintf(l->why, sizeof(l->why), "%s", l->hung ? "the server hung and was killed" : text);
    for (size_t i = 0; (crashed || l->hung) && i < k->n; i++)
        if (k->m[i].ledger)
            ledger_blame(k->m[i].ledger);
    int wait = control_taking(k) ? 0 : next_try(k, crashed);
    if (wait < 0) {
        snprintf(line, sizeof(line), "%s (given up after %zu tries)", l->why, TRIES + 1);
        control_died(k);
        life_give_up(k, line);
        return true;
    }
    snprintf(line, sizeof(line), "%s", l->why);
    l->why[0] = 0;
    k->forced = false;
    k->deadline = 0;
    l->stopped = false;
    l->away_at = l->away_at ? l->away_at : mono_ms();
    l->retry_at = mono_ms() + wait;
    keeper_state(k, "restarting");
    control_died(k);
    if (wait == 0)
        life_begin(k);
    log_say(false, "%s: %s: %s: the next one carries on%s", k->job->prefix, k->m[0].path, line,
            wait > 10 ? " after a pause" : "");
    return true;
}

bool life_serve_failed(struct keeper *k, struct kept *m, const char *text)
{
    if (k->phase != UP || !k->life.lasts || m->up || (device(k, m) & (POLLERR | POLLHUP)))
        return false;
    life_not_ready(k, text);
    life_signal(k, SIGKILL);
    return true;
}

void life_dismiss(struct keeper *k)
{
    struct life *l = &k->life;
    l->retry_at = 0;
    if (l->nursery > 0) /* first: the end of its socket means to it that we are dead */
        kill(l->nursery, SIGKILL);
    if (l->nurse >= 0)
        close(l->nurse);
    l->nurse = -1;
    control_dismiss(k);
}

/* ---- the nursery ---- */

void life_leave(struct keeper *k)
{
    k->life.leaving[SERVER] = true;
    k->life.leaving[NURSERY] = k->life.nurse >= 0;
    wire_say(k->sock, MSG_LEAVE, 0, 0, NULL);
    if (k->life.nurse >= 0)
        wire_say(k->life.nurse, MSG_LEAVE, 0, 0, NULL);
}

void life_left(struct keeper *k, bool nursery)
{
    bool *l = k->life.leaving, any = l[SERVER] || l[NURSERY];
    l[nursery ? NURSERY : SERVER] = false;
    if (any && !l[SERVER] && !l[NURSERY])
        keeper_left(k);
}

static void started(struct keeper *k, int64_t pid)
{
    if (!k->life.begun)
        return;
    k->life.begun = false;
    if (pid > 0) {
        has_pid(k, (pid_t)pid);
        keeper_reap(k); /* it may have ended already */
        return;
    }
    char text[100];
    snprintf(text, sizeof(text), "no process for the server: %s", strerror((int)-pid));
    if (life_next(k, 0, text))
        return;
    keeper_fail(k, text);
}

static void on_nurse(struct keeper *k, void *arg, short events)
{
    struct fdpass m;
    int rc = -EAGAIN;
    while (k->life.nurse >= 0 && (rc = fdpass_recv(k->life.nurse, &m)) > 0) {
        if (m.type == MSG_STARTED)
            started(k, m.value);
        else if (m.type == MSG_LEFT)
            life_left(k, true);
        else if (m.type == MSG_UPGRADED)
            control_upgraded(k, (pid_t)m.value);
        else
            fdpass_drop(&m);
    }
    if (k->life.nurse >= 0 && rc != -EAGAIN) {
        close(k->life.nurse);
        k->life.nurse = -1;
    }
}

/* It has ended. If it was not told to, there will be no other server. */
static void nursery_ended(struct keeper *k)
{
    struct life *l = &k->life;
    bool ours = l->nurse < 0;
    on_nurse(k, NULL, 0);
    if (l->nurse >= 0)
        close(l->nurse);
    l->nurse = -1;
    l->nursery = 0;
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->nursery, 0);
    if (l->leaving[NURSERY])
        life_left(k, true);
    bool lost = l->begun; /* a server whose number we shall never know: it sees us go */
    l->begun = false;
    if (lost && k->sock >= 0) {
        close(k->sock);
        k->sock = -1;
    }
    if (lost || l->retry_at) {
        if (k->phase == UP)
            life_give_up(k, "the nursery was killed, and the server is dead");
        else
            keeper_fail(k, "the nursery was killed");
    } else if (!ours && l->lasts && k->server > 0) {
        log_say(true, "%s: %s: the nursery was killed: the mount ends with its server",
                k->job->prefix, k->m[0].path);
        for (size_t i = 0; i < k->n; i++)
            snprintf(k->m[i].page->stats.lasts, sizeof(k->m[i].page->stats.lasts),
                     "ends with its server: the nursery was killed");
    }
    l->lasts = false;
}

/* ---- stopped, going on ---- */

static void goes_on(struct keeper *k)
{
    struct life *l = &k->life;
    l->stopped = false;
    if (!all_up(k))
        return;
    l->away_at = 0;
    for (size_t i = 0; i < k->n; i++)
        stand_in_end(&k->m[i]);
    if (k->phase == UP)
        keeper_state(k, "up");
}

void life_reap(struct keeper *k)
{
    struct life *l = &k->life;
    siginfo_t si = {0};
    int status;
    if (l->nursery > 0 && waitpid(l->nursery, &status, WNOHANG) == l->nursery)
        nursery_ended(k);
    if (k->server <= 0 || !l->lasts ||
        waitid(P_PID, (id_t)k->server, &si, WSTOPPED | WCONTINUED | WNOHANG) < 0 || !si.si_pid)
        return;
    if (si.si_code == CLD_CONTINUED) {
        goes_on(k);
    } else if (!l->stopped && k->phase == UP && answered(k) == l->answered && l->restarted) {
        life_not_ready(k, "the server was stopped as soon as it was there");
        life_signal(k, SIGKILL);
    } else if (!l->stopped && k->phase == UP) {
        l->stopped = true;
        l->stopped_at = mono_ms();
        l->away_at = l->away_at ? l->away_at : l->stopped_at;
        keeper_state(k, "stopped");
        control_stopped(k);
    }
}

/* ---- hangs ---- */

static bool watches(const struct keeper *k)
{
    return k->phase == UP && k->life.lasts && k->job->hang && k->server > 0 && !k->life.stopped &&
           all_up(k);
}

static void kill_hung(struct keeper *k)
{
    k->life.hung = true;
    k->life.away_at = k->life.away_at ? k->life.away_at : mono_ms();
    k->life.stopped_at = 0;
    log_say(true, "%s: %s: the server %s for %u s and is killed", k->job->prefix, k->m[0].path,
            all_up(k) ? "took no requests" : "did not begin", k->job->hang);
    life_signal(k, SIGKILL);
}

/* One mount's look. `passed`: ms since the last one. True if something happens. */
static bool look_at(struct keeper *k, struct kept *m, int64_t passed)
{
    uint64_t taken = atomic_load_explicit(&m->page->stats.requests, memory_order_relaxed);
    /* A server whose every thread waits for the other end does not hang. */
    bool waits = device(k, m) & POLLIN && !atomic_load(&m->page->link.down);
    bool moved = taken != m->seen;
    m->seen = taken;
    if (!waits || moved) {
        if (m->slow >= SLOW && k->phase == UP)
            keeper_state(k, "up");
        m->slow = 0;
        return waits || moved;
    }
    int64_t was = m->slow;
    m->slow += passed;
    if (m->slow < SLOW)
        return true;
    if (was < SLOW)
        keeper_state(k, "hangs");
    if (m->slow / (SLOW / 2) != was / (SLOW / 2) && answered(k) != k->life.answered &&
        stand_in_open(m) >= 0) {
        stand_in_let_go(m);
        stand_in_end(m);
    }
    return true;
}

static void look(struct keeper *k)
{
    bool any = false, hangs = false;
    /* time in which we did not run either does not count */
    int64_t late = mono_ms() - k->life.look_at, passed = LOOK + (late < LOOK ? late : LOOK);
    for (size_t i = 0; i < k->n; i++) {
        if (k->m[i].gone || k->m[i].over)
            continue;
        any |= look_at(k, &k->m[i], passed);
        hangs |= k->m[i].slow >= (int64_t)k->job->hang * 1000;
    }
    if (hangs) {
        k->life.look_at = 0;
        kill_hung(k);
        return;
    }
    int64_t most = (int64_t)k->job->hang * 1000 / 2;
    k->life.pause = any ? LOOK : 2 * k->life.pause;
    k->life.pause = k->life.pause < most ? k->life.pause : most < LOOK ? LOOK : most;
    k->life.look_at = mono_ms() + k->life.pause;
}

/* ---- waiting ---- */

bool life_has(const struct keeper *k)
{
    const struct life *l = &k->life;
    if (k->server > 0 || l->begun || l->retry_at || l->nursery > 0 || k->up.pid || k->up.old_pid)
        return true;
    for (size_t i = 0; i < k->n; i++)
        if (k->m[i].in.nested)
            return true;
    return false;
}

static void on_device(struct keeper *k, void *arg, short events)
{
    struct kept *m = arg;
    if (m->fd < 0)
        return;
    if (events & (POLLERR | POLLHUP)) {
        if (k->phase == FAILED)
            keeper_take_away(k, (size_t)(m - k->m));
        else
            device_over(k, m);
    } else if (k->phase == FAILED) {
        nested_answer(m);
    } else if (k->life.away_at) {
        stand_in_let_go(m);
    }
}

/* Something was mounted or unmounted. */
static void on_mountinfo(struct keeper *k, void *arg, short events)
{
    for (size_t i = 0; k->phase == FAILED && i < k->n; i++)
        if (k->m[i].in.nested && !nested_refresh(&k->m[i]))
            keeper_take_away(k, i);
}

static bool stands_in(const struct keeper *k, const struct kept *m)
{
    const struct life *l = &k->life;
    return k->phase == UP && l->lasts && l->away_at && mono_ms() >= l->away_at + AWAY &&
           (l->stopped || l->hung || k->server == 0 || !k->ready);
}

/* When callers have waited for long enough for a server that may itself wait for the other end, in
 * ms; 0: never, or they are not made to wait any more. */
static int64_t soft_end(const struct keeper *k, const struct kept *m)
{
    int64_t soft = atomic_load(&m->page->link.soft) / 1000000, since = k->life.away_at;
    if (!soft || m->in.soft || m->in.fd < 0 || k->life.stopped || !stands_in(k, m))
        return 0;
    if (atomic_load(&m->page->link.down)) { /* perhaps while there still was one */
        int64_t down = mono_ms() - (time(NULL) - atomic_load(&m->page->link.since)) * 1000;
        since = down < since ? down : since;
    }
    return since + soft;
}

/* When one that is stopped, or does not come up, is killed; 0: it is not. */
static int64_t patience(const struct keeper *k)
{
    const struct life *l = &k->life;
    if (!k->job->hang || !l->lasts || l->hung || k->server <= 0 || control_busy(k))
        return 0;
    /* One that begins may have to wait for the other end, which says nothing against it. */
    bool waits = !l->stopped && atomic_load(&k->m[0].page->link.down);
    int64_t since = l->stopped ? l->stopped_at : all_up(k) || waits ? 0 : l->began_at;
    return since ? since + (int64_t)k->job->hang * 1000 : 0;
}

void life_waits(struct keeper *k, struct waits *w)
{
    struct life *l = &k->life;
    wait_for(w, l->nurse, POLLIN, on_nurse, NULL);
    wait_until(w, l->retry_at);
    if (k->phase == FAILED)
        wait_for(w, l->mountinfo, POLLPRI, on_mountinfo, NULL);
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        if (m->fd < 0 || m->over)
            continue;
        if (m->in.nested || stands_in(k, m))
            wait_for(w, stand_in_open(m), POLLIN, on_device, m);
        if (m->in.nheld)
            wait_until(w, mono_ms() + STAND_IN_LOOK);
        wait_until(w, soft_end(k, m));
    }
    if (k->phase != UP)
        return;
    if (l->away_at && mono_ms() < l->away_at + AWAY)
        wait_until(w, l->away_at + AWAY);
    wait_until(w, l->look_at);
    wait_until(w, patience(k));
}

void life_tick(struct keeper *k)
{
    struct life *l = &k->life;
    if (k->server == 0 && !l->begun && !l->retry_at && !control_busy(k))
        life_dismiss(k); /* there will be none */
    if (k->server > 0 && k->ready && !l->lasts)
        life_dismiss(k); /* what is the server's alone must close with it */
    if (k->phase != UP)
        return;
    for (size_t i = 0; i < k->n; i++) {
        int64_t soft = soft_end(k, &k->m[i]);
        if (stands_in(k, &k->m[i]))
            stand_in_look(&k->m[i]);
        if (soft && mono_ms() >= soft)
            stand_in_soft(&k->m[i]);
    }
    if (l->retry_at && mono_ms() >= l->retry_at)
        life_begin(k);
    if (!watches(k))
        l->look_at = 0;
    else if (!l->look_at)
        l->look_at = mono_ms() + (l->pause = LOOK);
    else if (mono_ms() >= l->look_at)
        look(k);
    if (patience(k) && mono_ms() >= patience(k))
        kill_hung(k);
}
