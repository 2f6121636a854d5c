/* SPDX-License-Identifier: MIT */
#include "base/notify.h"
#include "base/text.h"
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int notify_say(const char *fmt, ...)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char text[1024];
    va_list ap;
    if (!name || !*name)
        return 0;
    size_t n = strlen(name);
    if ((*name != '/' && *name != '@') || n < 2 || n >= sizeof(at.sun_path))
        return -EINVAL;
    memcpy(at.sun_path, name, n);
    if (*name == '@') /* its name is as long as it is, without a NUL at the end */
        at.sun_path[0] = 0;
    else
        n++;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0)
        return -errno;
    ssize_t sent =
        sendto(s, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&at,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    int r = sent < 0 ? -errno : 1;
    close(s);
    return r;
}

void notify_state(const char *state, const char *what)
{
    char shown[512];
    text_escape(shown, sizeof(shown), what, strlen(what));
    if (!strcmp(state, "up"))
        notify_say("READY=1\nMAINPID=%d\nSTATUS=up: %s", (int)getpid(), shown);
    else if (!strcmp(state, "ending"))
        notify_say("STOPPING=1\nSTATUS=ending: %s", shown);
}
