//! The memory of this process.

/// Anonymous memory of this process in RAM, in bytes. Pages of files are left out, because code that runs for the first
/// time adds them.
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("the kernel counts it");
    let kib: usize =
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB");
    kib * 1024
}
