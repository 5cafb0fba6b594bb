//! Settings of the backend at their extremes. None panics; at the upper ends everything works.

use std::collections::HashSet;
use std::fs;
use std::panic;
use std::sync::{LazyLock, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use serde_json::json;
use switchboard::Config;
use switchboard::Server;
use switchboard::backend::ai::AiConfig;
use switchboard::backend::ai::sse::SseLimits;
use switchboard::backend::analytics::AnalyticsConfig;
use switchboard::backend::artifact::{ArtifactConfig, ArtifactLimits};
use switchboard::backend::code::{CodeConfig, CodeLimits};
use switchboard::backend::db::DbLimits;
use switchboard::backend::imagegen::ImagegenConfig;
use switchboard::backend::{Backend, BackendConfig, register_all};

use crate::support::client::Client;

/// The ends of a type.
trait Ends: Copy + PartialEq {
    const ENDS: [Self; 2];
}

impl Ends for Duration {
    const ENDS: [Duration; 2] = [Duration::ZERO, Duration::MAX];
}

macro_rules! numbers {
    ($($number:ty),*) => { $(impl Ends for $number { const ENDS: [$number; 2] = [0, <$number>::MAX]; })* };
}
numbers!(u32, u64, usize);

/// Every field of a struct, so that a new one fails to compile until it is in the list; `others` have no ends.
macro_rules! each_field {
    ($config:ident, $place:expr, $kind:ident { $($field:ident),* } others { $($other:ident),* }) => {
        #[allow(dead_code)]
        fn complete(value: $kind) {
            let $kind { $($field: _,)* $($other: _,)* } = value;
        }
        $({
            let [least, most] = Ends::ENDS;
            check(stringify!($field), "0", |$config| $place.$field = least).await;
            check(stringify!($field), "MAX", |$config| $place.$field = most).await;
        })*
    };
}

/// The threads that have panicked. All tasks of a test run on its own thread.
static PANICKED: LazyLock<Mutex<HashSet<ThreadId>>> = LazyLock::new(|| {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        PANICKED.lock().unwrap().insert(thread::current().id());
        before(panic);
    }));
    Mutex::default()
});

/// Uses each family, and checks that each request is answered; at the upper end, with success.
async fn check(field: &str, value: &str, adjust: impl FnOnce(&mut BackendConfig)) {
    LazyLock::force(&PANICKED);
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources");
    fs::create_dir_all(sources.join("one")).unwrap();
    let manifest = json!({"id": "one", "name": "One", "version": "1", "command": ["sh", "-c", "echo 1"]});
    fs::write(sources.join("one/artifact.json"), manifest.to_string()).unwrap();
    let mut config = BackendConfig::new(folder.path().join("data"));
    config.artifact.allow = true;
    config.artifact.sources = vec![sources];
    config.code.code_dir = Some(folder.path().join("home/projects"));
    adjust(&mut config);
    let Ok(backend) = Backend::open(config) else {
        assert_eq!(value, "0", "{field} {value}");
        return;
    };
    let server = Server::new(Config::default().port(0));
    register_all(&server, &backend);
    let mut client = Client::connect(server.start().await.unwrap()).await;
    let range = json!({"timeRange": "24h"});
    for (channel, payload) in [
        ("settings:set", json!({"key": "k", "value": 1})),
        ("chat:create", json!({"title": "words"})),
        ("chat:list", json!({})),
        ("chat:search", json!({"query": "words"})),
        (
            "ai:chat",
            json!({"provider": "echo", "model": "echo", "messages": [{"role": "user", "content": "x"}]}),
        ),
        (
            "imagegen:create-entry",
            json!({"provider": "pattern", "prompt": "x", "params": {"width": 64, "height": 64}}),
        ),
        ("imagegen:list-images", json!({})),
        ("artifact:install", json!({"source": "one"})),
        ("artifact:invoke", json!({"id": "one"})),
        ("code:list-sessions", json!({})),
        ("code:search-transcript", json!({"query": "words"})),
        ("analytics:run-aggregation", json!({})),
        ("analytics:lifetime-totals", range),
    ] {
        let answer = client.respond(channel, payload).await;
        let is_panic = answer["error"]["message"] == "Internal error";
        assert!(!is_panic && (value == "0" || answer["error"].is_null()), "{field} {value}: {answer}");
    }
    drop(client);
    backend.close().await;
    let has_panicked = PANICKED.lock().unwrap().contains(&thread::current().id());
    assert!(!has_panicked, "{field} {value}");
}

#[tokio::test]
async fn the_database_works_at_the_ends_of_its_limits() {
    check("heartbeat_interval", "0", |config| config.heartbeat_interval = Duration::ZERO).await;
    check("heartbeat_interval", "MAX", |config| config.heartbeat_interval = Duration::MAX).await;
    each_field!(config, config.db, DbLimits {
        max_database_bytes, max_page_bytes, max_queued_writes, max_readers, max_searches, max_ranked_rows, read_timeout
    } others {});
}

#[tokio::test]
async fn providers_and_images_work_at_the_ends_of_their_limits() {
    each_field!(config, config.ai, AiConfig {
        connect_timeout, idle_timeout, max_duration, retry_pause, max_retry_pause, max_response_bytes, max_answer_bytes,
        max_concurrent
    } others { api_keys, key_origins, sse });
    {
        each_field!(config, config.ai.sse, SseLimits { max_line_bytes, max_event_bytes } others {});
    }
    {
        each_field!(config, config.imagegen, ImagegenConfig {
            connect_timeout, generation_timeout, retry_pause, max_retry_pause, max_image_bytes, max_response_bytes,
            max_total_bytes, max_queued, max_groups, max_prompt_bytes, max_params_bytes, max_batch_size,
            max_batch_count, max_side
        } others { api_keys, key_origins });
    }
}

#[tokio::test]
async fn transcripts_and_statistics_work_at_the_ends_of_their_limits() {
    each_field!(config, config.code.limits, CodeLimits {
        scan_interval, scan_wait, max_files, max_line_bytes, max_indexed_text_bytes, max_restore_file_bytes,
        max_restore_bytes
    } others {});
    {
        each_field!(config, config.analytics, AnalyticsConfig { flush_interval, rollup_interval } others { record });
    }
    {
        #[allow(dead_code)]
        fn complete(CodeConfig { code_dir: _, restore_root: _, limits: _ }: CodeConfig) {}
    }
}

#[tokio::test]
async fn artifacts_work_at_the_ends_of_their_limits() {
    each_field!(config, config.artifact.limits, ArtifactLimits {
        max_artifacts, max_files, max_file_bytes, max_total_bytes, max_path_bytes, max_depth, max_manifest_bytes,
        install_timeout, max_timeout, max_running, max_output_bytes, max_stderr_bytes, max_memory_bytes,
        max_written_file_bytes, max_open_files, max_processes, max_cpu_time
    } others {});
    {
        #[allow(dead_code)]
        fn complete(ArtifactConfig { allow: _, sources: _, folder: _, limits: _ }: ArtifactConfig) {}
    }
}
