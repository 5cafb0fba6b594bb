//! Folders, archives, manifests and payloads that are refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::setup::*;

/// A header of an archive from some of its fields, and the content after it.
fn header(name: &str, sort: tar::EntryType, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(sort);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut block = [header.as_bytes(), content].concat();
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    header(name, tar::EntryType::Regular, content.len() as u64, content)
}

#[tokio::test]
async fn hostile_folders_are_refused_and_leave_no_files() {
    let mut shop = Shop::open(tempfile::tempdir().unwrap(), |backend, _| {
        let limits = &mut backend.artifact.limits;
        limits.max_files = 20;
        limits.max_file_bytes = 10_000;
        limits.max_total_bytes = 15_000;
        limits.max_path_bytes = 100;
        limits.max_depth = 4;
        limits.max_manifest_bytes = 1000;
    })
    .await;
    let sources = shop.sources();
    let outside = shop.host.folder.path().join("outside");
    write_script(&outside, "out", json!({}), "echo 1");
    write_file(&outside.join("secret"), "secret", 0o600);
    let make = |name: &str, spoil: &dyn Fn(&Path)| {
        write_script(&sources, name, json!({}), "echo 1");
        spoil(&sources.join(name));
    };
    make("link", &|folder| symlink(outside.join("secret"), folder.join("x")).unwrap());
    make("link-within", &|folder| symlink("run", folder.join("x")).unwrap());
    make("link-to-folder", &|folder| symlink(&outside, folder.join("x")).unwrap());
    make("link-to-nothing", &|folder| symlink("nothing", folder.join("x")).unwrap());
    make("hard-link", &|folder| fs::hard_link(outside.join("secret"), folder.join("x")).unwrap());
    make("pipe", &|folder| command("mkfifo", &["x"], folder));
    make("socket", &|folder| drop(UnixListener::bind(folder.join("x")).unwrap()));
    make("manifest-link", &|folder| {
        fs::rename(folder.join("artifact.json"), folder.join("other")).unwrap();
        symlink("other", folder.join("artifact.json")).unwrap();
    });
    make("manifest-folder", &|folder| {
        fs::remove_file(folder.join("artifact.json")).unwrap();
        fs::create_dir(folder.join("artifact.json")).unwrap();
    });
    make("manifest-missing", &|folder| fs::remove_file(folder.join("artifact.json")).unwrap());
    make("manifest-large", &|folder| write_file(&folder.join("artifact.json"), " ".repeat(1001), 0o644));
    make("case", &|folder| {
        write_file(&folder.join("A"), "", 0o644);
        write_file(&folder.join("a"), "", 0o644);
    });
    make("backslash", &|folder| write_file(&folder.join("a\\b"), "", 0o644));
    make("newline", &|folder| write_file(&folder.join("a\nb"), "", 0o644));
    make("not-utf8", &|folder| {
        use std::os::unix::ffi::OsStrExt;
        fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    });
    make("many", &|folder| (0..19).for_each(|n| write_file(&folder.join(format!("f{n}")), "", 0o644)));
    make("large", &|folder| write_file(&folder.join("x"), vec![0; 10_001], 0o644));
    make("huge", &|folder| fs::File::create(folder.join("x")).unwrap().set_len(1 << 40).unwrap());
    make("all-large", &|folder| {
        (0..2).for_each(|n| write_file(&folder.join(format!("{n}")), vec![0; 8000], 0o644))
    });
    make("deep", &|folder| write_file(&folder.join("1/2/3/4/5"), "", 0o644));
    make("long", &|folder| write_file(&folder.join("x".repeat(101)), "", 0o644));
    make("plain", &|_| {});
    write_file(&sources.join("plain.zip"), "", 0o644);
    symlink(outside.join("out"), sources.join("way-out")).unwrap();
    symlink(&outside, sources.join("way")).unwrap();
    command("tar", &["-cf", "plain.tar", "plain"], &sources);
    symlink("plain.tar", sources.join("link.tar")).unwrap();
    command("mkfifo", &["pipe.tar"], &sources);

    let absolute = |path: PathBuf| path.to_str().unwrap().to_owned();
    for (source, got) in [
        ("link".to_owned(), "\"x\": a link"),
        ("link-within".to_owned(), "\"x\": a link"),
        ("link-to-folder".to_owned(), "\"x\": a link"),
        ("link-to-nothing".to_owned(), "\"x\": a link"),
        ("hard-link".to_owned(), "\"x\": a file with several names"),
        ("pipe".to_owned(), "\"x\": something other"),
        ("socket".to_owned(), "\"x\": something other"),
        ("manifest-link".to_owned(), "\"artifact.json\": a link"),
        ("manifest-folder".to_owned(), "no artifact.json"),
        ("manifest-missing".to_owned(), "no artifact.json"),
        ("manifest-large".to_owned(), "a manifest that is too large"),
        ("case".to_owned(), "upper and lower case"),
        ("backslash".to_owned(), "a backslash"),
        ("newline".to_owned(), "a control character"),
        ("not-utf8".to_owned(), "not UTF-8"),
        ("many".to_owned(), "more files and folders"),
        ("large".to_owned(), "a file that is too large"),
        ("huge".to_owned(), "a file that is too large"),
        ("all-large".to_owned(), "more bytes"),
        ("deep".to_owned(), "too many nested folders"),
        ("long".to_owned(), "a name that is too long"),
        ("plain.zip".to_owned(), "name does not end in .tar"),
        ("pipe.tar".to_owned(), "something other"),
        ("link.tar".to_owned(), "a link"),
        ("way-out".to_owned(), "a link"),
        ("way/out".to_owned(), "a link"),
        ("plain/run/x".to_owned(), "a file where a folder is needed"),
        ("../outside/out".to_owned(), "a name with .."),
        ("plain/../../outside/out".to_owned(), "a name with .."),
        (absolute(sources.join("../outside/out")), "a name with .."),
        (absolute(outside.join("out")), "a name that does not exist below"),
        ("/etc".to_owned(), "a name that does not exist below"),
        ("/dev/zero".to_owned(), "a name that does not exist below"),
        (".".to_owned(), "the --artifact-source itself"),
        ("nothing".to_owned(), "a name that does not exist below"),
        ("a\0b".to_owned(), "a control character"),
    ] {
        let error = shop.client.refuse("artifact:install", json!({"source": source})).await;
        assert_eq!(
            (&error["code"], &error["details"]["path"]),
            (&json!("HANDLER_ERROR"), &json!("source")),
            "{source}: {error}"
        );
        assert!(error["details"]["got"].as_str().unwrap().contains(got), "{source}: {error}");
    }
    assert_eq!(shop.client.call("artifact:list", Value::Null).await, json!([]));
    assert_eq!(shop.installed(), [""; 0]);
    assert_eq!(shop.client.kept_events(), 0, "a refused request emits nothing");
    // An archive with none of these faults is installed, at the limits.
    (0..18).for_each(|n| write_file(&sources.join(format!("plain/f{n}")), "", 0o644));
    write_file(&sources.join("plain/f0"), vec![0; 10_000], 0o644);
    shop.client.call("artifact:install", json!({"source": "plain"})).await;
    assert_eq!(shop.invoke("plain", Value::Null).await, 1);
    shop.close().await;
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_no_files() {
    use tar::EntryType;

    let mut shop = Shop::open(tempfile::tempdir().unwrap(), |backend, _| {
        backend.artifact.limits.max_files = 20;
        backend.artifact.limits.max_file_bytes = 10_000;
        backend.artifact.limits.max_total_bytes = 15_000;
    })
    .await;
    let manifest = manifest("a", json!({"command": ["cat", "artifact.json"]})).to_string();
    let sound = file("artifact.json", manifest.as_bytes());
    let end = vec![0; 1024];
    let mut device = tar::Header::new_gnu();
    device.set_path("x").unwrap();
    device.set_entry_type(EntryType::Char);
    device.set_device_major(1).unwrap();
    device.set_device_minor(5).unwrap();
    device.set_size(0);
    device.set_mode(0o644);
    device.set_cksum();
    let mut link = tar::Builder::new(Vec::new());
    for (sort, name) in [(EntryType::Symlink, "x"), (EntryType::Regular, "x/passwd")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(sort);
        header.set_size(0);
        header.set_mode(0o644);
        link.append_link(&mut header, name, "/etc").unwrap();
    }
    let link = link.into_inner().unwrap();
    let empty = |name: &str, sort| header(name, sort, 0, b"");
    for (name, parts, got) in [
        ("a link and a file after it", vec![&sound[..], &link], "a link"),
        ("a hard link", vec![&sound, &empty("x", EntryType::Link)], "a link"),
        ("a device", vec![&sound, device.as_bytes(), &end], "something other"),
        ("a pipe", vec![&sound, &empty("x", EntryType::Fifo), &end], "something other"),
        ("a sparse file", vec![&sound, &empty("x", EntryType::GNUSparse), &end], "something other"),
        ("an absolute name", vec![&sound, &file("/tmp/x", b""), &end], "an absolute"),
        ("a name upwards", vec![&sound, &file("../x", b""), &end], "a name with .."),
        ("a name down and upwards", vec![&sound, &file("x/../../y", b""), &end], "a name with .."),
        ("a folder upwards", vec![&sound, &empty("../", EntryType::Directory), &end], "a name with .."),
        ("a name twice", vec![&sound, &file("x", b"1"), &file("x", b"2"), &end], "appears twice"),
        ("a manifest twice", vec![&sound, &sound, &end], "appears twice"),
        ("a file that is a folder", vec![&sound, &file("x", b""), &file("x/y", b""), &end], "appears twice"),
        (
            "names that differ in case",
            vec![&sound, &file("x", b""), &file("X", b""), &end],
            "upper and lower case",
        ),
        (
            "a bomb",
            vec![&sound, &header("x", EntryType::Regular, 1 << 32, b""), &end],
            "a file that is too large",
        ),
        (
            "a size beyond the end",
            vec![&sound, &header("x", EntryType::Regular, 9999, b"x"), &end],
            "truncated",
        ),
        (
            "a long name without end",
            vec![&sound, &header("x", EntryType::GNULongName, 1 << 30, b""), &end],
            "extended header",
        ),
        (
            "attributes without end",
            vec![&sound, &header("x", EntryType::XHeader, 1 << 30, b""), &end],
            "extended header",
        ),
        (
            "a size said twice",
            vec![&sound, &header("x", EntryType::XHeader, 11, b"11 size=99\n"), &file("x", b""), &end],
            "extended header",
        ),
        ("no end", vec![&sound], "truncated"),
        ("half a header", vec![&sound, &sound[..100]], "truncated"),
        ("another archive after it", vec![&sound, &end, &sound, &end], "after its end"),
        (
            "no archive",
            vec![b"PK\x03\x04 is something else, and longer than a block".repeat(20).leak()],
            "not a tar archive",
        ),
        ("nothing", vec![], "truncated"),
        ("no manifest", vec![&file("x", b""), &end], "no artifact.json"),
        (
            "a manifest two folders down",
            vec![&file("x/y/artifact.json", manifest.as_bytes()), &end],
            "no artifact.json",
        ),
    ] {
        fs::write(shop.sources().join("x.tar"), parts.concat()).unwrap();
        let error = shop.client.refuse("artifact:install", json!({"source": "x.tar"})).await;
        assert_eq!(error["details"]["path"], "source", "{name}: {error}");
        assert!(error["details"]["got"].as_str().unwrap().contains(got), "{name}: {error}");
    }
    let many: Vec<u8> = (0..20).flat_map(|n| file(&n.to_string(), b"")).collect();
    fs::write(shop.sources().join("x.tar"), [&sound[..], &many, &end].concat()).unwrap();
    let error = shop.client.refuse("artifact:install", json!({"source": "x.tar"})).await;
    assert!(error["message"].as_str().unwrap().contains("more files and folders"), "{error}");
    // An endless file is not even read.
    let endless = fs::File::create(shop.sources().join("x.tar")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let error = shop.client.refuse("artifact:install", json!({"source": "x.tar"})).await;
    assert!(error["message"].as_str().unwrap().contains("1099511627776 bytes"), "{error}");
    assert_eq!(shop.installed(), [""; 0]);
    assert_eq!(shop.client.kept_events(), 0);

    fs::write(shop.sources().join("x.tar"), [&sound[..], &end, &end].concat()).unwrap();
    shop.client.call("artifact:install", json!({"source": "x.tar"})).await;
    assert_eq!(shop.invoke("a", Value::Null).await["id"], "a");
    shop.close().await;
}

#[tokio::test]
async fn payloads_and_manifests_of_the_wrong_shape_are_refused_by_member() {
    let mut shop =
        Shop::open(tempfile::tempdir().unwrap(), |backend, _| backend.artifact.limits.max_artifacts = 2)
            .await;
    let schema = json!({"input": {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}}, "required": ["n"]}});
    shop.script("a", schema, "echo 1").await;
    let before = shop.client.call("artifact:list", Value::Null).await;
    let long = "x".repeat(129);
    let mut wrong = Vec::new();
    for channel in [
        "artifact:list",
        "artifact:get",
        "artifact:install",
        "artifact:invoke",
        "artifact:enable",
        "artifact:disable",
        "artifact:remove",
    ] {
        for payload in [json!([]), json!("a"), json!(5), json!(true), json!([{"id": "a"}])] {
            wrong.push((channel, payload, "payload"));
        }
        if !matches!(channel, "artifact:list" | "artifact:install") {
            for id in [json!(null), json!(5), json!(""), json!(["a"]), json!({}), json!(long)] {
                wrong.push((channel, json!({"id": id}), "id"));
            }
            wrong.push((channel, json!({}), "id"));
            wrong.push((channel, Value::Null, "id"));
        }
    }
    for channel in ["artifact:enable", "artifact:disable", "artifact:invoke"] {
        wrong.push((channel, json!({"id": "unknown"}), "id"));
    }
    for source in
        [json!(null), json!(5), json!(""), json!(["a"]), json!({}), json!("x".repeat(4097)), json!("nothing")]
    {
        wrong.push(("artifact:install", json!({"source": source}), "source"));
    }
    for (input, path) in [
        (json!(null), "input"),
        (json!([]), "input"),
        (json!({}), "input.n"),
        (json!({"n": 1}), "input.n"),
        (json!({"n": [1, "2"]}), "input.n[1]"),
    ] {
        wrong.push(("artifact:invoke", json!({"id": "a", "input": input}), path));
    }
    wrong.push(("artifact:invoke", json!({"id": "a"}), "input"));
    for (more, path) in [
        (json!({"id": "No"}), "manifest.id"),
        (json!({"name": ""}), "manifest.name"),
        (json!({"version": null}), "manifest.version"),
        (json!({"command": []}), "manifest.command"),
        (json!({"command": ["./nothing"]}), "manifest.command[0]"),
        (json!({"command": ["./artifact.json"]}), "manifest.command[0]"),
        (json!({"command": ["no-such-program"]}), "manifest.command[0]"),
        (json!({"command": ["/no/such/program"]}), "manifest.command[0]"),
        (json!({"command": ["/etc/passwd"]}), "manifest.command[0]"),
        (json!({"command": ["../sh"]}), "manifest.command[0]"),
        (json!({"input": {"pattern": "x"}}), "manifest.input.pattern"),
        (json!({"timeoutMs": 600_001}), "manifest.timeoutMs"),
    ] {
        let name = format!("wrong{}", wrong.len());
        write_script(&shop.sources(), &name, more, "echo 1");
        wrong.push(("artifact:install", json!({"source": name}), path));
    }
    for (channel, payload, path) in wrong {
        shop.client.refuse_member(channel, payload, path).await;
    }
    assert_eq!(shop.client.call("artifact:list", Value::Null).await, before);
    assert_eq!(shop.client.kept_events(), 0, "a refused request emits nothing");

    shop.script("b", json!({}), "echo 1").await;
    write_script(&shop.sources(), "c", json!({}), "echo 1");
    let error = shop.client.refuse("artifact:install", json!({"source": "c"})).await;
    assert_eq!(error["details"]["got"], "one more than the 2 artifacts allowed");
    shop.client.call("artifact:install", json!({"source": "b"})).await;
    assert_eq!(shop.installed().len(), 2);
    shop.close().await;
}
