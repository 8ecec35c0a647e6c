//! How many threads to use when nobody says: one per physical performance core this process may use.
//!
//! Two hardware threads of one core share its vector units, so the second adds nothing to a kernel that keeps
//! them busy; an efficiency core makes every evenly cut operation wait for it. Linux tells cores apart in
//! `/sys/devices/system/cpu`; elsewhere, and wherever those files are missing, the count is the standard
//! library's, which knows affinity and cgroup quotas but not cores.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

/// CPUs of less than this share of the largest capacity are efficiency cores.
const PERFORMANCE_SHARE: f64 = 0.5;
/// Longer CPU lists are nonsense.
const MAX_CPUS: usize = 1 << 16;

/// The number of physical (performance) cores allowed by CPU affinity and the cgroup's quota; at least 1.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = physical_cores(&|path| std::fs::read_to_string(path).ok());
    cores.map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// Distinct performance cores behind the CPUs in the affinity mask, or `None` if the system does not tell.
fn physical_cores(read: &dyn Fn(&str) -> Option<String>) -> Option<usize> {
    let status = read("/proc/thread-self/status").or_else(|| read("/proc/self/status"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cpus = parse_cpu_list(list)?;

    // Hybrid x86 lists its performance CPUs; Arm gives each CPU a capacity.
    if let Some(performance) = read("/sys/devices/cpu_core/cpus").and_then(|list| parse_cpu_list(&list)) {
        keep_if_any(&mut cpus, |cpu| performance.contains(cpu));
    }
    let file = |cpu: &usize, name: &str| read(&format!("/sys/devices/system/cpu/cpu{cpu}/{name}"));
    let capacity = |cpu: &usize| file(cpu, "cpu_capacity")?.trim().parse::<u32>().ok();
    if let Some(most) = cpus.iter().filter_map(capacity).max() {
        let enough = f64::from(most) * PERFORMANCE_SHARE;
        keep_if_any(&mut cpus, |cpu| capacity(cpu).is_some_and(|capacity| f64::from(capacity) >= enough));
    }

    // Hardware threads of one core name the same siblings.
    let core = |cpu: &usize| {
        let siblings =
            file(cpu, "topology/core_cpus_list").or_else(|| file(cpu, "topology/thread_siblings_list"))?;
        parse_cpu_list(&siblings)?.first().copied()
    };
    let cores: Option<BTreeSet<usize>> = cpus.iter().map(core).collect();
    Some(cores?.len()).filter(|&cores| cores > 0)
}

/// Drops the CPUs that fail `wanted`, unless all do: a process pinned to efficiency cores uses those.
fn keep_if_any(cpus: &mut BTreeSet<usize>, wanted: impl Fn(&usize) -> bool) {
    if cpus.iter().any(&wanted) {
        cpus.retain(wanted);
    }
}

/// The kernel's list format: `0-3,8,10-11`.
fn parse_cpu_list(list: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose files are `(path below the CPU directory or absolute, content)`.
    fn cores(allowed: &str, files: &[(&str, &str)]) -> Option<usize> {
        physical_cores(&|path| {
            if path == "/proc/thread-self/status" {
                return Some(format!(
                    "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\nMems:\t0\n"
                ));
            }
            let name = path.strip_prefix("/sys/devices/system/cpu/").unwrap_or(path);
            files.iter().find(|file| file.0 == name).map(|file| format!("{}\n", file.1))
        })
    }

    const SMT: [(&str, &str); 4] = [
        ("cpu0/topology/core_cpus_list", "0,2"),
        ("cpu1/topology/core_cpus_list", "1,3"),
        ("cpu2/topology/core_cpus_list", "0,2"),
        ("cpu3/topology/core_cpus_list", "1,3"),
    ];

    #[test]
    fn hardware_threads_of_one_core_count_once() {
        assert_eq!(cores("0-3", &SMT), Some(2));
        assert_eq!(cores("0,2", &SMT), Some(1));
        assert_eq!(cores("2-3", &SMT), Some(2));
    }

    #[test]
    fn older_kernels_name_the_siblings_differently() {
        assert_eq!(
            cores(
                "0-1",
                &[
                    ("cpu0/topology/thread_siblings_list", "0-1"),
                    ("cpu1/topology/thread_siblings_list", "0-1")
                ]
            ),
            Some(1)
        );
    }

    #[test]
    fn efficiency_cores_are_left_out_unless_there_are_no_others() {
        let mut hybrid = SMT.to_vec();
        hybrid.extend([("cpu4/topology/core_cpus_list", "4"), ("cpu5/topology/core_cpus_list", "5")]);
        hybrid.push(("/sys/devices/cpu_core/cpus", "0-3"));
        assert_eq!(cores("0-5", &hybrid), Some(2));
        assert_eq!(cores("4-5", &hybrid), Some(2));
        let arm: Vec<_> = [
            ("cpu0/cpu_capacity", "380"),
            ("cpu1/cpu_capacity", "870"),
            ("cpu2/cpu_capacity", "1024"),
            ("cpu0/topology/core_cpus_list", "0"),
            ("cpu1/topology/core_cpus_list", "1"),
            ("cpu2/topology/core_cpus_list", "2"),
        ]
        .into();
        assert_eq!(cores("0-2", &arm), Some(2));
        assert_eq!(cores("0", &arm), Some(1));
    }

    #[test]
    fn a_system_that_does_not_tell_yields_nothing() {
        assert_eq!(cores("0-3", &SMT[..3]), None);
        assert_eq!(cores("", &SMT), None);
        assert_eq!(cores("0-x", &SMT), None);
        assert_eq!(cores("0-99999999999", &SMT), None);
        assert_eq!(physical_cores(&|_| None), None);
    }

    #[test]
    fn the_default_is_at_least_one_thread_and_at_most_what_is_available() {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=available).contains(&default_threads()));
    }
}
