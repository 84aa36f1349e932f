use std::fs;
use std::os::unix::fs::symlink;

use notify::event::{CreateKind, Flag};

use super::super::pending::{QUIET, QUIET_AT_MOST};
use super::*;

async fn heard(watch: &Watch) -> ScanScope {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("an event within five seconds")
}

/// Everything that is heard up to and with a file that is written last.
async fn heard_until(watch: &Watch, directory: &Path) -> Vec<ScanScope> {
    fs::write(directory.join("sentinel.yaml"), "x").unwrap();
    let mut all = Vec::new();
    loop {
        let scope = heard(watch).await;
        let is_last = matches!(&scope, ScanScope::Names(names) if names.contains("sentinel.yaml"));
        all.push(scope);
        if is_last {
            return all;
        }
    }
}

fn names<const N: usize>(names: [&str; N]) -> ScanScope {
    ScanScope::Names(names.map(str::to_owned).into())
}

async fn armed(directory: &Path) -> Watch {
    let mut watch = Watch::new(directory.to_owned());
    watch.try_renew().await.unwrap();
    watch
}

#[tokio::test]
async fn a_finished_file_is_heard_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let watch = armed(dir.path()).await;
    fs::write(dir.path().join("a.yaml"), "x").unwrap();
    assert_eq!(heard(&watch).await, names(["a.yaml"]));
    fs::write(dir.path().join(".b.tmp"), "x").unwrap();
    fs::rename(dir.path().join(".b.tmp"), dir.path().join("b.yaml")).unwrap();
    let heard = heard_until(&watch, dir.path()).await;
    let has_b = |scope: &ScanScope| matches!(scope, ScanScope::Names(names) if names.contains("b.yaml"));
    assert!(heard.iter().any(has_b), "{heard:?}");
}

#[tokio::test]
async fn a_removed_and_a_moved_file_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yaml"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let watch = armed(dir.path()).await;
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(heard(&watch).await, names(["a.yaml"]));
    fs::rename(dir.path().join("b.yaml"), elsewhere.path().join("b.yaml")).unwrap();
    assert_eq!(heard(&watch).await, names(["b.yaml"]));
}

#[tokio::test]
async fn looking_and_other_files_contents_make_no_hint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "x").unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let watch = armed(dir.path()).await;
    fs::read(dir.path().join("a.yaml")).unwrap();
    fs::read_dir(dir.path()).unwrap().for_each(drop);
    fs::write(dir.path().join("notes.txt"), "y").unwrap();
    assert_eq!(heard_until(&watch, dir.path()).await, [names(["sentinel.yaml"])]);
}

#[tokio::test]
async fn what_editors_put_beside_the_files_makes_no_hint_where_no_file_is_a_link() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "x").unwrap();
    let mut watch = armed(dir.path()).await;
    let at = |name: &str| dir.path().join(name);
    let save_as_editors_do = || {
        fs::write(at("4913"), "").unwrap();
        fs::remove_file(at("4913")).unwrap();
        fs::rename(at("a.yaml"), at("a.yaml~")).unwrap();
        fs::write(at("a.yaml"), "y").unwrap();
        fs::remove_file(at("a.yaml~")).unwrap();
    };
    watch.expect_links(false, BTreeSet::new());
    save_as_editors_do();
    let all = heard_until(&watch, dir.path()).await;
    let has_a = |scope: &ScanScope| matches!(scope, ScanScope::Names(names) if names.contains("a.yaml"));
    assert!(all.iter().any(has_a) && !all.contains(&ScanScope::All), "{all:?}");
    // Events from before are drained first: a scan of the whole directory would wait for a quiet moment.
    assert!(watch.requests.lock().all.is_none());
    watch.expect_links(true, BTreeSet::new());
    save_as_editors_do();
    while heard(&watch).await != ScanScope::All {}
}

/// A wake-up to scan everything comes, and the new directory is watched.
async fn expect_a_new_directory(mut watch: Watch, directory: &Path) {
    while heard(&watch).await != ScanScope::All {}
    watch.try_renew().await.unwrap();
    heard_until(&watch, directory).await;
}

#[tokio::test]
async fn a_replaced_directory_is_seen_from_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    fs::create_dir(&rules).unwrap();
    let watch = armed(&rules).await;
    fs::rename(&rules, dir.path().join("old")).unwrap();
    fs::create_dir(&rules).unwrap();
    expect_a_new_directory(watch, &rules).await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_seen_from_the_last_folder_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("etc/honeypot/rules");
    let mut watch = armed(&rules).await;
    fs::create_dir_all(&rules).unwrap();
    while heard(&watch).await != ScanScope::All {}
    watch.try_renew().await.unwrap();
    heard_until(&watch, &rules).await;
}

#[tokio::test]
async fn a_link_that_is_turned_is_seen_wherever_it_stands_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    for release in ["one", "two"] {
        fs::create_dir_all(dir.path().join(release).join("rules")).unwrap();
    }
    let current = dir.path().join("current");
    symlink("one", &current).unwrap();
    let rules = current.join("rules");
    let watch = armed(&rules).await;
    symlink("two", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &current).unwrap();
    expect_a_new_directory(watch, &rules).await;
}

#[tokio::test]
async fn a_mounted_configmap_that_is_swapped_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["..1", "..2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), version).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let watch = armed(dir.path()).await;
    symlink("..2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    assert_eq!(heard(&watch).await, ScanScope::All);
}

#[tokio::test]
async fn an_overflow_and_an_error_of_the_kernel_are_hints_to_look_at_all() {
    let watch = Watch::new("/rules".into());
    let overflow = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
    listen(&watch.requests, Path::new("/rules"), &Watched::default(), Ok(overflow));
    assert_eq!(heard(&watch).await, ScanScope::All);
    listen(&watch.requests, Path::new("/rules"), &Watched::default(), Err(notify::Error::generic("broken")));
    assert_eq!(heard(&watch).await, ScanScope::All);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_never_rests_is_looked_at_all_the_same() {
    let watch = Watch::new("/rules".into());
    let started = Instant::now();
    let touch = || {
        let created = EventKind::Create(CreateKind::File);
        let event = notify::Event::new(created).add_path("/rules/a.yaml".into());
        listen(&watch.requests, Path::new("/rules"), &Watched::default(), Ok(event));
    };
    touch();
    let restless = async {
        loop {
            tokio::time::sleep(QUIET / 2).await;
            touch();
        }
    };
    tokio::select! {
        () = restless => {}
        scope = watch.next() => assert_eq!(scope, names(["a.yaml"])),
    }
    assert_eq!(started.elapsed(), QUIET_AT_MOST);
}
