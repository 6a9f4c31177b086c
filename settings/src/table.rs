//! The table: each setting's name, kind, default and meaning, once. The macro that declares it
//! also makes the structs that hold the values.

use crate::{Literal, Rules};

/// One setting of a program, its values as text.
#[derive(Debug)]
pub struct Setting {
    /// The section of the file that has the setting.
    pub section: &'static str,
    /// The key of the setting in its section.
    pub key: &'static str,
    /// The text of the value when no source gives one.
    pub default: &'static str,
    /// What the setting means, for the reference, the file and `--help`.
    pub doc: &'static str,
    /// What values are allowed, for errors and the reference.
    pub allowed: &'static str,
    /// The least and the most that its value may be, as text.
    pub bounds: Option<(&'static str, &'static str)>,
    /// How the file has its value.
    pub literal: Literal,
    /// What is wrong with a text for it.
    pub check: fn(&str) -> Result<(), String>,
    /// A short environment name besides `ONLINE_STATUS_<SECTION>_<KEY>`, such as `NODE_ID`.
    pub short_env: Option<&'static str>,
    /// Whether the value is never shown, as of a password.
    pub is_secret: bool,
}

impl Setting {
    /// The setting's name in errors, `section.key`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The setting's flag, without the dashes before it.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("{}-{}", self.section, self.key).replace('_', "-")
    }

    /// The environment name that every setting has.
    #[must_use]
    pub fn env(&self) -> String {
        format!("ONLINE_STATUS_{}_{}", self.section, self.key).to_uppercase()
    }

    /// What values are allowed, bounds included.
    pub(crate) fn allowed(&self) -> String {
        let (allowed, bounds) = (self.allowed, self.bounds);
        bounds.map_or(allowed.to_owned(), |(least, most)| {
            format!("{allowed}, from {least} to {most}")
        })
    }

    /// Its names in the environment; the last that is given wins.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        let short = self.short_env.map(str::to_owned);
        short.into_iter().chain([self.env()])
    }
}

/// All settings of one program, and what its environment may have besides.
#[derive(Debug)]
pub struct Table {
    /// The program's name, like `online-status-edge`.
    pub program: &'static str,
    /// What its reference page calls it, like `the edge`.
    pub subject: &'static str,
    /// The settings, those of a section one after the other.
    pub sections: &'static [&'static [Setting]],
    /// How names of environment variables begin that are other programs'. A variable
    /// `ONLINE_STATUS_…` that is neither one of them nor a setting is an error.
    pub others: &'static [&'static str],
    /// Whether sections that this table does not have are other programs', too.
    pub foreign_sections: bool,
}

impl Table {
    /// Every setting of all sections, in the table's order.
    pub(crate) fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.sections.iter().copied().flatten()
    }
}

/// Settings of one section that stand together; [`sections`](crate::sections) declares them.
pub trait Section: Sized {
    /// The settings of the section, in the order of the struct's fields.
    const SETTINGS: &'static [Setting];

    /// The values of the next texts, one text a setting.
    ///
    /// # Panics
    /// When there are too few, or one is not what its setting's `check` accepts.
    fn from_checked<'a>(texts: &mut impl Iterator<Item = &'a String>) -> Self;

    /// The text of each value, in the same order, secrets hidden.
    fn show(&self) -> Vec<String>;

    /// Notes each value that is out of its bounds.
    fn check_bounds(&self, rules: &mut Rules);
}

/// Declares sections: a struct for each, which is a [`Section`](crate::Section). A setting's type
/// is a [`Kind`](crate::Kind), its default is text, and so are its bounds, if it has any: `= "15s" in
/// "0s"..="1d"`. See [`settings`](crate::settings).
#[macro_export]
macro_rules! sections {
    ($($vis:vis struct $type:ident in $section:ident { $(
        $(#[doc = $doc:literal])+
        $(#[env($env:literal)])?
        $key:ident: $kind:ty = $default:literal $(in $least:literal..=$most:literal)?,
    )+ })+) => { $(
        #[doc = concat!("Settings of the section `", stringify!($section), "`.")]
        #[derive(Debug, Clone)]
        $vis struct $type { $(
            $(#[doc = $doc])+
            $vis $key: $kind,
        )+ }

        impl $crate::Section for $type {
            const SETTINGS: &'static [$crate::Setting] = &[$($crate::Setting {
                section: stringify!($section),
                key: stringify!($key),
                default: $default,
                doc: concat!($($doc),+),
                allowed: <$kind as $crate::Kind>::ALLOWED,
                bounds: { let bounds: &[(&str, &str)] = &[$(($least, $most))?]; if bounds.is_empty() { None } else { Some(bounds[0]) } },
                literal: <$kind as $crate::Kind>::LITERAL,
                is_secret: <$kind as $crate::Kind>::IS_SECRET,
                check: |text| <$kind as $crate::Kind>::parse(text).map(drop),
                short_env: { let name: &[&str] = &[$($env)?]; if name.is_empty() { None } else { Some(name[0]) } },
            },)+];

            fn from_checked<'a>(texts: &mut impl Iterator<Item = &'a String>) -> Self {
                let mut next = || texts.next().expect("one text a setting");
                Self { $(
                    $key: <$kind as $crate::Kind>::parse(next()).expect("it was checked"),
                )+ }
            }

            fn show(&self) -> Vec<String> {
                vec![$($crate::Kind::show(&self.$key),)+]
            }

            fn check_bounds(&self, rules: &mut $crate::Rules) {
                let _ = &rules;
                $($(rules.within(concat!(stringify!($section), ".", stringify!($key)), &self.$key, $least, $most);)?)+
            }
        }
    )+ };
}

/// Declares a configuration: a struct of sections, its own and those it shares with other
/// programs, and `SECTIONS`, the same for a [`Table`](crate::Table).
///
/// ```
/// use std::time::Duration;
///
/// settings::sections! {
///     pub struct Presence in presence {
///         /// How long a user stays online after its last session broke.
///         grace: Duration = "15s" in "0s"..="1d",
///     }
///     pub struct Node in node {
///         /// The node's name.
///         #[env("NODE_ID")]
///         id: String = "n1",
///     }
/// }
///
/// settings::settings! {
///     pub struct Config { presence: Presence, node: Node }
/// }
///
/// let texts = ["15s".to_owned(), "n1".to_owned()];
/// let config = Config::from_checked(&texts);
/// assert_eq!(config.presence.grace.as_secs(), 15);
/// assert_eq!(config.show(), texts);
/// assert_eq!(Config::SECTIONS[1][0].short_env, Some("NODE_ID"));
/// let mut rules = settings::Rules::default();
/// config.check_bounds(&mut rules);
/// assert!(rules.finish().is_ok());
/// ```
#[macro_export]
macro_rules! settings {
    ($vis:vis struct $config:ident { $($name:ident: $section:ty),+ $(,)? }) => {
        /// The values of all settings of the program.
        #[derive(Debug, Clone)]
        $vis struct $config { $(
            #[doc = concat!("The settings `", stringify!($name), "`.")]
            $vis $name: $section,
        )+ }

        impl $config {
            /// Every setting, in the order of the table.
            $vis const SECTIONS: &'static [&'static [$crate::Setting]] =
                &[$(<$section as $crate::Section>::SETTINGS,)+];

            /// Builds the configuration from the text of each setting, in the table's order.
            ///
            /// # Panics
            /// When a text is not what its setting's `check` accepts.
            $vis fn from_checked(texts: &[String]) -> Self {
                let mut texts = texts.iter();
                Self { $($name: $crate::Section::from_checked(&mut texts),)+ }
            }

            /// The text of each setting, in the table's order, secrets hidden.
            $vis fn show(&self) -> Vec<String> {
                [$($crate::Section::show(&self.$name),)+].concat()
            }

            /// Notes each value that is out of its bounds.
            $vis fn check_bounds(&self, rules: &mut $crate::Rules) {
                $($crate::Section::check_bounds(&self.$name, rules);)+
            }
        }
    };
}
