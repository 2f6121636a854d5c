/* SPDX-License-Identifier: MIT */
/*
 * The keeper reads the device while no server does: whoever was interrupted is let go.
 *
 * A caller whose request nobody has read yet is freed by the kernel when it is killed. One whose
 * request was read waits for the answer, immune to SIGKILL; the kernel asks for it by an INTERRUPT,
 * which comes before all other requests. So INTERRUPTs must be read and answered (-EINTR, to the
 * request meant) also when the server is dead, stopped or hangs. They cannot be read alone:
 *
 *  - Other requests that come along are left unanswered ("swallowed"). FUSE_NOTIFY_RESEND makes the
 *    kernel queue again whatever was read and not answered, by whomever. Who swallows, resends:
 *    stand_in_end() does it when a server that was stopped goes on; a successor does it by itself
 *    when it begins, and from the word to begin on nothing is read here. So between the last
 *    swallowing and whatever a server reads next there is always a resend, but for a server that
 *    goes on a moment before we know; what it reads in that moment is new. No request waits for
 *    ever; one that is asked twice is the door's to recognize.
 *  - FORGETs are never resent. They are noted and taken off the ledger's counts before the next
 *    server begins. Under a server that was only stopped the counts stay too high until then:
 *    a node is kept longer than needed, and nothing worse, since a nodeid whose count is too
 *    high is never used anew.
 *
 * A server that goes on (SIGCONT) reads beside us for a moment. That is why we read from a
 * descriptor of our own (FUSE_DEV_IOC_CLONE), which does not block. What is read from it can only
 * be answered through it, and what the server has read only through the server's: an answer is
 * tried on both. A clone's requests die with it, so it is closed only with the mount.
 *
 * Where callers wait for the other end for so long only (`soft`), and there has been no server for
 * that time, which may be because the next one waits for the other end, they get ETIMEDOUT: those
 * that wait, for which all is asked for once more, and whoever comes until a server reads again.
 * What nobody waits for (RELEASE) is the next server's as ever.
 *
 * INIT is never here: before it is answered there is a first server or none.
 */
#ifndef KEEPER_STAND_IN_H
#define KEEPER_STAND_IN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kept;
struct forgot;
struct nested;

struct stand_in {
    int fd; /* the clone, or -1: not needed yet */
    bool swallowed;
    bool soft; /* who asks gets ETIMEDOUT */
    struct forgot *forgot;
    size_t nforgot, room;
    uint64_t held[64]; /* uniques whose INTERRUPT came, and nobody was to end yet */
    size_t nheld;
    struct nested *nested; /* keeper/nested.h */
};

/* The descriptor to poll for POLLIN; -1 if there can be none. */
int stand_in_open(struct kept *m);
/* Reads what waits, lets interrupted callers go. Does not block. */
void stand_in_let_go(struct kept *m);
/* From now on, until a server reads again, callers get ETIMEDOUT. */
void stand_in_soft(struct kept *m);
/* An INTERRUPT comes for any signal, also for one that a program handles and goes on (SIGCHLD),
 * and does not say for which: where Linux's own file systems would not give EINTR we had better not
 * either. So it is held until some process in the system has a signal pending that is meant to end
 * it (which lasts only as long as it waits for something), and this is called every STAND_IN_LOOK
 * ms while any is held. */
#define STAND_IN_LOOK 50
void stand_in_look(struct kept *m);
/* A server reads again: asks the kernel to send anew what was swallowed. */
void stand_in_end(struct kept *m);
/* The next server is about to ask for all by itself: brings the ledger up to date. */
void stand_in_settle(struct kept *m);
void stand_in_close(struct kept *m);

/* For keeper/nested.c: reads one request without blocking, its length, 0 if none waits, or a
 * negative errno; sends an answer; asks for everything unanswered once more. */
int stand_in_read(struct kept *m, void **ret);
void stand_in_answer(struct kept *m, uint64_t unique, int error, const void *data, size_t n);
int stand_in_resend(struct kept *m);

#endif
