//! Third-party clients work with the server: Python's `websockets` and Node's `ws`. A client that is not installed
//! is skipped with a message; `.ci/run` installs both below `target/interop`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{skip, socket};
use switchboard::{HandlerError, Payload, RequestContext, Server};

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

async fn start() -> (Server, u16) {
    let server = socket::server(socket::config());
    server.on_request("tell", |payload: Payload, cx: RequestContext| async move {
        let server = cx.server();
        let others: Vec<_> = server.client_ids().into_iter().filter(|id| *id != cx.client_id).collect();
        server.emit_to_many(&others, "told", payload);
        Ok::<_, HandlerError>(Payload::none())
    });
    let port = server.start().await.unwrap();
    (server, port)
}

/// Whether a command can be run and succeeds.
fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

async fn run(mut client: Command) {
    let (server, port) = start().await;
    client.arg(port.to_string());
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().unwrap();
    assert!(
        output.status.success() && output.stdout == b"ok\n",
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_websockets_library_of_python_understands_the_server() {
    let own = path("target/interop/python/bin/python");
    let python = if own.exists() { own } else { PathBuf::from("python3") };
    if !works(Command::new(&python).args(["-c", "import websockets.asyncio.client"])) {
        return skip::skipped("Python's websockets, which is not installed");
    }
    let mut client = Command::new(python);
    client.arg(path("tests/interop/python_client.py"));
    run(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ws_package_of_node_understands_the_server() {
    let modules = path("target/interop/node_modules");
    if !works(Command::new("node").env("NODE_PATH", &modules).args(["-e", "require('ws')"])) {
        return skip::skipped("Node's ws, which is not installed");
    }
    let mut client = Command::new("node");
    client.env("NODE_PATH", modules).arg(path("tests/interop/node_client.cjs"));
    run(client).await;
}
