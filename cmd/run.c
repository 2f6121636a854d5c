/* SPDX-License-Identifier: MIT */
#include "cmd/run.h"
#include "cmd/util.h"
#include "cmd/viewlink.h"
#include "cmd/viewns.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPT_VIEW = 256, OPT_BIND, OPT_DOOR, OPT_RESTORE };
static const struct option longs[] = {
    {"view", required_argument, NULL, OPT_VIEW}, {"bind", required_argument, NULL, OPT_BIND},
    {"door", required_argument, NULL, OPT_DOOR}, {"restore", required_argument, NULL, OPT_RESTORE},
    {"verbose", no_argument, NULL, 'v'},         {NULL, 0, NULL, 0}};

/* What the options come to. */
struct options {
    struct run run;
    char cwd[PATH_MAX];
    char **words; /* of all --view and --restore, in order; each was allocated */
    size_t n;
    const char *door;
};

static void no_memory(const struct cmd *cmd)
{
    exit(cmd_fail(cmd, "out of memory"));
}

static void add_word(struct options *o, const char *word)
{
    char **more = reallocarray(o->words, o->n + 1, sizeof(*more));
    if (!more || !(more[o->n] = strdup(word)))
        no_memory(o->run.cmd);
    o->words = more;
    o->n++;
}

/* The second word of an option that takes two. */
static const char *second(const struct cmd *cmd, const char *option, int argc, char **argv)
{
    if (optind >= argc || !strcmp(argv[optind], "--"))
        cmd_usage(cmd, "%s %s: a second word is missing", option, optarg);
    return argv[optind++];
}

/* The pairs that a file holds, as plenum vpath has printed them. */
static void restore(struct options *o, const char *path)
{
    struct stat st;
    size_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        exit(cmd_fail(o->run.cmd, "%s: %s", path, strerror(errno)));
    if (!S_ISREG(st.st_mode) || st.st_size > VIEW_TEXT)
        exit(cmd_fail(o->run.cmd, "%s: not a file that can hold a view", path));
    char *text = malloc((size_t)st.st_size + 1);
    ssize_t got = text ? pread(fd, text, (size_t)st.st_size, 0) : -1;
    char **words = got < 0 ? NULL : view_split(text, (size_t)got, &n);
    if (!words)
        exit(cmd_fail(o->run.cmd, "%s: cannot be read", path));
    for (size_t i = 0; i < n; i++)
        add_word(o, words[i]);
    if (n % 2)
        exit(cmd_fail(o->run.cmd, "%s: words come in pairs, and %s is left over", path,
                      words[n - 1]));
    free(words);
    free(text);
    close(fd);
}

/* A SPEC that is a path of a file is that file. */
static char *host_file(const struct options *o, const char *spec)
{
    char path[VIEW_PATH];
    struct stat st;
    if (*spec != '/' && *spec != '.' && strchr(spec, ':'))
        return NULL;
    if (view_clean(o->cwd, spec, path) < 0 || stat(path, &st) < 0 || S_ISDIR(st.st_mode))
        return NULL;
    return realpath(path, NULL);
}

static void bind_one(struct options *o, const char *spec, const char *dir)
{
    struct run *r = &o->run;
    char path[VIEW_PATH];
    struct stat st;
    struct pl_err err;
    if (r->nbinds == VIEW_BINDS)
        exit(cmd_fail(r->cmd, "more than %d times --bind", VIEW_BINDS));
    struct viewbind *more = reallocarray(r->binds, r->nbinds + 1, sizeof(*more));
    if (!more)
        no_memory(r->cmd);
    r->binds = more;
    struct viewbind *b = &r->binds[r->nbinds++];
    *b = (struct viewbind){.sub = host_file(o, spec)};
    if (!b->sub && spec_parse(spec, &b->spec, &err) < 0)
        exit(cmd_wrong(r->cmd, &err));
    if (view_clean(o->cwd, dir, path) < 0)
        exit(cmd_fail(r->cmd, "%s: not a path", *dir ? dir : "\"\""));
    viewspace_look(NULL, path);
    bool there = stat(path, &st) == 0;
    if (b->sub && (!there || S_ISDIR(st.st_mode)))
        exit(cmd_fail(r->cmd, "%s: not a file (%s is one, and is bound on a file that there is)",
                      path, spec));
    if (!b->sub && there && !S_ISDIR(st.st_mode))
        exit(cmd_fail(r->cmd, "%s: is not a directory (and %s is bound on one)", path, spec));
    b->dir = strdup(path);
    if (!b->dir)
        no_memory(r->cmd);
}

static void parse(struct options *o, int argc, char **argv)
{
    const struct cmd *cmd = o->run.cmd;
    int opt;
    while ((opt = cmd_opt(cmd, argc, argv, "+vo:", longs)) != -1) {
        switch (opt) {
        case 'o':
            o->run.opts = optarg;
            break;
        case OPT_VIEW:
            add_word(o, optarg);
            add_word(o, second(cmd, "--view", argc, argv));
            break;
        case OPT_BIND: {
            const char *spec = optarg;
            bind_one(o, spec, second(cmd, "--bind", argc, argv));
            break;
        }
        case OPT_DOOR:
            o->door = optarg;
            break;
        case OPT_RESTORE:
            restore(o, optarg);
            break;
        default:
            o->run.verbose = true;
        }
    }
    if (optind == argc)
        cmd_usage(cmd, "which program? (plenum run ... -- CMD ARG...)");
    o->run.argv = argv + optind;
}

static void make_view(struct options *o)
{
    struct view *empty;
    struct pl_err err;
    if (view_new(&empty) < 0)
        no_memory(o->run.cmd);
    int r = view_change(empty, o->cwd, (const char *const *)o->words, o->n, viewspace_look, NULL,
                        &o->run.view, &err);
    r = r < 0 ? r : viewspace_check(o->run.view, &err);
    view_unref(empty);
    if (r < 0)
        exit(r == -EINVAL ? cmd_wrong(o->run.cmd, &err) : cmd_error(o->run.cmd, &err));
    o->run.cwd = o->cwd;
}

/* How many views this process is in, one in the other; *ret_trap: the innermost by the door trap,
 * or by preload, which is that too. */
static unsigned depth_now(bool *ret_trap)
{
    const struct viewlink q = {.op = VIEWLINK_ABOUT, .err = -1};
    struct viewlink a;
    int sock = viewlink_dial(0);
    if (sock < 0)
        return 0;
    unsigned depth = viewlink_ask(sock, &q, &a, NULL) < 0 ? 0 : a.index;
    *ret_trap = a.n && strcmp(a.words[0], "mount") != 0;
    viewlink_done(&a);
    close(sock);
    return depth;
}

int run_failed(const struct run *run, int error)
{
    cmd_fail(run->cmd, "%s: %s", run->argv[0],
             error == ENOENT ? "no such program" : strerror(error));
    return error == ENOENT ? 127 : 126;
}

int run_exec(const struct run *run)
{
    util_pipe_signal();
    execvp(run->argv[0], run->argv);
    return run_failed(run, errno);
}

static bool has_root(const struct run *run)
{
    bool root = run->view->ntops && !strcmp(run->view->tops[0].path, "/");
    for (size_t i = 0; i < run->nbinds; i++)
        root |= !strcmp(run->binds[i].dir, "/");
    return root;
}

/* What no door can. */
static int check(const struct run *run)
{
    if (run->trapped)
        return cmd_fail(run->cmd,
                        "there can be no view in a view of the door trap or preload (change that "
                        "one: plenum vpath)");
    if (run->depth > RUN_DEPTH)
        return cmd_fail(
            run->cmd,
            "more than %d views in one another (change the one that there is: plenum vpath)",
            RUN_DEPTH);
    return EXIT_OK;
}

/* What the door trap cannot: the sentence, or NULL. */
static const char *trap_closed(const struct run *run)
{
    return run->depth > 1 ? "a process has one supervisor, and this is a view already" : NULL;
}

static int choose(struct options *o)
{
    const struct cmd *cmd = o->run.cmd;
    struct pl_err err;
    char lib[PATH_MAX];
    bool any = !strcmp(o->door, "auto"), mount = !strcmp(o->door, "mount");
    bool preload = !strcmp(o->door, "preload"), trap = preload || !strcmp(o->door, "trap");
    if (!any && !trap && !mount)
        cmd_usage(cmd, "--door=%s: there is no such door (auto, mount, preload, trap)", o->door);
    if (trap && o->run.opts)
        cmd_usage(cmd, "-o %s: for the door mount alone", o->run.opts);
    if (preload && run_preload(lib, &err) < 0)
        return cmd_fail(cmd, "the door preload is closed here: %s", err.text);
    int r = trap ? -ENOENT : viewns_possible(&err);
    if (r == 0 && has_root(&o->run))
        r = pl_fail(&err, -EINVAL, "/: the root directory cannot be a mount's");
    const char *closed = r < 0 && (any || trap) ? trap_closed(&o->run) : NULL;
    if (r < 0 && !trap && (!any || closed))
        return cmd_fail(cmd, "the door mount is closed here: %s%s%s", err.text,
                        closed ? "; and the door trap: " : "", closed ? closed : "");
    if (closed)
        return cmd_fail(cmd, "the door trap is closed here: %s", closed);
    /* What is bound from elsewhere is for the trap alone. */
    o->run.preload = preload || (any && r < 0 && !o->run.nbinds && run_preload(lib, NULL) == 0);
    const char *door = r == 0 ? "mount" : o->run.preload ? "preload" : "trap";
    if (o->run.verbose && r < 0 && any)
        util_say("plenum: run: door %s, since the door mount is closed here: %s", door, err.text);
    else if (o->run.verbose)
        util_say("plenum: run: door %s, %s", door, any ? "which is open here" : "as was asked for");
    return r < 0 ? run_trap(&o->run) : run_mount(&o->run);
}

static void done(struct options *o)
{
    for (size_t i = 0; i < o->n; i++)
        free(o->words[i]);
    free(o->words);
    for (size_t i = 0; i < o->run.nbinds; i++) {
        free(o->run.binds[i].dir);
        free(o->run.binds[i].sub);
        spec_free(o->run.binds[i].spec);
    }
    free(o->run.binds);
    view_unref(o->run.view);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct options o = {.run = {.cmd = self}, .door = "auto"};
    if (!getcwd(o.cwd, sizeof(o.cwd)))
        return cmd_fail(self, "the current directory: %s", strerror(errno));
    parse(&o, argc, argv);
    make_view(&o);
    o.run.depth = depth_now(&o.run.trapped) + 1;
    int status = check(&o.run);
    status = status ? status : choose(&o);
    done(&o);
    return status;
}

const struct cmd cmd_run = {
    .name = "run",
    .args = "[-v] [--view A B]... [--bind SPEC DIR]... [--restore FILE] [--door=DOOR] "
            "[-o OPTION,...] [--] CMD [ARG...]",
    .summary = "Runs CMD with a view of its own of the files",
    .help =
        "  --view A B        directory A is shown over directory B; any pair of plenum vpath\n"
        "  --bind SPEC DIR   DIR is the tree that SPEC names (plenum help spec); a file on a\n"
        "                    file\n"
        "  --restore FILE    the pairs in FILE, as plenum vpath prints them\n"
        "  --door=DOOR       mount: namespaces with mounts in them; trap: system calls are\n"
        "                    intercepted; preload: that, and programs that load libraries find\n"
        "                    most by themselves; auto (the default): the first that is open here\n"
        "  -o OPTION,...     of the door mount, as of plenum mount\n"
        "  -v, --verbose     says which door was chosen, and why\n\n"
        "Whatever CMD starts is in the view too, and stays in it. It is changed with plenum\n"
        "vpath, from within or, with -p, from outside. Exit status: that of CMD; 127 and 126 if\n"
        "it cannot be found or run, 1 and 2 if there could be no view.\n",
    .example = "  plenum run --view ~/src /usr/src/project -- make\n"
               "  plenum run --bind 9p:tcp!host1 /mnt -- sh\n",
    .run = run,
};
