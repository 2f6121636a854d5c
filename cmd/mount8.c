/* SPDX-License-Identifier: MIT */
/*
 * mount.plenum: what mount(8) runs for `mount -t plenum SPEC DIR` and for lines of fstab. It speaks
 * mount(8)'s language: its options, its exit statuses, and those words of fstab that are meant for
 * others.
 */
#include "cmd/cmd.h"
#include "cmd/mounter.h"
#include "cmd/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* mount(8)'s exit statuses */
enum { MOUNTED = 0, WRONG = 1, NOT_MOUNTED = 32 };

struct helper {
    struct mounter m;
    bool sloppy, fake, verbose;
};

static int wrong(const char *fmt, const char *what)
{
    char text[512];
    snprintf(text, sizeof(text), fmt, what);
    util_say("mount.plenum: %s (see mount.plenum(8))", text);
    return WRONG;
}

/* For mount(8), systemd or the boot, or the case anyway. */
static bool not_ours(const char *opt)
{
    static const char *const words[] = {"defaults",      "auto",        "noauto",   "nofail",
                                        "_netdev",       "nouser",      "nousers",  "noowner",
                                        "nogroup",       "async",       "loud",     "silent",
                                        "relatime",      "diratime",    "lazytime", "nodiratime",
                                        "nostrictatime", "norelatime",  "nomand",   "noiversion",
                                        "nolazytime",    "strictatime", NULL};
    for (size_t i = 0; words[i]; i++)
        if (!strcmp(opt, words[i]))
            return true;
    return !strncmp(opt, "x-", 2) || !strncmp(opt, "X-", 2) || !strncmp(opt, "comment=", 8);
}

/* Those who may mount it are not trusted with what is on it, unless a later option says so. */
static bool for_users(struct mountopt *o, const char *opt)
{
    bool user = !strcmp(opt, "user") || !strncmp(opt, "user=", 5) || !strcmp(opt, "users");
    if (!user && strcmp(opt, "owner") != 0 && strcmp(opt, "group") != 0)
        return false;
    o->mount.nosuid = o->mount.nodev = true;
    o->mount.noexec = o->mount.noexec || user;
    return true;
}

/* One option. WRONG after saying why. */
static int option(struct helper *h, const char *opt)
{
    struct pl_err err;
    if (!strcmp(opt, "remount"))
        return wrong("%s: what can be changed is the kernel's part (mount -i -o remount,ro DIR)",
                     opt);
    if (!*opt || not_ours(opt) || for_users(&h->m.opts, opt))
        return MOUNTED;
    struct mountopt before = h->m.opts;
    if (mountopt_parse(&h->m.opts, opt, &err) == 0)
        return MOUNTED;
    h->m.opts = before;
    if (h->sloppy)
        return MOUNTED;
    util_say("mount.plenum: %s", err.text);
    return WRONG;
}

/* All of "-o"; before that, whether -s is among the arguments must be known. */
static int options(struct helper *h, const char *text)
{
    char *copy = strdup(text), *rest = copy, *opt;
    int status = copy ? MOUNTED : wrong("out of memory%s", "");
    while (status == MOUNTED && (opt = strsep(&rest, ",")))
        status = option(h, opt);
    free(copy);
    return status;
}

static int arguments(struct helper *h, int argc, char **argv, bool dry)
{
    int o, status = MOUNTED;
    opterr = 0;
    optind = 0; /* from the start, a second time */
    while (status == MOUNTED && (o = getopt(argc, argv, "sfnvrwht:N:o:")) != -1) {
        switch (o) {
        case 's':
            h->sloppy = true;
            break;
        case 'f':
            h->fake = true;
            break;
        case 'v':
            h->verbose = true;
            break;
        case 'n': /* no mtab: there is none */
        case 't': /* fuse.plenum, for a helper of several types */
            break;
        case 'r':
        case 'w':
            h->m.opts.mount.ro = o == 'r';
            break;
        case 'o':
            status = dry ? MOUNTED : options(h, optarg);
            break;
        case 'N':
            return wrong("-N %s: another mount namespace has to be entered first (nsenter -m)",
                         optarg);
        default:
            return wrong("%s: unknown option, or its argument is missing", argv[optind - 1]);
        }
    }
    return status;
}

int mount8_main(int argc, char **argv)
{
    struct helper h = {.m = {.prefix = "mount.plenum"}};
    struct pl_err err;
    mountopt_init(&h.m.opts);
    int status = arguments(&h, argc, argv, true);
    if (status == MOUNTED)
        status = arguments(&h, argc, argv, false);
    if (status != MOUNTED)
        return status;
    if (argc - optind != 2)
        return wrong("a SPEC and a directory are needed%s", "");
    const char *given = argv[optind];
    h.m.dir = argv[optind + 1];
    if (spec_parse(given, &h.m.spec, &err) < 0) {
        util_say("mount.plenum: %s", err.text);
        return WRONG;
    }
    h.m.text = spec_text(h.m.spec);
    /* As fstab has it, so that `mount -a` finds it mounted. */
    h.m.opts.mount.source = given;
    if (!h.fake && mounter_run(&h.m) != EXIT_OK)
        status = NOT_MOUNTED;
    if (h.verbose && status == MOUNTED)
        printf("mount.plenum: %s on %s%s\n", h.m.text, h.m.dir, h.fake ? " (not really)" : "");
    spec_free(h.m.spec);
    return fflush(stdout) == 0 ? status : NOT_MOUNTED;
}
