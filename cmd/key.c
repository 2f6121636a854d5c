/* SPDX-License-Identifier: MIT */
#include "cmd/key.h"
#include "channel/cert.h"
#include "channel/tls.h"
#include "cmd/util.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_RENEW = 256, OPT_MISSING, OPT_INSTALL };
static const struct option longs[] = {{"renew", no_argument, NULL, OPT_RENEW},
                                      {"if-missing", no_argument, NULL, OPT_MISSING},
                                      {"install", no_argument, NULL, OPT_INSTALL},
                                      {NULL, 0, NULL, 0}};

void key_check_name(const struct cmd *self, const char *name)
{
    if (!keys_name_ok(name, strlen(name)))
        cmd_usage(self, "%s: not a name (1 to %d letters, digits and . _ - + @ : ! %%)", name,
                  KEYS_NAME);
}

/* ---- our own ---- */

/* USER@HOST, or HOST for root, with what no name may have replaced. */
static void own_name(char ret[KEYS_NAME + 1])
{
    char user[256], host[256] = "localhost", raw[600];
    gethostname(host, sizeof(host) - 1);
    if (geteuid() == 0)
        snprintf(raw, sizeof(raw), "%s", host);
    else
        snprintf(raw, sizeof(raw), "%s@%s", util_user(user, sizeof(user)), host);
    snprintf(ret, KEYS_NAME + 1, "%.*s", KEYS_NAME, raw);
    for (char *c = ret; *c; c++)
        if (!keys_name_ok(c, 1))
            *c = '-';
    if (*ret == '-')
        *ret = '_';
}

static int say_own(const struct cmd *self, X509 *cert)
{
    char name[KEYS_NAME + 1], text[KEYS_PRINT_TEXT];
    uint8_t print[KEYS_PRINT];
    cert_print(cert, print);
    cert_name(cert, name);
    printf("%s %s\n", *name ? name : "(no name)", keys_print_text(print, text));
    return cmd_flush(self);
}

static int make(const struct cmd *self, const struct key_args *a)
{
    char name[KEYS_NAME + 1], path[PATH_MAX], *text;
    struct pl_err err = {0};
    size_t n;
    if (a->n > 1)
        cmd_usage(self, "make takes one name at most");
    if (a->n)
        key_check_name(self, a->arg[0]);
    if (a->n)
        strcpy(name, a->arg[0]);
    else
        own_name(name);
    int lock = keys_lock(&err), r = keys_path("id.pem", path, &err);
    if (lock < 0 || r < 0)
        return cmd_error(self, &err);
    bool there = access(path, F_OK) == 0;
    if (there && !a->renew && !a->missing)
        return cmd_fail(self,
                        "%s: there is a key already (plenum key show; --renew makes another, "
                        "which all who trust this one must be given)",
                        path);
    if (!there || a->renew) {
        r = cert_make(name, &text, &n, &err);
        if (r == 0) {
            r = keys_write("id.pem", text, n, &err);
            OPENSSL_clear_free(text, n);
        }
    }
    X509 *cert;
    if (r < 0 || tls_own(&cert, &err) < 0)
        return cmd_error(self, &err);
    close(lock);
    r = say_own(self, cert);
    X509_free(cert);
    return r;
}

char *key_own_text(size_t *ret_n, char name[KEYS_NAME + 1], struct pl_err *err)
{
    char text[KEYS_PRINT_TEXT], *all = NULL;
    uint8_t print[KEYS_PRINT];
    X509 *cert;
    size_t n;
    if (tls_own(&cert, err) < 0)
        return NULL;
    char *pem = cert_text(cert, &n);
    cert_print(cert, print);
    cert_name(cert, name);
    X509_free(cert);
    int len = pem ? asprintf(&all, "# %s %s\n%s", *name ? name : "(no name)",
                             keys_print_text(print, text), pem)
                  : -1;
    OPENSSL_free(pem);
    if (len < 0)
        pl_fail(err, -ENOMEM, "out of memory");
    else
        *ret_n = (size_t)len;
    return len < 0 ? NULL : all;
}

static int show(const struct cmd *self, const struct key_args *a)
{
    char name[KEYS_NAME + 1];
    struct pl_err err;
    size_t n;
    if (a->n)
        cmd_usage(self, "show takes no name (plenum key list shows those that are trusted)");
    char *text = key_own_text(&n, name, &err);
    if (!text)
        return cmd_error(self, &err);
    fwrite(text, 1, n, stdout);
    free(text);
    return cmd_flush(self);
}

/* ---- lists ---- */

/* The file's lines but those of `name` (which parse(line) gives, or NULL), and `more` behind them,
 * replace it: how many were left out. */
static int rewrite(const char *file, bool secret, bool (*is)(char *line, const char *name),
                   const char *name, const char *more, struct pl_err *err)
{
    char *text = NULL, *out = NULL;
    size_t size;
    int dropped = 0, r = keys_read(file, secret, &text, err);
    if (r < 0 && r != -ENOENT)
        return r;
    FILE *f = open_memstream(&out, &size);
    for (char *rest = text, *line; f && rest && (line = strsep(&rest, "\n"));) {
        char *copy = strdup(line);
        if (copy && name && is(copy, name))
            dropped++;
        else if (*line || rest)
            fprintf(f, "%s\n", line);
        free(copy);
    }
    if (f && more)
        fputs(more, f);
    r = f && fclose(f) == 0 ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    if (r == 0 && (dropped || more))
        r = keys_write(file, out, size, err);
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
    free(out);
    return r < 0 ? r : dropped;
}

static bool is_trust(char *line, const char *name)
{
    struct keys_trust t;
    return keys_trust_line(line, &t) == 1 && !strcmp(t.name, name);
}

static bool is_psk(char *line, const char *name)
{
    struct keys_psk k;
    bool is = keys_psk_line(line, &k) == 1 && !strcmp(k.name, name);
    explicit_bzero(&k, sizeof(k));
    return is;
}

int key_trust_add(const char *name, const uint8_t print[KEYS_PRINT], struct pl_err *err)
{
    char text[KEYS_PRINT_TEXT], line[KEYS_NAME + KEYS_PRINT_TEXT + 2];
    struct keys_trust *list;
    size_t n;
    int lock = keys_lock(err);
    if (lock < 0)
        return lock;
    int r = keys_trusted(&list, &n, err);
    bool there = false;
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (strcmp(list[i].name, name))
            continue;
        there = true;
        if (memcmp(list[i].print, print, KEYS_PRINT))
            r = pl_fail(err, -EEXIST,
                        "%s: another certificate is trusted by that name: %s (if it is to be "
                        "replaced: plenum key remove %s)",
                        name, keys_print_text(list[i].print, text), name);
    }
    free(list);
    snprintf(line, sizeof(line), "%s %s\n", name, keys_print_text(print, text));
    if (r == 0 && !there)
        r = rewrite("trusted", false, NULL, NULL, line, err);
    close(lock);
    return r < 0 ? r : 0;
}

static int remove_name(const struct cmd *self, const struct key_args *a)
{
    struct pl_err err;
    if (a->n != 1)
        cmd_usage(self, "remove: one name is needed");
    int lock = keys_lock(&err);
    int trusts = lock < 0 ? lock : rewrite("trusted", false, is_trust, a->arg[0], NULL, &err);
    int psks = trusts < 0 ? trusts : rewrite("psk", true, is_psk, a->arg[0], NULL, &err);
    if (lock >= 0)
        close(lock);
    if (psks < 0)
        return cmd_error(self, &err);
    if (trusts + psks == 0)
        return cmd_fail(self, "%s: nothing is trusted by that name (plenum key list)", a->arg[0]);
    return EXIT_OK;
}

static int list(const struct cmd *self, const struct key_args *a)
{
    struct keys_trust *trusted = NULL;
    struct keys_psk *psks = NULL;
    char text[KEYS_PRINT_TEXT];
    struct pl_err err;
    size_t n, m;
    if (a->n)
        cmd_usage(self, "list takes no name");
    if (keys_trusted(&trusted, &n, &err) < 0 || keys_psks(&psks, &m, &err) < 0) {
        free(trusted);
        return cmd_error(self, &err);
    }
    for (size_t i = 0; i < n; i++)
        printf("cert:%-24s %s\n", trusted[i].name, keys_print_text(trusted[i].print, text));
    for (size_t i = 0; i < m; i++)
        printf("key:%-25s %s\n", psks[i].name,
               strcmp(psks[i].name, psks[i].id) ? psks[i].id : "pre-shared");
    free(trusted);
    if (psks)
        explicit_bzero(psks, m * sizeof(*psks));
    free(psks);
    return cmd_flush(self);
}

/* ---- pre-shared keys ---- */

static int psk_add(const struct keys_psk *k, struct pl_err *err)
{
    char line[2 * KEYS_NAME + 2 * KEYS_PSK_MAX + 4];
    struct keys_psk *list;
    size_t n;
    int at = snprintf(line, sizeof(line), "%s %s ", k->name, k->id), lock = keys_lock(err);
    if (lock < 0)
        return lock;
    for (size_t i = 0; i < k->nkey; i++)
        at += sprintf(line + at, "%02x", k->key[i]);
    strcpy(line + at, "\n");
    int r = keys_psks(&list, &n, err);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (!strcmp(list[i].name, k->name))
            r = pl_fail(err, -EEXIST,
                        "%s: there is a pre-shared key of that name (if it is to be replaced: "
                        "plenum key remove %s)",
                        k->name, k->name);
    if (r == 0)
        r = rewrite("psk", true, NULL, NULL, line, err);
    free(list);
    explicit_bzero(line, sizeof(line));
    close(lock);
    return r < 0 ? r : 0;
}

/* The line of `plenum key psk NAME`, which the other end was given. */
static int psk_install(const struct cmd *self, const char *name, struct pl_err *err)
{
    char line[1024];
    struct keys_psk k;
    int r = fgets(line, sizeof(line), stdin) ? 0 : -EINVAL;
    line[strcspn(line, "\n")] = 0;
    if (r < 0 || keys_psk_line(line, &k) != 1)
        return pl_fail(err, -EINVAL,
                       "standard input: not a pre-shared key (the line that plenum "
                       "key psk NAME has printed at the other end)");
    if (name)
        strcpy(k.name, name);
    r = psk_add(&k, err);
    explicit_bzero(&k, sizeof(k));
    return r;
}

static int psk(const struct cmd *self, const struct key_args *a)
{
    struct keys_psk k = {.nkey = 32};
    struct pl_err err = {0};
    if (a->n > 1 || (!a->n && !a->install))
        cmd_usage(self, "psk: one name is needed");
    if (a->n)
        key_check_name(self, a->arg[0]);
    if (a->install)
        return psk_install(self, a->n ? a->arg[0] : NULL, &err) < 0 ? cmd_error(self, &err)
                                                                    : EXIT_OK;
    strcpy(k.name, a->arg[0]);
    strcpy(k.id, a->arg[0]);
    if (getentropy(k.key, k.nkey) < 0)
        return cmd_fail(self, "no random numbers from the kernel");
    if (psk_add(&k, &err) < 0)
        return cmd_error(self, &err);
    printf("%s %s ", k.name, k.id);
    for (size_t i = 0; i < k.nkey; i++)
        printf("%02x", k.key[i]);
    puts("");
    explicit_bzero(&k, sizeof(k));
    return cmd_flush(self);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct cmd *, const struct key_args *);
    } table[] = {{"make", make},          {"show", show}, {"list", list},
                 {"trust", key_trust},    {"psk", psk},   {"remove", remove_name},
                 {"install", key_install}};
    const char *names[8] = {NULL};
    struct key_args a = {0};
    int o;
    while ((o = cmd_opt(self, argc, argv, "", longs)) != -1) {
        a.renew |= o == OPT_RENEW;
        a.missing |= o == OPT_MISSING;
        a.install |= o == OPT_INSTALL;
    }
    if (optind == argc)
        cmd_usage(self, "make, show, list, trust, psk, remove or install");
    a.arg = argv + optind + 1;
    a.n = argc - optind - 1;
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        names[i] = table[i].name;
        if (!strcmp(argv[optind], table[i].name))
            return table[i].run(self, &a);
    }
    const char *near = util_closest(argv[optind], names);
    cmd_usage(self, "%s: not something to do with keys%s%s", argv[optind],
              near ? "; did you mean " : "", near ? near : "");
}

const struct cmd cmd_key = {
    .name = "key",
    .args = "make [NAME] | show | list | trust NAME [FINGERPRINT] | remove NAME | psk NAME | "
            "install [USER@]HOST",
    .summary = "Makes, shows and installs the keys and certificates of tls!",
    .help =
        "  make [NAME]         makes our key and certificate; NAME is else USER@HOST. With "
        "--renew\n"
        "                      in place of the old one, with --if-missing only if there is none\n"
        "  show                our certificate, for others to trust, and its fingerprint\n"
        "  list                whom we trust\n"
        "  trust NAME          trusts the certificate on standard input as NAME: of a server, the\n"
        "                      HOST or HOST!PORT by which it is dialed\n"
        "  trust NAME FINGERPRINT  the same, by the fingerprint that show tells\n"
        "  trust HOST|ADDR     at a terminal: asks the server there for it, and you whether it is\n"
        "                      the right one\n"
        "  remove NAME         trusts NAME no longer\n"
        "  psk NAME            makes a pre-shared key and prints it, for the other end\n"
        "  psk --install [HOST]  takes such a line from standard input; HOST: for dialing that\n"
        "  install [USER@]HOST over ssh, makes either end trust the other\n\n"
        "The files are in /etc/plenum/tls for root, else in ~/.config/plenum/tls, or where\n"
        "PLENUM_KEYS says. A file ca.pem there names authorities that are believed as well.\n"
        "What a peer may then do stands in the access file of the server: plenum help access.\n",
    .example = "  plenum key make && plenum key install host1\n"
               "  plenum key show | ssh host1 plenum key trust alice\n",
    .run = run,
};
