/* SPDX-License-Identifier: MIT */
/* Fifos, sockets and devices: made and seen, never opened here. */
#include "conform.h"

#include <unistd.h>

CASE(special, fifo_and_socket)
{
    static const uint32_t type[] = {S_IFIFO, S_IFSOCK};
    for (int i = 0; i < 2; i++) {
        NEED(special, t_make(top, "x", type[i] | 0640));
        struct pl_node *x = look(top, "x");
        struct pl_attr a = attr(x);
        IS(a.mode, type[i] | 0640);
        IS(a.size, 0);
        IS(a.nlink, 1);
        IS(x->fmt, type[i]);
        OK(t_chmod(x, 0600));
        IS(attr(x).mode, type[i] | 0600);
        OK(t_utimens(x, 1, 2));
        IS(t_make(top, "x", type[i] | 0640), -EEXIST);
        IS(t_remove(top, "x", AT_REMOVEDIR), -ENOTDIR);
        rm(top, "x");
        absent(top, "x");
    }
}

CASE(special, devices)
{
    static const struct {
        uint32_t type;
        unsigned major, minor;
    } dev[] = {{S_IFCHR, 1, 3},      {S_IFBLK, 7, 0},          {S_IFCHR, 0, 0},
               {S_IFCHR, 255, 255},  {S_IFBLK, 259, 256},      {S_IFCHR, 4095, 1048575},
               {S_IFBLK, 8, 0xfff0}, {S_IFCHR, 0x800, 0x80000}};
    need_root();
    for (size_t i = 0; i < sizeof(dev) / sizeof(*dev); i++) {
        int r = t_mknod(top, "x", dev[i].type | 0660, dev[i].major, dev[i].minor);
        if (r == -EPERM && i && !dev[i].major && !dev[i].minor)
            continue; /* a whiteout, in a union */
        if (r == -EPERM)
            SKIP(device, "mknod: -EPERM (a user namespace?)");
        NEED(device, r);
        struct pl_attr a = attr(look(top, "x"));
        IS(a.mode, dev[i].type | 0660);
        IS(a.rdev_major, dev[i].major);
        IS(a.rdev_minor, dev[i].minor);
        rm(top, "x");
    }
}

CASE(special, devices_are_not_for_all)
{
    need_root();
    OK(t_chmod(top, 0777));
    AS (USER(65534, 65534)) {
        IS(t_mknod(top, "x", S_IFCHR | 0666, 1, 3), -EPERM);
        IS(t_mknod(top, "x", S_IFBLK | 0666, 7, 0), -EPERM);
        NEED(special, t_make(top, "p", S_IFIFO | 0644));
    }
    absent(top, "x");
    IS(attr(look(top, "p")).uid, 65534);
}

/* An open must neither wait for the other end of a fifo nor touch a device. */
CASE(special, opening_does_not_wait)
{
    NEED(special, t_make(top, "p", S_IFIFO | 0644));
    TRUE(t_open(look(top, "p"), O_RDONLY) < 0);
    TRUE(t_open(look(top, "p"), O_WRONLY) < 0);
    TRUE(t_create(top, "p", O_CREAT | O_RDWR, 0644) < 0);
}

CASE(special, types_that_are_none)
{
    TRUE(t_make(top, "x", 0150000 | 0644) < 0);
    TRUE(t_make(top, "x", S_IFMT | 0644) < 0);
    absent(top, "x");
}
