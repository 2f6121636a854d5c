/* SPDX-License-Identifier: MIT */
/* Maps of ids, and the layer that applies them: over a tree in memory, called as several users. */
#include "base/idmap.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the map itself ---- */

static int parse(const char *items, struct idmap *map, struct pl_err *err)
{
    char *copy = strdup(items);
    int r = idmap_parse(copy, map, err);
    free(copy);
    return r;
}

static void check_bad(const char *items, const char *says)
{
    struct idmap map;
    struct pl_err err = {0};
    assert_int_equal(parse(items, &map, &err), -EINVAL);
    if (!strstr(err.text, says))
        fail_msg("%s: %s", items, err.text);
}

static void bad_maps(void **state)
{
    check_bad("uid", "not a range");
    check_bad("uid=", "not a range");
    check_bad("uid=1", "not a range");
    check_bad("uid=1:2:0", "not a range");
    check_bad("uid=1:2:3:4", "not a range");
    check_bad("uid=-1:2", "not a range");
    check_bad("uid=4294967295:0", "not a range");
    check_bad("uid=4294967290:0:6", "not a range");
    check_bad("gid=0:4294967290:6", "not a range");
    check_bad("uid=0:100:10,uid=9:300", "would be two");
    check_bad("uid=0:100:10,uid=20:109", "would be two");
    check_bad("who=1", "not part of a map");
    check_bad("squash=yes", "not part of a map");
    check_bad("", "not part of a map");
}

static void up_and_down(void **state)
{
    struct idmap map;
    struct pl_err err;
    uint32_t id;
    assert_int_equal(parse("uid=100000:0:1000,uid=5:70000,squash", &map, &err), 0);
    assert_true(map.squash);
    assert_true(idmap_down(&map.uid, 0, &id) && id == 100000);
    assert_true(idmap_down(&map.uid, 999, &id) && id == 100999);
    assert_true(idmap_down(&map.uid, 70000, &id) && id == 5);
    assert_false(idmap_down(&map.uid, 1000, &id));
    assert_int_equal(id, 65534);
    assert_true(idmap_up(&map.uid, 100999, &id) && id == 999);
    assert_false(idmap_up(&map.uid, 0, &id));
    assert_int_equal(id, 65534);
    assert_true(idmap_down(&map.gid, 7, &id) && id == 7); /* no gid item: the same */
    assert_false(idmap_down(&map.gid, UINT32_MAX, &id));
    idmap_done(&map);
}

static char *temp_file(const char *text)
{
    char *path = strdup("/tmp/unit-map-XXXXXX");
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

/* root is 0 here; there it is 70 and comes twice, of which the first counts; and 0 is somebody who
 * is not known here. */
static void by_name(void **state)
{
    char *passwd = temp_file("stranger:x:0:0::/:/bin/sh\nroot:x:70:0::/:/bin/sh\n"
                             "root:x:71:0::/:/bin/sh\ndaemon:x:72:0::/:/bin/sh\n"),
         *items, *lines, *file;
    struct idmap map;
    struct pl_err err = {0};
    uint32_t id;
    asprintf(&lines, "# the clients' users\n\n  passwd %s # theirs\nuid 5000:72\n", passwd);
    file = temp_file(lines);
    asprintf(&items, "file=%s", file);
    if (parse(items, &map, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(idmap_down(&map.uid, 70, &id) && id == 0);
    assert_false(idmap_down(&map.uid, 71, &id));
    assert_false(idmap_down(&map.uid, 0, &id));
    assert_true(idmap_down(&map.uid, 72, &id) && id == 5000); /* numbers come first */
    idmap_done(&map);
    unlink(passwd);
    unlink(file);
    free(passwd);
    free(file);
    free(lines);
    free(items);
}

static void a_file_with_an_error(void **state)
{
    char *file = temp_file("uid 0:0:10\n\nuid 5 6\n"), *items;
    struct idmap map;
    struct pl_err err = {0};
    asprintf(&items, "file=%s", file);
    assert_int_equal(parse(items, &map, &err), -EINVAL);
    assert_non_null(strstr(err.text, "line 3: uid: too many words"));
    assert_non_null(strstr(err.text, file));
    unlink(file);
    free(items);
    asprintf(&items, "file=%s", file);
    assert_int_equal(parse(items, &map, &err), -ENOENT);
    free(file);
    free(items);
}

/* ---- the layer ---- */

struct env {
    struct pl_tree *mem, *map;
    struct pl_call call; /* server's root */
    struct pl_node *root;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    struct pl_attr attr;
    pl_call_init(&e->call, 0, 0);
    assert_int_equal(pl_mem_new(0, &e->mem, NULL), 0);
    assert_int_equal(pl_attach(e->mem, &e->call, "", &e->root, &attr), 0);
    struct pl_setattr all = {.valid = PL_SET_MODE | PL_SET_UID, .mode = 01777, .uid = 100000};
    struct pl_call root;
    pl_call_init_self(&root);
    root.cred.uid = 0;
    all.valid |= PL_SET_GID;
    all.gid = 100000;
    assert_int_equal(pl_setattr(e->mem, &root, e->root, NULL, &all, &attr), 0);
    pl_call_done(&root);
    *state = e;
    return 0;
}

static void put_over(struct env *e, const char *items)
{
    struct pl_map *map;
    struct pl_err err = {0};
    if (pl_map_parse(items, &map, &err) < 0)
        fail_msg("%s", err.text);
    e->map = pl_map_new(map, pl_tree_ref(e->mem));
    assert_non_null(e->map);
}

static int teardown(void **state)
{
    struct env *e = *state;
    pl_node_unref(e->root);
    pl_tree_unref(e->map);
    pl_tree_unref(e->mem);
    pl_call_done(&e->call);
    free(e);
    return 0;
}

/* Makes a file of mode 0666 as uid:gid through `t`. */
static int put(struct env *e, struct pl_tree *t, uid_t uid, const char *name, struct pl_attr *attr)
{
    struct pl_call c;
    struct pl_node *n;
    struct pl_file *f;
    pl_call_init(&c, uid, uid);
    int r = pl_create(t, &c, e->root, name, O_WRONLY, 0666, &n, attr, &f);
    if (r == 0) {
        pl_close(t, &c, f);
        pl_node_unref(n);
    }
    assert_int_equal(c.cred.uid, uid); /* the caller is itself again */
    assert_int_equal(c.cred.gid, uid);
    pl_call_done(&c);
    return r;
}

static void owners(void **state)
{
    struct env *e = *state;
    struct pl_attr attr;
    struct pl_node *n;
    put_over(e, "uid=100000:0:65534,gid=100000:0:65534");
    assert_int_equal(put(e, e->map, 1000, "mine", &attr), 0);
    assert_int_equal(attr.uid, 1000);
    assert_int_equal(attr.gid, 1000);
    assert_int_equal(pl_lookup(e->mem, &e->call, e->root, "mine", &n, &attr), 0);
    assert_int_equal(attr.uid, 101000);
    assert_int_equal(attr.gid, 101000);
    pl_node_unref(n);
    assert_int_equal(put(e, e->mem, 7, "theirs", &attr), 0);
    assert_int_equal(pl_lookup(e->map, &e->call, e->root, "theirs", &n, &attr), 0);
    assert_int_equal(attr.uid, 65534);
    pl_node_unref(n);
}

/* Who is not in the map makes nothing; what is nobody's is not changed. */
static void strangers(void **state)
{
    struct env *e = *state;
    struct pl_attr attr;
    struct pl_node *n;
    struct pl_file *f;
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    put_over(e, "uid=100000:0:65534,gid=100000:0:65534");
    assert_int_equal(put(e, e->map, 70000, "x", &attr), -EOVERFLOW);
    assert_int_equal(put(e, e->mem, 7, "theirs", &attr), 0);
    assert_int_equal(put(e, e->map, 1000, "theirs", &attr), -EACCES);
    assert_int_equal(pl_lookup(e->map, &e->call, e->root, "theirs", &n, &attr), 0);
    assert_int_equal(pl_open(e->map, &e->call, n, O_WRONLY, &f), -EACCES);
    assert_int_equal(pl_access(e->map, &e->call, n, W_OK), -EACCES);
    assert_int_equal(pl_open(e->map, &e->call, n, O_RDONLY, &f), 0);
    pl_close(e->map, &e->call, f);
    assert_int_equal(pl_setattr(e->map, &e->call, n, NULL, &set, &attr), -EOVERFLOW);
    set = (struct pl_setattr){.valid = PL_SET_SIZE, .size = 3};
    assert_int_equal(pl_setattr(e->map, &e->call, n, NULL, &set, &attr), -EACCES);
    assert_int_equal(pl_link(e->map, &e->call, n, e->root, "too", &attr), -EPERM);
    assert_int_equal(pl_remove(e->map, &e->call, e->root, "theirs", 0), -EPERM);
    assert_int_equal(pl_rename(e->map, &e->call, e->root, "theirs", e->root, "ours", 0), -EPERM);
    assert_int_equal(pl_setxattr(e->map, &e->call, n, "user.x", "y", 1, 0), -EPERM);
    pl_node_unref(n);
    assert_int_equal(put(e, e->map, 0, "mine", &attr), 0);
    assert_int_equal(pl_lookup(e->map, &e->call, e->root, "mine", &n, &attr), 0);
    set = (struct pl_setattr){.valid = PL_SET_UID, .uid = 80000};
    assert_int_equal(pl_setattr(e->map, &e->call, n, NULL, &set, &attr), -EOVERFLOW);
    pl_node_unref(n);
}

static void squash(void **state)
{
    struct env *e = *state;
    struct pl_attr attr;
    put_over(e, "squash");
    assert_int_equal(put(e, e->map, 0, "roots", &attr), 0);
    assert_int_equal(attr.uid, 65534);
    assert_int_equal(attr.gid, 65534);
    assert_int_equal(put(e, e->map, 1000, "users", &attr), 0);
    assert_int_equal(attr.uid, 1000);
}

static void as_one(void **state)
{
    struct env *e = *state;
    struct pl_attr attr;
    put_over(e, "as=4711");
    assert_int_equal(put(e, e->map, 0, "a", &attr), 0);
    assert_int_equal(attr.uid, 4711);
    assert_int_equal(put(e, e->map, 1000, "b", &attr), 0);
    assert_int_equal(attr.uid, 4711);
}

static gid_t upper_groups[] = {5, 0, 9999, 70000};
static int asked;

static int load_groups(struct pl_call *c)
{
    asked++;
    c->cred.groups = upper_groups;
    c->cred.ngroups = 4;
    return 0;
}

/* A file of group 100005, which the caller is in as 5 up there. */
static void groups(void **state)
{
    struct env *e = *state;
    struct pl_attr attr;
    struct pl_node *n;
    struct pl_file *f;
    struct pl_call c;
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_GID, .mode = 0060, .gid = 100005};
    put_over(e, "uid=100000:0:65534,gid=100000:0:65534,squash");
    assert_int_equal(put(e, e->map, 1000, "shared", &attr), 0);
    assert_int_equal(pl_lookup(e->map, &e->call, e->root, "shared", &n, &attr), 0);
    assert_int_equal(pl_setattr(e->mem, &e->call, n, NULL, &set, &attr), 0);
    pl_call_init(&c, 2000, 2000);
    assert_int_equal(pl_open(e->map, &c, n, O_RDWR, &f), -EACCES);
    c.load_groups = load_groups;
    c.door = &asked;
    assert_int_equal(pl_open(e->map, &c, n, O_RDWR, &f), 0);
    pl_close(e->map, &c, f);
    assert_true(c.load_groups == load_groups && c.door == &asked);
    assert_int_equal(asked, 1); /* and remembered above */
    assert_int_equal(c.cred.ngroups, 4);
    assert_ptr_equal(c.cred.groups, upper_groups);
    set.gid = 100000; /* root's group, of which squash knows nothing */
    assert_int_equal(pl_setattr(e->mem, &e->call, n, NULL, &set, &attr), 0);
    assert_int_equal(pl_open(e->map, &c, n, O_RDWR, &f), -EACCES);
    pl_call_done(&c);
    pl_node_unref(n);
}

/* Only owners: the caller has been looked up already. */
static void owners_only(void **state)
{
    struct env *e = *state;
    struct pl_map *map;
    struct pl_attr attr;
    uint32_t id;
    assert_int_equal(pl_map_parse("uid=100000:0:1000,gid=100000:0:1000,squash", &map, NULL), 0);
    assert_true(pl_map_user(map, 5, &id) && id == 100005);
    pl_map_user(map, 0, &id);
    assert_int_equal(id, 65534);
    assert_false(pl_map_group(map, 0, &id));
    e->map = pl_map_owners_new(map, pl_tree_ref(e->mem));
    assert_int_equal(put(e, e->map, 100005, "mine", &attr), 0);
    assert_int_equal(attr.uid, 5);
    assert_int_equal(put(e, e->map, 5, "not", &attr), -EOVERFLOW);
}

/* An ACL on a file of the host's, whose ids are seen and set through the map. */
static void acls(void **state)
{
    struct env *e = *state;
    struct pl_tree *host, *t;
    struct pl_map *map;
    struct pl_call c;
    struct pl_node *root, *n;
    struct pl_attr attr;
    struct pl_file *f;
    char dir[] = "/dev/shm/unit-map-XXXXXX";
    /* u::rw-, u:1000:r--, g::r--, m::r--, o::--- */
    uint8_t acl[] = {2, 0,    0,   0,   1,   0,   6,    0, 255, 255, 255, 255, 2,   0,    4,
                     0, 0xe8, 3,   0,   0,   4,   0,    4, 0,   255, 255, 255, 255, 0x10, 0,
                     4, 0,    255, 255, 255, 255, 0x20, 0, 0,   0,   255, 255, 255, 255};
    uint8_t got[sizeof(acl)];
    uint32_t id;
    if (geteuid() != 0)
        skip();
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chown(dir, 100000, 100000), 0);
    assert_int_equal(pl_host_open(dir, &host, NULL), 0);
    assert_int_equal(pl_map_parse("uid=100000:0:5000,gid=100000:0:5000", &map, NULL), 0);
    t = pl_map_new(map, pl_tree_ref(host));
    pl_call_init(&c, 0, 0);
    assert_int_equal(pl_attach(t, &c, "", &root, &attr), 0);
    assert_int_equal(pl_create(t, &c, root, "f", O_WRONLY, 0600, &n, &attr, &f), 0);
    pl_close(t, &c, f);
    int r = pl_setxattr(t, &c, n, "system.posix_acl_access", acl, sizeof(acl), 0);
    if (r == 0) {
        assert_int_equal(pl_getxattr(t, &c, n, "system.posix_acl_access", got, sizeof(got)),
                         sizeof(acl));
        assert_memory_equal(got, acl, sizeof(acl));
        assert_int_equal(pl_getxattr(host, &c, n, "system.posix_acl_access", got, sizeof(got)),
                         sizeof(acl));
        memcpy(&id, got + 16, 4);
        assert_int_equal(id, 101000);
        memcpy(acl + 16, &(uint32_t){80000}, 4);
        assert_int_equal(pl_setxattr(t, &c, n, "system.posix_acl_access", acl, sizeof(acl), 0),
                         -EINVAL);
    } else {
        assert_int_equal(r, -EOPNOTSUPP);
    }
    assert_int_equal(pl_remove(t, &c, root, "f", 0), 0);
    pl_node_unref(n);
    pl_node_unref(root);
    pl_tree_unref(t);
    pl_tree_unref(host);
    pl_call_done(&c);
    (void)e;
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_maps),
        cmocka_unit_test(up_and_down),
        cmocka_unit_test(by_name),
        cmocka_unit_test(a_file_with_an_error),
        cmocka_unit_test_setup_teardown(owners, setup, teardown),
        cmocka_unit_test_setup_teardown(strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(squash, setup, teardown),
        cmocka_unit_test_setup_teardown(as_one, setup, teardown),
        cmocka_unit_test_setup_teardown(groups, setup, teardown),
        cmocka_unit_test_setup_teardown(owners_only, setup, teardown),
        cmocka_unit_test_setup_teardown(acls, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
