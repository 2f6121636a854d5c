/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include "cmd/attr.h"
#include "cmd/replicator.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static struct json_object *number(uint64_t n)
{
    return json_object_new_uint64(n);
}

static void add_counts(struct json_object *o, struct replicator_worker *w)
{
    static const char *const keys[] = {
        [REPLICA_MAKES] = "made",     [REPLICA_RENAMES] = "renamed", [REPLICA_LINKS] = "linked",
        [REPLICA_WRITES] = "written", [REPLICA_REMOVES] = "removed", [REPLICA_KEPT] = "kept"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (keys[i])
            json_object_object_add(o, keys[i], number(atomic_load(&w->count.n[i])));
    json_object_object_add(o, "bytes_sent", number(atomic_load(&w->count.bytes)));
}

static struct json_object *replica_json(struct replicator *r, size_t i)
{
    struct replicator_worker *w = &r->w[i];
    const struct step_replica *s = &r->step.v[i];
    struct json_object *o = json_object_new_object(), *told = json_object_new_array();
    size_t n;
    const struct journal_record *rec = journal_after(&r->journal, s->has, &n);
    uint64_t bytes = 0;
    for (size_t k = 0; k < n; k++)
        bytes += rec[k].len == JOURNAL_END(rec[k].off) ? 0 : rec[k].len;
    json_object_object_add(o, "spec", attr_string(spec_text(w->spec)));
    json_object_object_add(o, "state",
                           json_object_new_string(*w->why     ? "out"
                                                  : s->behind ? "behind"
                                                              : "in"));
    json_object_object_add(o, "why", attr_string(w->why));
    json_object_object_add(o, "lag_records", number(n));
    json_object_object_add(o, "lag_bytes", number(bytes));
    json_object_object_add(o, "oldest",
                           n ? json_object_new_double((double)rec[0].time / 1e9) : NULL);
    for (size_t k = 0; k < w->ntold; k++)
        json_object_array_add(told, attr_string(w->told[k]));
    json_object_object_add(o, "diverged", told);
    json_object_object_add(o, "diverged_more", number(w->untold));
    add_counts(o, w);
    return o;
}

void replicator_status(struct replicator *r)
{
    struct json_object *o = json_object_new_object(), *list = json_object_new_array();
    char *path = NULL, *part = NULL;
    json_object_object_add(o, "source", attr_string(spec_text(r->source)));
    json_object_object_add(o, "pid", json_object_new_int(getpid()));
    json_object_object_add(o, "refusing", json_object_new_boolean(r->step.refusing));
    json_object_object_add(o, "least", number(r->least));
    json_object_object_add(o, "journal_bytes", number(r->journal.bytes));
    json_object_object_add(o, "last", number(r->journal.last));
    for (size_t i = 0; i < r->n; i++)
        json_object_array_add(list, replica_json(r, i));
    json_object_object_add(o, "replicas", list);
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY);
    if (asprintf(&path, "%s/status.json", r->dir) >= 0 &&
        asprintf(&part, "%s/status.json.new", r->dir) >= 0) {
        FILE *f = fopen(part, "we");
        bool ok = f && fprintf(f, "%s\n", text) > 0;
        if (f && fclose(f) == 0 && ok)
            rename(part, path);
    }
    free(path);
    free(part);
    json_object_put(o);
}

/* ---- printing ---- */

static bool runs(const char *dir)
{
    char *path;
    if (asprintf(&path, "%s/lock", dir) < 0)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool locked = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0;
    if (fd >= 0)
        close(fd);
    free(path);
    return locked;
}

static struct json_object *get(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;
    json_object_object_get_ex(o, key, &v);
    return v;
}

/* The clock goes on while nobody writes. */
static void add_seconds(struct json_object *replica)
{
    struct json_object *oldest = get(replica, "oldest");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double lag =
        oldest ? (double)now.tv_sec + (double)now.tv_nsec / 1e9 - json_object_get_double(oldest)
               : 0;
    json_object_object_add(replica, "lag_seconds", json_object_new_double(lag > 0 ? lag : 0));
    json_object_object_del(replica, "oldest");
}

static void print_row(struct json_object *o, bool running)
{
    char bytes[16], sent[16];
    struct json_object *told = get(o, "diverged");
    size_t n = told ? json_object_array_length(told) : 0;
    const char *why = json_object_get_string(get(o, "why"));
    printf("%-8s %8llu %9s %9.1f %9llu %9s  %s%s%s\n",
           running ? json_object_get_string(get(o, "state")) : "stopped",
           (unsigned long long)json_object_get_uint64(get(o, "lag_records")),
           text_bytes(bytes, json_object_get_uint64(get(o, "lag_bytes"))),
           json_object_get_double(get(o, "lag_seconds")),
           (unsigned long long)n +
               (unsigned long long)json_object_get_uint64(get(o, "diverged_more")),
           text_bytes(sent, json_object_get_uint64(get(o, "bytes_sent"))),
           json_object_get_string(get(o, "spec")), why && *why ? ": " : "", why ? why : "");
    for (size_t i = 0; i < n; i++) {
        const char *path = json_object_get_string(json_object_array_get_idx(told, i));
        char *safe = malloc(4 * strlen(path) + 1);
        if (safe)
            printf("  diverged: %s\n", text_escape(safe, 4 * strlen(path) + 1, path, strlen(path)));
        free(safe);
    }
}

int replicator_print_status(const struct cmd *cmd, const char *dir, bool json)
{
    char *path;
    if (asprintf(&path, "%s/status.json", dir) < 0)
        return cmd_fail(cmd, "out of memory");
    struct json_object *o = json_object_from_file(path);
    free(path);
    struct json_object *list = o ? get(o, "replicas") : NULL;
    if (!list) {
        json_object_put(o);
        return cmd_fail(cmd, "%s: no status there (was it ever started? see -s)", dir);
    }
    bool running = runs(dir);
    json_object_object_add(o, "running", json_object_new_boolean(running));
    for (size_t i = 0; i < json_object_array_length(list); i++)
        add_seconds(json_object_array_get_idx(list, i));
    if (json) {
        attr_print_json(o);
        return cmd_flush(cmd);
    }
    printf("%-8s %8s %9s %9s %9s %9s  %s\n", "STATE", "RECORDS", "BYTES", "SECONDS", "DIVERGED",
           "SENT", "REPLICA");
    for (size_t i = 0; i < json_object_array_length(list); i++)
        print_row(json_object_array_get_idx(list, i), running);
    if (json_object_get_boolean(get(o, "refusing")) && running)
        printf("fewer than %llu replicas are there: the source is read-only\n",
               (unsigned long long)json_object_get_uint64(get(o, "least")));
    json_object_put(o);
    return cmd_flush(cmd);
}
