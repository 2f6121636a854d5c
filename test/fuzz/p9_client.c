/* SPDX-License-Identifier: MIT */
/*
 * Whole sessions of our client with a server that the input drives: it has a root, files "f...",
 * directories "d..." and symlinks "s...", and answers honestly but where a step (p9_steps.h) says
 * how to lie. The client does one fixed program of everything that a tree can be asked.
 *
 * What must hold, whatever is answered: each op comes back, after a bounded number of requests,
 * with a result that the contract of trees allows (the gate asserts most of it; the rest is here);
 * no request is malformed; all memory is given back.
 */
#include "base/futex.h"
#include "p9_steps.h"
#include "sources/p9.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/xattr.h>
#include <unistd.h>

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

enum {
    OP_REQUESTS = 4000,
    ENTRIES = 200,
    FIDS = 4096,
    BIG = 200000,
    LOCK_WAIT = 20000000 /* ns */
};

/* ---- the server ---- */

enum object { NONE, ROOT, FILE_, DIR_, LINK_ };

enum lie {
    HONEST,
    FIELDS,  /* some fields are made up */
    MADE_UP, /* all are */
    OTHER,   /* an answer of another type */
    ERROR,
    ASTRAY, /* to another tag */
    TWICE,
    BROKEN, /* a byte is another */
    CUT,
    REQUEST, /* the server asks something first */
    LATER,   /* not before the next */
    RAW,
    REPEAT, /* the next lie is told several times */
    NLIES
};

struct server {
    int fd;
    struct luck in;
    uint8_t objects[FIDS];
    bool own;  /* it speaks our dialect */
    bool torn; /* what was sent may be no whole message, or none that answers */
    unsigned repeat;
    uint8_t kind;
    struct luck lie;
    struct bytes out, asked, held; /* held: an answer that comes later */
};

static atomic_uint requests; /* of the op under way */

static struct p9_qid qid(uint8_t object)
{
    return (struct p9_qid){.type = object == LINK_   ? P9_QTSYMLINK
                                   : object == FILE_ ? P9_QTFILE
                                                     : P9_QTDIR,
                           .path = object};
}

static uint8_t named(const struct p9_str *s)
{
    switch (s->len ? s->s[0] : 0) {
    case 'f':
        return FILE_;
    case 'd':
        return DIR_;
    case 's':
        return LINK_;
    case '.':
        return ROOT;
    }
    return NONE;
}

static void attr(struct p9_attr *a, uint8_t object)
{
    *a = (struct p9_attr){.valid = P9_GETATTR_BASIC, .qid = qid(object), .nlink = 1, .size = 100};
    a->mode = object == LINK_ ? 0120777 : object == FILE_ ? 0100666 : 040777;
}

static void walk(struct server *s, const struct p9_msg *in, struct p9_msg *out)
{
    uint8_t at = s->objects[in->fid % FIDS];
    for (int i = 0; i < in->nwname; i++) {
        at = named(&in->wname[i]);
        if (!at)
            break;
        out->wqid[out->nwqid++] = qid(at);
    }
    if (at)
        s->objects[in->newfid % FIDS] = at;
}

static void entries(const struct p9_msg *in, struct p9_msg *out, uint8_t *buf)
{
    static const char *const names[] = {".", "..", "f", "d", "s"};
    out->data = buf;
    for (uint64_t i = in->offset; i < 5; i++) {
        struct p9_dirent e = {.offset = i + 1, .name = p9_str(names[i])};
        e.qid = qid(i < 2 ? ROOT : named(&e.name));
        int n = p9_dirent_put(buf + out->count, in->count - out->count, &e);
        if (n <= 0)
            break;
        out->count += (uint32_t)n;
    }
}

/* The honest answer. */
static void answer(struct server *s, const struct p9_msg *in, struct p9_msg *out, uint8_t *buf)
{
    uint8_t object = s->objects[in->fid % FIDS];
    *out = (struct p9_msg){.type = (uint8_t)(in->type + 1), .tag = in->tag, .data = buf};
    int error = p9_is_own(in->type) && !s->own ? EOPNOTSUPP : 0;
    switch (in->type) {
    case P9_Tversion:
        out->msize = in->msize < 16384 ? in->msize : 16384;
        s->own = s->own && in->version.len == strlen(P9_VERSION_OWN);
        out->version =
            s->own || in->version.len == strlen(P9_VERSION_L) ? in->version : p9_str("unknown");
        break;
    case P9_Tattach:
        s->objects[in->fid % FIDS] = ROOT;
        out->qid = qid(ROOT);
        break;
    case P9_Twalk:
        walk(s, in, out);
        error = in->nwname && !out->nwqid ? ENOENT : 0;
        break;
    case P9_Tlookup:
        object = named(&in->name);
        error = error ? error : object ? 0 : ENOENT;
        attr(&out->attr, object);
        s->objects[in->newfid % FIDS] = object;
        break;
    case P9_Tgetattr:
        attr(&out->attr, object);
        break;
    case P9_Tlcreate:
        s->objects[in->fid % FIDS] = FILE_;
        out->qid = qid(FILE_);
        break;
    case P9_Ttmpfile:
        s->objects[in->newfid % FIDS] = FILE_;
        out->qid = qid(FILE_);
        break;
    case P9_Tlopen:
        out->qid = qid(object);
        break;
    case P9_Tmkdir:
        out->qid = qid(DIR_);
        break;
    case P9_Tmknod:
        out->qid = qid(FILE_);
        break;
    case P9_Tsymlink:
        out->qid = qid(LINK_);
        break;
    case P9_Treadlink:
        out->target = p9_str("target");
        break;
    case P9_Tread:
        out->count = in->offset < 100 && in->count ? 1 : 0;
        memset(buf, 0, 1);
        break;
    case P9_Treaddir:
        entries(in, out, buf);
        break;
    case P9_Twrite:
        out->count = in->count;
        break;
    case P9_Tcopy:
        out->length = in->length;
        break;
    case P9_Txattrwalk:
        s->objects[in->newfid % FIDS] = FILE_;
        out->size = 1;
        break;
    case P9_Tgetlock:
        out->lock = in->lock;
        out->lock.type = P9_LOCK_UN;
        break;
    case P9_Tioctl:
        out->count = in->out_size;
        memset(buf, 0, out->count);
        break;
    default:
        if (!steps_fields[out->type])
            error = EOPNOTSUPP;
    }
    if (error)
        *out = (struct p9_msg){.type = P9_Rlerror, .tag = in->tag, .ecode = (uint32_t)error};
}

static void put_qid(struct bytes *out, const struct p9_qid *q)
{
    bytes_int(out, q->type, 1);
    bytes_int(out, q->version, 4);
    bytes_int(out, q->path, 8);
}

/* A field as the message has it. */
static void put_field(const struct p9_msg *m, const struct steps_field *f, struct bytes *out)
{
    const void *at = (const char *)m + f->off;
    uint64_t v = 0;
    switch (f->kind) {
    case S_STR:
    case S_NAME:
        bytes_int(out, ((const struct p9_str *)at)->len, 2);
        bytes_add(out, ((const struct p9_str *)at)->s, ((const struct p9_str *)at)->len);
        break;
    case S_QID:
        put_qid(out, at);
        break;
    case S_QIDS:
        bytes_int(out, m->nwqid, 2);
        for (int i = 0; i < m->nwqid; i++)
            put_qid(out, &m->wqid[i]);
        break;
    case S_DATA:
        bytes_int(out, m->count, 4);
        bytes_add(out, m->data, m->count);
        break;
    default:
        memcpy(&v, at, f->size);
        bytes_int(out, v, f->size);
    }
}

static void encode(const struct p9_msg *m, struct luck *lies, bool lie, struct bytes *out)
{
    uint32_t which = lie ? luck_byte(lies) : 0;
    if (lie)
        which |= (uint32_t)luck_byte(lies) << 8;
    out->n = 0;
    bytes_head(out, m->type, m->tag);
    for (const struct steps_field *f = steps_fields[m->type]; f && f->kind; f++, which >>= 1)
        if (!steps_has(f))
            continue;
        else if (which & 1)
            luck_field(lies, f, out);
        else
            put_field(m, f, out);
    bytes_seal(out);
}

static void put(struct server *s, const void *p, size_t n)
{
    for (const char *at = p; n;) {
        ssize_t r = send(s->fd, at, n, MSG_NOSIGNAL);
        if (r <= 0)
            return;
        at += r;
        n -= (size_t)r;
    }
}

static void put_held(struct server *s)
{
    put(s, s->held.p, s->held.n);
    s->held.n = 0;
}

static void next_lie(struct server *s)
{
    if (s->repeat) {
        s->repeat--;
        return;
    }
    s->kind = HONEST;
    luck_step(&s->in, &s->kind, &s->lie);
    if (s->kind % NLIES == REPEAT) {
        s->repeat = luck_byte(&s->lie);
        luck_step(&s->in, &s->kind, &s->lie);
    }
    s->kind %= NLIES;
}

/* The answer, or what is in its place. */
static void tell(struct server *s, const struct p9_msg *in, uint8_t *buf)
{
    struct p9_msg m;
    struct luck l;
    answer(s, in, &m, buf);
    next_lie(s);
    l = s->lie;
    encode(&m, &l, s->kind == FIELDS, &s->out);
    s->torn |= s->kind == OTHER || s->kind == BROKEN || s->kind == RAW;
    switch (s->kind) {
    case MADE_UP:
        luck_message(&l, m.type, m.tag, &s->out);
        break;
    case OTHER:
        luck_message(&l, luck_byte(&l), m.tag, &s->out);
        break;
    case ERROR:
        m = (struct p9_msg){.type = P9_Rlerror, .tag = in->tag, .ecode = (uint32_t)luck_int(&l)};
        encode(&m, &l, false, &s->out);
        break;
    case ASTRAY:
        m.tag = (uint16_t)luck_int(&l);
        encode(&m, &l, false, &s->out);
        break;
    case TWICE:
        put(s, s->out.p, s->out.n);
        break;
    case BROKEN:
        s->out.p[luck_byte(&l) % s->out.n] ^= (uint8_t)(luck_byte(&l) | 1);
        break;
    case CUT:
        put(s, s->out.p, luck_byte(&l) % s->out.n);
        shutdown(s->fd, SHUT_WR);
        break;
    case REQUEST:
        luck_message(&l, steps_request(luck_byte(&l)), luck_byte(&l), &s->asked);
        put(s, s->asked.p, s->asked.n);
        break;
    case LATER:
        bytes_add(&s->held, s->out.p, s->out.n);
        return;
    case RAW:
        put(s, l.p, l.n);
        break;
    }
    put(s, s->out.p, s->out.n);
    put_held(s);
}

static bool get(struct server *s, void *buf, size_t n)
{
    for (size_t have = 0; have < n;) {
        struct pollfd p = {s->fd, POLLIN, 0};
        if (s->held.n && poll(&p, 1, 2) == 0)
            put_held(s); /* nobody asks anything before that */
        if (s->torn && poll(&p, 1, 5) == 0)
            return false; /* the client waits for what does not come */
        ssize_t r = read(s->fd, (char *)buf + have, n - have);
        if (r <= 0)
            return false;
        have += (size_t)r;
    }
    return true;
}

/* A lie may have said that we speak one of the older dialects; then the client does. */
static bool understood(uint8_t *buf, size_t n, uint8_t *copy, struct p9_msg *in)
{
    memcpy(copy, buf, n); /* decoding changes it */
    for (enum p9_dialect d = P9_L; d <= P9_BASE; d++) {
        if (p9_decode_as(d, buf, n, in) == 0)
            return true;
        memcpy(buf, copy, n);
    }
    return false;
}

static void *serving(void *arg)
{
    struct server *s = arg;
    uint8_t *buf = malloc(LIMIT_MSIZE_MAX), *data = malloc(LIMIT_MSIZE_MAX);
    while (get(s, buf, 4)) {
        size_t n = buf[0] | (size_t)buf[1] << 8 | (size_t)buf[2] << 16 | (size_t)buf[3] << 24;
        struct p9_msg in;
        CHECK(n >= P9_HDRSZ && n <= LIMIT_MSIZE_MAX);
        if (!get(s, buf + 4, n - 4))
            break;
        CHECK(understood(buf, n, data, &in));
        CHECK(atomic_fetch_add(&requests, 1) < OP_REQUESTS);
        if (in.type % 2 == 0) /* what it answers to questions of ours is nobody's concern */
            tell(s, &in, data);
    }
    shutdown(s->fd, SHUT_RDWR);
    free(buf);
    free(data);
    return NULL;
}

/* ---- the client ---- */

static struct pl_call call;
static char *big;

static int64_t done(int64_t r, int line)
{
    check_at(r >= -4095 && r != -ENOSYS, line, "the result of an op");
    atomic_store(&requests, 0);
    return r;
}
#define OP(e) done((e), __LINE__)

static void check_node(const struct pl_node *node, const struct pl_attr *a)
{
    CHECK(node && (a->mode & S_IFMT) == node->fmt && node->fmt && a->ino);
    CHECK(a->size <= PL_OFF_MAX);
}

static int entry(void *arg, const struct pl_dirent *e)
{
    size_t n = strlen(e->name);
    CHECK(n >= 1 && n <= PL_NAME_MAX && !strchr(e->name, '/'));
    CHECK(e->next && e->next <= PL_OFF_MAX);
    return ++*(unsigned *)arg > ENTRIES;
}

static void use_dir(struct pl_tree *t, struct pl_node *node)
{
    struct pl_file *f;
    unsigned n = 0;
    if (OP(pl_open(t, &call, node, O_RDONLY | O_DIRECTORY, &f)) < 0)
        return;
    OP(pl_readdir(t, &call, f, 0, entry, &n));
    OP(pl_readdir(t, &call, f, 3, entry, &n));
    OP(pl_fsync(t, &call, f, false));
    OP(pl_close(t, &call, f));
}

static void use_locks(struct pl_tree *t, struct pl_file *f)
{
    struct pl_lock l = {.type = F_WRLCK, .owner = 7, .start = 0, .end = 9};
    OP(pl_lock(t, &call, f, &l));
    l.wait = true;
    call.deadline = mono_now() + LOCK_WAIT; /* the server may say for ever that another has it */
    OP(pl_lock(t, &call, f, &l));
    call.deadline = 0;
    l.wait = false;
    int64_t r = OP(pl_getlock(t, &call, f, &l));
    if (r == 0)
        CHECK(l.type == F_UNLCK || (l.start <= l.end && l.end <= PL_OFF_MAX));
    OP(pl_flush(t, &call, f, 7));
    OP(pl_lock(t, &call, f, &(struct pl_lock){.type = F_RDLCK, .flock = true, .owner = 8}));
}

static void use_file(struct pl_tree *t, struct pl_file *f)
{
    int64_t r = OP(pl_read(t, &call, f, big, 64, 0));
    CHECK(r <= 64);
    r = OP(pl_read(t, &call, f, big, BIG, 10));
    CHECK(r <= BIG);
    r = OP(pl_write(t, &call, f, big, BIG, 5));
    CHECK(r <= BIG);
    OP(pl_write(t, &call, f, "x", 1, 5));
    OP(pl_fsync(t, &call, f, true));
    use_locks(t, f);
    OP(pl_seek(t, &call, f, 0, SEEK_HOLE));
    OP(pl_fallocate(t, &call, f, 0, 0, 4096));
    r = OP(pl_copy(t, &call, f, 0, f, 4096, 100));
    CHECK(r <= 100);
    OP(pl_ioctl(t, &call, f, 1, big, 4, 64));
    OP(pl_close(t, &call, f));
}

static void use_xattrs(struct pl_tree *t, struct pl_node *node)
{
    int64_t r = OP(pl_getxattr(t, &call, node, "user.x", big, 64));
    CHECK(r <= 64);
    OP(pl_getxattr(t, &call, node, "user.x", NULL, 0));
    r = OP(pl_listxattr(t, &call, node, big, 1000));
    CHECK(r <= 1000 && (r <= 0 || !big[r - 1]));
    OP(pl_setxattr(t, &call, node, "user.x", "value", 5, 0));
    OP(pl_setxattr(t, &call, node, "user.x", "", 0, XATTR_REPLACE));
    OP(pl_removexattr(t, &call, node, "user.x"));
}

static void use_node(struct pl_tree *t, struct pl_node *node)
{
    struct pl_attr a;
    struct pl_file *f;
    if (OP(pl_getattr(t, &call, node, NULL, &a)) == 0)
        check_node(node, &a);
    OP(pl_access(t, &call, node, R_OK));
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_SIZE, .mode = 0600, .size = 5};
    if (OP(pl_setattr(t, &call, node, NULL, &set, &a)) == 0)
        check_node(node, &a);
    if (node->fmt == S_IFLNK) {
        int64_t r = OP(pl_readlink(t, &call, node, big, PL_PATH_MAX));
        CHECK(r <= PL_PATH_MAX);
    }
    if (node->fmt == S_IFDIR)
        use_dir(t, node);
    else if (node->fmt == S_IFREG && OP(pl_open(t, &call, node, O_RDWR, &f)) == 0)
        use_file(t, f);
    use_xattrs(t, node);
}

static struct pl_node *lookup(struct pl_tree *t, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr a;
    if (OP(pl_lookup(t, &call, dir, name, &node, &a)) < 0)
        return NULL;
    check_node(node, &a);
    return node;
}

static void use_name(struct pl_tree *t, struct pl_node *dir, const char *name)
{
    struct pl_node *node = lookup(t, dir, name);
    if (node)
        use_node(t, node);
    pl_node_unref(node);
}

/* Down a directory that may contain itself, and up again. */
static void go_deep(struct pl_tree *t, struct pl_node *top)
{
    struct pl_node *at = pl_node_ref(top), *next;
    for (int i = 0; i < 20 && at; i++) {
        next = at->fmt == S_IFDIR ? lookup(t, at, i < 10 ? "d" : "..") : NULL;
        if (!next)
            break;
        pl_node_unref(at);
        at = next;
    }
    use_node(t, at);
    pl_node_unref(at);
}

static void change(struct pl_tree *t, struct pl_node *top)
{
    static const struct pl_make makes[] = {{.mode = S_IFDIR | 0755},
                                           {.mode = S_IFLNK | 0777, .target = "t"},
                                           {.mode = S_IFIFO | 0644}};
    struct pl_node *node;
    struct pl_attr a;
    struct pl_file *f;
    for (int i = 0; i < 3; i++)
        if (OP(pl_make(t, &call, top, (char[]){"dsf"[i], '2', 0}, &makes[i], &node, &a)) == 0) {
            check_node(node, &a);
            pl_node_unref(node);
        }
    if (OP(pl_create(t, &call, top, "f3", O_RDWR, 0644, &node, &a, &f)) == 0) {
        check_node(node, &a);
        if (OP(pl_getattr(t, &call, node, f, &a)) == 0)
            check_node(node, &a);
        OP(pl_rename(t, &call, top, "f3", top, "f4", 0));
        OP(pl_close(t, &call, f));
        OP(pl_link(t, &call, node, top, "f5", &a));
        pl_node_unref(node);
    }
    if (OP(pl_tmpfile(t, &call, top, O_RDWR, 0600, &node, &a, &f)) == 0) {
        OP(pl_close(t, &call, f));
        pl_node_unref(node);
    }
    OP(pl_rename(t, &call, top, "d", top, "d2", RENAME_NOREPLACE));
    OP(pl_remove(t, &call, top, "f", 0));
    OP(pl_remove(t, &call, top, "d", AT_REMOVEDIR));
}

static void program(struct pl_tree *t)
{
    struct pl_node *top;
    struct pl_attr a;
    struct statfs st;
    if (OP(pl_attach(t, &call, "", &top, &a)) < 0)
        return;
    check_node(top, &a);
    OP(pl_statfs(t, &call, top, &st));
    use_dir(t, top);
    use_name(t, top, "f");
    use_name(t, top, "s");
    use_name(t, top, "nothing");
    go_deep(t, top);
    change(t, top);
    call.cred.uid = call.cred.gid = 1234; /* another user, who finds nodes that others know */
    use_name(t, top, "d");
    use_node(t, top);
    OP(pl_syncfs(t, &call, top));
    pl_node_unref(top);
}

/* ---- */

static struct p9_crew *crew;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    crew = p9_crew_new(4);
    big = calloc(1, BIG);
    CHECK(crew && big);
    return 0;
}

static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : 0;
}

static void use(int fd)
{
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_DIALED, .uid = (uid_t)-1, .peer = "fuzzer"};
    struct p9_conn_opts opts = {.crew = crew, .use = true};
    struct p9_conn *conn;
    struct pl_tree *t;
    CHECK(p9_conn_new(&chan, &opts, &conn, NULL) == 0);
    pl_call_init_self(&call);
    if (p9_use(conn, &call, NULL) == 0 &&
        pl_p9_open(conn, &(struct pl_p9_opts){.own = true}, &t, NULL) == 0) {
        atomic_store(&requests, 0);
        program(t);
        pl_tree_unref(t);
    } else {
        p9_conn_free(conn);
    }
    pl_call_done(&call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct server s;
    pthread_t thread;
    int fds[2];
    if (size < 1)
        return 0;
    size_t before = allocated();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    s = (struct server){.fd = fds[0], .in = {data + 1, size - 1}, .own = data[0] & 1};
    atomic_store(&requests, 0);
    CHECK(pthread_create(&thread, NULL, serving, &s) == 0);
    use(fds[1]);
    pthread_join(thread, NULL);
    close(fds[0]);
    free(s.out.p);
    free(s.held.p);
    free(s.asked.p);
    CHECK(allocated() <= before + (6 << 20)); /* the crew keeps some buffers */
    return 0;
}
