//! A trouble that lasts: what of it is said, and when.

/// A trouble, told once until it is another one or over.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

/// What there is to say of a trouble.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<'a> {
    /// It has begun, or is another one now: this one.
    Begins(&'a str),
    /// It is over.
    Ends,
}

impl Trouble {
    /// What there is to say when the trouble is now as given; `None`: it is as it was.
    pub fn turn(&mut self, now: Option<String>) -> Option<Turn<'_>> {
        let before = std::mem::replace(&mut self.0, now);
        match &self.0 {
            Some(what) if before.as_ref() != Some(what) => Some(Turn::Begins(what)),
            None if before.is_some() => Some(Turn::Ends),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_until_it_is_another_one_or_over() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.turn(None), None);
        assert_eq!(trouble.turn(Some("a".into())), Some(Turn::Begins("a")));
        assert_eq!(trouble.turn(Some("a".into())), None);
        assert_eq!(trouble.turn(Some("b".into())), Some(Turn::Begins("b")));
        assert_eq!(trouble.turn(None), Some(Turn::Ends));
        assert_eq!(trouble.turn(None), None);
    }
}
