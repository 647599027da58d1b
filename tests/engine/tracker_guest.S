/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest in one boot sector for the tests of trackers. It gives 8192 pages from 1 MiB on a signature,
 * says F on the first serial port, and then for ever picks a page by a linear congruential generator,
 * checks the signature, counts the visit at both ends of the page, and says '.' after 1024 visits. A
 * signature that is wrong makes it say X and stop.
 */
.intel_syntax noprefix

.set FIRST, 0x100000
.set PAGES, 8192
.set MAGIC, 0x60d317a5
.set SERIAL, 0x3f8
.set DELAY, 2000

.code16
.globl _start
_start:
    cli
    xor ax, ax
    mov ds, ax
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmp 0x08, offset protected

.code32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov dx, SERIAL
    xor ecx, ecx
fill:
    mov eax, ecx
    shl eax, 12
    mov ebx, ecx
    xor ebx, MAGIC
    mov [eax + FIRST], ebx
    mov dword ptr [eax + FIRST + 4], 0
    inc ecx
    cmp ecx, PAGES
    jb fill
    mov al, 'F'
    out dx, al
    mov ebx, 1
    xor esi, esi
visit:
    imul ebx, ebx, 1103515245
    add ebx, 12345
    mov eax, ebx
    shr eax, 16
    and eax, PAGES - 1
    mov ecx, eax
    xor ecx, MAGIC
    shl eax, 12
    cmp [eax + FIRST], ecx
    jne broken
    mov ecx, [eax + FIRST + 4]
    inc ecx
    mov [eax + FIRST + 4], ecx
    mov [eax + FIRST + 4092], ecx
    mov ecx, DELAY
rest:
    dec ecx
    jnz rest
    inc esi
    test esi, 0x3ff
    jnz visit
    mov al, '.'
    out dx, al
    jmp visit
broken:
    mov al, 'X'
    out dx, al
halt:
    hlt
    jmp halt

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff /* code: flat, 32 bits */
    .quad 0x00cf92000000ffff /* data: flat */
gdt_pointer:
    .word 23
    .long gdt

    .org 510
    .word 0xaa55
