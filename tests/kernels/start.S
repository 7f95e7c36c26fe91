/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of the test's kernel by PVH: 32 bits, no paging, flat segments. ebx points to the start info, see
   https://xenbits.xen.org/docs/unstable/misc/pvh.html. */
    .section .note.pvh, "a", @note
    .long 4, 4, 18      /* name and content bytes; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .section .text.start, "ax"
    .code32
    .globl start
start:
    movl $stack_end, %esp
    pushl %ebx
    call run
1:  hlt
    jmp 1b

    .section .bss
    .align 16
    .skip 16384
stack_end:
    .section .note.GNU-stack, "", @progbits
