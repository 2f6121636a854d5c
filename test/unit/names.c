/* SPDX-License-Identifier: MIT */
/* A directory's table under random additions and removals, against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/names.h"
#include <stdio.h>
#include <stdlib.h>

enum { N = 500 };

static void test_random(void **state)
{
    struct names t = {0};
    uint64_t pos[N] = {0}, last = 0; /* 0: not there */
    size_t live = 0;
    srand(7);
    for (int step = 0; step < 20000; step++) {
        char text[16];
        int i = rand() % N;
        snprintf(text, sizeof(text), "%d", i);
        struct name *name = names_find(&t, text);
        assert_int_equal(name != NULL, pos[i] != 0);
        if (name) {
            assert_ptr_equal(name->value, &pos[i]);
            names_del(&t, name);
            pos[i] = 0;
            live--;
        } else if (step / 2000 % 2 == 0) { /* phases of growth and of decay */
            name = names_add(&t, text, &pos[i]);
            assert_true(name->pos > last); /* never used twice */
            last = pos[i] = name->pos;
            live++;
        }
        assert_int_equal(names_count(&t), live);
        if (step % 50 == 0) {
            size_t met = 0;
            uint64_t at = 0;
            for (; (name = names_from(&t, at)); at = name->pos + 1, met++) {
                assert_true(name->pos >= at);
                assert_int_equal(*(uint64_t *)name->value, name->pos);
            }
            assert_int_equal(met, live);
        }
    }
    for (struct name *name; (name = names_from(&t, 0));)
        names_del(&t, name);
    assert_int_equal(names_count(&t), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
