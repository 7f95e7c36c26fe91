/* SPDX-License-Identifier: Apache-2.0 */
/* See format.h. */
#include "format.h"

#include <stdbool.h>
#include <string.h>

struct text {
    char *to;
    size_t capacity, size;
};

static void put(struct text *text, const char *bytes, size_t size)
{
    size_t left = text->size < text->capacity ? text->capacity - text->size : 0;
    if (left)
        memcpy(text->to + text->size, bytes, size < left ? size : left);
    text->size += size;
}

static void put_number(struct text *text, long number, size_t width)
{
    char digits[24];
    size_t at = sizeof digits;
    unsigned long rest = number < 0 ? 0 - (unsigned long)number : (unsigned long)number;
    do
        digits[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) || sizeof digits - at < width);
    if (number < 0)
        digits[--at] = '-';
    put(text, digits + at, sizeof digits - at);
}

size_t format_args(char *to, size_t capacity, const char *pattern, va_list args)
{
    struct text text = {to, capacity ? capacity - 1 : 0, 0};
    for (const char *at = pattern; *at; at++) {
        size_t plain = strcspn(at, "%");
        put(&text, at, plain);
        at += plain;
        if (!*at++)
            break;
        bool is_cut = !strncmp(at, ".*", 2);
        size_t width = *at == '0' ? (size_t)(at[1] - '0') : 0;
        int most = is_cut ? va_arg(args, int) : 0;
        at += is_cut || width ? 2 : 0;
        if (*at == 's') {
            const char *piece = va_arg(args, const char *);
            put(&text, piece, is_cut ? strnlen(piece, (size_t)most) : strlen(piece));
        } else if (*at == 'l') {
            at++;
            put_number(&text, va_arg(args, long), width);
        } else {
            put_number(&text, *at == 'u' ? (long)va_arg(args, unsigned) : va_arg(args, int), width);
        }
    }
    if (capacity)
        to[text.size < capacity ? text.size : capacity - 1] = 0;
    return text.size;
}

size_t format(char *to, size_t capacity, const char *pattern, ...)
{
    va_list args;
    va_start(args, pattern);
    size_t size = format_args(to, capacity, pattern, args);
    va_end(args);
    return size;
}
