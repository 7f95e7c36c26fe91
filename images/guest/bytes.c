/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into crun for a container whose documents have strings that are no UTF-8, as the values of environment
 * variables may be: yajl, by which crun reads its documents and writes a copy for later, is configured not to check that.
 * The agent does so (images/agent/helpers/crun.c); no process of a container has it. Must not do anything where crun
 * has another library for JSON.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* Of yajl/yajl_parse.h and yajl/yajl_gen.h. */
enum { DONT_VALIDATE_STRINGS = 2, GEN_PRINT_CALLBACK = 4, GEN_VALIDATE_UTF8 = 8 };

typedef void *make_parser(const void *callbacks, void *allocation, void *context);
typedef int set_option(void *of, int option, ...);

make_parser yajl_alloc;     /* yajl_tree_parse calls this one */
set_option yajl_gen_config; /* and crun this one */

void *yajl_alloc(const void *callbacks, void *allocation, void *context)
{
    make_parser *original;
    set_option *configure;
    *(void **)&original = dlsym(RTLD_NEXT, "yajl_alloc");
    *(void **)&configure = dlsym(RTLD_NEXT, "yajl_config");
    void *parser = original && configure ? original(callbacks, allocation, context) : NULL;
    if (parser)
        configure(parser, DONT_VALIDATE_STRINGS, 1);
    return parser;
}

/* An option has an integer or a pointer, or two pointers: as machine words they can all be passed on. */
int yajl_gen_config(void *generator, int option, ...)
{
    set_option *original;
    va_list given;
    *(void **)&original = dlsym(RTLD_NEXT, "yajl_gen_config");
    if (!original || option == GEN_VALIDATE_UTF8)
        return original != NULL;
    va_start(given, option);
    uintptr_t first = va_arg(given, uintptr_t), second = option == GEN_PRINT_CALLBACK ? va_arg(given, uintptr_t) : 0;
    va_end(given);
    return original(generator, option, first, second);
}
