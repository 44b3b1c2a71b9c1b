//! Sleeps until it is killed: the sandbox container that other runtimes want.
#![no_std]
#![no_main]

use core::arch::global_asm;

// ppoll(NULL, 0, NULL, NULL), for ever.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start", "_start:", "mov eax, 271", "xor edi, edi", "xor esi, esi", "xor edx, edx",
    "xor r10d, r10d", "xor r8d, r8d", "syscall", "jmp _start"
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start", "_start:", "mov x8, #73", "mov x0, #0", "mov x1, #0", "mov x2, #0",
    "mov x3, #0", "mov x4, #0", "svc #0", "b _start"
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
