/* SPDX-License-Identifier: MIT */
/*
 * Errors.
 *
 * Inside: a function returns a count or 0, or a negative errno (-ENOENT). Functions that set
 * something up (open a tree, dial, mount) also fill a caller-owned `struct pl_err` with one
 * sentence that names the object and says what to do: "OBJECT: what is wrong (remedy)".
 * The library never prints and never exits; the program prints the sentence.
 */
#ifndef PLENUM_ERROR_H
#define PLENUM_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PL_API          __attribute__((visibility("default")))
#define PL_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PL_API
#define PL_PRINTF(f, a)
#endif

struct pl_err {
    int code;       /* the negative errno that pl_fail() was given; 0 when nothing failed */
    char text[508]; /* the sentence, without newline; safe to print to a terminal */
};

/*
 * Fills `err` (which may be NULL) and returns `code`, so that a function may end with
 * `return pl_fail(err, -ENOENT, "%s: no such directory (make it with mkdir)", dir);`.
 * Control characters and bytes that are not UTF-8 in the result are escaped as \ooo.
 */
PL_API int pl_fail(struct pl_err *err, int code, const char *fmt, ...) PL_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif
#endif
