# From the 64-bit entry of the Linux boot protocol (long mode, CPL 0, %rsi at boot_params) to Rust at CPL 3.
#
# Some hosts run CPL 3 natively and interpret CPL 0 one integer instruction at a time. So everything that can be laid
# out by the assembler is, the few instructions here are the plainest there are, and all the rest runs at CPL 3 with
# IOPL 3 and every page its own to read and write. Interrupts come back here, are counted, and return.

.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_DATA, 0x18 | 3
.set USER_CODE, 0x20 | 3
.set TASK, 0x28

.set RFLAGS_USER, 0x3202            # IOPL 3, interrupts on, and the bit that is always one
.set EXCEPTIONS, 32
.set VECTORS, 256

.set LAPIC, 0xfee00000
.set LAPIC_TASK_PRIORITY, 0x80
.set LAPIC_END_OF_INTERRUPT, 0xb0
.set LAPIC_SPURIOUS, 0xf0
.set LAPIC_ENABLED, 0x100

.section .text.start, "ax"
.globl start
start:
    cli
    cld
    mov rbx, rsi
    mov rsp, offset kernel_stack_top

    # The descriptor of the task-state segment has its base in three pieces.
    mov rax, offset task_state
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov byte ptr [gdt + TASK + 7], ah
    lgdt [gdt_pointer]
    push KERNEL_CODE
    mov rax, offset reload
    push rax
    retfq
reload:
    mov eax, KERNEL_DATA
    mov ss, eax
    mov ds, eax
    mov es, eax
    mov eax, TASK
    ltr ax

    # One gate after the other: the handlers are 16 bytes apart.
    mov rax, offset handlers
    mov rdi, offset idt
    mov ecx, VECTORS
fill_idt:
    mov word ptr [rdi], ax
    mov word ptr [rdi + 2], KERNEL_CODE
    mov word ptr [rdi + 4], 0x8e00      # present, interrupt gate
    mov rdx, rax
    shr rdx, 16
    mov word ptr [rdi + 6], dx
    add rax, 16
    add rdi, 16
    dec ecx
    jnz fill_idt
    lidt [idt_pointer]

    mov rax, offset page_map
    mov cr3, rax
    # SSE for the Rust code: no x87 emulation, no lazy switch, and the two OS bits.
    mov rax, cr0
    and eax, ~0xc
    or eax, 2
    mov cr0, rax
    mov rax, cr4
    or eax, 0x600
    mov cr4, rax

    mov eax, LAPIC + LAPIC_SPURIOUS
    mov dword ptr [rax], LAPIC_ENABLED | 0xff
    mov eax, LAPIC + LAPIC_TASK_PRIORITY
    mov dword ptr [rax], 0

    mov rdi, rbx
    mov rax, offset payload_main
enter_user:
    # The stack is as a call would leave it.
    push USER_DATA
    mov rcx, offset user_stack_top - 8
    push rcx
    push RFLAGS_USER
    push USER_CODE
    push rax
    iretq

# An exception starts `payload_exception(vector, error code, address, cr2)` instead of what went wrong.
exception:
    pop rdi
    pop rsi
    pop rdx
    mov rcx, cr2
    mov r8, rcx
    push USER_DATA
    mov rax, offset user_stack_top - 8
    push rax
    push RFLAGS_USER
    push USER_CODE
    mov rax, offset payload_exception
    push rax
    iretq

interrupt:
    push rax
    mov rax, [rsp + 8]
    lock inc qword ptr [rax * 8 + interrupt_counts]
    mov eax, LAPIC + LAPIC_END_OF_INTERRUPT
    mov dword ptr [rax], 0
    pop rax
    add rsp, 8
    iretq

# One handler per vector: leave its number (and a zero where the CPU pushes no error code) and go on in common.
.balign 16
handlers:
.set vector, 0
.rept VECTORS
    .balign 16
    .if vector < EXCEPTIONS
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        .else
    push 0
        .endif
    push vector
    jmp exception
    .else
    push vector
    jmp interrupt
    .endif
    .set vector, vector + 1
.endr

# What an application processor runs, copied to below 1 MiB: count itself in the word behind the code, then wait for ever.
# 16 bits; the code segment is where it was copied to.
.set PROCESSOR_COUNT, 16
.globl processor_start
.globl processor_start_end
.globl processor_start_count
.code16
.balign 16
processor_start:
    lock inc word ptr cs:[PROCESSOR_COUNT]
processor_wait:
    hlt
    jmp processor_wait
.org processor_start + PROCESSOR_COUNT
processor_start_count:
    .word 0
processor_start_end:
.code64

.data
.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # kernel code
    .quad 0x00cf93000000ffff        # kernel data
    .quad 0x00cff3000000ffff        # user data
    .quad 0x00affb000000ffff        # user code
    .quad 0x0000890000000000 + 104 + 8192, 0     # task state, with its I/O permission map
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word VECTORS * 16 - 1
    .quad idt

.balign 16
task_state:
    .long 0
    .quad kernel_stack_top          # RSP for CPL 0
    .zero 90
    .word 104                       # the I/O permission map follows: every port is open
    .zero 65536 / 8
    .byte 0xff                      # ends it

# Present, writable, user; the last level maps 2 MiB a time. Caching is left to the MTRRs.
.set PRESENT, 7
.set LARGE, 0x87
.set MAPPED_GIB, 68
.balign 4096
page_map:
    .quad page_pointers + PRESENT
    .zero 4096 - 8
page_pointers:
.set gib, 0
.rept MAPPED_GIB
    .quad page_directories + gib * 4096 + PRESENT
    .set gib, gib + 1
.endr
    .zero 4096 - 8 * MAPPED_GIB
page_directories:
.set address, 0
.rept MAPPED_GIB * 512
    .quad address + LARGE
    .set address, address + 0x200000
.endr

.bss
.balign 4096
.globl idt
idt:
    .zero VECTORS * 16
.globl interrupt_counts
interrupt_counts:
    .zero VECTORS * 8
kernel_stack:
    .zero 4096
kernel_stack_top:
user_stack:
    .zero 65536
user_stack_top:
.text
