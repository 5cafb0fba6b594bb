//! Files that are restored as they were before a prompt.

use std::fs;

use serde_json::json;

use super::setup::*;
use crate::support::client::Client;

#[tokio::test]
async fn files_are_restored_as_they_were_before_a_prompt() {
    let agent = Agent::new();
    agent
        .backup("s", "aa@v1", "old a")
        .backup("s", "aa@v2", "newer a")
        .backup("s", "bb@v1", "old b")
        .write("p/s.jsonl", &[
            snapshot("u1", json!({}), false),
            user("u1", None, 1, "First change\nof all"),
            snapshot("u1", json!({"src/a.rs": backup(Some("aa@v1")), "new.rs": backup(None)}), true),
            user("u2", Some("u1"), 2, "Second"),
            snapshot("u2", json!({"src/a.rs": backup(Some("aa@v2")), "/home/me/work/b.rs": backup(Some("bb@v1")),
                "gone.rs": backup(Some("cc@v1"))}), false),
            json!({"type": "file-history-delta", "messageId": "u3", "trackingPath": "src/a.rs", "backup": backup(Some("aa@v1"))}).to_string(),
        ]);
    let mut reader = Reader::new(agent.folder).await;
    let points = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&points, "label"), ["Restore point", "Second", "First change"]);
    assert_eq!(pluck(&points, "entryId"), ["null", "u2", "u1"]);
    assert_eq!(
        points[1]["files"],
        json!([
            {"path": "/home/me/work/b.rs", "size": 5, "sha1": sha1("old b")},
            {"path": "src/a.rs", "size": 7, "sha1": sha1("newer a")},
        ])
    );
    assert_eq!(reader.session("s").await["restorePointCount"], 3);

    let restore = json!({"restorePointId": points[1]["id"], "targetDir": "before/second"});
    let result = reader.call("code:restore", restore.clone()).await;
    let target = reader.host.folder.path().canonicalize().unwrap().join("data/restored/before/second");
    assert_eq!(result["restorePointId"], points[1]["id"]);
    assert_eq!(result["targetDir"], json!(target));
    assert_eq!(result["restored"], json!(["b.rs", "src/a.rs"]));
    assert_eq!(pluck(&result["skipped"], "path"), ["gone.rs"]);
    let content = |path: &str| fs::read_to_string(target.join(path)).unwrap();
    assert_eq!((content("src/a.rs").as_str(), content("b.rs").as_str()), ("newer a", "old b"));

    // Existing files stay, unless `overwrite` is set.
    fs::write(target.join("b.rs"), "mine").unwrap();
    let result = reader.call("code:restore", restore.clone()).await;
    assert_eq!(result["restored"], json!([]));
    assert_eq!(result["skipped"][0], json!({"path": "/home/me/work/b.rs", "reason": "it exists"}));
    assert_eq!(content("b.rs"), "mine");
    let mut overwrite = restore.clone();
    overwrite["overwrite"] = json!(true);
    let result = reader.call("code:restore", overwrite).await;
    assert_eq!(result["restored"], json!(["b.rs", "src/a.rs"]));
    assert_eq!(content("b.rs"), "old b");
    let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");

    let ids = pluck(&points, "id");
    let folder = reader.close().await;
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let mut reader = Reader::new(folder).await;
    let again = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    assert_eq!((pluck(&again, "id"), &again), (ids, &points), "a rebuilt index has the same ids");
    reader.close().await;
}

fn sha1(content: &str) -> String {
    use sha1::{Digest, Sha1};
    Sha1::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn nothing_is_written_outside_of_the_restore_root() {
    use std::os::unix::fs::symlink;
    let agent = Agent::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "untouched").unwrap();
    let evil = outside.path().join("evil").to_string_lossy().into_owned();
    agent.backup("s", "aa@v1", "content").backup("s", "big@v1", &"x".repeat(2000));
    let history = agent.folder.path().join("home/file-history/s");
    symlink(outside.path().join("victim"), history.join("link@v1")).unwrap();
    agent.write(
        "p/s.jsonl",
        &[
            user("u1", None, 1, "Change"),
            snapshot(
                "u1",
                json!({
                    "good.txt": backup(Some("aa@v1")),
                    "../evil": backup(Some("aa@v1")),
                    "a/../../evil": backup(Some("aa@v1")),
                    "..\\evil": backup(Some("aa@v1")),
                    evil.clone(): backup(Some("aa@v1")),
                    "/home/me/work/../evil": backup(Some("aa@v1")),
                    "linked/evil": backup(Some("aa@v1")),
                    "file-link": backup(Some("aa@v1")),
                    "folder": backup(Some("aa@v1")),
                    "from-outside": backup(Some("../../projects/p/s.jsonl")),
                    "from-link": backup(Some("link@v1")),
                    "from-folder": backup(Some(".")),
                    "large": backup(Some("big@v1")),
                }),
                false,
            ),
        ],
    );
    let mut reader =
        Reader::open(agent.folder, |config| config.code.limits.max_restore_file_bytes = 1999).await;
    let points = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let id = &points[0]["id"];
    let listed = pluck(&points[0]["files"], "path");
    for path in ["from-outside", "from-link", "from-folder", "large"] {
        assert!(!listed.contains(&path.to_owned()), "{path}");
    }

    let root = reader.host.folder.path().join("data/restored");
    fs::create_dir_all(root.join("t/folder")).unwrap();
    symlink(outside.path(), root.join("t/linked")).unwrap();
    symlink(outside.path().join("victim"), root.join("t/file-link")).unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    for overwrite in [false, true] {
        let restore = json!({"restorePointId": id, "targetDir": "t", "overwrite": overwrite});
        let result = reader.call("code:restore", restore).await;
        assert_eq!(result["restored"], json!(["good.txt"]), "{result}");
        assert_eq!(result["skipped"].as_array().unwrap().len(), 12, "{result}");
        fs::remove_file(root.join("t/good.txt")).unwrap();
    }
    for target in [
        "..",
        "../t",
        "a/../../t",
        "/tmp/t",
        ".",
        "",
        "a//b",
        "..\\t",
        "C:\\t",
        "out",
        "out/t",
        "t/file-link",
    ] {
        let restore = json!({"restorePointId": id, "targetDir": target, "overwrite": true});
        let error = reader.client.refuse("code:restore", restore).await;
        assert_eq!(error["details"]["path"], "targetDir", "{target}: {error}");
    }
    let names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"]);
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    assert!(!reader.host.folder.path().join("data/evil").exists());
    reader.close().await;
}

#[tokio::test]
async fn the_total_size_of_restored_files_is_limited() {
    let agent = Agent::new();
    agent.backup("s", "aa@v1", &"a".repeat(600)).backup("s", "bb@v1", &"b".repeat(600)).write(
        "p/s.jsonl",
        &[snapshot("u1", json!({"a": backup(Some("aa@v1")), "b": backup(Some("bb@v1"))}), false)],
    );
    let mut reader = Reader::open(agent.folder, |config| config.code.limits.max_restore_bytes = 1000).await;
    let points = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let restore = json!({"restorePointId": points[0]["id"], "targetDir": "t"});
    let result = reader.call("code:restore", restore).await;
    assert_eq!(result["restored"], json!(["a"]));
    assert_eq!(result["skipped"], json!([{"path": "b", "reason": "all files together are too large"}]));
    reader.close().await;
}

/// Another process swaps a folder below the root for a link while files are restored into it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_for_a_link_never_leads_outside() {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    const FILES: usize = 400;
    const TRIES: usize = 12;
    let agent = Agent::new();
    let outside = tempfile::tempdir().unwrap();
    let files = (0..FILES).map(|file| (format!("a/b/f{file}"), backup(Some("aa@v1"))));
    let files = serde_json::Value::Object(files.collect());
    agent.backup("s", "aa@v1", "x").write("p/s.jsonl", &[snapshot("u1", files, false)]);
    let mut reader = Reader::new(agent.folder).await;
    let points = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let root = reader.host.folder.path().join("data/restored");
    fs::create_dir_all(root.join("t/a/b")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = std::thread::spawn({
        let (stop, folder, outside) = (stop.clone(), root.join("t/a"), outside.path().to_owned());
        move || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            // The folder below it exists outside too, so that a path would lead there.
            fs::create_dir(outside.join("b")).unwrap();
            let link = folder.with_extension("link");
            symlink(&outside, &link).unwrap();
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
                std::thread::yield_now();
            }
            swaps
        }
    });
    let mut restored = 0;
    for _ in 0..TRIES {
        let restore = json!({"restorePointId": points[0]["id"], "targetDir": "t", "overwrite": true});
        let result = reader.call("code:restore", restore).await;
        restored += result["restored"].as_array().unwrap().len();
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swaps.join().unwrap();
    assert!(swaps > TRIES && restored > TRIES, "{swaps} swaps, {restored} files");
    let left: Vec<_> = fs::read_dir(outside.path().join("b")).unwrap().collect();
    assert!(left.is_empty(), "{} files are outside after {swaps} swaps", left.len());
    reader.close().await;
}

#[tokio::test]
async fn clients_take_turns_with_restores() {
    const MANY: usize = 8;
    let agent = Agent::new();
    let files = (0..100).map(|file| (format!("f{file}"), backup(Some("aa@v1"))));
    let files = serde_json::Value::Object(files.collect());
    agent.backup("s", "aa@v1", "x").write("p/s.jsonl", &[snapshot("u1", files, false)]);
    let mut reader = Reader::new(agent.folder).await;
    let points = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let restore =
        |target: &str| json!({"restorePointId": points[0]["id"], "targetDir": target, "overwrite": true});
    let mut other = Client::connect(reader.host.port).await;
    for target in 0..MANY {
        reader.client.send("code:restore", restore(&format!("many-{target}"))).await;
    }
    reader.client.call("system:ping", json!(null)).await;
    other.call("code:restore", restore("one")).await;
    let root = reader.host.folder.path().join("data/restored");
    let begun = fs::read_dir(&root).unwrap().count();
    assert!(begun <= MANY, "all {begun} came first");
    reader.close().await;
}
