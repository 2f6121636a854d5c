/* SPDX-License-Identifier: MIT */
/*
 * A live event stream: what anybody says, everybody who listens hears at once.
 *
 *     mkdir n && ./events n
 *     cat n/events &              # and again in other terminals
 *     echo hello > n/say
 *     plenum umount n             # after the readers have ended
 *
 * Every minute that passes is an event too. Readers wait without polling. One that falls 64 KiB
 * behind loses the oldest events and is told; so are all if the server dies and another takes its
 * place, which is all that anybody sees of it.
 */
#include <plenum/plenum.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static struct pl_made *tree;
static struct pl_stream *events;

static int tell(const char *who, const char *text)
{
    char line[512], when[16];
    struct tm tm;
    time_t now = time(NULL);
    strftime(when, sizeof(when), "%H:%M:%S", localtime_r(&now, &tm));
    int len = snprintf(line, sizeof(line), "%s %s: %.400s\n", when, who, text);
    return pl_stream_send(events, line, (size_t)len);
}

static int say(const struct pl_made_req *req, const char *text, size_t n)
{
    char who[32], what[401];
    snprintf(who, sizeof(who), "user %u", req->call->cred.uid);
    snprintf(what, sizeof(what), "%.*s", (int)strcspn(text, "\n"), text);
    return tell(who, what);
}

static void tick(void *arg)
{
    while (pl_made_wait(tree, (60 - time(NULL) % 60) * 1000000000) == 0)
        tell("clock", "another minute");
}

int main(int argc, char **argv)
{
    tree = pl_made_new();
    events = pl_made_stream(tree, "events", 64 << 10);
    pl_made_ctl(tree, "say", say, NULL);
    pl_made_work(tree, tick, NULL);
    return pl_main(argc, argv, pl_made_tree(tree));
}
