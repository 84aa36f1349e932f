//! The page of the fleet, opened in a real browser.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::layer::rule;
use crate::support::swarm::{Swarm, text, wait_for};

/// Opens a page in a headless browser without a profile. Returns the document after its parser, what the browser says,
/// and how often a picture of it has each colour.
fn open(page: &Path, directory: &Path) -> (String, String, HashMap<[u8; 3], usize>) {
    let picture = directory.join("picture.png");
    let run = |what: &str| {
        let output = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--window-size=2200,1600",
            ])
            .arg(format!("--user-data-dir={}", directory.join("profile").display()))
            .args(["--enable-logging=stderr", what])
            .arg(format!("file://{}", page.display()))
            .output()
            .expect("Debian's package chromium is installed: tests/run");
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (document, said) = run("--dump-dom");
    let (_, more) = run(&format!("--screenshot={}", picture.display()));
    (document, said + &more, colours(&fs::read(picture).unwrap()))
}

/// How many pixels of a PNG picture have each colour.
fn colours(png: &[u8]) -> HashMap<[u8; 3], usize> {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
    let (width, channels) = (number(16), if png[25] == 6 { 4 } else { 3 });
    assert_eq!((png[24], png[25] & 2, png[28]), (8, 2, 0), "8 bits of red, green and blue");
    let (mut at, mut packed) = (8, Vec::new());
    while at < png.len() {
        if &png[at + 4..at + 8] == b"IDAT" {
            packed.extend_from_slice(&png[at + 8..at + 8 + number(at)]);
        }
        at += 12 + number(at);
    }
    let data = miniz_oxide::inflate::decompress_to_vec_zlib(&packed).unwrap();
    let mut above = vec![0; width * channels];
    let mut found = HashMap::new();
    for line in data.chunks(width * channels + 1) {
        let mut row = line[1..].to_vec();
        for index in 0..row.len() {
            let left = if index < channels { 0 } else { row[index - channels] };
            let (up, corner) = (above[index], if index < channels { 0 } else { above[index - channels] });
            let predicted = match line[0] {
                0 => 0,
                1 => left,
                2 => up,
                3 => u8::try_from((u16::from(left) + u16::from(up)) / 2).unwrap(),
                _ => {
                    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
                    let distance = |value: u8| (guess - i16::from(value)).abs();
                    *[left, up, corner].iter().min_by_key(|value| distance(**value)).unwrap()
                }
            };
            row[index] = row[index].wrapping_add(predicted);
        }
        for pixel in row.chunks(channels) {
            *found.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
        }
        above = row;
    }
    found
}

#[test]
#[ignore = "needs chromium"]
fn a_browser_shows_the_page_and_runs_and_loads_nothing() {
    let swarm = Swarm::on_sqlite();
    let markup = "</style><script>document.title='run'</script><img src=http://127.0.0.1:9/x onerror=1>";
    for (id, tactic, technique) in
        [("R1", "TA0007", "T1083"), ("R2", "TA0007", "T1083"), ("R3", "TA0002", "T1059")]
    {
        swarm.save(&format!("{id}.yaml"), rule(id, &[(tactic, technique, "", "0.9")]));
    }
    swarm.succeed(&["sync"]);
    let (_master, worker) = (swarm.master(), swarm.worker());
    worker.wait_for_log(" loaded");
    swarm.succeed(&["state", "set", "R3", "disabled", "--reason", markup]);
    let page = swarm.path("fleet.html");
    wait_for("the change in the history, and the fleet in sync", || {
        let history = swarm.run(&["history"]).stdout;
        let is_written = swarm.run(&["fleet", "--html", page.to_str().unwrap()]).status.success();
        (is_written && !history.is_empty()).then_some(())
    });
    let html = fs::read_to_string(&page).unwrap();
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("<script"), "{html}");
    let profile = tempfile::tempdir().unwrap();
    let (document, said, colours) = open(&page, profile.path());
    for expected in [
        "<title>rulesyncd fleet</title>",
        "1 of 1 host in sync",
        "3 rules",
        "2 enabled, 0 clipped, 1 disabled",
        "T1083 File and Directory Discovery; enabled: R1, R2",
        "T1059 Command and Scripting Interpreter; disabled: R3",
        "0 of definitions, 1 of states",
        "Oldest report: ",
    ] {
        assert!(document.contains(expected), "no {expected} in {document}");
    }
    // The policy allows the page's own style, and nothing else was tried.
    assert!(!said.contains("Content Security Policy"), "{said}");
    // Green for hosts in sync, and a warm cell for two rules.
    for colour in [[0x2e, 0x9e, 0x5b], [0xfd, 0xb0, 0x6b]] {
        let pixels = colours.get(&colour).copied().unwrap_or_default();
        assert!(pixels > 500, "{pixels} pixels of {colour:02x?}");
    }
}
