//! Topics of a single-threaded server and what its clients say: see ../../README.md.

use std::collections::HashMap;

/// What a client said.
pub enum Said<'a> {
    Subscribe(Vec<&'a str>),
    Publish(&'a str, &'a str),
    Echo(&'a str),
}

pub fn read(text: &str) -> Said<'_> {
    if let Some(list) = text.strip_prefix("s ") {
        return Said::Subscribe(list.split(',').map(|topic| topic.trim_matches('"')).collect());
    }
    match text.strip_prefix("p ").and_then(|rest| rest.split_once(' ')) {
        Some((topic, text)) => Said::Publish(topic, text),
        None => Said::Echo(text),
    }
}

/// Who gets what is published.
pub struct Topics<T> {
    by_name: HashMap<String, Vec<(usize, T)>>,
}

impl<T> Default for Topics<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new() }
    }
}

impl<T> Topics<T> {
    pub fn subscribe(&mut self, topic: &str, client: usize, to: T) {
        self.by_name.entry(topic.into()).or_default().push((client, to));
    }

    pub fn of(&self, topic: &str) -> &[(usize, T)] {
        self.by_name.get(topic).map_or(&[], Vec::as_slice)
    }

    pub fn leave(&mut self, topics: &[String], client: usize) {
        for topic in topics {
            if let Some(all) = self.by_name.get_mut(topic) {
                all.retain(|(other, _)| *other != client);
            }
        }
    }
}
