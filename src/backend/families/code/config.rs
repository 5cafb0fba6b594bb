//! The settings of the family.

use std::path::PathBuf;
use std::time::Duration;

/// Where the transcripts are, and where their backups may be put back.
#[derive(Debug, Clone)]
pub struct CodeConfig {
    /// The folder of the transcripts, one folder a project in it. Without one there are no sessions.
    ///
    /// Default none; the command reads `~/.claude/projects`. Backups are read from `file-history` beside it.
    pub code_dir: Option<PathBuf>,
    /// The folder below which `code:restore` writes, and nowhere else. Made when it is needed, for this user alone.
    ///
    /// Default `restored` in the folder of the database.
    pub restore_root: PathBuf,
    /// The limits of reading and of putting back.
    pub limits: CodeLimits,
}

impl CodeConfig {
    /// The defaults, beside a database.
    pub fn new(data_dir: impl Into<PathBuf>) -> CodeConfig {
        let restore_root = data_dir.into().join("restored");
        CodeConfig { code_dir: None, restore_root, limits: CodeLimits::default() }
    }
}

/// How much of the transcripts is read, and how much is put back.
#[derive(Debug, Clone)]
pub struct CodeLimits {
    /// How old the last look at the disk may be when a request is answered. With an older one it looks again first.
    ///
    /// Default 1 s.
    pub scan_interval: Duration,
    /// How long a request waits for a scan. Then it is answered from what is indexed so far, and the scan goes on.
    ///
    /// Default 2 s.
    pub scan_wait: Duration,
    /// Most transcripts that are followed, those of subagents included. The rest is not seen.
    ///
    /// Default 100 000.
    pub max_files: usize,
    /// Longest line of a transcript, in bytes. A longer one is skipped and counted, and never held in memory.
    ///
    /// Default 8 MiB: images stand in lines, and such a line still fits into a message.
    pub max_line_bytes: usize,
    /// How much of an entry's text is indexed, in bytes. Search does not see what is behind.
    ///
    /// Default 64 KiB: the output of tools may be long, and the index holds each text once.
    pub max_indexed_text_bytes: usize,
    /// Largest file that is put back, in bytes. A larger one is skipped, and is not listed in a restore point.
    ///
    /// Default 64 MiB.
    pub max_restore_file_bytes: u64,
    /// Most bytes that one request puts back. What comes behind is skipped.
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
