/* SPDX-License-Identifier: MIT */
/* The 9P source over servers that lie, that are old, or that are made up for the purpose. */
#include "p9_source_fixture.h"
/* after it */
#include <plenum/app.h>

/* ---- servers that lie ---- */

/* Answers by a function; the root is 1, "f" is 2, "d" is 3. */
struct liar {
    int fd;
    pthread_t thread;
    int lie;              /* which */
    bool no_at;           /* knows no *at requests */
    atomic_bool moved;    /* somebody renamed "f": what fids of it there are lead nowhere */
    int removes, renames; /* Tremove and Trename seen */
    int sets;             /* Tsetattr of "f" */
    uint32_t nfids;       /* that it has open */
};

enum {
    HONEST,
    LIE_MODE,    /* the mode says directory, the qid file */
    LIE_TYPE,    /* no type at all */
    LIE_SIZE,    /* past 2^63 */
    LIE_STALE,   /* attributes of another object */
    LIE_CHANGED, /* was a file, is a directory */
    LIE_COUNT,   /* more bytes than asked */
    LIE_WROTE,   /* wrote more than it got */
    LIE_XATTR,   /* an attribute of 4 GiB */
    LIE_LIST,    /* a list of names without an end */
    LIE_NAME,    /* an entry "../x" */
    LIE_EMPTY,   /* an entry "" */
    LIE_LOOP,    /* an entry whose next position is its own */
    LIE_CUT,     /* half an entry */
    LIE_WALK,    /* more qids than names */
    LIE_CREATE,  /* what was made is another object */
    LIE_OPEN,    /* what was opened is another object */
    LIE_LINK,    /* a symlink to nothing */
    LIES
};

static struct p9_qid qid_of(uint64_t path)
{
    return (struct p9_qid){.type = path == 2 || path > 3 ? P9_QTFILE : P9_QTDIR, .path = path};
}

/* Which object a fid is: fids are remembered in a small table. */
static uint8_t objects[4096];

static void entry(struct p9_msg *out, uint8_t *buf, const char *name, uint64_t next)
{
    struct p9_dirent e = {.qid = qid_of(2), .offset = next, .type = 8, .name = p9_str("name")};
    int n = p9_dirent_put(buf + out->count, 1000, &e);
    assert_true(n > 0);
    memcpy(buf + out->count + 24, name, strlen(name)); /* four bytes, whatever they are */
    out->count += (uint32_t)n;
    out->data = buf;
}

static void lie_attr(struct liar *l, uint8_t object, struct p9_attr *a)
{
    *a =
        (struct p9_attr){.valid = P9_GETATTR_BASIC, .qid = qid_of(object), .nlink = 1, .size = 100};
    a->mode = a->qid.type & P9_QTDIR ? S_IFDIR | 0755 : S_IFREG | 0644;
    if (object != 2)
        return;
    if (l->lie == LIE_LINK) {
        a->mode = S_IFLNK | 0777;
        a->qid.type = P9_QTSYMLINK;
    }
    if (l->lie == LIE_MODE)
        a->mode = S_IFDIR | 0755;
    if (l->lie == LIE_TYPE)
        a->mode = 0644;
    if (l->lie == LIE_SIZE)
        a->size = UINT64_MAX - 5;
}

/* The lies that are told only once a file has been found. */
static void lie_later(struct liar *l, struct p9_attr *a)
{
    if (l->lie == LIE_STALE)
        a->qid.path = 9;
    if (l->lie == LIE_CHANGED) {
        a->qid.type = P9_QTDIR;
        a->mode = S_IFDIR | 0755;
    }
}

static void answer(struct liar *l, struct p9_msg *in, struct p9_msg *out, uint8_t *buf)
{
    static int gets;
    int err = 0;
    uint8_t object;
    if (atomic_exchange(&l->moved, false))
        for (int i = 0; i < 4096; i++)
            objects[i] |= objects[i] == 2 ? 0x80 : 0;
    object = objects[in->fid % 4096];
    *out = (struct p9_msg){.type = (uint8_t)(in->type + 1), .tag = in->tag};
    switch (in->type) {
    case P9_Tversion:
        out->msize = in->msize < 8192 ? in->msize : 8192;
        out->version = p9_str(in->version.len == strlen(P9_VERSION_L) ? P9_VERSION_L : "unknown");
        gets = 0;
        break;
    case P9_Tattach:
        objects[in->fid % 4096] = 1;
        out->qid = qid_of(1);
        l->nfids++;
        break;
    case P9_Twalk:
        if (in->nwname) {
            object = in->wname[0].s[0] == 'd' ? 3 : 2;
            if (in->wname[0].s[0] == 'n')
                err = ENOENT;
            out->nwqid = 1;
            out->wqid[0] = qid_of(object);
            if (l->lie == LIE_WALK)
                out->nwqid = 5;
        }
        if (!err) {
            objects[in->newfid % 4096] = object;
            l->nfids++;
        }
        break;
    case P9_Tgetattr:
        err = object & 0x80 ? ENOENT : 0;
        lie_attr(l, object, &out->attr);
        if (object == 2 && gets++ > 0)
            lie_later(l, &out->attr);
        break;
    case P9_Tsetattr:
        err = object & 0x80 ? ENOENT : 0;
        l->sets += !err;
        break;
    case P9_Tlopen:
        out->qid = qid_of(l->lie == LIE_OPEN && object == 2 ? 7 : object);
        break;
    case P9_Tlcreate:
        objects[in->fid % 4096] = 2;
        out->qid = qid_of(l->lie == LIE_CREATE ? 7 : 2);
        break;
    case P9_Tread:
        out->count = in->count + (l->lie == LIE_COUNT);
        memset(buf, 'x', out->count);
        if (out->count && l->lie != LIE_LIST) /* so that it may be a list of names */
            buf[out->count - 1] = 0;
        out->data = buf;
        break;
    case P9_Twrite:
        out->count = in->count + (l->lie == LIE_WROTE);
        break;
    case P9_Txattrwalk:
        out->size = l->lie == LIE_XATTR ? 1ull << 32 : 8;
        objects[in->newfid % 4096] = 2;
        l->nfids++;
        break;
    case P9_Treaddir:
        if (in->offset)
            break;
        entry(out, buf, "okay", 1);
        if (l->lie == LIE_NAME)
            entry(out, buf, "../x", 2);
        if (l->lie == LIE_LOOP)
            entry(out, buf, "loop", 1);
        if (l->lie == LIE_EMPTY) {
            entry(out, buf, "name", 2);
            buf[out->count - 6] = 0;
            out->count -= 4;
        }
        if (l->lie == LIE_CUT) {
            entry(out, buf, "half", 2);
            out->count -= 3;
        }
        break;
    case P9_Treadlink:
        out->target = p9_str("");
        break;
    case P9_Tunlinkat:
    case P9_Trenameat:
        err = l->no_at ? EOPNOTSUPP : 0;
        break;
    case P9_Tremove:
        l->removes++;
        l->nfids--;
        break;
    case P9_Trename:
        l->renames++;
        break;
    case P9_Tclunk:
        l->nfids--;
        break;
    case P9_Tflush:
    case P9_Txattrcreate:
    case P9_Tfsync:
        break;
    default:
        err = EOPNOTSUPP;
    }
    if (err)
        *out = (struct p9_msg){.type = P9_Rlerror, .tag = in->tag, .ecode = (uint32_t)err};
}

static void *lying(void *arg)
{
    struct liar *l = arg;
    uint8_t *buf = malloc(1 << 16), *data = malloc(1 << 17), *enc = malloc(1 << 17);
    struct p9_msg in, out;
    while (get(l->fd, buf, 4) && get(l->fd, buf + 4, size_of(buf) - 4)) {
        assert_int_equal(p9_decode(buf, size_of(buf), &in), 0);
        answer(l, &in, &out, data);
        int n = p9_encode(&out, enc, 1 << 17);
        assert_true(n > 0);
        put(l->fd, enc, (size_t)n);
    }
    free(buf);
    free(data);
    free(enc);
    return NULL;
}

static int stop_early(void *arg, const struct pl_dirent *ent)
{
    assert_string_equal(ent->name, "okay");
    return 0;
}

/* Does everything to a server that tells one lie; each thing works, or fails with EIO, ESTALE or
 * the loss of the connection. */
static void sane(int64_t r)
{
    if (r < 0 && r != -EIO && r != -ESTALE && r != -EPROTO && r != -ECONNABORTED)
        fail_msg("unexpected result %lld", (long long)r);
}

static int64_t try_all(struct pl_tree *t, struct pl_node *top)
{
    struct pl_node *node, *made;
    struct pl_attr attr;
    struct pl_file *file;
    char buf[64];
    int64_t bad = 0, r = pl_lookup(t, &call, top, "f", &node, &attr);
#define TRY(e)                                                                                     \
    do {                                                                                           \
        r = (e);                                                                                   \
        sane(r);                                                                                   \
        if (r < 0)                                                                                 \
            bad = r;                                                                               \
    } while (0)
    TRY(r);
    if (r == 0) {
        TRY(pl_getattr(t, &call, node, NULL, &attr));
        if (node->fmt == S_IFREG) {
            TRY(pl_open(t, &call, node, O_RDWR, &file));
            if (r == 0) {
                TRY(pl_read(t, &call, file, buf, sizeof(buf), 0));
                TRY(pl_write(t, &call, file, buf, sizeof(buf), 0));
                TRY(pl_flush(t, &call, file, 0)); /* it may have been written behind */
                pl_close(t, &call, file);
            }
        } else if (node->fmt == S_IFLNK) {
            TRY(pl_readlink(t, &call, node, buf, sizeof(buf)));
        }
        TRY(pl_getxattr(t, &call, node, "user.x", buf, sizeof(buf)));
        TRY(pl_listxattr(t, &call, node, buf, sizeof(buf)));
        pl_node_unref(node);
    }
    r = pl_create(t, &call, top, "f2", O_RDWR, 0644, &made, &attr, &file);
    TRY(r);
    if (r == 0) {
        pl_close(t, &call, file);
        pl_node_unref(made);
    }
    r = pl_open(t, &call, top, O_RDONLY | O_DIRECTORY, &file);
    TRY(r);
    if (r == 0) {
        TRY(pl_readdir(t, &call, file, 0, stop_early, NULL));
        pl_close(t, &call, file);
    }
    return bad;
}

static struct pl_tree *dial_liar(struct liar *l, struct p9_crew *crew)
{
    int fds[2];
    struct pl_tree *t;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    l->fd = fds[0];
    pthread_create(&l->thread, NULL, lying, l);
    assert_int_equal(pl_p9_open(use(crew, fds[1]), &(struct pl_p9_opts){.own = true}, &t, NULL), 0);
    return t;
}

static void liars(void **state)
{
    for (int lie = HONEST; lie < LIES; lie++) {
        struct liar l = {.lie = lie};
        struct p9_crew *crew = p9_crew_new(2);
        struct pl_node *top;
        struct pl_attr attr;
        pl_call_init_self(&call);
        struct pl_tree *t = dial_liar(&l, crew);
        assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
        int64_t bad = try_all(t, top);
        if ((lie == HONEST) != (bad == 0))
            fail_msg("lie %d: %lld", lie, (long long)bad);
        pl_node_unref(top);
        pl_tree_unref(t);
        pthread_join(l.thread, NULL);
        close(l.fd);
        p9_crew_free(crew);
        pl_call_done(&call);
    }
}

/* A server without the *at requests; and no fid is left when the tree goes. */
static void old_servers(void **state)
{
    struct liar l = {.no_at = true};
    struct p9_crew *crew = p9_crew_new(2);
    struct pl_node *top;
    struct pl_attr attr;
    pl_call_init_self(&call);
    struct pl_tree *t = dial_liar(&l, crew);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
    assert_int_equal(pl_remove(t, &call, top, "f", 0), 0);
    assert_int_equal(pl_remove(t, &call, top, "f", AT_REMOVEDIR), -ENOTDIR);
    assert_int_equal(pl_remove(t, &call, top, "d", 0), -EISDIR);
    assert_int_equal(pl_remove(t, &call, top, "none", 0), -ENOENT);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 0), 0);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 1), -EINVAL);
    pl_node_unref(top);
    pl_tree_unref(t);
    pthread_join(l.thread, NULL);
    assert_int_equal(l.removes, 1);
    assert_int_equal(l.renames, 1);
    close(l.fd);
    p9_crew_free(crew);
    pl_call_done(&call);
}

/* ---- dialing ---- */

struct host {
    struct chan_listener *listener;
    struct p9_door *door;
    struct p9_conn *conn;
};

static void *host(void *arg)
{
    struct host *h = arg;
    struct chan chan;
    assert_int_equal(chan_accept(h->listener, &chan, NULL), 0);
    assert_int_equal(p9_door_conn(h->door, &chan, false, NULL, NULL, &h->conn, NULL), 0);
    p9_conn_wait(h->conn, NULL);
    p9_conn_free(h->conn);
    return NULL;
}

static int dial_host(struct host *h, const char *spec, struct pl_err *err)
{
    pthread_t th;
    struct pl_tree *t = NULL;
    struct pl_node *top;
    struct pl_attr attr;
    pthread_create(&th, NULL, host, h);
    int r = pl_tree_open(spec, &t, err);
    if (r == 0) {
        assert_true(t->flags & PL_TREE_LASTING); /* it can be dialed again */
        assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
        pl_node_unref(top);
        pl_tree_unref(t);
    }
    pthread_join(th, NULL);
    return r;
}

static void dialing(void **state)
{
    char dir[] = "/tmp/p9_source.XXXXXX", addr[64], spec[128];
    struct pl_err err = {0};
    struct pl_tree *mem, *t;
    struct host h;
    struct p9_crew *crew = p9_crew_new(4);
    pl_call_init_self(&call);
    assert_non_null(mkdtemp(dir));
    snprintf(addr, sizeof(addr), "unix!%s/socket", dir);
    snprintf(spec, sizeof(spec), "9p:%s", addr);
    assert_int_equal(pl_tree_open(spec, &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, dir));
    assert_int_equal(chan_listen(addr, NULL, &h.listener, &err), 0);
    assert_int_equal(pl_mem_new(1 << 20, &mem, NULL), 0);
    struct p9_export e = {"here", mem};
    assert_int_equal(p9_door_new(&e, 1, crew, NULL, &h.door), 0);
    snprintf(spec, sizeof(spec), "9p:%s,aname=here", addr);
    assert_int_equal(dial_host(&h, spec, &err), 0);
    /* The first one that is there is taken, in order. */
    snprintf(spec, sizeof(spec), "9p:unix!%s/none,or=%s,aname=here", dir, addr);
    assert_int_equal(dial_host(&h, spec, &err), 0);
    snprintf(spec, sizeof(spec), "ro(9p:%s,aname=here)", addr);
    assert_int_equal(dial_host(&h, spec, &err), 0);
    snprintf(spec, sizeof(spec), "9p:%s,aname=there", addr);
    assert_int_equal(dial_host(&h, spec, &err), -ENOENT);
    assert_non_null(strstr(err.text, "\"there\""));
    assert_true(pl_tree_open("9p:exec!echo this is a web server, not a file server", &t, &err) < 0);
    assert_true(*err.text);
    assert_true(pl_tree_open("9p:exec!true", &t, &err) < 0);
    p9_door_free(h.door);
    p9_crew_free(crew);
    pl_tree_unref(mem);
    chan_listener_free(h.listener);
    assert_int_equal(rmdir(dir), 0);
    pl_call_done(&call);
}

/* ---- a tree that is made up ---- */

static int tell_time(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "it is late\n");
}

static int committed; /* how often */
static char commit_text[64];

static int fill(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "%s", commit_text);
}

static int commit(const struct pl_made_req *req, const char *text, size_t n)
{
    committed++;
    if (!strcmp(text, "bad"))
        return -EDOM;
    snprintf(commit_text, sizeof(commit_text), "%s", text);
    return 0;
}

/* What opening decides, and what closing says, get across. */
static void made_up(void **state)
{
    struct pl_made *m = pl_made_new();
    struct pl_tree *made, *t;
    struct pl_node *top, *node;
    struct pl_attr attr;
    struct pl_file *f;
    struct p9_crew *crew = p9_crew_new(4);
    struct p9_door *door;
    struct p9_conn *conn;
    char buf[64];
    int fds[2];
    assert_int_equal(pl_made_file(m, "time", tell_time, NULL), 0);
    assert_int_equal(pl_made_doc(m, "doc", fill, commit, NULL), 0);
    struct pl_stream *stream = pl_made_stream(m, "events", 4096);
    assert_non_null(made = pl_made_tree(m));
    pl_call_init_self(&call);
    struct p9_export e = {"", made};
    assert_int_equal(p9_door_new(&e, 1, crew, NULL, &door), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
    assert_int_equal(p9_door_conn(door, &chan, false, NULL, NULL, &conn, NULL), 0);
    assert_int_equal(pl_p9_open(use(crew, fds[1]), &(struct pl_p9_opts){.own = true}, &t, NULL), 0);
    assert_int_equal(t->flags & PL_TREE_GENERATED, made->flags & PL_TREE_GENERATED);
    assert_int_equal(t->flags & PL_TREE_LASTING, 0); /* a pair of descriptors */
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);

    node = look(t, top, "time");
    assert_int_equal(pl_open(t, &call, node, O_RDONLY, &f), 0);
    assert_true(f->direct);
    assert_int_equal(pl_read(t, &call, f, buf, sizeof(buf), 0), 11);
    pl_close(t, &call, f);
    pl_node_unref(node);

    node = look(t, top, "events");
    assert_int_equal(pl_open(t, &call, node, O_RDONLY, &f), 0);
    assert_true(f->stream);
    assert_int_equal(pl_stream_send(stream, "one", 3), 0);
    assert_int_equal(pl_read(t, &call, f, buf, sizeof(buf), 0), 3);
    struct pl_call late;
    pl_call_init_self(&late);
    late.deadline = 1; /* long past */
    assert_int_equal(pl_read(t, &late, f, buf, sizeof(buf), 3), -ETIMEDOUT);
    pl_call_done(&late);
    pl_close(t, &call, f);
    pl_node_unref(node);

    node = look(t, top, "doc");
    assert_int_equal(pl_open(t, &call, node, O_RDWR | O_TRUNC, &f), 0);
    assert_int_equal(pl_write(t, &call, f, "good", 4, 0), 4);
    assert_int_equal(pl_flush(t, &call, f, 1), 0);
    assert_int_equal(committed, 1);
    assert_int_equal(pl_flush(t, &call, f, 1), 0); /* nothing new */
    assert_int_equal(pl_write(t, &call, f, "bad", 4, 0), 4);
    assert_int_equal(pl_flush(t, &call, f, 1), -EDOM);
    pl_close(t, &call, f);
    pl_node_unref(node);
    pl_node_unref(top);
    pl_tree_unref(t);
    p9_conn_wait(conn, NULL);
    p9_conn_free(conn);
    assert_string_equal(commit_text, "good");
    p9_door_free(door);
    p9_crew_free(crew);
    pl_tree_unref(made);
    pl_call_done(&call);
}

/* A server whose fids are paths: a rename leaves them behind. */
static void servers_by_path(void **state)
{
    struct liar l = {0};
    struct p9_crew *crew = p9_crew_new(2);
    struct pl_node *top, *node, *again;
    struct pl_attr attr;
    pl_call_init_self(&call);
    struct pl_tree *t = dial_liar(&l, crew);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
    assert_int_equal(pl_lookup(t, &call, top, "f", &node, &attr), 0);
    /* ours: mended at once */
    atomic_store(&l.moved, true);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 0), 0);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), 0);
    /* while it is open, too */
    struct pl_file *file;
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = 5};
    assert_int_equal(pl_open(t, &call, node, O_RDWR, &file), 0);
    assert_int_equal(pl_setattr(t, &call, node, file, &set, &attr), 0);
    atomic_store(&l.moved, true);
    assert_int_equal(pl_rename(t, &call, top, "g", top, "f", 0), 0);
    assert_int_equal(pl_getattr(t, &call, node, file, &attr), 0);
    assert_int_equal(pl_setattr(t, &call, node, file, &set, &attr), 0);
    assert_int_equal(l.sets, 2);
    pl_close(t, &call, file);
    /* another's: told, and mended by looking the name up, the node staying what it is */
    atomic_store(&l.moved, true);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), -ESTALE);
    assert_int_equal(pl_lookup(t, &call, top, "g", &again, &attr), 0);
    assert_ptr_equal(again, node);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), 0);
    pl_node_unref(again);
    pl_node_unref(node);
    pl_node_unref(top);
    pl_tree_unref(t);
    pthread_join(l.thread, NULL);
    close(l.fd);
    p9_crew_free(crew);
    pl_call_done(&call);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(liars),   cmocka_unit_test(old_servers), cmocka_unit_test(servers_by_path),
        cmocka_unit_test(dialing), cmocka_unit_test(made_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
