/* SPDX-License-Identifier: MIT */
#include "conform.h"

static void sane(struct pl_node *n)
{
    struct statfs st;
    memset(&st, 0xee, sizeof(st));
    OK(pl_statfs(tree, me, n, &st));
    TRUE(st.f_bsize > 0 && st.f_bsize <= 1 << 24);
    IS(st.f_namelen, 255);
    TRUE(st.f_blocks > 0);
    TRUE(st.f_bfree <= st.f_blocks);
    TRUE(st.f_bavail <= st.f_bfree);
    TRUE(st.f_ffree <= st.f_files);
}

CASE(statfs, of_every_type)
{
    sane(top);
    sane(mk_file(top, "f"));
    sane(mk_dir(top, "d"));
    sane(mk_symlink(top, "l", "nowhere"));
}

CASE(statfs, the_same_everywhere)
{
    struct statfs a, b;
    OK(pl_statfs(tree, me, top, &a));
    OK(pl_statfs(tree, me, mk_file(mk_dir(top, "d"), "f"), &b));
    IS(a.f_bsize, b.f_bsize);
    IS(a.f_blocks, b.f_blocks);
    IS(a.f_type, b.f_type);
}

CASE(statfs, of_an_unlinked_node)
{
    struct pl_node *f = mk_file(top, "f");
    rm(top, "f");
    sane(f);
}
