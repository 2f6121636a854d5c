/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include "cmd/listening.h"
#include "cmd/replicator.h"
#include "cmd/util.h"
#include "view/view.h"
#include <stdlib.h>
#include <string.h>

#define LISTENERS 8
#define SOURCES   16
#define JOURNAL   (64u << 20)

enum { OPT_LEAST = 256, OPT_RESOLVE, OPT_JOURNAL, OPT_CHECK, OPT_STATUS, OPT_JSON, OPT_NO_SYNC };
static const struct option longs[] = {{"listen", required_argument, NULL, 'l'},
                                      {"state", required_argument, NULL, 's'},
                                      {"least", required_argument, NULL, OPT_LEAST},
                                      {"resolve", required_argument, NULL, OPT_RESOLVE},
                                      {"journal", required_argument, NULL, OPT_JOURNAL},
                                      {"check", no_argument, NULL, OPT_CHECK},
                                      {"dry-run", no_argument, NULL, 'n'},
                                      {"verbose", no_argument, NULL, 'v'},
                                      {"no-sync", no_argument, NULL, OPT_NO_SYNC},
                                      {"status", no_argument, NULL, OPT_STATUS},
                                      {"json", no_argument, NULL, OPT_JSON},
                                      {NULL, 0, NULL, 0}};

struct asked {
    const char *listen[LISTENERS];
    size_t nlisten;
    const char *state;
    bool status, json;
};

static enum replica_resolve resolve_of(const struct cmd *self, const char *word)
{
    static const char *const names[] = {
        [REPLICA_FAIL] = "fail", [REPLICA_OURS] = "ours", [REPLICA_KEEP] = "keep"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(word, names[i]))
            return (enum replica_resolve)i;
    cmd_usage(self, "--resolve=%s: fail, ours or keep", word);
}

static void option(struct replicator *r, struct asked *a, int o)
{
    int64_t n;
    char *end;
    switch (o) {
    case 'l':
        listening_check(r->cmd, optarg);
        if (a->nlisten == LISTENERS)
            cmd_usage(r->cmd, "more than %d addresses", LISTENERS);
        a->listen[a->nlisten++] = optarg;
        break;
    case 's':
        a->state = optarg;
        break;
    case OPT_LEAST:
        r->least = strtoul(optarg, &end, 10);
        if (*end || end == optarg || r->least > STEP_REPLICAS)
            cmd_usage(r->cmd, "--least=%s: not a number of replicas", optarg);
        break;
    case OPT_RESOLVE:
        r->resolve = resolve_of(r->cmd, optarg);
        break;
    case OPT_JOURNAL:
        n = text_size(optarg);
        if (n < 64 << 10)
            cmd_usage(r->cmd, "--journal=%s: not a size of 64k at least", optarg);
        r->bound = (uint64_t)n;
        break;
    case OPT_CHECK:
        r->check = true;
        break;
    case 'n':
        r->dry = true;
        break;
    case 'v':
        r->verbose = true;
        break;
    case OPT_NO_SYNC:
        r->no_sync = true;
        break;
    case OPT_STATUS:
        a->status = true;
        break;
    case OPT_JSON:
        a->json = true;
    }
}

static int serve(struct replicator *first, const struct asked *a)
{
    const struct replicator *r = first;
    struct chan_listener *l[LISTENERS] = {0};
    struct pl_err err;
    int status = EXIT_OK;
    size_t n = 0;
    for (; n < a->nlisten && !status; n++) {
        if (chan_listen(a->listen[n], NULL, &l[n], &err) < 0) {
            status = cmd_error(r->cmd, &err);
            break;
        }
        listening_note(r->cmd, chan_listener_name(l[n]), chan_listener_note(l[n]));
        for (const struct replicator *at = first; at; at = at->next)
            util_say("%s: replicated, on %s", spec_text(at->source), chan_listener_name(l[n]));
    }
    if (!status)
        status = replicator_serve(first, l, n);
    while (n > 0)
        chan_listener_free(l[--n]);
    return status;
}

static bool is_beneath(const char *a, const char *b)
{
    return !strncmp(a, "host:", 5) && !strncmp(b, "host:", 5) && view_beneath(a + 5, b + 5, NULL);
}

/* SOURCE REPLICA... of one: up to `end`. */
static int specs(struct replicator *r, int from, int end, char **argv)
{
    struct pl_err err;
    if (spec_parse(argv[from], &r->source, &err) < 0)
        return cmd_wrong(r->cmd, &err);
    for (int i = from + 1; i < end; i++) {
        if (r->n == STEP_REPLICAS)
            cmd_usage(r->cmd, "more than %d replicas", STEP_REPLICAS);
        if (spec_parse(argv[i], &r->w[r->n].spec, &err) < 0)
            return cmd_wrong(r->cmd, &err);
        for (size_t k = 0; k < r->n; k++)
            if (!strcmp(spec_text(r->w[k].spec), spec_text(r->w[r->n].spec)))
                cmd_usage(r->cmd, "%s: twice", argv[i]);
        if (!strcmp(spec_text(r->source), spec_text(r->w[r->n].spec)))
            cmd_usage(r->cmd, "%s: a replica of itself", argv[i]);
        if (is_beneath(spec_text(r->w[r->n].spec), spec_text(r->source)))
            cmd_usage(r->cmd, "%s: a replica may not be in its source", argv[i]);
        if (is_beneath(spec_text(r->source), spec_text(r->w[r->n].spec)))
            cmd_usage(r->cmd, "%s: a source may not be in its replica", argv[from]);
        r->n++;
    }
    return EXIT_OK;
}

static int status_of(const struct replicator *r, const struct asked *a, int argc, char **argv)
{
    struct spec *source = NULL;
    struct pl_err err;
    if (argc - optind > 1 || (argc == optind && !a->state))
        cmd_usage(r->cmd, "a SOURCE (or -s DIR) is needed");
    if (argc > optind && spec_parse(argv[optind], &source, &err) < 0)
        return cmd_wrong(r->cmd, &err);
    char *dir = a->state ? util_absolute(a->state) : replicator_dir(spec_text(source));
    int status =
        dir ? replicator_print_status(r->cmd, dir, a->json) : cmd_fail(r->cmd, "out of memory");
    free(dir);
    spec_free(source);
    return status;
}

/* One SOURCE with its replicas, and the options of all. */
static int prepare(struct replicator *r, const struct asked *a, int from, int end, char **argv)
{
    if (end - from < 2)
        cmd_usage(r->cmd, "a SOURCE and at least one REPLICA are needed");
    int status = specs(r, from, end, argv);
    if (status)
        return status;
    r->dir = a->state ? util_absolute(a->state) : replicator_dir(spec_text(r->source));
    if (!r->dir)
        return cmd_fail(r->cmd, "out of memory");
    if (r->least > r->n || (r->dry && a->nlisten))
        cmd_usage(r->cmd, r->dry ? "--dry-run is for once, without -l"
                                 : "--least: there are not that many replicas");
    return EXIT_OK;
}

static int run_all(struct replicator *first, const struct asked *a)
{
    int status = EXIT_OK;
    for (struct replicator *r = first; r && status == EXIT_OK; r = r->next)
        status = replicator_open(r);
    if (status == EXIT_OK && a->nlisten)
        return serve(first, a);
    for (struct replicator *r = first; r && status == EXIT_OK; r = r->next)
        status = replicator_once(r);
    return status;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    static struct replicator all[SOURCES], each;
    struct asked a = {0};
    int o, status = EXIT_OK;
    size_t n = 0;
    each.cmd = self;
    each.bound = JOURNAL;
    while ((o = cmd_opt(self, argc, argv, "l:s:nv", longs)) != -1)
        option(&each, &a, o);
    if (a.status)
        return status_of(&each, &a, argc, argv);
    for (int from = optind, end; status == EXIT_OK && from <= argc; from = end + 1) {
        for (end = from; end < argc && strcmp(argv[end], "and") != 0;)
            end++;
        if (n == SOURCES)
            cmd_usage(self, "more than %d sources", SOURCES);
        if (n && a.state)
            cmd_usage(self, "-s is for one SOURCE (XDG_STATE_HOME for several)");
        all[n] = each;
        if (n)
            all[n - 1].next = &all[n];
        status = prepare(&all[n++], &a, from, end, argv);
    }
    if (status == EXIT_OK)
        status = run_all(all, &a);
    for (size_t i = 0; i < n; i++)
        if (all[i].opened)
            replicator_close(&all[i]);
    return status;
}

const struct cmd cmd_replicate = {
    .name = "replicate",
    .args = "[-l ADDR]... [-n] [-v] [-s DIR] [--least=N] [--resolve=HOW] SOURCE REPLICA...\n"
            "                        [and SOURCE REPLICA...]...",
    .summary = "Makes trees like another, and keeps them so",
    .help =
        "  -l, --listen ADDR   is the server of the service of that address: mounts of SOURCE\n"
        "                      tell it what they change. Without it: compares once, and ends\n"
        "  -n, --dry-run       only says what would be done\n"
        "  -v, --verbose       says what is done\n"
        "  -s, --state DIR     journal and notes of one SOURCE (else a directory for each beneath\n"
        "                      ~/.local/state/plenum/replicate)\n"
        "      --least N       with fewer replicas in reach the mounts are read-only (0)\n"
        "      --resolve HOW   what was changed at a replica by others: fail (left alone and\n"
        "                      told), keep (renamed NAME.kept-DATE), ours (overwritten)\n"
        "      --check         compares contents, whatever times and sizes say\n"
        "      --journal SIZE  at most so much for replicas that are out (64M); beyond it they\n"
        "                      are compared as a whole when they are back\n"
        "      --no-sync       neither the journal nor the replicas need survive a power failure\n"
        "      --status [--json] SOURCE   how far each replica is\n",
    .example = "  plenum replicate -l unix:/run/rpl.sock /srv/a /mnt/disk2/a 9p:tcp!host2!564 &\n"
               "  plenum mount 'service(rpl/monitor/ack=write,unix!/run/rpl.sock,/srv/a)' /mnt/a\n",
    .run = run,
};
