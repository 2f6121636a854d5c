/* SPDX-License-Identifier: MIT */
/*
 * Whole sessions against our server: the input is a program of messages (p9_steps.h), sent over a
 * socket to a 9P door over a tree in memory and one on a file system of its own, beside a canary
 * that nobody may touch or read.
 *
 * What must hold, whatever is sent: what comes back is 9P; answers are to requests that are not
 * answered yet, of the right type; a Tflush is answered after what it flushes; as long as every
 * message was whole and no tag was used twice, every request is answered and the connection stays;
 * when the client ends, the session ends, and its memory is given back.
 */
#include "doors/p9.h"
#include "p9_steps.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

enum {
    SLICE = 500, /* ms; an answer may take SLICES of them */
    SLICES = 40,
    STEPS = 256,             /* messages in one session */
    SESSION_BYTES = 96 << 20 /* that one may take: requests, attributes, the tree in memory */
};
#define SECRET "what only the canary knows: 5f8d2c"

/* ---- the tree ---- */

static char top[64] = "/dev/shm/plenum-fuzz.XXXXXX";
static int topfd, rootfd;
static struct stat canary[2];

static void remove_all(int dir)
{
    DIR *d = fdopendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        fchmodat(dirfd(d), e->d_name, 0700, AT_SYMLINK_NOFOLLOW);
        if (unlinkat(dirfd(d), e->d_name, 0) == 0)
            continue;
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub >= 0)
            remove_all(sub);
        unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d)
        closedir(d);
}

static void at_end(void)
{
    remove_all(dup(topfd));
    rmdir(top);
}

static void put_file(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* A small one that no name leads to, and that goes with this process: for root. */
static int own_tmpfs(void)
{
    int root = -1, fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0)
        return -1;
    if (fsconfig(fs, FSCONFIG_SET_STRING, "size", "8m", 0) == 0 &&
        fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "1000", 0) == 0 &&
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        root = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    close(fs);
    return root;
}

static void make_top(void)
{
    int fs = own_tmpfs();
    if (fs >= 0) {
        topfd = openat(fs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        snprintf(top, sizeof(top), "/proc/self/fd/%d", topfd);
        close(fs);
    } else {
        CHECK(mkdtemp(top));
        topfd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        atexit(at_end);
    }
    CHECK(mkdirat(topfd, "canary", 0755) == 0 && mkdirat(topfd, "root", 0755) == 0);
    int dir = openat(topfd, "canary", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put_file(dir, "secret", SECRET);
    /* So long ago that any access would show. */
    struct timespec old[2] = {{1, 0}, {2, 0}};
    CHECK(utimensat(dir, "secret", old, 0) == 0 && futimens(dir, old) == 0);
    CHECK(fstatat(dir, "secret", &canary[0], 0) == 0 && fstat(dir, &canary[1]) == 0);
    close(dir);
    rootfd = openat(topfd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void plant(void)
{
    int d = -1;
    remove_all(openat(topfd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    fchmod(rootfd, 0777);
    put_file(rootfd, "f", "some text\n");
    put_file(rootfd, "g", "");
    CHECK(mkdirat(rootfd, "d", 0777) == 0 && (d = openat(rootfd, "d", O_RDONLY)) >= 0);
    put_file(d, "h", "deeper");
    close(d);
    (void)!symlinkat("f", rootfd, "s");
    (void)!symlinkat("..", rootfd, "up");
    (void)!symlinkat("../canary", rootfd, "out");
    (void)!symlinkat("/", rootfd, "abs");
}

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_uid == b->st_uid &&
           a->st_nlink == b->st_nlink && a->st_size == b->st_size &&
           !memcmp(&a->st_atim, &b->st_atim, 3 * sizeof(a->st_atim));
}

static void look_at_canary(void)
{
    struct stat st;
    CHECK(fstatat(topfd, "canary/secret", &st, 0) == 0 && same(&st, &canary[0]));
    CHECK(fstatat(topfd, "canary", &st, 0) == 0 && same(&st, &canary[1]));
}

/* ---- the server ---- */

static struct p9_crew *crew;

struct server {
    struct pl_tree *mem, *host;
    struct p9_door *door;
    struct p9_conn *conn;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool over;
};

static void over(void *arg, int error, const char *sentence)
{
    struct server *s = arg;
    pthread_mutex_lock(&s->mutex);
    s->over = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

static void serve(struct server *s, int fd)
{
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_ACCEPTED, .uid = (uid_t)-1, .peer = "fuzzer"};
    char path[100];
    snprintf(path, sizeof(path), "%s/root", top);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->cond, NULL);
    CHECK(pl_mem_new(4 << 20, &s->mem, NULL) == 0 && pl_host_open(path, &s->host, NULL) == 0);
    struct p9_export exports[] = {{"", s->host}, {"mem", s->mem}};
    CHECK(p9_door_new(exports, 2, crew, NULL, &s->door) == 0);
    CHECK(p9_door_conn(s->door, &chan, false, over, s, &s->conn, NULL) == 0);
}

static void stop(struct server *s)
{
    pthread_mutex_lock(&s->mutex);
    for (int i = 0; i < SLICES && !s->over; i++) {
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec++;
        pthread_cond_timedwait(&s->cond, &s->mutex, &end);
    }
    CHECK(s->over);
    pthread_mutex_unlock(&s->mutex);
    p9_conn_free(s->conn);
    p9_door_free(s->door);
    pl_tree_unref(s->mem);
    pl_tree_unref(s->host);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->cond);
}

/* ---- the client ---- */

struct asked {
    uint16_t tag;
    uint8_t type;
    int flushes; /* of a Tflush: which of them it flushes, or -1 */
    bool answered;
};

struct client {
    int fd;
    struct asked asked[STEPS + 64];
    int n, waits; /* unanswered */
    int version;  /* the Tversion under way, or -1 */
    bool wild;    /* bytes were sent that are no messages: nothing is known of what is answered */
    bool may_end; /* the server may close the connection */
    bool ended;
    struct bytes later; /* to be sent behind the message that is being sent */
    uint32_t msize;
    uint8_t *buf; /* what has come, and is not whole */
    size_t have;
    struct bytes out;
    int ours; /* the server's Tversion and Tend that were answered */
};

/* The server ends its unused direction, as one of us does. */
static void answer_server(struct client *c, const struct p9_msg *t)
{
    struct p9_msg r = {.type = (uint8_t)(t->type + 1), .tag = t->tag};
    uint8_t buf[100];
    CHECK((t->type == P9_Tversion || t->type == P9_Tend) && ++c->ours < STEPS);
    r.msize = t->msize;
    r.version = t->version;
    int n = p9_encode(&r, buf, sizeof(buf));
    CHECK(n > 0);
    bytes_add(&c->later, buf, (size_t)n);
}

static void answered(struct client *c, int i)
{
    c->asked[i].answered = true;
    c->waits--;
}

static bool is_error(uint8_t type)
{
    return type == P9_Rlerror || type == P9_Rerror;
}

static enum p9_dialect dialect(const struct p9_str *version)
{
    return !strcmp(version->s, P9_VERSION)     ? P9_BASE
           : !strcmp(version->s, P9_VERSION_U) ? P9_U
                                               : P9_L;
}

static void take_answer(struct client *c, const struct p9_msg *r)
{
    int i = 0;
    if (c->wild)
        return;
    while (i < c->n && (c->asked[i].answered || c->asked[i].tag != r->tag ||
                        (!is_error(r->type) && r->type != c->asked[i].type + 1)))
        i++;
    if (i == c->n)
        fprintf(stderr, "%s tag %u answers nothing\n", p9_type_name(r->type), r->tag);
    CHECK(i < c->n);
    answered(c, i);
    int f = c->asked[i].flushes;
    if (f >= 0 && r->type == P9_Rflush && c->version < 0)
        CHECK(c->asked[f].answered);
    if (c->asked[i].type == P9_Tversion)
        c->version = i == c->version ? -1 : c->version;
    if (r->type == P9_Rversion) { /* what was asked before has no answer any more */
        bool agreed = strcmp(r->version.s, "unknown");
        c->msize = agreed ? r->msize : 0;
        steps_dialect = agreed ? dialect(&r->version) : P9_L;
        for (int k = 0; k < i; k++)
            if (!c->asked[k].answered)
                answered(c, k);
    }
}

/* In the dialect that was agreed on, as far as that is known. */
static bool decodes(const struct client *c, size_t size, struct p9_msg *m)
{
    bool known = !c->wild && c->version < 0 && c->msize;
    uint8_t *copy = malloc(size);
    bool ok = false;
    for (int d = P9_L; d <= P9_BASE && !ok && !known; d++) {
        memcpy(copy, c->buf, size);
        ok = p9_decode_as((enum p9_dialect)d, copy, size, m) == 0;
    }
    free(copy);
    enum p9_dialect d = !known ? m->dialect : c->buf[4] % 2 ? steps_dialect : P9_L;
    return p9_decode_as(d, c->buf, size, m) == 0;
}

static void take(struct client *c, size_t size)
{
    struct p9_msg m;
    CHECK(size <= LIMIT_MSIZE_MAX && (c->wild || !c->msize || size <= c->msize));
    CHECK(!memmem(c->buf, size, SECRET, sizeof(SECRET) - 1));
    CHECK(decodes(c, size, &m));
    if (m.type % 2)
        take_answer(c, &m);
    else
        answer_server(c, &m);
}

/* Reads what has come; with patience, waits for some. False when nothing came. */
static bool pull(struct client *c, int ms)
{
    struct pollfd p = {c->fd, POLLIN, 0};
    if (c->ended || poll(&p, 1, ms) <= 0)
        return false;
    ssize_t r = recv(c->fd, c->buf + c->have, LIMIT_MSIZE_MAX + 4 - c->have, MSG_DONTWAIT);
    if (r < 0 && errno == EAGAIN)
        return true;
    if (r <= 0) {
        c->ended = true;
        return false;
    }
    c->have += (size_t)r;
    while (c->have >= 4 && !c->ended) {
        size_t size =
            c->buf[0] | (size_t)c->buf[1] << 8 | (size_t)c->buf[2] << 16 | (size_t)c->buf[3] << 24;
        CHECK(size >= P9_HDRSZ && size <= LIMIT_MSIZE_MAX);
        if (c->have < size)
            break;
        size_t rest = c->have - size;
        take(c, size);
        memmove(c->buf, c->buf + size, rest);
        c->have = rest;
    }
    return true;
}

/* In slices: when the whole machine stands still it uses up but one. */
static short wait_for(const struct client *c, short events)
{
    struct pollfd p = {c->fd, events, 0};
    for (int i = 0; i < SLICES; i++)
        if (poll(&p, 1, SLICE) > 0)
            return p.revents;
    return 0;
}

/* What has not come by now never comes. */
static void pull_some(struct client *c)
{
    if (c->ended || wait_for(c, POLLIN)) {
        pull(c, 0);
        return;
    }
    fprintf(stderr, "the server does nothing\n");
    for (int i = 0; i < c->n; i++)
        if (!c->asked[i].answered)
            fprintf(stderr, "no answer to number %d: %s tag %u\n", i,
                    p9_type_name(c->asked[i].type), c->asked[i].tag);
    abort();
}

static void push(struct client *c, const uint8_t *p, size_t n)
{
    while (n && !c->ended) {
        ssize_t r = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r > 0) {
            p += r;
            n -= (size_t)r;
        } else if (r < 0 && errno == EAGAIN) {
            short events = wait_for(c, POLLIN | POLLOUT);
            CHECK(events);
            if (events & POLLIN)
                pull(c, 0);
        } else {
            while (pull(c, 0))
                ;
            c->ended = true;
        }
    }
}

/* Between messages: what the server is still to be answered. */
static void push_later(struct client *c)
{
    while (c->later.n && !c->ended) {
        struct bytes b = c->later;
        c->later = (struct bytes){0};
        push(c, b.p, b.n);
        free(b.p);
    }
}

static int find_asked(const struct client *c, uint16_t tag)
{
    for (int i = 0; i < c->n; i++)
        if (!c->asked[i].answered && c->asked[i].tag == tag)
            return i;
    return -1;
}

/* Notes what is about to be sent, in c->out. */
static void note(struct client *c, uint8_t type, uint16_t tag)
{
    if (type == P9_Tversion && c->version >= 0)
        c->may_end = true;
    else if (type != P9_Tversion && find_asked(c, tag) >= 0)
        c->may_end = true;
    if (type == P9_Tend || c->out.n > (c->msize ? c->msize : LIMIT_MSIZE_MAX))
        c->may_end = true;
    uint16_t old = type == P9_Tflush ? (uint16_t)(c->out.p[7] | c->out.p[8] << 8) : 0;
    c->asked[c->n] = (struct asked){tag, type, type == P9_Tflush ? find_asked(c, old) : -1, false};
    if (type == P9_Tversion)
        c->version = c->n;
    c->n++;
    c->waits++;
}

static uint16_t pick_tag(const struct client *c, uint8_t b)
{
    if (b >= 240)
        return b & 7; /* whatever it is used for */
    for (uint16_t t = b & 7;; t++)
        if (find_asked(c, t) < 0)
            return t;
}

static uint8_t prepare(struct client *c, struct luck *l)
{
    uint8_t type = steps_request(luck_byte(l));
    uint16_t tag = pick_tag(c, luck_byte(l));
    if (type == P9_Tversion)
        tag = P9_NOTAG;
    luck_message(l, type, tag, &c->out);
    note(c, type, tag);
    return type;
}

static void make_flush(struct client *c, uint16_t old)
{
    uint16_t tag = 1000;
    while (find_asked(c, tag) >= 0)
        tag++;
    c->out.n = 0;
    bytes_head(&c->out, P9_Tflush, tag);
    bytes_int(&c->out, old, 2);
    bytes_seal(&c->out);
    note(c, P9_Tflush, tag);
}

static void make_version(struct client *c, struct luck *l)
{
    static const char *const versions[] = {"9P2000.L", "9P2000.L.plenum", "9P2000",
                                           "9P2000.u", "unknown",         ""};
    static const uint32_t msizes[] = {8192, 65536, 1 << 20, 4096, 4095, 0, UINT32_MAX, 100};
    struct p9_msg m = {.type = P9_Tversion, .tag = P9_NOTAG};
    uint8_t buf[100];
    m.version = p9_str(versions[luck_byte(l) % 6]);
    m.msize = msizes[luck_byte(l) % 8];
    int n = p9_encode(&m, buf, sizeof(buf));
    c->out.n = 0;
    bytes_add(&c->out, buf, (size_t)n);
    note(c, P9_Tversion, P9_NOTAG);
}

static bool all_but_locks(const struct client *c)
{
    for (int i = 0; i < c->n; i++)
        if (!c->asked[i].answered && c->asked[i].type != P9_Tlock)
            return false;
    return true;
}

static void wait_for_answers(struct client *c)
{
    push_later(c);
    while (!c->ended && !c->wild && !all_but_locks(c)) {
        pull_some(c);
        push_later(c);
    }
}

enum step { MESSAGE, FLUSH, VERSION, WAIT, HALVES, BROKEN, RAW, CUT, NSTEPS };

static void step(struct client *c, uint8_t kind, struct luck *l)
{
    size_t at;
    switch (kind % NSTEPS) {
    case MESSAGE:
        prepare(c, l);
        push(c, c->out.p, c->out.n);
        break;
    case FLUSH:
        make_flush(c, (uint16_t)luck_int(l));
        push(c, c->out.p, c->out.n);
        break;
    case VERSION:
        make_version(c, l);
        push(c, c->out.p, c->out.n);
        wait_for_answers(c);
        break;
    case WAIT:
        wait_for_answers(c);
        break;
    case HALVES:
        at = luck_byte(l);
        prepare(c, l);
        at = at % c->out.n;
        push(c, c->out.p, at);
        pull(c, 1);
        push(c, c->out.p + at, c->out.n - at);
        break;
    case BROKEN:
        at = luck_byte(l);
        prepare(c, l);
        c->out.p[at % c->out.n] ^= (uint8_t)(luck_byte(l) | 1);
        c->wild = c->may_end = true;
        push(c, c->out.p, c->out.n);
        break;
    case RAW:
        c->wild = c->may_end = true;
        push(c, l->p, l->n);
        break;
    case CUT:
        at = luck_byte(l);
        prepare(c, l);
        c->wild = c->may_end = true;
        push(c, c->out.p, at % c->out.n);
        shutdown(c->fd, luck_byte(l) & 1 ? SHUT_WR : SHUT_RDWR);
        break;
    }
    while (pull(c, 0))
        ;
    push_later(c);
}

/* What waits for a lock is flushed; then all is answered. */
static void finish(struct client *c)
{
    wait_for_answers(c);
    for (int i = 0, n = c->n; i < n && !c->ended && !c->wild; i++)
        if (!c->asked[i].answered) {
            make_flush(c, c->asked[i].tag);
            push(c, c->out.p, c->out.n);
        }
    while (!c->ended && !c->wild && c->waits)
        pull_some(c);
    push_later(c);
    CHECK(!c->ended || c->may_end);
    shutdown(c->fd, SHUT_WR);
    while (!c->ended)
        pull_some(c);
}

/* ---- */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    make_top();
    crew = p9_crew_new(8);
    CHECK(crew);
    return 0;
}

static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct client c;
    static uint8_t *buf;
    struct server server = {0};
    struct luck in = {data, size}, l;
    int fds[2];
    uint8_t kind;
    if (!buf)
        buf = malloc(LIMIT_MSIZE_MAX + 4);
    plant();
    steps_dialect = P9_L;
    size_t before = allocated();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    c = (struct client){.fd = fds[0], .buf = buf, .version = -1};
    serve(&server, fds[1]);
    while (c.n < STEPS && !c.ended && luck_step(&in, &kind, &l)) {
        step(&c, kind, &l);
        CHECK(allocated() < before + SESSION_BYTES);
    }
    finish(&c);
    close(c.fd);
    stop(&server);
    free(c.out.p);
    free(c.later.p);
    look_at_canary();
    CHECK(allocated() <= before + (6 << 20)); /* the crew keeps some buffers */
    return 0;
}
