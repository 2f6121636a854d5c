/* SPDX-License-Identifier: MIT */
/* The keeper's own state, and what its parts ask of each other. Inside keeper/; all of it runs in
 * the keeper's one thread. */
#ifndef KEEPER_STATE_H
#define KEEPER_STATE_H

#include "keeper/wire.h"
#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

enum phase {
    STARTING,
    UP,
    ENDING,
    FAILED /* there is no server any more, and something is mounted below */
};

/* The servers, one after the other: life.c. Times are ms of mono_ms(), 0: none. */
struct life {
    int nurse; /* to the nursery, or -1 */
    pid_t nursery;
    bool lasts;        /* the next server can carry on */
    bool begun;        /* the nursery was told to make one; its process id is not known yet */
    bool restarted;    /* it is not the first one */
    bool stopped;      /* by SIGSTOP or the like */
    bool hung;         /* it was killed because it did nothing */
    bool leaving[2];   /* the server, the nursery: told to leave the terminal, and not yet done */
    unsigned tries;    /* servers in a row that ended with something to do and nothing done */
    unsigned quick;    /* servers in a row that crashed (not killed) soon */
    uint64_t answered; /* of the ledgers, when the server began */
    int64_t began_at;
    int64_t retry_at;
    int64_t stopped_at;
    int64_t away_at; /* since when nobody takes requests */
    int64_t look_at; /* the next look whether it hangs */
    int64_t pause;   /* until the one after that, if nothing happens */
    int mountinfo;   /* FAILED: polled for changes */
    char why[200];   /* what the last server had to say */
};

struct upgrade {
    enum { IDLE, TRIAL, STOPPING, WAITING, TAKING } step;
    int listener, client;
    bool wanted;   /* the client has said so */
    int nurse;     /* to the new program */
    pid_t pid;     /* it; 0: not known yet */
    int old_nurse; /* until the new server is up: the way back */
    pid_t old_pid;
    int64_t until, stopped_at;
};

struct keeper {
    const struct keeper_job *job;
    struct kept *m;
    size_t n;
    enum phase phase;
    int user;    /* to the user's process, or -1: in the foreground, or it was told */
    int sock;    /* to the server, or -1 */
    int signals; /* signalfd */
    pid_t server, ender;
    bool ready;  /* prepare has succeeded */
    bool done;   /* finish has returned */
    bool left;   /* of background: log, do not print */
    bool asked;  /* a signal asked for the end: what fails from then on is no failure */
    bool forced; /* the server was killed by us */
    bool failed; /* text says why */
    bool stop_sent;
    int64_t deadline; /* ms, CLOCK_MONOTONIC; 0: none */
    char text[FDPASS_DATA];
    struct life life;
    struct upgrade up;
};

struct keeper;
/* What the keeper waits for, told anew each time. A function may be called though what it waited
 * for is no longer there: it looks, and its descriptor does not block. */
typedef void wait_fn(struct keeper *k, void *arg, short events);
struct waits {
    struct pollfd *p;
    struct waiter {
        wait_fn *fn;
        void *arg;
    } * waiter;
    size_t n, room;
    int64_t until; /* ms of mono_ms() */
};
void wait_for(struct waits *w, int fd, short events, wait_fn *fn, void *arg); /* fd -1: nothing */
void wait_until(struct waits *w, int64_t at);                                 /* 0: no matter */

/* ---- keeper.c ---- */
void keeper_state(struct keeper *k, const char *word);
/* The first failure is the one to tell. */
void keeper_note(struct keeper *k, const char *text);
/* Something failed: the mounts go at once, the server is told to end. */
void keeper_fail(struct keeper *k, const char *text);
/* Mount i is no longer served: sees to it that it is away. Does not wait for anybody. */
void keeper_take_away(struct keeper *k, size_t i);
void keeper_reap(struct keeper *k);
void keeper_send_mounts(struct keeper *k);
void keeper_left(struct keeper *k);       /* server and nursery have left the terminal */
void keeper_expect_end(struct keeper *k); /* the server is killed if it does not end soon */
/* In a child of the keeper: closes the keeper's own ends of everything. */
void keeper_let_go(struct keeper *k);
/* The whole job, in the keeper's process: its exit status. `given`: see life_first(). */
int keeper_keep(struct keeper *k, const int *given);

/* ---- start.c ---- */
int start_check(struct keeper *k, struct pl_err *err);
int start_register(struct keeper *k, struct pl_err *err);
int start_mounts(struct keeper *k, struct pl_err *err);

/* ---- life.c ---- */
/* The first server, through a nursery if the job may outlive it. `given`: descriptors that are the
 * server's alone, closed here afterwards; -1 ends them. */
int life_first(struct keeper *k, const int *given, const sigset_t *mask, struct pl_err *err);
/* Its prepare has succeeded: `lasts` is its word. */
void life_ready(struct keeper *k, bool lasts);
void life_next_ready(struct keeper *k, bool lasts);      /* the same of a later server */
void life_not_ready(struct keeper *k, const char *text); /* ... has failed, of a later server */
void life_up(struct keeper *k, struct kept *m);
/* Serve of a mount failed: true if that is this server's failure alone, and the next one tries. */
bool life_serve_failed(struct keeper *k, struct kept *m, const char *text);
/* The server has ended with `status`: true if there will be another. */
bool life_next(struct keeper *k, int status, const char *text);
/* There is none and there will be none: takes the mounts away, but those below which something is
 * mounted; `text` says why. */
void life_give_up(struct keeper *k, const char *text);
bool life_over(const struct keeper *k); /* every mount is gone, or the kernel has closed it */
/* Waits for the nursery's end, and looks whether the server was stopped or goes on. */
void life_reap(struct keeper *k);
void life_signal(const struct keeper *k, int sig); /* to the server, if there is one */
void life_dismiss(struct keeper *k);               /* no server will be needed any more */
void life_leave(struct keeper *k); /* server and nursery are to leave the terminal */
void life_left(struct keeper *k, bool nursery);
/* Is there a server, or will there be one? */
bool life_has(const struct keeper *k);
void life_waits(struct keeper *k, struct waits *w);
void life_tick(struct keeper *k); /* what is due is done */
/* A server from now on: its pid is told by the nursery. */
void life_begin(struct keeper *k);

/* ---- control.c: plenum upgrade ---- */
void control_open(struct keeper *k);
void control_close(struct keeper *k);
void control_dismiss(struct keeper *k); /* nothing of an upgrade is needed any more */
void control_waits(struct keeper *k, struct waits *w);
void control_tick(struct keeper *k);
void control_upgraded(struct keeper *k, pid_t pid); /* the nursery's answer */
void control_stopped(struct keeper *k);             /* the server is */
/* The server has ended: the next one comes from here on out of the new nursery, if it is time. */
void control_died(struct keeper *k);
void control_up(struct keeper *k);   /* the next server answers */
void control_reap(struct keeper *k); /* the processes that it has made */
bool control_busy(const struct keeper *k);
bool control_taking(const struct keeper *k); /* the server was killed so that a new one follows */

#endif
