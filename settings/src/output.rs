//! What a program says on its outputs, as with the standard library's macros, but a reader that
//! went away (a pager, a logger that died) is no reason to end: then nothing is said.
//! `#[macro_use(print, println, eprintln)] extern crate settings;` puts them in their place.

/// [`std::print`] that ignores a closed output.
#[macro_export]
macro_rules! print {
    ($($said:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::write!(::std::io::stdout(), $($said)*);
    }};
}

/// [`std::println`] that ignores a closed output.
#[macro_export]
macro_rules! println {
    ($($said:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stdout(), $($said)*);
    }};
}

/// [`std::eprintln`] that ignores a closed output.
#[macro_export]
macro_rules! eprintln {
    ($($said:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($said)*);
    }};
}
