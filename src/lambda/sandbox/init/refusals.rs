//! What the kernel refuses to everything in a sandbox: the calls for keys, those by which a program would hinder the
//! first process, which is the same user, and the machine's sockets and processes outside.
//!
//! What programs do with what is left is not known here.

use std::collections::BTreeMap;
use std::io;

use landlock::{Ruleset, RulesetAttr as _, RulesetCreated, Scope};
use rustix::io::Errno;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::Eq;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Keyrings know no namespaces: by its number one of the machine's can be had, and with it the user's keys and tickets.
const KEYS: [libc::c_long; 3] = [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl];
/// What changes another process's limits and turns; the first argument is the process.
const OF_A_PROCESS: [libc::c_long; 5] = [
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];
/// What changes the turns of several; the first argument tells of what kind the second is: a process, or one kind, all
/// of a user's.
const OF_SEVERAL: [(libc::c_long, u64, u64); 2] = [
    (libc::SYS_setpriority, PRIO_PROCESS, PRIO_USER),
    (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, IOPRIO_WHO_USER),
];
const PRIO_PROCESS: u64 = 0;
const PRIO_USER: u64 = 2;
const IOPRIO_WHO_PROCESS: u64 = 1;
const IOPRIO_WHO_USER: u64 = 3;
/// The first process.
const FIRST: u64 = 1;

/// Has calls refused from now on, to this process and all that it starts.
pub(super) fn refuse_calls() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(|error| match error {
        seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
        other => io::Error::other(other),
    })
}

/// Has the machine's sockets that have no file, and signals to processes outside, refused from now on; kernels before
/// Linux 6.12 cannot.
pub(super) fn refuse_outside() -> io::Result<()> {
    let restricted = Ruleset::default()
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self);
    restricted.map(drop).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let equals = |argument, value| SeccompCondition::new(argument, Dword, Eq, value);
    let mut rules = BTreeMap::new();
    for call in KEYS {
        rules.insert(call, Vec::new());
    }
    for call in OF_A_PROCESS {
        rules.insert(call, vec![SeccompRule::new(vec![equals(0, FIRST)?])?]);
    }
    for (call, process, user) in OF_SEVERAL {
        let first = SeccompRule::new(vec![equals(0, process)?, equals(1, FIRST)?])?;
        let all = SeccompRule::new(vec![equals(0, user)?])?;
        rules.insert(call, vec![first, all]);
    }
    #[cfg(target_arch = "x86_64")]
    {
        /// `__X32_SYSCALL_BIT`: the same calls once more, where a kernel has them.
        const SHORT_POINTERS: libc::c_long = 0x4000_0000;
        let again = rules.clone().into_iter();
        rules.extend(again.map(|(call, rules)| (call | SHORT_POINTERS, rules)));
    }
    let refused = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture())?.try_into()
}

/// Calls of another one end a program: its numbers mean others.
fn architecture() -> TargetArch {
    if cfg!(target_arch = "aarch64") {
        TargetArch::aarch64
    } else {
        TargetArch::x86_64
    }
}
