/* SPDX-License-Identifier: MIT */
/*
 * How a process asks the view that it is in for a line to the view's server: by a mount(2) that a
 * filter of the view intercepts. It returns a descriptor, close-on-exec, of a connected socket
 * (SOCK_SEQPACKET; what is said on it: cmd/viewlink.h). Where no view is, the real call fails with
 * ENOENT, whoever makes it, since its target is the empty path; a view whose server is gone,
 * ENOSYS.
 *
 *     fd = syscall(SYS_mount, "vpath", "", NULL, VIEW_CALL_FLAGS, NULL);
 *
 * The filter knows it by the flags, all 64 bits, which mean nothing to the kernel.
 */
#ifndef VIEW_CALL_H
#define VIEW_CALL_H

#include <stdint.h>

#define VIEW_CALL_FLAGS UINT64_C(0x7670617468) /* "vpath" */

#endif
