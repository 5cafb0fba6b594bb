//! A third-party mock of a provider.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The mock server `@copilotkit/aimock`, as a process.
pub struct Mock {
    child: std::process::Child,
    pub url: String,
}

impl Mock {
    /// Starts it with its answers, in a folder. `None` if it is not installed.
    pub fn start(folder: &Path, fixtures: &Value) -> Option<Mock> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/node_modules/.bin/llmock");
        if !script.exists() || Command::new("node").arg("--version").output().is_err() {
            return None;
        }
        let file = folder.join("fixtures.json");
        std::fs::write(&file, fixtures.to_string()).unwrap();
        let mut child = Command::new("node")
            .arg(script)
            .args(["--port", "0", "--chunk-size", "5", "--fixtures"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let url =
            lines.find_map(|line| line.split_once("listening on ").map(|(_, url)| url.to_owned())).unwrap();
        // Its later output must be read, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Mock { child, url })
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
