/* SPDX-License-Identifier: MIT */
#include "cmd/sshlink.h"
#include "base/futex.h"
#include "base/text.h"
#include "cmd/util.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 256

/* Appends `arg` quoted for a POSIX shell. */
static void quote(FILE *out, const char *arg)
{
    fputc('\'', out);
    for (; *arg; arg++) {
        if (*arg == '\'')
            fputs("'\\''", out);
        else
            fputc(*arg, out);
    }
    fputc('\'', out);
}

/* What the far login shell, whichever it is, is asked to run. The program is looked for first, so
 * that its absence is told by a status and not by a shell's words. */
static char *remote_command(const struct sshlink *link, const char *token)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    fputs("exec sh -c ", out);
    quote(out, "PATH=$PATH:/usr/local/bin; PLENUM_WHO=ssh; export PATH PLENUM_WHO; command -v "
               "\"$0\" >/dev/null || exit 127; "
               "exec \"$0\" \"$@\"");
    fputc(' ', out);
    quote(out, link->remote_plenum ? link->remote_plenum : "plenum");
    for (size_t i = 0; link->args[i]; i++) {
        fputc(' ', out);
        quote(out, link->args[i]);
        if (i == 0)
            fprintf(out, " --marker %s", token);
    }
    return fclose(out) == 0 ? text : NULL;
}

/* ssh ended before the far plenum spoke: says why. */
static int ended(const struct sshlink *link, const char *program, struct chan *chan, int r,
                 struct pl_err *err)
{
    bool given_up = r == -EPROTO || r == -ECANCELED || r == -ETIMEDOUT;
    int status = given_up ? chan_stop(chan) : chan_close(chan);
    if (r == -ECANCELED)
        return pl_fail(err, r, "%s: given up", link->host);
    if (r == -ETIMEDOUT)
        return pl_fail(err, r, "%s: no answer for %lld s", link->host,
                       (long long)(link->patience / 1000000000));
    if (r == -EPROTO)
        return pl_fail(err, r,
                       "%s: the shell there prints more than 64 KiB before it starts plenum (mend "
                       "its start-up files)",
                       link->host);
    if (WIFSIGNALED(status))
        return pl_fail(err, -ECONNRESET, "%s: %s was killed by signal %d", link->host, program,
                       WTERMSIG(status));
    int code = WEXITSTATUS(status);
    if (code == 127)
        return pl_fail(err, -ENOENT,
                       "%s: there is no plenum there (install it, or name it with "
                       "--remote-plenum PATH)",
                       link->host);
    if (code == 255)
        return pl_fail(err, -ECONNREFUSED,
                       "%s: ssh failed with status 255 (it says why above; try: ssh %s true)",
                       link->host, link->host);
    return pl_fail(err, -ECONNRESET, "%s: plenum there ended at once with status %d", link->host,
                   code);
}

int sshlink_token(char ret[SSHLINK_TOKEN], struct pl_err *err)
{
    uint64_t random[2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return pl_fail(err, -EIO, "no random numbers from the kernel");
    snprintf(ret, SSHLINK_TOKEN, "plenum-%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    return 0;
}

int sshlink_start(const struct sshlink *link, struct chan *ret, struct pl_err *err)
{
    char token[SSHLINK_TOKEN];
    int r = sshlink_token(token, err);
    return r < 0 ? r : sshlink_start_as(link, token, ret, err);
}

/* The command line, for as long as `command` lives. */
static void command_line(const struct sshlink *link, const char *program, char *command,
                         char *argv[MAX_ARGS])
{
    /* No connection that is shared with others, which may be as dead as the one before. */
    static const char *const silent[] = {"-q", "-oBatchMode=yes", "-oConnectTimeout=30",
                                         "-oControlPath=none"};
    size_t n = 0;
    argv[n++] = (char *)program;
    argv[n++] = "-T";
    for (size_t i = 0; link->silent && i < sizeof(silent) / sizeof(*silent); i++)
        argv[n++] = (char *)silent[i];
    for (char *const *o = link->ssh_options; o && *o && n < MAX_ARGS - 4; o++)
        argv[n++] = *o;
    argv[n++] = "--";
    argv[n++] = (char *)link->host;
    argv[n++] = command;
    argv[n] = NULL;
}

int sshlink_start_as(const struct sshlink *link, const char *token, struct chan *ret,
                     struct pl_err *err)
{
    const char *program = getenv("PLENUM_SSH");
    if (!program || !*program)
        program = "ssh";
    if (*link->host == '-' || !*link->host)
        return pl_fail(err, -EINVAL, "%s: not the name of a host", link->host);
    char *command = remote_command(link, token), *argv[MAX_ARGS];
    if (!command)
        return pl_fail(err, -ENOMEM, "out of memory");
    command_line(link, program, command, argv);
    int r = chan_exec(argv, link->patient, ret, err);
    free(command);
    if (r == -ENOENT)
        return pl_fail(err, r, "%s: not found (install it: apt-get install openssh-client)",
                       program);
    if (r < 0)
        return r;
    r = util_await(ret->in, token, link->cancel ? link->cancel : -1,
                   link->patience ? mono_now() + link->patience : 0);
    if (r < 0)
        return ended(link, program, ret, r, err);
    char raw[128];
    snprintf(raw, sizeof(raw), "ssh %s", link->host);
    text_escape(ret->peer, sizeof(ret->peer), raw, strlen(raw));
    snprintf(ret->who, sizeof(ret->who), "ssh");
    return 0;
}

int sshlink_back(const struct sshlink *link, const char *token, int cancel, struct chan *ret,
                 struct pl_err *err)
{
    char *args[] = {"relink", (char *)token, NULL};
    struct sshlink back = *link;
    back.args = args;
    back.silent = true;
    back.cancel = cancel;
    return sshlink_start(&back, ret, err);
}
