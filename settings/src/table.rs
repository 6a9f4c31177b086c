//! The table: each setting's name, kind, default and meaning, once. The macro that declares it
//! also makes the structs that hold the values.

/// A setting as text.
#[derive(Debug)]
pub struct Setting {
    /// The section of the file.
    pub section: &'static str,
    /// The key in the section.
    pub key: &'static str,
    /// The value when nobody gives one.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
    /// What is wrong with a text for it.
    pub check: fn(&str) -> Result<(), String>,
    /// A short environment name besides `ONLINE_STATUS_<SECTION>_<KEY>`.
    pub short_env: Option<&'static str>,
}

impl Setting {
    /// As errors and the file name it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The flag, without the dashes before it.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("{}-{}", self.section, self.key).replace('_', "-")
    }

    /// The environment name that each setting has.
    #[must_use]
    pub fn env(&self) -> String {
        format!("ONLINE_STATUS_{}_{}", self.section, self.key).to_uppercase()
    }
}

/// All settings of a program.
#[derive(Debug)]
pub struct Table {
    /// The program, like `online-status-edge`.
    pub program: &'static str,
    /// What its reference page calls it, like `the edge`.
    pub subject: &'static str,
    /// The settings, each section's together.
    pub settings: &'static [Setting],
    /// How names of environment variables begin that are other programs'. A variable
    /// `ONLINE_STATUS_…` that is neither one of them nor a setting is an error.
    pub others: &'static [&'static str],
    /// Whether sections that this table does not have are other programs', too.
    pub foreign_sections: bool,
}

/// Declares a configuration: a struct with a struct for each section, and `SETTINGS`, the same as
/// a table for [`Table`](crate::Table). A setting's type is a [`Kind`](crate::Kind), its default
/// is text.
///
/// ```
/// use std::time::Duration;
///
/// settings::settings! {
///     pub struct Config;
///     presence as Presence {
///         /// How long a user stays online after its last session broke.
///         grace: Duration = "15s",
///     }
///     node as Node {
///         /// The node's name.
///         #[env("NODE_ID")]
///         id: String = "n1",
///     }
/// }
///
/// let texts: Vec<String> = SETTINGS.iter().map(|setting| setting.default.into()).collect();
/// let config = Config::from_checked(&texts);
/// assert_eq!(config.presence.grace.as_secs(), 15);
/// assert_eq!(config.show(), ["15s", "n1"]);
/// assert_eq!(SETTINGS[1].short_env, Some("NODE_ID"));
/// ```
#[macro_export]
macro_rules! settings {
    ($vis:vis struct $config:ident; $($section:ident as $type:ident { $(
        $(#[doc = $doc:literal])+
        $(#[env($env:literal)])?
        $key:ident: $kind:ty = $default:literal,
    )+ })+) => {
        /// The whole configuration.
        #[derive(Debug, Clone)]
        $vis struct $config { $(
            #[doc = concat!("The settings of `", stringify!($section), "`.")]
            $vis $section: $type,
        )+ }

        $(
            #[doc = concat!("The settings of `", stringify!($section), "`.")]
            #[derive(Debug, Clone)]
            $vis struct $type { $(
                $(#[doc = $doc])+
                $vis $key: $kind,
            )+ }
        )+

        /// Every setting, in the order of the table.
        $vis const SETTINGS: &[$crate::Setting] = &[$($($crate::Setting {
            section: stringify!($section),
            key: stringify!($key),
            default: $default,
            doc: concat!($($doc),+),
            allowed: <$kind as $crate::Kind>::ALLOWED,
            check: |text| <$kind as $crate::Kind>::parse(text).map(drop),
            short_env: { let name: &[&str] = &[$($env)?]; if name.is_empty() { None } else { Some(name[0]) } },
        },)+)+];

        impl $config {
            /// Builds the configuration from the text of each setting, in the table's order.
            ///
            /// # Panics
            /// When a text is not what its setting's `check` accepts.
            $vis fn from_checked(texts: &[String]) -> Self {
                let mut texts = texts.iter();
                let mut next = || texts.next().expect("one text a setting");
                Self { $($section: $type { $(
                    $key: <$kind as $crate::Kind>::parse(next()).expect("it was checked"),
                )+ },)+ }
            }

            /// The text of each setting, in the table's order, secrets hidden.
            $vis fn show(&self) -> Vec<String> {
                vec![$($($crate::Kind::show(&self.$section.$key),)+)+]
            }
        }
    };
}
