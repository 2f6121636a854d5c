/* SPDX-License-Identifier: MIT */
/*
 * Everything that a peer controls has a limit, and all the limits stand here.
 *
 * X(NAME, VALUE, unit, what). In code: LIMIT_NAME. `plenum help limits` and the tests walk the same
 * table. A limit is enforced where the count is taken from the peer, before memory is spent on it.
 *
 * Why REQUESTS_USED <= REQUESTS_SERVED / 2: the reader of a connection stops taking messages off
 * the channel when it serves REQUESTS_SERVED requests at once. If the using halves of the two ends
 * could fill each other's slots, then answers would be stuck behind requests that nobody reads, and
 * both ends would wait for good. One of us never has more than REQUESTS_USED requests (and
 * BYTES_USED bytes of them) under way, Tflushes included, so that our reader never stops for one of
 * us. A foreign client that sends more has no serving half in our way: it only waits.
 *
 * Why they are as large as they are: what is under way on a link of 50 ms of round trip is no more
 * than 1/20 s of its bytes. AHEAD and BEHIND are 16 MiB, for 300 MiB/s; BYTES_USED has room for one
 * of them and half of the other, and for what else is asked meanwhile; LINK_KEPT keeps all of that;
 * BYTES_SERVED is twice BYTES_USED and more, for the reason above.
 */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#define LIMITS(X)                                                                                  \
    X(MSIZE_MAX, 1048576, "bytes", "largest 9P message, negotiated at most")                       \
    X(MSIZE_MIN, 4096, "bytes", "a peer that wants smaller messages is refused")                   \
    X(WALK, 16, "names", "in one Twalk")                                                           \
    X(NAME, 255, "bytes", "a file's or attribute's name")                                          \
    X(STRING, 4095, "bytes", "any other string: a symlink's target, an attach name")               \
    X(FIDS, 1048576, "fids", "in use at once on one connection")                                   \
    X(FIDS_ALL, 4194304, "fids", "of all connections to one server; one has at most what is free") \
    X(REQUESTS_SERVED, 512, "requests", "of one connection taken and not yet answered")            \
    X(REQUESTS_HELD, 4096, "requests", "the same, with those that said that they wait")            \
    X(REQUESTS_USED, 128, "requests", "sent over one connection and not yet answered")             \
    X(FLUSHES_USED, 130, "requests", "Tflush, Tend and keepalive, besides")                        \
    X(BYTES_SERVED, 67108864, "bytes", "of requests and answers held for one connection")          \
    X(BYTES_USED, 25165824, "bytes", "of requests sent over one connection and not yet answered")  \
    X(BYTES_ALL, 536870912, "bytes", "of requests and answers held for all connections")           \
    X(WHOLE, 30, "seconds", "for a message that has begun to come, and what SLOWEST adds")         \
    X(STALLED, 120, "seconds", "for answers to be taken, and what SLOWEST adds")                   \
    X(SLOWEST, 4096, "bytes a second", "that a link must carry at least")                          \
    X(GOODBYE, 10, "seconds", "for a server to answer the last requests of a client that goes")    \
    X(HELLO, 30, "seconds", "for the first message, or the first answer, of who is new")           \
    X(RETURN, 5, "seconds",                                                                        \
      "at least, for the answer to a link's first redial; then twice as long")                     \
    X(FLUSH, 10, "seconds",                                                                        \
      "for a server to answer Tflush, until its caller goes on all the same")                      \
    X(HANDSHAKES, 512, "clients", "of one tls! address that have not shown who they are yet")      \
    X(CERTIFICATES, 16384, "bytes", "of certificates that a TLS peer shows")                       \
    X(KEY_OFFERS, 4, "keys", "pre-shared, of those that a TLS client offers, are looked for")      \
    X(KEY_FILE, 1048576, "bytes", "of a file of keys or certificates")                             \
    X(MAP, 65536, "entries", "of a map of ids")                                                    \
    X(MAP_FILE, 4194304, "bytes", "of a file of such a map")                                       \
    X(ACCESS_RULES, 4096, "rules", "of an access file")                                            \
    X(CONNECTIONS, 16384, "connections", "to one server")                                          \
    X(PEER, 4096, "connections", "of these, by one user, address or key")                          \
    X(LINKS, 16384, "links", "of one server, up or down")                                          \
    X(AHEAD, 16777216, "bytes",                                                                    \
      "read ahead for all open files of a mount of a 9P server together")                          \
    X(BEHIND, 16777216, "bytes", "written behind, likewise, and not yet acknowledged")             \
    X(LENT, 256, "descriptors", "of a server's files, lent to a mount of it on the same machine")  \
    X(LINK_KEPT, 33554432, "bytes", "sent over one link and not yet acknowledged")                 \
    X(LINK_FRAME, 4194304, "bytes", "in one frame of a link")                                      \
    X(LINGER, 604800, "seconds", "that a link without its far end is waited for")                  \
    X(FAILOVER, 10, "seconds", "that a server may be silent before another of its SPEC is tried")  \
    X(VISITORS, 16, "connections", "to a duct that wait to turn out to be its peer, come back")    \
    X(SESSIONS, 1024, "clients", "whose operations a server remembers")                            \
    X(SESSION_KEPT, 86400, "seconds", "that a client without a connection is remembered")          \
    X(SESSION_OPS, 256, "operations", "remembered for one client; it has no more under way")       \
    X(CREW, 64, "threads", "that run requests, not counting those that wait")                      \
    X(CREW_WAITING, 4096, "threads", "that run or wait in all connections together")               \
    X(XATTR_VALUE, 65536, "bytes", "an extended attribute, or a list of their names")              \
    X(XATTR_BYTES, 16777216, "bytes", "of extended attributes held by fids of one connection")     \
    X(LOCK_OWNERS, 16384, "owners", "that hold locks through the fids of one connection")          \
    X(USERS, 4096, "users", "of one mount of a 9P server, each with an attach of its own")         \
    X(LOCK_WAITS, 256, "requests", "of one connection that wait for a lock")                       \
    X(PEOPLE, 1024, "names", "of users and groups that are remembered")                            \
    X(DIRECTORY, 67108864, "bytes", "of one open directory of a 9P2000 server")                    \
    X(SPECIAL, 4096, "files", "of one server that a 9P2000 client made append-only or exclusive")  \
    X(IOCTL, 16384, "bytes", "of an ioctl's argument, each way")                                   \
    X(DOCUMENTS, 1073741824, "bytes", "of all open documents of a made tree")

enum limits {
#define X(name, value, unit, what) LIMIT_##name = value,
    LIMITS(X)
#undef X
};

#endif
