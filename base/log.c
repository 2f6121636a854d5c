/* SPDX-License-Identifier: MIT */
/*
 * Not by syslog(3): that waits for a daemon that does not read, and a keeper must never wait. It
 * also keeps a socket open, and reads the time zone's files when the first sentence comes.
 */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

static atomic_bool background;

void log_background(void)
{
    atomic_store(&background, true);
}

/* Without the time, which the daemon notes itself. Is it not there or busy, the sentence is lost.
 */
static void to_daemon(int level, const char *text)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    char line[1100];
    int n = snprintf(line, sizeof(line), "<%d>plenum[%d]: %s", LOG_DAEMON | level, getpid(), text);
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return;
    sendto(s, line, (size_t)n, MSG_NOSIGNAL, (struct sockaddr *)&un, sizeof(un));
    close(s);
}

void log_say(bool failure, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (atomic_load(&background))
        to_daemon(failure ? LOG_ERR : LOG_INFO, text);
    else
        fprintf(stderr, "%s\n", text);
}
