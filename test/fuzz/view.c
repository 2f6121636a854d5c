/* SPDX-License-Identifier: MIT */
/* A view's text form and its packed form. The first byte chooses. */
#include "view/pack.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const paths[] = {"/",        "/a",       "/a/b",  "/a/b/c",    "/a/bb",
                                    "/b/c/d/e", "/z/.../x", "/aa/x", "/usr/share"};
enum { NPATHS = sizeof(paths) / sizeof(*paths) };

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void look(const struct view_pack *pack)
{
    struct view_found found;
    size_t bytes = view_pack_options(pack);
    for (uint32_t i = 0; view_pack_top(pack, i); i++)
        if (view_pack_find(pack, view_pack_top(pack, i), &found))
            bytes += found.n;
    for (size_t i = 0; i < NPATHS; i++)
        if (view_pack_find(pack, paths[i], &found)) {
            check(found.n >= 1 && found.n <= PL_SPACE_STACK && found.dirs[0] == paths[i]);
            for (uint32_t k = 0; k < found.n; k++)
                bytes += strlen(found.dirs[k]) + strlen(found.rest[k]);
        }
    check(bytes < SIZE_MAX);
}

/* What is packed says the same as what it was packed from. */
static void same(const struct view *view, const struct view_pack *pack, const char *path)
{
    struct view_found found;
    struct pl_binding *b;
    size_t n;
    bool in = view_pack_find(pack, path, &found);
    check(in == (view_outermost(view, path) != NULL));
    if ((in && found.flags & VIEW_PACK_ASK) || view_bindings(view, path, NULL, &b, &n) < 0)
        return;
    size_t here = 0;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(b[i].path, "/")) {
            char whole[2 * VIEW_PATH];
            if (in && strlen(found.dirs[here]) + strlen(found.rest[here]) < sizeof(whole)) {
                strcat(strcpy(whole, found.dirs[here]), found.rest[here]);
                check(!strcmp(b[i].sub, whole));
            }
            here++;
        }
    check(here == (in ? found.n : 1));
    free(b);
}

static void text(const uint8_t *data, size_t size)
{
    struct view *empty, *view, *again;
    struct pl_err err;
    size_t n;
    char **words = view_split((const char *)data, size, &n);
    check(words && view_new(&empty) == 0);
    int r =
        view_change(empty, "/home/user", (const char *const *)words, n, NULL, NULL, &view, &err);
    free(words);
    if (r < 0) {
        check(*err.text);
        view_unref(empty);
        return;
    }
    char *one = view_text(view);
    words = view_split(one, strlen(one), &n);
    check(view_change(empty, "/", (const char *const *)words, n, NULL, NULL, &again, &err) == 0);
    char *two = view_text(again);
    check(!strcmp(one, two));
    void *mem;
    size_t packed;
    struct view_pack pack;
    check(view_pack(view, NULL, 0, &mem, &packed) == 0 && view_pack_open(mem, packed, &pack) == 0);
    look(&pack);
    for (size_t i = 0; i < NPATHS; i++)
        same(view, &pack, paths[i]);
    for (size_t i = 0; i < view->ntops; i++)
        same(view, &pack, view->tops[i].path);
    free(mem);
    free(one);
    free(two);
    free(words);
    view_unref(empty);
    view_unref(view);
    view_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view_pack pack;
    if (!size || size > 65536)
        return 0;
    if (*data % 2) {
        text(data + 1, size - 1);
        return 0;
    }
    void *mem = malloc(size);
    memcpy(mem, data + 1, size - 1);
    if (view_pack_open(mem, size - 1, &pack) == 0)
        look(&pack);
    free(mem);
    return 0;
}
