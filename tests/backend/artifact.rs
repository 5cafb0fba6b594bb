//! The channel family `artifact` over a real socket, on a real database file: real folders, real archives, real programs.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::Config;
use switchboard::backend::BackendConfig;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::support::client::Client;
use crate::support::house::House;
use crate::support::program::{self, Program};

/// A house that installs from a folder and runs what it has installed, and a client of it.
struct Shop {
    house: House,
    client: Client,
}

impl Shop {
    async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig, &mut Config)) -> Shop {
        let sources = folder.path().join("sources");
        fs::create_dir_all(&sources).unwrap();
        let house = House::open(folder, |backend, config| {
            backend.artifact.sources = vec![sources];
            backend.artifact.allow = true;
            adjust(backend, config);
        })
        .await;
        let client = Client::connect(house.port).await;
        Shop { house, client }
    }

    async fn new() -> Shop {
        Shop::open(tempfile::tempdir().unwrap(), |_, _| {}).await
    }

    async fn close(self) -> TempDir {
        self.house.close().await
    }

    fn sources(&self) -> PathBuf {
        self.house.folder.path().join("sources")
    }

    /// What lies in the folder of the installed artifacts.
    fn installed(&self) -> Vec<String> {
        names_in(&self.house.folder.path().join("data/artifacts"))
    }

    /// The folder of the one version of an artifact that is there.
    fn folder_of(&self, id: &str) -> PathBuf {
        let names = self.installed();
        let mut own = names.iter().filter(|name| name.starts_with(&format!("{id}.")));
        let folder = own.next().unwrap_or_else(|| panic!("{id} in {names:?}"));
        assert_eq!(own.next(), None, "{names:?}");
        self.house.folder.path().join("data/artifacts").join(folder)
    }

    /// Writes and installs an artifact that is a script of the shell.
    async fn script(&mut self, id: &str, more: Value, script: &str) {
        write_script(&self.sources(), id, more, script);
        self.client.call("artifact:install", json!({"source": id})).await;
        self.pass_install(id).await;
    }

    /// Takes the events of an installation.
    async fn pass_install(&mut self, id: &str) -> Value {
        loop {
            let progress = self.client.event("artifact:progress").await;
            assert_eq!(progress["id"], id);
            if progress["progress"] == json!(1) {
                break;
            }
        }
        let (_, payload) = self.client.any_event().await;
        payload
    }

    async fn invoke(&mut self, id: &str, input: Value) -> Value {
        self.client.call("artifact:invoke", json!({"id": id, "input": input})).await
    }

    async fn refuse_invoke(&mut self, id: &str, input: Value) -> Value {
        self.client.refuse("artifact:invoke", json!({"id": id, "input": input})).await
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A manifest, with some members changed.
fn manifest(id: &str, more: Value) -> Value {
    let mut manifest = json!({"id": id, "name": id, "version": "1.0.0", "command": ["./run"]});
    for (name, value) in more.as_object().unwrap() {
        manifest[name] = value.clone();
    }
    manifest
}

fn write_file(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn write_script(sources: &Path, id: &str, more: Value, script: &str) {
    let folder = sources.join(id);
    write_file(&folder.join("artifact.json"), manifest(id, more).to_string(), 0o644);
    write_file(&folder.join("run"), format!("#!/bin/sh\n{script}\n"), 0o755);
}

fn command(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The reading end of a named pipe that programs hold open. It tells when the first line is written, and when nobody holds
/// it any more: the system closes what a killed process had open.
struct Witness {
    path: PathBuf,
    said: oneshot::Receiver<String>,
    gone: oneshot::Receiver<()>,
}

impl Witness {
    fn new(folder: &Path, name: &str) -> Witness {
        let path = folder.join(name);
        command("mkfifo", &[path.to_str().unwrap()], folder);
        let (say, said) = oneshot::channel();
        let (go, gone) = oneshot::channel();
        let opened = path.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(fs::File::open(opened).unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let _ = say.send(line.trim().to_owned());
            reader.read_to_end(&mut Vec::new()).unwrap();
            let _ = go.send(());
        });
        Witness { path, said, gone }
    }

    async fn said(&mut self) -> String {
        within("the program to begin", &mut self.said).await.unwrap()
    }

    async fn gone(self) {
        within("the end of every process", self.gone).await.unwrap();
    }

    /// What a script does first to be witnessed by it: its number, to a pipe that stays open as number 3.
    fn open(&self) -> String {
        format!("exec 3>'{}'; echo $$ >&3", self.path.display())
    }
}

/// Lets go whoever waits in a `read x < PATH`.
fn let_go(path: &Path) {
    let path = path.to_owned();
    std::thread::spawn(move || {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"go\n").unwrap()
    });
}

fn named_pipe(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    command("mkfifo", &[path.to_str().unwrap()], folder);
    path
}

#[tokio::test]
async fn an_artifact_lives_from_install_to_remove_and_the_others_see_it() {
    let mut shop = Shop::new().await;
    let mut other = Client::connect(shop.house.port).await;
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

    // Of the modes only the owner's bit is kept.
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
    // What changes nothing is told to nobody.
    shop.client.call("artifact:disable", json!({"id": "hello"})).await;
    shop.client.call("artifact:enable", json!({"id": "hello"})).await;
    assert_eq!(other.event("artifact:updated").await["artifact"]["enabled"], true);
    assert_eq!(shop.invoke("hello", json!("Ada")).await, json!({"hello": "Ada"}));

    // It is there after a restart.
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
            // A name that ustar alone cannot write stands below a folder in it.
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
    // By its whole name, and by a link to the root, which is the operator's.
    let whole = sources.join("gnu-top.tar");
    shop.client.call("artifact:install", json!({"source": whole})).await;
    shop.close().await;
}

#[tokio::test]
async fn an_update_keeps_what_was_decided_and_deletes_what_it_replaces() {
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

    // One that is refused leaves alone what is there.
    write_script(&shop.sources(), "a", json!({"version": 3}), "echo 3");
    let error = shop.client.refuse("artifact:install", json!({"source": "a"})).await;
    assert_eq!(error["details"]["path"], "manifest.version");
    assert_eq!(shop.invoke("a", Value::Null).await, 2);
    assert_eq!(shop.installed().len(), 1);
    shop.close().await;
}

/// Some members of a header of an archive, and what follows it.
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
async fn hostile_folders_are_refused_and_leave_nothing_behind() {
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
    let outside = shop.house.folder.path().join("outside");
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
        ("pipe".to_owned(), "\"x\": something else"),
        ("socket".to_owned(), "\"x\": something else"),
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
        ("deep".to_owned(), "too many folders"),
        ("long".to_owned(), "a name that is too long"),
        ("plain.zip".to_owned(), "not called .tar"),
        ("pipe.tar".to_owned(), "something else"),
        ("link.tar".to_owned(), "a link"),
        ("way-out".to_owned(), "a link"),
        ("way/out".to_owned(), "a link"),
        ("plain/run/x".to_owned(), "a file on the way"),
        ("../outside/out".to_owned(), "a name with .."),
        ("plain/../../outside/out".to_owned(), "a name with .."),
        (absolute(sources.join("../outside/out")), "a name with .."),
        (absolute(outside.join("out")), "a name of nothing below"),
        ("/etc".to_owned(), "a name of nothing below"),
        ("/dev/zero".to_owned(), "a name of nothing below"),
        (".".to_owned(), "the --artifact-source itself"),
        ("nothing".to_owned(), "a name of nothing below"),
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
    assert_eq!(shop.client.kept_events(), 0, "a refused request is told to nobody");
    // And the one that is none of this is installed, at the limits.
    (0..18).for_each(|n| write_file(&sources.join(format!("plain/f{n}")), "", 0o644));
    write_file(&sources.join("plain/f0"), vec![0; 10_000], 0o644);
    shop.client.call("artifact:install", json!({"source": "plain"})).await;
    assert_eq!(shop.invoke("plain", Value::Null).await, 1);
    shop.close().await;
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing_behind() {
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
        ("a link and a file behind it", vec![&sound[..], &link], "a link"),
        ("a hard link", vec![&sound, &empty("x", EntryType::Link)], "a link"),
        ("a device", vec![&sound, device.as_bytes(), &end], "something else"),
        ("a pipe", vec![&sound, &empty("x", EntryType::Fifo), &end], "something else"),
        ("a sparse file", vec![&sound, &empty("x", EntryType::GNUSparse), &end], "something else"),
        ("an absolute name", vec![&sound, &file("/tmp/x", b""), &end], "an absolute"),
        ("a name upwards", vec![&sound, &file("../x", b""), &end], "a name with .."),
        ("a name down and upwards", vec![&sound, &file("x/../../y", b""), &end], "a name with .."),
        ("a folder upwards", vec![&sound, &empty("../", EntryType::Directory), &end], "a name with .."),
        ("a name twice", vec![&sound, &file("x", b"1"), &file("x", b"2"), &end], "stands for two things"),
        ("a manifest twice", vec![&sound, &sound, &end], "stands for two things"),
        (
            "a file that is a folder",
            vec![&sound, &file("x", b""), &file("x/y", b""), &end],
            "stands for two things",
        ),
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
            "cut off",
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
        ("no end", vec![&sound], "cut off"),
        ("half a header", vec![&sound, &sound[..100]], "cut off"),
        ("another archive behind it", vec![&sound, &end, &sound, &end], "behind its end"),
        (
            "no archive",
            vec![b"PK\x03\x04 is something else, and longer than a block".repeat(20).leak()],
            "no tar archive",
        ),
        ("nothing", vec![], "cut off"),
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
    // Endless, at no cost of anybody's: it is not even read.
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
async fn a_payload_or_a_manifest_of_the_wrong_shape_names_the_member_and_changes_nothing() {
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
        wrong.push((channel, json!({"id": "nobody"}), "id"));
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
        let error = shop.client.refuse(channel, payload.clone()).await;
        assert_eq!(error["code"], "HANDLER_ERROR", "{channel} {payload}: {error}");
        assert_eq!(error["details"]["path"], path, "{channel} {payload}: {error}");
        assert!(error["details"]["expected"].is_string() && error["details"]["got"].is_string(), "{error}");
    }
    assert_eq!(shop.client.call("artifact:list", Value::Null).await, before);
    assert_eq!(shop.client.kept_events(), 0, "a refused request is told to nobody");

    shop.script("b", json!({}), "echo 1").await;
    write_script(&shop.sources(), "c", json!({}), "echo 1");
    let error = shop.client.refuse("artifact:install", json!({"source": "c"})).await;
    assert_eq!(error["details"]["got"], "one more, 2 artifacts are allowed");
    shop.client.call("artifact:install", json!({"source": "b"})).await;
    assert_eq!(shop.installed().len(), 2);
    shop.close().await;
}

#[tokio::test]
async fn without_the_options_nothing_is_installed_and_nothing_is_run() {
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

/// Whether a descriptor of this process lives on in the programs that it starts.
fn is_passed_on(fd: u32) -> bool {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).unwrap() & CLOSE_ON_EXEC == 0)
}

#[tokio::test]
async fn a_program_sees_its_own_folder_and_nothing_of_the_server() {
    let mut shop = Shop::new().await;
    let folder = shop.sources().join("look");
    let given = manifest("look", json!({"command": ["python3", "look.py", "a b", "$HOME", "*"]}));
    write_file(&folder.join("artifact.json"), given.to_string(), 0o644);
    write_file(
        &folder.join("look.py"),
        "import json, os, sys\n\
         open(os.environ['TMPDIR'] + '/x', 'w').write('x')\n\
         print(json.dumps({'env': dict(os.environ), 'cwd': os.getcwd(), 'args': sys.argv[1:],\n\
             'stdin': sys.stdin.read(), 'fds': os.listdir('/proc/self/fd'), 'group': os.getpgid(0) == os.getpid()}))\n",
        0o644,
    );
    shop.client.call("artifact:install", json!({"source": "look"})).await;
    let seen = shop.invoke("look", json!({"b": 1.0, "a": []})).await;
    let home = seen["env"]["HOME"].as_str().unwrap();
    assert_eq!(
        seen["env"],
        json!({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home})
    );
    assert!(!Path::new(home).exists(), "its scratch folder is gone with it");
    assert_eq!(seen["cwd"], shop.folder_of("look").canonicalize().unwrap().to_str().unwrap());
    assert_eq!(seen["args"], json!(["a b", "$HOME", "*"]), "no shell has read them");
    let input: Value = serde_json::from_str(seen["stdin"].as_str().unwrap()).unwrap();
    assert_eq!(input, json!({"b": 1.0, "a": []}));
    assert_eq!(seen["group"], true, "it leads a group of its own");
    // The three, and the listing's own. What this process was started with to pass on is passed on: none of it is ours.
    let fds: Vec<u32> =
        seen["fds"].as_array().unwrap().iter().map(|fd| fd.as_str().unwrap().parse().unwrap()).collect();
    let passed_on = fds.iter().filter(|fd| **fd > 2 && is_passed_on(**fd)).count();
    assert_eq!(fds.len() - passed_on, 4, "{fds:?}");
    shop.close().await;
}

#[tokio::test]
async fn what_a_program_does_wrong_is_said_with_the_end_of_its_stderr() {
    let mut shop = Shop::open(tempfile::tempdir().unwrap(), |backend, _| {
        backend.artifact.limits.max_output_bytes = 1000;
        backend.artifact.limits.max_stderr_bytes = 20;
    })
    .await;
    let cases = [
        ("exit-3", "echo 1; echo broken >&2; exit 3", "exit code 3", json!(3), json!(null), "broken\n"),
        ("signal", "echo dying >&2; kill -TERM $$", "signal 15", json!(null), json!(15), "dying\n"),
        ("not-json", "echo so what; echo why >&2", "not JSON", json!(0), json!(null), "why\n"),
        ("two-values", "echo 1 2", "not JSON", json!(0), json!(null), ""),
        ("nothing", "true", "not JSON", json!(0), json!(null), ""),
        ("not-utf8", "printf '\"\\377\"'", "not UTF-8", json!(0), json!(null), ""),
        (
            "long-stderr",
            "yes 0123456789 | head -c 300003 >&2; printf 'the last words' >&2; exit 1",
            "exit code 1",
            json!(1),
            json!(null),
            "56789\nthe last words",
        ),
        ("too-much", "echo endless >&2; yes", "more than 1000 bytes", json!(null), json!(null), "endless\n"),
        (
            "a-byte-too-much",
            "head -c 1001 /dev/zero | tr '\\0' 1",
            "more than 1000 bytes",
            json!(null),
            json!(null),
            "",
        ),
    ];
    for (id, script, message, exit, signal, stderr) in cases {
        shop.script(id, json!({}), script).await;
        let error = shop.refuse_invoke(id, Value::Null).await;
        assert_eq!(error["code"], "HANDLER_ERROR", "{id}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{id}: {error}");
        let details = &error["details"];
        assert_eq!(
            (&details["exitCode"], &details["signal"], &details["stderr"]),
            (&exit, &signal, &json!(stderr)),
            "{id}"
        );
    }
    shop.script("longest", json!({}), "head -c 1000 /dev/zero | tr '\\0' ' '; exec >&-; sleep 0").await;
    shop.script("most", json!({}), "printf '\"'; head -c 998 /dev/zero | tr '\\0' a; printf '\"'").await;
    assert_eq!(shop.invoke("most", Value::Null).await, json!("a".repeat(998)));
    assert!(
        shop.refuse_invoke("longest", Value::Null).await["message"].as_str().unwrap().contains("not JSON")
    );

    // Its program is deleted behind our back.
    fs::remove_file(shop.folder_of("most").join("run")).unwrap();
    assert!(shop.refuse_invoke("most", Value::Null).await["message"].as_str().unwrap().contains("gone"));
    shop.close().await;
}

#[tokio::test]
async fn input_of_any_size_goes_in_and_need_not_be_read() {
    let mut shop = Shop::new().await;
    shop.script("cat", json!({}), "cat").await;
    shop.script("deaf", json!({}), "exec <&-; echo '\"done\"'").await;
    shop.script("mute", json!({}), "echo '\"done\"'; exec >&-; cat >/dev/null").await;
    let large = json!("x".repeat(8 << 20));
    assert_eq!(shop.invoke("cat", large.clone()).await, large);
    assert_eq!(shop.invoke("deaf", large.clone()).await, "done");
    assert_eq!(shop.invoke("mute", large).await, "done");
    shop.close().await;
}

#[tokio::test]
async fn at_its_deadline_the_whole_group_is_killed() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    let script = format!("{}; echo slow >&2; sleep 1000 & sleep 1000", witness.open());
    shop.script("slow", json!({"timeoutMs": 3000}), &script).await;
    let error = shop.refuse_invoke("slow", Value::Null).await;
    assert_eq!(error["code"], "TIMEOUT", "{error}");
    assert_eq!(error["details"]["stderr"], "slow\n");
    witness.said().await;
    // The grandchildren held it too.
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_has_its_program_killed_and_taken_off_the_system() {
    let mut shop =
        Shop::open(tempfile::tempdir().unwrap(), |backend, _| backend.artifact.limits.max_running = 1).await;
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; sleep 1000 & sleep 1000", witness.open())).await;
    shop.script("quick", json!({}), "echo 1").await;
    let mut leaver = Client::connect(shop.house.port).await;
    leaver.send("artifact:invoke", json!({"id": "slow"})).await;
    let pid = witness.said().await;
    drop(leaver);
    witness.gone().await;
    // There is one place, which is free when nothing of the process is left, not even its exit code.
    assert_eq!(shop.invoke("quick", Value::Null).await, 1);
    assert!(!Path::new("/proc").join(pid).exists());
    shop.close().await;
}

#[tokio::test]
async fn a_server_that_stops_kills_what_it_runs() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; sleep 1000 & sleep 1000", witness.open())).await;
    shop.client.send("artifact:invoke", json!({"id": "slow"})).await;
    witness.said().await;
    shop.house.server.stop().await;
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed_and_holds_nobody_up() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    shop.script("parent", json!({}), &format!("{}; sleep 1000 & echo 1", witness.open())).await;
    assert_eq!(shop.invoke("parent", Value::Null).await, 1);
    witness.said().await;
    witness.gone().await;

    // One that has left the group is out of reach, and holds stdout open; the answer comes all the same.
    let (door, back_door) =
        (named_pipe(shop.house.folder.path(), "door"), named_pipe(shop.house.folder.path(), "back-door"));
    let mut witness = Witness::new(shop.house.folder.path(), "escaped");
    let escaped = format!(
        "setsid sh -c '{}; read x < {}' & read y < {}; echo 2",
        witness.open().replace('\'', ""),
        back_door.display(),
        door.display()
    );
    shop.script("escape", json!({}), &escaped).await;
    let id = shop.client.send("artifact:invoke", json!({"id": "escape"})).await;
    witness.said().await;
    let_go(&door);
    assert_eq!(answer_to(&mut shop.client, &id).await["payload"], 2);
    let_go(&back_door);
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn one_that_left_the_group_and_writes_without_end_holds_nobody_up() {
    let mut shop = Shop::new().await;
    let door = named_pipe(shop.house.folder.path(), "door");
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    let endless = format!(
        "setsid sh -c '{}; exec yes >&2' & read x < {}; echo 1",
        witness.open().replace('\'', ""),
        door.display()
    );
    shop.script("endless", json!({}), &endless).await;
    let id = shop.client.send("artifact:invoke", json!({"id": "endless"})).await;
    witness.said().await;
    // Others of the same client have their turn meanwhile.
    shop.client.call("system:ping", Value::Null).await;
    let_go(&door);
    assert_eq!(answer_to(&mut shop.client, &id).await["payload"], 1);
    // Nobody reads any more what it writes, which ends it.
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn a_program_that_runs_keeps_its_version_through_update_and_removal() {
    let mut shop = Shop::new().await;
    let door = named_pipe(shop.house.folder.path(), "door");
    let script = |witness: &Witness| format!("{}; read x < {}; cat data", witness.open(), door.display());
    let mut first = Witness::new(shop.house.folder.path(), "first");
    write_file(&shop.sources().join("a/data"), "1", 0o644);
    shop.script("a", json!({}), &script(&first)).await;
    let old = shop.folder_of("a");
    let mut runner = Client::connect(shop.house.port).await;
    let first_id = runner.send("artifact:invoke", json!({"id": "a"})).await;
    first.said().await;

    let mut second = Witness::new(shop.house.folder.path(), "second");
    write_file(&shop.sources().join("a/data"), "2", 0o644);
    shop.script("a", json!({}), &script(&second)).await;
    assert!(old.exists(), "somebody runs it");
    let_go(&door);
    assert_eq!(answer_to(&mut runner, &first_id).await["payload"], 1);
    assert!(!old.exists(), "nobody runs it any more");

    let second_id = runner.send("artifact:invoke", json!({"id": "a"})).await;
    second.said().await;
    let folder = shop.folder_of("a");
    assert_eq!(shop.client.call("artifact:remove", json!({"id": "a"})).await, true);
    assert!(folder.exists());
    let_go(&door);
    assert_eq!(answer_to(&mut runner, &second_id).await["payload"], 2);
    assert_eq!(shop.installed(), [""; 0]);
    shop.close().await;
}

async fn answer_to(client: &mut Client, id: &str) -> Value {
    loop {
        let message = client.next().await.unwrap();
        if message["type"] == "response" && message["id"] == id {
            return message;
        }
    }
}

#[tokio::test]
async fn only_so_many_programs_run_at_once() {
    let mut shop =
        Shop::open(tempfile::tempdir().unwrap(), |backend, _| backend.artifact.limits.max_running = 1).await;
    let door = named_pipe(shop.house.folder.path(), "door");
    let mut witness = Witness::new(shop.house.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; read x < {}; echo 1", witness.open(), door.display())).await;
    shop.script("quick", json!({"timeoutMs": 50}), "echo 2").await;
    shop.script("patient", json!({}), "echo 3").await;
    let mut runner = Client::connect(shop.house.port).await;
    let slow = runner.send("artifact:invoke", json!({"id": "slow"})).await;
    witness.said().await;
    let error = shop.refuse_invoke("quick", Value::Null).await;
    assert_eq!(error["code"], "TIMEOUT", "no place is free within its time: {error}");
    let patient = shop.client.send("artifact:invoke", json!({"id": "patient"})).await;
    shop.client.send("system:ping", Value::Null).await;
    let first = shop.client.next().await.unwrap();
    assert_eq!(first["channel"], "system:ping", "the other waits: {first}");
    let_go(&door);
    assert_eq!(answer_to(&mut runner, &slow).await["payload"], 1);
    assert_eq!(answer_to(&mut shop.client, &patient).await["payload"], 3);
    shop.close().await;
}

#[tokio::test]
async fn installations_of_one_id_at_once_go_one_after_the_other() {
    let mut shop = Shop::new().await;
    let mut witness = Client::connect(shop.house.port).await;
    for n in 0..4 {
        write_script(&shop.sources(), "a", json!({"version": n.to_string()}), &format!("echo {n}"));
        fs::rename(shop.sources().join("a"), shop.sources().join(format!("v{n}"))).unwrap();
    }
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Client::connect(shop.house.port).await;
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
async fn what_an_earlier_run_left_behind_is_swept_and_nothing_else() {
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
async fn kill_9_in_the_middle_of_an_update_leaves_one_whole_version() {
    const FILES: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources");
    let data_dir = folder.path().join("data");
    // By relative names, as an operator may write them.
    let start = || {
        let mut command = program::command(Path::new("data"));
        command.args(["--allow-artifacts", "--artifact-source", "sources"]).current_dir(folder.path());
        Program::spawn(command)
    };
    // Each version's files say which one they are of.
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
        assert_eq!(names_in(&data_dir.join("artifacts")).len(), 1, "the rest is swept");
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
