/* SPDX-License-Identifier: MIT */
/* What connections cost while nothing happens: memory, and wakeups of threads. */
#include "p9_peer.h"
#include "sanitizer.h"
#include <dirent.h>
#include <malloc.h>
#include <sys/resource.h>

enum { CONNS = 1000, BYTES_EACH = 32768 };

static long own_memory(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    char line[128];
    long kib = -1, n;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "Pss: %ld", &n) == 1)
            kib = n;
    fclose(f);
    assert_true(kib > 0);
    return kib * 1024;
}

/* Voluntary context switches of all threads of this process but the calling one. */
static long switches(void)
{
    long sum = 0;
    DIR *d = opendir("/proc/self/task");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[300], line[128];
        long n;
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
        FILE *f = e->d_name[0] == '.' || atoi(e->d_name) == gettid() ? NULL : fopen(path, "r");
        while (f && fgets(line, sizeof(line), f))
            if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
                sum += n;
        if (f)
            fclose(f);
    }
    closedir(d);
    return sum;
}

/* After the end of dwelling nothing runs any more: two looks, a while apart, see the same. As long
 * as they do not, there may be an end yet. */
static void settle(void)
{
    for (int i = 0; i < 50; i++) {
        long before = switches();
        usleep(400000);
        if (switches() == before)
            return;
    }
    fail_msg("threads go on waking up");
}

static struct peer *peers;
static struct p9_conn *conns[CONNS];
static struct p9_crew *crew;
static struct served s;

static void talk(struct peer *p)
{
    peer_send(p, (struct p9_msg){.type = P9_Tgetattr, .tag = 1, .fid = 3});
    peer_expect(p, P9_Rgetattr, 1);
    peer_send(p, (struct p9_msg){.type = P9_Tread, .tag = 1, .count = 50000});
    peer_expect(p, P9_Rread, 1);
}

static void test_many(void **state)
{
    struct rlimit lim = {2 * CONNS + 100, 2 * CONNS + 100};
    if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
        skip();
    served_init(&s);
    crew = p9_crew_new(0);
    peers = calloc(1, sizeof(*peers)); /* one buffer for all */
    struct chan theirs[CONNS];
    for (int i = 0; i < CONNS; i++) { /* so that this is not counted */
        struct chan ours;
        make_pair(SOCKETS, &theirs[i], &ours);
        close(ours.in);
        close(theirs[i].in);
    }
    malloc_trim(0);
    long before = own_memory();
    for (int i = 0; i < CONNS; i++) {
        struct chan ours;
        make_pair(SOCKETS, &theirs[i], &ours);
        conns[i] = conn_over(crew, &ours, &s, true, false);
        peers->ch = theirs[i];
        peer_hello(peers, P9_VERSION_L);
        talk(peers);
    }
    settle();
    long each = (own_memory() - before) / CONNS;
    print_message("%ld bytes for an idle connection\n", each);
#if !ADDRESS_SANITIZER && !THREAD_SANITIZER
    assert_in_range(each, 1, BYTES_EACH - 1);
#endif
    /* Each still answers, and sleeps again. */
    for (int i = 0; i < CONNS; i += 10) {
        peers->ch = theirs[i];
        talk(peers);
    }
    settle();
    for (int i = 0; i < CONNS; i++) {
        peers->ch = theirs[i];
        peer_close(peers);
    }
    for (int i = 0; i < CONNS; i++) {
        assert_int_equal(p9_conn_wait(conns[i], NULL), 0);
        p9_conn_free(conns[i]);
    }
    p9_crew_free(crew);
    free(peers);
}

/* Neither a duct that nobody uses, nor one in which calls wait, wakes anybody. */
static void *wait_thread(void *arg)
{
    struct p9_msg t = {.type = P9_Tlock};
    struct p9_answer a;
    int r = p9_rpc(arg, NULL, &t, &a, NULL, 0);
    return (void *)(intptr_t)r;
}

static void *use_thread(void *arg)
{
    assert_int_equal(p9_use(arg, NULL, NULL), 0);
    return NULL;
}

static void test_asleep(void **state)
{
    for (enum kind kind = SOCKETS; kind <= PIPES; kind++) {
        struct chan a, b;
        pthread_t t, w[2];
        void *r;
        served_init(&s);
        crew = p9_crew_new(0);
        make_pair(kind, &a, &b);
        struct p9_conn *ca = conn_over(crew, &a, &s, true, true),
                       *cb = conn_over(crew, &b, &s, true, true);
        pthread_create(&t, NULL, use_thread, ca);
        use_thread(cb);
        pthread_join(t, NULL);
        settle();
        pthread_create(&w[0], NULL, wait_thread, ca);
        pthread_create(&w[1], NULL, wait_thread, cb);
        served_await(&s, &s.waiting, 2);
        settle();
        served_open(&s);
        for (int i = 0; i < 2; i++) {
            pthread_join(w[i], &r);
            assert_ptr_equal(r, NULL);
        }
        settle();
        assert_int_equal(p9_use_end(ca, NULL), 0);
        assert_int_equal(p9_use_end(cb, NULL), 0);
        assert_int_equal(p9_conn_wait(ca, NULL), 0);
        assert_int_equal(p9_conn_wait(cb, NULL), 0);
        p9_conn_free(ca);
        p9_conn_free(cb);
        p9_crew_free(crew);
    }
}

/* A crew of few threads serves many connections that are all busy at once. */
enum { BUSY = 40 };

static void *busy_thread(void *arg)
{
    struct peer *p = arg;
    for (int i = 0; i < 50; i++)
        talk(p);
    return NULL;
}

static void test_few_threads(void **state)
{
    for (unsigned threads = 1; threads <= 4; threads *= 2) {
        struct peer *p = calloc(BUSY, sizeof(*p));
        pthread_t t[BUSY];
        served_init(&s);
        crew = p9_crew_new(threads);
        for (int i = 0; i < BUSY; i++) {
            struct chan ours;
            make_pair(i % 2 ? SOCKETS : PIPES, &p[i].ch, &ours);
            conns[i] = conn_over(crew, &ours, &s, true, false);
            peer_hello(&p[i], P9_VERSION_L);
        }
        for (int i = 0; i < BUSY; i++)
            pthread_create(&t[i], NULL, busy_thread, &p[i]);
        for (int i = 0; i < BUSY; i++)
            pthread_join(t[i], NULL);
        for (int i = 0; i < BUSY; i++) {
            peer_close(&p[i]);
            assert_int_equal(p9_conn_wait(conns[i], NULL), 0);
            p9_conn_free(conns[i]);
        }
        p9_crew_free(crew);
        free(p);
    }
}

int main(void)
{
#if THREAD_SANITIZER
    return 77; /* its shadow memory and its own thread's wakeups are all that would be measured */
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_asleep),
        cmocka_unit_test(test_few_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
