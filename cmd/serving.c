/* SPDX-License-Identifier: MIT */
/*
 * The accept loop. This thread alone accepts, frees connections and ends; the engine's threads tell
 * of a connection's end through its flag and an eventfd. Idle, it sleeps in poll without a timeout.
 */
#include "cmd/serving.h"
#include "base/confine.h"
#include "base/limits.h"
#include "cmd/holder.h"
#include "cmd/mountopt.h"
#include "cmd/util.h"
#include "doors/p9_access.h"
#include "keeper/registry.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_MS 100 /* out of descriptors: so long until the next try to accept */

struct link {
    struct link *next;
    struct server *server;
    struct p9_conn *conn;
    char peer[128], key[128]; /* key: who it is, for LIMIT_PEER */
    int error;                /* set before `over` */
    char sentence[400];
    atomic_bool over;
};

struct server {
    const struct serving *s;
    struct p9_crew *crew;
    struct p9_links *known; /* to be found again; or NULL */
    struct holder *holder;  /* or NULL */
    struct p9_door *door;
    struct reg_entry *entry;
    struct reg_page *page;
    struct chan_listener **listeners; /* s->n of them, NULL for those that are one connection */
    size_t nlisteners;
    struct link *links;
    size_t served,
        live; /* connections so far, and now: at LIMIT_CONNECTIONS others wait to be accepted */
    char greedy[128]; /* who had too many last */
    int signal_fd, event_fd, hangup_fd;
    struct p9_access *access;
    int status;
    bool stop;
};

/* An address that is one connection: stdio, fd!..., exec!... */
static bool single(const char *addr)
{
    return !strcmp(addr, "stdio") || !strncmp(addr, "fd!", 3) || !strncmp(addr, "fd:", 3) ||
           !strncmp(addr, "exec!", 5) || !strncmp(addr, "exec:", 5);
}

static int failed(struct server *sv, const char *sentence)
{
    fprintf(stderr, "%s: %s\n", sv->s->prefix, sentence);
    return 1;
}

static void over(void *arg, int error, const char *sentence)
{
    struct link *l = arg;
    int event = l->server->event_fd;
    l->error = error;
    snprintf(l->sentence, sizeof(l->sentence), "%s", error && sentence ? sentence : "");
    atomic_store(&l->over, true);
    /* l may be gone from here on */
    if (write(event, &(uint64_t){1}, 8) < 0)
        abort(); /* it only fails when it is not an eventfd */
}

/* A link went down or is up again: the main thread counts. */
static void changed(void *arg, const char *down)
{
    struct server *sv = arg;
    if (down)
        reg_link_changed(sv->page, down);
    if (write(sv->event_fd, &(uint64_t){1}, 8) < 0)
        abort();
}

/* How many there are, and how many of them are down. */
static void count(struct server *sv)
{
    uint32_t down = 0;
    for (struct link *l = sv->links; l; l = l->next)
        down += p9_conn_down(l->conn) > 0;
    atomic_store(&sv->page->link.peers, (uint32_t)sv->live);
    atomic_store(&sv->page->link.down, down);
}

/* Whose connection it is: what the channel proved, else where it comes from. */
static void key_of(const struct chan *chan, char key[128])
{
    const char *port = strrchr(chan->peer, '!');
    int n = port ? (int)(port - chan->peer) : (int)strlen(chan->peer);
    if (*chan->who)
        snprintf(key, 128, "%s", chan->who);
    else if (chan->uid != (uid_t)-1)
        snprintf(key, 128, "uid:%u", chan->uid);
    else
        snprintf(key, 128, "%.*s", n, chan->peer);
}

/* True if that is one too many, which is said once for all that follow. */
static bool greedy(struct server *sv, const char *key)
{
    size_t n = 0;
    if (sv->live < LIMIT_PEER)
        return false;
    for (struct link *l = sv->links; l; l = l->next)
        n += !strcmp(l->key, key);
    if (n < LIMIT_PEER)
        return false;
    if (strcmp(sv->greedy, key))
        fprintf(stderr, "%s: %s has %d connections: no more are taken\n", sv->s->prefix, key,
                LIMIT_PEER);
    snprintf(sv->greedy, sizeof(sv->greedy), "%s", key);
    return true;
}

static int take(struct server *sv, struct chan *chan)
{
    char key[128];
    key_of(chan, key);
    if (greedy(sv, key)) {
        chan_close(chan);
        return 0;
    }
    struct link *l = calloc(1, sizeof(*l));
    if (!l) {
        chan_close(chan);
        return failed(sv, "out of memory");
    }
    l->server = sv;
    snprintf(l->peer, sizeof(l->peer), "%s", chan->peer);
    snprintf(l->key, sizeof(l->key), "%s", key);
    struct pl_err err;
    if (p9_door_conn(sv->door, chan, false, over, l, &l->conn, &err) < 0) {
        free(l);
        return failed(sv, err.text);
    }
    l->next = sv->links;
    sv->links = l;
    sv->served++;
    sv->live++;
    count(sv);
    return 0;
}

/* Frees the connections that are over. */
static void sweep(struct server *sv)
{
    uint64_t n;
    if (read(sv->event_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        return;
    for (struct link **at = &sv->links; *at;) {
        struct link *l = *at;
        if (!atomic_load(&l->over)) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        sv->live--;
        /* Who wants a link of a server before this one finds another way by itself. */
        if (l->error && l->error != -ENOLINK && !sv->s->quiet)
            fprintf(stderr, "%s: %s: %s\n", sv->s->prefix, l->peer, l->sentence);
        if (l->error && l->error != -ENOLINK && sv->s->once)
            sv->status = 1;
        p9_conn_free(l->conn);
        free(l);
    }
    count(sv);
}

static int open_addr(struct server *sv, size_t i)
{
    const char *addr = sv->s->addrs[i];
    struct pl_err err;
    if (single(addr)) {
        struct chan chan;
        if (chan_dial(addr, &chan, &err) < 0)
            return failed(sv, err.text);
        if (sv->s->remote) {
            chan.role = CHAN_ACCEPTED;
            snprintf(chan.who, sizeof(chan.who), "ssh");
        }
        return take(sv, &chan);
    }
    if (chan_listen(addr, &sv->s->listen, &sv->listeners[i], &err) < 0)
        return failed(sv, err.text);
    sv->nlisteners++;
    return 0;
}

static void announce(struct server *sv, struct chan_listener *l)
{
    const char *name = chan_listener_name(l), *note = chan_listener_note(l);
    if (note)
        fprintf(stderr, "%s: %s: %s\n", sv->s->prefix, name, note);
    if (!sv->s->quiet)
        util_say("serving %s on %s", sv->s->text, name);
    char peer[2 * sizeof(sv->page->peer) + 4];
    snprintf(peer, sizeof(peer), "%s%s%s", sv->page->peer, *sv->page->peer ? ", " : "", name);
    reg_set_peer(sv->page, peer);
}

/* True when it should be left alone for a moment. */
static bool accept_one(struct server *sv, struct chan_listener *listener)
{
    struct chan chan;
    struct pl_err err;
    int r = chan_accept(listener, &chan, &err);
    if (r == 0) {
        take(sv, &chan);
        return false;
    }
    if (r != -EAGAIN && r != -EINTR && r != -ECONNABORTED)
        failed(sv, err.text);
    return r != -EACCES && r != -EAGAIN && r != -EINTR && r != -ECONNABORTED;
}

static void take_back(struct server *sv)
{
    struct chan chan;
    struct pl_err err;
    int r = holder_accept(sv->holder, &chan, &err);
    if (r == 0)
        take(sv, &chan);
    else if (r != -EAGAIN)
        failed(sv, err.text);
}

static void reload(struct server *sv)
{
    struct pl_err err;
    uint64_t n;
    if (read(sv->hangup_fd, &n, sizeof(n)) < 0)
        return;
    if (p9_access_reload(sv->access, &err) < 0)
        fprintf(stderr, "%s: the old rules stay: %s\n", sv->s->prefix, err.text);
    else if (!sv->s->quiet)
        util_say("%s: read again", sv->s->access);
}

static bool finished(const struct server *sv)
{
    if (sv->stop)
        return true;
    if (sv->links)
        return false;
    return sv->nlisteners == 0 || (sv->s->once && sv->served);
}

static void loop(struct server *sv)
{
    size_t n = sv->s->n;
    struct pollfd *fds = calloc(n + 4, sizeof(*fds));
    bool wait = false;
    if (!fds) {
        sv->status = failed(sv, "out of memory");
        return;
    }
    while (!finished(sv)) {
        bool listening = !wait && sv->live < LIMIT_CONNECTIONS && !(sv->s->once && sv->served);
        fds[0] = (struct pollfd){.fd = sv->signal_fd, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = sv->event_fd, .events = POLLIN};
        fds[2] = (struct pollfd){.fd = sv->hangup_fd, .events = POLLIN};
        fds[n + 3] = (struct pollfd){.fd = sv->holder && !wait ? holder_fd(sv->holder) : -1,
                                     .events = POLLIN};
        for (size_t i = 0; i < n; i++) {
            struct chan_listener *l = sv->listeners[i];
            fds[i + 3] =
                (struct pollfd){.fd = l && listening ? chan_listener_fd(l) : -1, .events = POLLIN};
        }
        if (poll(fds, n + 4, wait ? RETRY_MS : -1) < 0 && errno != EINTR)
            break;
        wait = false;
        sv->stop = fds[0].revents;
        if (fds[1].revents)
            sweep(sv);
        if (fds[2].revents)
            reload(sv);
        if (fds[n + 3].revents)
            take_back(sv);
        for (size_t i = 0; i < n && !sv->stop; i++)
            if (fds[i + 3].revents && sv->live < LIMIT_CONNECTIONS &&
                !(sv->s->once && sv->served) && accept_one(sv, sv->listeners[i]))
                wait = true;
    }
    free(fds);
}

/* From here on connections may be links, which outlive their channels. */
static int start_links(struct server *sv)
{
    if (!sv->s->linger)
        return 0;
    sv->known = p9_links_new(sv->s->linger, 0);
    if (!sv->known)
        return failed(sv, "out of memory");
    struct p9_link_opts opts = {.linger = sv->s->linger,
                                .keepalive = LINKOPT_KEEPALIVE,
                                .links = sv->known,
                                .changed = changed,
                                .arg = sv};
    p9_door_link(sv->door, &opts);
    atomic_store(&sv->page->link.kind, REG_LINK_KEPT);
    atomic_store(&sv->page->link.linger, sv->s->linger);
    atomic_store(&sv->page->link.keepalive, opts.keepalive);
    if (!sv->s->remote || !sv->s->marker)
        return 0;
    int r = holder_new(sv->s->marker, &sv->holder);
    return r < 0 ? failed(sv, strerror(-r)) : 0;
}

/* The directory DIR of --state: made if it is not there, and nobody else's. */
static int state_dir(const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 022))
        return fd;
    close(fd);
    return -EPERM;
}

static void say_lasts(struct server *sv, const char *why)
{
    char *lasts = sv->page->stats.lasts;
    if (why)
        snprintf(lasts, sizeof(sv->page->stats.lasts), "operations die with it: %.50s", why);
    else
        strcpy(lasts, "its successor remembers operations");
}

int serving_remember(struct p9_door *door, const char *state, const char *what)
{
    int dir = state ? state_dir(state) : reg_dir("ops");
    int r = dir < 0 ? dir : p9_door_remember(door, dir, what);
    if (dir >= 0) {
        confine_path_of(dir, CONFINE_READ | CONFINE_CHANGE);
        close(dir);
    }
    return r;
}

/* Clients' operations are to outlive this process. Without that it serves all the same, unless a
 * directory was asked for. */
static int remember(struct server *sv)
{
    const struct serving *s = sv->s;
    if (!s->what || (s->state && !strcmp(s->state, "none"))) {
        say_lasts(sv, s->what ? "by request" : "the tree ends with it");
        return 0;
    }
    int r = serving_remember(sv->door, s->state, s->what);
    const char *why = r == -ENOTSUP ? "the tree ends with it"
                      : r == -EPERM ? "others may write to its directory"
                                    : strerror(-r);
    say_lasts(sv, r < 0 ? why : NULL);
    if (r == 0 || r == -ENOTSUP || !s->state)
        return 0;
    fprintf(stderr, "%s: %s: %s (--state wants a directory that is this user's alone)\n", s->prefix,
            s->state, r == -EPERM ? "not private" : strerror(-r));
    return 1;
}

/* From here on nothing is opened but what is served. */
static void confine(struct server *sv)
{
    enum confine_paths paths;
    if (sv->s->access) /* it may be another file when it is read again */
        confine_parent(sv->s->access, CONFINE_READ);
    if (sv->s->confine && confine_exporter(&paths) < 0)
        fprintf(stderr, "%s: a thread keeps the rights that the server was started with\n",
                sv->s->prefix);
}

static int start(struct server *sv)
{
    struct p9_export export = {.aname = "", .tree = sv->s->tree};
    sv->crew = p9_crew_new(0);
    sv->listeners = calloc(sv->s->n, sizeof(*sv->listeners));
    if (!sv->crew || !sv->listeners)
        return failed(sv, "out of memory");
    struct pl_err err;
    if (sv->s->access && p9_access_open(sv->s->access, &sv->access, &err) < 0)
        return failed(sv, err.text);
    if (reg_add("serve", "", sv->s->text, &sv->entry, &sv->page) < 0 && !sv->page)
        return failed(sv, "out of memory");
    atomic_store(&sv->page->server, getpid());
    int r = p9_door_new(&export, 1, sv->crew, &sv->page->stats, &sv->door);
    if (r < 0)
        return failed(sv, strerror(-r));
    if (start_links(sv))
        return 1;
    if (remember(sv))
        return 1;
    if (sv->access)
        p9_door_admit(sv->door, p9_access_admit, sv->access);
    if (sv->s->marker) {
        printf("%s\n", sv->s->marker);
        fflush(stdout);
    }
    for (size_t i = 0; i < sv->s->n; i++)
        if (open_addr(sv, i))
            return 1;
    confine(sv);
    for (size_t i = 0; i < sv->s->n; i++) /* not before it is known that all can be */
        if (sv->listeners[i])
            announce(sv, sv->listeners[i]);
    reg_set_state(sv->page, "up");
    return 0;
}

static void end(struct server *sv)
{
    for (size_t i = 0; sv->listeners && i < sv->s->n; i++)
        if (sv->listeners[i])
            chan_listener_free(sv->listeners[i]);
    free(sv->listeners);
    while (sv->links) {
        struct link *l = sv->links;
        sv->links = l->next;
        p9_conn_free(l->conn);
        free(l);
    }
    holder_free(sv->holder);
    if (sv->known)
        p9_links_free(sv->known);
    if (sv->door)
        p9_door_free(sv->door);
    p9_access_free(sv->access);
    if (sv->crew)
        p9_crew_free(sv->crew);
    pl_tree_unref(sv->s->tree);
    reg_del(sv->entry);
}

int serving_run(const struct serving *s)
{
    struct server sv = {.s = s};
    signal(SIGPIPE, SIG_IGN);
    if (s->remote) /* from an sshd that dies, which is no reason to end */
        signal(SIGHUP, SIG_IGN);
    util_many_descriptors();
    sv.signal_fd = util_signals();
    sv.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sv.hangup_fd = s->access ? util_hangups() : -1;
    if (sv.signal_fd < 0 || sv.event_fd < 0 || (s->access && sv.hangup_fd < 0))
        sv.status = failed(&sv, strerror(errno));
    else
        sv.status = start(&sv);
    if (sv.status == 0)
        loop(&sv);
    end(&sv);
    if (sv.event_fd >= 0)
        close(sv.event_fd);
    return sv.status;
}
