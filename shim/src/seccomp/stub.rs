//! System calls that are newer than a profile are missing, not forbidden.
//!
//! A profile answers what it doesn't name with an error, usually EPERM. For a
//! call that its authors could not know that is the wrong one: libraries take
//! ENOSYS as the sign to use an older call and give up on EPERM. So a few
//! instructions before the program answer ENOSYS to every number above the
//! highest that the profile names.

use libseccomp::{ScmpArch, ScmpSyscall};

/// Instructions of one architecture's block.
const BLOCK: u32 = 6;
/// On x86-64 the numbers from here on are those of x32.
const X32_BIT: u32 = 0x4000_0000;

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const RETURN_ENOSYS: u32 = 0x0005_0000 | 38; // SECCOMP_RET_ERRNO
/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The program's beginning, for these architectures and names.
pub(super) fn instructions(architectures: &[ScmpArch], names: &[&str]) -> Vec<u8> {
    let highest = |architecture: &ScmpArch| {
        let token = audit_token(*architecture)?;
        let numbers = names.iter().filter_map(|name| {
            let call = ScmpSyscall::from_name_by_arch(name, *architecture).ok()?;
            // Negative: a call that this architecture doesn't have.
            u32::try_from(call.as_raw_syscall()).ok()
        });
        Some((token, numbers.filter(|number| *number < X32_BIT).max()?))
    };
    let known: Vec<_> = architectures.iter().filter_map(highest).collect();
    let mut program = Vec::new();
    if !known.is_empty() {
        push(&mut program, LOAD_WORD, 0, 0, ARCHITECTURE);
    }
    for (left, (token, highest)) in (0..known.len()).rev().zip(known) {
        let blocks = u32::try_from(left).unwrap_or(0);
        push(&mut program, JUMP_EQUAL, 0, 5, token);
        push(&mut program, LOAD_WORD, 0, 0, NUMBER);
        push(&mut program, JUMP_GREATER_OR_EQUAL, 2, 0, X32_BIT);
        push(&mut program, JUMP_GREATER, 0, 1, highest);
        push(&mut program, RETURN, 0, 0, RETURN_ENOSYS);
        push(&mut program, JUMP, 0, 0, blocks * BLOCK);
    }
    program
}

fn push(program: &mut Vec<u8>, code: u16, jump_true: u8, jump_false: u8, k: u32) {
    program.extend_from_slice(&code.to_ne_bytes());
    program.extend_from_slice(&[jump_true, jump_false]);
    program.extend_from_slice(&k.to_ne_bytes());
}

/// AUDIT_ARCH_* of linux/audit.h. None: the block is left out. (x32 shares
/// x86-64's and is told apart by its bit.)
fn audit_token(architecture: ScmpArch) -> Option<u32> {
    const TOKENS: [(ScmpArch, u32); 9] = [
        (ScmpArch::X86, 0x4000_0003),
        (ScmpArch::X8664, 0xc000_003e),
        (ScmpArch::Arm, 0x4000_0028),
        (ScmpArch::Aarch64, 0xc000_00b7),
        (ScmpArch::Ppc64Le, 0xc000_0015),
        (ScmpArch::S390X, 0x8000_0016),
        (ScmpArch::S390, 0x0000_0016),
        (ScmpArch::Riscv64, 0xc000_00f3),
        (ScmpArch::Loongarch64, 0xc000_0102),
    ];
    TOKENS
        .into_iter()
        .find(|(known, _)| *known == architecture)
        .map(|(_, token)| token)
}
