//! The settings of the family.

use std::path::PathBuf;
use std::time::Duration;

/// The configuration of the family `artifact`.
#[derive(Debug, Clone)]
pub struct ArtifactConfig {
    /// Whether `artifact:invoke` runs programs. Otherwise they can be installed and listed, but not run.
    ///
    /// Default no: every client could run programs as the user of the server. The command has `--allow-artifacts`.
    pub allow: bool,
    /// The folders that can contain sources. If there are none, nothing can be installed.
    ///
    /// Default none. The command has `--artifact-source`.
    pub sources: Vec<PathBuf>,
    /// The folder of the installed artifacts. It is created when needed, for this user alone (0700).
    ///
    /// Default `artifacts`, next to the database.
    pub folder: PathBuf,
    /// The limits of installations and programs.
    pub limits: ArtifactLimits,
}

impl ArtifactConfig {
    /// Returns the defaults for a data folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> ArtifactConfig {
        let folder = data_dir.into().join("artifacts");
        ArtifactConfig { allow: false, sources: Vec::new(), folder, limits: ArtifactLimits::default() }
    }
}

/// The limits of installations and programs.
#[derive(Debug, Clone)]
pub struct ArtifactLimits {
    /// Most installed artifacts. Further ones are refused.
    ///
    /// Default 256: a list of all of them is far below the longest message.
    pub max_artifacts: u32,
    /// Most files and folders of an artifact. One with more is refused.
    ///
    /// Default 4 096: enough for a program with its libraries, and their names fit into an event.
    pub max_files: usize,
    /// Largest file of an artifact, in bytes. An artifact with a larger one is refused.
    ///
    /// Default 64 MiB: enough for a static binary of any language.
    pub max_file_bytes: u64,
    /// Largest total size of the files of an artifact, in bytes. A larger artifact is refused.
    ///
    /// Default 256 MiB.
    pub max_total_bytes: u64,
    /// Longest path of a file below the artifact's folder, in bytes. An artifact with a longer one is refused.
    ///
    /// Default 256.
    pub max_path_bytes: usize,
    /// Most parts of a path below the artifact's folder. An artifact with a deeper one is refused.
    ///
    /// Default 16. While a source is read, a folder of each level is open.
    pub max_depth: usize,
    /// Largest `artifact.json`, in bytes. A larger one is refused.
    ///
    /// Default 64 KiB.
    pub max_manifest_bytes: usize,
    /// Longest time for an installation. After it the request fails, and the previous version stays installed.
    ///
    /// Default 5 min: each file is synced to the disk.
    pub install_timeout: Duration,
    /// Longest `timeoutMs` of a manifest. A manifest that asks for more is refused.
    ///
    /// Default 10 min.
    pub max_timeout: Duration,
    /// Most programs that run at the same time. Further ones wait, within their `timeoutMs`; clients take turns, and one of
    /// several places is left for others than the client that holds the rest.
    ///
    /// Default 8. Each occupies one of the runtime's threads for blocking work, of which tokio has 512.
    pub max_running: usize,
    /// Longest output of a program, in bytes. A program that writes more is killed, and the request fails.
    ///
    /// Default 16 MiB, the limit of a message.
    pub max_output_bytes: usize,
    /// How much of the end of a program's stderr is part of the error when it fails, in bytes.
    ///
    /// Default 8 KiB.
    pub max_stderr_bytes: usize,
    /// Most memory of one process of a program: its heap, its stacks and its other private data, in bytes. At the limit it
    /// cannot allocate more. What processes share is not counted.
    ///
    /// Default 2 GiB. As the other limits below, it is set where the system has it and `/bin/sh` exists.
    pub max_memory_bytes: u64,
    /// Largest file that a program can write, in bytes. Past it the program is killed by a signal.
    ///
    /// Default 256 MiB, the largest total size of an artifact.
    pub max_written_file_bytes: u64,
    /// Most files that one process of a program can have open.
    ///
    /// Default 1 024, the usual limit of a login session.
    pub max_open_files: u64,
    /// How many processes and threads a program can add to those that run in the system when it starts, on Linux. At the
    /// limit it cannot start more. The system counts all that its user runs, and does not limit root.
    ///
    /// Default 256.
    pub max_processes: u64,
    /// Most time that one process of a program can compute, in whole seconds. Then it is killed by a signal, also if it has
    /// left the group of the program.
    ///
    /// Default 10 min, as of [`max_timeout`](ArtifactLimits::max_timeout).
    pub max_cpu_time: Duration,
}

impl Default for ArtifactLimits {
    fn default() -> ArtifactLimits {
        ArtifactLimits {
            max_artifacts: 256,
            max_files: 4096,
            max_file_bytes: 64 << 20,
            max_total_bytes: 256 << 20,
            max_path_bytes: 256,
            max_depth: 16,
            max_manifest_bytes: 64 << 10,
            install_timeout: Duration::from_secs(300),
            max_timeout: Duration::from_secs(600),
            max_running: 8,
            max_output_bytes: 16 << 20,
            max_stderr_bytes: 8 << 10,
            max_memory_bytes: 2 << 30,
            max_written_file_bytes: 256 << 20,
            max_open_files: 1024,
            max_processes: 256,
            max_cpu_time: Duration::from_secs(600),
        }
    }
}
