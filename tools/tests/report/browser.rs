//! The page in headless Chromium without a network. `scripts/install-deps test` installs Chromium where apt has it. The variable
//! CHROMIUM names another one. Without Chromium, these tests report that they were not run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::place::Place;

/// Chromium itself sends requests to hosts of these domains. The page names none of them.
const OF_THE_BROWSER: [&str; 3] = [".googleapis.com", ".google.com", ".gvt1.com"];

/// A Chromium, and a directory for the files of one test.
struct Browser {
    program: String,
    directory: PathBuf,
}

/// What Chromium wrote about a page.
struct Seen {
    /// The messages of the console.
    console: Vec<String>,
    /// The URLs of requests, without those to files and those of Chromium itself.
    requests: Vec<String>,
    /// The document after its scripts have run.
    document: String,
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Browser {
    fn find(name: &str) -> Option<Browser> {
        let named = std::env::var("CHROMIUM").ok().filter(|path| !path.is_empty());
        let candidates =
            named.into_iter().chain(["chromium", "chromium-browser", "google-chrome"].map(str::to_owned));
        let Some(program) = candidates.into_iter().find(|program| succeeds(program, &["--version"])) else {
            eprintln!("not run: there is no Chromium");
            return None;
        };
        let directory = std::env::temp_dir().join(format!("cowrie-report-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Some(Browser { program, directory })
    }

    /// Opens a page without a network. A machine that permits no network namespace has a resolver without names instead.
    fn open(&self, name: &str, page: &str, arguments: &[&str]) -> Seen {
        let file = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        std::fs::write(file("html"), page).unwrap();
        let namespace = [&["--net"][..], &["--map-root-user", "--net"]];
        let namespace =
            namespace.into_iter().find(|options| succeeds("unshare", &[options, &["true"][..]].concat()));
        let mut command = match namespace {
            Some(options) => {
                let mut command = Command::new("unshare");
                command.args(options).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let output = command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args([
                "--hide-scrollbars",
                "--enable-logging=stderr",
                "--v=0",
                "--host-resolver-rules=MAP * 127.0.0.1:9",
            ])
            .arg(format!("--user-data-dir={}", file("profile").display()))
            .arg(format!("--log-net-log={}", file("json").display()))
            .args(arguments)
            .arg(format!("file://{}", file("html").display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let log = std::fs::read_to_string(file("json")).unwrap();
        let urls = log.split("\"url\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        let of_the_browser = |url: &&str| {
            let host = url
                .split("//")
                .nth(1)
                .and_then(|rest| rest.split(['/', ':', '?']).next())
                .unwrap_or_default();
            url.starts_with("file:") || OF_THE_BROWSER.iter().any(|domain| host.ends_with(domain))
        };
        Seen {
            console: errors.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
            requests: urls.filter(|url| !of_the_browser(url)).map(str::to_owned).collect(),
            document: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn the_browser_sends_no_request_and_reports_nothing() {
    let Some(browser) = Browser::find("browser") else { return };
    let Some(place) = Place::with_log("report_browser") else { return };
    let page = place.report(&[]);
    for (name, arguments) in [
        ("light.png", &["--screenshot"][..]),
        ("dark.png", &["--screenshot", "--blink-settings=preferredColorScheme=0"]),
        ("narrow.png", &["--screenshot", "--window-size=360,800"]),
        ("printed.pdf", &["--no-pdf-header-footer", "--print-to-pdf"]),
    ] {
        let to_file: Vec<String> = arguments
            .iter()
            .map(|argument| match *argument {
                "--screenshot" | "--print-to-pdf" => format!("{argument}={}", browser.path(name).display()),
                other => other.to_owned(),
            })
            .collect();
        let seen = browser.open(name, &page, &to_file.iter().map(|it| &it[..]).collect::<Vec<_>>());
        assert_eq!((seen.console, seen.requests), (Vec::new(), Vec::new()), "{name}");
        assert!(std::fs::metadata(browser.path(name)).unwrap().len() > 10_000, "{name}");
    }
    // The check sees a script, an image and a request if there are any.
    let spoilt =
        page.replace("</body>", "<script>alert(1)</script><img src=\"http://spoilt.example/x.png\"></body>");
    let seen = browser.open("spoilt", &spoilt, &["--dump-dom"]);
    assert!(seen.console.len() >= 2, "{:?}", seen.console);
    let seen = browser.open("requesting", "<img src=\"http://spoilt.example/x.png\">", &["--dump-dom"]);
    assert!(seen.requests.iter().any(|url| url == "http://spoilt.example/x.png"), "{:?}", seen.requests);
}

#[test]
fn the_page_fits_each_width_without_scrolling() {
    let Some(browser) = Browser::find("widths") else { return };
    let Some(place) = Place::with_log("report_widths") else { return };
    let page = place.report(&["--show-passwords", "--rows", "100", "--renewed-every", "25"]);
    let measured = |name: &str, page: &str| {
        // A frame can be narrower than any window. The script is on the page around it, because the page permits none.
        let inner = page.replace('&', "&amp;").replace('"', "&quot;");
        let mut outer = String::from("<!doctype html>");
        for width in [360, 800, 1400] {
            outer.push_str(&format!(
                "<iframe width={width} height=800 style=\"border:0\" srcdoc=\"{inner}\"></iframe>"
            ));
        }
        outer.push_str(
            "<script>onload = () => { document.documentElement.textContent = 'widths: ' + Array.from(frames,
                 frame => frame.innerWidth + '/' + frame.document.documentElement.scrollWidth).join(' ') }</script>",
        );
        let document = browser.open(name, &outer, &["--dump-dom"]).document;
        document.split("widths: ").nth(1).and_then(|rest| rest.split('<').next()).map(str::to_owned)
    };
    assert_eq!(measured("page", &page).as_deref(), Some("360/360 800/800 1400/1400"));
    // The check sees a page that is too wide.
    let wide = page.replace("<body>", &format!("<body><p>{}", "W".repeat(100)));
    assert_ne!(measured("wide", &wide).as_deref(), Some("360/360 800/800 1400/1400"));
}
