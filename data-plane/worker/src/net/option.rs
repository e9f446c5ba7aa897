//! Socket options that no crate of ours offers.

use std::io;
use std::os::fd::AsRawFd;

/// Sets an option whose value is an int (setsockopt(2)).
///
/// # Errors
/// As the system gives them: no such option, no permission.
#[expect(unsafe_code, reason = "setsockopt; no crate of ours offers it for any option")]
pub fn set_int(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads one int from a live one.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
