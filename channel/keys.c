/* SPDX-License-Identifier: MIT */
#include "channel/keys.h"
#include "base/confine.h"
#include "base/limits.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- text ---- */

bool keys_name_ok(const char *name, size_t n)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._-+@:!%";
    if (n == 0 || n > KEYS_NAME || *name == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!name[i] || !strchr(good, name[i]))
            return false;
    return true;
}

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* How many bytes the hexadecimal text is; -1: it is none, or more than `max`. */
static int unhex(const char *text, uint8_t *ret, size_t max)
{
    size_t n = 0;
    for (; *text; n++, text += 2) {
        if (n && *text == ':')
            text++;
        int high = digit(*text), low = high < 0 ? -1 : digit(text[1]);
        if (low < 0 || n == max)
            return -1;
        ret[n] = (uint8_t)(high << 4 | low);
    }
    return (int)n;
}

bool keys_print_parse(const char *text, uint8_t ret[KEYS_PRINT])
{
    if (!strncasecmp(text, "sha256:", 7))
        text += 7;
    return unhex(text, ret, KEYS_PRINT) == KEYS_PRINT;
}

const char *keys_print_text(const uint8_t print[KEYS_PRINT], char ret[KEYS_PRINT_TEXT])
{
    char *at = stpcpy(ret, "sha256:");
    for (int i = 0; i < KEYS_PRINT; i++)
        at += sprintf(at, "%02x", print[i]);
    return ret;
}

/* Cuts the line into at most `max` words: how many; -1: there are more. */
static int words(char *line, char **word, int max)
{
    static const char space[] = " \t\r";
    int n = 0;
    line[strcspn(line, "#")] = 0;
    for (char *rest = line, *w; (w = strtok_r(rest, space, &rest)); n++) {
        if (n == max)
            return -1;
        word[n] = w;
    }
    return n;
}

static bool name_into(char ret[KEYS_NAME + 1], const char *word)
{
    if (!keys_name_ok(word, strlen(word)))
        return false;
    strcpy(ret, word);
    return true;
}

int keys_trust_line(char *line, struct keys_trust *ret)
{
    char *word[2];
    int n = words(line, word, 2);
    if (n == 0)
        return 0;
    return n == 2 && name_into(ret->name, word[0]) && keys_print_parse(word[1], ret->print)
               ? 1
               : -EINVAL;
}

int keys_psk_line(char *line, struct keys_psk *ret)
{
    char *word[3];
    int n = words(line, word, 3);
    if (n == 0)
        return 0;
    if (n != 3 || !name_into(ret->name, word[0]) || !name_into(ret->id, word[1]))
        return -EINVAL;
    int len = unhex(word[2], ret->key, KEYS_PSK_MAX);
    ret->nkey = len < 0 ? 0 : (size_t)len;
    return len >= KEYS_PSK_MIN ? 1 : -EINVAL;
}

/* ---- files ---- */

static int directory(char *ret, struct pl_err *err)
{
    const char *own = getenv("PLENUM_KEYS"), *config = getenv("XDG_CONFIG_HOME"),
               *home = getenv("HOME");
    int n;
    if (own && *own)
        n = snprintf(ret, PATH_MAX, "%s", own);
    else if (geteuid() == 0)
        n = snprintf(ret, PATH_MAX, "/etc/plenum/tls");
    else if (config && *config == '/')
        n = snprintf(ret, PATH_MAX, "%s/plenum/tls", config);
    else if (home && *home == '/')
        n = snprintf(ret, PATH_MAX, "%s/.config/plenum/tls", home);
    else
        return pl_fail(err, -ENOENT,
                       "the keys of tls!: there is no HOME to look for them (set "
                       "PLENUM_KEYS to their directory)");
    return n >= PATH_MAX - 64 ? pl_fail(err, -ENAMETOOLONG, "%.100s...: the path is too long", ret)
                              : n;
}

int keys_path(const char *file, char *ret, struct pl_err *err)
{
    int n = directory(ret, err);
    if (n < 0)
        return n;
    snprintf(ret + n, PATH_MAX - (size_t)n, "/%s", file);
    return 0;
}

void keys_needed(void)
{
    char path[PATH_MAX];
    if (directory(path, NULL) > 0)
        confine_path(path, CONFINE_READ);
}

/* Whether what is open is ours alone. */
static int proper(const char *path, int fd, bool secret, struct stat *st, struct pl_err *err)
{
    if (fstat(fd, st) < 0)
        return pl_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st->st_mode))
        return pl_fail(err, -EINVAL, "%s: not a regular file", path);
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return pl_fail(err, -EACCES, "%s: belongs to uid %u (it must belong to us: chown it)", path,
                       st->st_uid);
    if (secret && (st->st_mode & 077))
        return pl_fail(err, -EACCES,
                       "%s: others may read it (chmod 600 it; if somebody has, make "
                       "a new one)",
                       path);
    if (st->st_mode & 022)
        return pl_fail(err, -EACCES, "%s: others may write to it (look at it, and chmod 600 it)",
                       path);
    if (st->st_size > LIMIT_KEY_FILE)
        return pl_fail(err, -EFBIG, "%s: longer than %d bytes", path, LIMIT_KEY_FILE);
    return 0;
}

static ssize_t read_all(int fd, char *buf, size_t n)
{
    size_t have = 0;
    while (have < n) {
        ssize_t r = read(fd, buf + have, n - have);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        have += (size_t)r;
    }
    return (ssize_t)have;
}

int keys_read(const char *file, bool secret, char **ret, struct pl_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    int r = keys_path(file, path, err);
    if (r < 0)
        return r;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : pl_fail(err, -errno, "%s: %s", path, strerror(errno));
    r = proper(path, fd, secret, &st, err);
    char *buf = r == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    if (r == 0 && !buf)
        r = pl_fail(err, -ENOMEM, "out of memory");
    if (r == 0) {
        r = (int)read_all(fd, buf, (size_t)st.st_size);
        if (r < 0)
            pl_fail(err, r, "%s: %s", path, strerror(-r));
        else
            buf[r] = 0;
    }
    close(fd);
    if (r < 0)
        free(buf);
    else
        *ret = buf;
    return r;
}

/* Makes the directories that are missing on the way to it. */
static int make_way(char *path, struct pl_err *err)
{
    for (char *at = path + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        bool last = !strchr(at + 1, '/');
        int r = mkdir(path, last ? 0700 : 0755) < 0 && errno != EEXIST ? -errno : 0;
        if (r < 0)
            pl_fail(err, r, "%s: cannot make the directory: %s", path, strerror(-r));
        *at = '/';
        if (r < 0)
            return r;
    }
    return 0;
}

static int fill(int fd, const char *text, size_t n)
{
    while (n) {
        ssize_t w = write(fd, text, n);
        if (w < 0 && errno != EINTR)
            return -errno;
        if (w > 0)
            text += w, n -= (size_t)w;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

int keys_write(const char *file, const char *text, size_t n, struct pl_err *err)
{
    char path[PATH_MAX], temp[PATH_MAX + 16];
    int r = keys_path(file, path, err);
    if (r == 0)
        r = make_way(path, err);
    if (r < 0)
        return r;
    snprintf(temp, sizeof(temp), "%s.XXXXXX", path);
    int fd = mkostemp(temp, O_CLOEXEC); /* mode 0600 */
    if (fd < 0)
        return pl_fail(err, -errno, "%s: cannot write there: %s", path, strerror(errno));
    r = fill(fd, text, n);
    close(fd);
    if (r == 0 && rename(temp, path) < 0)
        r = -errno;
    if (r < 0)
        unlink(temp);
    return r < 0 ? pl_fail(err, r, "%s: cannot write it: %s", path, strerror(-r)) : 0;
}

int keys_lock(struct pl_err *err)
{
    char path[PATH_MAX];
    int r = keys_path(".lock", path, err);
    if (r == 0)
        r = make_way(path, err);
    if (r < 0)
        return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        r = pl_fail(err, -errno, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    return fd;
}

/* ---- lists ---- */

static int load(const char *file, bool secret, size_t size, int (*parse)(char *line, void *entry),
                void **ret, size_t *ret_n, struct pl_err *err)
{
    char *text, *entries = NULL;
    size_t n = 0, number = 0;
    int r = keys_read(file, secret, &text, err);
    *ret = NULL;
    *ret_n = 0;
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = 0;
    for (char *rest = text, *line; r >= 0 && (line = strsep(&rest, "\n"));) {
        char path[PATH_MAX];
        number++;
        char *more = n % 64 ? entries : reallocarray(entries, n + 64, size);
        if (!more) {
            r = pl_fail(err, -ENOMEM, "out of memory");
            break;
        }
        entries = more;
        r = parse(line, entries + n * size);
        n += r > 0;
        if (r < 0 && keys_path(file, path, err) == 0)
            pl_fail(err, r, "%s: line %zu makes no sense (see plenum key --help)", path, number);
    }
    if (secret)
        explicit_bzero(text, strlen(text));
    free(text);
    if (r < 0) {
        free(entries);
        return r;
    }
    *ret = entries;
    *ret_n = n;
    return 0;
}

static int trust_entry(char *line, void *entry)
{
    return keys_trust_line(line, entry);
}

static int psk_entry(char *line, void *entry)
{
    return keys_psk_line(line, entry);
}

int keys_trusted(struct keys_trust **ret, size_t *ret_n, struct pl_err *err)
{
    return load("trusted", false, sizeof(**ret), trust_entry, (void **)ret, ret_n, err);
}

int keys_psks(struct keys_psk **ret, size_t *ret_n, struct pl_err *err)
{
    return load("psk", true, sizeof(**ret), psk_entry, (void **)ret, ret_n, err);
}
