/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/util.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern const struct cmd cmd_mount, cmd_umount, cmd_serve, cmd_duct, cmd_ssh, cmd_listen, cmd_dial,
    cmd_ls, cmd_cat, cmd_stat, cmd_get, cmd_put, cmd_mkdir, cmd_rm, cmd_status, cmd_trace,
    cmd_upgrade, cmd_key, cmd_run, cmd_vpath, cmd_replicate, cmd_version, cmd_help_cmd, cmd_relink;

const struct cmd *const cmd_table[] = {
    &cmd_mount, &cmd_umount, &cmd_serve,     &cmd_duct,    &cmd_ssh,      &cmd_listen,
    &cmd_dial,  &cmd_ls,     &cmd_cat,       &cmd_stat,    &cmd_get,      &cmd_put,
    &cmd_mkdir, &cmd_rm,     &cmd_status,    &cmd_trace,   &cmd_upgrade,  &cmd_key,
    &cmd_run,   &cmd_vpath,  &cmd_replicate, &cmd_version, &cmd_help_cmd, NULL,
};

/* Run by other processes of ours alone, and not in the help. */
static const struct cmd *const hidden[] = {&cmd_relink, NULL};

/* Names under which the program is installed too, each the subcommand of that name. */
static const char *const aliases[] = {"duct", "vpath", NULL};
/* ... and those by which mount(8) calls: for its types plenum and fuse.plenum. */
static const char *const helpers[] = {"mount.plenum", "mount.fuse.plenum", NULL};

const struct cmd *cmd_find(const char *name)
{
    for (size_t i = 0; cmd_table[i]; i++)
        if (!strcmp(cmd_table[i]->name, name))
            return cmd_table[i];
    for (size_t i = 0; hidden[i]; i++)
        if (!strcmp(hidden[i]->name, name))
            return hidden[i];
    return NULL;
}

PL_PRINTF(2, 0) static void say(const char *name, const char *fmt, va_list ap)
{
    char *raw = NULL;
    if (vasprintf(&raw, fmt, ap) < 0)
        return;
    util_say("plenum: %s: %s", name, raw);
    free(raw);
}

void cmd_usage(const struct cmd *cmd, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    util_say("plenum: %s: %s (see plenum %s --help)", cmd->name, text, cmd->name);
    exit(EXIT_USAGE);
}

int cmd_fail(const struct cmd *cmd, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(cmd->name, fmt, ap);
    va_end(ap);
    return EXIT_FAILED;
}

int cmd_error(const struct cmd *cmd, const struct pl_err *err)
{
    fprintf(stderr, "plenum: %s: %s\n", cmd->name, err->text);
    return EXIT_FAILED;
}

int cmd_wrong(const struct cmd *cmd, const struct pl_err *err)
{
    cmd_error(cmd, err);
    return EXIT_USAGE;
}

int cmd_flush(const struct cmd *cmd)
{
    if (!fflush(stdout) && !ferror(stdout))
        return EXIT_OK;
    if (errno == EPIPE)
        return EXIT_FAILED;
    return cmd_fail(cmd, "standard output: %s", strerror(errno));
}

void cmd_help(const struct cmd *cmd, FILE *out)
{
    fprintf(out, "usage: plenum %s%s%s\n\n%s.\n", cmd->name, *cmd->args ? " " : "", cmd->args,
            cmd->summary);
    if (cmd->help)
        fprintf(out, "\n%s", cmd->help);
    fprintf(out, "\nExample:\n%s", cmd->example);
}

static void bad_option(const struct cmd *cmd, char **argv, const struct option *longs)
{
    const char *word = argv[optind - 1];
    if (optopt && !(word[0] == '-' && word[1] == '-'))
        cmd_usage(cmd, "-%c: unknown option", optopt);
    const char *names[64];
    size_t n = 0;
    for (; longs && longs[n].name && n < 63; n++)
        names[n] = longs[n].name;
    names[n] = NULL;
    char bare[64];
    snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(word + 2, "="), word + 2);
    const char *near = util_closest(bare, names);
    if (optopt)
        cmd_usage(cmd, "%s: this option takes no argument", word);
    if (near)
        cmd_usage(cmd, "%s: unknown option, did you mean --%s?", word, near);
    cmd_usage(cmd, "%s: unknown option", word);
}

int cmd_opt(const struct cmd *cmd, int argc, char **argv, const char *shorts,
            const struct option *longs)
{
    static const struct option none[] = {{NULL, 0, NULL, 0}};
    char all[64];
    /* ':' first (after '+'): a missing argument is told apart from an unknown option. */
    snprintf(all, sizeof(all), "%s:h%s", *shorts == '+' ? "+" : "",
             *shorts == '+' ? shorts + 1 : shorts);
    opterr = 0;
    /* --help stands everywhere, so it is not in the subcommands' lists. */
    if (optind < argc && !strcmp(argv[optind], "--help")) {
        cmd_help(cmd, stdout);
        exit(cmd_flush(cmd));
    }
    int o = getopt_long(argc, argv, all, longs ? longs : none, NULL);
    if (o == 'h' || (o == '?' && !strcmp(argv[optind - 1], "--help"))) {
        cmd_help(cmd, stdout);
        exit(cmd_flush(cmd));
    }
    if (o == ':')
        cmd_usage(cmd, "%s: this option needs an argument", argv[optind - 1]);
    if (o == '?')
        bad_option(cmd, argv, longs);
    return o;
}

int cmd_unknown(const char *place, const char *name)
{
    const char *names[64];
    size_t n = 0;
    for (; cmd_table[n] && n < 63; n++)
        names[n] = cmd_table[n]->name;
    names[n] = NULL;
    const char *near = util_closest(name, names);
    if (near)
        util_say("plenum: %s%s: no such subcommand (did you mean %s? see plenum help)", place, name,
                 near);
    else
        util_say("plenum: %s%s: no such subcommand (see plenum help)", place, name);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    /* A peer that leaves is an error of a write, not the end of the program. */
    util_pipe_ignore();
    util_args_note(argc, argv);
    const char *base = argc ? strrchr(argv[0], '/') : NULL;
    base = base ? base + 1 : argc ? argv[0] : "plenum";
    for (size_t i = 0; aliases[i]; i++) {
        const struct cmd *cmd = strcmp(base, aliases[i]) ? NULL : cmd_find(base);
        if (cmd)
            return cmd->run(cmd, argc, argv);
    }
    for (size_t i = 0; helpers[i]; i++)
        if (!strcmp(base, helpers[i]))
            return mount8_main(argc, argv);
    if (argc < 2) {
        fprintf(stderr, "plenum: which subcommand? (see plenum help)\n");
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        name = "version";
    const struct cmd *cmd = cmd_find(name);
    if (!cmd)
        return cmd_unknown("", name);
    return cmd->run(cmd, argc - 1, argv + 1);
}
