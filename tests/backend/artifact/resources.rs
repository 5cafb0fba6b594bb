//! What programs can take from the system, and what they can see of the server.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::Config;
use switchboard::backend::BackendConfig;

use crate::support::client::Client;
use crate::support::program::{self, Program};

use super::run::named_pipe;
use super::setup::*;

/// Runs the server as a process, with scripts as artifacts, and as a user whom the system limits: root is not limited.
struct Place {
    program: Program,
    client: Client,
    folder: tempfile::TempDir,
}

impl Place {
    const NOBODY: u32 = 65_534;

    async fn start(scripts: &[(&str, &str)]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let sources = folder.path().join("sources");
        for (id, script) in scripts {
            write_script(&sources, id, json!({}), script);
        }
        let mut command = program::command(&folder.path().join("data"));
        command.arg("--allow-artifacts").arg("--artifact-source").arg(&sources);
        command.env("OPENAI_API_KEY", "sk-of-the-operator");
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            chown(folder.path(), Some(Place::NOBODY), Some(Place::NOBODY)).unwrap();
            command.uid(Place::NOBODY).gid(Place::NOBODY).env("HOME", folder.path());
        }
        let program = Program::spawn(command);
        let mut client = Client::connect(program.port).await;
        for (id, _) in scripts {
            client.call("artifact:install", json!({ "source": id })).await;
        }
        Place { program, client, folder }
    }

    async fn invoke(&mut self, id: &str) -> Value {
        self.client.call("artifact:invoke", json!({ "id": id })).await
    }

    fn end(self) {
        self.program.kill();
        drop(self.folder);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_cannot_read_the_environment_or_the_memory_of_the_server() {
    let own = r#"
        for file in /proc/[0-9]*/environ; do
            grep -aq 'sk-of-the-[o]perator' "$file" && echo "\"$file\"" && exit
        done
        test -r "/proc/$PPID/mem" && echo '"memory"' && exit
        ls "/proc/$PPID/fd" > /dev/null && echo '"files"' && exit
        echo '"nothing"'"#;
    let mut place = Place::start(&[("spy", own)]).await;
    assert_eq!(place.invoke("spy").await, json!("nothing"));
    place.end();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_that_forks_without_end_is_stopped_and_others_run() {
    let bomb = "while :; do sleep 600 & done";
    let count = "n=0; while [ $n -lt 5000 ]; do sleep 600 & n=$((n + 1)); done; echo $n";
    let mut place = Place::start(&[("bomb", bomb), ("count", count), ("fine", "echo 1")]).await;
    for id in ["count", "bomb"] {
        let refused = place.client.refuse("artifact:invoke", json!({ "id": id })).await;
        assert!(refused["message"].as_str().unwrap().contains("exit code"), "{refused}");
        assert_eq!(place.invoke("fine").await, json!(1));
    }
    place.end();
}

#[tokio::test]
async fn memory_files_and_time_of_a_program_are_limited() {
    let mut shop = Shop::open(tempfile::tempdir().unwrap(), |config, _| {
        let limits = &mut config.artifact.limits;
        limits.max_memory_bytes = 256 << 20;
        limits.max_written_file_bytes = 1 << 20;
        limits.max_open_files = 40;
        limits.max_cpu_time = Duration::from_secs(1);
    })
    .await;
    let python = |code: &str| format!("exec python3 -c '{code}'");
    // What is said, or the signals that can end it: SIGXFSZ; SIGXCPU or SIGKILL.
    for (id, script, said, signals) in [
        ("memory", python("bytearray(1 << 30)"), "MemoryError", &[][..]),
        (
            "stack",
            python(
                "import threading; [threading.stack_size(1 << 28), threading.Thread(target=print).start()]",
            ),
            "can.t start new thread",
            &[],
        ),
        (
            "open",
            python(
                "[open(\"/dev/null\") for _ in range(40)] and [0 for _ in iter(lambda: open(\"/dev/null\"), 0)]",
            ),
            "Too many open files",
            &[],
        ),
        ("file", "exec yes > \"$HOME/endless\"".to_owned(), "", &[25]),
        ("busy", "while :; do :; done".to_owned(), "", &[24, 9]),
    ] {
        shop.script(id, json!({}), &script).await;
        let refused = shop.refuse_invoke(id, json!(null)).await;
        let details = &refused["details"];
        if signals.is_empty() {
            let stderr = details["stderr"].as_str().unwrap().replace('\'', ".");
            assert!(stderr.contains(said), "{id}: {refused}");
        } else {
            let signal = details["signal"].as_u64().unwrap_or_default();
            assert!(signals.contains(&signal), "{id}: {refused}");
        }
    }
    shop.script("core", json!({}), "ulimit -c").await;
    assert_eq!(shop.invoke("core", json!(null)).await, json!(0));
    shop.close().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_reported_as_such() {
    let mut shop = Shop::new().await;
    let folder = shop.sources().join("lost");
    write_file(&folder.join("artifact.json"), manifest("lost", json!({})).to_string(), 0o644);
    write_file(&folder.join("run"), "#!/no/such/interpreter\n", 0o755);
    shop.client.call("artifact:install", json!({"source": "lost"})).await;
    shop.pass_install("lost").await;
    let refused = shop.refuse_invoke("lost", json!(null)).await;
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("lost: cannot be run: ") && message.contains("not found"), "{refused}");
    assert!(refused["details"].is_null());
    // A program that ends as the shell would has run.
    shop.script("same", json!({}), "echo 'sh: 9: exec: Text file busy' >&2; exit 126").await;
    let refused = shop.refuse_invoke("same", json!(null)).await;
    assert_eq!(refused["details"]["exitCode"], 126);
    assert!(Path::new("/bin/sh").exists());
    shop.close().await;
}

#[tokio::test]
async fn one_client_does_not_hold_all_places_for_programs() {
    let adjust = |config: &mut BackendConfig, _: &mut Config| config.artifact.limits.max_running = 3;
    let mut shop = Shop::open(tempfile::tempdir().unwrap(), adjust).await;
    let door = named_pipe(shop.host.folder.path(), "door");
    let started = shop.host.folder.path().join("started");
    let hold = format!("echo >> {}; read x < {}; echo 1", started.display(), door.display());
    shop.script("hold", json!({}), &hold).await;
    shop.script("fine", json!({}), "echo 2").await;
    let mut other = Client::connect(shop.host.port).await;
    for _ in 0..8 {
        shop.client.send("artifact:invoke", json!({"id": "hold"})).await;
    }
    while fs::read(&started).unwrap_or_default().len() < 2 {
        shop.client.call("system:ping", Value::Null).await;
    }
    assert_eq!(other.call("artifact:invoke", json!({"id": "fine"})).await, json!(2));
    assert_eq!(fs::read(&started).unwrap().len(), 2, "the third place is left for others");
    shop.close().await;
}

#[tokio::test]
async fn clients_take_turns_with_installations() {
    const MANY: usize = 12;
    let mut shop = Shop::new().await;
    for id in (0..MANY).map(|number| format!("many-{number}")).chain(["one".to_owned()]) {
        write_script(&shop.sources(), &id, json!({}), "echo 1");
    }
    let mut other = Client::connect(shop.host.port).await;
    for number in 0..MANY {
        shop.client.send("artifact:install", json!({"source": format!("many-{number}")})).await;
    }
    shop.client.call("system:ping", Value::Null).await;
    other.call("artifact:install", json!({"source": "one"})).await;
    let installed = other.call("artifact:list", Value::Null).await;
    let installed = installed.as_array().unwrap().len();
    assert!(installed <= MANY, "all {installed} came first");
    shop.close().await;
}
