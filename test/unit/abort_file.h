/* SPDX-License-Identifier: MIT */
#ifndef UNIT_ABORT_FILE_H
#define UNIT_ABORT_FILE_H

#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <unistd.h>

/* The file that aborts the connection of device `dev`, from a mount of fusectl that nobody sees. */
static inline int abort_file(dev_t dev)
{
    char name[64];
    int fs = fsopen("fusectl", FSOPEN_CLOEXEC);
    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    int ctl = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    close(fs);
    snprintf(name, sizeof(name), "%u/abort", minor(dev));
    int fd = openat(ctl, name, O_WRONLY | O_CLOEXEC);
    close(ctl);
    return fd;
}

#endif
