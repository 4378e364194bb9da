//! What this program was started with beside the usual three descriptors: no program of a function's gets it.
//!
//! Whose they are is not known here.

#![expect(
    unsafe_code,
    reason = "a descriptor of which only the number is known cannot be changed in safe code"
)]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{Errno, FdFlags};

/// Has every descriptor but the usual three closed at the next execution.
pub(super) fn keep_to_ourselves() -> io::Result<()> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let names: Vec<_> = entries.collect::<io::Result<_>>()?;
    let numbers = names
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // SAFETY: the one thread of this process closes nothing during the call, which neither reads nor closes.
        // The list's own descriptor is closed by now, which is told as an error.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
