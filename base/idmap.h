/* SPDX-License-Identifier: MIT */
/*
 * Maps of user and group ids between a server, which has the files, and its clients.
 *
 * A map is text: items KEYWORD VALUE, one a line in a file (`#` begins a comment), or KEYWORD=VALUE
 * with commas between them in a SPEC:
 *
 *   uid SERVER:CLIENT[:COUNT]   COUNT ids from SERVER on, which are CLIENT and so on at the clients
 *   gid SERVER:CLIENT[:COUNT]
 *   passwd FILE   the clients' /etc/passwd: the users in it that this host knows by the same name
 *   group FILE    the same for groups
 *   file FILE     more items
 *   squash        uid 0 and gid 0 of a client are nobody's (65534)
 *   as USER       every caller is this user of the server
 *
 * What has a uid item or a passwd is mapped by that alone, and what it leaves out is nobody's; the
 * same for gids. Without any, ids are the same at both ends. Nothing maps to two ids.
 */
#ifndef BASE_IDMAP_H
#define BASE_IDMAP_H

#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define IDMAP_NOBODY 65534

struct idmap_range {
    uint32_t server, client, count;
};
struct idmap_table { /* both sorted, without overlaps; n 0: the same at both ends */
    struct idmap_range *by_server, *by_client;
    size_t n;
};
struct idmap {
    struct idmap_table uid, gid;
    bool squash;
    bool one; /* everybody is the user below */
    uid_t as_uid;
    gid_t as_gid, *as_groups;
    uint32_t as_ngroups;
};

/* "squash,uid=100000:0:65536", "as=alice", "file=/etc/plenum/map"; changed. */
int idmap_parse(char *items, struct idmap *ret, struct pl_err *err);
/* The text of a file, changed; `path` for sentences. `files`: passwd, group and file are followed.
 */
int idmap_parse_text(char *text, const char *path, bool files, struct idmap *ret,
                     struct pl_err *err);
void idmap_done(struct idmap *map);

/* False: there is none, and *ret is nobody. */
bool idmap_down(const struct idmap_table *t, uint32_t client, uint32_t *ret);
bool idmap_up(const struct idmap_table *t, uint32_t server, uint32_t *ret);

/* A user of this host by name or number, with all its groups (memory to be freed). */
int idmap_user(const char *text, uid_t *ret, gid_t *ret_gid, gid_t **ret_groups, uint32_t *ret_n,
               struct pl_err *err);

#endif
