//! Configuration faults C1 to C6 and C9; C8 is in `overrides`. What makes a running daemon keep its
//! old configuration (C7) is the daemon's business.

use super::{at, files, keys, load, only, parse, problems, problems_of, source, with};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};
use synchromesh::config::{Account, ConfigError, PeerRule, Place, Role, Source};
use tempfile::TempDir;

#[test]
fn c1_a_missing_file_is_named() {
    let error = Source::new("/nowhere/synchromesh.yaml").load().unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("/nowhere/synchromesh.yaml"), "{error}");
    let (folder, shown) = files();
    fs::remove_file(folder.path().join("m.mesh")).unwrap();
    let found = problems_of(load(&folder));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "models.0.bundle"));
    assert_eq!(found[0].place, at(1, 19));
    assert!(found[0].what.contains(&format!("{shown}/m.mesh")), "{found:?}");
}

#[test]
fn c2_a_syntax_error_tells_line_and_column() {
    for (text, place) in [
        ("models: [{bundle: /m, pool_bytes: 1MiB}]\nlisten: {tcp: [}\n", at(2, 16)),
        ("models: [{bundle: /m, pool_bytes: 1MiB}]\nlog: 'info\n", at(3, 1)),
        ("limits:\n  connections: 8\n log: {}\n", at(3, 2)),
        ("a: !unknown [1]\n", at(1, 4)),
        ("? [a, b]\n: 1\n", at(1, 1)),
        ("a: *nothing\n", at(1, 4)),
    ] {
        let found = only(text);
        assert_eq!((found.place, found.key.as_str()), (place, ""), "{text}");
        assert!(found.what.starts_with("cannot be read as YAML: "), "{}", found.what);
    }
    let shown = parse("listen: {tcp: [}\n").unwrap_err().to_string();
    assert!(shown.starts_with("test.yaml:1:16: cannot be read as YAML"), "{shown}");
    let tab = only("limits:\n\tconnections: 8\n");
    assert!(tab.place == at(2, 1) && tab.what.contains("tab"), "{tab:?}");
    assert!(parse("\u{0}").is_err());
    assert!(only("a: 1\n---\nb: 1\n").what.contains("more than one document"));
}

#[test]
fn c2_files_that_are_no_text_or_too_large_are_refused() {
    let (folder, _) = files();
    let path = folder.path().join("c.yaml");
    let good = fs::read(&path).unwrap();
    let marked = [b"\xef\xbb\xbf".as_slice(), &good].concat();
    fs::write(&path, marked).unwrap();
    load(&folder).expect("a byte order mark is no part of the text");

    fs::write(&path, [&good[..], "log: {filter: é".as_bytes(), b"\xff}\n"].concat()).unwrap();
    let found = problems_of(load(&folder));
    assert_eq!((found.len(), &found[0].place), (1, &at(2, 16)));
    assert!(found[0].what.contains("UTF-8"), "{found:?}");

    let mut large = good.clone();
    large.resize((1 << 20) - 1, b'#');
    large.push(b'\n');
    fs::write(&path, &large).unwrap();
    load(&folder).expect("a file of 1 MiB");
    large.push(b'\n');
    fs::write(&path, &large).unwrap();
    let error = load(&folder).unwrap_err();
    assert!(error.to_string().contains("larger than 1048576 bytes"), "{error}");
}

#[test]
fn c2_what_grows_when_it_is_read_is_bounded() {
    let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for i in 1..9 {
        let alias = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    assert!(only(&bomb).what.contains("more than 100000 values"));
    let endless = only("a: &a [*a]\n");
    assert!(endless.what.contains("recursion"), "{endless:?}");
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    assert!(only(&deep).what.contains("recursion"));
    // The parser would need minutes for this.
    assert!(only(&"{a: ".repeat(250_000)).what.contains("more than 10000 brackets"));
    let many = problems(&with(&(0..2000).map(|i| format!("x{i}: 1\n")).collect::<String>()));
    assert_eq!(many.len(), 1001);
    assert_eq!(many[1000].what, "1000 more problems are not listed");
    let anchored =
        "models:\n  - &m {bundle: /m, pool_bytes: &size 1MiB}\nstorage: {read_bytes: *size}\n";
    assert_eq!(parse(anchored).unwrap().storage.read_bytes, 1 << 20, "aliases can be used");
}

#[test]
fn c3_an_unknown_key_refuses_the_file_at_every_level() {
    for (text, key, told) in [
        ("modls: 5", "modls", "did you mean `models`?"),
        ("read_threads: 5", "read_threads", "did you mean `storage.read_threads`?"),
        ("x: 5", "x", "known here are limits, listen, lock_memory"),
        ("listen: {tpc: '127.0.0.1:1'}", "listen.tpc", "did you mean `listen.tcp`?"),
        ("storage: {threads: 1}", "storage.threads", "known here are backend, read_bytes"),
        ("limits: {conections: 1}", "limits.conections", "did you mean `limits.connections`?"),
        ("log: {level: info}", "log.level", "known here are filter, format"),
        ("peers: [{users: 1, role: observe}]", "peers.0.users", "did you mean `peers.0.user`?"),
        ("prefetch: {waste: 1MiB}", "prefetch.waste", "known here are enabled"),
        ("<<: {log: {filter: info}}", "<<", "is no key"),
    ] {
        let found = only(&with(text));
        assert_eq!(found.key, key, "{text}");
        assert!(found.what.contains(told), "{}", found.what);
        let column = text.find(key.rsplit('.').next().unwrap()).unwrap() + 1;
        assert_eq!(found.place, at(2, column), "{text}");
    }
    let model = only("models: [{bundle: /m, pool_bytes: 1MiB, pool: 1}]");
    assert_eq!((model.key.as_str(), model.place), ("models.0.pool", at(1, 41)));
}

#[test]
fn c3_a_key_that_is_given_twice_is_refused() {
    let found = only(&with("limits:\n  connections: 80\n  connections: 90"));
    assert_eq!((found.key.as_str(), found.place), ("limits.connections", at(4, 3)));
    assert!(found.what.contains("first in line 3"), "{}", found.what);
    assert_eq!(keys(&format!("{}{}", with(""), with(""))), ["models"]);
}

#[test]
fn c4_zero_negative_overflowing_and_oversized_values_are_refused() {
    let bytes = |value: &str| format!("models: [{{bundle: /m, pool_bytes: {value}}}]");
    for value in [
        "0",
        "900TiB",
        "-1",
        "-1MiB",
        "99999999999999999999999",
        "99999999999999999999999GiB",
        "-99999999999999999999999999999999999999999999",
        "1.5",
        "1e9",
        ".inf",
        ".nan",
        "1.5.2MiB",
        "lots",
        "''",
        "null",
        "",
        "[]",
        "{}",
        "true",
    ] {
        let found = only(&bytes(value));
        // What is empty is told of at its key.
        let column = if ["", "null"].contains(&value) { 23 } else { 35 };
        assert_eq!(found.key, "models.0.pool_bytes", "{value}");
        assert_eq!(found.place, at(1, column), "{value}");
    }
    assert!(only(&bytes("900TiB")).what.contains("the machine's"), "more than this machine has");
    for (text, key) in [
        ("storage: {read_threads: 0}", "storage.read_threads"),
        ("storage: {read_threads: 65, reads_in_flight: 100}", "storage.read_threads"),
        ("storage: {reads_in_flight: 5000}", "storage.reads_in_flight"),
        ("storage: {read_bytes: 4095}", "storage.read_bytes"),
        ("storage: {read_bytes: 1GiB}", "storage.read_bytes"),
        ("prefetch: {waste_bytes_per_s: 0}", "prefetch.waste_bytes_per_s"),
        ("prefetch: {waste_bytes_per_s: 1048575}", "prefetch.waste_bytes_per_s"),
        ("prefetch: {waste_bytes_per_s: 1025GiB}", "prefetch.waste_bytes_per_s"),
        ("limits: {switch_timeout_ms: 0}", "limits.switch_timeout_ms"),
        ("limits: {drain_timeout_ms: 3600001}", "limits.drain_timeout_ms"),
        ("limits: {clients_per_session: 0}", "limits.clients_per_session"),
        ("limits: {connections: 4097}", "limits.connections"),
        ("limits: {connections: -1}", "limits.connections"),
        ("limits: {connections: 18446744073709551616}", "limits.connections"),
        ("peers: [{user: 7, role: observe}, {user: 4294967295, role: observe}]", "peers.1.user"),
        ("peers: [{group: -1, role: observe}]", "peers.0.group"),
    ] {
        let found = only(&with(text));
        assert_eq!(found.key, key, "{text}");
        assert!(found.what.contains(" are allowed"), "{}", found.what);
    }
}

#[test]
fn c4_values_of_another_type_are_refused_and_say_what_is_expected() {
    for (text, key, told) in [
        ("limits: 5", "limits", "is 5; a section of keys is expected"),
        ("limits:", "limits", "is empty; a section of keys is expected"),
        ("limits: {connections: many}", "limits.connections", "is `many`; a whole number is"),
        ("lock_memory: 1", "lock_memory", "is 1; true or false is expected"),
        ("lock_memory: yes", "lock_memory", "is `yes`; true or false is expected"),
        ("peers: 5", "peers", "is 5; a list is expected"),
        ("peers: [{user: true, role: observe}]", "peers.0.user", "is true; text is expected"),
        ("peers: [{user: root, role: owner}]", "peers.0.role", "is `owner`; observe, attach"),
        ("listen: {mode: 432}", "listen.mode", "is 432; text is expected: put it in quotes"),
        ("storage: {backend: uring}", "storage.backend", "is `uring`; auto or preadv are allowed"),
        ("log: {format: 1}", "log.format", "is 1; auto, text, json or journald is expected"),
        ("log: {filter: 1}", "log.filter", "is 1; text is expected: put it in quotes"),
        ("state_dir: []", "state_dir", "is a list; text is expected"),
        ("storage: {read_bytes: much}", "storage.read_bytes", "is `much`; a number of bytes, or"),
    ] {
        let found = only(&with(text));
        assert_eq!(found.key, key, "{text}");
        assert!(found.what.starts_with(told), "{}", found.what);
    }
    assert_eq!(only("[]").what, "is a list; a section of keys is expected");
    assert!(parse(&with("listen: {tcp: null}")).is_ok(), "what may be absent may be null");
}

#[test]
fn c4_more_models_than_a_daemon_can_serve_are_refused() {
    let models = |count: usize| {
        let model = |i| format!("{{bundle: /{i}, pool_bytes: 4KiB}}");
        format!("models: [{}]\n", (0..count).map(model).collect::<Vec<_>>().join(", "))
    };
    assert_eq!(parse(&models(64)).unwrap().models.len(), 64);
    let found = only(&models(65));
    assert_eq!((found.key.as_str(), found.place), ("models", at(1, 9)));
    assert_eq!(found.what, "has 65 entries; give at most 64");
}

#[test]
fn c5_contradictions_are_refused() {
    for (text, key, told) in [
        ("listen: {control: /s, attach: /s}", "listen.attach", "same path as listen.control"),
        (
            "storage: {read_threads: 8, reads_in_flight: 4}",
            "storage.read_threads",
            "is 8, above storage.reads_in_flight, which is 4",
        ),
        (
            "storage: {reads_in_flight: 3}",
            "storage.reads_in_flight",
            "is 3, below storage.read_threads, which is 4 by default",
        ),
        (
            "limits: {attachments_per_process: 17}",
            "limits.attachments_per_process",
            "is 17, above limits.clients_per_session, which is 16 by default",
        ),
        (
            "limits: {clients_per_session: 65}",
            "limits.clients_per_session",
            "is 65, above limits.connections, which is 64 by default",
        ),
        (
            "limits: {connections: 15}",
            "limits.connections",
            "is 15, below limits.clients_per_session, which is 16 by default",
        ),
    ] {
        let found = only(&with(text));
        assert_eq!(found.key, key, "{text}");
        assert!(found.what.contains(told), "{}", found.what);
    }
    let even = "limits: {attachments_per_process: 5, clients_per_session: 5, connections: 5}";
    assert!(parse(&with(even)).is_ok());
    let socket = format!("listen: {{attach: {}}}", "/run/synchromesh/control.sock");
    assert_eq!(keys(&with(&socket)), ["listen.attach"], "the other one by default");

    let twice = "models: [{bundle: /m, pool_bytes: 1MiB}, {bundle: /m, pool_bytes: 1MiB}]";
    assert_eq!(keys(twice), ["models.1.bundle"]);
    let pools = "models: [{bundle: /m, pool_bytes: 1MiB}, {bundle: /n, pool_bytes: 900TiB}]";
    assert_eq!(keys(pools), ["models.1.pool_bytes"]);
    assert_eq!(keys("models: []"), ["models"]);
    assert_eq!(keys(&with("listen: {tcp: '0.0.0.0:7420'}")), ["listen.tcp"]);
    assert_eq!(keys(&with("listen: {tcp: here}")), ["listen.tcp"]);
    assert_eq!(keys(&with("log: {filter: '=x=y'}")), ["log.filter"]);
}

#[test]
fn c5_nothing_is_concluded_from_what_is_wrong_itself() {
    let text = "limits: {connections: many, clients_per_session: 100}";
    assert_eq!(keys(&with(text)), ["limits.connections"], "64 is not what was meant");
    let text = "limits: 5\nstorage: {reads_in_flight: 0}";
    assert_eq!(keys(&with(text)), ["limits", "storage.reads_in_flight"]);
    let text = "models: [{bundle: m, pool_bytes: 1MiB}, {bundle: /n, pool_bytes: 1MiB}, {bundle: /n, pool_bytes: 1MiB}]";
    assert_eq!(keys(text), ["models.0.bundle", "models.2.bundle"], "entries keep their numbers");
}

#[test]
fn c6_relative_paths_are_refused() {
    for path in ["m.mesh", "./m.mesh", "/var/../m.mesh", "''", "\"/m\\0\""] {
        let text = format!("models: [{{bundle: {path}, pool_bytes: 1MiB}}]");
        assert_eq!(keys(&text), ["models.0.bundle"], "{path}");
    }
    assert_eq!(keys(&with("listen: {control: c.sock}")), ["listen.control"]);
    for path in ["state", "./state", "/var/../state", "''"] {
        assert_eq!(keys(&with(&format!("state_dir: {path}"))), ["state_dir"], "{path}");
    }
    let socket = |len: usize| with(&format!("listen: {{attach: /{}}}", "x".repeat(len - 1)));
    assert!(parse(&socket(107)).is_ok());
    assert_eq!(keys(&socket(108)), ["listen.attach"]);
}

#[test]
fn c6_symbolic_links_are_refused() {
    let (folder, shown) = files();
    load(&folder).unwrap();
    let bundle = folder.path().join("m.mesh");
    fs::rename(&bundle, folder.path().join("real.mesh")).unwrap();
    symlink(folder.path().join("real.mesh"), &bundle).unwrap();
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.contains(&format!("{shown}/m.mesh is a symbolic link")), "{error}");

    let (folder, _) = files();
    symlink(folder.path().join("c.yaml"), folder.path().join("link.yaml")).unwrap();
    let error = Source::new(folder.path().join("link.yaml")).load().unwrap_err().to_string();
    assert!(error.contains("link.yaml is a symbolic link"), "{error}");
}

#[test]
fn c6_files_and_folders_that_everybody_can_write_are_refused() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    for name in ["m.mesh", "c.yaml"] {
        let (folder, _) = files();
        mode(&folder.path().join(name), 0o666).unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} is writable by everybody")), "{error}");
    }
    let (folder, shown) = files();
    mode(folder.path(), 0o777).unwrap();
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.contains(&format!("{shown}, a folder of ")), "{error}");
    mode(folder.path(), 0o1777).unwrap();
    load(&folder).expect("a sticky folder, such as /tmp, protects its files");
}

#[test]
fn c6_files_and_folders_that_another_group_can_write_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files to another group");
        return;
    }
    let give = |path: &Path, group, mode| {
        std::os::unix::fs::chown(path, None, Some(group)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["m.mesh", "c.yaml", ""] {
        let (folder, shown) = files();
        let path = folder.path().join(name);
        give(&path, 4711, if name.is_empty() { 0o775 } else { 0o664 });
        let error = load(&folder).unwrap_err().to_string();
        let told = "is writable by its group 4711: chmod g-w";
        assert!(error.contains(told) && error.contains(&shown), "{error}");
        give(&path, 0, if name.is_empty() { 0o775 } else { 0o664 });
        load(&folder).expect("the members of the root group are administrators");
    }
    let (folder, _) = files();
    give(folder.path(), 4711, 0o1775);
    load(&folder).expect("a sticky folder protects its files");
}

#[test]
fn c6_an_entry_of_peers_names_one_account_that_exists() {
    for (text, key, told) in [
        ("peers: [{role: observe}]", "peers.0", "give `user` or `group`"),
        ("peers: [{user: 1, group: 1, role: observe}]", "peers.0", "make two entries"),
        (
            "peers: [{user: nosuch, role: observe}]",
            "peers.0.user",
            "no user `nosuch` in /etc/passwd",
        ),
        ("peers: [{group: nosuch, role: observe}]", "peers.0.group", "no group `nosuch` in"),
        ("listen: {group: nosuch}", "listen.group", "no group `nosuch` in /etc/group"),
        ("listen: {mode: '660'}", "listen.mode", "four octal digits"),
        ("listen: {mode: '0668'}", "listen.mode", "four octal digits"),
    ] {
        let found = only(&with(text));
        assert_eq!(found.key, key, "{text}");
        assert!(found.what.contains(told), "{}", found.what);
    }
    let config = parse(&with("peers: [{user: root, role: attach}, {group: '7', role: command}]"));
    let rule = |account, role| PeerRule { account, role };
    let expected = [rule(Account::User(0), Role::Attach), rule(Account::Group(7), Role::Command)];
    assert_eq!(config.unwrap().peers.0, expected);
}

#[test]
fn c6_folders_further_up_and_where_links_lead_count_too() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let folder = tempfile::tempdir().unwrap();
    let (open, inner) = (folder.path().join("open"), folder.path().join("open/inner"));
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("m.mesh"), b"x").unwrap();
    symlink(&inner, folder.path().join("link")).unwrap();
    let shown = folder.path().display();
    for path in [format!("{shown}/open/inner"), format!("{shown}/link")] {
        let text = format!("models: [{{bundle: {path}/m.mesh, pool_bytes: 1MiB}}]\n");
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        mode(&open, 0o777).unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains("open, a folder of") && error.contains("by everybody"), "{error}");
        mode(&open, 0o755).unwrap();
        load(&folder).unwrap();
    }
}

/// A configuration in `folder` that keeps its state in one of its folders, and its sockets in another.
fn with_folders(folder: &TempDir, shown: &str, state: &str, sockets: &str) {
    let text = format!(
        "models: [{{bundle: {shown}/m.mesh, pool_bytes: 1MiB}}]\nstate_dir: {shown}/{state}\n\
         listen:\n  control: {shown}/{sockets}/c.sock\n  attach: {shown}/{sockets}/a.sock\n"
    );
    fs::write(folder.path().join("c.yaml"), text).unwrap();
}

#[test]
fn c6_folders_of_state_and_sockets_that_everybody_can_write_are_refused() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let (folder, shown) = files();
    let [state, open, inner] = ["state", "open", "open/inner"].map(|name| folder.path().join(name));
    for path in [&state, &open, &inner] {
        fs::create_dir(path).unwrap();
    }
    symlink(&inner, folder.path().join("link")).unwrap();
    with_folders(&folder, &shown, "state", "open");
    load(&folder).expect("folders of one's own");
    mode(&state, 0o777).unwrap();
    mode(&open, 0o777).unwrap();
    let told = load(&folder).unwrap_err().to_string().replace(&shown, "F");
    let expected = "F/c.yaml: 3 problems\n\
        F/c.yaml:2:12: state_dir: F/state is writable by everybody: chmod o-w\n\
        F/c.yaml:4:12: listen.control: F/open is writable by everybody: chmod o-w\n\
        F/c.yaml:5:11: listen.attach: F/open is writable by everybody: chmod o-w";
    assert_eq!(told, expected);
    mode(&state, 0o1777).unwrap();
    mode(&open, 0o1777).unwrap();
    load(&folder).expect("sticky folders, such as /tmp");

    mode(&open, 0o777).unwrap();
    for (sockets, told) in [("open/inner", "open/inner"), ("link", "link")] {
        with_folders(&folder, &shown, "state", sockets);
        let found = problems_of(load(&folder));
        assert_eq!(found.len(), 2, "{found:?}");
        let told = format!("open, a folder of {shown}/{told}, is writable by everybody");
        assert!(found[0].what.contains(&told), "{found:?}");
    }
    with_folders(&folder, &shown, "nowhere", "nowhere");
    load(&folder).expect("folders that are not there yet");
    with_folders(&folder, &shown, "m.mesh", "state");
    load(&folder).expect("what is no folder is for others to tell");
}

#[test]
fn c6_what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    let (folder, shown) = files();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [format!("{shown}/fifo"), shown.clone(), "/dev/null".into()] {
        let text = format!("models: [{{bundle: {path}, pool_bytes: 1MiB}}]\n");
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        let found = problems_of(load(&folder));
        assert!(found[0].what.contains("is not a regular file"), "{found:?}");
        let itself = problems_of(Source::new(&path).load());
        assert_eq!(itself[0].place, Place::File);
        assert!(itself[0].what.contains("is not a regular file"), "{itself:?}");
    }
}

#[test]
fn c9_a_file_of_which_nothing_is_written_yet_is_refused() {
    let (folder, _) = files();
    let source = source(&folder);
    for text in ["", "\n\n", "# models: []\n", "---\n", "null\n"] {
        fs::write(source.path(), text).unwrap();
        let found = problems_of(source.load());
        assert_eq!((found.len(), found[0].key.as_str()), (1, ""), "{text:?}");
        assert!(found[0].what.contains("says nothing"), "{found:?}");
    }
    assert!(problems("models:\n  - bundle: /m\n")[0].what.contains("is missing"), "cut off");
}

#[test]
fn c9_a_file_that_is_renamed_into_place_is_read_whole_each_time() {
    let (folder, shown) = files();
    let source = source(&folder);
    let model = format!("models: [{{bundle: {shown}/m.mesh, pool_bytes: 1MiB}}]\n");
    // Both ends say the same, so that a mixture of two files would show.
    let text = |n: usize| {
        let padding = format!("# {}\n", "x".repeat(100 * n)).repeat(20);
        format!("limits: {{connections: {n}}}\n{padding}{model}storage: {{reads_in_flight: {n}}}\n")
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in (16..80).cycle().take(500) {
                fs::write(folder.path().join("new"), text(n)).unwrap();
                fs::rename(folder.path().join("new"), source.path()).unwrap();
            }
        });
        let mut loaded = 0;
        while !writer.is_finished() || loaded == 0 {
            let config = source.load().unwrap();
            let both = (config.limits.connections, config.storage.reads_in_flight);
            assert!(both.0 == both.1 || both == (64, 64), "{both:?}");
            loaded += 1;
        }
    });
}
