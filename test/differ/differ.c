/* SPDX-License-Identifier: MIT */
#include "differ.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANG_MS 60000 /* nothing takes that long but a deadlock */

static const struct identity local[IDENTITIES] = {
    {"root", 0, 0, 0, {0}, 022},
    {"u1000", 1000, 1000, 0, {0}, 022},
    {"nobody", 65534, 65534, 1, {1000}, 077},
    {"u1000+g", 1000, 1000, 2, {2000, 3000}, 002},
    {"u2000", 2000, 3000, 0, {0}, 027},
    {"root,0", 0, 0, 0, {0}, 0},
};

/* 9P tells a server who a user is, and not what groups he is in: these are known everywhere. */
static const struct identity known[IDENTITIES] = {
    {"root", 0, 0, 0, {0}, 022},
    {"daemon", 1, 1, 0, {0}, 022},
    {"nobody", 65534, 65534, 0, {0}, 077},
    {"daemon,2", 1, 1, 0, {0}, 002},
    {"bin", 2, 2, 0, {0}, 027},
    {"root,0", 0, 0, 0, {0}, 0},
};

/* An ordinary user runs the differ. */
static const struct identity one_user[IDENTITIES] = {
    {"user", 64999, 64999, 0, {0}, 022},   {"user,77", 64999, 64999, 0, {0}, 077},
    {"user,2", 64999, 64999, 0, {0}, 002}, {"user,27", 64999, 64999, 0, {0}, 027},
    {"user,0", 64999, 64999, 0, {0}, 0},   {"again", 64999, 64999, 0, {0}, 022},
};

static const struct profile profiles[] = {
    {"tmpfs", .acl = true, .who = local, .ids = {1000, 2000, 3000}},
    {"ext4", .acl = true, .zero_range = true, .who = local, .ids = {1000, 2000, 3000}},
    {"writeback", .acl = true, .zero_range = true, .cached = true, .who = local,
     .ids = {1000, 2000, 3000}},
    {"mem", .dirs = DIRS_LINKS, .mem = true, .who = local, .ids = {1000, 2000, 3000}},
    {"trap", .acl = true, .zero_range = true, .trap = true, .who = local,
     .ids = {1000, 2000, 3000}},
    {"9p", .remote = true, .acl = true, .zero_range = true, .who = known, .ids = {1, 2, 2}},
    {"union", .acl = true, .dirs = DIRS_NEITHER, .merged = true, .who = local,
     .ids = {1000, 2000, 3000}},
    {"nolinks", .acl = true, .dirs = DIRS_NEITHER, .merged = true, .nolinks = true, .who = local,
     .ids = {1000, 2000, 3000}},
    {"user", .acl = true, .dirs = DIRS_NEITHER, .merged = true, .view = true, .who = one_user,
     .ids = {64999, 64999, 64999}},
    {"unionmem", .dirs = DIRS_NEITHER, .merged = true, .mem = true, .who = local,
     .ids = {1000, 2000, 3000}},
};

static struct {
    const struct profile *p;
    const char *root[2]; /* native, mount */
    const char *reset;   /* a command that gives both their state; NULL: they are emptied */
    uint64_t seed, now;  /* the first; of this run */
    unsigned count, runs, shrink_seconds;
    bool verbose, go_on;
} opt = {.p = profiles, .seed = 0, .count = 1500, .runs = 1, .shrink_seconds = 30};

struct worker {
    pid_t pid;
    int to, from;
    struct shared *shared;
};
static struct worker workers[2][16];

/* ---- workers --------------------------------------------------------------------------------- */

static void start_worker(int side, int who)
{
    struct worker *w = &workers[side][who];
    int there[2], back[2];
    if (!w->shared)
        w->shared = mmap(NULL, sizeof(*w->shared), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (w->shared == MAP_FAILED || pipe(there) < 0 || pipe(back) < 0 || (w->pid = fork()) < 0) {
        perror("differ");
        exit(1);
    }
    if (w->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(there[1]);
        close(back[0]);
        for (int s = 0; s < 2; s++)
            for (int i = 0; i < IDENTITIES; i++)
                if (workers[s][i].to > 0) {
                    close(workers[s][i].to);
                    close(workers[s][i].from);
                }
        work(opt.root[side], &opt.p->who[who], opt.p, w->shared, there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    w->to = there[1];
    w->from = back[0];
}

static void start_all(void)
{
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < IDENTITIES; i++)
            start_worker(s, i);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < IDENTITIES; i++)
            for (int j = 0; j < IDENTITIES; j++)
                workers[s][i].shared->pids[j] = workers[s][j].pid;
}

static void stop_all(bool kill_them)
{
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < IDENTITIES; i++) {
            struct worker *w = &workers[s][i];
            close(w->to);
            close(w->from);
            if (kill_them)
                kill(w->pid, SIGKILL);
            w->to = w->from = 0;
        }
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < IDENTITIES; i++)
            waitpid(workers[s][i].pid, NULL, 0);
}

static bool answer(struct worker *w)
{
    struct pollfd p = {w->from, POLLIN, 0};
    char c;
    return poll(&p, 1, HANG_MS) == 1 && read(w->from, &c, 1) == 1;
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void show(const char *what, const char *text, const char *other)
{
    printf("%s:\n", what);
    while (*text) {
        size_t n = strcspn(text, "\n"), m = strcspn(other, "\n");
        bool differs = n != m || memcmp(text, other, n);
        if (differs || strlen(text) < 2000)
            printf("  %c %.*s\n", differs ? '!' : ' ', (int)n, text);
        text += n + (text[n] != 0);
        other += m + (other[m] != 0);
    }
}

enum outcome { SAME, TIMES, DIFFERS, STUCK };

/* One operation on both sides at once. */
static enum outcome one(const struct op *op)
{
    bool ok = true;
    for (int s = 0; s < 2; s++) {
        struct worker *w = &workers[s][op->who];
        w->shared->op = *op;
        ok &= write(w->to, "", 1) == 1;
    }
    for (int s = 0; s < 2; s++)
        ok &= answer(&workers[s][op->who]);
    if (!ok)
        return STUCK;
    const char *native = workers[0][op->who].shared->text,
               *mount = workers[1][op->who].shared->text;
    if (!strcmp(native, mount) || accepted(opt.p, op, native, mount))
        return SAME;
    return only_times(native, mount) ? TIMES : DIFFERS;
}

/* The state that every run of the seed starts from. */
static void reset(void)
{
    char command[4096];
    if (!opt.reset) {
        work_reset(opt.root[0]);
        work_reset(opt.root[1]);
        return;
    }
    snprintf(command, sizeof(command), "%s %llu", opt.reset, (unsigned long long)opt.now);
    if (system(command) != 0) {
        fprintf(stderr, "differ: %s: failed\n", command);
        exit(1);
    }
}

/* Runs ops[which[0..n]] from the beginning; the place in `which` of the first difference, or n. */
static unsigned run(const struct op *ops, const unsigned *which, unsigned n, enum outcome *ret,
                    bool loud)
{
    reset();
    start_all();
    unsigned i;
    *ret = SAME;
    for (i = 0; i < n; i++) {
        const struct op *op = &ops[which[i]];
        *ret = one(op);
        if (loud && opt.verbose) {
            printf("%u: ", which[i]);
            gen_print(op, opt.p, stdout);
            printf("    %s\n", workers[0][op->who].shared->text);
        }
        if (*ret != SAME)
            break;
    }
    if (*ret != SAME && *ret != STUCK && loud) {
        const struct op *op = &ops[which[i]];
        char *text[2] = {workers[0][op->who].shared->text, workers[1][op->who].shared->text};
        show("native", text[0], text[1]);
        show("mount", text[1], text[0]);
    }
    stop_all(*ret == STUCK);
    return i;
}

/* Leaves out what the difference at the end does not need, for as long as we may look. */
static unsigned shrink(const struct op *ops, unsigned *which, unsigned n)
{
    time_t until = time(NULL) + opt.shrink_seconds;
    unsigned last = which[n - 1];
    unsigned *try = malloc(n * sizeof(*try));
    enum outcome o;
    for (unsigned chunk = n / 2; chunk && time(NULL) < until;) {
        bool any = false;
        for (unsigned at = 0; at + 1 < n && time(NULL) < until;) {
            unsigned cut = chunk < n - 1 - at ? chunk : n - 1 - at, m = n - cut;
            memcpy(try, which, at * sizeof(*try));
            memcpy(try + at, which + at + cut, (m - at) * sizeof(*try));
            unsigned end = run(ops, try, m, &o, false);
            if ((o == DIFFERS || o == TIMES) && end < m && try[end] == last) {
                memcpy(which, try, m * sizeof(*try));
                n = end + 1;
                any = true;
            } else {
                at += cut;
            }
        }
        if (!any || chunk > 1)
            chunk /= 2;
    }
    free(try);
    return n;
}

/* Whether the sequence of that seed ended without a difference. */
static bool run_seed(uint64_t seed)
{
    struct op *ops = malloc((opt.count + 1) * sizeof(*ops));
    unsigned *which = malloc((opt.count + 1) * sizeof(*which)), n = opt.count + 1;
    uint64_t rng = seed * 0x1000003 + 1;
    enum outcome o;
    opt.now = seed;
    for (unsigned i = 0; i < n; i++) {
        gen_op(&ops[i], &rng, opt.p,
               &(struct gen){i < 60, seed % 2 || opt.p->cached, seed % 3 == 0});
        which[i] = i;
    }
    ops[n - 1].kind = K_walk;
    ops[n - 1].who = 0;
    unsigned end = run(ops, which, n, &o, true);
    if (o == TIMES) {
        /* A kernel that hands out times as coarse as its tick may give the same one twice. */
        printf("seed %llu, operation %u: looking again\n", (unsigned long long)seed, end);
        end = run(ops, which, n, &o, true);
    }
    if (o != SAME) {
        printf("seed %llu, operation %u%s: ", (unsigned long long)seed, end,
               o == STUCK ? " never ended" : "");
        gen_print(&ops[which[end]], opt.p, stdout);
        fflush(stdout);
        n = end + 1;
        if (o != STUCK && opt.shrink_seconds) {
            n = shrink(ops, which, n);
            unsigned again = run(ops, which, n, &o, true);
            if (o == SAME || again + 1 != n)
                printf("the shortened sequence does not end so each time\n");
        }
        printf("%s%u operations, the last of them:\n", n <= end ? "shortened to " : "", n);
        for (unsigned i = n > 30 ? n - 30 : 0; i < n; i++) {
            printf("  %5u ", which[i]);
            gen_print(&ops[which[i]], opt.p, stdout);
        }
        o = DIFFERS;
    }
    fflush(stdout);
    free(ops);
    free(which);
    return o == SAME;
}

static int usage(void)
{
    fprintf(stderr, "usage: differ [-s SEED] [-n OPERATIONS] [-r RUNS] [-p PROFILE] [-m SECONDS] "
                    "[-R COMMAND] [-k] [-v] NATIVE MOUNT\n"
                    "  both directories are emptied; profiles: tmpfs ext4 writeback mem 9p union\n"
                    "  unionmem; -R: COMMAND SEED gives both the same content, instead\n"
                    "  -m: how long to look for a shorter sequence; -k: go on to the next seed\n");
    return 2;
}

static bool set_profile(const char *name)
{
    for (size_t i = 0; i < sizeof(profiles) / sizeof(*profiles); i++)
        if (!strcmp(profiles[i].name, name)) {
            opt.p = &profiles[i];
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    bool ok = true;
    opt.seed = (uint64_t)time(NULL);
    for (int c; (c = getopt(argc, argv, "s:n:r:p:m:R:kv")) >= 0;) {
        switch (c) {
        case 's':
            opt.seed = strtoull(optarg, NULL, 0);
            break;
        case 'n':
            opt.count = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'r':
            opt.runs = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'm':
            opt.shrink_seconds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'R':
            opt.reset = optarg;
            break;
        case 'k':
            opt.go_on = true;
            break;
        case 'v':
            opt.verbose = true;
            break;
        case 'p':
            if (set_profile(optarg))
                break;
            /* fall through */
        default:
            return usage();
        }
    }
    if (argc - optind != 2)
        return usage();
    opt.root[0] = argv[optind];
    opt.root[1] = argv[optind + 1];
    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < opt.runs && (ok || opt.go_on); i++)
        ok &= run_seed(opt.seed + i);
    printf("seeds %llu..%llu, %u operations each: %s\n", (unsigned long long)opt.seed,
           (unsigned long long)opt.seed + opt.runs - 1, opt.count,
           ok ? "no difference" : "differs");
    return !ok;
}
