/* SPDX-License-Identifier: MIT */
/* Descriptors with messages over a socket pair. */
#include "base/fdpass.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void message(void **state)
{
    int s[2];
    struct fdpass m = {.type = 7, .index = 3, .value = INT64_MIN, .len = 5, .data = "hello"}, r;
    assert_int_equal(fdpass_pair(s), 0);
    assert_true(fcntl(s[0], F_GETFD) & FD_CLOEXEC);
    assert_int_equal(fdpass_send(s[0], &m), 0);
    assert_int_equal(fdpass_recv(s[1], &r), 1);
    assert_int_equal(r.type, 7);
    assert_int_equal(r.index, 3);
    assert_true(r.value == INT64_MIN);
    assert_int_equal(r.len, 5);
    assert_string_equal(r.data, "hello");
    assert_int_equal(r.nfd, 0);
    /* the largest, and none at all */
    m.len = FDPASS_DATA;
    memset(m.data, 'x', FDPASS_DATA);
    assert_int_equal(fdpass_send(s[0], &m), 0);
    assert_int_equal(fdpass_recv(s[1], &r), 1);
    assert_int_equal(r.len, FDPASS_DATA);
    m.len = 0;
    assert_int_equal(fdpass_send(s[0], &m), 0);
    assert_int_equal(fdpass_recv(s[1], &r), 1);
    assert_int_equal(r.len, 0);
    m.len = FDPASS_DATA + 1;
    assert_int_equal(fdpass_send(s[0], &m), -EINVAL);
    close(s[0]);
    assert_int_equal(fdpass_recv(s[1], &r), 0);
    m.len = 1;
    assert_int_equal(fdpass_send(s[1], &m), -EPIPE); /* and no SIGPIPE */
    close(s[1]);
}

static void descriptors(void **state)
{
    int s[2], before = open_fds();
    struct fdpass m = {.type = 1, .nfd = FDPASS_FDS}, r;
    struct stat a, b;
    assert_int_equal(fdpass_pair(s), 0);
    for (int i = 0; i < FDPASS_FDS; i++)
        m.fd[i] = s[i % 2];
    m.fd[1] = open("/dev/null", O_RDONLY);
    assert_int_equal(fdpass_send(s[0], &m), 0);
    assert_int_equal(fdpass_recv(s[1], &r), 1);
    assert_int_equal(r.nfd, FDPASS_FDS);
    assert_int_equal(fstat(m.fd[1], &a), 0);
    assert_int_equal(fstat(r.fd[1], &b), 0);
    assert_int_equal(a.st_rdev, b.st_rdev);
    for (int i = 0; i < FDPASS_FDS; i++)
        assert_true(fcntl(r.fd[i], F_GETFD) & FD_CLOEXEC);
    fdpass_drop(&r);
    assert_int_equal(r.nfd, 0);
    m.nfd = FDPASS_FDS + 1;
    assert_int_equal(fdpass_send(s[0], &m), -EINVAL);
    close(m.fd[1]);
    close(s[0]);
    close(s[1]);
    assert_int_equal(open_fds(), before);
}

/* What is not ours is refused, and leaks no descriptor. */
static void strangers(void **state)
{
    static char big[8192];
    int s[2], before = open_fds();
    struct fdpass r;
    assert_int_equal(fdpass_pair(s), 0);
    assert_int_equal(send(s[0], "hi", 2, 0), 2);
    assert_int_equal(fdpass_recv(s[1], &r), -EPROTO);
    assert_int_equal(send(s[0], big, 100, 0), 100); /* no magic */
    assert_int_equal(fdpass_recv(s[1], &r), -EPROTO);
    assert_int_equal(send(s[0], big, sizeof(big), 0), sizeof(big)); /* cut */
    assert_int_equal(fdpass_recv(s[1], &r), -EPROTO);

    struct iovec iov = {big, 100};
    union {
        struct cmsghdr head;
        char buf[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control.buf)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(c), s, sizeof(s));
    assert_int_equal(sendmsg(s[0], &mh, 0), 100);
    assert_int_equal(fdpass_recv(s[1], &r), -EPROTO);
    assert_int_equal(r.nfd, 0);
    fcntl(s[1], F_SETFL, O_NONBLOCK);
    assert_int_equal(fdpass_recv(s[1], &r), -EAGAIN);
    close(s[0]);
    close(s[1]);
    assert_int_equal(open_fds(), before);
}

/* Who goes and leaves something unread has still said what it has said. */
static void last_words(void **state)
{
    struct fdpass m = {.type = 1}, got;
    int s[2];
    assert_int_equal(fdpass_pair(s), 0);
    assert_int_equal(fdpass_send(s[0], &m), 0); /* never read */
    m.type = 2;
    assert_int_equal(fdpass_send(s[1], &m), 0);
    close(s[1]);
    assert_int_equal(fdpass_recv(s[0], &got), 1);
    assert_int_equal(got.type, 2);
    assert_int_equal(fdpass_recv(s[0], &got), 0);
    assert_int_equal(fdpass_recv(s[0], &got), 0);
    close(s[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message),
        cmocka_unit_test(descriptors),
        cmocka_unit_test(strangers),
        cmocka_unit_test(last_words),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
