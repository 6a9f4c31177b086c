//! Rights that brokers with an authorizer want to see. It owns how a missing one is told, with the line
//! by which an administrator gives it.

use crate::options::Options;

/// A right that a client needs on the cluster (Kafka's ACLs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// `Describe` on the topic: to see its partitions.
    Describe,
    /// `Write` on the topic: to publish.
    Write,
    /// `Read` on the topic: to consume.
    Read,
    /// `Create` on the topic: to create it.
    Create,
    /// To use a producer that neither doubles nor reorders; comes with `Write` since Kafka 2.8.
    IdempotentWrite,
    /// To name a group, which is never joined.
    Group,
}

/// Names the missing right when a broker refuses a request.
#[derive(Debug)]
pub(crate) struct Rights {
    brokers: String,
    topic: String,
    /// The user that the brokers know this client by; empty = not known here.
    user: String,
}

impl Rights {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            brokers: options.brokers.clone(),
            topic: options.topic.clone(),
            user: options.security.user().to_owned(),
        }
    }

    /// What is missing, and how it is given.
    pub(crate) fn missing(&self, right: Right) -> String {
        let Self {
            brokers,
            topic,
            user,
        } = self;
        let user = match user.as_str() {
            "" => "User:NAME",
            user => &format!("User:{user}"),
        };
        let (operation, on, resource) = match right {
            Right::Describe => (
                "Describe",
                format!("the topic {topic}"),
                format!("--topic {topic}"),
            ),
            Right::Write => (
                "Write",
                format!("the topic {topic}"),
                format!("--topic {topic}"),
            ),
            Right::Read => (
                "Read",
                format!("the topic {topic}"),
                format!("--topic {topic}"),
            ),
            Right::Create => (
                "Create",
                format!("the topic {topic}"),
                format!("--topic {topic}"),
            ),
            Right::IdempotentWrite => (
                "IdempotentWrite",
                format!("the cluster, or Write on the topic {topic}"),
                "--cluster".into(),
            ),
            Right::Group => (
                "Describe",
                "its group, which it never joins".into(),
                "--group online-status --resource-pattern-type prefixed".into(),
            ),
        };
        format!(
            "this edge lacks the right {operation} on {on}: kafka-acls.sh --bootstrap-server {brokers} \
             --add --allow-principal {user} --operation {operation} {resource}"
        )
    }

    /// What is missing, when an error that is no message's and no partition's is about a right.
    pub(crate) fn in_words(&self, text: &str) -> Option<String> {
        let right = [
            ("Group authorization failed", Right::Group),
            ("Cluster authorization failed", Right::IdempotentWrite),
        ];
        let found = right.iter().find(|(part, _)| text.contains(part));
        found.map(|(_, right)| self.missing(*right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_names_operation_resource_and_user() {
        let mut options = Options {
            brokers: "k1:9092,k2:9092".into(),
            ..Options::default()
        };
        let told = Rights::new(&options).missing(Right::Write);
        assert!(
            told.contains("Write on the topic user_status_events"),
            "{told}"
        );
        assert!(
            told.contains("--bootstrap-server k1:9092,k2:9092 "),
            "{told}"
        );
        assert!(told.contains("User:NAME"), "{told}");
        options.security.protocol = crate::SecurityProtocol::SaslSsl;
        options.security.username = "edge".into();
        let rights = Rights::new(&options);
        let text = "FindCoordinator: Broker: Group authorization failed";
        let told = rights.in_words(text).expect("it is about a right");
        assert!(
            told.contains("User:edge --operation Describe --group"),
            "{told}"
        );
        let text = "Broker: Cluster authorization failed";
        let told = rights.in_words(text).expect("it is about a right");
        assert!(told.contains("IdempotentWrite"), "{told}");
        assert_eq!(rights.in_words("Broker: Topic authorization failed"), None);
    }
}
