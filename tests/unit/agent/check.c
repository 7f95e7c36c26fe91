/* SPDX-License-Identifier: Apache-2.0 */
/* Runs all cases: check_agent VECTORS-DIR. See check.h. */
#include "check.h"

static struct {
    const char *name;
    void (*run)(void);
} cases[128];
static int count;
const char *vectors_dir;

void check_case(const char *name, void (*run)(void))
{
    cases[count].name = name;
    cases[count++].run = run;
}

int main(int argc, char **argv)
{
    vectors_dir = argc > 1 ? argv[1] : "";
    for (int i = 0; i < count; i++) {
        printf("%s\n", cases[i].name);
        fflush(stdout);
        cases[i].run();
    }
    printf("%d cases\n", count);
    return count ? 0 : 1;
}
