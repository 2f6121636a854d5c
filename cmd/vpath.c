/* SPDX-License-Identifier: MIT */
#include "cmd/attr.h"
#include "cmd/cmd.h"
#include "cmd/util.h"
#include "cmd/viewlink.h"
#include "view/view.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_JSON = 256, OPT_SHELL };
static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON},
                                      {"shell", no_argument, NULL, OPT_SHELL},
                                      {"pid", required_argument, NULL, 'p'},
                                      {NULL, 0, NULL, 0}};

struct asking {
    const struct cmd *cmd;
    pid_t pid;
    bool json;
    char cwd[PATH_MAX];
};

/* A connection, or the exit status of a failure, negated. */
static int dial(const struct asking *a)
{
    int sock = viewlink_dial(a->pid);
    if (sock >= 0)
        return sock;
    if (a->pid && sock == -ENOENT)
        return -cmd_fail(
            a->cmd, "process %d: is in no view of this user's (plenum status lists them)", a->pid);
    if (a->pid)
        return -cmd_fail(a->cmd, "process %d: %s%s", a->pid, strerror(-sock),
                         sock == -EACCES ? " (only its user may ask for its view)" : "");
    if (sock == -ENOSYS || sock == -ECONNREFUSED)
        return -cmd_fail(a->cmd, "the server of this view has ended");
    return -cmd_fail(a->cmd, "this is no view (start one: plenum run -- %s)",
                     getenv("SHELL") ? getenv("SHELL") : "sh");
}

/* The exit status; `ret` is to be done. */
static int ask(const struct asking *a, uint32_t op, char **words, size_t n, struct viewlink *ret)
{
    struct viewlink q = {.op = op, .value = a->pid, .words = words, .n = n, .err = -1};
    struct pl_err err;
    *ret = (struct viewlink){.err = -1};
    int sock = dial(a);
    if (sock < 0)
        return -sock;
    if (op == VIEWLINK_CHANGE)
        q.err = 2;
    int r = viewlink_ask(sock, &q, ret, &err);
    close(sock);
    return r < 0 ? r == -EINVAL ? cmd_wrong(a->cmd, &err) : cmd_error(a->cmd, &err) : EXIT_OK;
}

static int change(struct asking *a, char **words, size_t n)
{
    struct viewlink answer;
    char **all = calloc(n + 2, sizeof(*all));
    if (!all)
        return cmd_fail(a->cmd, "out of memory");
    all[0] = a->cwd;
    memcpy(all + 1, words, n * sizeof(*all));
    int status = ask(a, VIEWLINK_CHANGE, all, n + 1, &answer);
    viewlink_done(&answer);
    free(all);
    return status;
}

/* The path with the symlinks on the way to its last name followed, as the view has them; with -p,
 * by its letters alone: they are of another view. */
static int absolute(const struct asking *a, const char *path, char ret[VIEW_PATH])
{
    char copy[VIEW_PATH], dir[PATH_MAX];
    if (view_clean(a->cwd, path, ret) < 0)
        return cmd_fail(a->cmd, "%s: not a path", *path ? path : "\"\"");
    char *slash = strrchr(strcpy(copy, ret), '/');
    if (a->pid || slash == copy)
        return EXIT_OK;
    *slash = 0;
    if (!realpath(copy, dir))
        return cmd_fail(a->cmd, "%s: %s", path, strerror(errno));
    if (snprintf(ret, VIEW_PATH, "%s/%s", strcmp(dir, "/") ? dir : "", slash + 1) >= VIEW_PATH)
        return cmd_fail(a->cmd, "%s: the path is too long", path);
    return EXIT_OK;
}

static int where(const struct asking *a, const char *path)
{
    struct viewlink answer;
    char text[VIEW_PATH], *words[] = {text};
    int status = absolute(a, path, text);
    if (status)
        return status;
    status = ask(a, VIEWLINK_WHERE, words, 1, &answer);
    if (status == EXIT_OK && a->json) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "path", attr_string(text));
        json_object_object_add(o, "physical", attr_string(answer.words[0]));
        attr_print_json(o);
    } else if (status == EXIT_OK) {
        puts(answer.words[0]);
    }
    viewlink_done(&answer);
    return status ? status : cmd_flush(a->cmd);
}

/* ---- the whole table ---- */

static struct json_object *tops_json(const struct view *v)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < v->ntops; i++) {
        struct json_object *o = json_object_new_object(), *dirs = json_object_new_array();
        for (size_t k = 0; k < v->tops[i].n; k++)
            json_object_array_add(dirs, attr_string(v->tops[i].dirs[k]));
        json_object_object_add(o, "path", attr_string(v->tops[i].path));
        json_object_object_add(o, "dirs", dirs);
        json_object_array_add(array, o);
    }
    return array;
}

static struct json_object *services_json(const struct view *v)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i < v->nservices; i++) {
        const struct view_service *s = &v->services[i];
        struct json_object *o = json_object_new_object(), *dirs = json_object_new_array();
        for (size_t k = 0; k < v->nputs; k++)
            if (!strcmp(v->puts[k].name, s->name))
                json_object_array_add(dirs, attr_string(v->puts[k].dir));
        json_object_object_add(o, "name", attr_string(s->name));
        json_object_object_add(o, "address", attr_string(s->addr));
        json_object_object_add(o, "on", json_object_new_boolean(s->on));
        json_object_object_add(o, "dirs", dirs);
        json_object_array_add(array, o);
    }
    return array;
}

static struct json_object *pairs_json(char **words, size_t n)
{
    struct json_object *array = json_object_new_array();
    for (size_t i = 0; i + 1 < n; i += 2) {
        struct json_object *pair = json_object_new_array();
        json_object_array_add(pair, attr_string(words[i]));
        json_object_array_add(pair, attr_string(words[i + 1]));
        json_object_array_add(array, pair);
    }
    return array;
}

static void print_json(const struct viewlink *about, const struct view *v, char **words, size_t n)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "door", attr_string(about->n ? about->words[0] : ""));
    json_object_object_add(o, "depth", json_object_new_int64(about->index));
    json_object_object_add(o, "debug", json_object_new_int64(v->debug));
    json_object_object_add(o, "trace", json_object_new_boolean(v->trace));
    json_object_object_add(o, "tops", tops_json(v));
    json_object_object_add(o, "services", services_json(v));
    json_object_object_add(o, "pairs", pairs_json(words, n));
    attr_print_json(o);
}

static int show(const struct asking *a)
{
    struct viewlink words, about = {.err = -1};
    struct view *empty = NULL, *view = NULL;
    struct pl_err err;
    int status = ask(a, VIEWLINK_WORDS, NULL, 0, &words);
    if (status == EXIT_OK && a->json)
        status = ask(a, VIEWLINK_ABOUT, NULL, 0, &about);
    if (status == EXIT_OK &&
        (view_new(&empty) < 0 || view_change(empty, "/", (const char *const *)words.words, words.n,
                                             NULL, NULL, &view, &err) < 0))
        status = cmd_error(a->cmd, &err);
    char *text = status == EXIT_OK ? view_text(view) : NULL;
    if (status == EXIT_OK && a->json)
        print_json(&about, view, words.words, words.n);
    else if (text)
        puts(text);
    free(text);
    view_unref(view);
    view_unref(empty);
    viewlink_done(&about);
    viewlink_done(&words);
    return status ? status : cmd_flush(a->cmd);
}

/* A function for a shell of any kind, which has the one process id that the program has not. */
static int shell(const struct cmd *cmd)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n < 0 ? 0 : n] = 0;
    printf("vpath() { '");
    for (const char *p = n < 0 ? "plenum" : exe; *p; p++)
        printf(*p == '\'' ? "'\\''" : "%c", *p);
    printf("' vpath -p $$ \"$@\"; }\n");
    return cmd_flush(cmd);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct asking a = {.cmd = self};
    int opt;
    while ((opt = cmd_opt(self, argc, argv, "+p:", longs)) != -1) {
        if (opt == OPT_SHELL)
            return shell(self);
        if (opt == OPT_JSON)
            a.json = true;
        else if ((a.pid = atoi(optarg)) <= 0)
            cmd_usage(self, "-p %s: not a process id", optarg);
    }
    char **words = argv + optind;
    size_t n = (size_t)(argc - optind);
    if (!getcwd(a.cwd, sizeof(a.cwd)))
        return cmd_fail(self, "the current directory: %s", strerror(errno));
    if (n == 0)
        return show(&a);
    return n == 1 ? where(&a, words[0]) : change(&a, words, n);
}

const struct cmd cmd_vpath = {
    .name = "vpath",
    .args = "[-p PID] [--json] [A B]... | PATH",
    .summary = "Shows or changes the view that it is run in (plenum run)",
    .help =
        "  A B                    directory A is shown over directory B; chains are followed\n"
        "  A -                    ... over nothing any more;  - -  takes all away\n"
        "  PATH                   alone: prints where the file is physically\n"
        "  (nothing)              prints the view in a form that restores it:\n"
        "                         saved=$(plenum vpath); ...; plenum vpath $saved\n"
        "  - /#option/OPTION      trace, notrace, debug=N (0 to 9)\n"
        "  ADDR /#fs/NAME/ATTR... defines a service; - /#fs/NAME/on, off, - (none any more)\n"
        "  DIR /#NAME             DIR is on that service\n"
        "  - /#vmap/V1,V2...      versions, the first that there is; NAME /#vmap/...: of NAME\n\n"
        "  -p, --pid PID          the view of that process, from outside\n"
        "  --json                 one object: door, depth, options, tops with their\n"
        "                         directories, services, pairs; of PATH: path, physical\n"
        "  --shell                prints a function vpath for a shell: eval \"$(plenum vpath\n"
        "                         --shell)\"\n\n"
        "In a directory that is over others, \"...\" is the next lower one.\n",
    .example = "  plenum run -- sh -c 'plenum vpath ~/src /usr/src/project && cd ~/src && make'\n",
    .run = run,
};
