//! The settings of the family.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of the family: the folder of the transcripts, and where backups can be restored.
#[derive(Debug, Clone)]
pub struct CodeConfig {
    /// The folder of the transcripts, with one folder per project. Without it there are no sessions.
    ///
    /// Default none; the command reads `~/.claude/projects`. Backups are read from `file-history` beside it.
    pub code_dir: Option<PathBuf>,
    /// The only folder to which `code:restore` writes. It is created when it is needed, for the current user only.
    ///
    /// Default `restored` in the folder of the database.
    pub restore_root: PathBuf,
    /// The limits of reading and restoring.
    pub limits: CodeLimits,
}

impl CodeConfig {
    /// Returns the defaults for the folder of a database.
    pub fn new(data_dir: impl Into<PathBuf>) -> CodeConfig {
        let restore_root = data_dir.into().join("restored");
        CodeConfig { code_dir: None, restore_root, limits: CodeLimits::default() }
    }
}

/// Limits of reading transcripts and of restoring files.
#[derive(Debug, Clone)]
pub struct CodeLimits {
    /// Greatest age of the last scan of the disk when a request is answered. If it is older, the request starts a scan first.
    ///
    /// Default 1 s.
    pub scan_interval: Duration,
    /// How long a request waits for a scan. After that it is answered from what is indexed so far, and the scan continues.
    ///
    /// Default 2 s.
    pub scan_wait: Duration,
    /// Most transcripts that are read, those of subagents included. The others are ignored.
    ///
    /// Default 100 000.
    pub max_files: usize,
    /// Longest line of a transcript, in bytes. A longer one is skipped and counted, and never held in memory.
    ///
    /// Default 8 MiB: lines contain images, and a line of this length still fits into a message.
    pub max_line_bytes: usize,
    /// How much of an entry's text is indexed, in bytes. Search does not find what is after it.
    ///
    /// Default 64 KiB: the output of tools can be long, and the index stores each text.
    pub max_indexed_text_bytes: usize,
    /// Largest file that is restored, in bytes. A larger one is skipped, and not listed in a restore point.
    ///
    /// Default 64 MiB.
    pub max_restore_file_bytes: u64,
    /// Most bytes that one request restores. The files after that are skipped.
    ///
    /// Default 1 GiB.
    pub max_restore_bytes: u64,
}

impl Default for CodeLimits {
    fn default() -> CodeLimits {
        CodeLimits {
            scan_interval: Duration::from_secs(1),
            scan_wait: Duration::from_secs(2),
            max_files: 100_000,
            max_line_bytes: 8 << 20,
            max_indexed_text_bytes: 64 << 10,
            max_restore_file_bytes: 64 << 20,
            max_restore_bytes: 1 << 30,
        }
    }
}
