//! This process: what it takes of the machine, and which build it is.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Seconds = Gauge<f64, AtomicU64>;

/// What the process takes of the machine, under the names that all programs use. Zero where the system does
/// not tell.
#[derive(Debug, Clone, Default)]
pub struct ProcessMetrics {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    files: Gauge,
    files_most: Gauge,
    threads: Gauge,
    started: Seconds,
}

impl ProcessMetrics {
    /// Asks the system. Some tens of microseconds.
    pub(super) fn look_up(&self) {
        // A system without /proc, or one that hides it, leaves all at what was known last.
        drop(self.try_look_up());
    }

    fn try_look_up(&self) -> procfs::ProcResult<()> {
        use procfs::{WithCurrentSystemInfo, process::Process};
        let process = Process::myself()?;
        let stat = process.stat()?;
        let per_second = procfs::ticks_per_second();
        let ticks = stat.utime.saturating_add(stat.stime);
        let used = seconds(ticks, per_second);
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
        self.resident.set(gauge(stat.rss_bytes().get()));
        self.virtual_memory.set(gauge(stat.vsize));
        self.threads.set(stat.num_threads);
        self.files.set(gauge(process.fd_count()? as u64));
        let most = process.limits()?.max_open_files.soft_limit;
        self.files_most.set(match most {
            procfs::process::LimitValue::Value(most) => gauge(most),
            procfs::process::LimitValue::Unlimited => i64::MAX,
        });
        let booted = procfs::boot_time_secs()?;
        self.started.set(seconds(booted * per_second + stat.starttime, per_second));
        Ok(())
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Processor time of this process, in user and system mode";
        registry.register("process_cpu_seconds", help, self.cpu.clone());
        registry.register("process_resident_memory_bytes", "Memory in use", self.resident.clone());
        registry.register("process_virtual_memory_bytes", "Address space", self.virtual_memory.clone());
        registry.register("process_open_fds", "Open files and sockets", self.files.clone());
        registry.register("process_max_fds", "Files and sockets that may be open", self.files_most.clone());
        registry.register("process_threads", "Threads", self.threads.clone());
        let help = "When the process was started, in seconds since 1970";
        registry.register("process_start_time_seconds", help, self.started.clone());
    }
}

/// Which build this is: always 1, with the version as a label.
pub(super) fn register_build(registry: &mut Registry) {
    let build: Family<[(&'static str, &'static str); 1], Gauge> = Family::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("build_info", "The version that runs; the value is 1", build);
}

fn seconds(ticks: u64, per_second: u64) -> f64 {
    std::time::Duration::from_millis(ticks.saturating_mul(1000) / per_second.max(1)).as_secs_f64()
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_files_threads_and_a_beginning() {
        let process = ProcessMetrics::default();
        process.try_look_up().unwrap();
        assert!(process.resident.get() > 1 << 20, "{process:?}");
        assert!(process.files.get() > 2 && process.files_most.get() >= process.files.get(), "{process:?}");
        assert!(process.threads.get() > 1, "{process:?}");
        assert!(process.started.get() > 1.6e9, "{process:?}");
    }
}
