/* SPDX-License-Identifier: MIT */
/*
 * `lock` guards the fields from `conn` on; no dialing happens under it. One thread at a time dials
 * for another connection (`dialing`); others that want it wait for that one. The link's thread
 * dials for the link; while it does there is no other connection to be dialed.
 */
#include "cmd/far.h"
#include "base/backoff.h"
#include "base/futex.h"
#include "base/limits.h"
#include "cmd/spec.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND      INT64_C(1000000000)
#define PATIENCE_MS 5000 /* an ssh that is not needed gets so long to end by itself ... */
#define STOP_MS     1000 /* ... and then after SIGTERM: it may be stopped */

struct conn {
    struct conn *next;
    struct p9_conn *conn;
};

/* A tree over the far end, and the connection that it has now. */
struct tree {
    struct tree *next;
    struct far *far;
    struct p9_conn *conn;
};

struct far {
    struct far_how how;
    struct linkopt opts;
    char **addrs, *version;
    bool again;
    int cancel;    /* an eventfd: whoever dials for `again` stops */
    int64_t login; /* so long the next ssh of the link may take, ns; its thread's */

    pthread_mutex_t lock;
    pthread_cond_t change; /* of `dialing` and `ending` */
    struct p9_conn *conn;  /* the one in use */
    size_t at;             /* its address */
    char token[SSHLINK_TOKEN];
    pid_t ssh;         /* our child */
    pid_t first;       /* an ssh that is somebody else's */
    int64_t down;      /* since when nobody is there, mono_now(); 0: somebody is */
    char refused[160]; /* what somebody has to mend, as told since then */
    bool dialing, ending, lost;
    bool kept; /* there is a link */
    struct tree *trees;
    struct conn *made; /* with how.shared: all that are not freed */
};

/* ---- making one ---- */

static bool redialable(const struct far_how *how)
{
    if (!how->addrs)
        return how->ssh != NULL;
    for (size_t i = 0; how->addrs[i]; i++)
        if (!chan_again(how->addrs[i]))
            return false;
    return true;
}

/* Is there anything in between that may break? */
static bool far_away(const struct far_how *how)
{
    return !how->addrs || chan_far(how->addrs[0]);
}

static struct linkopt settle(const struct far_how *how)
{
    struct linkopt o = how->opts;
    bool away = far_away(how);
    if (o.linger < 0)
        o.linger = away ? LINKOPT_LINGER : 0;
    if (o.keepalive < 0)
        o.keepalive = away ? LINKOPT_KEEPALIVE : 0;
    if (!redialable(how))
        o.linger = 0;
    return o;
}

static char **copy_list(char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    char **copy = calloc(n + 1, sizeof(*copy));
    for (size_t i = 0; copy && i < n; i++)
        copy[i] = strdup(list[i]);
    for (size_t i = 0; copy && i < n; i++) {
        if (copy[i])
            continue;
        for (size_t j = 0; j < n; j++)
            free(copy[j]);
        free(copy);
        return NULL;
    }
    return copy;
}

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

int far_new(const struct far_how *how, struct far **ret)
{
    struct far *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->how = *how;
    f->opts = settle(how);
    f->again = f->opts.linger > 0;
    f->addrs = copy_list(how->addrs);
    f->version = how->version ? strdup(how->version) : NULL;
    f->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!f->addrs || (how->version && !f->version) || f->cancel < 0) {
        free_list(f->addrs);
        free(f->version);
        if (f->cancel >= 0)
            close(f->cancel);
        free(f);
        return -ENOMEM;
    }
    pthread_mutex_init(&f->lock, NULL);
    pl_cond_init(&f->change);
    *ret = f;
    return 0;
}

bool far_again(const struct far *f)
{
    return f->again;
}

const struct linkopt *far_linkopt(const struct far *f)
{
    return &f->opts;
}

/* ---- an ssh's process ---- */

/* What is left of it is of no use to anybody: ends it now, or, with `wait`, when it does not end by
 * itself. */
static void drop_ssh(pid_t pid, bool wait)
{
    if (pid <= 0)
        return;
    int fd = pidfd_open(pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (!wait || fd < 0 || poll(&p, 1, PATIENCE_MS) == 0)
        kill(pid, SIGTERM);
    if (fd >= 0 && poll(&p, 1, STOP_MS) == 0)
        kill(pid, SIGKILL);
    if (fd >= 0)
        close(fd);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* The channel's ssh becomes ours to wait for: who closes a channel that broke must not. */
static void take_ssh(struct far *f, struct chan *chan)
{
    pthread_mutex_lock(&f->lock);
    pid_t old = f->ssh;
    f->ssh = chan->child;
    chan->child = 0;
    pid_t first = f->first;
    f->first = 0;
    pthread_mutex_unlock(&f->lock);
    drop_ssh(old, false);
    if (first > 0) {
        if (f->how.redialed)
            atomic_store(f->how.redialed, true);
        kill(first, SIGTERM);
    }
}

/* ---- being down ---- */

/* Also told of by the tree and, before, by its link: the first word counts. */
static void changed(void *arg, const char *down)
{
    struct far *f = arg;
    pthread_mutex_lock(&f->lock);
    bool tell = !f->ending && !f->lost && !f->down != !down;
    if (tell) {
        f->down = down ? mono_now() : 0;
        f->refused[0] = '\0';
    }
    pthread_mutex_unlock(&f->lock);
    if (tell && f->how.changed)
        f->how.changed(f->how.arg, down);
}

static void tree_changed(void *arg, const char *down)
{
    changed(((struct tree *)arg)->far, down);
}

static void refused(struct far *f, const char *sentence)
{
    char text[sizeof(f->refused)];
    snprintf(text, sizeof(text), "%.*s", (int)sizeof(text) - 1, sentence);
    pthread_mutex_lock(&f->lock);
    bool tell = !f->ending && !f->lost && f->down && strcmp(f->refused, text);
    if (tell)
        memcpy(f->refused, text, sizeof(text));
    pthread_mutex_unlock(&f->lock);
    if (tell && f->how.changed)
        f->how.changed(f->how.arg, text);
}

static int64_t down_since(struct far *f)
{
    pthread_mutex_lock(&f->lock);
    int64_t down = f->down;
    pthread_mutex_unlock(&f->lock);
    return down;
}

static void tell_lost(struct far *f, const char *sentence)
{
    pthread_mutex_lock(&f->lock);
    bool tell = !f->ending && !f->lost;
    f->lost = f->lost || tell;
    pthread_mutex_unlock(&f->lock);
    if (tell && f->how.lost)
        f->how.lost(f->how.arg, sentence);
}

const char *far_reason(const char *sentence)
{
    static const char same[] = "the link was lost: ";
    return strncmp(sentence, same, strlen(same)) ? sentence : sentence + strlen(same);
}

void far_over(struct far *f, int error, const char *sentence)
{
    pthread_mutex_lock(&f->lock);
    /* A link ends without having been down when the other end says goodbye. Who serves many may
     * come back; a duct has ended. */
    bool goodbye = f->how.shared && f->kept && !f->down;
    bool goes_on = f->again && f->trees && !goodbye;
    pthread_mutex_unlock(&f->lock);
    if (!goes_on)
        tell_lost(f, error && sentence ? far_reason(sentence) : "the other end closed it");
}

static void conn_over(void *arg, int error, const char *sentence)
{
    far_over(arg, error, sentence);
}

/* ---- the link's channels ---- */

/* Does another address take connections, so that it is not the network that is down? */
static bool another_answers(struct far *f, size_t at, int cancel)
{
    for (size_t i = 0; f->addrs[i]; i++) {
        struct chan chan;
        if (i == at || chan_dial_until(f->addrs[i], cancel, &chan, NULL) < 0)
            continue;
        chan_close(&chan);
        return true;
    }
    return false;
}

/* How long an ssh may take to log in cannot be known, but from the last: twice as long. One that
 * did not answer in time gives the next one more. */
static void note_login(struct far *f, int r, int64_t took)
{
    int64_t least = 2 * f->opts.keepalive, most = LIMIT_HELLO * SECOND;
    if (least < LIMIT_RETURN * SECOND)
        least = LIMIT_RETURN * SECOND;
    if (r == 0 || r == -ETIMEDOUT)
        f->login = 2 * took;
    f->login = f->login < least ? least : f->login;
    f->login = f->login > most || !f->opts.keepalive ? most : f->login;
}

static int redial_ssh(struct far *f, const char *token, int cancel, struct chan *ret,
                      struct pl_err *err)
{
    struct sshlink ssh = *f->how.ssh;
    int64_t began = mono_now();
    if (!f->login)
        note_login(f, 0, 0);
    ssh.patience = f->login;
    int r = sshlink_back(&ssh, token, cancel, ret, err);
    note_login(f, r, mono_now() - began);
    if (r == 0)
        take_ssh(f, ret);
    return r;
}

static int redial(void *arg, const char *id, int cancel, struct chan *ret, struct pl_err *err)
{
    struct far *f = arg;
    pthread_mutex_lock(&f->lock);
    size_t at = f->at;
    char token[SSHLINK_TOKEN];
    memcpy(token, f->token, sizeof(token));
    pthread_mutex_unlock(&f->lock);
    if (f->how.ssh)
        return redial_ssh(f, token, cancel, ret, err);
    int r = chan_dial_until(f->addrs[at], cancel, ret, err);
    if (r == -EACCES)
        refused(f, err->text);
    if (r == 0 || r == -ECANCELED || !(f->addrs[0] && f->addrs[1]))
        return r;
    int64_t down = down_since(f);
    bool long_enough = down && mono_now() - down > LIMIT_FAILOVER * SECOND;
    if ((r == -ECONNREFUSED || long_enough) && another_answers(f, at, cancel))
        return pl_fail(err, -ENOLINK, "%s does not answer, another server does", f->addrs[at]);
    return r;
}

static struct p9_link_opts link_opts(struct far *f)
{
    return (struct p9_link_opts){.linger = f->opts.linger,
                                 .keepalive = f->opts.keepalive,
                                 .soft = f->opts.soft,
                                 .redial = f->again && !f->version ? redial : NULL,
                                 .changed = changed,
                                 .arg = f};
}

/* ---- connections ---- */

static int connect_plain(struct far *f, struct chan *chan, const struct p9_link_opts *link,
                         struct p9_conn **ret, struct pl_err *err)
{
    struct p9_conn_opts opts = {.crew = spec_crew(),
                                .use = true,
                                .version = f->version,
                                .link = *link,
                                .over = conn_over,
                                .over_arg = f};
    if (!opts.crew)
        return pl_fail(err, -ENOMEM, "out of memory");
    return p9_conn_new(chan, &opts, ret, err);
}

/* Makes a connection of the channel, which is closed if that fails. */
static int connect_over(struct far *f, struct chan *chan, struct p9_conn **ret, struct pl_err *err)
{
    struct p9_link_opts link = link_opts(f);
    struct conn *made = f->how.shared ? calloc(1, sizeof(*made)) : NULL;
    int r = f->how.shared && !made ? pl_fail(err, -ENOMEM, "out of memory") : 0;
    if (r == 0)
        r = f->how.connect ? f->how.connect(f->how.arg, chan, &link, ret, err)
                           : connect_plain(f, chan, &link, ret, err);
    if (r < 0) {
        chan_close(chan);
        free(made);
        return r;
    }
    if (made) {
        pthread_mutex_lock(&f->lock);
        *made = (struct conn){.next = f->made, .conn = *ret};
        f->made = made;
        pthread_mutex_unlock(&f->lock);
    }
    return 0;
}

/* A channel to the first address that takes it, or by a new ssh. */
static int open_channel(struct far *f, int cancel, bool silent, struct chan *ret,
                        struct pl_err *err)
{
    int r = -ENOENT;
    if (!f->how.ssh) {
        size_t i = 0;
        for (; f->addrs[i]; i++)
            if ((r = chan_dial_until(f->addrs[i], cancel, ret, err)) == 0 || r == -ECANCELED)
                break;
        pthread_mutex_lock(&f->lock);
        f->at = r == 0 ? i : f->at;
        pthread_mutex_unlock(&f->lock);
        if (r < 0 && r != -ECANCELED && i > 1 && err) {
            struct pl_err last = *err;
            pl_fail(err, r, "none of the %zu servers answers; the last: %s", i, last.text);
        }
        return r;
    }
    struct sshlink ssh = *f->how.ssh;
    char token[SSHLINK_TOKEN];
    ssh.silent = silent;
    ssh.patience = silent ? LIMIT_HELLO * SECOND : 0;
    ssh.cancel = cancel >= 0 ? cancel : 0;
    r = sshlink_token(token, err);
    if (r == 0)
        r = sshlink_start_as(&ssh, token, ret, err);
    if (r < 0)
        return r;
    take_ssh(f, ret);
    pthread_mutex_lock(&f->lock);
    memcpy(f->token, token, sizeof(f->token));
    pthread_mutex_unlock(&f->lock);
    return 0;
}

int far_use(struct far *f, struct p9_conn *conn, struct pl_call *call, struct pl_err *err)
{
    int r = p9_use(conn, call, err);
    if (r == 0) {
        pthread_mutex_lock(&f->lock);
        f->kept = *p9_conn_link(conn);
        pthread_mutex_unlock(&f->lock);
        if (f->how.ready)
            f->how.ready(f->how.arg, f, conn);
    }
    return r;
}

int far_take(struct far *f, struct chan *chan, const char *token, struct p9_conn **ret,
             struct pl_err *err)
{
    if (token) {
        snprintf(f->token, sizeof(f->token), "%s", token);
        f->first = chan->child;
        chan->child = 0;
    }
    int r = connect_over(f, chan, ret, err);
    if (r == 0)
        f->conn = *ret;
    return r;
}

/* What a process that was killed, and that we follow, has left at the other end holds its locks. */
static void forget_left(struct far *f)
{
    struct chan chan;
    int64_t end = mono_now() + SECOND;
    for (size_t i = 0; f->how.left && *f->how.left && f->addrs[i]; i++) {
        int r = 0;
        while (r == 0 && mono_now() < end && chan_dial(f->addrs[i], &chan, NULL) == 0) {
            r = p9_link_forget(&chan, f->how.left);
            chan_close(&chan);
        }
    }
    f->how.left = NULL;
}

int far_dial(struct far *f, struct far_peer *peer, struct p9_conn **ret, struct pl_err *err)
{
    struct chan chan;
    forget_left(f);
    int r = open_channel(f, -1, false, &chan, err);
    if (r < 0)
        return r;
    if (peer) {
        snprintf(peer->name, sizeof(peer->name), "%s", chan.peer);
        peer->note = chan.note;
    }
    return far_take(f, &chan, NULL, ret, err);
}

/* ---- another connection ---- */

static void wake(void *arg)
{
    struct far *f = arg;
    if (write(f->cancel, &(uint64_t){1}, 8) < 0 && errno != EAGAIN)
        abort(); /* it only fails when it is not an eventfd */
    pthread_mutex_lock(&f->lock);
    pthread_cond_broadcast(&f->change);
    pthread_mutex_unlock(&f->lock);
}

/* A wake that was meant for the last who dialed. */
static void forget_wakes(struct far *f)
{
    uint64_t n;
    if (read(f->cancel, &n, sizeof(n)) < 0 && errno != EAGAIN)
        abort();
}

/* Waits for one's turn to dial: 1, or 0 when somebody else has brought *ret, or -errno. */
static int turn(struct far *f, struct pl_call *call, const struct p9_conn *old,
                struct p9_conn **ret)
{
    int r = pl_call_block(call, wake, f);
    if (r < 0)
        return r;
    pthread_mutex_lock(&f->lock);
    while (!f->ending && !f->lost && f->dialing && f->conn == old && !(r = pl_call_over(call)))
        pl_call_wait(call, &f->change, &f->lock);
    if (r == 0 && (f->ending || f->lost)) {
        r = -ECONNABORTED;
    } else if (r == 0 && f->conn != old) {
        *ret = f->conn;
    } else if (r == 0) {
        f->dialing = true;
        r = 1;
    }
    pthread_mutex_unlock(&f->lock);
    pl_call_unblock(call);
    return r;
}

static int try_once(struct far *f, struct pl_call *call, struct p9_conn **ret, struct pl_err *err)
{
    struct chan chan;
    int r = pl_call_block(call, wake, f);
    if (r < 0)
        return r;
    r = open_channel(f, f->cancel, true, &chan, err);
    pl_call_unblock(call);
    if (r == 0)
        r = connect_over(f, &chan, ret, err);
    if (r == 0 && (r = far_use(f, *ret, call, err)) < 0) {
        p9_conn_abort(*ret);
        if (!f->how.shared)
            p9_conn_free(*ret);
    }
    return r;
}

/* Until it has one, or the call is over, or it has lingered long enough. */
static int dial_on(struct far *f, struct pl_call *call, struct p9_conn **ret, struct pl_err *err)
{
    int64_t end = mono_now() + f->opts.linger, down = down_since(f);
    if (down)
        end = down + f->opts.linger;
    for (int64_t pause = backoff_next(0);; pause = backoff_next(pause)) {
        int r = try_once(f, call, ret, err), over = pl_call_over(call);
        if (r == 0 || over)
            return r == 0 ? 0 : over;
        if (mono_now() >= end)
            return r;
        if ((over = pl_call_sleep(call, backoff_jitter(pause))) < 0)
            return over;
    }
}

/* Frees the shared connections that no tree has any more. */
static void sweep(struct far *f)
{
    struct conn *unused = NULL;
    pthread_mutex_lock(&f->lock);
    for (struct conn **at = &f->made; *at;) {
        struct conn *c = *at;
        bool used = c->conn == f->conn;
        for (struct tree *t = f->trees; t && !used; t = t->next)
            used = t->conn == c->conn;
        if (used) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        c->next = unused;
        unused = c;
    }
    pthread_mutex_unlock(&f->lock);
    while (unused) {
        struct conn *c = unused;
        unused = c->next;
        p9_conn_free(c->conn);
        free(c);
    }
}

static int again(void *arg, struct pl_call *call, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err)
{
    struct tree *t = arg;
    struct far *f = t->far;
    struct pl_err why = {.text = "the other end closed it"};
    if (f->how.shared)
        p9_conn_wait(old, NULL); /* far_over() has said whether it goes on */
    int r = turn(f, call, old, ret);
    if (r == 1) {
        sweep(f);
        forget_wakes(f);
        r = dial_on(f, call, ret, &why);
        pthread_mutex_lock(&f->lock);
        f->dialing = false;
        if (r == 0)
            f->conn = *ret;
        pthread_cond_broadcast(&f->change);
        pthread_mutex_unlock(&f->lock);
        if (r < 0 && !pl_call_over(call))
            tell_lost(f, why.text);
    }
    if (r < 0)
        return pl_fail(err, r, "%s", why.text);
    pthread_mutex_lock(&f->lock);
    t->conn = *ret;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void tree_done(void *arg)
{
    struct tree *t = arg;
    struct far *f = t->far;
    pthread_mutex_lock(&f->lock);
    struct tree **at = &f->trees;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (!f->how.shared)
        f->conn = NULL;
    pthread_mutex_unlock(&f->lock);
    free(t);
    if (!f->how.shared)
        far_free(f);
}

int far_tree(struct far *f, struct p9_conn *conn, struct pl_p9_opts *opts, struct pl_tree **ret,
             struct pl_err *err)
{
    struct tree *t = calloc(1, sizeof(*t));
    if (!t)
        return pl_fail(err, -ENOMEM, "out of memory");
    *t = (struct tree){.far = f, .conn = conn};
    opts->again = f->again ? again : NULL;
    opts->again_arg = t;
    opts->soft = f->opts.soft;
    opts->changed = tree_changed;
    opts->done = tree_done;
    opts->own = !f->how.shared;
    opts->near = PL_P9_NEAR;
    pthread_mutex_lock(&f->lock);
    t->next = f->trees;
    f->trees = t;
    pthread_mutex_unlock(&f->lock);
    int r = pl_p9_open(conn, opts, ret, err);
    if (r == 0)
        return 0;
    pthread_mutex_lock(&f->lock);
    f->trees = t->next; /* nobody else opens one meanwhile */
    pthread_mutex_unlock(&f->lock);
    free(t);
    return r;
}

/* ---- the end ---- */

void far_end(struct far *f)
{
    pthread_mutex_lock(&f->lock);
    f->ending = true;
    struct p9_conn *conn = f->conn;
    if (conn && p9_conn_down(conn))
        p9_conn_abort(conn);
    pthread_cond_broadcast(&f->change);
    pthread_mutex_unlock(&f->lock);
}

struct p9_conn *far_conn(struct far *f)
{
    pthread_mutex_lock(&f->lock);
    struct p9_conn *conn = f->conn;
    pthread_mutex_unlock(&f->lock);
    return conn;
}

void far_free(struct far *f)
{
    if (!f)
        return;
    while (f->made) {
        struct conn *c = f->made;
        f->made = c->next;
        p9_conn_free(c->conn);
        free(c);
    }
    drop_ssh(f->ssh, !f->down); /* without a link it has nothing to say any more */
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->change);
    close(f->cancel);
    free_list(f->addrs);
    free(f->version);
    free(f->how.own);
    free(f);
}
