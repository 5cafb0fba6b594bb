//! Installing, updating and removing; what a crash leaves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::setup::*;
use crate::support::client::Client;
use crate::support::program::{self, Program};

#[tokio::test]
async fn every_client_sees_an_artifact_from_install_to_removal() {
    let mut shop = Shop::new().await;
    let mut other = Client::connect(shop.host.port).await;
    assert_eq!(shop.client.call("artifact:list", Value::Null).await, json!([]));
    let given = manifest("hello", json!({"description": "Greets", "author": {"n": 1.50}}));
    let folder = shop.sources().join("hello");
    write_file(&folder.join("artifact.json"), given.to_string(), 0o644);
    write_file(&folder.join("run"), "#!/bin/sh\nread name\nprintf '{\"hello\": %s}\\n' \"$name\"\n", 0o4755);
    write_file(&folder.join("lib/data"), "x", 0o666);

    let artifact = shop.client.call("artifact:install", json!({"source": "hello"})).await;
    assert_eq!(
        (&artifact["id"], &artifact["name"], &artifact["version"]),
        (&json!("hello"), &json!("hello"), &json!("1.0.0"))
    );
    assert_eq!(
        (&artifact["description"], &artifact["enabled"], &artifact["source"]),
        (&json!("Greets"), &json!(true), &json!("hello"))
    );
    assert_eq!(artifact["manifest"], given);
    assert_eq!(
        artifact["files"],
        json!([
            {"path": "artifact.json", "size": given.to_string().len()},
            {"path": "lib/data", "size": 1},
            {"path": "run", "size": 53},
        ])
    );
    assert_eq!(artifact["installedAt"], artifact["updatedAt"]);
    for client in [&mut shop.client, &mut other] {
        let first = client.event("artifact:progress").await;
        assert_eq!(first, json!({"id": "hello", "progress": 0}));
        let mut last = 0.0;
        while last < 1.0 {
            let progress = client.event("artifact:progress").await["progress"].as_f64().unwrap();
            assert!(progress > last);
            last = progress;
        }
        assert_eq!(client.event("artifact:installed").await, json!({"artifact": artifact}));
    }

    // Of the mode only the owner's executable bit is kept.
    let mode =
        |path: &str| fs::metadata(shop.folder_of("hello").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        [mode("run"), mode("lib/data"), mode("lib"), mode(""), mode("..")],
        [0o700, 0o600, 0o700, 0o700, 0o700]
    );

    let mut listed = artifact.clone();
    listed.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "manifest" | "files"));
    assert_eq!(shop.client.call("artifact:list", Value::Null).await, json!([listed]));
    assert_eq!(shop.client.call("artifact:get", json!({"id": "hello"})).await, artifact);
    assert_eq!(shop.invoke("hello", json!("Ada")).await, json!({"hello": "Ada"}));
    assert_eq!(shop.client.call("artifact:invoke", json!({"id": "hello"})).await, json!({"hello": null}));

    let response = shop.client.respond("artifact:disable", json!({"id": "hello"})).await;
    assert!(response.get("payload").is_none() && response.get("error").is_none(), "{response}");
    let disabled = other.event("artifact:updated").await;
    assert_eq!(disabled["artifact"]["enabled"], false);
    let error = shop.refuse_invoke("hello", json!("Ada")).await;
    assert!(error["message"].as_str().unwrap().contains("artifact:enable"), "{error}");
    // A request that changes nothing emits nothing.
    shop.client.call("artifact:disable", json!({"id": "hello"})).await;
    shop.client.call("artifact:enable", json!({"id": "hello"})).await;
    assert_eq!(other.event("artifact:updated").await["artifact"]["enabled"], true);
    assert_eq!(shop.invoke("hello", json!("Ada")).await, json!({"hello": "Ada"}));

    // It survives a restart.
    let mut shop = Shop::open(shop.close().await, |_, _| {}).await;
    assert_eq!(shop.invoke("hello", json!(1)).await, json!({"hello": 1}));
    assert_eq!(shop.client.call("artifact:remove", json!({"id": "hello"})).await, true);
    assert_eq!(shop.client.event("artifact:removed").await, json!({"id": "hello"}));
    assert_eq!(shop.client.call("artifact:remove", json!({"id": "hello"})).await, false);
    assert_eq!(shop.client.call("artifact:get", json!({"id": "hello"})).await, Value::Null);
    assert_eq!(shop.installed(), [""; 0], "nothing is left of it");
    assert_eq!(shop.client.kept_events(), 0);
    shop.close().await;
}

#[tokio::test]
async fn archives_of_the_real_tar_are_installed() {
    let mut shop = Shop::new().await;
    let sources = shop.sources();
    let long = "n".repeat(120);
    for format in ["gnu", "pax", "ustar"] {
        for (kind, at_top) in [("top", true), ("folder", false)] {
            let id = format!("{format}-{kind}");
            let folder = tempfile::tempdir().unwrap();
            write_script(folder.path(), &id, json!({}), "cat lib/*");
            // A name that is too long for ustar is below a folder in the archive.
            let name = if format == "ustar" {
                format!("lib/{}/{}", "f".repeat(90), "n".repeat(90))
            } else {
                format!("lib/{long}")
            };
            let script = if format == "ustar" { "cat lib/*/*" } else { "cat lib/*" };
            write_script(folder.path(), &id, json!({}), script);
            write_file(&folder.path().join(&id).join(&name), format!("{:?}", "x".repeat(5000)), 0o644);
            let archive = sources.join(format!("{id}.tar"));
            let format = format!("--format={format}");
            let mut arguments = vec![&*format, "-cf", archive.to_str().unwrap()];
            arguments.extend(if at_top { ["-C", &*id, "."].to_vec() } else { vec![&*id] });
            command("tar", &arguments, folder.path());
            let artifact = shop.client.call("artifact:install", json!({"source": format!("{id}.tar")})).await;
            assert_eq!(artifact["files"][1], json!({"path": name, "size": 5002}), "{id}");
            assert_eq!(shop.invoke(&id, Value::Null).await, json!("x".repeat(5000)), "{id}");
        }
    }
    // By its absolute path, and through a link to the root that the operator made.
    let whole = sources.join("gnu-top.tar");
    shop.client.call("artifact:install", json!({"source": whole})).await;
    shop.close().await;
}

#[tokio::test]
async fn an_update_keeps_settings_and_deletes_the_old_version() {
    let mut shop = Shop::new().await;
    shop.script("a", json!({}), "echo 1").await;
    let first = shop.client.call("artifact:get", json!({"id": "a"})).await;
    let old = shop.folder_of("a");
    shop.client.call("artifact:disable", json!({"id": "a"})).await;
    shop.client.event("artifact:updated").await;
    write_script(&shop.sources(), "a", json!({"version": "2"}), "echo 2");
    let second = shop.client.call("artifact:install", json!({"source": "a"})).await;
    assert_eq!((&second["version"], &second["enabled"]), (&json!("2"), &json!(false)));
    assert_eq!(second["installedAt"], first["installedAt"]);
    assert_eq!(shop.pass_install("a").await, json!({"artifact": second}));
    assert!(!old.exists());
    shop.folder_of("a");
    shop.client.call("artifact:enable", json!({"id": "a"})).await;
    assert_eq!(shop.invoke("a", Value::Null).await, 2);

    // A refused update does not change the installed version.
    write_script(&shop.sources(), "a", json!({"version": 3}), "echo 3");
    let error = shop.client.refuse("artifact:install", json!({"source": "a"})).await;
    assert_eq!(error["details"]["path"], "manifest.version");
    assert_eq!(shop.invoke("a", Value::Null).await, 2);
    assert_eq!(shop.installed().len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn without_the_options_nothing_is_installed_or_run() {
    let mut shop = Shop::new().await;
    shop.script("a", json!({}), "echo 1").await;
    let folder = shop.close().await;
    let mut shop = Shop::open(folder, |backend, _| {
        backend.artifact.allow = false;
        backend.artifact.sources.clear();
    })
    .await;
    let error = shop.client.refuse("artifact:install", json!({"source": "a"})).await;
    assert!(error["message"].as_str().unwrap().contains("--artifact-source"), "{error}");
    let error = shop.refuse_invoke("a", Value::Null).await;
    assert!(error["message"].as_str().unwrap().contains("--allow-artifacts"), "{error}");
    assert_eq!(shop.client.call("artifact:remove", json!({"id": "a"})).await, true);
    shop.close().await;
}

#[tokio::test]
async fn concurrent_installations_of_one_id_run_one_after_another() {
    let mut shop = Shop::new().await;
    let mut witness = Client::connect(shop.host.port).await;
    for n in 0..4 {
        write_script(&shop.sources(), "a", json!({"version": n.to_string()}), &format!("echo {n}"));
        fs::rename(shop.sources().join("a"), shop.sources().join(format!("v{n}"))).unwrap();
    }
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Client::connect(shop.host.port).await;
        let id = client.send("artifact:install", json!({"source": format!("v{n}")})).await;
        clients.push((client, id));
    }
    for (mut client, id) in clients {
        let answer = answer_to(&mut client, &id).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }
    let mut told = Vec::new();
    while told.len() < 4 {
        let (channel, payload) = witness.any_event().await;
        if channel != "artifact:progress" {
            told.push((channel, payload["artifact"]["version"].clone()));
        }
    }
    assert_eq!(told.iter().filter(|(channel, _)| channel == "artifact:installed").count(), 1, "{told:?}");
    assert_eq!(told[0].0, "artifact:installed");
    let last = &told[3].1;
    assert_eq!(shop.client.call("artifact:get", json!({"id": "a"})).await["version"], *last);
    assert_eq!(shop.invoke("a", Value::Null).await.to_string(), last.as_str().unwrap());
    shop.folder_of("a");
    shop.close().await;
}

#[tokio::test]
async fn only_leftovers_of_an_earlier_run_are_deleted_at_start() {
    let mut shop = Shop::new().await;
    shop.script("kept", json!({}), "echo 1").await;
    let kept = shop.installed();
    let folder = shop.close().await;
    let artifacts = folder.path().join("data/artifacts");
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    for name in [".new", ".run", "kept", "other"] {
        write_file(&artifacts.join(format!("{name}.{uuid}/lib/x")), "x", 0o600);
    }
    symlink(folder.path(), artifacts.join(format!("kept.{uuid}/lib/out"))).unwrap();
    write_file(&artifacts.join("notes/mine.txt"), "x", 0o600);
    let mut shop = Shop::open(folder, |_, _| {}).await;
    // An installation waits until the sweep is done.
    shop.client.refuse("artifact:install", json!({"source": "nothing"})).await;
    assert_eq!(shop.installed(), [kept, vec!["notes".to_owned()]].concat());
    assert_eq!(shop.invoke("kept", Value::Null).await, 1);
    shop.close().await;
}

#[tokio::test]
async fn kill_9_during_an_update_leaves_one_complete_version() {
    const FILES: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources");
    let data_dir = folder.path().join("data");
    // With relative paths, as an operator can write them.
    let start = || {
        let mut command = program::command(Path::new("data"));
        command.args(["--allow-artifacts", "--artifact-source", "sources"]).current_dir(folder.path());
        Program::spawn(command)
    };
    // The files of each version contain its number.
    let write = |version: usize| {
        fs::remove_dir_all(sources.join("a")).unwrap_or_default();
        let script = "cat files/* | sort | uniq -c | tr '\\n' ';' | sed 's/^/\"/; s/$/\"/'";
        write_script(&sources, "a", json!({"version": version.to_string()}), script);
        for n in 0..FILES {
            write_file(&sources.join(format!("a/files/{n}")), format!("{version}\n"), 0o644);
        }
    };
    write(0);
    let program = start();
    let mut client = Client::connect(program.port).await;
    client.call("artifact:install", json!({"source": "a"})).await;
    program.kill();
    let mut versions = Vec::new();
    for (version, kill_after) in [1, 2, 4, usize::MAX, 1].into_iter().enumerate() {
        write(version + 1);
        let program = start();
        let mut client = Client::connect(program.port).await;
        client.send("artifact:install", json!({"source": "a"})).await;
        let mut answered = false;
        for _ in 0..kill_after {
            let message = client.next().await.unwrap();
            assert!(message.get("error").is_none(), "{message}");
            answered = message["type"] == "response";
            if answered {
                break;
            }
        }
        program.kill();

        let program = start();
        let mut client = Client::connect(program.port).await;
        let artifact = client.call("artifact:get", json!({"id": "a"})).await;
        let counted = artifact["version"].as_str().unwrap();
        let answer = client.call("artifact:invoke", json!({"id": "a"})).await;
        assert_eq!(answer.as_str().unwrap().trim(), format!("{FILES} {counted};"));
        client.refuse("artifact:install", json!({"source": "nothing"})).await;
        assert_eq!(names_in(&data_dir.join("artifacts")).len(), 1, "the rest is deleted");
        let before = versions.last().map_or("0", String::as_str);
        assert!(
            counted == (version + 1).to_string() || !answered && counted == before,
            "{counted} after {before}"
        );
        versions.push(counted.to_owned());
        program.kill();
    }
    println!("versions that counted after each kill: {versions:?}");
}
