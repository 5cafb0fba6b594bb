//! How command lines and variables are read.

use std::time::Duration;

use super::super::values::MAX_TOKEN_BYTES;
use super::*;

fn parse_line(line: &str, variables: &[(&str, &str)]) -> Result<Command, String> {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let environment = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value)).filter(|value| !value.is_empty())
    };
    parse(arguments, environment).map_err(|error| error.to_string())
}

fn options(line: &str, variables: &[(&str, &str)]) -> ServeOptions {
    match parse_line(line, variables) {
        Ok(Command::Serve(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn options_come_before_the_environment_and_that_before_the_defaults() {
    let home = ("HOME", "/home/me");
    let defaults = options("", &[home]);
    assert_eq!((defaults.config.host.as_str(), defaults.config.port), ("localhost", 3001));
    assert_eq!(defaults.backend.data_dir, Path::new("/home/me/.local/share/switchboard"));
    let set = [home, ("WS_PORT", "4000"), ("WS_HOST", "::1"), ("XDG_DATA_HOME", "/data"), ("WS_X", "")];
    let from_environment = options("serve", &set);
    assert_eq!((from_environment.config.host.as_str(), from_environment.config.port), ("::1", 4000));
    assert_eq!(from_environment.backend.data_dir, Path::new("/data/switchboard"));
    let from_options = options("serve --port=5 --host h --data-dir d --rate-limit 7/50", &set);
    assert_eq!((from_options.config.host.as_str(), from_options.config.port), ("h", 5));
    assert_eq!(from_options.backend.data_dir, Path::new("d"));
    assert_eq!(defaults.backend.code.code_dir.as_deref(), Some(Path::new("/home/me/.claude/projects")));
    assert_eq!(from_environment.backend.code.restore_root, Path::new("/data/switchboard/restored"));
    let code = options("--data-dir d --code-dir c --restore-root r --max-message 5000", &[]).backend;
    assert_eq!(code.code.code_dir.as_deref(), Some(Path::new("c")));
    assert_eq!((code.code.restore_root.as_path(), code.db.max_page_bytes), (Path::new("r"), 2500));
    assert!(!code.artifact.allow && code.artifact.sources.is_empty());
    let artifact = options("--data-dir d --allow-artifacts --artifact-source a --artifact-source b", &[])
        .backend
        .artifact;
    assert_eq!((artifact.allow, artifact.sources), (true, vec![PathBuf::from("a"), PathBuf::from("b")]));
    assert_eq!(artifact.folder, Path::new("d/artifacts"));
    assert!(defaults.backend.analytics.record);
    assert!(!options("--no-analytics", &[home]).backend.analytics.record);
    assert_eq!(from_options.config.limits.rate_max_requests, 7);
    assert_eq!(from_options.config.limits.rate_window, Duration::from_millis(50));
}

#[test]
fn limits_of_the_server_are_options() {
    let home = ("HOME", "/");
    let defaults = options("", &[home]);
    assert!(defaults.config.same_user && !defaults.config.rate_by_address && !defaults.private);
    assert!(defaults.config.trusted_proxies.is_empty());
    let line = "--any-user --rate-by-address --private --max-connections 7 --max-connections-per-address=3 \
                --trusted-proxy 10.0.0.0/8 --trusted-proxy ::1 --max-message 256 --max-port-attempts 1";
    let set = options(line, &[home]);
    assert!(!set.config.same_user && set.config.rate_by_address && set.private);
    assert_eq!((set.config.max_connections, set.config.max_connections_per_address), (7, 3));
    assert_eq!(set.config.trusted_proxies, ["10.0.0.0/8", "::1"]);
    assert_eq!((set.config.limits.max_message_bytes, set.config.max_port_attempts), (256, 1));
}

#[test]
fn names_of_hosts_and_origins_can_match() {
    let set = [("HOME", "/"), ("SWITCHBOARD_PUBLIC_URL", "https://a.example")];
    assert_eq!(options("", &set).config.public_url.as_deref(), Some("https://a.example"));
    let line =
        "--public-url https://app.example --allow-origin https://*.app.example --allow-host box.example";
    let config = options(line, &set).config;
    assert_eq!(config.public_url.as_deref(), Some("https://app.example"));
    assert_eq!(
        (config.allow_hosts, config.allow_origins),
        (vec!["box.example".to_owned()], vec!["https://*.app.example".to_owned()])
    );
    for (line, expected) in [
        ("--allow-origin *.example", "--allow-origin: it has no scheme: write https://*.example"),
        ("--allow-host http://x", "--allow-host: it is a URL, not a host: write x"),
        ("--public-url app.example", "--public-url: it has no scheme: write https://app.example"),
    ] {
        assert_eq!(parse_line(line, &set).unwrap_err(), expected);
    }
    let set = [("HOME", "/"), ("SWITCHBOARD_PUBLIC_URL", "https://me:pw@a.example")];
    let error = parse_line("", &set).unwrap_err();
    assert_eq!(error, "SWITCHBOARD_PUBLIC_URL: it has a user: write https://a.example");
}

#[test]
fn a_private_server_makes_its_own_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "another-token").unwrap();
    let line = format!("--private --token-file {}", file.display());
    assert!(parse_line(&line, &[("HOME", "/")]).unwrap_err().contains("--private"));
    let set = [("HOME", "/"), ("SWITCHBOARD_TOKEN", "another-token")];
    assert!(parse_line("--private", &set).unwrap_err().contains("SWITCHBOARD_TOKEN"));

    // The commands find it, unless another one is given.
    let made = private::make_or_read(folder.path()).unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let token_of = |line: &str, variables: &[(&str, &str)]| match parse_line(line, variables) {
        Ok(Command::Call { target, .. } | Command::Listen { target, .. }) => target.token,
        Ok(Command::Channels { target, .. }) => target.unwrap().token,
        other => panic!("{line}: {other:?}"),
    };
    let variable = ("SWITCHBOARD_DATA_DIR", data_dir);
    for command in ["call ws://localhost c", "listen ws://127.0.0.1", "channels ws://[::1]:3001"] {
        assert_eq!(token_of(command, &[variable]).as_ref(), Some(&made));
        assert_eq!(token_of(&format!("{command} --data-dir {data_dir}"), &[]).as_ref(), Some(&made));
        assert_eq!(token_of(command, &[variable, ("SWITCHBOARD_TOKEN", "t")]).as_deref(), Some("t"));
        assert_eq!(token_of(command, &[]), None);
        let elsewhere = command.replace("localhost", "example").replace("127.0.0.1", "10.0.0.1");
        assert_eq!(token_of(&elsewhere.replace("::1", "::2"), &[variable]), None);
    }
}

#[test]
fn keys_of_providers_come_from_the_environment_and_stay_hidden() {
    let set = options("", &[("HOME", "/"), ("OPENAI_API_KEY", " sk-1\n"), ("ANTHROPIC_API_KEY", "")]);
    assert_eq!(set.backend.ai.api_keys, BTreeMap::from([("openai".to_owned(), Token::new("sk-1"))]));
    assert!(!format!("{set:?}").contains("sk-1"));
    let blank = options("", &[("HOME", "/"), ("OPENAI_API_KEY", " \n")]);
    assert!(blank.backend.ai.api_keys.is_empty());
}

#[test]
fn keys_go_to_further_origins_only_if_the_operator_names_them() {
    let origins = |line: &str, variable: &str| {
        let set = options(line, &[("HOME", "/"), ("SWITCHBOARD_KEY_ORIGINS", variable)]);
        assert_eq!(set.backend.ai.key_origins, set.backend.imagegen.key_origins);
        set.backend.ai.key_origins.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(origins("", ""), [""; 0]);
    assert_eq!(
        origins("", "https://a.example, http://localhost:1"),
        ["https://a.example", "http://localhost:1"]
    );
    let line = "--key-origin https://A.example:443/v1 --key-origin http://[::1]:8080";
    assert_eq!(origins(line, ""), ["https://a.example", "http://[::1]:8080"]);
    assert_eq!(origins(line, "https://b.example"), ["https://a.example", "http://[::1]:8080"]);
    for (line, variable) in [
        ("--key-origin https://me:s3cret@a.example", ""),
        ("", "https://a.example,s3cret"),
        ("--key-origin s3cret", ""),
    ] {
        let error = parse_line(line, &[("HOME", "/"), ("SWITCHBOARD_KEY_ORIGINS", variable)])
            .unwrap_err()
            .to_lowercase();
        assert!(error.replace('_', "-").contains("key-origin") && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn wrong_usage_is_refused_with_the_name_of_what_is_wrong() {
    for (line, name) in [
        ("sevre", "sevre"),
        ("serve twice", "twice"),
        ("call", "URL CHANNEL"),
        ("call ws://localhost", "URL CHANNEL"),
        ("call ws://localhost c {", "byte 1"),
        ("call ws://localhost c @/nowhere/at/all", "/nowhere/at/all"),
        ("call ws://localhost c 1 2", "\"2\""),
        ("call ws://localhost c --json", "--json"),
        ("listen", "URL"),
        ("listen ws://localhost --timeout 0", "--timeout"),
        ("channels ws://localhost extra", "extra"),
        ("channels ws://localhost --typescript", "--typescript"),
        ("channels ws://localhost --markdown", "--markdown"),
        ("--port 65536", "--port"),
        ("--port", "--port"),
        ("--colour", "--colour"),
        ("--idle-timeout 0", "--idle-timeout"),
        ("--rate-limit 0", "--rate-limit"),
        ("--rate-limit 5/", "--rate-limit"),
        ("--rate-limit 0/0", "--rate-limit"),
        ("--rate-limit 5/0", "--rate-limit"),
        ("--max-port-attempts 0", "--max-port-attempts"),
        ("--max-message 0", "--max-message"),
        ("--max-message 255", "--max-message"),
        ("--max-message 99999999999999999999", "--max-message"),
        ("--max-connections 0", "--max-connections"),
        ("--max-connections-per-address 0", "--max-connections-per-address"),
        ("--max-connections-per-address", "--max-connections-per-address"),
        ("--trusted-proxy proxy.example", "--trusted-proxy"),
        ("--trusted-proxy 10.0.0.0/33", "--trusted-proxy"),
        ("--trusted-proxy=", "--trusted-proxy"),
        ("--timeout 5", "--timeout"),
        ("--token-file /nowhere/at/all", "--token-file"),
        ("channels --port 1", "--port"),
    ] {
        let error = parse_line(line, &[("HOME", "/")]).unwrap_err();
        assert!(error.contains(name), "{line}: {error}");
    }
    assert!(parse_line("", &[]).unwrap_err().contains("--data-dir"));
    let error = parse_line("", &[("HOME", "/"), ("SWITCHBOARD_TOKEN", "two words")]).unwrap_err();
    assert!(error.contains("SWITCHBOARD_TOKEN") && !error.contains("two words"), "{error}");
}

#[test]
fn every_command_has_help_and_a_version() {
    for command in ["", "serve ", "call ", "listen ", "channels "] {
        assert!(
            matches!(parse_line(&format!("{command}-V"), &[("HOME", "/")]), Ok(Command::Version)),
            "{command}"
        );
        assert!(
            matches!(parse_line(&format!("{command}--help"), &[("HOME", "/")]), Ok(Command::Help)),
            "{command}"
        );
    }
}

#[test]
fn a_token_file_holds_a_token_and_white_space() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let token_in = |text: String| {
        std::fs::write(&file, text).unwrap();
        read_token(&file).map_err(|error| error.to_string())
    };
    let token = "x".repeat(MAX_TOKEN_BYTES);
    assert_eq!(token_in(format!("{}{token}\n", " ".repeat(1024))), Ok(token.clone()));
    assert_eq!(token_in(format!("{token}{}", " ".repeat(3 << 10))), Ok(token.clone()));
    assert!(token_in(format!("{token}{}", " ".repeat((3 << 10) + 1))).unwrap_err().contains("larger than"));
    assert!(token_in(" \n".to_owned()).unwrap_err().contains("1..=1024"));
    assert!(token_in(format!("{token}x")).unwrap_err().contains("1..=1024"));
}
