/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include <plenum/error.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void escape(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"\033[2J", "\\033[2J"},
        {"a\nb\tc\x7f", "a\\012b\\011c\\177"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"bad\xff", "bad\\377"},
        {"\xc2\x9b", "\\302\\233"},          /* C1: CSI */
        {"\xe2\x80\xae", "\\342\\200\\256"}, /* right-to-left override */
        {"\xc0\xaf", "\\300\\257"},          /* overlong */
        {"\xed\xa0\x80", "\\355\\240\\200"}, /* surrogate */
        {"\xf0\x9f\x99\x82", "\xf0\x9f\x99\x82"},
        {"cut\xe2\x80", "cut\\342\\200"},
    };
    char buf[64];
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(text_escape(buf, sizeof(buf), cases[i].in, 64), cases[i].out);
    /* cut, whole characters only, always terminated */
    assert_string_equal(text_escape(buf, 4, "abcdef", 6), "abc");
    assert_string_equal(text_escape(buf, 6, "ab\n\n", 4), "ab");
    assert_string_equal(text_escape(buf, 3, "a\xc3\xbc", 3), "a");
    assert_string_equal(text_escape(buf, 64, "abc\0def", 7), "abc");
}

static void durations(void **state)
{
    assert_int_equal(text_duration("20ms"), 20000000);
    assert_int_equal(text_duration("1.5s"), 1500000000);
    assert_int_equal(text_duration("3"), 3000000000);
    assert_int_equal(text_duration("2m"), 120000000000);
    assert_int_equal(text_duration(""), -1);
    assert_int_equal(text_duration("-1s"), -1);
    assert_int_equal(text_duration("5 apples"), -1);
    assert_int_equal(text_duration("1e99"), -1);
}

static void times(void **state)
{
    char buf[24];
    assert_string_equal(text_time(buf, 86400000000000), "1d");
    assert_string_equal(text_time(buf, 600000000000), "10m");
    assert_string_equal(text_time(buf, 5400000000000), "1.5h");
    assert_string_equal(text_time(buf, 1500000000), "1.5s");
    assert_string_equal(text_time(buf, 20000000), "20ms");
    assert_string_equal(text_time(buf, 0), "0ms");
    assert_int_equal(text_duration("1d"), 86400000000000);
}

static void sizes(void **state)
{
    char buf[16];
    assert_int_equal(text_size("64k"), 65536);
    assert_int_equal(text_size("2GiB"), 2147483648);
    assert_int_equal(text_size("7"), 7);
    assert_int_equal(text_size("0"), 0);
    assert_int_equal(text_size("9999999999999999999999"), -1);
    assert_int_equal(text_size("8388608T"), -1);
    assert_int_equal(text_size("x"), -1);
    assert_int_equal(text_size("1kx"), -1);
    assert_string_equal(text_bytes(buf, 1536), "1.5 KiB");
    assert_string_equal(text_bytes(buf, 17), "17 B");
    assert_string_equal(text_bytes(buf, UINT64_MAX), "16 EiB");
}

static void failures(void **state)
{
    struct pl_err err;
    assert_int_equal(pl_fail(&err, -2, "%s: no such thing", "\033]0;x\a"), -2);
    assert_int_equal(err.code, -2);
    assert_string_equal(err.text, "\\033]0;x\\007: no such thing");
    assert_int_equal(pl_fail(NULL, -5, "x"), -5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escape), cmocka_unit_test(durations), cmocka_unit_test(times),
        cmocka_unit_test(sizes),  cmocka_unit_test(failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
