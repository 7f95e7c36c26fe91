/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands where a bzImage has its decompressor: the way from 32-bit protected mode to the kernel's own 64-bit entry,
 * which lies, not compressed, behind it in the same file (lib/bzimage.py puts it there). Linked at 1 MiB, where every loader of the
 * x86 boot protocol puts the protected mode part. The kernel's real mode part, which is kept, comes here by code32_start with
 * %esi = boot_params; a loader that enters in long mode comes to +0x200 with %rsi. Both need the first GiB mapped as it
 * is, and nothing else of the machine's state. ENTRY is the kernel's physical entry.
 */
#define PAGE_FLAGS 3			/* present, writable */
#define HUGE_FLAGS 0x83			/* 2 MiB of it */

	.text
	.globl _start
	.code32
_start:
	cli
	cld
	lgdt	table
	movl	$0x18, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	%cr4, %eax
	orl	$0x20, %eax		/* physical address extension */
	movl	%eax, %cr4
	movl	$level4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER */
	rdmsr
	orl	$0x100, %eax		/* long mode */
	wrmsr
	movl	$0x80000001, %eax	/* paging, protected mode */
	movl	%eax, %cr0
	ljmp	$0x10, $long_mode

	.org	0x200
	.code64
long_mode:
	movl	$ENTRY, %eax
	jmp	*%rax

	.balign	8
descriptors:
	.quad	0, 0
	.quad	0x00af9a000000ffff	/* 0x10: code, 64 bits */
	.quad	0x00cf92000000ffff	/* 0x18: data */
table:
	.word	. - descriptors - 1
	.long	descriptors

	.balign	4096
level4:
	.long	level3 + PAGE_FLAGS, 0
	.fill	511, 8
level3:
	.long	level2 + PAGE_FLAGS, 0
	.fill	511, 8
level2:
	.set	address, 0
	.rept	512
	.quad	address + HUGE_FLAGS
	.set	address, address + 0x200000
	.endr
