/* SPDX-License-Identifier: MIT */
/* Made trees: streams, whose reads wait, and can be polled and cancelled. */
#include "made_fixture.h"

/* ---- streams ---- */

static void test_stream(void **state)
{
    struct pl_file *f, *g, *late;
    struct pl_stream *s = pl_made_stream(m, "events", 20);
    pthread_t th;
    void *ret;
    char buf[64];
    assert_non_null(s);
    start();
    assert_int_equal(pl_stream_send(s, "nobody\n", 7), 0);
    assert_int_equal(open_at("events", O_RDONLY, &f), 0);
    assert_int_equal(open_at("events", O_RDONLY | O_NONBLOCK, &g), 0);
    assert_true(f->stream && f->direct);
    assert_int_equal(pl_read(t, c, g, buf, 64, 0), -EAGAIN);
    assert_int_equal(pthread_create(&th, NULL, read_one, f), 0);
    assert_int_equal(pl_stream_send(s, "one\n", 4), 0);
    pthread_join(th, &ret);
    assert_string_equal((char *)ret, "one\n");
    assert_int_equal(open_at("events", O_RDONLY, &late), 0);
    assert_int_equal(pl_stream_send(s, "two\n", 4), 0);
    assert_int_equal(pl_read(t, c, g, buf, 64, 0), 8); /* whatever the offset */
    assert_memory_equal(buf, "one\ntwo\n", 8);
    assert_int_equal(pl_read(t, c, late, buf, 64, 99), 4);
    /* whole records where they fit, parts where not */
    assert_int_equal(pl_stream_send(s, "three\n", 6), 0);
    assert_int_equal(pl_read(t, c, f, buf, 7, 0), 4);
    assert_memory_equal(buf, "two\n", 4);
    assert_int_equal(pl_read(t, c, f, buf, 2, 0), 2);
    assert_int_equal(pl_read(t, c, f, buf, 64, 0), 4);
    assert_memory_equal(buf, "ree\n", 4);
    /* 6 bytes wait for g; 20 may: of what comes the oldest go, and a part begun is finished */
    assert_int_equal(pl_read(t, c, g, buf, 3, 0), 3);
    for (int i = 0; i < 9; i++)
        assert_int_equal(pl_stream_send(s, "rec.\n", 5), 0);
    assert_int_equal(pl_read(t, c, g, buf, 64, 0), 3 + 9 + 20);
    assert_memory_equal(buf, "ee\n(lost 5)\nrec.\nrec.\nrec.\nrec.\n", 32);
    assert_int_equal(pl_read(t, c, f, buf, 64, 0), 9 + 20);
    assert_memory_equal(buf, "(lost 5)\n", 9);
    /* the end */
    assert_int_equal(pthread_create(&th, NULL, read_one, f), 0);
    assert_int_equal(pl_stream_send(s, "last\n", 5), 0);
    pthread_join(th, &ret);
    assert_string_equal((char *)ret, "last\n");
    assert_int_equal(pthread_create(&th, NULL, read_one, f), 0);
    pl_stream_end(s);
    pthread_join(th, &ret);
    assert_string_equal((char *)ret, "");
    assert_int_equal(pl_stream_send(s, "x", 1), -EPIPE);
    assert_int_equal(pl_read(t, c, g, buf, 64, 0), 5);
    assert_int_equal(pl_read(t, c, g, buf, 64, 0), 0);
    shut(f);
    shut(g);
    shut(late); /* with records left */
    assert_int_equal(pl_made_remove(m, "events"), 0);
}

struct counter {
    struct pl_poller poller;
    struct pl_file *file;
    int told, events;
};

static void on_ready(struct pl_poller *p)
{
    struct counter *k = (struct counter *)p;
    k->told++;
    k->events = pl_poll(t, c, k->file, NULL);
}

static void test_poll(void **state)
{
    char buf[8];
    struct pl_stream *s = pl_made_stream(m, "events", 100);
    struct counter k = {{on_ready}};
    start();
    assert_int_equal(open_at("events", O_RDONLY, &k.file), 0);
    assert_int_equal(pl_poll(t, c, k.file, &k.poller), 0);
    pl_stream_send(s, "x", 1);
    assert_int_equal(k.told, 1);
    assert_true(k.events & POLLIN);
    assert_int_equal(pl_read(t, c, k.file, buf, 8, 0), 1);
    assert_int_equal(pl_poll(t, c, k.file, NULL), 0);
    pl_stream_end(s);
    assert_int_equal(k.told, 2);
    assert_true(k.events & POLLIN && k.events & POLLHUP);
    shut(k.file);
}

static void test_cancel(void **state)
{
    struct pl_file *f;
    pthread_t th;
    void *ret;
    assert_non_null(pl_made_stream(m, "events", 100));
    start();
    sem_init(&waits, 0, 0);
    call.blocks = on_block;
    assert_int_equal(open_at("events", O_RDONLY, &f), 0);
    assert_int_equal(pthread_create(&th, NULL, read_one, f), 0);
    sem_wait(&waits);
    pl_call_cancel(c);
    pthread_join(th, &ret);
    assert_int_equal((intptr_t)ret, -EINTR);
    shut(f);
    sem_destroy(&waits);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(stream),
        TEST(poll),
        TEST(cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
