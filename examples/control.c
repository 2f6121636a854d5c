/* SPDX-License-Identifier: MIT */
/*
 * A lamp: a control file takes commands, a generated file shows the state.
 *
 *     mkdir n && ./control n
 *     echo on > n/ctl
 *     echo dim 30 > n/ctl
 *     cat n/state
 *     /bin/echo explode > n/ctl   # says: write error: Invalid argument
 *     plenum umount n
 *
 * A command is what was written when the file is closed; its error is that of close(2), which
 * programs tell, but the echo that is built into a shell does not.
 *
 * The lamp is in this program's memory, so the mount ends if its server dies: better than another
 * lamp that says "off" to those who have switched it on.
 */
#include <errno.h>
#include <plenum/plenum.h>
#include <stdio.h>
#include <string.h>

static struct {
    pthread_mutex_t lock; /* functions may run in several threads at once */
    bool on;
    unsigned percent;
} lamp = {.lock = PTHREAD_MUTEX_INITIALIZER, .percent = 100};

static int command(const struct pl_made_req *req, const char *text, size_t n)
{
    char verb[8] = "";
    unsigned percent;
    int words = sscanf(text, "%7s %u", verb, &percent), r = 0;
    pthread_mutex_lock(&lamp.lock);
    if (words == 1 && !strcmp(verb, "on"))
        lamp.on = true;
    else if (words == 1 && !strcmp(verb, "off"))
        lamp.on = false;
    else if (words == 2 && !strcmp(verb, "dim") && percent <= 100)
        lamp.percent = percent;
    else
        r = -EINVAL;
    pthread_mutex_unlock(&lamp.lock);
    return r;
}

static int state(const struct pl_made_req *req, struct pl_text *out)
{
    pthread_mutex_lock(&lamp.lock);
    int r = pl_text_add(out, "%s %u%%\n", lamp.on ? "on" : "off", lamp.percent);
    pthread_mutex_unlock(&lamp.lock);
    return r;
}

int main(int argc, char **argv)
{
    struct pl_made *m = pl_made_new();
    pl_made_ctl(m, "ctl", command, NULL);
    pl_made_file(m, "state", state, NULL);
    pl_made_private(m);
    return pl_main(argc, argv, pl_made_tree(m));
}
