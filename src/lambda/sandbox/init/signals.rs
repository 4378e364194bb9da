//! What signals do to a process that is started here: what they do by default, whoever has started this one.
//!
//! Who is sent one, and when, is not known here.

#![expect(
    unsafe_code,
    reason = "there is no safe way to say what a signal does, nor which are held back"
)]

use std::mem::MaybeUninit;
use std::ptr;

/// Signals are numbered up to here.
const LAST: libc::c_int = 64;

/// Has no signal be ignored or held back, as `nohup` would have it.
pub(super) fn default() {
    // A broken pipe is an error here, and the standard library has it end what is started.
    for signal in (1..=LAST).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: no handler is given, so none has to be sound. Those that have no other action, or are the C library's
        // own, are refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: the set is made by the first call and only read by the second, which may be given no place for the old.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}
