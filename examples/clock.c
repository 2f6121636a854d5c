/* SPDX-License-Identifier: MIT */
/*
 * The time, in files that are written anew at each open.
 *
 *     mkdir n && ./clock n
 *     cat n/date n/unix
 *     watch -n1 cat n/uptime
 *     plenum umount n
 *
 * One function serves all the calendar files: what differs is the argument it was added with.
 * There is nothing to lose if the server dies: another tells the same time.
 */
#include <errno.h>
#include <plenum/plenum.h>
#include <time.h>

static int calendar(const struct pl_made_req *req, struct pl_text *out)
{
    char line[128];
    struct tm tm;
    time_t now = time(NULL);
    localtime_r(&now, &tm);
    strftime(line, sizeof(line), req->arg, &tm);
    return pl_text_add(out, "%s\n", line);
}

static int uptime(const struct pl_made_req *req, struct pl_text *out)
{
    struct timespec t;
    if (clock_gettime(CLOCK_BOOTTIME, &t) < 0)
        return -errno;
    return pl_text_add(out, "%lld.%03ld\n", (long long)t.tv_sec, t.tv_nsec / 1000000);
}

int main(int argc, char **argv)
{
    struct pl_made *m = pl_made_new();
    pl_made_file(m, "date", calendar, "%Y-%m-%dT%H:%M:%S%z");
    pl_made_file(m, "unix", calendar, "%s");
    pl_made_file(m, "today/weekday", calendar, "%A");
    pl_made_file(m, "today/week", calendar, "%G-W%V");
    pl_made_file(m, "uptime", uptime, NULL);
    return pl_main(argc, argv, pl_made_tree(m));
}
