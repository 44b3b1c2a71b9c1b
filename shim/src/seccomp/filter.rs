//! From a profile to the program.

use std::collections::HashSet;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::profile::{ArchMapping, Facts, Profile, Request, Rule, parse_kernel};
use super::{SeccompError, stub};

/// A binary search among system calls, in place of a chain.
const OPTIMIZE_BINARY_TREE: u32 = 2;
/// `BPF_MAXINSNS` of linux/bpf_common.h.
const INSTRUCTIONS: usize = 4096;

/// Compiles a profile for this machine: an array of `struct sock_filter`.
///
/// # Errors
/// What the profile asks for and can't be given.
pub fn compile(request: &Request) -> Result<Vec<u8>, SeccompError> {
    let profile = &request.profile;
    let default = action(profile.default_action, profile.default_errno_ret)?;
    let library = |operation: &str| {
        let operation = operation.to_owned();
        move |source| SeccompError::Library { operation, source }
    };
    let mut filter = ScmpFilterContext::new(default).map_err(library("seccomp_init"))?;
    filter
        .set_ctl_optimize(OPTIMIZE_BINARY_TREE)
        .map_err(library("set SCMP_FLTATR_CTL_OPTIMIZE"))?;
    let native = ScmpArch::native();
    let mut architectures = vec![native];
    for architecture in foreign_architectures(profile, native) {
        filter
            .add_arch(architecture)
            .map_err(library("seccomp_arch_add"))?;
        if !architectures.contains(&architecture) {
            architectures.push(architecture);
        }
    }
    let kernel = nix::sys::utsname::uname()
        .ok()
        .and_then(|uname| parse_kernel(&uname.release().to_string_lossy()))
        .unwrap_or_default();
    let facts = Facts {
        capabilities: &request.capabilities,
        architecture: go_name(std::env::consts::ARCH),
        kernel,
    };
    let mut names = Vec::new();
    for rule in profile
        .syscalls
        .iter()
        .flatten()
        .filter(|rule| rule.applies(&facts))
    {
        names.extend(rule.all_names());
        add(&mut filter, rule, default)?;
    }
    let refuses = matches!(default, ScmpAction::Errno(errno) if errno != libc::ENOSYS);
    let mut program = if refuses {
        stub::instructions(&architectures, &names)
    } else {
        Vec::new()
    };
    program.extend(export(&filter)?);
    let instructions = program.len() / 8;
    if instructions > INSTRUCTIONS {
        return Err(SeccompError::TooLong(instructions));
    }
    Ok(program)
}

/// By a memfd, for seccomp_export_bpf_mem(3) is younger than the library of
/// the oldest system we build on.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    use std::io::{Read, Seek};
    let memfd =
        nix::sys::memfd::memfd_create(c"longshore-seccomp", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(memfd.map_err(|e| SeccompError::Write(e.into()))?);
    filter
        .export_bpf(&file)
        .map_err(|source| SeccompError::Library {
            operation: "seccomp_export_bpf".to_owned(),
            source,
        })?;
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(SeccompError::Read)?;
    Ok(program)
}

fn foreign_architectures(profile: &Profile, native: ScmpArch) -> Vec<ScmpArch> {
    let named = profile.architectures.iter().flatten().copied();
    let mapped = profile
        .arch_map
        .iter()
        .flatten()
        .filter(|mapping| architecture(mapping.architecture) == native)
        .flat_map(
            |ArchMapping {
                 sub_architectures, ..
             }| sub_architectures.iter().flatten(),
        )
        .copied();
    named.chain(mapped).map(architecture).collect()
}

fn add(
    filter: &mut ScmpFilterContext,
    rule: &Rule,
    default: ScmpAction,
) -> Result<(), SeccompError> {
    let action = action(rule.action, rule.errno_ret)?;
    // Says nothing new; libseccomp would refuse it.
    if action == default {
        return Ok(());
    }
    for name in rule.all_names() {
        // Unknown here: a call of another architecture, or a newer one.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let conditions = conditions(name, rule.args.as_deref().unwrap_or_default())?;
        let fail = |source| SeccompError::Library {
            operation: format!("seccomp_rule_add for {name}"),
            source,
        };
        if conditions.is_empty() {
            filter.add_rule(action, call).map_err(fail)?;
        } else if one_per_argument(rule) {
            filter
                .add_rule_conditional(action, call, &conditions)
                .map_err(fail)?;
        } else {
            // libseccomp takes one condition an argument in a rule. Several are
            // alternatives, as the other runtimes read them.
            for condition in conditions {
                filter
                    .add_rule_conditional(action, call, &[condition])
                    .map_err(fail)?;
            }
        }
    }
    Ok(())
}

fn one_per_argument(rule: &Rule) -> bool {
    let mut seen = HashSet::new();
    rule.args
        .iter()
        .flatten()
        .all(|arg| seen.insert(arg.index()))
}

fn conditions(name: &str, args: &[LinuxSeccompArg]) -> Result<Vec<ScmpArgCompare>, SeccompError> {
    args.iter()
        .map(|arg| {
            let index = u32::try_from(arg.index())
                .ok()
                .filter(|index| *index < 6)
                .ok_or_else(|| SeccompError::Argument {
                    syscall: name.to_owned(),
                    index: arg.index(),
                })?;
            let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
            let (operator, datum) = match arg.op() {
                LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
                LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
                LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
                LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
                LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
                LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
                // OCI: `value` is the mask, `valueTwo` what is left under it.
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    (ScmpCompareOp::MaskedEqual(value), second)
                }
            };
            Ok(ScmpArgCompare::new(index, operator, datum))
        })
        .collect()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, SeccompError> {
    // MAX_ERRNO of linux/err.h.
    let errno = || match errno {
        None => Ok(libc::EPERM),
        Some(errno) => i32::try_from(errno)
            .ok()
            .filter(|e| *e <= 4095)
            .ok_or(SeccompError::Errno(errno)),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno()?),
        LinuxSeccompAction::ScmpActTrace => {
            let errno = errno()?;
            let message =
                u16::try_from(errno).map_err(|_| SeccompError::Errno(errno.cast_unsigned()))?;
            ScmpAction::Trace(message)
        }
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Notify),
    })
}

fn go_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn architecture(architecture: Arch) -> ScmpArch {
    match architecture {
        Arch::ScmpArchNative => ScmpArch::native(),
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(profile: &str) -> Vec<u8> {
        let request = format!(r#"{{"profile":{profile},"capabilities":["CAP_SYS_PTRACE"]}}"#);
        compile(&serde_json::from_str(&request).unwrap()).unwrap()
    }

    /// Runs a program on one system call, as the kernel would.
    fn run(program: &[u8], number: u32, args: &[u64]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(0xc000_003e_u32.to_ne_bytes());
        data.extend([0; 8]);
        for at in 0..6 {
            data.extend(args.get(at).copied().unwrap_or(0).to_ne_bytes());
        }
        let (mut accumulator, mut at) = (0_u32, 0_usize);
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let code = u16::from_ne_bytes([i[0], i[1]]);
            let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
            let jump = |taken: bool| at + 1 + usize::from(if taken { i[2] } else { i[3] });
            at = match code {
                0x20 => {
                    let k = k as usize;
                    accumulator = u32::from_ne_bytes(data[k..k + 4].try_into().unwrap());
                    at + 1
                }
                0x54 => {
                    accumulator &= k;
                    at + 1
                }
                0x05 => at + 1 + k as usize,
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rules_and_the_answer_to_unknown_calls() {
        let program = program(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[
            {"names":["read","openat","no_such_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_PTRACE"]}},
            {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":
                [{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":
                [{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
            {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
        );
        for (call, number, args, expected) in [
            ("read", 0, vec![], ALLOW),
            ("openat", 257, vec![], ALLOW),
            ("ptrace", 101, vec![], ALLOW),
            ("write", 1, vec![], EPERM),
            ("bpf", 321, vec![], EPERM),
            ("clone SIGCHLD", 56, vec![17], ALLOW),
            ("clone NEWUSER", 56, vec![0x1000_0011], EPERM),
            ("personality 8", 135, vec![8], ALLOW),
            ("personality 9", 135, vec![9], EPERM),
            ("clone3", 435, vec![], ENOSYS),
            ("one above the highest", 436, vec![], ENOSYS),
            ("far above", 5000, vec![], ENOSYS),
        ] {
            assert_eq!(run(&program, number, &args), expected, "{call}");
        }
        assert_ne!(
            run(&program, 0x4000_0000 + 5000, &[]),
            ENOSYS,
            "x32 is the profile's"
        );
    }

    #[test]
    fn an_allowing_profile_allows_what_it_does_not_know() {
        let program = program(
            r#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["ptrace"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
        );
        assert_eq!(run(&program, 5000, &[]), ALLOW);
    }

    #[test]
    fn arguments_are_six() {
        let request = r#"{"profile":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],
            "action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}}"#;
        let error = compile(&serde_json::from_str(request).unwrap()).unwrap_err();
        assert!(matches!(error, SeccompError::Argument { index: 6, .. }));
    }
}
