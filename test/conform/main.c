/* SPDX-License-Identifier: MIT */
/*
 * The runner. Every case runs in a box (box.h) on a stack of its own; the parent has no threads and
 * knows no tree.
 */
#include "box.h"
#include "doors/fuse.h"
#include "env.h"
#include "fuse/features.h"
#include "fuse/proto.h"
#include "stack.h"

#include <fnmatch.h>
#include <getopt.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct result {
    enum { PASSED, FAILED, SKIPPED } what;
    char text[1100];
    int64_t ms;
};

static struct kase *cases;
static size_t ncases;
static int seconds = 60;
static const char *patterns[16]; /* of the cases to run; none: all */
static size_t npatterns;
static uid_t run_as; /* 0: whoever started the suite */

void case_add(struct kase *k)
{
    struct kase **p = &cases;
    while (*p && (strcmp((*p)->group, k->group) < 0 ||
                  (!strcmp((*p)->group, k->group) && (*p)->line < k->line)))
        p = &(*p)->next;
    k->next = *p;
    *p = k;
    ncases++;
}

static void full_name(const struct kase *k, char buf[128])
{
    snprintf(buf, 128, "%s.%s", k->group, k->name);
}

static bool wanted(const struct kase *k)
{
    char name[128];
    full_name(k, name);
    for (size_t i = 0; i < npatterns; i++)
        if (strstr(name, patterns[i]) || !fnmatch(patterns[i], name, 0))
            return true;
    return npatterns == 0;
}

/* ---- the child ------------------------------------------------------------------------------- */

static void child(const struct kase *k, const char *stack, const char *scratch)
{
    struct pl_err err = {0};
    struct pl_call call;
    struct pl_attr a;
    pl_call_init_self(&call);
    me = &call;
    int r = stack_open(stack, scratch, &tree, &err);
    if (r < 0)
        FAIL("the stack: %s (%d)", err.text, r);
    OK(pl_attach(tree, me, "", &top, &a));
    OK(t_chmod(top, 0755));
    k->run();
    let_all_go();
    pl_node_unref(top);
    pl_tree_unref(tree);
    r = stack_close(&err);
    if (r < 0)
        FAIL("after the case: %s (%d)", err.text, r);
    pl_call_done(&call);
}

/* ---- the parent ------------------------------------------------------------------------------ */

static void judge(struct result *res, int status)
{
    if (status == -1) {
        res->what = FAILED;
    } else if (WIFSIGNALED(status)) {
        res->what = FAILED;
        snprintf(res->text, sizeof(res->text), "died of signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) == CASE_SKIPPED) {
        res->what = SKIPPED;
    } else if (WEXITSTATUS(status) != CASE_OK) {
        res->what = FAILED;
        if (!res->text[0])
            snprintf(res->text, sizeof(res->text), "exit status %d (a sanitizer's report?)",
                     WEXITSTATUS(status));
    }
}

struct job {
    const struct kase *k;
    const char *stack;
};

static void in_the_box(void *arg, const char *scratch, int fd)
{
    struct job *job = arg;
    verdict_fd = fd;
    if (run_as && (chown(scratch, run_as, run_as) < 0 || setgroups(0, NULL) < 0 ||
                   setresgid(run_as, run_as, run_as) < 0 || setresuid(run_as, run_as, run_as) < 0))
        FAIL("-u %u: %s", run_as, strerror(errno));
    child(job->k, job->stack, scratch);
}

static struct result run(const struct kase *k, const char *stack)
{
    struct result res = {.what = PASSED};
    struct job job = {k, stack};
    char dir[4000];
    int64_t start = box_ms();
    int status = box_run(stack_dir(stack, dir, sizeof(dir)), seconds, in_the_box, &job, res.text,
                         sizeof(res.text));
    judge(&res, status);
    res.ms = box_ms() - start;
    return res;
}

/* A skip that the stack has no right to is a failure. */
static void check_skip(struct result *res, const char *shape, const char *stack)
{
    char dir[4000], text[1000];
    for (int f = 0; f < F_COUNT; f++) {
        size_t n = strlen(feature_name[f]);
        if (strncmp(res->text, feature_name[f], n) || res->text[n] != ':')
            continue;
        if (may_lack(shape, stack_dir(stack, dir, sizeof(dir)), !run_as && !geteuid(),
                     (enum feature)f))
            return;
        snprintf(text, sizeof(text), "%.900s", res->text);
        res->what = FAILED;
        snprintf(res->text, sizeof(res->text), "%s must have %s: %.800s", shape, feature_what[f],
                 text);
        return;
    }
}

static void excuse(struct result *res, const struct kase *k, const char *shape)
{
    char name[128];
    full_name(k, name);
    const char *why = why_not(fuse_mask, name);
    if (!why)
        why = why_not_here(shape, name);
    if (!why)
        return;
    res->what = SKIPPED;
    snprintf(res->text, sizeof(res->text), "%s", why);
}

static void json_text(FILE *f, const char *s)
{
    putc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e)
            fprintf(f, "\\u%04x", (unsigned char)*s);
        else
            putc(*s, f);
    }
    putc('"', f);
}

static void report(FILE *json, const struct kase *k, const struct result *r, bool first)
{
    static const char *const word[] = {"ok", "FAIL", "SKIP"};
    char name[128];
    full_name(k, name);
    printf("%-4s %s%s%s\n", word[r->what], name, r->text[0] ? "  " : "", r->text);
    if (verbose)
        printf("     %lld ms\n", (long long)r->ms);
    fflush(stdout);
    if (!json)
        return;
    fprintf(json, "%s\n  {\"name\": ", first ? "" : ",");
    json_text(json, name);
    fprintf(json, ", \"result\": \"%s\", \"ms\": %lld, \"text\": ", word[r->what],
            (long long)r->ms);
    json_text(json, r->text);
    fprintf(json, "}");
}

static int usage(FILE *f)
{
    fprintf(
        f,
        "usage: conform [-l] [-k PATTERN]... [-v] [-t SECONDS] [-u UID] [-m NAME[:NAME...]]\n"
        "       [--json FILE] STACK\n"
        "  STACK: mem, host:DIR, p9(STACK), fuse(STACK), null(STACK), trace(STACK), map(STACK),\n"
        "  fuse-noopen(STACK) (-o noopen), delay(STACK) (20 us for each op), version(STACK),\n"
        "  union(STACK,STACK), white(STACK,STACK), space(STACK,STACK)\n"
        "  -l lists the cases; -k runs those whose name has PATTERN in it (or matches it)\n"
        "  -m does without these features of the kernel's FUSE (posix_acl, minor36); each: runs\n"
        "  all once without each of those that are used\n"
        "  -t kills a case after so long (%d); example: conform -k rename. 'p9(host:/tmp)'\n",
        seconds);
    return f == stderr ? 2 : 0;
}

static int run_all(const char *stack, FILE *json)
{
    char shape[256];
    struct pl_err err;
    int count[3] = {0};
    if (stack_shape(stack, shape, sizeof(shape), &err) < 0) {
        fprintf(stderr, "conform: %s\n", err.text);
        return 2;
    }
    if (json)
        fprintf(json, "[");
    for (const struct kase *k = cases; k; k = k->next) {
        if (!wanted(k))
            continue;
        struct result r = run(k, stack);
        if (r.what == SKIPPED)
            check_skip(&r, shape, stack);
        else if (r.what == FAILED)
            excuse(&r, k, shape);
        report(json, k, &r, !(count[0] + count[1] + count[2]));
        count[r.what]++;
    }
    if (json)
        fprintf(json, "\n]\n");
    printf("%d passed, %d failed, %d skipped\n", count[PASSED], count[FAILED], count[SKIPPED]);
    return count[FAILED] || !(count[PASSED] + count[SKIPPED]) ? 1 : 0;
}

/* Once for each feature of the kernel that the door uses, without that one, and once with an old
 * kernel. */
static int run_masked(const char *stack)
{
    struct fuse_opts opts;
    int r = 0;
    fuse_opts_init(&opts);
    opts.opens = strstr(stack, "noopen") ? FUSE_OFF : FUSE_AUTO;
    opts.kernel_checks = true;
    uint64_t wants = fuse_wants(PL_TREE_LOCKS | PL_TREE_POSIX_ACL | PL_TREE_STATELESS, &opts);
    for (size_t i = 0; fuse_feature_name[i]; i++) {
        if (!(wants & fuse_feature_bit[i]))
            continue;
        printf("---- without %s\n", fuse_feature_name[i]);
        fuse_mask = fuse_feature_bit[i];
        r = run_all(stack, NULL) ? 1 : r;
    }
    fuse_mask = 0;
    fuse_mask_minor = FUSE_MINOR_MIN;
    printf("---- version 7.%u\n", fuse_mask_minor);
    return run_all(stack, NULL) ? 1 : r;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", required_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    FILE *json = NULL;
    bool list = false, masked = false;
    char bad[64];
    for (int c; (c = getopt_long(argc, argv, "lk:vt:u:m:h", longs, NULL)) != -1;) {
        if (c == 'l')
            list = true;
        else if (c == 'k' && npatterns < sizeof(patterns) / sizeof(*patterns))
            patterns[npatterns++] = optarg;
        else if (c == 'm' && !strcmp(optarg, "each"))
            masked = true;
        else if (c == 'm' && fuse_features_parse(optarg, &fuse_mask, &fuse_mask_minor, bad) == 0)
            continue;
        else if (c == 'v')
            verbose = true;
        else if (c == 't' && atoi(optarg) > 0)
            seconds = atoi(optarg);
        else if (c == 'u' && atoi(optarg) > 0)
            run_as = (uid_t)atoi(optarg);
        else if (c == 'j' && !(json = fopen(optarg, "we")))
            return perror(optarg), 1;
        else if (c == 'h')
            return usage(stdout);
        else if (c != 'j')
            return usage(stderr);
    }
    for (const struct kase *k = cases; list && k; k = k->next)
        if (wanted(k))
            printf("%s.%s\n", k->group, k->name);
    if (list)
        return 0;
    if (optind + 1 != argc)
        return usage(stderr);
    int r = masked ? run_masked(argv[optind]) : run_all(argv[optind], json);
    if (json && fclose(json))
        return perror("conform: --json"), 1;
    return r;
}
