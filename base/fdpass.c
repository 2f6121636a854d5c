/* SPDX-License-Identifier: MIT */
#include "base/fdpass.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x706c666d

struct head {
    uint32_t magic, type, index, nfd;
    int64_t value;
};

union control {
    struct cmsghdr head;
    char buf[CMSG_SPACE(FDPASS_FDS * sizeof(int))];
};

int fdpass_pair(int ret[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0 ? -errno : 0;
}

int fdpass_send(int sock, const struct fdpass *msg)
{
    if (msg->nfd < 0 || msg->nfd > FDPASS_FDS || msg->len > FDPASS_DATA)
        return -EINVAL;
    struct head head = {MAGIC, msg->type, msg->index, (uint32_t)msg->nfd, msg->value};
    struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)msg->data, msg->len}};
    union control control;
    struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};
    if (msg->nfd) {
        size_t bytes = (size_t)msg->nfd * sizeof(int);
        memset(&control, 0, sizeof(control));
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(c), msg->fd, bytes);
    }
    ssize_t n;
    while ((n = sendmsg(sock, &mh, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return n < 0 ? (errno == ECONNRESET ? -EPIPE : -errno) : 0;
}

static void take(struct msghdr *mh, struct fdpass *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (ret->nfd < FDPASS_FDS)
                ret->fd[ret->nfd++] = fd;
            else
                close(fd);
        }
    }
}

int fdpass_recv(int sock, struct fdpass *ret)
{
    struct head head;
    struct iovec iov[2] = {{&head, sizeof(head)}, {ret->data, FDPASS_DATA}};
    union control control;
    struct msghdr mh = {.msg_iov = iov,
                        .msg_iovlen = 2,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    ssize_t n;
    ret->nfd = 0;
    ret->len = 0;
    /* ECONNRESET, once: the other end has left something of ours unread; what it has said before it
     * went comes after that. */
    bool reset = false;
    while ((n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC)) < 0 &&
           (errno == EINTR || (errno == ECONNRESET && !reset)))
        reset = errno == ECONNRESET;
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    take(&mh, ret);
    if (n == 0 && ret->nfd == 0)
        return 0;
    if ((size_t)n < sizeof(head) || head.magic != MAGIC || head.nfd != (uint32_t)ret->nfd ||
        (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        fdpass_drop(ret);
        return -EPROTO;
    }
    ret->type = head.type;
    ret->index = head.index;
    ret->value = head.value;
    ret->len = (size_t)n - sizeof(head);
    if (ret->len < FDPASS_DATA)
        ret->data[ret->len] = 0;
    return 1;
}

void fdpass_drop(struct fdpass *msg)
{
    while (msg->nfd)
        close(msg->fd[--msg->nfd]);
}
