/* SPDX-License-Identifier: MIT */
/* The table of a view: words in, words out; chains; bindings; the packed form. */
#include "view/pack.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What `text`'s words make of `from` (NULL: of the empty view), or the error. */
static int change(struct view *from, const char *text, struct view **ret, struct pl_err *err)
{
    struct view *empty;
    size_t n;
    char **words = view_split(text, strlen(text), &n);
    assert_non_null(words);
    assert_int_equal(view_new(&empty), 0);
    int r = view_change(from ? from : empty, "/home/u", (const char *const *)words, n, NULL, NULL,
                        ret, err);
    free(words);
    view_unref(empty);
    return r;
}

static struct view *made(const char *text)
{
    struct view *view;
    struct pl_err err = {0};
    if (change(NULL, text, &view, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return view;
}

static void assert_text(const struct view *view, const char *want)
{
    char *text = view_text(view);
    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static void assert_becomes(const char *text, const char *want)
{
    struct view *view = made(text);
    assert_text(view, want);
    view_unref(view);
}

static void assert_wrong(const char *text, int code, const char *sentence)
{
    struct view *view;
    struct pl_err err = {0};
    assert_int_equal(change(NULL, text, &view, &err), code);
    if (!strstr(err.text, sentence))
        fail_msg("%s: \"%s\" is not in \"%s\"", text, sentence, err.text);
}

/* ---- words ---- */

static void pairs(void **state)
{
    assert_becomes("", "");
    assert_becomes("/a /b", "/a /b");
    assert_becomes("/a /b /b /c", "/a /b /b /c");
    assert_becomes("a ../v//b/./", "/home/u/a /home/v/b");
    assert_becomes("/a /b /c /d /a /e", "/a /e /c /d");
    assert_becomes("/a /b /c /d /a -", "/c /d");
    assert_becomes("/a /b - /#option/debug=3 - -", "");
    assert_becomes("- /#option/debug=5 - /#option/trace - /#option/del=classic",
                   "- /#option/debug=5 - /#option/trace - /#option/del=classic");
    assert_becomes("- /#option/trace - /#option/notrace - /#option/debug=0", "");
}

static void services(void **state)
{
    static const char rpl[] = "/dev/tcp/share/rpl/user "
                              "/#fs/rpl/monitor/regular/write/call=open,close,write/ack=write";
    char text[400];
    snprintf(text, sizeof(text), "%s d1 /#rpl d2 /#rpl", rpl);
    struct view *view = made(text);
    snprintf(text, sizeof(text), "%s /home/u/d1 /#rpl /home/u/d2 /#rpl", rpl);
    assert_text(view, text);
    const struct view_service *s = view_service_at(view, "/home/u/d1/x", 0);
    assert_non_null(s);
    assert_string_equal(s->attrs, "monitor/regular/write/call=open,close,write/ack=write");
    assert_true(s->on);
    assert_null(view_service_at(view, "/home/u/d1/x", 1));
    assert_null(view_service_at(view, "/home/u/d10", 0));
    struct view *off, *gone;
    assert_int_equal(change(view, "- /#fs/rpl/off", &off, NULL), 0);
    assert_false(off->services[0].on);
    assert_true(view->services[0].on); /* what was made stays as it is */
    assert_int_equal(change(off, "- /#fs/rpl/-", &gone, NULL), 0);
    assert_text(gone, "");
    view_unref(view);
    view_unref(off);
    view_unref(gone);
    assert_becomes("- /#fs/w//off", "- /#fs/w//off");
    assert_becomes("- /#fs/w/match=*.c", "- /#escaped - /#fs/w/match=%2A.c");
}

static void versions(void **state)
{
    struct view *view = made("- /#vmap/2,1 lib /#vmap/3 /p/lib /#vmap/4,5");
    assert_text(view, "- /#vmap/2,1 lib /#vmap/3 /p/lib /#vmap/4,5");
    assert_string_equal(view_versions(view, "/p/lib", 0), "4,5");
    assert_string_equal(view_versions(view, "/p/lib", 1), "3");
    assert_string_equal(view_versions(view, "/p/lib", 2), "2,1");
    assert_null(view_versions(view, "/p/lib", 3));
    assert_string_equal(view_versions(view, "/q/x", 0), "2,1");
    view_unref(view);
    assert_becomes("- /#vmap/2 lib /#vmap/3 lib /#vmap", "- /#vmap/2");
}

static void wrong_words(void **state)
{
    assert_wrong("/a", -EINVAL, "/a: what goes with it?");
    assert_wrong("/a /b /b /a", -ELOOP, "over itself");
    assert_wrong("/a /b /b /c /c /a", -ELOOP, "/a: would be over itself, by way of /c");
    assert_wrong("/a /a", -ELOOP, "/a: cannot be over itself");
    assert_wrong("/a/.../b /c", -EINVAL, "lower view");
    assert_wrong("- /#option/debg=1", -EINVAL, "/#option/debg=1: no such option (debug=0");
    assert_wrong("- /#option/debug=11", -EINVAL, "no such option");
    assert_wrong("/a /#option/trace", -EINVAL, "whole view");
    assert_wrong("/a /#nil", -EINVAL, "/#nil: no such service (define it");
    assert_wrong("- /#fs/nil/on", -ENOENT, "/#fs/nil: no such service");
    assert_wrong("x /#fs/a/monitr", -EINVAL, "/#fs/a: monitr: no such attribute");
    assert_wrong("x /#fs/a/call=", -EINVAL, "no such call");
    assert_wrong("x /#fs/../on", -EINVAL, "not a name");
    assert_wrong("//#x /a", -EINVAL, "no path begins with /#");
    assert_wrong("/a -", -ENOENT, "/a: is over nothing");
    assert_wrong("- /a", -EINVAL, "which directory");
    assert_wrong("/#option/trace -", -EINVAL, "stands second");
    assert_wrong("- /#vmap/1,,2", -EINVAL, "not a list of versions");
    assert_wrong("- /#escaped /a%2 /b", -EINVAL, "two digits");
    assert_wrong("- /#escaped /a%00 /b", -EINVAL, "two digits");
}

/* /f is a file, /l a link to /real; nothing is at or in /none. */
static int look(void *arg, char path[VIEW_PATH])
{
    if (!strcmp(path, "/l"))
        strcpy(path, "/real");
    return !strcmp(path, "/f") ? -ENOTDIR : !strncmp(path, "/none", 5) ? -ENOENT : 0;
}

static void what_is_there(void **state)
{
    static const struct {
        const char *a, *b, *c, *d;
        int r;
        const char *text;
    } cases[] = {
        {"f", "/b", "/", "/b", -ENOTDIR, "/f: is not a directory"},
        {"/b", "f", "/", "/b", -ENOTDIR, "/f: is not a directory"},
        {"/a", "/none", "/x", "/y", -ENOENT, "/none: no such directory (/a would be over nothing)"},
        {"/none", "/a", "/b", "/none/in", 0, "/none /a /b /none/in"},
        {"/a", "/none", "/none", "/b", 0, "/a /none /none /b"},
        {"l", "/b", "/b", "/l", -ELOOP, "would be over itself, by way of /real"},
        {"l", "/b", "/c", "/l", 0, "/real /b /c /real"},
        {"l", "/b", "l", "-", 0, ""},
        {"/real", "/b", "l", "-", 0, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *words[] = {cases[i].a, cases[i].b, cases[i].c, cases[i].d};
        struct view *empty, *view;
        struct pl_err err = {0};
        assert_int_equal(view_new(&empty), 0);
        assert_int_equal(view_change(empty, "/", words, 4, look, NULL, &view, &err), cases[i].r);
        if (cases[i].r < 0) {
            if (!strstr(err.text, cases[i].text))
                fail_msg("%s: %s", cases[i].text, err.text);
        } else {
            assert_text(view, cases[i].text);
            view_unref(view);
        }
        view_unref(empty);
    }
}

/* What was there once may go: other changes are made all the same. */
static void what_has_gone(void **state)
{
    struct view *had = made("/a /none"), *view;
    const char *words[] = {"/b", "/c"};
    assert_int_equal(view_change(had, "/", words, 2, look, NULL, &view, NULL), 0);
    assert_text(view, "/a /none /b /c");
    view_unref(view);
    view_unref(had);
}

/* A limit is met, and what is one less is taken. */
static void limits(void **state)
{
    char text[VIEW_CHAIN * 16] = "", more[VIEW_CHAIN * 16 + 16];
    for (int i = 0; i < VIEW_CHAIN - 1; i++)
        sprintf(text + strlen(text), "/d%d /d%d ", i, i + 1);
    struct view *view = made(text);
    assert_int_equal(view->tops[0].n, VIEW_CHAIN);
    view_unref(view);
    snprintf(more, sizeof(more), "%s/d%d /last", text, VIEW_CHAIN - 1);
    assert_wrong(more, -E2BIG, "more than 16 directories");

    char many[(VIEW_PAIRS + 1) * 16] = "";
    for (int i = 0; i < VIEW_PAIRS; i++)
        sprintf(many + strlen(many), "/t%d /x ", i);
    view_unref(made(many));
    strcat(many, "/y /z");
    assert_wrong(many, -E2BIG, "more than 1024 pairs");

    char nested[4096] = "", dir[128] = "";
    for (int i = 0; i < PL_SPACE_STACK; i++) {
        strcat(dir, "/n");
        sprintf(nested + strlen(nested), "%s /l%d ", dir, i);
    }
    assert_wrong(nested, -E2BIG, "with what it lies in");
    *strstr(nested, "/n/n/n ") = 0;
    view_unref(made(nested));
}

/* Any bytes come back, by words that no shell changes. */
static void odd_names(void **state)
{
    const char *words[] = {"/a b'\"$(x)*?[~]{,}!\n\t%41\xff", "/#x", "=y", "/z#"};
    struct view *empty, *view, *again;
    assert_int_equal(view_new(&empty), 0);
    assert_int_equal(
        view_change(empty, "/", (const char *[]){"-", "/#fs/x"}, 2, NULL, NULL, &view, NULL), 0);
    assert_int_equal(view_change(view, "/", words, 4, NULL, NULL, &again, NULL), 0);
    char *text = view_text(again);
    assert_int_equal(strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF/#=%-. x,"),
                     strlen(text));
    assert_int_equal(strncmp(text, "- /#escaped ", 12), 0);
    struct view *third = made(text);
    size_t n;
    char **back = view_words(third, &n);
    assert_int_equal(n, 6);
    assert_string_equal(back[4], words[0]);
    assert_string_equal(back[2], "/=y");
    free(back);
    free(text);
    view_unref(empty);
    view_unref(view);
    view_unref(again);
    view_unref(third);
}

/* ---- what they come to ---- */

static void assert_dirs(const struct view *view, const char *top, const char *want)
{
    const struct view_top *t = view_outermost(view, top);
    for (size_t i = 0; i < view->ntops; i++)
        if (!strcmp(view->tops[i].path, top))
            t = &view->tops[i];
    char got[1000] = "";
    for (size_t i = 0; t && i < t->n; i++)
        sprintf(got + strlen(got), "%s%s", i ? " " : "", t->dirs[i]);
    assert_string_equal(got, want);
}

static void chains(void **state)
{
    struct view *view = made("/a /b /b /c /p /q /x /p/s/t");
    assert_dirs(view, "/a", "/a /b /c");
    assert_dirs(view, "/b", "/b /c");
    assert_dirs(view, "/x", "/x /p/s/t /q/s/t"); /* a lower one in a directory over another */
    view_unref(view);
    view = made("/a/sub /a / /low");
    assert_dirs(view, "/a/sub", "/a/sub /a /low/a");
    assert_string_equal(view_outermost(view, "/a/sub/x")->path, "/");
    view_unref(view);
    view = made("/a /a/low");
    assert_dirs(view, "/a", "/a /a/low");
    view_unref(view);
    view = made("/a /b /a/n /c");
    assert_string_equal(view_outermost(view, "/a/n/x")->path, "/a");
    assert_null(view_outermost(view, "/ab"));
    view_unref(view);
}

static void assert_bindings(const struct view *view, const char *base, const char *want)
{
    struct pl_binding *b;
    size_t n;
    char got[1000] = "";
    assert_int_equal(view_bindings(view, base, NULL, &b, &n), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(b[i].how, i ? PL_BIND_AFTER : PL_BIND_REPLACE | PL_BIND_CREATE);
        sprintf(got + strlen(got), "%s%s=%s", i ? " " : "", b[i].path, b[i].sub);
    }
    assert_string_equal(got, want);
    free(b);
}

static void bindings(void **state)
{
    struct view *view = made("/a /b /b /c /a/n /m /z /y");
    assert_bindings(view, "/", "/=/ /a=/b /a=/c /a/n=/m /b=/c /z=/y");
    assert_bindings(view, "/a", "/=/a /=/b /=/c /n=/m");
    assert_bindings(view, "/a/n", "/=/a/n /=/b/n /=/c/n /=/m");
    assert_bindings(view, "/other", "/=/other");
    view_unref(view);
    view = made("/ /low");
    assert_bindings(view, "/", "/=/ /=/low");
    assert_bindings(view, "/e", "/=/e /=/low/e");
    view_unref(view);
}

/* ---- packed ---- */

static void assert_found(const struct view_pack *pack, const char *path, const char *want)
{
    struct view_found found;
    char got[1000] = "";
    if (view_pack_find(pack, path, &found))
        for (uint32_t i = 0; i < found.n; i++)
            sprintf(got + strlen(got), "%s%s%s", i ? " " : "", found.dirs[i], found.rest[i]);
    assert_string_equal(got, want);
}

static void packed(void **state)
{
    struct view *view = made("- /#option/debug=7 - /#option/trace /pre/a /b /b /c /pre/a/n /m "
                             "- /#fs/s /pre/w /#s");
    const char *foreign[] = {"/pre/bound"};
    struct view_found found;
    struct view_pack pack;
    size_t size;
    void *mem;
    assert_int_equal(view_pack(view, foreign, 1, &mem, &size), 0);
    assert_int_equal(view_pack_open(mem, size, &pack), 0);
    assert_int_equal(view_pack_options(&pack), VIEW_PACK_TRACE | 7 << VIEW_PACK_DEBUG);
    assert_found(&pack, "/pre/a", "/pre/a /b /c");
    assert_found(&pack, "/pre/a/x/y", "/pre/a/x/y /b/x/y /c/x/y");
    assert_found(&pack, "/pre/a/n/y", "/pre/a/n/y /b/n/y /c/n/y /m/y");
    assert_found(&pack, "/pre/ab", "");
    assert_found(&pack, "/pre", "");
    assert_found(&pack, "/", "");
    assert_found(&pack, "/b", "/b /c");
    assert_true(view_pack_find(&pack, "/pre/bound/x", &found) && found.flags == VIEW_PACK_ASK);
    assert_true(view_pack_find(&pack, "/pre/w", &found) && found.flags == VIEW_PACK_ASK);
    assert_true(view_pack_find(&pack, "/pre/a/x", &found) && found.flags == 0);
    /* Any byte less, or any number past the end, is found out. */
    assert_int_equal(view_pack_open(mem, size - 4, &pack), -EINVAL);
    for (size_t i = 0; i < 7; i++) {
        uint32_t *w = (uint32_t *)mem + i, was = *w;
        *w = i == 3 ? was : was + 0x10000000;
        assert_int_equal(view_pack_open(mem, size, &pack), i == 3 ? 0 : -EINVAL);
        *w = was;
    }
    free(mem);
    view_unref(view);
    view = made("/ /low");
    assert_int_equal(view_pack(view, NULL, 0, &mem, &size), 0);
    assert_int_equal(view_pack_open(mem, size, &pack), 0);
    assert_found(&pack, "/", "/ /low");
    assert_found(&pack, "/e/f", "/e/f /low/e/f");
    free(mem);
    view_unref(view);
}

static void packed_empty(void **state)
{
    struct view *view = made("");
    struct view_pack pack;
    size_t size;
    void *mem;
    assert_int_equal(view_pack(view, NULL, 0, &mem, &size), 0);
    assert_int_equal(view_pack_open(mem, size, &pack), 0);
    assert_found(&pack, "/a", "");
    assert_null(view_pack_top(&pack, 0));
    free(mem);
    view_unref(view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs),        cmocka_unit_test(services),
        cmocka_unit_test(versions),     cmocka_unit_test(wrong_words),
        cmocka_unit_test(limits),       cmocka_unit_test(what_is_there),
        cmocka_unit_test(odd_names),    cmocka_unit_test(chains),
        cmocka_unit_test(bindings),     cmocka_unit_test(packed),
        cmocka_unit_test(packed_empty), cmocka_unit_test(what_has_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
