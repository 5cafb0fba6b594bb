//! The settings of the family.

use std::path::PathBuf;
use std::time::Duration;

/// Whether and from where artifacts are installed and run.
#[derive(Debug, Clone)]
pub struct ArtifactConfig {
    /// Whether `artifact:invoke` runs programs. Without it they are installed and listed, and never run.
    ///
    /// Default no: whoever may connect would run programs as the user whose server this is. The command has
    /// `--allow-artifacts`.
    pub allow: bool,
    /// The folders below which a source has to be. Without one nothing is installed.
    ///
    /// Default none. The command has `--artifact-source`.
    pub sources: Vec<PathBuf>,
    /// Where installed artifacts are kept. Made when it is needed, for this user alone.
    ///
    /// Default `artifacts` in the folder of the database.
    pub folder: PathBuf,
    /// The limits of installing and running.
    pub limits: ArtifactLimits,
}

impl ArtifactConfig {
    /// The defaults, beside a database.
    pub fn new(data_dir: impl Into<PathBuf>) -> ArtifactConfig {
        let folder = data_dir.into().join("artifacts");
        ArtifactConfig { allow: false, sources: Vec::new(), folder, limits: ArtifactLimits::default() }
    }
}

/// How large artifacts may be, and how long and how often they run.
#[derive(Debug, Clone)]
pub struct ArtifactLimits {
    /// Most artifacts that are installed. One more is refused.
    ///
    /// Default 256, with which the list of all of them is far from the longest message.
    pub max_artifacts: u32,
    /// Most files and folders of an artifact. One with more is refused.
    ///
    /// Default 4 096: a program with its libraries, and their names fit into an event.
    pub max_files: usize,
    /// Largest file of an artifact, in bytes. One with a larger one is refused.
    ///
    /// Default 64 MiB: a static binary of any language.
    pub max_file_bytes: u64,
    /// Most bytes of all files of an artifact together. One with more is refused.
    ///
    /// Default 256 MiB.
    pub max_total_bytes: u64,
    /// Longest name of a file below the artifact's folder, in bytes. An artifact with a longer one is refused.
    ///
    /// Default 256.
    pub max_path_bytes: usize,
    /// Most parts of a name below the artifact's folder. An artifact with a deeper one is refused.
    ///
    /// Default 16. So many folders are open at the same time while a source is read.
    pub max_depth: usize,
    /// Largest `artifact.json`, in bytes. A larger one is refused.
    ///
    /// Default 64 KiB.
    pub max_manifest_bytes: usize,
    /// How long an installation may take. Then it is given up, and what was installed before stays.
    ///
    /// Default 5 min: each file is waited for until it is on the disk.
    pub install_timeout: Duration,
    /// Longest `timeoutMs` that a manifest may ask for. One that asks for more is refused.
    ///
    /// Default 10 min.
    pub max_timeout: Duration,
    /// Most programs that run at the same time. The next ones wait, within their `timeoutMs`.
    ///
    /// Default 8. Each takes a thread of those on which the runtime lets things block, of which tokio has 512.
    pub max_running: usize,
    /// Longest output of a program, in bytes. One that writes more is killed, and the request fails.
    ///
    /// Default 16 MiB, which is what a message may have.
    pub max_output_bytes: usize,
    /// How much of the end of what a program writes to stderr is shown when it fails, in bytes.
    ///
    /// Default 8 KiB.
    pub max_stderr_bytes: usize,
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
        }
    }
}
