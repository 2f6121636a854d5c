/* SPDX-License-Identifier: MIT */
/*
 * Making mounts: with fsopen and friends (FUSE knows them since Linux 5.5, and openat2, without
 * which nothing here works, is younger), or through fusermount3 for users who may not.
 */
#include "keeper/mount.h"
#include "keeper/fusermount.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define SOURCE_MAX 255 /* of fsconfig strings */

void mount_opts_init(struct mount_opts *opts)
{
    *opts = (struct mount_opts){
        .nosuid = true, .nodev = true, .allow_other = geteuid() == 0, .default_permissions = true};
}

/* The source as the kernel takes it: cut, but not within a character. */
static void source_of(const struct mount_opts *opts, char ret[SOURCE_MAX + 1])
{
    const char *s = opts->source && *opts->source ? opts->source : "plenum";
    size_t n = strnlen(s, SOURCE_MAX + 1);
    if (n > SOURCE_MAX)
        for (n = SOURCE_MAX; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80; n--)
            ;
    memcpy(ret, s, n);
    ret[n] = 0;
}

static int open_device(struct pl_err *err)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int rc = -errno;
    if (rc == -ENOENT || rc == -ENODEV || rc == -ENXIO)
        return pl_fail(err, -ENODEV,
                       "/dev/fuse: there is none (load the fuse module: modprobe fuse; a container "
                       "needs --device /dev/fuse)");
    if (rc == -EACCES)
        return pl_fail(err, rc, FUSE_DENIED);
    return pl_fail(err, rc, "/dev/fuse: cannot open it: %s", strerror(-rc));
}

static int set(int fs, const char *key, const char *value)
{
    unsigned cmd = value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
    return fsconfig(fs, cmd, key, value, 0) < 0 ? -errno : 0;
}

static int setnum(int fs, const char *key, unsigned value)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", value);
    return set(fs, key, text);
}

static int configure(int fs, int fd, const struct mount_opts *o)
{
    char source[SOURCE_MAX + 1];
    int rc;
    source_of(o, source);
    if ((rc = set(fs, "source", source)) < 0 || (rc = set(fs, "subtype", "plenum")) < 0 ||
        (rc = setnum(fs, "fd", (unsigned)fd)) < 0 || (rc = set(fs, "rootmode", "40000")) < 0 ||
        (rc = setnum(fs, "user_id", geteuid())) < 0 || (rc = setnum(fs, "group_id", getegid())) < 0)
        return rc;
    if ((o->allow_other && (rc = set(fs, "allow_other", NULL)) < 0) ||
        (o->default_permissions && (rc = set(fs, "default_permissions", NULL)) < 0) ||
        (o->ro && (rc = set(fs, "ro", NULL)) < 0))
        return rc;
    return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

static int mount_direct(const char *dir, int fd, const struct mount_opts *o)
{
    unsigned attr = (o->ro ? MOUNT_ATTR_RDONLY : 0u) | (o->nosuid ? MOUNT_ATTR_NOSUID : 0u) |
                    (o->nodev ? MOUNT_ATTR_NODEV : 0u) | (o->noexec ? MOUNT_ATTR_NOEXEC : 0u) |
                    (o->noatime ? MOUNT_ATTR_NOATIME : 0u);
    int fs = fsopen("fuse", FSOPEN_CLOEXEC), mnt = -1;
    if (fs < 0)
        return -errno;
    int rc = configure(fs, fd, o);
    if (rc == 0 && (mnt = fsmount(fs, FSMOUNT_CLOEXEC, attr)) < 0)
        rc = -errno;
    if (rc == 0 && move_mount(mnt, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        rc = -errno;
    if (mnt >= 0)
        close(mnt);
    close(fs);
    return rc;
}

/* fusermount3's -o: in fsname, commas and backslashes are its own. */
static void options(char *ret, size_t size, const struct mount_opts *o)
{
    char source[SOURCE_MAX + 1], escaped[2 * SOURCE_MAX + 1], *e = escaped;
    source_of(o, source);
    for (const char *s = source; *s; s++) {
        if (*s == ',' || *s == '\\')
            *e++ = '\\';
        *e++ = *s;
    }
    *e = 0;
    snprintf(ret, size, "%s%s%s%s%s%s%s,subtype=plenum,fsname=%s", o->ro ? "ro" : "rw",
             o->nosuid ? ",nosuid" : ",suid", o->nodev ? ",nodev" : ",dev",
             o->noexec ? ",noexec" : "", o->noatime ? ",noatime" : "",
             o->allow_other ? ",allow_other" : "",
             o->default_permissions ? ",default_permissions" : "", escaped);
}

int mount_fuse(const char *dir, const struct mount_opts *o, int *ret_fd, struct pl_err *err)
{
    struct pl_err why = {0};
    int fd = open_device(&why), rc = fd;
    if (fd >= 0) {
        rc = mount_direct(dir, fd, o);
        if (rc == 0) {
            *ret_fd = fd;
            return 0;
        }
        close(fd);
        pl_fail(&why, rc, "%s: cannot mount on it: %s", dir, strerror(-rc));
    }
    if (geteuid() != 0 && (rc == -EPERM || rc == -EACCES)) {
        char text[1024];
        options(text, sizeof(text), o);
        return fusermount_mount(dir, text, ret_fd, err);
    }
    if (rc == -ENODEV && fd >= 0)
        return pl_fail(err, rc, "%s: the kernel has no FUSE (load the module: modprobe fuse)", dir);
    if (rc == -EPERM || (rc == -EACCES && fd >= 0))
        return pl_fail(
            err, rc,
            "%s: not permitted to mount (root here lacks CAP_SYS_ADMIN or /dev/fuse: a "
            "container needs --cap-add SYS_ADMIN --device /dev/fuse, or try unshare -Urm)",
            dir);
    return pl_fail(err, rc, "%s", why.text);
}
