//! A model file that is truncated while it is mapped: a message and exit code 1 instead of a crash.
//!
//! The pages behind a file's new end are gone, and whoever reads one is sent SIGBUS. No library can make an error of
//! that, but a program may decide how it dies of it. The handler asks `/proc/self/maps` which file lies at the address;
//! if it is one that is mapped as models are, shared and read-only, it says so and ends the program. Any other SIGBUS,
//! from a fault elsewhere or another process, does what it would have done without a handler.
//!
//! A signal comes at any moment, in any thread: the handler allocates nothing, takes no lock, and calls nothing but
//! functions that POSIX lists as safe there.

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handles SIGBUS from now on, in every thread.
pub fn watch() {
    // On the stack of the thread: it has room, which the few kilobytes of an alternate stack do not.
    let action = SigAction::new(SigHandler::SigAction(handle), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: `handle` keeps to what a signal handler may do, see the module head. That a system without SIGBUS or
    // handlers cannot take it (the only errors) leaves things as they were.
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

/// Whether some thread is writing the message already.
static REPORTED: AtomicBool = AtomicBool::new(false);

extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: a handler with SA_SIGINFO is given a valid `siginfo_t`. Its address field is one of a union of plain
    // integers, all initialised by the system; it counts only if the code says that a fault has set it.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let mut line = Line::new();
    if code == libc::BUS_ADRERR && find(address, &mut line) {
        if REPORTED.swap(true, Ordering::Relaxed) {
            loop {
                // SAFETY: waits for the thread that came first to end the program.
                unsafe { libc::pause() };
            }
        }
        write(b"\nerror: ");
        write(line.path());
        write(
            b": the file became shorter while it was mapped, so weights are missing; replace a model by renaming a \
              new file over it, or read it into memory with --no-mmap\n",
        );
        // SAFETY: ends the process, whatever state the interrupted code has left things in.
        unsafe { libc::_exit(1) };
    }
    // SAFETY: both are async-signal-safe. The signal is blocked while the handler runs, so that it is delivered, to the
    // default action, on return, before the faulting instruction is tried again.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

/// A line of `/proc/self/maps` as far as it has been read. A path has up to 4096 bytes, the rest under 100.
struct Line {
    bytes: [u8; 4352],
    len: usize,
    path: Range<usize>,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 4352], len: 0, path: 0..0 }
    }

    /// Adds a byte; what does not fit is left out.
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len = self.len.saturating_add(1);
        }
    }

    fn path(&self) -> &[u8] {
        self.bytes.get(self.path.clone()).unwrap_or_default()
    }

    /// Whether the line is about a file that is mapped shared and read-only at the address; finds its path then.
    ///
    /// `7f00-7f80 r--s 00000000 fe:00 1234    /models/a.gguf`
    fn is_model_at(&mut self, address: usize) -> bool {
        let line = self.bytes.get(..self.len).unwrap_or_default();
        let mut rest = line;
        let begin = hexadecimal(&mut rest);
        let dash = rest.split_first();
        let Some((b'-', mut rest)) = dash else { return false };
        let end = hexadecimal(&mut rest);
        let path = line.iter().position(|&byte| byte == b'/').unwrap_or(line.len());
        self.path = path..line.len();
        (begin..end).contains(&address) && rest.starts_with(b" r--s ") && path < line.len()
    }
}

/// Takes a number off the front.
fn hexadecimal(text: &mut &[u8]) -> usize {
    let mut number = 0_usize;
    while let Some((&byte, rest)) = text.split_first()
        && let Some(digit) = char::from(byte).to_digit(16)
    {
        number = number << 4 | digit as usize;
        *text = rest;
    }
    number
}

/// Looks for the file that is mapped at the address.
fn find(address: usize, line: &mut Line) -> bool {
    // SAFETY: a path that ends with a zero.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut buffer = [0_u8; 1024];
    loop {
        // SAFETY: the buffer can be written to for its length. Without a file, -1, the call fails.
        let read = unsafe { libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(bytes) = usize::try_from(read).ok().and_then(|n| buffer.get(..n)).filter(|b| !b.is_empty())
        else {
            return false; // The descriptor stays open: the program ends either way.
        };
        for &byte in bytes {
            if byte != b'\n' {
                line.push(byte);
            } else if line.is_model_at(address) {
                return true;
            } else {
                line.len = 0;
            }
        }
    }
}

fn write(bytes: &[u8]) {
    // SAFETY: the bytes can be read for their length. There is nobody to tell if they cannot be written.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model_at(text: &[u8], address: usize) -> Option<String> {
        let mut line = Line::new();
        text.iter().for_each(|&byte| line.push(byte));
        line.is_model_at(address).then(|| String::from_utf8(line.path().to_vec()).unwrap())
    }

    #[test]
    fn a_model_is_a_shared_read_only_file_around_the_address() {
        let model = b"7f0012340000-7f0012350000 r--s 00000000 fe:00 77                   /models/a b.gguf";
        for (address, found) in [
            (0x7f00_1233_ffff, false),
            (0x7f00_1234_0000, true),
            (0x7f00_1234_ffff, true),
            (0x7f00_1235_0000, false),
        ] {
            assert_eq!(
                model_at(model, address).as_deref(),
                found.then_some("/models/a b.gguf"),
                "{address:x}"
            );
        }
        for other in [
            &b"1000-2000 r--p 00000000 fe:00 77   /usr/lib/libc.so"[..],
            b"1000-2000 r-xp 00000000 fe:00 77   /usr/bin/gable",
            b"1000-2000 rw-s 00000000 fe:00 77   /dev/shm/x",
            b"1000-2000 r--s 00000000 00:00 0",
            b"1000-2000 rw-p 00000000 00:00 0    [heap]",
            b"1000",
            b"",
        ] {
            assert_eq!(model_at(other, 0x1800), None, "{}", String::from_utf8_lossy(other));
        }
        let long = [&b"1000-2000 r--s 00000000 fe:00 77 /"[..], &[b'x'; 5000]].concat();
        assert!(model_at(&long, 0x1000).unwrap().len() > 4096, "cut, not overrun");
    }

    #[test]
    fn files_are_found_where_they_are_mapped() {
        let mut line = Line::new();
        // The program's own code is mapped privately, and the stack is no file.
        assert!(!find(files_are_found_where_they_are_mapped as fn() as usize, &mut line));
        assert!(!find((&raw const line).addr(), &mut line));
    }
}
