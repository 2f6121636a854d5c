/* SPDX-License-Identifier: MIT */
/* Callers while their link is down, with a scripted other end. */
#include "p9_link_script.h"

struct caller {
    struct one *o;
    struct pl_call call;
    pthread_t thread;
    struct p9_msg m;
    uint8_t data[5000];
    atomic_int result; /* 1: not yet */
};

static void *caller_thread(void *arg)
{
    struct caller *k = arg;
    struct p9_answer a;
    int r = p9_rpc(k->o->c, &k->call, &k->m, &a, k->data, sizeof(k->data));
    if (r == 0)
        p9_answer_free(&a);
    k->result = r;
    return NULL;
}

static void call(struct caller *k, struct one *o, struct p9_msg m)
{
    k->o = o;
    k->m = m;
    k->result = 1;
    pl_call_init(&k->call, 0, 0);
    pthread_create(&k->thread, NULL, caller_thread, k);
}

static int called(struct caller *k)
{
    pthread_join(k->thread, NULL);
    pl_call_done(&k->call);
    return k->result;
}

static void back_again(struct one *o, uint64_t taken)
{
    char text[80];
    o->refuse = 0;
    one_accept(o);
    peer_expect(&o->p, P9_Tversion, P9_NOTAG);
    snprintf(text, sizeof(text), "plenum.link %s %d", an_id, (int)taken);
    say_version(&o->p, P9_Rversion, text);
}

/* One has its request out, the other not; both return at once, and what they asked is flushed or
 * was never asked. */
static void test_interrupted(void **state)
{
    struct one *o = one_new();
    struct caller *k = calloc(3, sizeof(*k));
    agree_as_called(o);
    struct p9_msg read = {.type = P9_Tread, .fid = 1, .count = 5000};
    call(&k[0], o, read);
    uint16_t tag = get_message(&o->p, P9_Tread)->tag;
    o->refuse = -ECONNREFUSED;
    uint64_t taken = received;
    peer_close(&o->p);
    served_await(&o->s, &o->downs, 1);
    assert_true(p9_conn_down(o->c) > 0);
    call(&k[1], o, read);
    pl_call_cancel(&k[0].call);
    assert_int_equal(called(&k[0]), -EINTR);
    pl_call_cancel(&k[1].call);
    assert_int_equal(called(&k[1]), -EINTR);
    back_again(o, taken);
    assert_int_equal(get_message(&o->p, P9_Tflush)->oldtag, tag);
    uint16_t ftag = o->p.m.tag;
    /* The tag is not free until this is answered; the answer is dropped. */
    call(&k[2], o, read);
    uint16_t other = get_message(&o->p, P9_Tread)->tag;
    assert_int_not_equal(other, tag);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rlerror, .tag = tag, .ecode = EIO}, received);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rflush, .tag = ftag}, received);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rlerror, .tag = other, .ecode = ENOENT},
                 received);
    assert_int_equal(called(&k[2]), -ENOENT);
    assert_int_equal(o->c->norphans, 0);
    say_frame(&o->p, FRAME_BYE, 0, received);
    expect_lost(o, -ECONNRESET, "closed it");
    peer_close(&o->p);
    one_free(o);
    free(k);
}

/* An answer that came half before the break is the orphan's. */
static void test_half_answer(void **state)
{
    struct one *o = one_new();
    struct caller *k = calloc(1, sizeof(*k));
    uint8_t answer[P9_RREADHDR + 5000] = {0};
    agree_as_called(o);
    call(k, o, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 5000});
    uint16_t tag = get_message(&o->p, P9_Tread)->tag;
    uint64_t taken = received;
    uint32_t size = sizeof(answer), count = 5000;
    memcpy(answer, &size, 4);
    answer[4] = P9_Rread;
    memcpy(answer + 5, &tag, 2);
    memcpy(answer + 7, &count, 4);
    say_frame(&o->p, FRAME_DATA, 3000, taken);
    peer_raw(&o->p, answer, 3000);
    say_frame(&o->p, FRAME_PING, 0, taken);
    while (get_frame(&o->p).kind != FRAME_ACK)
        ; /* it has it */
    o->refuse = -ECONNREFUSED;
    peer_close(&o->p);
    served_await(&o->s, &o->downs, 1);
    pl_call_cancel(&k->call);
    assert_int_equal(called(k), -EINTR);
    memset(k, 0xaa, sizeof(*k));
    back_again(o, taken);
    say_frame(&o->p, FRAME_DATA, sizeof(answer) - 3000, taken);
    peer_raw(&o->p, answer + 3000, sizeof(answer) - 3000);
    uint16_t ftag = get_message(&o->p, P9_Tflush)->tag;
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rflush, .tag = ftag}, received);
    for (size_t i = 0; i < sizeof(*k); i++)
        assert_int_equal(((uint8_t *)k)[i], 0xaa);
    say_frame(&o->p, FRAME_BYE, 0, received);
    expect_lost(o, -ECONNRESET, "closed it");
    peer_close(&o->p);
    one_free(o);
    free(k);
}

static void test_soft(void **state)
{
    struct one *o = one_new();
    struct caller *k = calloc(2, sizeof(*k));
    o->opts.soft = SECOND / 50;
    agree_as_called(o);
    struct p9_msg t = {.type = P9_Tgetattr, .fid = 1};
    call(&k[0], o, t);
    get_message(&o->p, P9_Tgetattr);
    uint16_t tag = o->p.m.tag;
    uint64_t taken = received;
    o->refuse = -ECONNREFUSED;
    peer_close(&o->p);
    served_await(&o->s, &o->downs, 1);
    call(&k[1], o, t);
    assert_int_equal(called(&k[0]), -ETIMEDOUT);
    assert_int_equal(called(&k[1]), -ETIMEDOUT);
    assert_int_equal(ask_as(o->c, NULL, 3), -ETIMEDOUT);
    uint32_t fid = p9_fid_get(o->c);
    p9_clunk_later(o->c, fid); /* is not lost */
    assert_int_equal(p9_use_end(o->c, NULL), -ETIMEDOUT);
    back_again(o, taken);
    uint16_t tflush = 0, clunk = 0;
    for (int i = 0; i < 2; i++) {
        get_message(&o->p, 0);
        if (o->p.m.type == P9_Tflush)
            tflush = o->p.m.tag;
        else if (o->p.m.type == P9_Tclunk && o->p.m.fid == fid)
            clunk = o->p.m.tag;
    }
    assert_int_equal(tflush, tag + LIMIT_REQUESTS_USED);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rclunk, .tag = clunk}, received);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rflush, .tag = tflush}, received);
    call(&k[0], o, t);
    tag = get_message(&o->p, P9_Tgetattr)->tag;
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Rlerror, .tag = tag, .ecode = ENOENT}, received);
    assert_int_equal(called(&k[0]), -ENOENT);
    peer_close(&o->p);
    served_await(&o->s, &o->downs, 2);
    p9_conn_abort(o->c); /* while it is down */
    expect_lost(o, -ECONNABORTED, "broken off");
    one_free(o);
    free(k);
}

/* A stock server that does not answer Tflush does not keep its interrupted callers, nor one that
 * does not even read: what it reads at last is what was written, whatever its caller's memory is
 * now. */
static void test_silent_server(void **state)
{
    enum { LEN = 60000 };
    struct one *o = one_new();
    struct caller *k = calloc(2, sizeof(*k));
    uint8_t *data = malloc(LEN);
    int size = 4096;
    struct use u;
    o->opts = (struct p9_link_opts){0};
    one_start(o, true, false, true);
    setsockopt(o->c->wire.out, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    use_start(&u, o);
    peer_agree(&o->p, P9_VERSION_L);
    assert_int_equal(use_end(&u), 0);
    call(k, o, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 5000});
    uint16_t tag = peer_recv(&o->p)->tag;
    assert_int_equal(o->p.m.type, P9_Tread);
    for (size_t i = 0; i < LEN; i++)
        data[i] = pattern(i);
    call(&k[1], o, (struct p9_msg){.type = P9_Twrite, .fid = 1, .count = LEN, .data = data});
    struct pollfd in = {.fd = o->p.ch.in, .events = POLLIN};
    assert_int_equal(poll(&in, 1, PATIENCE), 1); /* some of it is there */
    pl_call_cancel(&k[0].call);
    pl_call_cancel(&k[1].call);
    assert_int_equal(called(&k[0]), -EINTR);
    assert_int_equal(called(&k[1]), -EINTR);
    memset(data, 0, LEN);
    free(data);
    peer_recv(&o->p);
    assert_int_equal(o->p.m.type, P9_Twrite);
    uint16_t other = o->p.m.tag;
    for (size_t i = 0; i < LEN; i++)
        assert_int_equal(((const uint8_t *)o->p.m.data)[i], pattern(i));
    for (int i = 0, first = 0; i < 2; i++) { /* of both, in whatever order */
        assert_int_equal(peer_recv(&o->p)->type, P9_Tflush);
        assert_int_equal(o->p.m.tag, o->p.m.oldtag + LIMIT_REQUESTS_USED);
        assert_true(o->p.m.oldtag == tag || o->p.m.oldtag == other);
        assert_true(i == 0 || o->p.m.oldtag != first);
        first = o->p.m.oldtag;
    }
    assert_int_equal(p9_use_end(o->c, NULL), 0); /* nor one who goes */
    assert_int_equal(p9_conn_wait(o->c, NULL), 0);
    peer_close(&o->p);
    one_free(o);
    free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_half_answer),
        cmocka_unit_test(test_soft),
        cmocka_unit_test(test_silent_server),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
