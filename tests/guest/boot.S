/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifiable guest's way up: a boot sector that loads the rest of the program, the step into 64-bit
 * mode, and the step back to real mode for each BIOS call. It knows nothing of patterns or disks; that
 * is guest.c.
 *
 * Memory below 1 MiB (guest.h has the same numbers for C):
 *   0x07c00  boot sector; the real-mode stack grows down from here
 *   0x08000  this program, at most 64 KiB with its variables
 *   0x20000  disk buffer, 64 KiB
 *   0x30000  the BIOS's memory map: a count, then 24-byte entries
 *   0x40000  page tables: one PML4, one PDPT, 16 page directories (16 GiB, identity mapped)
 *   0x80000  the 64-bit stack grows down from here
 */
#define STAGE_ADDRESS   0x8000
#define STAGE_SECTORS   62
#define MAP_ADDRESS     0x30000
#define MAP_SEGMENT     0x3000
#define MAP_LIMIT       64
#define TABLES          0x40000
#define DIRECTORY_COUNT 16
#define STACK_TOP       0x80000
#define CODE32          0x08
#define DATA32          0x10
#define CODE16          0x18
#define DATA16          0x20
#define CODE64          0x28
#define MSR_EFER        0xc0000080

    .section .boot, "ax"
    .code16
    .globl boot_start
boot_start:
    ljmp $0, $1f
1:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, boot_drive
    /* Sector 1 is the configuration; the program lies in the sectors after it. */
    movw $packet, %si
    movb $0x42, %ah
    int $0x13
    jc boot_failed
    ljmp $0, $STAGE_ADDRESS
boot_failed:
    movw $boot_message, %si
2:  lodsb
    testb %al, %al
    jz 3f
    xorw %dx, %dx
    movb $0x0e, %ah
    int $0x10
    jmp 2b
3:  hlt
    jmp 3b
boot_message:
    .asciz "godwit guest: cannot read the disk\r\n"
    .balign 4
packet:
    .byte 16, 0
    .word STAGE_SECTORS
    .word STAGE_ADDRESS, 0
    .quad 2
    .globl boot_drive
boot_drive:
    .byte 0
    .org 510
    .byte 0x55, 0xaa

    .section .entry, "ax"
    .code16
    .globl stage_start
stage_start:
    movw $0x2401, %ax /* A20 on */
    int $0x15
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    call read_memory_map
    cli
    call enter_protected

    .code32
    call build_tables
    movl $STACK_TOP, %esp
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    call enter_long
    .code64
    movq $STACK_TOP, %rsp
    call guest_main
4:  hlt
    jmp 4b

    .code16
/* Collects what INT 15h E820h says: usable ranges are found by guest.c. */
read_memory_map:
    movw $MAP_SEGMENT, %ax
    movw %ax, %es
    movw $8, %di
    xorl %ebx, %ebx
    xorw %bp, %bp
5:  movl $0xe820, %eax
    movl $24, %ecx
    movl $0x534d4150, %edx
    int $0x15
    jc 6f
    cmpl $0x534d4150, %eax
    jne 6f
    addw $24, %di
    incw %bp
    cmpw $MAP_LIMIT, %bp
    jae 6f
    testl %ebx, %ebx
    jnz 5b
6:  movzwl %bp, %eax
    movl %eax, %es:0
    xorw %ax, %ax
    movw %ax, %es
    ret

/* From real mode to 32-bit protected mode, returning to the caller's 32-bit code. */
enter_protected:
    popw %bp
    lgdtl table_pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmp $CODE32, $7f
    .code32
7:  movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movzwl %bp, %ebp
    movl $0x7c00, %esp
    jmp *%ebp

/* Identity maps 16 GiB with 2 MiB pages. */
build_tables:
    movl $TABLES, %edi
    xorl %eax, %eax
    movl $((2 + DIRECTORY_COUNT) * 1024), %ecx
    rep stosl
    movl $(TABLES + 0x1000 + 3), TABLES
    movl $(TABLES + 0x2000 + 3), %eax
    movl $(TABLES + 0x1000), %edi
    movl $DIRECTORY_COUNT, %ecx
8:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 8b
    movl $(TABLES + 0x2000), %edi
    movl $0x83, %eax /* present, writable, 2 MiB */
    xorl %edx, %edx
    movl $(DIRECTORY_COUNT * 512), %ecx
9:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    loop 9b
    ret

/* From 32-bit protected mode to 64-bit mode, returning to the caller's 64-bit code. */
enter_long:
    popl %ebp
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $CODE64, $10f
    .code64
10: movl %ebp, %ebp
    jmp *%rbp

/*
 * uint32_t bios_call(uint32_t request, uint32_t ax, uint32_t dx, uint32_t si)
 * request 0: INT 13h with these registers; answers AH, or 0x100 where carry is clear.
 * request 1: waits for the next interrupt with interrupts enabled, so that the BIOS counts its tick.
 */
    .globl bios_call
bios_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movl %edi, call_request
    movl %esi, call_ax
    movl %edx, call_dx
    movl %ecx, call_si
    movq %rsp, saved_stack
    pushq $CODE32
    pushq $11f
    lretq
    .code32
11: movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $MSR_EFER, %ecx
    rdmsr
    andl $0xfffffeff, %eax
    wrmsr
    ljmp $CODE16, $12f
    .code16
12: movw $DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andl $0xfffffffe, %eax
    movl %eax, %cr0
    ljmp $0, $13f
13: xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movw $0x7c00, %sp
    lidtl real_interrupts
    cmpl $0, call_request
    jne 14f
    movw call_ax, %ax
    movw call_dx, %dx
    movw call_si, %si
    sti
    int $0x13
    cli
    movzbl %ah, %eax
    jc 15f
    movl $0x100, %eax
    jmp 15f
14: sti
    hlt
    cli
    xorl %eax, %eax
15: xorw %bx, %bx
    movw %bx, %ds
    movw %bx, %ss
    movl %eax, call_answer
    cld
    call enter_protected
    .code32
    call enter_long
    .code64
    movq saved_stack, %rsp
    movl call_answer, %eax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .balign 8
call_request:
    .long 0
call_ax:
    .long 0
call_dx:
    .long 0
call_si:
    .long 0
call_answer:
    .long 0
    .balign 8
saved_stack:
    .quad 0
real_interrupts:
    .word 0x3ff
    .long 0
    .balign 8
descriptors:
    .quad 0
    .quad 0x00cf9b000000ffff /* CODE32: flat */
    .quad 0x00cf93000000ffff /* DATA32: flat */
    .quad 0x00009b000000ffff /* CODE16 */
    .quad 0x000093000000ffff /* DATA16 */
    .quad 0x00af9b000000ffff /* CODE64 */
table_pointer:
    .word table_pointer - descriptors - 1
    .long descriptors
