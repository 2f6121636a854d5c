/* SPDX-License-Identifier: MIT */
/* pl_main: a whole program around one tree. */
#include "cmd/mounter.h"
#include "cmd/serving.h"
#include "cmd/util.h"
#include <getopt.h>
#include <plenum/app.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct app {
    const char *name;
    struct pl_tree *tree;
    const char *access; /* the access file, or NULL */
    bool foreground, serve, stdio;
    struct mountopt opts;
};

static void help(const char *name, FILE *out)
{
    fprintf(
        out,
        "usage: %s [-f] [-o OPT,...] DIR    mounts the tree on DIR (-f: stays in the foreground)\n"
        "       %s --serve ADDR...          exports it over 9P (--access FILE: who may attach "
        "what,\n"
        "                                  how, and as whom; plenum help access)\n"
        "       %s --stdio                  speaks 9P on its standard input and output\n\n"
        "Mount options:\n" MOUNTOPT_HELP "\n"
        "Example:\n  %s /mnt && ls /mnt; plenum umount /mnt\n",
        name, name, name, name);
}

/* -1: go on; else the exit status. */
static int options(struct app *a, int argc, char **argv)
{
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'},
                                          {"serve", no_argument, NULL, 's'},
                                          {"stdio", no_argument, NULL, 'i'},
                                          {"access", required_argument, NULL, 'a'},
                                          {NULL, 0, NULL, 0}};
    struct pl_err err;
    int o;
    optind = 1;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "hfo:", longs, NULL)) != -1) {
        switch (o) {
        case 'h':
            help(a->name, stdout);
            return 0;
        case 'f':
            a->foreground = true;
            break;
        case 's':
            a->serve = true;
            break;
        case 'i':
            a->stdio = true;
            break;
        case 'a':
            a->access = optarg;
            break;
        case 'o':
            if (mountopt_parse(&a->opts, optarg, &err) == 0)
                break;
            fprintf(stderr, "%s: %s\n", a->name, err.text);
            return 2;
        default:
            fprintf(stderr, "%s: %s: unknown option, or its argument is missing (see %s --help)\n",
                    a->name, argv[optind - 1], a->name);
            return 2;
        }
    }
    return -1;
}

static int serve(struct app *a, char *const *addrs, size_t n)
{
    struct serving s = {.prefix = a->name,
                        .text = a->name,
                        .tree = a->tree,
                        .addrs = addrs,
                        .n = n,
                        .access = a->access,
                        .linger = LINKOPT_CALLED};
    a->tree = NULL;
    return serving_run(&s);
}

static int mount(struct app *a, const char *dir)
{
    struct mounter m = {.prefix = a->name,
                        .text = a->name,
                        .tree = a->tree,
                        .dir = dir,
                        .opts = a->opts,
                        .foreground = a->foreground};
    a->tree = NULL;
    return mounter_run(&m);
}

static int run(struct app *a, int argc, char **argv)
{
    static char *const stdio[] = {"stdio"};
    int status = options(a, argc, argv), n = argc - optind;
    if (status >= 0)
        return status;
    if (a->stdio && !a->serve && n == 0)
        return serve(a, stdio, 1);
    if (a->serve && !a->stdio && n > 0)
        return serve(a, argv + optind, (size_t)n);
    if (!a->serve && !a->stdio && !a->access && n == 1)
        return mount(a, argv[optind]);
    fprintf(stderr, "%s: %s (see %s --help)\n", a->name,
            a->serve    ? "--serve takes addresses"
            : a->stdio  ? "--stdio takes no argument"
            : a->access ? "--access goes with --serve"
                        : "one directory to mount on is needed",
            a->name);
    return 2;
}

int pl_main(int argc, char **argv, struct pl_tree *tree)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    struct app a = {.name = slash ? slash + 1 : argc > 0 ? argv[0] : "plenum", .tree = tree};
    if (!tree) {
        fprintf(stderr, "%s: out of memory\n", a.name);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    util_args_note(argc, argv);
    mountopt_init(&a.opts);
    int status = run(&a, argc, argv);
    pl_tree_unref(a.tree);
    return status;
}

const char *pl_version(void)
{
    return PL_VERSION;
}
