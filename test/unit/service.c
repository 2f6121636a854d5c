/* SPDX-License-Identifier: MIT */
/* The service layer over a memory tree; the test is the server, at the other end of a socket pair.
 */
#include "layers/service.h"
#include "layers/places.h"
#include "layers/service_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <plenum/sources.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct fix {
    struct pl_call call;
    struct pl_tree *mem, *t;
    struct pl_node *root;
    struct pl_attr attr;
    int calls[2]; /* server ends of connections that were dialed */
    atomic_bool away;
    sem_t failed;     /* dialing was tried while the server was away */
    atomic_bool slow; /* dialing takes its time, and can be given up */
    char said[256];   /* the last sentence about the server */
    FILE *f;          /* the connection */
    char line[SERVICE_LINE_MAX];
};

static int dial(void *arg, int cancel, int *in, int *out, pid_t *pid, struct pl_err *err)
{
    struct fix *x = arg;
    int pair[2];
    if (atomic_load(&x->away)) {
        sem_post(&x->failed);
        return pl_fail(err, -ECONNREFUSED, "nobody there");
    }
    struct pollfd p = {.fd = cancel, .events = POLLIN};
    if (atomic_load(&x->slow) && (sem_post(&x->failed), poll(&p, 1, 300)) > 0)
        return -ECANCELED;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return -errno;
    *in = *out = pair[0];
    *pid = 1; /* not us */
    assert_int_equal(write(x->calls[1], &pair[1], sizeof(int)), sizeof(int));
    return 0;
}

static void changed(void *arg, const char *sentence)
{
    struct fix *x = arg;
    snprintf(x->said, sizeof(x->said), "%s", sentence ? sentence : "");
}

static void accept_call(struct fix *x, const char *greeting)
{
    int fd;
    assert_int_equal(read(x->calls[0], &fd, sizeof(fd)), sizeof(fd));
    x->f = fdopen(fd, "r+");
    setvbuf(x->f, NULL, _IONBF, 0);
    assert_non_null(fgets(x->line, sizeof(x->line), x->f));
    assert_true(strncmp(x->line, "plenum-service 1 name=s session=", 32) == 0);
    fputs(greeting, x->f);
}

static void make(struct fix *x, const char *attrs)
{
    struct service_attrs a;
    struct pl_err err;
    memset(x, 0, sizeof(*x));
    sem_init(&x->failed, 0, 0);
    pl_call_init_self(&x->call);
    assert_int_equal(pipe(x->calls), 0);
    assert_int_equal(pl_mem_new(0, &x->mem, NULL), 0);
    assert_int_equal(service_attrs_parse(attrs, &a, &err), 0);
    struct service_dialer d = {.dial = dial, .changed = changed, .arg = x};
    x->t = service_new("s", "mem:", &a, &d, pl_tree_ref(x->mem));
    assert_non_null(x->t);
    accept_call(x, "plenum-service 1\n");
    assert_int_equal(pl_attach(x->t, &x->call, "", &x->root, &x->attr), 0);
}

static void end(struct fix *x)
{
    pl_node_unref(x->root);
    if (x->f)
        shutdown(fileno(x->f), SHUT_RDWR);
    atomic_store(&x->away, true);
    pl_tree_unref(x->t);
    if (x->f)
        fclose(x->f);
    pl_tree_unref(x->mem);
    close(x->calls[0]);
    close(x->calls[1]);
    pl_call_done(&x->call);
    sem_destroy(&x->failed);
}

/* The next event, its words up to the paths as "OP WANT RESULT path=..."; data is eaten. */
static const char *next(struct fix *x)
{
    assert_non_null(fgets(x->line, sizeof(x->line), x->f));
    x->line[strcspn(x->line, "\n")] = 0;
    char *ino = strstr(x->line, " ino="), *uid = strstr(x->line, " uid=");
    if (ino) { /* numbers that mem chose */
        size_t n = strcspn(ino + 1, " ") + 1;
        memmove(ino, ino + n, strlen(ino + n) + 1);
        uid = strstr(x->line, " uid=");
    }
    char *pid = strstr(x->line, " pid=");
    if (pid)
        *pid = 0;
    else if (uid)
        *uid = 0;
    char *space = strchr(x->line, ' ');
    return space ? space + 1 : x->line;
}

static unsigned long long seq(const struct fix *x)
{
    return strtoull(x->line, NULL, 10);
}

static bool silent(struct fix *x)
{
    struct pollfd p = {.fd = fileno(x->f), .events = POLLIN};
    return poll(&p, 1, 0) == 0;
}

static struct pl_node *create(struct fix *x, const char *name)
{
    struct pl_node *n;
    struct pl_file *f;
    assert_int_equal(pl_create(x->t, &x->call, x->root, name, O_RDWR, 0600, &n, &x->attr, &f), 0);
    pl_close(x->t, &x->call, f);
    return n;
}

static void told_in_order(void **state)
{
    struct fix x;
    make(&x, "/monitor/call=create,write,rename,link,remove,make,setattr,setxattr/batch=0");
    struct pl_node *n, *d;
    struct pl_file *f;
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_create(x.t, &x.call, x.root, "a b%", O_RDWR, 0600, &n, &x.attr, &f), 0);
    assert_int_equal(pl_write(x.t, &x.call, f, "12345", 5, 7), 5);
    assert_int_equal(pl_make(x.t, &x.call, x.root, "d", &mk, &d, &x.attr), 0);
    assert_int_equal(pl_rename(x.t, &x.call, x.root, "a b%", d, "\n", 0), 0);
    assert_int_equal(pl_rename(x.t, &x.call, x.root, "d", x.root, "e", 0), 0);
    assert_int_equal(pl_write(x.t, &x.call, f, "1", 1, 0), 1);
    assert_int_equal(pl_link(x.t, &x.call, n, x.root, "l", &x.attr), 0);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "l", 0), 0);
    assert_int_equal(pl_write(x.t, &x.call, f, "1", 1, 0), 1);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "none", 0), -ENOENT);
    assert_int_equal(pl_setxattr(x.t, &x.call, n, "user.x", "v", 1, 0), 0);
    assert_string_equal(next(&x), "create - 0 path=/a%20b%25 flags=2");
    assert_int_equal(seq(&x), 1);
    assert_string_equal(next(&x), "write - 5 path=/a%20b%25 off=7 len=5 flags=2");
    assert_string_equal(next(&x), "make - 0 path=/d flags=16877");
    assert_string_equal(next(&x), "rename - 0 path=/a%20b%25 path2=/d/%0A");
    assert_string_equal(next(&x), "rename - 0 path=/d path2=/e");
    assert_string_equal(next(&x), "write - 1 path=/e/%0A len=1 flags=2");
    assert_string_equal(next(&x), "link - 0 path=/e/%0A path2=/l");
    assert_string_equal(next(&x), "remove - 0 path=/l");
    assert_string_equal(next(&x), "write - 1 path=/e/%0A len=1 flags=2");
    assert_string_equal(next(&x), "remove - ENOENT path=/none");
    assert_string_equal(next(&x), "setxattr - 0 path=/e/%0A name=user.x len=1");
    assert_int_equal(seq(&x), 11);
    pl_close(x.t, &x.call, f);
    pl_node_unref(n);
    pl_node_unref(d);
    end(&x);
}

static void only_what_is_wanted(void **state)
{
    struct fix x;
    make(&x, "/monitor/regular/write/call=open,close,remove,make/match=*.c/batch=0");
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    struct pl_node *c = create(&x, "x.c"), *h = create(&x, "x.h"), *d;
    struct pl_file *f;
    assert_string_equal(next(&x), "close - 0 path=/x.c flags=2");
    assert_int_equal(pl_make(x.t, &x.call, x.root, "d.c", &mk, &d, &x.attr), 0);
    assert_int_equal(pl_open(x.t, &x.call, h, O_RDWR, &f), 0);
    pl_close(x.t, &x.call, f);
    assert_int_equal(pl_open(x.t, &x.call, c, O_RDONLY, &f), 0);
    pl_close(x.t, &x.call, f);
    assert_int_equal(pl_open(x.t, &x.call, c, O_WRONLY, &f), 0);
    pl_close(x.t, &x.call, f);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "d.c", AT_REMOVEDIR), 0);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "x.c", 0), 0);
    assert_string_equal(next(&x), "open - 0 path=/x.c flags=1");
    assert_string_equal(next(&x), "close - 0 path=/x.c flags=1");
    assert_string_equal(next(&x), "remove - 0 path=/x.c");
    assert_int_equal(seq(&x), 4);
    pl_node_unref(c);
    pl_node_unref(h);
    pl_node_unref(d);
    end(&x);
}

/* An op in a thread of its own. */
struct op {
    struct fix *x;
    struct pl_call call;
    const char *name;
    int result;
    pthread_t thread;
    atomic_bool over;
};

static void *remover(void *arg)
{
    struct op *o = arg;
    o->result = pl_remove(o->x->t, &o->call, o->x->root, o->name, 0);
    atomic_store(&o->over, true);
    return NULL;
}

static void start(struct op *o, struct fix *x, const char *name)
{
    *o = (struct op){.x = x, .name = name};
    pl_call_init_self(&o->call);
    assert_int_equal(pthread_create(&o->thread, NULL, remover, o), 0);
}

static int finish(struct op *o)
{
    pthread_join(o->thread, NULL);
    pl_call_done(&o->call);
    return o->result;
}

static bool there(struct fix *x, const char *name)
{
    struct pl_node *n;
    int r = pl_lookup(x->mem, &x->call, x->root, name, &n, &x->attr);
    if (r == 0)
        pl_node_unref(n);
    return r == 0;
}

static void ack_is_waited_for(void **state)
{
    struct fix x;
    struct op a, b;
    make(&x, "/monitor/call=remove/ack=remove");
    pl_node_unref(create(&x, "a"));
    pl_node_unref(create(&x, "b"));
    start(&a, &x, "a");
    assert_string_equal(next(&x), "remove ack 0 path=/a");
    unsigned long long first = seq(&x);
    assert_false(there(&x, "a")); /* it is done */
    start(&b, &x, "b");
    assert_string_equal(next(&x), "remove ack 0 path=/b");
    assert_false(atomic_load(&a.over)); /* and yet it has not returned: nor can it, before this */
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&b), 0);
    assert_false(atomic_load(&a.over));
    fprintf(x.f, "answer %llu EDQUOT\n", first);
    assert_int_equal(finish(&a), -EDQUOT);
    end(&x);
}

static void server_decides(void **state)
{
    struct fix x;
    struct op a;
    make(&x, "/call=remove");
    pl_node_unref(create(&x, "a"));
    start(&a, &x, "a");
    assert_string_equal(next(&x), "remove ask 0 path=/a");
    assert_true(there(&x, "a"));
    fprintf(x.f, "answer %llu EACCES\n", seq(&x));
    assert_int_equal(finish(&a), -EACCES);
    assert_true(there(&x, "a"));
    start(&a, &x, "a");
    assert_string_equal(next(&x), "remove ask 0 path=/a");
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&a), 0);
    assert_false(there(&x, "a"));
    end(&x);
}

static void cancelled(void **state)
{
    struct fix x;
    struct op a;
    make(&x, "/call=remove");
    pl_node_unref(create(&x, "a"));
    start(&a, &x, "a");
    next(&x);
    pl_call_cancel(&a.call);
    assert_int_equal(finish(&a), -EINTR);
    assert_true(there(&x, "a"));
    /* The answer comes late, and to nobody. */
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    start(&a, &x, "a");
    next(&x);
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&a), 0);
    end(&x);
}

/* The server is gone, and the layer has noticed. */
static void die(struct fix *x)
{
    atomic_store(&x->away, true);
    fclose(x->f);
    x->f = NULL;
    sem_wait(&x->failed);
}

static void lost_error(void **state)
{
    struct fix x;
    struct op a;
    make(&x, "/call=remove/lost=error");
    pl_node_unref(create(&x, "a"));
    start(&a, &x, "a");
    next(&x);
    die(&x);
    assert_int_equal(finish(&a), -EIO);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "a", 0), -EIO);
    assert_true(there(&x, "a"));
    atomic_store(&x.away, false);
    accept_call(&x, "plenum-service 1\n");
    do /* it is known to be back a moment after it has said so */
        start(&a, &x, "a");
    while (silent(&x) &&
           (poll(&(struct pollfd){.fd = fileno(x.f), .events = POLLIN}, 1, 10) == 0) &&
           finish(&a) == -EIO);
    next(&x);
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&a), 0);
    end(&x);
}

static void lost_ignore(void **state)
{
    struct fix x;
    make(&x, "/monitor/call=remove/lost=ignore/queue=4k");
    die(&x);
    for (int i = 0; i < 200; i++)
        assert_int_equal(pl_remove(x.t, &x.call, x.root, "none", 0), -ENOENT);
    atomic_store(&x.away, false);
    accept_call(&x, "plenum-service 1\n");
    unsigned long long told = 0, missed = 0;
    while (told + missed < 200) {
        const char *ev = next(&x);
        if (!strncmp(ev, "lost - 0 len=", 13))
            missed += strtoull(ev + 13, NULL, 10);
        else
            told++;
    }
    assert_int_equal(told + missed, 200);
    assert_true(missed > 0 && told > 10);
    end(&x);
}

static void lost_hold(void **state)
{
    struct fix x;
    struct op a, b;
    make(&x, "/call=remove/lost=hold/timeout=10ms");
    pl_node_unref(create(&x, "a"));
    start(&a, &x, "a");
    next(&x);
    unsigned long long was = seq(&x);
    die(&x);
    start(&b, &x, "none");
    atomic_store(&x.away, false);
    accept_call(&x, "plenum-service 1\n");
    assert_string_equal(next(&x), "remove ask 0 path=/a");
    assert_int_equal(seq(&x), was); /* the same, once more */
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&a), 0);
    assert_string_equal(next(&x), "remove ask 0 path=/none");
    die(&x);
    pl_call_cancel(&b.call);
    assert_int_equal(finish(&b), -EINTR);
    end(&x);
}

static void kept_is_not_sent_again(void **state)
{
    struct fix x;
    make(&x, "/monitor/call=remove/batch=0");
    fclose(x.f);
    x.f = NULL;
    accept_call(&x, "plenum-service 1 keeps=1\n");
    for (int i = 0; i < 5; i++)
        pl_remove(x.t, &x.call, x.root, "none", 0);
    for (int i = 0; i < 5; i++)
        next(&x);
    assert_int_equal(seq(&x), 5);
    fputs("kept 2\n", x.f);
    die(&x);
    atomic_store(&x.away, false);
    accept_call(&x, "plenum-service 1 keeps=1 after=3\n");
    next(&x);
    assert_int_equal(seq(&x), 4);
    next(&x);
    assert_int_equal(seq(&x), 5);
    fputs("kept 5\n", x.f);
    assert_int_equal(service_drain(x.t, &x.call), 0);
    end(&x);
}

static void switched_off_and_on(void **state)
{
    struct fix x;
    struct op a;
    make(&x, "/call=remove/batch=0");
    pl_node_unref(create(&x, "a"));
    service_switch(x.t, false);
    assert_string_equal(next(&x), "off - 0");
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "none", 0), -ENOENT);
    fputs("on\n", x.f); /* the server may say it too */
    assert_string_equal(next(&x), "on - 0");
    start(&a, &x, "a");
    assert_string_equal(next(&x), "remove ask 0 path=/a");
    fprintf(x.f, "answer %llu 0\n", seq(&x));
    assert_int_equal(finish(&a), 0);
    end(&x);
}

static void refused_at_large(void **state)
{
    struct fix x;
    struct op a;
    make(&x, "/monitor/call=remove,readlink/ack=remove");
    fputs("refuse EROFS\n", x.f);
    pl_node_unref(create(&x, "a")); /* not of its calls */
    start(&a, &x, "none");          /* a round trip, unless it is refused by now */
    struct pollfd p = {.fd = fileno(x.f), .events = POLLIN};
    while (!atomic_load(&a.over) && poll(&p, 1, 1) == 0)
        ;
    if (!silent(&x)) {
        next(&x);
        fprintf(x.f, "answer %llu 0\n", seq(&x));
    }
    finish(&a);
    int r;
    while ((r = pl_remove(x.t, &x.call, x.root, "none", 0)) == -ENOENT)
        ;
    assert_int_equal(r, -EROFS);
    assert_int_equal(pl_remove(x.t, &x.call, x.root, "a", 0), -EROFS);
    assert_true(there(&x, "a"));
    fputs("accept\n", x.f);
    while ((r = pl_remove(x.t, &x.call, x.root, "none", 0)) == -EROFS)
        ;
    assert_int_equal(r, -ENOENT);
    end(&x);
}

/* What nobody waits for is not written one by one. */
static void gathered(void **state)
{
    struct fix x;
    make(&x, "/monitor/call=remove/ack=rename/batch=1h");
    for (int i = 0; i < 50; i++)
        pl_remove(x.t, &x.call, x.root, "none", 0);
    assert_true(silent(&x)); /* an hour has not passed */
    struct op a;
    start(&a, &x, "none");
    finish(&a);
    assert_true(silent(&x));
    /* 32 KiB are enough. */
    for (int i = 0; i < 1000; i++)
        pl_remove(x.t, &x.call, x.root, "none", 0);
    next(&x);
    assert_int_equal(seq(&x), 1);
    end(&x);
}

static void bytes_go_along(void **state)
{
    struct fix x;
    char buf[8] = {0};
    make(&x, "/monitor/data/call=write/batch=0");
    struct pl_node *n = create(&x, "a");
    struct pl_file *f;
    assert_int_equal(pl_open(x.t, &x.call, n, O_RDWR, &f), 0);
    assert_int_equal(pl_write(x.t, &x.call, f, "a\0b\nc", 5, 3), 5);
    assert_non_null(fgets(x.line, sizeof(x.line), x.f));
    assert_non_null(strstr(x.line, " data=5\n"));
    assert_int_equal(fread(buf, 1, 5, x.f), 5);
    assert_memory_equal(buf, "a\0b\nc", 5);
    assert_int_equal(pl_file_fd(x.t, f), -1);
    pl_close(x.t, &x.call, f);
    pl_node_unref(n);
    end(&x);
}

static void liars(void **state)
{
    static const char *const lies[] = {"answer x 0\n", "answer 1\n",    "kept -1\n",
                                       "refuse 0\n",   "5 write - 0\n", "bye bye\n",
                                       "\n",           "answer 1 0 0\n"};
    struct fix x;
    make(&x, "/monitor/call=remove");
    for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
        fputs(lies[i], x.f);
        fputs("answer 99 0\nkept 99\n", x.f); /* harmless, if it came so far */
        while (fgets(x.line, sizeof(x.line), x.f))
            ;
        fclose(x.f);
        accept_call(&x, "plenum-service 1\n");
    }
    end(&x);
}

static void *freer(void *arg)
{
    pl_tree_unref(arg);
    return NULL;
}

/* The layer ends while it dials: what is queued is delivered nevertheless. */
static void stopped_while_dialing(void **state)
{
    struct fix x;
    pthread_t thread;
    make(&x, "/monitor/call=remove/lost=hold/queue=64k");
    fclose(x.f);
    x.f = NULL;
    accept_call(&x, "plenum-service 1 keeps=1\n");
    for (int i = 0; i < 2; i++)
        pl_remove(x.t, &x.call, x.root, "none", 0);
    next(&x);
    next(&x);
    die(&x); /* with what it has not kept */
    atomic_store(&x.slow, true);
    atomic_store(&x.away, false);
    sem_wait(&x.failed); /* it is dialing again */
    pl_node_unref(x.root);
    assert_int_equal(pthread_create(&thread, NULL, freer, x.t), 0);
    struct pollfd p = {.fd = x.calls[0], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    accept_call(&x, "plenum-service 1 keeps=1\n");
    assert_string_equal(next(&x), "remove - ENOENT path=/none");
    assert_string_equal(next(&x), "remove - ENOENT path=/none");
    fputs("kept 2\n", x.f);
    assert_non_null(fgets(x.line, sizeof(x.line), x.f));
    assert_string_equal(x.line, "bye\n");
    pthread_join(thread, NULL);
    assert_string_equal(x.said, "");
    x.t = NULL;
    fclose(x.f);
    pl_tree_unref(x.mem);
    close(x.calls[0]);
    close(x.calls[1]);
    pl_call_done(&x.call);
    sem_destroy(&x.failed);
}

/* A server that does not come back: how much it has missed is said. */
static void stopped_without_a_server(void **state)
{
    struct fix x;
    make(&x, "/monitor/call=remove/timeout=1ms");
    die(&x);
    for (int i = 0; i < 3; i++)
        pl_remove(x.t, &x.call, x.root, "none", 0);
    pl_node_unref(x.root);
    pl_tree_unref(x.t);
    assert_string_equal(x.said,
                        "3 operations may not have reached it: it was not there at the end");
    pl_tree_unref(x.mem);
    close(x.calls[0]);
    close(x.calls[1]);
    pl_call_done(&x.call);
    sem_destroy(&x.failed);
}

/* A key means what it means in its kind of line, and nothing in the other. */
static void keys_of_another_line(void **state)
{
    char event[] = "5 write - 0 path=/x session=1 after=9 keeps=1\n";
    char hello[] = "plenum-service 1 off=7 path=/x uid=1 after=3 pid=4\n";
    struct service_msg m;
    assert_int_equal(service_decode(event, sizeof(event) - 1, &m), sizeof(event) - 1);
    assert_int_equal(m.seq, 5);
    assert_false(m.keeps || m.session);
    assert_int_equal(service_decode(hello, sizeof(hello) - 1, &m), sizeof(hello) - 1);
    assert_int_equal(m.seq, 3);
    assert_int_equal(m.pids[0], 4);
    assert_false(m.off || m.path || m.uid || m.pid);
}

/* ---- places ---- */

static const char *at(struct places *p, struct pl_node *n)
{
    static char path[PLACES_PATH];
    struct place_found f;
    places_path(p, n, NULL, path, &f);
    return path;
}

static void places_follow(void **state)
{
    struct pl_tree t = {0};
    struct pl_node n[8];
    struct places *p = places_new();
    for (int i = 0; i < 8; i++)
        pl_node_init(&n[i], &t, i < 4 ? S_IFDIR : S_IFREG);
    places_root(p, &n[0]);
    places_found(p, &n[0], "a", &n[1], 11);
    places_found(p, &n[1], "b", &n[2], 12);
    places_found(p, &n[2], "f", &n[4], 14);
    assert_string_equal(at(p, &n[4]), "/a/b/f");
    /* A directory moved behind our back, found again elsewhere. */
    places_found(p, &n[0], "c", &n[2], 12);
    assert_string_equal(at(p, &n[4]), "/c/f");
    /* Two names; the last seen counts, and the other when that one is gone. */
    places_found(p, &n[1], "g", &n[4], 14);
    assert_string_equal(at(p, &n[4]), "/a/g");
    places_removed(p, &n[1], "g");
    assert_string_equal(at(p, &n[4]), "/c/f");
    /* The directory is forgotten, not what is beneath; and comes back as another node. */
    atomic_store(&n[2].refs, 0);
    places_left(p, &n[2]);
    assert_string_equal(at(p, &n[4]), "/c/f");
    places_found(p, &n[0], "c", &n[3], 12);
    places_renamed(p, &n[0], "c", &n[1], "d", false);
    assert_string_equal(at(p, &n[4]), "/a/d/f");
    /* Exchanged with a file. */
    places_found(p, &n[0], "x", &n[5], 15);
    places_renamed(p, &n[0], "x", &n[1], "d", true);
    assert_string_equal(at(p, &n[4]), "/x/f");
    assert_string_equal(at(p, &n[5]), "/a/d");
    /* Renamed over. */
    places_renamed(p, &n[3], "f", &n[1], "d", false);
    assert_string_equal(at(p, &n[4]), "/a/d");
    assert_string_equal(at(p, &n[5]), "");
    /* Another object under a name. */
    places_found(p, &n[1], "d", &n[6], 16);
    assert_string_equal(at(p, &n[4]), "");
    assert_string_equal(at(p, &n[6]), "/a/d");
    for (int i = 0; i < 8; i++) {
        atomic_store(&n[i].refs, 0);
        places_left(p, &n[i]);
    }
    assert_int_equal(places_count(p), 0);
    places_free(p);
}

static void attrs(void **state)
{
    struct service_attrs a;
    struct pl_err err;
    assert_int_equal(
        service_attrs_parse("monitor/call=open,close+write/ack=write/match=a%2Fb", &a, &err), 0);
    assert_int_equal(a.calls, 1ull << PL_OP_open | 1ull << PL_OP_close | 1ull << PL_OP_write);
    assert_string_equal(a.match, "a/b");
    assert_int_equal(a.lost, SERVICE_LOST_ERROR);
    assert_int_equal(service_attrs_parse("monitor", &a, &err), 0);
    assert_int_equal(a.lost, SERVICE_LOST_IGNORE);
    static const char *const wrong[] = {"call=",  "call=opne", "lost=x",    "queue=1", "timeout=x",
                                        "match=", "match=%4",  "match=%00", "regulr",  "monitor=1"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_int_equal(service_attrs_parse(wrong[i], &a, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told_in_order),
        cmocka_unit_test(only_what_is_wanted),
        cmocka_unit_test(ack_is_waited_for),
        cmocka_unit_test(server_decides),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(lost_error),
        cmocka_unit_test(lost_ignore),
        cmocka_unit_test(lost_hold),
        cmocka_unit_test(kept_is_not_sent_again),
        cmocka_unit_test(switched_off_and_on),
        cmocka_unit_test(refused_at_large),
        cmocka_unit_test(gathered),
        cmocka_unit_test(bytes_go_along),
        cmocka_unit_test(liars),
        cmocka_unit_test(stopped_while_dialing),
        cmocka_unit_test(stopped_without_a_server),
        cmocka_unit_test(keys_of_another_line),
        cmocka_unit_test(places_follow),
        cmocka_unit_test(attrs),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
