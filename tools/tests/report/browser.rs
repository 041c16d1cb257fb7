//! The page in headless Chromium, if the variable CHROMIUM or the path names one.

use std::process::{Command, Stdio};

use crate::place::Place;

/// Returns an installed Chromium.
fn chromium() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok().filter(|path| !path.is_empty());
    let candidates =
        named.into_iter().chain(["chromium", "chromium-browser", "google-chrome"].map(str::to_owned));
    candidates.into_iter().find(|program| {
        let version =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

#[test]
fn the_browser_sends_no_request_and_reports_nothing() {
    let Some(chromium) = chromium() else {
        eprintln!("not run: there is no Chromium");
        return;
    };
    let Some(place) = Place::with_log("report_browser") else { return };
    let directory = std::env::temp_dir().join(format!("cowrie-report-browser-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let opened = |name: &str, page: &str| {
        let file = directory.join(format!("{name}.html"));
        std::fs::write(&file, page).unwrap();
        let requests = directory.join(format!("{name}.json"));
        let output = Command::new(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * 127.0.0.1:9"])
            .arg(format!("--user-data-dir={}", directory.join(format!("{name}-profile")).display()))
            .arg(format!("--log-net-log={}", requests.display()))
            .arg(format!("--screenshot={}", directory.join(format!("{name}.png")).display()))
            .arg(format!("file://{}", file.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let console = String::from_utf8_lossy(&output.stderr)
            .lines()
            .filter(|line| line.contains("CONSOLE"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        (console, std::fs::read_to_string(requests).unwrap_or_default())
    };
    let page = place.report(&[]);
    let (console, requests) = opened("report", &page);
    assert_eq!(console, [""; 0]);
    assert!(!requests.contains("db-ip.com") && !requests.contains("example"), "a request was sent");
    // The check sees a script and a request if there are any.
    let spoilt =
        page.replace("</body>", "<script>alert(1)</script><img src=\"http://spoilt.example/x.png\"></body>");
    let (console, _) = opened("spoilt", &spoilt);
    assert!(console.len() >= 2, "{console:?}");
    let (_, requests) = opened("requesting", "<img src=\"http://spoilt.example/x.png\">");
    assert!(requests.contains("spoilt.example"), "requests are not seen");
    std::fs::remove_dir_all(&directory).unwrap();
}
