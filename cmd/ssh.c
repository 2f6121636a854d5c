/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/ductrun.h"
#include "cmd/sshlink.h"
#include "cmd/util.h"
#include "doors/p9_access.h"
#include "keeper/mount.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND      INT64_C(1000000000)
#define PATIENCE_MS 5000 /* so long may ssh and the far end take to end by themselves */

enum { OPT_REMOTE_PLENUM = 256, OPT_ACCESS };
static const struct option longs[] = {{"remote-plenum", required_argument, NULL, OPT_REMOTE_PLENUM},
                                      {"access", required_argument, NULL, OPT_ACCESS},
                                      {"quiet", no_argument, NULL, 'q'},
                                      {NULL, 0, NULL, 0}};

/* The far end's arguments; each in memory of its own. */
struct args {
    char *v[2 * DUCT_MAX + 8];
    size_t n;
};

PL_PRINTF(2, 3) static void add(struct args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&a->v[a->n], fmt, ap) < 0)
        abort();
    va_end(ap);
    a->n++;
}

/* "A:B" as ssh's port forwards have it; "\:" is a colon in A. */
static char *split(const struct cmd *cmd, char *text)
{
    char *to = text;
    for (char *from = text;; from++) {
        if (!*from)
            cmd_usage(cmd, "%s: two directories are needed, with ':' between them", text);
        if (*from == '\\' && from[1] == ':')
            from++;
        else if (*from == ':') {
            *to = 0;
            if (!*text || !from[1])
                cmd_usage(cmd, "%s:%s: a directory is empty", text, from + 1);
            return from + 1;
        }
        *to++ = *from;
    }
}

static int add_pair(struct duct *d, struct args *far, char how, char *text)
{
    char *second = split(d->cmd, text), *aname = NULL;
    if (d->nexports == DUCT_MAX || d->nmounts == DUCT_MAX)
        cmd_usage(d->cmd, "more than %d directories", DUCT_MAX);
    if (asprintf(&aname, "%c%zu", how, how == 'L' ? d->nmounts : d->nexports) < 0)
        return cmd_fail(d->cmd, "out of memory");
    if (how == 'L') {
        /* LOCALDIR:REMOTEDIR; "host:" so that a strange name is not taken for another SPEC */
        d->mounts[d->nmounts++] = (struct duct_mount){.aname = aname, .dir = text};
        add(far, "--export=%s=host:%s", aname, second);
        return EXIT_OK;
    }
    struct pl_err err;
    struct duct_export *e = &d->exports[d->nexports];
    char spec[PATH_MAX + 8];
    snprintf(spec, sizeof(spec), "host:%s", second);
    if (spec_parse(spec, &e->spec, &err) < 0)
        return cmd_wrong(d->cmd, &err);
    e->aname = aname;
    d->nexports++;
    add(far, "--mount=%s:%s", aname, text);
    return EXIT_OK;
}

/* Our side is done: ssh follows when the far end does. False if that failed, having said why. */
static bool wait_ssh(pid_t pid)
{
    int status = 0, fd = pidfd_open(pid, 0);
    if (fd >= 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, PATIENCE_MS) == 0)
            kill(pid, SIGTERM);
        close(fd);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return !WIFEXITED(status) || WEXITSTATUS(status) == 0;
}

/* What is wrong on this side is told before anybody types a password. */
static int check_ours(const struct duct *d)
{
    struct pl_err err;
    char path[PATH_MAX];
    for (size_t i = 0; i < d->nmounts; i++)
        if (mount_check(d->mounts[i].dir, d->opts.mount.nonempty, path, &err) < 0)
            return cmd_error(d->cmd, &err);
    if (d->access) {
        struct p9_access *access;
        if (p9_access_open(d->access, &access, &err) < 0)
            return cmd_error(d->cmd, &err);
        p9_access_free(access);
    }
    for (size_t i = 0; i < d->nexports; i++) {
        struct pl_tree *tree;
        if (spec_open(d->exports[i].spec, NULL, NULL, &tree, &err) < 0)
            return cmd_error(d->cmd, &err);
        pl_tree_unref(tree);
    }
    return EXIT_OK;
}

static int connect_and_run(struct duct *d, struct sshlink *link)
{
    struct pl_err err;
    char token[SSHLINK_TOKEN];
    if (sshlink_token(token, &err) < 0 || sshlink_start_as(link, token, &d->chan, &err) < 0)
        return cmd_error(d->cmd, &err);
    /* ssh is a child of this process, and of nobody that the channel is handed to. Others that may
     * follow it are the serving process's. */
    pid_t ssh = d->chan.child;
    d->ssh = link;
    d->token = token;
    d->redialed =
        mmap(NULL, sizeof(*d->redialed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (d->redialed == MAP_FAILED)
        d->redialed = NULL;
    int status = duct_run(d); /* has closed the channel, in this process too */
    bool well = wait_ssh(ssh) || (d->redialed && atomic_load(d->redialed));
    return well ? status : EXIT_FAILED;
}

/* What was said of the link holds for the mounts of both ends. */
static void add_link(struct args *far, const struct linkopt *o)
{
    if (!o->soft)
        add(far, "-ohard");
    else
        add(far, "-osoft=%lld", (long long)((o->soft + SECOND - 1) / SECOND));
    if (o->keepalive >= 0)
        add(far, "-okeepalive=%lld", (long long)((o->keepalive + SECOND - 1) / SECOND));
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct duct *d = calloc(1, sizeof(*d));
    struct args far = {0};
    struct sshlink link = {.patient = true};
    int o, status = EXIT_OK;
    if (!d)
        return cmd_fail(self, "out of memory");
    d->cmd = self;
    mountopt_init(&d->opts);
    add(&far, "duct");
    add(&far, "--remote");
    while (status == EXIT_OK && (o = cmd_opt(self, argc, argv, "+L:R:qo:", longs)) != -1) {
        struct pl_err err;
        if (o == 'L' || o == 'R')
            status = add_pair(d, &far, (char)o, optarg);
        else if (o == 'q')
            d->quiet = true;
        else if (o == OPT_REMOTE_PLENUM)
            link.remote_plenum = optarg;
        else if (o == OPT_ACCESS)
            d->access = util_absolute(optarg); /* for as long as the program runs */
        else if (mountopt_parse(&d->opts, optarg, &err) < 0)
            status = cmd_wrong(self, &err);
    }
    if (status)
        return status;
    if (!d->nexports && !d->nmounts)
        cmd_usage(self, "nothing to do without -L or -R");
    if (optind == argc)
        cmd_usage(self, "a host is needed");
    link.host = argv[optind++];
    if (optind < argc && strcmp(argv[optind], "--"))
        cmd_usage(self, "%s: options for ssh come behind --", argv[optind]);
    link.ssh_options = optind < argc ? argv + optind + 1 : NULL;
    add_link(&far, &d->opts.link);
    link.args = far.v;
    status = check_ours(d);
    if (status == EXIT_OK)
        status = connect_and_run(d, &link);
    else
        for (size_t i = 0; i < d->nexports; i++)
            spec_free(d->exports[i].spec);
    for (size_t i = 0; i < far.n; i++)
        free(far.v[i]);
    for (size_t i = 0; i < d->nexports; i++)
        free((char *)d->exports[i].aname);
    for (size_t i = 0; i < d->nmounts; i++)
        free((char *)d->mounts[i].aname);
    free(d);
    return status;
}

const struct cmd cmd_ssh = {
    .name = "ssh",
    .args =
        "[-L LOCALDIR:REMOTEDIR]... [-R REMOTEDIR:LOCALDIR]... [-q] [-o OPT,...]\n"
        "                  [--access FILE] [--remote-plenum PATH] [USER@]HOST [-- SSH-OPTION...]",
    .summary = "Mounts directories of both hosts on each other, over one ssh connection",
    .help =
        "  -L LOCALDIR:REMOTEDIR  mounts REMOTEDIR of HOST on LOCALDIR here\n"
        "  -R REMOTEDIR:LOCALDIR  mounts LOCALDIR of this host on REMOTEDIR there\n"
        "      --access FILE      what HOST may do with our LOCALDIRs, and as whom (plenum help\n"
        "                         access): it is \"ssh\", their paths are /R0, /R1, ...\n"
        "  -q, --quiet            does not say what is exported and mounted\n"
        "  -o OPT,...             mount options, as of plenum mount, for the mounts here\n"
        "      --remote-plenum PATH  the program there, if it is neither in PATH nor in\n"
        "                         /usr/local/bin\n\n"
        "It runs until all is unmounted on both sides, or until Ctrl-C, which unmounts all.\n"
        "A ':' in the first directory is written '\\:'. PLENUM_SSH names a program to use\n"
        "instead of ssh.\n",
    .example = "  plenum ssh -L /n/src:/home/me/project -R /n/inc:/usr/include me@host1\n",
    .run = run,
};
