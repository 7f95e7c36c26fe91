/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel that only tells when it was entered: `TSC` and eight bytes of the time stamp counter, little endian, on
 * the serial port, then a triple fault, which resets the machine (QEMU ends by -no-reboot).
 *
 * tests/bench/boot.py assembles it twice and boots it in the place of the real kernel, with everything else as it is:
 * what the firmware and the loader did before the kernel's first instruction then lies in front of us.
 *   -DPVH   an ELF file with a PVH note, entered in 32-bit protected mode, as our vmlinux is
 *   else    a bzImage (protocol 2.12), entered in real mode, as a distribution's kernel is
 */
#define COM1 0x3f8

#ifdef PVH
	.section .note.Xen, "a", @note
	.long 4, 4, 18			/* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start
	.text
	.code32
#else
	.text
	.code16
	.org 0x1f1
	.byte 1				/* setup_sects */
	.word 0
	.long 1				/* 16-byte units of protected mode code */
	.word 0, 0, 0
	.word 0xaa55
	jmp _start			/* 0x200, where the loader jumps */
	.org 0x202
	.ascii "HdrS"
	.word 0x020c, 0, 0, 0, 0
	.byte 0, 0x01			/* any loader; loaded high */
	.word 0x8000
	.long 0x100000, 0, 0, 0
	.word 0xde00, 0
	.long 0, 0x7fffffff, 0x200000
	.byte 0, 0
	.word 0
	.long 4096			/* cmdline_size */
	.org 0x280
#endif

	.globl _start
_start:
	rdtsc
	movl %eax, %esi
	movl %edx, %edi
	movw $COM1, %dx
	movb $'T', %al
	outb %al, %dx
	movb $'S', %al
	outb %al, %dx
	movb $'C', %al
	outb %al, %dx
	movw $8, %cx
1:	movl %esi, %eax
	outb %al, %dx
	shrdl $8, %edi, %esi
	shrl $8, %edi
	decw %cx
	jnz 1b
#ifndef PVH
	movw %cs, %ax			/* the table below, seen from the code segment */
	movw %ax, %ds
	lidt (nowhere - 0x200)
#else
	lidt nowhere
#endif
	int3
	.balign 8
nowhere:
	.long 0, 0
#ifndef PVH
	.org 0x400
	.fill 4096, 1, 0xf4
#endif
