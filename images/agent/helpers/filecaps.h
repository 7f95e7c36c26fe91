/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 9p carries no security.capability, so the host writes down what the image had: lines of `<hex> <path>`. Setting the
 * attribute on the overlay copies the file up, once per container. Paths are those of the image: they stay below its root.
 */
#ifndef CLEARPOD_FILECAPS_H
#define CLEARPOD_FILECAPS_H

#include "base/fault.h"

int filecaps_apply(const char *root, const char *list, struct fault *why);

#endif
