/* SPDX-License-Identifier: MIT */
#include "base/limits.h"
#include "base/text.h"
#include "cmd/cmd.h"
#include "cmd/listening.h"
#include "cmd/serving.h"
#include "cmd/spec.h"

/* --marker and --remote are for the far end of an ssh, and not in the help. */
enum { OPT_MARKER = 256, OPT_ANYONE, OPT_STATE, OPT_ACCESS, OPT_REMOTE, OPT_LINGER };
static const struct option longs[] = {{"once", no_argument, NULL, '1'},
                                      {"allow", required_argument, NULL, 'a'},
                                      {"anyone", no_argument, NULL, OPT_ANYONE},
                                      {"access", required_argument, NULL, OPT_ACCESS},
                                      {"quiet", no_argument, NULL, 'q'},
                                      {"linger", required_argument, NULL, OPT_LINGER},
                                      {"remote", no_argument, NULL, OPT_REMOTE},
                                      {"marker", required_argument, NULL, OPT_MARKER},
                                      {"state", required_argument, NULL, OPT_STATE},
                                      {NULL, 0, NULL, 0}};

static int64_t linger(const struct cmd *self, const char *text)
{
    int64_t ns = text_duration(text);
    if (ns < 0 || ns > LIMIT_LINGER * INT64_C(1000000000))
        cmd_usage(self, "--linger %s: not a time, as in 30s, 10m or 1d, of at most 7d", text);
    return ns;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct serving s = {.prefix = "plenum: serve", .linger = -1};
    uid_t allow[64];
    struct pl_err err;
    struct spec *spec;
    int o;
    s.listen.allow = allow;
    while ((o = cmd_opt(self, argc, argv, "1a:q", longs)) != -1) {
        if (o == '1')
            s.once = true;
        else if (o == 'q')
            s.quiet = true;
        else if (o == OPT_ANYONE)
            s.listen.anyone = true;
        else if (o == OPT_ACCESS)
            s.access = optarg;
        else if (o == OPT_MARKER)
            s.marker = optarg;
        else if (o == OPT_REMOTE)
            s.remote = true;
        else if (o == OPT_LINGER)
            s.linger = linger(self, optarg);
        else if (o == OPT_STATE)
            s.state = optarg;
        else
            s.listen.nallow = listening_users(self, optarg, allow, s.listen.nallow, 64);
    }
    if (argc - optind < 2)
        cmd_usage(self, "a SPEC and at least one address are needed");
    /* Who asks over ssh for a long time is the user that serves here. */
    if (s.linger < 0)
        s.linger = s.remote ? LIMIT_LINGER * INT64_C(1000000000) : LINKOPT_CALLED;
    s.addrs = argv + optind + 1;
    s.n = (size_t)(argc - optind - 1);
    for (size_t i = 0; i < s.n; i++) {
        listening_check(self, s.addrs[i]);
        if (s.listen.nallow)
            listening_check_users(self, s.addrs[i]);
    }
    if (spec_parse(argv[optind], &spec, &err) < 0)
        return cmd_wrong(self, &err);
    s.text = s.what = spec_text(spec);
    struct spec_far far;
    struct spec_watch watch = {0};
    linkopt_init(&watch.link);
    int status = EXIT_FAILED;
    if (spec_open(spec, &watch, &far, &s.tree, &err) < 0) {
        cmd_error(self, &err);
    } else {
        listening_note(self, far.peer, far.note);
        status = serving_run(&s);
    }
    spec_free(spec);
    return status;
}

const struct cmd cmd_serve = {
    .name = "serve",
    .args = "[-1] [-a USER,... | --anyone] [--access FILE] [--linger TIME] [-q]\n"
            "                    [--state DIR] SPEC ADDR...",
    .summary = "Exports the tree that SPEC names over 9P",
    .help =
        "  -1, --once          ends after the first connection\n"
        "  -a, --allow USER,...  who may connect to a unix socket (else this user and root)\n"
        "      --anyone        everybody may\n"
        "      --access FILE   who may attach what, how, and as whom: plenum help access; read\n"
        "                      again on SIGHUP\n"
        "      --linger TIME   a client whose link broke is waited for so long (10m), with all\n"
        "                      that it has open and locked; 0: it is gone with its connection\n"
        "  -q, --quiet         does not print what is served where\n"
        "      --state DIR     where it is noted what clients have asked to change, so that a\n"
        "                      server of the same SPEC that follows this one, even when this\n"
        "                      one was killed, does it once and not twice; \"none\": nowhere\n"
        "                      (default: beside what `plenum status` reads, until the next "
        "boot)\n\n"
        "ADDR: see plenum help addr. Port 0 is a free port, which is printed.\n"
        "Without an access file who comes by tls! acts as the server's user, or if that is\n"
        "root as nobody.\n",
    .example = "  plenum serve /srv 'tcp!127.0.0.1!5640' 'unix!/tmp/srv.sock'\n",
    .run = run,
};
