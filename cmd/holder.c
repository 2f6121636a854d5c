/* SPDX-License-Identifier: MIT */
#include "cmd/holder.h"
#include "base/fdpass.h"
#include "base/text.h"
#include "keeper/registry.h"
#include "p9/link.h"
#include "p9/msg.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PASS_MS  1000 /* who has connected passes its descriptors at once */
#define MSG_PASS 0x72656c6b

struct holder {
    struct reg_meeting meeting;
    char name[64];
};

int holder_new(const char *token, struct holder **ret)
{
    struct holder *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    snprintf(h->name, sizeof(h->name), "%s", token);
    int r = reg_meet(h->name, &h->meeting);
    if (r < 0) {
        free(h);
        return r;
    }
    *ret = h;
    return 0;
}

void holder_free(struct holder *h)
{
    if (!h)
        return;
    reg_meet_end(h->name, &h->meeting);
    free(h);
}

int holder_fd(const struct holder *h)
{
    return h->meeting.fd;
}

/* The other end of the socket is this user or root. */
static bool ours(int sock)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 &&
           (cred.uid == geteuid() || cred.uid == 0);
}

/* One that is passed, blocking: the ssh of the other end may have been given any. */
static void blocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

int holder_accept(struct holder *h, struct chan *ret, struct pl_err *err)
{
    struct fdpass m = {0};
    int sock = accept4(h->meeting.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (sock < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM
                   ? pl_fail(err, -errno, "a returning ssh: %s", strerror(errno))
                   : -EAGAIN;
    if (!ours(sock)) {
        close(sock);
        return -EAGAIN;
    }
    poll(&(struct pollfd){.fd = sock, .events = POLLIN}, 1, PASS_MS);
    int r = fdpass_recv(sock, &m);
    if (r <= 0 || m.type != MSG_PASS || m.nfd != 2) {
        if (r > 0)
            fdpass_drop(&m);
        close(sock);
        return -EAGAIN; /* one that only looked whether anybody is there */
    }
    blocking(m.fd[0]);
    blocking(m.fd[1]);
    *ret = (struct chan){.in = m.fd[0],
                         .out = m.fd[1],
                         .role = CHAN_ACCEPTED,
                         .uid = (uid_t)-1,
                         .who = "ssh",
                         .also = sock};
    m.data[sizeof(m.data) - 1] = 0;
    text_escape(ret->peer, sizeof(ret->peer), m.data, strnlen(m.data, sizeof(m.data)));
    return 0;
}

/* ---- the other side ---- */

/* Nobody is there: says so in the place of who was asked for, and waits until that is read. */
static int gone(void)
{
    uint8_t buf[256], *p;
    struct pollfd in = {.events = POLLIN};
    if (poll(&in, 1, LIMIT_HELLO * 1000) <= 0 || read(0, buf, sizeof(buf)) <= 0)
        return 1;
    static const char word[] = P9_LINK_VERSION " gone";
    uint32_t n = sizeof(word) - 1, msize = LIMIT_MSIZE_MAX, size = 4 + 1 + 2 + 4 + 2 + n;
    p = buf;
    for (int i = 0; i < 4; i++)
        *p++ = (uint8_t)(size >> 8 * i);
    *p++ = P9_Rversion;
    *p++ = 0xff;
    *p++ = 0xff;
    for (int i = 0; i < 4; i++)
        *p++ = (uint8_t)(msize >> 8 * i);
    *p++ = (uint8_t)n;
    *p++ = 0;
    memcpy(p, word, n);
    if (write(1, buf, size) != (ssize_t)size)
        return 1;
    while (read(0, buf, sizeof(buf)) > 0) /* until the other end has closed */
        ;
    return 0;
}

int holder_relink(const char *token)
{
    const char *from = getenv("SSH_CONNECTION");
    int sock = reg_meet_dial(token);
    if (sock >= 0 && !ours(sock)) {
        close(sock);
        sock = -EPERM;
    }
    if (sock < 0)
        return gone();
    struct fdpass m = {.type = MSG_PASS, .nfd = 2, .fd = {0, 1}};
    m.len = (size_t)snprintf(m.data, 128, "ssh from %.*s", from ? (int)strcspn(from, " ") : 0,
                             from ? from : "");
    if (fdpass_send(sock, &m) < 0)
        return gone();
    /* Ours are not needed any more, and would keep ssh from seeing the holder close its own. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    dup2(null, 1);
    struct pollfd p = {.fd = sock, .events = POLLIN};
    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    return 0;
}
