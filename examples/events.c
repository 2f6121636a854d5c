/* SPDX-License-Identifier: MIT */
/*
 * A live event stream: what anybody says, everybody who listens hears at once.
 *
 *     mkdir n && ./events n
 *     cat n/events &              # and again in other terminals
 *     echo hello > n/say
 *     plenum umount n             # after the readers have ended
 *
 * Readers wait without polling. One that falls 64 KiB behind loses the oldest events and is told.
 */
#include <plenum/plenum.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int say(const struct pl_made_req *req, const char *text, size_t n)
{
    char line[512], when[16];
    struct tm tm;
    time_t now = time(NULL);
    localtime_r(&now, &tm);
    strftime(when, sizeof(when), "%H:%M:%S", &tm);
    int len = snprintf(line, sizeof(line), "%s user %u: %.400s\n", when, req->call->cred.uid, text);
    if (n && text[n - 1] == '\n' && n < 400)
        len--; /* the text brought its own newline */
    return pl_stream_send(req->arg, line, (size_t)len);
}

int main(int argc, char **argv)
{
    struct pl_made *m = pl_made_new();
    struct pl_stream *events = pl_made_stream(m, "events", 64 << 10);
    pl_made_ctl(m, "say", say, events);
    return pl_main(argc, argv, pl_made_tree(m));
}
