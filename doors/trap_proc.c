/* SPDX-License-Identifier: MIT */
/* What the links in /proc/PID/ lead to, in a process of ours. */
#include "doors/trap_priv.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct proc_name {
    pid_t pid;
    char what[8];
    int fd;
};

static bool proc_parse(const char *path, struct proc_name *ret)
{
    int n = 0, m = 0, skip;
    if (sscanf(path, "/proc/%d/%n", &ret->pid, &n) != 1 || n == 0)
        return false;
    if (sscanf(path + n, "task/%d/%n", &skip, &m) == 1 && m) {
        ret->pid = skip;
        n += m;
    }
    const char *what = path + n;
    ret->fd = -1;
    if (strncmp(what, "fd/", 3) == 0 && isdigit((unsigned char)what[3])) {
        char *end;
        ret->fd = (int)strtol(what + 3, &end, 10);
        strcpy(ret->what, "fd");
        return *end == 0;
    }
    if (strcmp(what, "cwd") != 0 && strcmp(what, "exe") != 0)
        return false;
    strcpy(ret->what, what);
    return true;
}

bool proc_is_link(const char *path)
{
    return proc_parse(path, &(struct proc_name){0});
}

/* Is there something at the path still? Another name may have outlived this one. */
static bool leads(struct tcall *c, const char *path)
{
    struct target *t = malloc(sizeof(*t));
    bool is = t && walk_view(c, path, t) == 0 && (!t->top || t->node);
    if (t)
        target_done(t);
    free(t);
    return is;
}

/* Of a file that was handed out: what leads to it by its path. One that is open for writing is
 * opened again by the kernel's own link, and found whatever became of its name; another may be what
 * a lower tree holds, and only its path tells what is to be copied up. */
static bool by_path(struct tcall *c, int fd, bool opens, char buf[PATH_MAX])
{
    struct stat st;
    return fcntl(fd, F_GETSIG) == TRAP_TAG && fstat(fd, &st) == 0 && st.st_nlink > 0 &&
           !(opens && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) &&
           (known_find(c->t, &st, buf, NULL) || known_back(c, fd, &st, buf, NULL)) &&
           (!opens || leads(c, buf));
}

static int proc_fd(struct tcall *c, struct who *w, int n, bool opens, char buf[PATH_MAX])
{
    if (n == c->t->state_fd)
        return -ENOENT;
    int fd = who_fd(w, n), r = -EAGAIN;
    if (fd < 0)
        return -EAGAIN;
    int gone = 0;
    struct item *it = item_find(c->t, fd);
    if (!it)
        it = lent_item(c, fd, &gone);
    if (it && it->kind != ITEM_STATE) {
        place_path(c->t, it->place, buf);
        r = (int)strlen(buf);
    } else if (gone) { /* what is behind it is none of the view's */
        r = gone;
    } else if (by_path(c, fd, opens, buf)) {
        r = (int)strlen(buf);
    }
    item_put(c->t, it);
    close(fd);
    return r;
}

int proc_link(struct tcall *c, const char *path, bool opens, char buf[PATH_MAX])
{
    struct proc_name p;
    if (!proc_parse(path, &p))
        return -EAGAIN;
    struct who *w = who_get(c->t, p.pid);
    if (!w)
        return -EAGAIN;
    int r = -EAGAIN, fd = who_fd(w, c->t->state_fd);
    struct item *state = fd >= 0 ? item_find(c->t, fd) : NULL;
    struct stat st;
    if (state && p.what[0] == 'c' && state->place) {
        place_path(c->t, state->place, buf);
        r = (int)strlen(buf);
    } else if (state && p.what[0] == 'e' && stat(path, &st) == 0 &&
               known_find(c->t, &st, buf, NULL)) {
        r = (int)strlen(buf);
    } else if (state && p.what[0] == 'f') {
        r = proc_fd(c, w, p.fd, opens, buf);
    }
    item_put(c->t, state);
    if (fd >= 0)
        close(fd);
    who_put(c->t, w);
    return r;
}
