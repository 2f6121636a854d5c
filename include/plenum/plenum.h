/* SPDX-License-Identifier: MIT */
/* Everything that a program needs to write a file server or a layer and to open its doors. */
#ifndef PLENUM_PLENUM_H
#define PLENUM_PLENUM_H

#include <plenum/app.h>
#include <plenum/call.h>
#include <plenum/client.h>
#include <plenum/error.h>
#include <plenum/made.h>
#include <plenum/node.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <plenum/tree.h>
#include <plenum/walk.h>

#endif
