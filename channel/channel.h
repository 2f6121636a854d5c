/* SPDX-License-Identifier: MIT */
/*
 * Channels: what turns an address into a two-way stream.
 *
 * ADDR is tcp!HOST!PORT, tls!HOST!PORT, unix!PATH, vsock!CID!PORT, exec!COMMAND, stdio, fd!IN,OUT,
 * or the same as URLs: tcp://HOST:PORT (IPv6 in brackets), tls://HOST:PORT, unix:PATH,
 * vsock://CID:PORT, exec:COMMAND, fd:IN,OUT; and /dev/tcp/HOST/PORT, as in shells. tls is TLS 1.3
 * with both ends known by certificates or a pre-shared key (channel/keys.h). PORT may be left out:
 * 564. `*` as host listens everywhere (IPv4 and IPv6); a CID may be `host`, `local` or `*`; fd!N is
 * fd!N,N. exec runs COMMAND with sh -c, its stdin and stdout the channel, its stderr ours. The
 * table of forms is in channel/addr.c.
 *
 * Every descriptor is close-on-exec and blocking. Failures are one sentence in `err`. Nothing is
 * printed here: what the user ought to be warned of is a `note`. The program ignores SIGPIPE.
 */
#ifndef CHANNEL_CHANNEL_H
#define CHANNEL_CHANNEL_H

#include <plenum/error.h>
#include <stdbool.h>
#include <sys/types.h>

enum chan_role { CHAN_DIALED, CHAN_ACCEPTED, CHAN_GIVEN /* stdio, fd: who called is unknown */ };

struct chan;
struct iovec;
/* How bytes pass where the descriptors alone do not do it (TLS). Never blocks, whatever mode the
 * descriptors are in: -EAGAIN, and then poll `in` for reading, or `out` for writing (TLS 1.3 needs
 * no other). One thread reads while another writes. After a write that did not take all, or nothing
 * (-EAGAIN), the next begins with the same bytes. Raises no SIGPIPE. */
struct chan_io {
    ssize_t (*read)(struct chan *, const struct iovec *iov, int n); /* 0: the end */
    /* What is not taken must be offered again: the next write begins with it. */
    ssize_t (*write)(struct chan *, const struct iovec *iov, int n);
    /* Bytes are off the descriptor and not yet read: no poll tells of them. */
    bool (*pending)(const struct chan *);
    void (*close)(struct chan *);  /* frees io_state; says goodbye if that does not block */
    void (*forget)(struct chan *); /* the same without a word; NULL: as close */
};

struct chan {
    int in, out;              /* may be the same descriptor */
    const struct chan_io *io; /* NULL: the descriptors do it */
    void *io_state;
    enum chan_role role;
    pid_t child;      /* of exec!, reaped by chan_close; else 0 */
    uid_t uid;        /* the peer's uid on a unix socket; else (uid_t)-1 */
    char who[96];     /* what the channel proved about the peer: "uid:1000", "cert:NAME",
                         "key:NAME", "ssh" (the far end of an ssh, or its near end); "" nothing */
    char peer[128];   /* for people, escaped: "tcp!10.0.0.2!564", "stdio" */
    const char *note; /* a warning that the program prints once ("tcp!10.0.0.2!564: neither
                         encrypted nor ..." without the name), or NULL; a constant */
    int also; /* another descriptor that chan_close() closes, by whose end somebody learns that the
                 channel is in use no more; 0: none */
};

/* Dials. May block for as long as connecting takes (TCP: bounded to 30 s an address).
 * `stdio` takes descriptors 0 and 1 over (moved away, /dev/null put in their place, so that nothing
 * printed by accident enters the channel). Its role is CHAN_GIVEN unless the environment says
 * PLENUM_CHANNEL=dialed|accepted, which `plenum dial` and `plenum listen` set for the command that
 * they run (exec! sets it to accepted). fd! likewise takes its descriptors over; both clear
 * O_NONBLOCK. TCP sets TCP_NODELAY, keepalive and TCP_USER_TIMEOUT: a peer that vanished is noticed
 * within about two minutes, by the kernel. */
int chan_dial(const char *addr, struct chan *ret, struct pl_err *err);
/* The same, but it is given up (-ECANCELED) when the descriptor `cancel` becomes readable (-1: it
 * never does): while a name is looked up and while the other end does not answer. */
int chan_dial_until(const char *addr, int cancel, struct chan *ret, struct pl_err *err);

/* Runs the program argv[0] (looked for in PATH) with argv, its stdin and stdout the channel, its
 * stderr ours: what exec! does, without a shell. `patient`: it does not get the terminal's Ctrl-C,
 * because the caller ends it in good order. -ENOENT with a sentence if there is none. */
int chan_exec(char *const argv[], bool patient, struct chan *ret, struct pl_err *err);

/* Closes both descriptors; waits for the child of exec! (SIGTERM when it did not end within 5 s
 * after its stdin closed, SIGKILL 5 s later). Returns the child's wait status, 0 without a child
 * or when somebody else has reaped it. Idempotent. */
int chan_close(struct chan *chan);
/* The same when nothing is wanted of the command any more: SIGTERM at once, SIGKILL a second later,
 * as it may be stopped, or not listen. */
int chan_stop(struct chan *chan);

/* The same after a fork, when another process goes on with the channel: nothing is said, and no
 * child waited for. */
void chan_forget(struct chan *chan);

struct chan_listener;

/* A unix socket path that is in the way is replaced if nobody listens on it; it is made mode 0600,
 * and peers are checked with SO_PEERCRED against `allow` (uids; nallow == 0: this user and root).
 * With `anyone`, or others than this user and root in `allow`, the mode is 0666: then only the
 * check stands. `opts` may be NULL. */
struct chan_listen_opts {
    const uid_t *allow;
    size_t nallow;
    bool anyone;  /* no check of uids on a unix socket; mode 0666 */
    int hello_ms; /* what a TLS handshake may take; 0: LIMIT_HELLO */
};
int chan_listen(const char *addr, const struct chan_listen_opts *opts, struct chan_listener **ret,
                struct pl_err *err);
/* One descriptor per listener to poll for POLLIN (may be an epoll over several sockets). */
int chan_listener_fd(const struct chan_listener *l);
/* The address as it turned out, for printing: port 0 replaced by the port given. Escaped. */
const char *chan_listener_name(const struct chan_listener *l);
/* What is not safe by itself, for the program to print once as "NAME: NOTE"; NULL if nothing: TCP
 * on anything but loopback is neither encrypted nor authenticated. */
const char *chan_listener_note(const struct chan_listener *l);
/* Accepts one. Over TLS a client is accepted when its handshake is done, and those of all clients
 * go on in here: -EAGAIN, nothing has come of it yet. A peer that is not allowed is closed and
 * -EACCES returned, with the sentence; the listener goes on. Blocks unless chan_listener_fd() was
 * readable (and may block then too, if the peer has gone meanwhile); transient failures (EMFILE,
 * ENOBUFS) are reported as such, the caller waits a little and tries again. Any number of threads.
 */
int chan_accept(struct chan_listener *l, struct chan *ret, struct pl_err *err);
/* Stops listening; a unix socket path that we made (and still is ours) is unlinked. */
void chan_listener_free(struct chan_listener *l);

/* True if ADDR is one of the forms above (for telling a SPEC or DIR from an ADDR). */
bool chan_is_addr(const char *addr);
/* The same, and what is behind the form's name can be right: 0, or -EINVAL with the sentence. */
int chan_check(const char *addr, struct pl_err *err);
/* True if another process can dial it again later, whatever its working directory: not stdio, fd!,
 * or a unix socket by a relative path. (What exec! runs is run anew.) */
bool chan_again(const char *addr);
/* True if what breaks between here and there is a network: not unix, exec!, stdio, fd!. */
bool chan_far(const char *addr);

#endif
