//! What this build can do. Nobody has the value of a feature that was left out: what can only be made
//! with it cannot be there, so all that would work on it is left out too, by the compiler itself, and
//! no other file has to say where.

use crate::error::{Error, Result};
use std::convert::Infallible;
use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Makes a feature of Cargo.toml a type, and another that holds what only works with it.
macro_rules! feature {
    ($(#[$about:meta])* $type:ident, $only:ident, $name:literal, $what:literal) => {
        $(#[$about])*
        #[cfg(feature = $name)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $type(());

        $(#[$about])*
        #[cfg(not(feature = $name))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {}

        /// Of this build, a T; of one without, nothing that can be there.
        #[cfg(feature = $name)]
        pub type $only<T> = T;

        /// Of this build, nothing that can be there; of one with it, a T.
        #[cfg(not(feature = $name))]
        pub type $only<T> = Absent<T>;

        impl $type {
            /// Its name in Cargo.toml.
            pub const NAME: &str = $name;

            /// Proves that it is built in, if it is.
            #[inline(always)]
            pub const fn built() -> Option<$type> {
                #[cfg(feature = $name)]
                return Some($type(()));
                #[cfg(not(feature = $name))]
                None
            }

            /// The same for what cannot do without: an option, or a command.
            #[inline(always)]
            pub fn needed_by(name: impl Display) -> Result<$type> {
                Self::built().ok_or_else(|| {
                    Error::usage(format_args!(
                        "{name}: this build has no {} (built without the feature `{}`)",
                        $what, $name
                    ))
                })
            }

            /// What only works with it.
            #[inline(always)]
            pub fn only<T>(self, value: T) -> $only<T> {
                #[cfg(feature = $name)]
                return value;
                #[cfg(not(feature = $name))]
                {
                    let _ = value;
                    match self {}
                }
            }
        }
    };
}

feature! {
    /// Programs in the kernel that tell who owns a flow.
    Bpf, BpfOnly, "bpf", "programs in the kernel"
}
feature! {
    /// Who owns a flow: `-b`.
    Owners, OwnersOnly, "owners", "owners of flows"
}
feature! {
    /// Which rules a packet passed: `-t`, `-e` and `blame`.
    Trace, TraceOnly, "trace", "tracing"
}
feature! {
    /// A long life: `-d`, reports meanwhile, numbers, rotation.
    Daemon, DaemonOnly, "daemon", "daemon"
}
feature! {
    /// Recordings, made and read.
    Record, RecordOnly, "record", "recordings"
}
feature! {
    /// What would work, and what would be done: `check` and `--dry-run`.
    Check, CheckOnly, "check", "checks"
}
feature! {
    /// Running iptables: activation by a chain in a legacy table, and removing one.
    Legacy, LegacyOnly, "legacy", "chains in legacy tables"
}

/// Stands where a T would be in a build with another feature. There is none.
#[derive(Clone, Copy, Debug)]
pub struct Absent<T>(Infallible, PhantomData<T>);

impl<T> Deref for Absent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self.0 {}
    }
}

impl<T> DerefMut for Absent<T> {
    fn deref_mut(&mut self) -> &mut T {
        match self.0 {}
    }
}

/// The features that were left out.
pub fn left_out() -> impl Iterator<Item = &'static str> {
    let all = [
        (Bpf::NAME, Bpf::built().is_some()),
        (Owners::NAME, Owners::built().is_some()),
        (Trace::NAME, Trace::built().is_some()),
        (Daemon::NAME, Daemon::built().is_some()),
        (Record::NAME, Record::built().is_some()),
        (Check::NAME, Check::built().is_some()),
        (Legacy::NAME, Legacy::built().is_some()),
    ];
    all.into_iter()
        .filter_map(|(name, built)| (!built).then_some(name))
}
