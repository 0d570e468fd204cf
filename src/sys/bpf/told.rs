//! Why libbpf refused: it prints its reasons, which are caught here and told in one line.

use libbpf_sys as c;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Room for one print: a verifier's log, whose last line is the reason, can be long.
const PRINT_LEN: usize = 1 << 20;
/// Bytes that are kept of all prints of one call.
const TOLD_MAX: usize = 4 << 20;

static TOLD: Mutex<String> = Mutex::new(String::new());

/// Why an object, or a program of it, is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one line.
    pub reason: String,
    /// The program that was refused, where it was one.
    pub program: Option<String>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal {
            reason,
            program: None,
        }
    }
}

unsafe extern "C" {
    /// As in the C library, which libbpf's own calls lead to as well.
    fn vsnprintf(
        to: *mut libc::c_char,
        room: libc::size_t,
        format: *const libc::c_char,
        arguments: *mut c::__va_list_tag,
    ) -> libc::c_int;
}

/// Forgets what was told, and listens from now on.
pub(super) fn listen() {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).clear();
    // SAFETY: `keep` is a function of the type that is asked for. A `va_list` is a pointer in a
    // register on every architecture that there are probes for, as which it is handed on.
    unsafe { c::libbpf_set_print(Some(keep)) };
}

/// What was told since `listen`, and the error that the call ended with.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    Refusal {
        reason: reason(&told, error),
        program: program(&told),
    }
}

/// libbpf's print callback. A panic would abort: nothing unwinds through C.
unsafe extern "C" fn keep(
    level: c::libbpf_print_level,
    format: *const libc::c_char,
    arguments: *mut c::__va_list_tag,
) -> libc::c_int {
    if level != c::LIBBPF_WARN {
        return 0;
    }
    let mut text = vec![0u8; PRINT_LEN];
    // SAFETY: there is room for as many bytes as are said; format and arguments are libbpf's.
    let len = unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, arguments) };
    let len = usize::try_from(len).unwrap_or(0).min(PRINT_LEN - 1);
    text.truncate(len);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() + len <= TOLD_MAX {
        told.push_str(&String::from_utf8_lossy(&text));
    }
    0
}

const LOG_BEGINS: &str = "-- BEGIN PROG LOAD LOG --";
const LOG_ENDS: &str = "-- END PROG LOAD LOG --";

/// The program that the first line about one is about.
fn program(told: &str) -> Option<String> {
    told.lines().find_map(|line| {
        let name = line
            .strip_prefix("libbpf: prog '")
            .or(line.strip_prefix("prog '"))?;
        Some(name.split('\'').next()?.to_owned())
    })
}

/// With this end lines that tell of no failure yet: what they are about is tried in another way.
const IS_TRIED_AGAIN: &str = "Retrying without BTF.";

/// The verifier's last word where it has one, else libbpf's first.
fn reason(told: &str, error: &io::Error) -> String {
    let mut log = told.lines().skip_while(|line| !line.contains(LOG_BEGINS));
    log.next();
    let verdict = log
        .take_while(|line| !line.contains(LOG_ENDS))
        .filter(|line| !line.starts_with("processed ") && !line.trim().is_empty())
        .last();
    let mut lines = told.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.ends_with(IS_TRIED_AGAIN));
    let first = first.map(|line| line.trim_start_matches("libbpf: ").trim());
    match (first, verdict) {
        (None, _) => error.to_string(),
        (Some(first), None) => first.to_owned(),
        (Some(first), Some(verdict)) => format!("{first}: {}", verdict.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_one_line() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(reason("", &error), error.to_string());
        let log = "libbpf: prog 'kp_may_x': BPF program load failed: -EINVAL\n\
                   libbpf: prog 'kp_may_x': -- BEGIN PROG LOAD LOG --\n\
                   0: (85) call unknown#14\n\
                   program of this type cannot use helper bpf_get_current_pid_tgid#14\n\
                   processed 1 insns (limit 1000000)\n\
                   -- END PROG LOAD LOG --\n\
                   libbpf: prog 'kp_may_x': failed to load: -EINVAL\n";
        assert_eq!(
            reason(log, &error),
            "prog 'kp_may_x': BPF program load failed: -EINVAL: program of this type cannot use helper \
             bpf_get_current_pid_tgid#14"
        );
        assert_eq!(program(log).as_deref(), Some("kp_may_x"));
        let plain = "libbpf: Error in bpf_create_map_xattr(events): -EPERM\n";
        assert_eq!(
            reason(plain, &error),
            "Error in bpf_create_map_xattr(events): -EPERM"
        );
        assert_eq!(program(plain), None);
        let again = "libbpf: Error in bpf_create_map_xattr(told): -EINVAL. Retrying without BTF.\n";
        assert_eq!(reason(&[again, log].concat(), &error), reason(log, &error));
    }
}
