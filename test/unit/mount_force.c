/* SPDX-License-Identifier: MIT */
/* Unmounting by force ends one connection, and never the one that gets its number next. */
#include "keeper/mount.h"
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static char dirs[2][64];
static int next_fd = -1;

static int mount_on(const char *dir, int *fd)
{
    struct mount_opts opts;
    mount_opts_init(&opts);
    return mount_fuse(dir, &opts, fd, NULL);
}

/* libc's, and before who called it goes on another makes a mount. */
int umount2(const char *path, int flags)
{
    long r = syscall(SYS_umount2, path, flags);
    if (r == 0 && next_fd < 0)
        assert_int_equal(mount_on(dirs[1], &next_fd), 0);
    return (int)r;
}

static bool is_aborted(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0 && p.revents & POLLERR;
}

static void next_one_lives(void **state)
{
    int fd;
    dev_t dev, next;
    assert_int_equal(mount_on(dirs[0], &fd), 0);
    assert_int_equal(mount_dev(dirs[0], &dev), 0);
    assert_int_equal(mount_end_dev(dirs[0], dev, true, NULL), 0);
    assert_true(is_aborted(fd));
    close(fd);
    assert_true(next_fd >= 0);
    assert_int_equal(mount_dev(dirs[1], &next), 0);
    assert_false(is_aborted(next_fd));
    if (next != dev)
        skip(); /* somebody else was given the number */
}

static int make(void **state)
{
    for (int i = 0; i < 2; i++) {
        snprintf(dirs[i], sizeof(dirs[i]), "/tmp/plenum-force-XXXXXX");
        if (!mkdtemp(dirs[i]))
            return -1;
    }
    return 0;
}

static int clean(void **state)
{
    for (int i = 0; i < 2; i++) {
        syscall(SYS_umount2, dirs[i], MNT_DETACH);
        rmdir(dirs[i]);
    }
    close(next_fd);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(next_one_lives, make, clean)};
    if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
