//! Running a program: what it gets, its limits, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::setup::*;
use crate::support::client::Client;

/// The reading end of a named pipe that programs hold open. It reports when the first line is written, and when no process
/// has it open: the system closes what a killed process had open.
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

    /// The first line of a script that is observed: it writes its process id to the pipe, which stays open as descriptor 3.
    fn open(&self) -> String {
        format!("exec 3>'{}'; echo $$ >&3", self.path.display())
    }
}

/// Releases a process that waits in `read x < PATH`.
fn let_go(path: &Path) {
    let path = path.to_owned();
    std::thread::spawn(move || {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"go\n").unwrap()
    });
}

pub(super) fn named_pipe(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    command("mkfifo", &[path.to_str().unwrap()], folder);
    path
}

/// Whether a descriptor of this process is inherited by the programs that it starts.
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
    assert!(!Path::new(home).exists(), "its scratch folder is deleted");
    assert_eq!(seen["cwd"], shop.folder_of("look").canonicalize().unwrap().to_str().unwrap());
    assert_eq!(seen["args"], json!(["a b", "$HOME", "*"]), "no shell has read them");
    let input: Value = serde_json::from_str(seen["stdin"].as_str().unwrap()).unwrap();
    assert_eq!(input, json!({"b": 1.0, "a": []}));
    assert_eq!(seen["group"], true, "it leads a group of its own");
    // The three standard ones, and the one of the listing. Descriptors that this process itself inherited do not count.
    let fds: Vec<u32> =
        seen["fds"].as_array().unwrap().iter().map(|fd| fd.as_str().unwrap().parse().unwrap()).collect();
    let passed_on = fds.iter().filter(|fd| **fd > 2 && is_passed_on(**fd)).count();
    assert_eq!(fds.len() - passed_on, 4, "{fds:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_failed_program_is_an_error_with_the_end_of_its_stderr() {
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

    // Its program was deleted by another process.
    fs::remove_file(shop.folder_of("most").join("run")).unwrap();
    assert!(
        shop.refuse_invoke("most", Value::Null).await["message"].as_str().unwrap().contains("does not exist")
    );
    shop.close().await;
}

#[tokio::test]
async fn input_can_have_any_size_and_stay_unread() {
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
async fn at_its_deadline_the_whole_process_group_is_killed() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    let script = format!("{}; echo slow >&2; sleep 1000 & sleep 1000", witness.open());
    shop.script("slow", json!({"timeoutMs": 3000}), &script).await;
    let error = shop.refuse_invoke("slow", Value::Null).await;
    assert_eq!(error["code"], "TIMEOUT", "{error}");
    assert_eq!(error["details"]["stderr"], "slow\n");
    witness.said().await;
    // The grandchildren had it open too.
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn a_disconnect_kills_and_reaps_the_clients_program() {
    let mut shop =
        Shop::open(tempfile::tempdir().unwrap(), |backend, _| backend.artifact.limits.max_running = 1).await;
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; sleep 1000 & sleep 1000", witness.open())).await;
    shop.script("quick", json!({}), "echo 1").await;
    let mut leaver = Client::connect(shop.host.port).await;
    leaver.send("artifact:invoke", json!({"id": "slow"})).await;
    let pid = witness.said().await;
    drop(leaver);
    witness.gone().await;
    // There is one place, which is free once the process is reaped.
    assert_eq!(shop.invoke("quick", Value::Null).await, 1);
    assert!(!Path::new("/proc").join(pid).exists());
    shop.close().await;
}

#[tokio::test]
async fn stopping_the_server_kills_running_programs() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; sleep 1000 & sleep 1000", witness.open())).await;
    shop.client.send("artifact:invoke", json!({"id": "slow"})).await;
    witness.said().await;
    shop.host.server.stop().await;
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn child_processes_that_outlive_their_program_are_killed() {
    let mut shop = Shop::new().await;
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    shop.script("parent", json!({}), &format!("{}; sleep 1000 & echo 1", witness.open())).await;
    assert_eq!(shop.invoke("parent", Value::Null).await, 1);
    witness.said().await;
    witness.gone().await;

    // A process that left the group cannot be killed and keeps stdout open; the response is sent anyway.
    let (door, back_door) =
        (named_pipe(shop.host.folder.path(), "door"), named_pipe(shop.host.folder.path(), "back-door"));
    let mut witness = Witness::new(shop.host.folder.path(), "escaped");
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
async fn a_process_that_left_the_group_and_writes_forever_blocks_no_client() {
    let mut shop = Shop::new().await;
    let door = named_pipe(shop.host.folder.path(), "door");
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    let endless = format!(
        "setsid sh -c '{}; exec yes >&2' & read x < {}; echo 1",
        witness.open().replace('\'', ""),
        door.display()
    );
    shop.script("endless", json!({}), &endless).await;
    let id = shop.client.send("artifact:invoke", json!({"id": "endless"})).await;
    witness.said().await;
    // Other requests of the same client are answered meanwhile.
    shop.client.call("system:ping", Value::Null).await;
    let_go(&door);
    assert_eq!(answer_to(&mut shop.client, &id).await["payload"], 1);
    // Its output is no longer read, which ends it.
    witness.gone().await;
    shop.close().await;
}

#[tokio::test]
async fn a_running_program_keeps_its_version_during_update_and_removal() {
    let mut shop = Shop::new().await;
    let door = named_pipe(shop.host.folder.path(), "door");
    let script = |witness: &Witness| format!("{}; read x < {}; cat data", witness.open(), door.display());
    let mut first = Witness::new(shop.host.folder.path(), "first");
    write_file(&shop.sources().join("a/data"), "1", 0o644);
    shop.script("a", json!({}), &script(&first)).await;
    let old = shop.folder_of("a");
    let mut runner = Client::connect(shop.host.port).await;
    let first_id = runner.send("artifact:invoke", json!({"id": "a"})).await;
    first.said().await;

    let mut second = Witness::new(shop.host.folder.path(), "second");
    write_file(&shop.sources().join("a/data"), "2", 0o644);
    shop.script("a", json!({}), &script(&second)).await;
    assert!(old.exists(), "a process runs it");
    let_go(&door);
    assert_eq!(answer_to(&mut runner, &first_id).await["payload"], 1);
    assert!(!old.exists(), "no process runs it");

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

#[tokio::test]
async fn the_number_of_running_programs_is_limited() {
    let mut shop =
        Shop::open(tempfile::tempdir().unwrap(), |backend, _| backend.artifact.limits.max_running = 1).await;
    let door = named_pipe(shop.host.folder.path(), "door");
    let mut witness = Witness::new(shop.host.folder.path(), "witness");
    shop.script("slow", json!({}), &format!("{}; read x < {}; echo 1", witness.open(), door.display())).await;
    shop.script("quick", json!({"timeoutMs": 50}), "echo 2").await;
    shop.script("patient", json!({}), "echo 3").await;
    let mut runner = Client::connect(shop.host.port).await;
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
