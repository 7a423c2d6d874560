//! The web page at `/`: a chat for this server, one small bundle inside the binary.
//!
//! The page is plain HTML, CSS and JavaScript modules, served as they are written. It asks nothing of any other host and
//! works under [`CONTENT_SECURITY_POLICY`]. What a model says reaches the document only as text nodes.

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

/// What the page may load: its own files and this server's API, nothing else and nothing inline.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every file of the page is sent with, beside its type and its `ETag`. Caches ask each time, so that a new binary
/// never meets an old script; an unchanged file then costs a 304.
pub const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
];

/// One file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Path under the server's root; the page itself is `/`.
    pub path: &'static str,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// The bytes.
    pub body: &'static [u8],
}

impl Asset {
    /// Value of `ETag`, quotes included: it changes when the bytes do.
    #[must_use]
    pub fn etag(&self) -> String {
        let digest = Sha256::digest(self.body);
        let hex: String = digest.iter().take(12).map(|b| format!("{b:02x}")).collect();
        format!("\"{hex}\"")
    }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($path:expr, $content_type:expr, $file:literal) => {
        Asset {
            path: $path,
            content_type: $content_type,
            body: include_bytes!(concat!("assets/", $file)),
        }
    };
    ($file:literal, $content_type:expr) => {
        asset!(concat!("/page/", $file), $content_type, $file)
    };
}

/// All files of the page. The addresses inside it are relative, so that a prefix before `/` works.
pub const ASSETS: &[Asset] = &[
    asset!("/", HTML, "index.html"),
    asset!("api.js", JS),
    asset!("app.js", JS),
    asset!("base.css", CSS),
    asset!("composer.js", JS),
    asset!("dom.js", JS),
    asset!("favicon.svg", SVG),
    asset!("highlight.js", JS),
    asset!("inline.js", JS),
    asset!("layout.css", CSS),
    asset!("library.js", JS),
    asset!("markdown.js", JS),
    asset!("messages.js", JS),
    asset!("meters.js", JS),
    asset!("prose.css", CSS),
    asset!("render.js", JS),
    asset!("run.js", JS),
    asset!("server.js", JS),
    asset!("settings.js", JS),
    asset!("sidebar.js", JS),
    asset!("store.js", JS),
    asset!("theme.js", JS),
    asset!("thread.css", CSS),
    asset!("tree.js", JS),
];

/// The file at a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    /// All files together: what a phone loads over a home network at once.
    const MOST_BYTES: usize = 140 << 10;

    fn text(path: &str) -> &'static str {
        let asset = find(path).unwrap_or_else(|| panic!("no asset {path}"));
        std::str::from_utf8(asset.body).expect("UTF-8")
    }

    /// What stands between `before` and the next `after`, everywhere.
    fn all_between<'t>(text: &'t str, before: &str, after: char) -> Vec<&'t str> {
        text.split(before)
            .skip(1)
            .filter_map(|rest| rest.split(after).next())
            .collect()
    }

    #[test]
    fn the_bundle_is_whole() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/page/assets");
        let on_disk = std::fs::read_dir(folder).expect("assets").count();
        assert_eq!(on_disk, ASSETS.len(), "every file is served");
        let page = text("/");
        let linked = all_between(page, "src=\"", '"')
            .into_iter()
            .chain(all_between(page, "href=\"page/", '"'));
        for name in linked {
            let name = name.strip_prefix("page/").unwrap_or(name);
            assert!(find(&format!("/page/{name}")).is_some(), "{name}");
        }
        for asset in ASSETS.iter().filter(|a| a.content_type == JS) {
            for name in all_between(text(asset.path), "from \"./", '"') {
                assert!(
                    find(&format!("/page/{name}")).is_some(),
                    "{}: {name}",
                    asset.path
                );
            }
        }
        let bytes: usize = ASSETS.iter().map(|a| a.body.len()).sum();
        assert!(bytes <= MOST_BYTES, "{bytes} bytes");
    }

    #[test]
    fn etags_tell_files_apart() {
        let tags: HashSet<String> = ASSETS.iter().map(Asset::etag).collect();
        assert_eq!(tags.len(), ASSETS.len());
        assert!(tags.iter().all(|t| t.len() == 26 && t.starts_with('"')));
        assert_eq!(find("/").map(Asset::etag), Some(ASSETS[0].etag()));
        assert_eq!(find("/page/../mod.rs"), None);
    }

    #[test]
    fn nothing_needs_a_weaker_policy() {
        for asset in ASSETS {
            let text = text(asset.path);
            // Scripts speak of addresses in their rules for links; the other files have no reason to.
            let text_without_namespace = text.replace("http://www.w3.org/2000/svg", "");
            for outside in ["https:", "http:", "//", "@import", "url("] {
                assert!(
                    asset.content_type == JS || !text_without_namespace.contains(outside),
                    "{}: {outside}",
                    asset.path
                );
            }
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "new Function",
            ] {
                assert!(!text.contains(sink), "{}: {sink}", asset.path);
            }
        }
        let page = text("/");
        assert!(!page.contains("style=") && !page.contains("<style"));
        for event in ["onclick", "onload", "onerror", "javascript:"] {
            assert!(!page.contains(event), "{event}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script ").count()
        );
    }
}
