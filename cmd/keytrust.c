/* SPDX-License-Identifier: MIT */
/* Trusting others: a certificate that we are given, that a server shows, or that ssh brings. */
#include "base/limits.h"
#include "channel/addr.h"
#include "channel/cert.h"
#include "channel/tls.h"
#include "cmd/key.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_MAX = 65536 }; /* of a certificate and what is around it */

/* All of it up to TEXT_MAX: how much, or negative. */
static ssize_t slurp(int fd, char *buf)
{
    size_t n = 0;
    ssize_t r;
    while (n < TEXT_MAX && (r = read(fd, buf + n, TEXT_MAX - n)) != 0) {
        if (r < 0 && errno != EINTR)
            return -errno;
        n += r > 0 ? (size_t)r : 0;
    }
    return (ssize_t)n;
}

static int trust_cert(const struct cmd *self, const char *name, X509 *cert)
{
    uint8_t print[KEYS_PRINT];
    char text[KEYS_PRINT_TEXT];
    struct pl_err err;
    cert_print(cert, print);
    if (key_trust_add(name, print, &err) < 0)
        return cmd_error(self, &err);
    printf("%s %s\n", name, keys_print_text(print, text));
    return cmd_flush(self);
}

static int from_input(const struct cmd *self, const char *name)
{
    char *buf = malloc(TEXT_MAX);
    ssize_t n = buf ? slurp(0, buf) : -ENOMEM;
    X509 *cert = n > 0 ? cert_parse(buf, (size_t)n) : NULL;
    free(buf);
    if (!cert)
        return cmd_fail(self, "standard input: not a certificate (what plenum key show prints "
                              "there)");
    int status = trust_cert(self, name, cert);
    X509_free(cert);
    return status;
}

/* ---- from the server itself ---- */

/* A question for the person at the terminal. */
static bool agreed(const char *question)
{
    char answer[16] = "";
    FILE *tty = fopen("/dev/tty", "r+e");
    if (!tty)
        return false;
    fprintf(tty, "%s (yes/no) ", question);
    fflush(tty);
    bool yes = fgets(answer, sizeof(answer), tty) && !strcmp(answer, "yes\n");
    fclose(tty);
    return yes;
}

static int ask(const struct cmd *self, const char *name, X509 *cert)
{
    uint8_t print[KEYS_PRINT];
    char text[KEYS_PRINT_TEXT], question[400];
    cert_print(cert, print);
    keys_print_text(print, text);
    snprintf(question, sizeof(question),
             "The server shows %s.\nDoes plenum key show say the same there, and is it to be "
             "trusted as %s?",
             text, name);
    if (agreed(question))
        return trust_cert(self, name, cert);
    return cmd_fail(self,
                    "%s: not trusted: %s (if plenum key show says the same there: plenum key "
                    "trust %s %s)",
                    name, text, name, text);
}

static int from_server(const struct cmd *self, const char *address)
{
    struct chan chan;
    struct addr a;
    struct pl_err err;
    X509 *cert;
    char name[KEYS_NAME + 1], tcp[600];
    if (addr_parse(address, &a, &err) < 0)
        return cmd_wrong(self, &err);
    int n = snprintf(name, sizeof(name), "%s%s%s", a.host, strcmp(a.port, ADDR_PORT) ? "!" : "",
                     strcmp(a.port, ADDR_PORT) ? a.port : "");
    if (n > KEYS_NAME || !keys_name_ok(name, (size_t)n))
        return cmd_fail(self, "%s: cannot be the name of a certificate (plenum key trust --help)",
                        a.host);
    snprintf(tcp, sizeof(tcp), "tcp!%s!%s", a.host, a.port);
    if (chan_dial(tcp, &chan, &err) < 0)
        return cmd_error(self, &err);
    int r = tls_fetch(chan.in, address, a.host, LIMIT_HELLO * 1000, &cert, &err);
    chan_close(&chan);
    if (r < 0)
        return cmd_error(self, &err);
    int status = ask(self, name, cert);
    X509_free(cert);
    return status;
}

int key_trust(const struct cmd *self, const struct key_args *a)
{
    char address[KEYS_NAME + 8];
    uint8_t print[KEYS_PRINT];
    struct pl_err err;
    if (a->n < 1 || a->n > 2)
        cmd_usage(self, "trust: a name is needed, and the certificate on standard input or its "
                        "fingerprint");
    if (a->n == 1 && chan_is_addr(a->arg[0])) {
        if (strncmp(a->arg[0], "tls", 3))
            cmd_usage(self, "%s: only a tls! server has a certificate", a->arg[0]);
        return from_server(self, a->arg[0]);
    }
    key_check_name(self, a->arg[0]);
    if (a->n == 1 && !isatty(0))
        return from_input(self, a->arg[0]);
    if (a->n == 1) {
        snprintf(address, sizeof(address), "tls!%s", a->arg[0]);
        return from_server(self, address);
    }
    if (!keys_print_parse(a->arg[1], print))
        cmd_usage(self, "%s: not a fingerprint (sha256: and 64 hexadecimal digits)", a->arg[1]);
    return key_trust_add(a->arg[0], print, &err) < 0 ? cmd_error(self, &err) : EXIT_OK;
}

/* ---- over ssh ---- */

/* Runs the commands there with our certificate on their standard input: what they print, which is
 * theirs. */
static int exchange(const char *host, const char *own, size_t n, const char *own_name, char *buf,
                    size_t *ret_n, struct pl_err *err)
{
    const char *program = getenv("PLENUM_SSH");
    char *command;
    struct chan chan;
    if (asprintf(&command,
                 "exec sh -c 'PATH=$PATH:/usr/local/bin; export PATH; plenum key make --if-missing "
                 ">/dev/null && plenum key trust %s >/dev/null && plenum key show'",
                 own_name) < 0)
        return pl_fail(err, -ENOMEM, "out of memory");
    char *argv[] = {(char *)(program && *program ? program : "ssh"),
                    (char *)"-T",
                    (char *)"--",
                    (char *)host,
                    command,
                    NULL};
    int r = chan_exec(argv, false, &chan, err);
    free(command);
    if (r < 0)
        return r;
    ssize_t w = write(chan.out, own, n); /* less than a pipe takes */
    close(chan.out);
    chan.out = -1;
    ssize_t got = slurp(chan.in, buf);
    int status = chan_close(&chan);
    if (w != (ssize_t)n || got < 0 || status != 0)
        return pl_fail(err, -EIO,
                       "%s: it did not work there (what is above says why; plenum must be "
                       "installed there)",
                       host);
    *ret_n = (size_t)got;
    return 0;
}

int key_install(const struct cmd *self, const struct key_args *a)
{
    char name[KEYS_NAME + 1], *buf;
    struct pl_err err;
    size_t n, got = 0;
    if (a->n != 1 || *a->arg[0] == '-' || !*a->arg[0])
        cmd_usage(self, "install: [USER@]HOST is needed");
    const char *host = strrchr(a->arg[0], '@');
    host = host ? host + 1 : a->arg[0];
    key_check_name(self, host);
    char *own = key_own_text(&n, name, &err);
    if (!own)
        return cmd_error(self, &err);
    if (!*name) {
        free(own);
        return cmd_fail(self, "our certificate has no name that can be used there (plenum key make "
                              "--renew)");
    }
    buf = malloc(TEXT_MAX);
    int r = buf ? exchange(a->arg[0], own, n, name, buf, &got, &err)
                : pl_fail(&err, -ENOMEM, "out of memory");
    X509 *cert = r == 0 ? cert_parse(buf, got) : NULL;
    free(buf);
    free(own);
    if (r < 0)
        return cmd_error(self, &err);
    if (!cert)
        return cmd_fail(self, "%s: it has not told its certificate", host);
    int status = trust_cert(self, host, cert);
    X509_free(cert);
    return status;
}
