//! The ladder of probes.

/// One kind of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Functions of the kernel, whose types are read from its BTF.
    Trace,
    /// Programs of the control groups: nothing of the kernel's inside.
    Cgroup,
    /// Functions of the kernel, at offsets that have not changed for ten years.
    Kprobe,
    /// The same, attached by a line in kprobe_events, for kernels before 4.17.
    Legacy,
}

impl Rung {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Rung::Trace => "trace",
            Rung::Cgroup => "cgroup",
            Rung::Kprobe => "kprobe",
            Rung::Legacy => "legacy",
        }
    }
}
