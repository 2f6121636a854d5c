/* SPDX-License-Identifier: MIT */
/*
 * Memory that a stuck disk cannot take. When memory is short the kernel writes dirty pages, perhaps
 * those of our own mount, which takes us; so we must not be waiting for memory ourselves.
 */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

enum memory_lock {
    MEMORY_FREE,   /* not locked: a finite limit (RLIMIT_MEMLOCK) that cannot be lifted */
    MEMORY_LOCKED, /* and it stays so */
    MEMORY_BY_CAP, /* locked beyond the limit: without CAP_IPC_LOCK in effect, mmap would fail */
};
/* Keeps in memory whatever this process has used, and uses from now on, its code too. Only what is
 * used is charged, so large stacks and buffers cost nothing that they would not cost anyway. Under
 * a limit nothing is locked, because then any later allocation might fail. */
enum memory_lock memory_lock(void);

/* In the calling thread, and those it starts: memory that the kernel needs on its behalf is found
 * without writing anything, and its writes are not held up for what others have written
 * (PR_SET_IO_FLUSHER). Needs CAP_SYS_RESOURCE; without it nothing happens. Signal-safe. */
void memory_flusher(void);

#endif
