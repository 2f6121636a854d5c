/* SPDX-License-Identifier: MIT */
/*
 * Interruption: a thread waits for the signals with sigwait, so that it may do what a handler may
 * not: cancel calls. The list of calls under way is guarded by `calls_lock`.
 */
#include "cmd/walk.h"
#include "base/text.h"
#include "cmd/listening.h"
#include "cmd/progress.h"
#include "cmd/spec.h"
#include "cmd/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <plenum/walk.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CALLS 32
#define MAX_DEPTH 2048

static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pl_call *calls[MAX_CALLS];
static atomic_bool interrupted;

bool walk_interrupted(void)
{
    return atomic_load(&interrupted);
}

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

static void *watch_signals(void *arg)
{
    sigset_t set;
    int sig;
    signal_set(&set);
    for (int count = 0;; count++) {
        while (sigwait(&set, &sig) != 0)
            ;
        bool any = false;
        pthread_mutex_lock(&calls_lock);
        atomic_store(&interrupted, true);
        for (int i = 0; i < MAX_CALLS; i++) {
            if (calls[i]) {
                pl_call_cancel(calls[i]);
                any = true;
            }
        }
        pthread_mutex_unlock(&calls_lock);
        /* Still connecting, or asked twice. */
        if (count || !any)
            _exit(128 + sig);
    }
    return NULL;
}

static void start_watch(void)
{
    static bool started;
    pthread_t thread;
    sigset_t set;
    if (started)
        return;
    started = true;
    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, watch_signals, NULL) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void walk_call_begin(struct pl_call *call)
{
    pthread_mutex_lock(&calls_lock);
    for (int i = 0; i < MAX_CALLS; i++) {
        if (!calls[i]) {
            calls[i] = call;
            break;
        }
    }
    if (atomic_load(&interrupted))
        pl_call_cancel(call);
    pthread_mutex_unlock(&calls_lock);
}

void walk_call_end(struct pl_call *call)
{
    pthread_mutex_lock(&calls_lock);
    for (int i = 0; i < MAX_CALLS; i++)
        if (calls[i] == call)
            calls[i] = NULL;
    pthread_mutex_unlock(&calls_lock);
}

int walk_start(struct walk *w, const struct cmd *cmd, struct pl_tree *tree)
{
    *w = (struct walk){.cmd = cmd, .tree = tree};
    pl_call_init_self(&w->call);
    walk_call_begin(&w->call);
    int r = pl_attach(tree, &w->call, "", &w->root, &(struct pl_attr){0});
    if (r == 0)
        return EXIT_OK;
    walk_fail(w, "/", r);
    return walk_close(w);
}

/* Why nothing goes on: for who looks on. */
static void link_changed(void *arg, const char *down)
{
    const struct cmd *cmd = arg;
    if (isatty(2))
        fprintf(stderr, "plenum: %s: %s%s\n", cmd->name, down ? "no link: " : "linked again",
                down ? down : "");
}

int walk_open(struct walk *w, const struct cmd *cmd, const char *text)
{
    struct spec *spec;
    struct pl_tree *tree;
    struct pl_err err;
    if (spec_parse(text, &spec, &err) < 0)
        return cmd_wrong(cmd, &err);
    start_watch(); /* before the engine has threads, which must not take the signals */
    /* As of a mount (docs/links.md): for as long as the program runs. */
    static struct spec_watch watch = {.changed = link_changed};
    struct spec_far far;
    linkopt_init(&watch.link);
    watch.arg = (void *)cmd;
    int r = spec_open(spec, &watch, &far, &tree, &err);
    spec_free(spec);
    if (r < 0)
        return cmd_error(cmd, &err);
    listening_note(cmd, far.peer, far.note);
    return walk_start(w, cmd, tree);
}

int walk_close(struct walk *w)
{
    if (w->root)
        pl_node_unref(w->root);
    walk_call_end(&w->call);
    pl_call_done(&w->call);
    pl_tree_unref(w->tree);
    return w->failed ? EXIT_FAILED : EXIT_OK;
}

void walk_say(struct walk *w, const char *path, const char *sentence)
{
    w->failed = true;
    if (walk_interrupted())
        return; /* one word about that is enough, and the shell knows it */
    progress_pause();
    cmd_fail(w->cmd, "%s: %s", path, sentence);
    progress_resume();
}

void walk_fail(struct walk *w, const char *path, int error)
{
    walk_say(w, path, strerror(-error));
}

char *walk_join(const char *dir, const char *name)
{
    char *out;
    size_t n = strlen(dir);
    bool slash = n && dir[n - 1] != '/';
    if (asprintf(&out, "%s%s%s", dir, slash ? "/" : "", name) < 0)
        abort();
    return out;
}

const char *walk_show(char *buf, size_t size, const char *name)
{
    static int terminal = -1;
    if (terminal < 0)
        terminal = isatty(1);
    return terminal ? text_escape(buf, size, name, strlen(name)) : name;
}

/* ---- paths ---- */

int walk_path(struct walk *w, const char *path, bool follow, struct pl_node **ret,
              struct pl_attr *attr)
{
    return pl_walk(w->tree, &w->call, w->root, NULL, *path ? path : "/",
                   follow ? 0 : PL_WALK_NOFOLLOW, ret, attr);
}

int walk_parent(struct walk *w, const char *path, struct pl_node **ret, char name[256])
{
    return pl_walk_parent(w->tree, &w->call, w->root, NULL, *path ? path : "/", 0, ret, name, NULL);
}

/* ---- directories ---- */

struct filling {
    struct walk_list *list;
    uint64_t next;
    size_t taken;
    int error;
};

static int fill(void *arg, const struct pl_dirent *ent)
{
    struct filling *f = arg;
    struct walk_list *l = f->list;
    f->next = ent->next;
    f->taken++;
    if (!strcmp(ent->name, ".") || !strcmp(ent->name, ".."))
        return 0;
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        struct walk_entry *v = reallocarray(l->v, room, sizeof(*v));
        if (!v) {
            f->error = -ENOMEM;
            return 1;
        }
        l->v = v;
        l->room = room;
    }
    char *name = strdup(ent->name);
    if (!name) {
        f->error = -ENOMEM;
        return 1;
    }
    l->v[l->n++] = (struct walk_entry){.name = name, .type = ent->type, .ino = ent->ino};
    return 0;
}

int walk_list(struct walk *w, struct pl_node *dir, struct walk_list *ret)
{
    struct pl_file *file;
    struct filling f = {.list = ret};
    *ret = (struct walk_list){0};
    int r = pl_open(w->tree, &w->call, dir, O_RDONLY | O_DIRECTORY, &file);
    if (r < 0)
        return r;
    do {
        f.taken = 0;
        r = pl_readdir(w->tree, &w->call, file, f.next, fill, &f);
    } while (r == 0 && f.taken && !f.error);
    pl_close(w->tree, &w->call, file);
    if (r == 0)
        r = f.error;
    if (r < 0)
        walk_list_free(ret);
    return r;
}

bool walk_down(struct walk *w, const char *path)
{
    if (w->depth < MAX_DEPTH) {
        w->depth++;
        return true;
    }
    /* Nobody wants to read 2000 names. */
    char text[64];
    snprintf(text, sizeof(text), "%.40s...", path);
    walk_say(w, text, "too many directories in one another");
    return false;
}

void walk_up(struct walk *w)
{
    w->depth--;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct walk_entry *)a)->name, ((const struct walk_entry *)b)->name);
}

void walk_list_sort(struct walk_list *list)
{
    if (list->n)
        qsort(list->v, list->n, sizeof(*list->v), by_name);
}

void walk_list_free(struct walk_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->v[i].name);
    free(list->v);
    *list = (struct walk_list){0};
}
