/* SPDX-License-Identifier: MIT */
/* What cases stand on: checks, callers, threads, and what is dropped when a case ends. */
#include "env.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

_Thread_local struct pl_tree *tree;
_Thread_local struct pl_node *top;
_Thread_local struct pl_call *me;

int verdict_fd = -1;
bool verbose;

/* What the case holds. Newest first, so that files go before their nodes. */
enum held_kind { H_NODE, H_FILE, H_CALL, H_VIEW };
struct held {
    enum held_kind kind;
    void *what;
    struct pl_tree *tree;
    struct held *next;
};
static struct held *held;
static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- verdicts -------------------------------------------------------------------------------- */

/* One write, so that of two threads that fail at once one is heard whole. */
static _Noreturn void end_case(int status, const char *text)
{
    size_t n = strlen(text);
    if (verdict_fd < 0 || write(verdict_fd, text, n) != (ssize_t)n)
        fprintf(stderr, "%s\n", text);
    fflush(stdout);
    _exit(status);
}

void fail_at(const char *file, int line, const char *fmt, ...)
{
    char text[1000];
    const char *base = strrchr(file, '/');
    int n = snprintf(text, sizeof(text), "%s:%d: ", base ? base + 1 : file, line);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
    va_end(ap);
    end_case(CASE_FAILED, text);
}

void skip_at(enum feature f, const char *fmt, ...)
{
    char text[1000];
    int n = snprintf(text, sizeof(text), "%s: ", feature_name[f]);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
    va_end(ap);
    end_case(CASE_SKIPPED, text);
}

void note(const char *fmt, ...)
{
    if (!verbose)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("    ");
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

static const char *result_text(int64_t r, char buf[64])
{
    const char *name = r < 0 && r > -4096 ? strerrorname_np((int)-r) : NULL;
    if (name)
        snprintf(buf, 64, "-%s", name);
    else
        snprintf(buf, 64, "%lld", (long long)r);
    return buf;
}

int64_t check_ok(const char *file, int line, const char *what, int64_t got)
{
    char a[64];
    if (got < 0)
        fail_at(file, line, "%s: %s", what, result_text(got, a));
    return got;
}

int64_t check_is(const char *file, int line, const char *what, int64_t got, int64_t want)
{
    char a[64], b[64];
    if (got != want)
        fail_at(file, line, "%s: %s, should be %s", what, result_text(got, a),
                result_text(want, b));
    return got;
}

int64_t check_of(const char *file, int line, const char *what, int64_t got, const int64_t *want)
{
    char a[64], list[256] = "", b[64];
    for (; *want != 1; want++) {
        if (got == *want)
            return got;
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s%s", n ? " or " : "", result_text(*want, b));
    }
    fail_at(file, line, "%s: %s, should be %s", what, result_text(got, a), list);
}

int64_t check_need(const char *file, int line, const char *what, enum feature f, int64_t got)
{
    if (got == -EOPNOTSUPP)
        skip_at(f, "%s: -EOPNOTSUPP", what);
    return check_ok(file, line, what, got);
}

void need_root(void)
{
    if (geteuid())
        SKIP(root, "not root");
}

void need_flag(uint32_t tree_flag, enum feature f)
{
    if (!(tree->flags & tree_flag))
        skip_at(f, "the tree does not say that it has them");
}

/* ---- what the case holds --------------------------------------------------------------------- */

static void hold(enum held_kind kind, void *what)
{
    struct held *h = malloc(sizeof(*h));
    assert(h);
    *h = (struct held){kind, what, tree, NULL};
    pthread_mutex_lock(&held_mutex);
    h->next = held;
    held = h;
    pthread_mutex_unlock(&held_mutex);
}

static void let_go(struct held *h)
{
    switch (h->kind) {
    case H_NODE:
        pl_node_unref(h->what);
        break;
    case H_FILE:
        pl_flush(h->tree, me, h->what, 0);
        pl_close(h->tree, me, h->what);
        break;
    case H_CALL:
        pl_call_done(h->what);
        free(h->what);
        break;
    case H_VIEW:
        pl_node_unref(((struct view *)h->what)->top);
        pl_tree_unref(((struct view *)h->what)->tree);
        free(h->what);
        break;
    }
    free(h);
}

/* Lets go of the newest that is `what`, or (what NULL) of the newest that belongs to tree `t`,
 * or of the newest of all. False: there is none. */
static bool let_go_of(enum held_kind kind, const void *what, const struct pl_tree *t)
{
    pthread_mutex_lock(&held_mutex);
    struct held **p = &held;
    while (*p && ((what && ((*p)->what != what || (*p)->kind != kind)) ||
                  (t && ((*p)->tree != t || (*p)->kind > H_FILE))))
        p = &(*p)->next;
    struct held *h = *p;
    if (h)
        *p = h->next;
    pthread_mutex_unlock(&held_mutex);
    if (h)
        let_go(h);
    return h;
}

void let_all_go(void)
{
    while (let_go_of(H_NODE, NULL, NULL))
        ;
}

struct pl_node *keep(struct pl_node *node)
{
    hold(H_NODE, node);
    return node;
}

struct pl_file *keep_file(struct pl_file *file)
{
    hold(H_FILE, file);
    return file;
}

void drop(struct pl_node *node)
{
    if (!let_go_of(H_NODE, node, NULL))
        FAIL("drop of a node that the case does not hold");
}

void close_(struct pl_file *file)
{
    if (!let_go_of(H_FILE, file, NULL))
        FAIL("close of a file that the case does not hold");
}

/* ---- callers, threads, time ------------------------------------------------------------------ */

struct pl_call *user_of(uid_t uid, gid_t gid, ...)
{
    struct {
        struct pl_call call; /* first: freed by this address */
        gid_t groups[16];
    } *u = calloc(1, sizeof(*u));
    assert(u);
    pl_call_init(&u->call, uid, gid);
    va_list ap;
    va_start(ap, gid);
    for (int g; (g = va_arg(ap, int)) != -1;) {
        assert(u->call.cred.ngroups < 16);
        u->groups[u->call.cred.ngroups++] = (gid_t)g;
    }
    va_end(ap);
    u->call.cred.groups = u->groups;
    hold(H_CALL, &u->call);
    return &u->call;
}

struct thread {
    pthread_t id;
    thread_fn *fn;
    void *arg;
    struct pl_tree *tree;
    struct pl_node *top;
};

static void *thread_main(void *arg)
{
    struct thread *th = arg;
    struct pl_call call;
    pl_call_init_self(&call);
    me = &call;
    tree = th->tree;
    top = th->top;
    th->fn(th->arg);
    pl_call_done(&call);
    return NULL;
}

struct thread *thread_begin(thread_fn *fn, void *arg)
{
    struct thread *th = malloc(sizeof(*th));
    assert(th);
    *th = (struct thread){.fn = fn, .arg = arg, .tree = tree, .top = top};
    if (pthread_create(&th->id, NULL, thread_main, th))
        FAIL("no thread");
    return th;
}

void thread_join(struct thread *th)
{
    pthread_join(th->id, NULL);
    free(th);
}

/* File systems stamp with the coarse clock, or, once a stamp has been looked at, with the fine one,
 * which may be ahead of it: what follows is later than both when the coarse one has caught up. */
void tick(void)
{
    struct timespec fine, coarse;
    clock_gettime(CLOCK_REALTIME, &fine);
    do {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        clock_gettime(CLOCK_REALTIME_COARSE, &coarse);
    } while (coarse.tv_sec < fine.tv_sec ||
             (coarse.tv_sec == fine.tv_sec && coarse.tv_nsec <= fine.tv_nsec));
}

unsigned rnd(unsigned *state, unsigned n)
{
    unsigned x = *state ? *state : 0x2545f491; /* xorshift must not start at 0 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    return x % n;
}

/* ---- clients --------------------------------------------------------------------------------- */

struct view *view_open(void)
{
    struct view *v = calloc(1, sizeof(*v));
    struct pl_err err = {0};
    struct pl_attr a;
    assert(v);
    int r = stack_again(&v->tree, &err);
    if (r == -EOPNOTSUPP)
        SKIP(clients, "the stack has one client");
    if (r < 0)
        FAIL("another client: %s", err.text);
    OK(pl_attach(v->tree, me, "", &v->top, &a));
    hold(H_VIEW, v);
    return v;
}

void view_close(struct view *v)
{
    while (let_go_of(H_NODE, NULL, v->tree))
        ;
    let_go_of(H_VIEW, v, NULL);
}

struct view *view_swap(struct view *v)
{
    static _Thread_local struct view was;
    struct view to = *v; /* perhaps `was` itself */
    was = (struct view){tree, top};
    tree = to.tree;
    top = to.top;
    return &was;
}
