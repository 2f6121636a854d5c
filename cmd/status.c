/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include "cmd/attr.h"
#include "cmd/cmd.h"
#include "cmd/viewns.h"
#include "keeper/mount.h"
#include "keeper/registry.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_JSON = 256 };
static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON}, {NULL, 0, NULL, 0}};

struct listing {
    const char *dir; /* only this one, or NULL */
    struct json_object *json;
    size_t n;
    int width; /* of the directories in the table */
    bool measure;
};

static uint64_t get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The caller's words for the kinds of enum reg_link_kind. */
static const char *const kinds[] = {"none", "again", "kept"};

static bool is_down(struct reg_page *p)
{
    return atomic_load(&p->link.down) > 0;
}

static struct json_object *seconds(int64_t ns)
{
    return json_object_new_double((double)ns / 1e9);
}

/* NULL (null) where there is no other end. */
static struct json_object *link_json(struct reg_page *p)
{
    struct reg_link *l = &p->link;
    uint32_t kind = atomic_load(&l->kind);
    int64_t soft = atomic_load(&l->soft);
    const struct timespec since = {.tv_sec = atomic_load(&l->since)};
    char when[40];
    if (!*p->peer && kind == REG_LINK_NONE)
        return NULL;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "kind", json_object_new_string(kinds[kind % 3]));
    json_object_object_add(o, "state", json_object_new_string(is_down(p) ? "down" : "up"));
    json_object_object_add(o, "since",
                           is_down(p) ? json_object_new_string(attr_time(when, &since)) : NULL);
    json_object_object_add(o, "why", attr_string(l->why));
    json_object_object_add(o, "breaks", json_object_new_int64(atomic_load(&l->breaks)));
    json_object_object_add(o, "peers", json_object_new_int64(atomic_load(&l->peers)));
    json_object_object_add(o, "down", json_object_new_int64(atomic_load(&l->down)));
    json_object_object_add(o, "linger", seconds(atomic_load(&l->linger)));
    json_object_object_add(o, "soft", soft ? seconds(soft) : NULL);
    json_object_object_add(o, "keepalive", seconds(atomic_load(&l->keepalive)));
    return o;
}

static int add_process(void *arg, pid_t pid)
{
    json_object_array_add(arg, json_object_new_int(pid));
    return 0;
}

/* NULL (null) of what is no view. */
static struct json_object *view_json(struct reg_page *p)
{
    uint64_t ns = atomic_load(&p->view.ns);
    if (strcmp(p->kind, "view") != 0)
        return NULL;
    struct json_object *o = json_object_new_object(), *processes = json_object_new_array();
    if (ns)
        viewns_each(ns, add_process, processes);
    else
        viewns_below(atomic_load(&p->server), add_process, processes);
    json_object_object_add(o, "door", attr_string(p->view.door));
    json_object_object_add(o, "depth", json_object_new_int64(atomic_load(&p->view.depth)));
    json_object_object_add(o, "first", json_object_new_int(atomic_load(&p->view.first)));
    json_object_object_add(o, "table", attr_string(p->view.table));
    json_object_object_add(o, "processes", processes);
    return o;
}

static void add_json(struct json_object *array, struct reg_page *p)
{
    struct json_object *o = json_object_new_object();
    const struct timespec started = {.tv_sec = p->started};
    char when[40];
    json_object_object_add(o, "kind", attr_string(p->kind));
    json_object_object_add(o, "dir", attr_string(p->dir));
    json_object_object_add(o, "spec", attr_string(p->spec));
    json_object_object_add(o, "state", attr_string(p->state));
    json_object_object_add(o, "keeper", json_object_new_int(atomic_load(&p->keeper)));
    json_object_object_add(o, "server", json_object_new_int(atomic_load(&p->server)));
    json_object_object_add(o, "nursery", json_object_new_int(atomic_load(&p->nursery)));
    json_object_object_add(o, "restarts", json_object_new_int64(atomic_load(&p->restarts)));
    json_object_object_add(o, "lasts", attr_string(p->stats.lasts));
    json_object_object_add(o, "peer", attr_string(p->peer));
    json_object_object_add(o, "started", json_object_new_string(attr_time(when, &started)));
    json_object_object_add(o, "requests", json_object_new_uint64(get(&p->stats.requests)));
    json_object_object_add(o, "errors", json_object_new_uint64(get(&p->stats.errors)));
    json_object_object_add(o, "bytes_read", json_object_new_uint64(get(&p->stats.bytes_read)));
    json_object_object_add(o, "bytes_written",
                           json_object_new_uint64(get(&p->stats.bytes_written)));
    json_object_object_add(
        o, "waiting",
        json_object_new_int64(atomic_load_explicit(&p->stats.waiting, memory_order_relaxed)));
    json_object_object_add(o, "told", attr_string(p->stats.told));
    json_object_object_add(o, "invalidated", json_object_new_uint64(get(&p->stats.invalidated)));
    json_object_object_add(o, "sent", json_object_new_uint64(get(&p->stats.sent)));
    json_object_object_add(o, "received", json_object_new_uint64(get(&p->stats.received)));
    json_object_object_add(o, "passed", json_object_new_uint64(get(&p->stats.passed)));
    json_object_object_add(o, "bytes", attr_string(p->stats.bytes));
    json_object_object_add(o, "link", link_json(p));
    json_object_object_add(o, "view", view_json(p));
    json_object_array_add(array, o);
}

/* A process id, which may not be there. */
static const char *pid_text(char buf[12], pid_t pid)
{
    snprintf(buf, 12, pid > 0 ? "%d" : "-", pid);
    return buf;
}

/* At most `size - 1` bytes, safe for a terminal. */
static const char *safe(char *buf, size_t size, const char *text)
{
    return *text ? text_escape(buf, size, text, strlen(text)) : "-";
}

static void add_row(const struct listing *l, struct reg_page *p)
{
    char dir[256], spec[256], peer[128], rd[16], wr[16], keeper[12], server[12];
    if (l->n == 0)
        printf("%-6s %-9s %-*s %9s %7s %9s %9s %7s %8s %8s  %s\n", "KIND", "STATE", l->width, "DIR",
               "REQUESTS", "ERRORS", "READ", "WRITTEN", "WAITING", "KEEPER", "SERVER",
               "SPEC, PEER");
    bool view = !strcmp(p->kind, "view");    /* its table may be another by now */
    const char *why = strchr(p->state, ':'); /* "failed: SENTENCE": that goes to the end */
    bool down = !strcmp(p->state, "up") && strcmp(p->kind, "serve") && is_down(p);
    const char *state = down ? "no link" : p->state;
    printf("%-6.8s %-9.*s %-*s %9llu %7llu %9s %9s %7lld %8s %8s  %s%s%s%s\n", p->kind,
           (int)strcspn(state, ":"), state, l->width, safe(dir, sizeof(dir), p->dir),
           (unsigned long long)get(&p->stats.requests), (unsigned long long)get(&p->stats.errors),
           text_bytes(rd, get(&p->stats.bytes_read)), text_bytes(wr, get(&p->stats.bytes_written)),
           (long long)atomic_load_explicit(&p->stats.waiting, memory_order_relaxed),
           pid_text(keeper, atomic_load(&p->keeper)), pid_text(server, atomic_load(&p->server)),
           safe(spec, sizeof(spec), view ? p->view.table : p->spec), *p->peer ? ", " : "",
           *p->peer ? safe(peer, sizeof(peer), p->peer) : "", why ? why : "");
}

/* What is done when the other end is away, and whether it is. */
static void add_link(struct reg_page *p)
{
    struct reg_link *l = &p->link;
    char linger[24], soft[24], why[4 * sizeof(l->why)];
    int64_t ns = atomic_load(&l->soft), waiting = atomic_load(&p->stats.waiting);
    struct timespec now;
    if (atomic_load(&l->kind) == REG_LINK_NONE) {
        printf("the first break of the link is its end\n");
        return;
    }
    printf("a link that breaks is waited for, %s at most%s; callers wait %s%s; it broke %u times\n",
           text_time(linger, atomic_load(&l->linger)),
           atomic_load(&l->kind) == REG_LINK_KEPT ? ", and nothing is lost" : "",
           ns ? "up to " : "as long", ns ? text_time(soft, ns) : "", atomic_load(&l->breaks));
    if (!is_down(p))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("down for %lld s: %s; %lld callers wait\n",
           (long long)(now.tv_sec - atomic_load(&l->since)), safe(why, sizeof(why), l->why),
           (long long)waiting);
}

static int count_process(void *arg, pid_t pid)
{
    printf("%s%d", (*(int *)arg)++ ? " " : "", pid);
    return 0;
}

static void add_view(struct reg_page *p)
{
    char table[4096];
    int n = 0;
    uint64_t ns = atomic_load(&p->view.ns);
    printf("\ndoor %s, view %u deep: %s\nprocesses in it: ", p->view.door,
           atomic_load(&p->view.depth), safe(table, sizeof(table), p->view.table));
    if (ns)
        viewns_each(ns, count_process, &n);
    else
        viewns_below(atomic_load(&p->server), count_process, &n);
    puts(n ? "" : "-");
}

/* How one mount runs, below its row. */
static void add_details(struct reg_page *p)
{
    char text[4 * sizeof(p->stats.bytes)];
    if (!strcmp(p->kind, "view"))
        add_view(p);
    if (*p->stats.bytes)
        printf("\nbytes move %s; %llu open files were passed to the kernel\n",
               safe(text, sizeof(text), p->stats.bytes), (unsigned long long)get(&p->stats.passed));
    if (*p->stats.told)
        printf("changes by others: %s; the kernel was told %llu times\n",
               safe(text, sizeof(text), p->stats.told),
               (unsigned long long)get(&p->stats.invalidated));
    if (*p->stats.lasts)
        printf("%s; %u servers have followed the first\n", safe(text, sizeof(text), p->stats.lasts),
               atomic_load(&p->restarts));
    if (*p->peer)
        add_link(p);
}

static int each(void *arg, struct reg_page *page)
{
    struct listing *l = arg;
    if (l->dir && strcmp(l->dir, page->dir))
        return 0;
    if (l->measure) {
        char dir[256];
        int n = (int)strlen(safe(dir, sizeof(dir), page->dir));
        l->width = n > l->width ? n : l->width;
        return 0;
    }
    if (l->json)
        add_json(l->json, page);
    else
        add_row(l, page);
    if (!l->json && l->dir)
        add_details(page);
    l->n++;
    return 0;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct listing l = {0};
    bool json = false;
    while (cmd_opt(self, argc, argv, "", longs) != -1)
        json = true;
    if (argc - optind > 1)
        cmd_usage(self, "at most one directory");
    char dir[PATH_MAX];
    struct pl_err err;
    if (optind < argc && mount_path(argv[optind], dir, &err) < 0)
        return cmd_error(self, &err);
    l.dir = optind < argc ? dir : NULL;
    l.json = json ? json_object_new_array() : NULL;
    l.width = 3;
    l.measure = !json;
    int r = json ? 0 : reg_each(each, &l);
    l.measure = false;
    r = r ? r : reg_each(each, &l);
    int status = EXIT_OK;
    if (l.json)
        attr_print_json(l.json);
    if (r < 0 && r != -ENOENT)
        status = cmd_fail(self, "the registry: %s", strerror(-r));
    else if (l.dir && l.n == 0)
        status = cmd_fail(self, "%s: no mount of this user's (plenum status shows them all)", dir);
    else if (!json && l.n == 0)
        puts("nothing is mounted or served");
    return status ? status : cmd_flush(self);
}

const struct cmd cmd_status = {
    .name = "status",
    .args = "[--json] [DIR]",
    .summary = "Shows this user's mounts, ducts, servers and views",
    .help =
        "  --json  one array with an object for each: kind, dir, spec, state, keeper, server,\n"
        "          nursery (process ids), restarts (servers that have followed the first), lasts\n"
        "          (whether it outlives its server, and why not; of what serves: whether a\n"
        "          successor knows what clients have asked for), peer, started, requests, errors,\n"
        "          bytes_read, bytes_written, waiting (requests not yet answered), sent, received\n"
        "          (bytes on the channel), passed (open files whose bytes the kernel moves by\n"
        "          itself), bytes (how they move, and why), told (how the kernel learns of "
        "changes),\n"
        "          invalidated (what it was told to forget), link (null without another end):\n"
        "          kind (kept: nothing is lost when it breaks; again: it is dialed again; none),\n"
        "          state (up, down), since, why, breaks, peers, down (how many of them), linger,\n"
        "          soft (null: hard), keepalive\n"
        "          view (null: it is none): door, depth (1: in no other), first (the process that\n"
        "          was run in it), table, processes\n\n"
        "Of one mount it also says in words how it runs, and why so.\n"
        "Nobody is asked for it, so it answers also when a server hangs.\n",
    .example = "  plenum status --json\n",
    .run = run,
};
