/* SPDX-License-Identifier: MIT */
/* Which sanitizer the test is built with: 0 or 1 each. gcc defines a macro, clang has a feature. */
#ifndef TEST_UNIT_SANITIZER_H
#define TEST_UNIT_SANITIZER_H

#if defined(__has_feature)
#define ADDRESS_SANITIZER __has_feature(address_sanitizer)
#define THREAD_SANITIZER  __has_feature(thread_sanitizer)
#else
#ifdef __SANITIZE_ADDRESS__
#define ADDRESS_SANITIZER 1
#else
#define ADDRESS_SANITIZER 0
#endif
#ifdef __SANITIZE_THREAD__
#define THREAD_SANITIZER 1
#else
#define THREAD_SANITIZER 0
#endif
#endif

#endif
