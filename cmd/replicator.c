/* SPDX-License-Identifier: MIT */
#include "cmd/replicator.h"
#include "base/futex.h"
#include "cmd/count.h"
#include "cmd/util.h"
#include "layers/service_wire.h"
#include "p9/conn.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define AT_ONCE   512         /* records that are carried out together, */
#define AT_LEAST  8           /* when that has failed */
#define STATUS_NS 500000000ll /* the file is written so often at most */

static const char *const words[] = {
    [REPLICA_MAKES] = "make",      [REPLICA_RENAMES] = "rename", [REPLICA_LINKS] = "link",
    [REPLICA_WRITES] = "write",    [REPLICA_REMOVES] = "remove", [REPLICA_DIVERGED] = "diverged",
    [REPLICA_KEPT] = "keep aside", [REPLICA_CANNOT] = "cannot"};

/* ---- opening ---- */

char *replicator_dir(const char *source)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *dir = NULL;
    unsigned long long h = XXH3_64bits(source, strlen(source));
    int n = state && *state == '/'
                ? asprintf(&dir, "%s/plenum/replicate/%016llx", state, h)
                : asprintf(&dir, "%s/.local/state/plenum/replicate/%016llx", home ? home : "", h);
    return n < 0 ? NULL : dir;
}

static int make_dirs(char *path)
{
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        *p = '/';
        if (r < 0)
            return r;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static void told(void *arg, enum replica_kind kind, const char *path, const char *detail)
{
    struct replicator_worker *w = arg;
    struct replicator *r = w->r;
    bool bad = kind == REPLICA_DIVERGED || kind == REPLICA_CANNOT;
    bool more = kind == REPLICA_RENAMES || kind == REPLICA_LINKS || kind == REPLICA_KEPT;
    if (bad || r->dry || r->verbose)
        util_say("%s%s: %s %s%s%s%s", r->dry && !bad ? "would: " : "", spec_text(w->spec),
                 words[kind], path, *detail ? more ? " as " : ": " : "", detail,
                 kind == REPLICA_DIVERGED && r->resolve == REPLICA_FAIL
                     ? " (left alone; see --resolve)"
                     : "");
    pthread_mutex_lock(&r->lock);
    size_t i = 0;
    while (i < w->ntold && strcmp(w->told[i], path) != 0)
        i++;
    if (!bad && i < w->ntold) { /* mended */
        free(w->told[i]);
        w->told[i] = w->told[--w->ntold];
    } else if (bad && i == w->ntold) {
        if (w->ntold < REPLICATOR_TOLD && (w->told[i] = strdup(path)))
            w->ntold++;
        else
            w->untold++;
    }
    r->changed = true;
    pthread_mutex_unlock(&r->lock);
}

/* As the same client as who had the replica before us, and may have been killed since: a server of
 * ours ends his connection, and what is under way on it, before it answers. */
static void follow(void *arg, const struct far *far, struct p9_conn *conn)
{
    struct replicator_worker *w = arg;
    struct p9_msg m = {.type = P9_Tsession, .id = {w->client[0], w->client[1]}};
    struct p9_answer ans;
    if (!p9_extended(conn))
        return;
    w->followed = p9_rpc(conn, &w->call, &m, &ans, NULL, 0);
    p9_answer_free(&ans);
}

/* 0 or an error, with its sentence. */
static int load_client(struct replicator_worker *w, const char *path, struct pl_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), e = fd < 0 ? -errno : 0;
    if (e == 0 && pread(fd, w->client, sizeof(w->client), 0) != sizeof(w->client))
        e = getrandom(w->client, sizeof(w->client), 0) < 0                     ? -errno
            : pwrite(fd, w->client, sizeof(w->client), 0) != sizeof(w->client) ? -EIO
                                                                               : 0;
    if (fd >= 0)
        close(fd);
    return e < 0 ? pl_fail(err, e, "%s: %s", path, strerror(-e)) : 0;
}

static void forget_told(struct replicator_worker *w)
{
    while (w->ntold)
        free(w->told[--w->ntold]);
    w->untold = 0;
}

/* A file of the replica in the state directory; NULL: no memory. */
static char *worker_file(const struct replicator_worker *w, const char *what)
{
    const char *text = spec_text(w->spec);
    char *path;
    int n = asprintf(&path, "%s/%s-%016llx", w->r->dir, what,
                     (unsigned long long)XXH3_64bits(text, strlen(text)));
    return n < 0 ? NULL : path;
}

static int open_worker(struct replicator *r, size_t i)
{
    struct replicator_worker *w = &r->w[i];
    struct pl_err err;
    w->r = r;
    w->i = i;
    w->at_once = AT_ONCE;
    w->watch = (struct spec_watch){.ready = follow, .arg = w};
    char *path = worker_file(w, "client");
    int e = !path ? -ENOMEM : r->dry ? 0 : load_client(w, path, &err);
    free(path);
    if (!path)
        return cmd_fail(r->cmd, "out of memory");
    if (e < 0)
        return cmd_error(r->cmd, &err);
    path = worker_file(w, "notes");
    if (!path)
        return cmd_fail(r->cmd, "out of memory");
    e = notes_open(&w->notes, path, r->dry, &err);
    if (e == -EBADMSG)
        pl_fail(&err, e,
                "%s: damaged, or of another version (without it the replica is compared "
                "anew: remove it)",
                path);
    free(path);
    if (e < 0)
        return cmd_error(r->cmd, &err);
    pl_call_init_self(&w->call);
    w->replica = (struct replica){.src = r->src,
                                  .call = &w->call,
                                  .notes = &w->notes,
                                  .resolve = r->resolve,
                                  .dry = r->dry,
                                  .check = r->check,
                                  .no_sync = r->no_sync,
                                  .tell = told,
                                  .arg = w,
                                  .count = &w->count};
    return EXIT_OK;
}

int replicator_open(struct replicator *r)
{
    struct pl_err err;
    char *path = NULL;
    pthread_mutex_init(&r->lock, NULL);
    pl_cond_init(&r->cond);
    r->opened = true;
    r->journal.log.fd = r->lock_fd = r->wake_fd = -1;
    int e = make_dirs(r->dir);
    if (e < 0)
        return cmd_fail(r->cmd, "%s: %s", r->dir, strerror(-e));
    if (asprintf(&path, "%s/lock", r->dir) < 0)
        return cmd_fail(r->cmd, "out of memory");
    r->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    free(path);
    if (r->lock_fd < 0 || flock(r->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return cmd_fail(r->cmd, "%s: %s", r->dir,
                        errno == EWOULDBLOCK ? "another replicator of this source runs"
                                             : strerror(errno));
    if (asprintf(&path, "%s/journal", r->dir) < 0)
        return cmd_fail(r->cmd, "out of memory");
    e = journal_open(&r->journal, path, r->bound, &err);
    free(path);
    if (e < 0 || spec_open(r->source, NULL, NULL, &r->src, &err) < 0)
        return cmd_error(r->cmd, &err);
    for (size_t i = 0; i < r->n; i++) {
        int status = open_worker(r, i);
        if (status)
            return status;
    }
    return EXIT_OK;
}

static void drop(struct replicator_worker *w)
{
    replica_close(&w->replica);
    pl_tree_unref(w->tree);
    w->tree = NULL;
}

void replicator_close(struct replicator *r)
{
    for (size_t i = 0; i < r->n; i++) {
        struct replicator_worker *w = &r->w[i];
        if (w->r) {
            drop(w);
            notes_close(&w->notes);
            pl_call_done(&w->call);
            forget_told(w);
        }
        spec_free(w->spec);
    }
    pl_tree_unref(r->src);
    spec_free(r->source);
    journal_close(&r->journal);
    step_done(&r->step);
    if (r->lock_fd >= 0)
        close(r->lock_fd);
    free(r->dir);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
}

static int reach(struct replicator_worker *w, struct pl_err *err)
{
    w->followed = 0;
    int e = spec_open(w->spec, w->replica.dry ? NULL : &w->watch, NULL, &w->tree, err);
    if (e < 0)
        return e;
    w->replica.dst = w->tree;
    e = w->followed ? w->followed : replica_open(&w->replica);
    if (e < 0) {
        pl_fail(err, e, "%s: %s", spec_text(w->spec), strerror(-e));
        drop(w);
    }
    return e;
}

/* ---- once ---- */

static int compare_one(struct replicator *r, struct replicator_worker *w, struct walk *src)
{
    struct progress progress;
    struct count count;
    struct pl_err err;
    char *paths[] = {(char *)"/"};
    int e = reach(w, &err);
    if (e < 0)
        return cmd_error(r->cmd, &err);
    progress_start(&progress);
    count_start(&count, src, paths, 1, &progress);
    w->replica.seen = &progress.bytes;
    w->replica.seen_files = &progress.files;
    walk_call_begin(&w->call);
    e = replica_compare(&w->replica, r->journal.last);
    walk_call_end(&w->call);
    count_stop(&count);
    progress_stop(&progress);
    drop(w);
    if (e < 0)
        return cmd_fail(r->cmd, "%s: %s", spec_text(w->spec), strerror(-e));
    return w->ntold ? EXIT_FAILED : EXIT_OK;
}

int replicator_once(struct replicator *r)
{
    struct walk src;
    int status = walk_start(&src, r->cmd, pl_tree_ref(r->src));
    if (status)
        return status;
    for (size_t i = 0; i < r->n && !walk_interrupted(); i++)
        status |= compare_one(r, &r->w[i], &src);
    uint64_t has[STEP_REPLICAS];
    bool behind[STEP_REPLICAS] = {false};
    uint64_t all = r->journal.last;
    for (size_t i = 0; i < r->n; i++) {
        has[i] = r->w[i].notes.applied;
        behind[i] = !r->w[i].notes.whole;
        all = has[i] < all ? has[i] : all;
    }
    if (!r->dry) {
        journal_trim(&r->journal, all);
        step_init(&r->step, r->n, r->least, r->journal.last, has, behind);
        replicator_status(r);
    }
    status |= walk_close(&src);
    return walk_interrupted() ? cmd_fail(r->cmd, "interrupted") : status;
}

/* ---- serving ---- */

static void nudge(struct replicator *r)
{
    if (write(r->wake_fd, &(uint64_t){1}, 8) < 0)
        return; /* it is readable already */
}

static void todo(void *arg, const struct step_action *a)
{
    struct replicator *r = arg;
    struct service_msg m = {.seq = a->cseq, .result = a->result};
    switch (a->what) {
    case STEP_OPEN:
    case STEP_APPLY:
    case STEP_COMPARE:
        r->w[a->replica].has_job = true;
        r->w[a->replica].job = a->what;
        pthread_cond_broadcast(&r->cond);
        break;
    case STEP_ANSWER:
        m.kind = SERVICE_ANSWER;
        replicator_say(r, a->conn, &m);
        break;
    case STEP_REFUSE:
    case STEP_ACCEPT:
        m.kind = a->what == STEP_REFUSE ? SERVICE_REFUSE : SERVICE_ACCEPT;
        m.result = -EROFS;
        replicator_say(r, 0, &m);
        break;
    case STEP_TRIM:
        journal_trim(&r->journal, a->seq);
        break;
    case STEP_WAKE:
        r->wake = a->time;
        nudge(r);
        break;
    }
}

void replicator_event(struct replicator *r, struct step_event ev)
{
    ev.now = mono_now();
    r->wake = 0;
    r->changed = true;
    /* Out of memory: who waits is not answered, and gives up by itself. */
    if (step_event(&r->step, &ev, todo, r) < 0)
        nudge(r);
}

/* A copy of what is to be carried out: the journal may be merged meanwhile. */
static struct journal_record *next_records(struct replicator_worker *w, size_t *ret_n, bool *more)
{
    const struct journal_record *from = journal_after(&w->r->journal, w->notes.applied, ret_n);
    *more = *ret_n > w->at_once;
    *ret_n = *ret_n < w->at_once ? *ret_n : w->at_once;
    struct journal_record *v = *ret_n ? calloc(*ret_n, sizeof(*v)) : NULL;
    for (size_t i = 0; v && i < *ret_n; i++) {
        v[i] = from[i];
        v[i].path = strdup(from[i].path);
        v[i].path2 = strdup(from[i].path2);
        if (!v[i].path || !v[i].path2)
            abort();
    }
    return v;
}

static void free_records(struct journal_record *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(v[i].path);
        free(v[i].path2);
    }
    free(v);
}

/* Under the lock, which is let go while it works. */
static struct step_event work(struct replicator_worker *w, enum step_do job, struct pl_err *err)
{
    struct replicator *r = w->r;
    struct step_event ev = {.replica = w->i, .what = STEP_DONE, .seq = r->journal.last};
    struct journal_record *v = NULL;
    size_t n = 0;
    bool more = false;
    int e = 0;
    if (job == STEP_APPLY)
        v = next_records(w, &n, &more);
    if (job == STEP_COMPARE)
        forget_told(w);
    pthread_mutex_unlock(&r->lock);
    if (job == STEP_OPEN) {
        ev.what = STEP_REACHED;
        e = reach(w, err);
    } else if (job == STEP_COMPARE) {
        ev.what = STEP_SYNCED;
        e = replica_compare(&w->replica, ev.seq);
    } else if (n) {
        ev.seq = v ? v[n - 1].seq : 0;
        e = v ? replica_apply(&w->replica, v, n, more) : -ENOMEM;
    }
    /* On a way that breaks again and again something is to be done in between. */
    if (job == STEP_APPLY && e < 0)
        w->at_once = w->at_once / 4 > AT_LEAST ? w->at_once / 4 : AT_LEAST;
    else if (job == STEP_APPLY)
        w->at_once = w->at_once * 2 < AT_ONCE ? w->at_once * 2 : AT_ONCE;
    if (e < 0) {
        if (job != STEP_OPEN)
            pl_fail(err, e, "%s: %s", spec_text(w->spec), strerror(-e));
        ev.what = STEP_FAILED;
        drop(w);
    }
    free_records(v, v ? n : 0);
    pthread_mutex_lock(&r->lock);
    return ev;
}

static void *worker(void *arg)
{
    struct replicator_worker *w = arg;
    struct replicator *r = w->r;
    pthread_mutex_lock(&r->lock);
    while (!r->stopping) {
        struct pl_err err = {0};
        if (!w->has_job) {
            pthread_cond_wait(&r->cond, &r->lock);
            continue;
        }
        w->has_job = false;
        struct step_event ev = work(w, w->job, &err);
        if (r->stopping)
            break;
        if (ev.what == STEP_FAILED && strcmp(w->why, err.text) != 0)
            util_say("%s", err.text);
        else if (ev.what == STEP_REACHED && *w->why)
            util_say("%s: is there again", spec_text(w->spec));
        if (ev.what == STEP_FAILED || ev.what == STEP_REACHED)
            snprintf(w->why, sizeof(w->why), "%.255s", err.text);
        replicator_event(r, ev);
        nudge(r);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* What a predecessor could not do, or left alone, and told: it is so until it is mended. */
static void tell_again(struct replicator_worker *w)
{
    char path[PATH_MAX];
    for (uint32_t i = 0; i < w->notes.nids; i++) {
        const struct note *n = w->notes.by_id[i];
        if (!n || !((n->flags & NOTE_DIVERGED) || (n->o->flags & NOTE_BAD)))
            continue;
        if (w->ntold < REPLICATOR_TOLD && notes_path(n, path, sizeof(path)) &&
            (w->told[w->ntold] = strdup(path)))
            w->ntold++;
        else
            w->untold++;
    }
}

static void start(struct replicator *r)
{
    uint64_t has[STEP_REPLICAS];
    bool behind[STEP_REPLICAS];
    for (size_t i = 0; i < r->n; i++) {
        size_t n;
        struct notes *notes = &r->w[i].notes;
        /* Of a journal that lost its beginning nothing can be said. */
        bool ahead = notes->applied > r->journal.last;
        has[i] = ahead ? 0 : notes->applied;
        behind[i] = ahead || !notes->whole;
        const struct journal_record *rec = journal_after(&r->journal, has[i], &n);
        for (size_t k = 0; k < n; k++)
            behind[i] |= rec[k].gap;
        tell_again(&r->w[i]);
        if (ahead)
            notes->applied = 0;
    }
    pthread_mutex_lock(&r->lock);
    step_init(&r->step, r->n, r->least, r->journal.last, has, behind);
    for (size_t i = 0; i < r->n; i++)
        r->w[i].running = pthread_create(&r->w[i].thread, NULL, worker, &r->w[i]) == 0;
    replicator_event(r, (struct step_event){.what = STEP_TICK});
    pthread_mutex_unlock(&r->lock);
}

/* All of the list. */
static void stop(struct replicator *first)
{
    for (struct replicator *r = first; r; r = r->next) {
        pthread_mutex_lock(&r->lock);
        r->stopping = true;
        pthread_cond_broadcast(&r->cond);
        pthread_mutex_unlock(&r->lock);
    }
    for (struct replicator *r = first; r; r = r->next) {
        replicator_hang_up(r);
        for (size_t i = 0; i < r->n; i++) {
            pl_call_cancel(&r->w[i].call);
            if (r->w[i].running)
                pthread_join(r->w[i].thread, NULL);
        }
        replicator_status(r);
    }
}

static void take_call(struct replicator *r, struct chan_listener *l)
{
    struct chan chan;
    struct pl_err err;
    int e = chan_accept(l, &chan, &err);
    if (e == 0)
        replicator_accept(r, &chan);
    else if (e == -EACCES)
        cmd_error(r->cmd, &err);
}

/* What is due: the step's tick, the status. The milliseconds until there is something again. */
static int due(struct replicator *r)
{
    pthread_mutex_lock(&r->lock);
    int64_t now = mono_now();
    if (r->wake && now >= r->wake)
        replicator_event(r, (struct step_event){.what = STEP_TICK});
    if (r->changed && now - r->written >= STATUS_NS) {
        replicator_status(r);
        r->changed = false;
        r->written = now;
    }
    int64_t until = r->wake ? r->wake : INT64_MAX;
    if (r->changed && r->written + STATUS_NS < until)
        until = r->written + STATUS_NS;
    pthread_mutex_unlock(&r->lock);
    if (until == INT64_MAX)
        return -1;
    return until <= now ? 0 : (int)((until - now) / 1000000) + 1;
}

static int all_due(struct replicator *first)
{
    int least = -1;
    for (struct replicator *r = first; r; r = r->next) {
        int ms = due(r);
        least = ms >= 0 && (least < 0 || ms < least) ? ms : least;
    }
    return least;
}

int replicator_serve(struct replicator *first, struct chan_listener *const *listeners, size_t n)
{
    struct pollfd fds[STEP_REPLICAS + 2];
    uint64_t count;
    int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fds[0] = (struct pollfd){.fd = util_signals(), .events = POLLIN};
    fds[1] = (struct pollfd){.fd = wake, .events = POLLIN};
    if (fds[0].fd < 0 || wake < 0)
        return cmd_fail(first->cmd, "%s", strerror(errno));
    for (size_t i = 0; i < n; i++)
        fds[i + 2] = (struct pollfd){.fd = chan_listener_fd(listeners[i]), .events = POLLIN};
    for (struct replicator *r = first; r; r = r->next) {
        r->wake_fd = wake;
        start(r);
    }
    while (!fds[0].revents) {
        if (poll(fds, n + 2, all_due(first)) < 0 && errno != EINTR)
            break;
        if (fds[1].revents && read(wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
            break;
        for (size_t i = 0; i < n; i++)
            if (fds[i + 2].revents)
                take_call(first, listeners[i]);
    }
    stop(first);
    close(wake);
    return EXIT_OK;
}
