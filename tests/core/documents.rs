//! The documents: links lead to files and headings that exist, and so do the paths that the text names.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders with documents. `src/docs/links*.md` are for rustdoc, which checks them itself.
const FOLDERS: [&str; 5] = [".", ".github", "src", "fuzz", "tests"];
/// Made by the fuzzer, and not committed.
const IN_NO_COMMIT: [&str; 2] = ["fuzz/corpus", "fuzz/artifacts"];
const NOT_OURS: [&str; 6] = ["target", "node_modules", "corpus", "artifacts", "seeds", "regressions"];

#[test]
fn links_and_paths_in_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), folder != ".", &mut documents);
    }
    let mut report = Vec::new();
    for path in &documents {
        let text = fs::read_to_string(path).unwrap();
        let mut complain = |what: &str| report.push(format!("{}: {what}", path.display()));
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            match fs::read(&target) {
                Err(_) if target.is_dir() => {}
                Err(_) => complain(link),
                Ok(bytes) if !anchor.is_empty() && !has_heading(&String::from_utf8_lossy(&bytes), anchor) => {
                    complain(link);
                }
                Ok(_) => {}
            }
        }
        for named in paths(&text).filter(|named| !root.join(named).exists()) {
            complain(named);
        }
    }
    assert!(documents.len() > 15, "only {} documents found", documents.len());
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}

fn collect(folder: &Path, deep: bool, documents: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if deep && !NOT_OURS.contains(&name) {
                collect(&path, deep, documents);
            }
        } else if name.ends_with(".md") && !name.starts_with("links") {
            documents.push(path);
        }
    }
}

/// What inline links and link definitions lead to, within the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let defined = text.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
    let defined = defined.map(|(_, target)| target.trim());
    inline.chain(defined).filter(|link| !link.contains("://") && !link.contains("::"))
}

/// Paths from the repository's root in code spans: those in its folders.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        ["src/", "tests/", "fuzz/", ".ci/"].iter().any(|folder| span.starts_with(folder))
            && span.bytes().all(is_plain)
            && !IN_NO_COMMIT.iter().any(|folder| span.starts_with(folder))
    })
}

/// Whether a heading has this anchor, by the rule of GitHub and rustdoc: lower case, `-` for spaces, no other signs.
fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|&sign| sign.is_alphanumeric() || sign == '-' || sign == '_').eq(anchor.chars())
    })
}

/// The files whose public fields with a number or a duration are limits.
const LIMITS: [&str; 11] = [
    "src/protocol/limits.rs",
    "src/protocol/caller.rs",
    "src/server/config.rs",
    "src/client/options.rs",
    "src/backend/shared/db/database.rs",
    "src/backend/families/ai/config.rs",
    "src/backend/families/ai/sse.rs",
    "src/backend/families/analytics/config.rs",
    "src/backend/families/artifact/config.rs",
    "src/backend/families/code/config.rs",
    "src/backend/families/imagegen/config.rs",
];

#[test]
fn every_limit_is_on_the_page_about_limits() {
    const NUMBERS: [&str; 6] = ["usize,", "u16,", "u32,", "u64,", "Duration,", "Option<Duration>,"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/docs/limits.md")).unwrap();
    let (mut seen, mut missing) = (0, Vec::new());
    for file in LIMITS {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let fields = text.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "));
        for (name, _) in fields.filter(|(name, kind)| NUMBERS.contains(kind) && *name != "port") {
            missing.extend((!page.contains(&format!("{name}`"))).then(|| format!("{file}: {name}")));
            seen += 1;
        }
    }
    assert!(missing.is_empty(), "not in src/docs/limits.md:\n{}", missing.join("\n"));
    assert!(seen > 60, "only {seen} limits were seen");
}
