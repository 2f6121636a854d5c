/* SPDX-License-Identifier: MIT */
/*
 * A key-value store: each key is a document, created, edited and removed like any file, and stored
 * as one file in the directory $KV_DIR (default: kv.d in the working directory; made when needed).
 *
 *     mkdir n && ./kv n
 *     echo red > n/colour
 *     vi n/colour
 *     ls -l n; mv n/colour n/color; rm n/color
 *     plenum umount n             # the next run finds what is there
 *
 * A value is replaced as a whole or not at all: written beside the old one, then renamed over it.
 * All is in that directory, so nothing is lost if the server dies: another finds it there.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/plenum.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int list(const struct pl_made_req *req, int (*add)(void *, const char *name), void *arg)
{
    int r = 0;
    DIR *dir = opendir(req->arg);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    for (struct dirent *ent; r == 0 && (ent = readdir(dir));)
        if (strncmp(ent->d_name, "..", 2) && strcmp(ent->d_name, "."))
            r = add(arg, ent->d_name);
    closedir(dir);
    return r;
}

/* The file of a key; "..new" is taken by what is being written, ".." comes from nobody. */
static int path_of(const struct pl_made_req *req, char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s/%s", (char *)req->arg, req->name);
    return !strncmp(req->name, "..", 2) ? -EINVAL : n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int get(const struct pl_made_req *req, struct pl_text *out)
{
    char path[PATH_MAX], buf[8192];
    int r = path_of(req, path);
    if (r < 0)
        return r == -EINVAL ? -ENOENT : r;
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    for (size_t n; r == 0 && (n = fread(buf, 1, sizeof(buf), f)) > 0;)
        r = pl_text_put(out, buf, n);
    if (r == 0 && ferror(f))
        r = -EIO;
    fclose(f);
    return r;
}

static int put(const struct pl_made_req *req, const char *text, size_t n)
{
    char path[PATH_MAX], new[PATH_MAX];
    int r = path_of(req, path);
    if (r < 0)
        return r;
    if (snprintf(new, sizeof(new), "%s/..newXXXXXX", (char *)req->arg) >= (int)sizeof(new))
        return -ENAMETOOLONG;
    mkdir(req->arg, 0777); /* if it is not there */
    int fd = mkostemp(new, O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        return -errno;
    if (fwrite(text, 1, n, f) < n || fflush(f) || fsync(fd) < 0)
        r = -errno;
    if (fclose(f) && r == 0)
        r = -errno;
    if (r == 0 && rename(new, path) < 0)
        r = -errno;
    if (r < 0)
        unlink(new);
    return r;
}

static int del(const struct pl_made_req *req)
{
    char path[PATH_MAX];
    int r = path_of(req, path);
    if (r < 0)
        return r == -EINVAL ? -ENOENT : r;
    return unlink(path) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
    char dir[PATH_MAX] = "", *env = getenv("KV_DIR");
    if (!env || *env != '/') { /* absolute: a mount's server changes its working directory */
        if (!getcwd(dir, sizeof(dir)))
            perror("kv: working directory");
        strncat(dir, "/", sizeof(dir) - strlen(dir) - 1);
    }
    strncat(dir, env ? env : "kv.d", sizeof(dir) - strlen(dir) - 1);
    struct pl_made *m = pl_made_new();
    pl_made_docs(m, "", &(struct pl_made_store){list, get, put, del, dir});
    return pl_main(argc, argv, pl_made_tree(m));
}
