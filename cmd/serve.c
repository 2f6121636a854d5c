/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/listening.h"
#include "cmd/serving.h"
#include "cmd/spec.h"

enum { OPT_MARKER = 256, OPT_ANYONE };
static const struct option longs[] = {{"once", no_argument, NULL, '1'},
                                      {"allow", required_argument, NULL, 'a'},
                                      {"anyone", no_argument, NULL, OPT_ANYONE},
                                      {"quiet", no_argument, NULL, 'q'},
                                      {"marker", required_argument, NULL, OPT_MARKER},
                                      {NULL, 0, NULL, 0}};

static int run(const struct cmd *self, int argc, char **argv)
{
    struct serving s = {.prefix = "plenum: serve"};
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
        else if (o == OPT_MARKER)
            s.marker = optarg;
        else
            s.listen.nallow = listening_users(self, optarg, allow, s.listen.nallow, 64);
    }
    if (argc - optind < 2)
        cmd_usage(self, "a SPEC and at least one address are needed");
    s.addrs = argv + optind + 1;
    s.n = (size_t)(argc - optind - 1);
    for (size_t i = 0; i < s.n; i++) {
        listening_check(self, s.addrs[i]);
        if (s.listen.nallow)
            listening_check_users(self, s.addrs[i]);
    }
    if (spec_parse(argv[optind], &spec, &err) < 0)
        return cmd_wrong(self, &err);
    s.text = spec_text(spec);
    struct spec_far far;
    int status = EXIT_FAILED;
    if (spec_open(spec, NULL, &far, &s.tree, &err) < 0) {
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
    .args = "[-1] [-a USER,... | --anyone] [-q] SPEC ADDR...",
    .summary = "Exports the tree that SPEC names over 9P",
    .help = "  -1, --once          ends after the first connection\n"
            "  -a, --allow USER,...  who may connect to a unix socket (else this user and root)\n"
            "      --anyone        everybody may\n"
            "  -q, --quiet         does not print what is served where\n\n"
            "ADDR: see plenum help addr. Port 0 is a free port, which is printed.\n",
    .example = "  plenum serve /srv 'tcp!127.0.0.1!5640' 'unix!/tmp/srv.sock'\n",
    .run = run,
};
