/* SPDX-License-Identifier: MIT */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>

static atomic_bool background;

void log_background(void)
{
    /* Not yet connected: who never has anything to say holds no socket. */
    openlog("plenum", LOG_PID, LOG_DAEMON);
    atomic_store(&background, true);
}

void log_say(bool failure, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (atomic_load(&background))
        syslog(failure ? LOG_ERR : LOG_INFO, "%s", text);
    else
        fprintf(stderr, "%s\n", text);
}
