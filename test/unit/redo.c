/* SPDX-License-Identifier: MIT */
/* The evidence by which what a dead server had begun is judged: what its clocks tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "doors/redo.h"
#include <fcntl.h>
#include <plenum/sources.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The number of one that is gone may be another's by now. */
static void number_used_anew(void **state)
{
    char dir[] = "/tmp/plenum-redo-XXXXXX", path[64];
    struct pl_call call;
    struct pl_tree *tree;
    struct pl_node *top;
    struct pl_attr attr;
    struct pl_intent intent = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/f", dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    pl_call_init_self(&call);
    assert_int_equal(pl_host_open(dir, &tree, NULL), 0);
    assert_int_equal(pl_attach(tree, &call, "", &top, &attr), 0);
    struct redo r = {.tree = tree, .intent = &intent};
    assert_false(redo_removed(&r, top, "f")); /* nothing was noted */
    assert_int_equal(redo_there(&r, top, "f", NULL, &attr), 0);
    intent.ino = attr.ino;
    assert_true(redo_is_still(&r, top, "f")); /* where no birth is known, the number tells */
    intent.born = pl_birth(attr.btime);
    bool born = intent.born;
    assert_true(redo_is_still(&r, top, "f"));
    assert_false(redo_removed(&r, top, "f"));
    intent.ino++;
    assert_false(redo_is_still(&r, top, "f"));
    intent.ino--;
    attr.btime.tv_nsec++; /* so much as a nanosecond later */
    intent.born = pl_birth(born ? attr.btime : (struct timespec){0});
    assert_int_equal(redo_is_still(&r, top, "f"), !born);
    assert_int_equal(redo_removed(&r, top, "f"), born);
    pl_node_unref(top);
    pl_tree_unref(tree);
    pl_call_done(&call);
    unlink(path);
    rmdir(dir);
    if (!born)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(number_used_anew)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
