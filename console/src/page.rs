//! The console's page: its files, which are part of the binary, and what a browser may do with them.

/// A file of the page, with its type.
pub struct Asset {
    /// The path below the server's address.
    pub path: &'static str,
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The file's text.
    pub text: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Every file of the page; `/` first.
pub static ASSETS: [Asset; 5] = [
    Asset {
        path: "/",
        content_type: "text/html; charset=utf-8",
        text: include_str!("../assets/index.html"),
    },
    Asset {
        path: "/console.js",
        content_type: JAVASCRIPT,
        text: include_str!("../assets/console.js"),
    },
    Asset {
        path: "/console.css",
        content_type: STYLE,
        text: include_str!("../assets/console.css"),
    },
    Asset {
        path: "/uplot.js",
        content_type: JAVASCRIPT,
        text: include_str!("../../bench/vendor/uplot/uPlot.iife.min.js"),
    },
    Asset {
        path: "/uplot.css",
        content_type: STYLE,
        text: include_str!("../../bench/vendor/uplot/uPlot.min.css"),
    },
];

/// The page's `content-security-policy`: files and answers of its own server, and nothing else. The
/// icon is an empty one in the page.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                          connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
