/* SPDX-License-Identifier: MIT */
#include "cmd/util.h"
#include "base/futex.h"
#include "base/text.h"
#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits (insert, delete, replace, swap neighbours) that turn a into b; words up to 32 bytes. */
static size_t distance(const char *a, const char *b)
{
    size_t d[33][33], n = strlen(a), m = strlen(b);
    if (n > 32 || m > 32)
        return SIZE_MAX;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            size_t differ = a[i - 1] != b[j - 1];
            d[i][j] = least(least(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + differ);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    }
    return d[n][m];
}

const char *util_closest(const char *word, const char *const *list)
{
    const char *best = NULL;
    size_t best_d = strlen(word) / 3 + 2; /* farther than this is no likeness */
    for (; *list; list++) {
        size_t d = distance(word, *list);
        /* a beginning of three letters is a likeness too: "stat" for "status", "umo" */
        if (strlen(word) >= 3 && !strncmp(word, *list, strlen(word)))
            d = 1;
        if (d < best_d && d < strlen(*list)) {
            best = *list;
            best_d = d;
        }
    }
    return best;
}

void util_say(const char *fmt, ...)
{
    char *raw = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&raw, fmt, ap);
    va_end(ap);
    char *safe = n < 0 ? NULL : malloc(4 * (size_t)n + 1);
    if (safe)
        fprintf(stderr, "%s\n", text_escape(safe, 4 * (size_t)n + 1, raw, (size_t)n));
    free(safe);
    if (n >= 0)
        free(raw);
}

static char *expand_home(const char *path)
{
    size_t n = strcspn(path, "/");
    const char *home = NULL;
    if (n == 1)
        home = getenv("HOME");
    if (!home) {
        char user[256];
        snprintf(user, sizeof(user), "%.*s", (int)(n - 1), path + 1);
        struct passwd *pw = n == 1 ? getpwuid(getuid()) : getpwnam(user);
        home = pw ? pw->pw_dir : NULL;
    }
    char *out = NULL;
    errno = ENOENT;
    return home && asprintf(&out, "%s%s", home, path + n) >= 0 ? out : NULL;
}

char *util_absolute(const char *path)
{
    char *out = NULL;
    if (*path == '~')
        return expand_home(path);
    if (*path == '/')
        return strdup(path);
    char *cwd = getcwd(NULL, 0);
    if (!cwd)
        return NULL;
    bool here = !*path || !strcmp(path, ".");
    if (asprintf(&out, "%s%s%s", cwd, here || !strcmp(cwd, "/") ? "" : "/", here ? "" : path) < 0)
        out = NULL;
    free(cwd);
    return out;
}

void util_many_descriptors(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

const char *util_user(char *buf, size_t size)
{
    struct passwd *pw = getpwuid(geteuid());
    if (pw)
        snprintf(buf, size, "%s", pw->pw_name);
    else
        snprintf(buf, size, "%u", (unsigned)geteuid());
    return buf;
}

static int signals_fd = -1, hangups_fd = -1;

static void on_signal(int sig)
{
    int saved = errno;
    int fd = sig == SIGHUP && hangups_fd >= 0 ? hangups_fd : signals_fd;
    if (write(fd, &(uint64_t){1}, 8) < 0)
        _exit(1); /* it only fails when it is not an eventfd */
    errno = saved;
}

int util_signals(void)
{
    static const int all[] = {SIGINT, SIGTERM, SIGHUP};
    if (signals_fd < 0)
        signals_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int i = 0; signals_fd >= 0 && i < 3; i++) {
        struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
        sigemptyset(&act.sa_mask);
        if (sigaction(all[i], &act, &old) == 0 && old.sa_handler == SIG_IGN)
            sigaction(all[i], &old, NULL);
    }
    return signals_fd;
}

int util_hangups(void)
{
    if (hangups_fd < 0)
        hangups_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return hangups_fd;
}

/* Waits until there is something to read from `fd`: 0, or -ECANCELED, or -ETIMEDOUT. */
static int await_byte(int fd, int cancel, int64_t until)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = cancel, .events = POLLIN}};
    int n, ms = -1;
    do {
        int64_t left = until - mono_now();
        if (until)
            ms = left > 0 ? (int)(left / 1000000) + 1 : 0;
        n = poll(p, 2, ms);
    } while (n < 0 && errno == EINTR);
    return p[1].revents ? -ECANCELED : n == 0 ? -ETIMEDOUT : 0;
}

int util_await(int fd, const char *token, int cancel, int64_t until)
{
    size_t n = strlen(token), have = 0;
    char last[128];
    if (n + 1 > sizeof(last))
        return -EINVAL;
    /* Byte by byte: what follows the newline belongs to somebody else. */
    for (size_t total = 0; total < 65536; total++) {
        char c;
        ssize_t r = await_byte(fd, cancel, until);
        if (r < 0)
            return (int)r;
        r = read(fd, &c, 1);
        if (r < 0 && (errno == EINTR || errno == EAGAIN)) {
            total--;
            continue;
        }
        if (r <= 0)
            return r < 0 ? -errno : -ECONNRESET;
        if (have == n + 1)
            memmove(last, last + 1, --have);
        last[have++] = c;
        if (have == n + 1 && c == '\n' && !memcmp(last, token, n))
            return 0;
    }
    return -EPROTO;
}

static int args;
static char **arg_list;

void util_args_note(int argc, char **argv)
{
    arg_list = calloc((size_t)argc + 1, sizeof(*argv));
    args = arg_list ? argc : 0;
    for (int i = 0; i < args; i++)
        arg_list[i] = argv[i];
}

int util_args(char *const **ret_argv)
{
    *ret_argv = arg_list;
    return args;
}

static bool pipe_was_ignored;

void util_pipe_ignore(void)
{
    pipe_was_ignored = signal(SIGPIPE, SIG_IGN) == SIG_IGN;
}

void util_pipe_signal(void)
{
    if (!pipe_was_ignored)
        signal(SIGPIPE, SIG_DFL);
}
