//! Questions to the brokers whose answers `rdkafka` does not pass on in full: why a topic was not
//! created, in the brokers' own words, and which topic of a name it is; and brokers for a client that has
//! none left. It owns the pointers that librdkafka gives for that, each freed once; nothing here blocks
//! for longer than it is told.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char},
    ptr::NonNull,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as rd,
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::IsError,
    types::RDKafkaErrorCode,
};

/// A broker's refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RDKafkaErrorCode,
    /// The broker's own words, or what the code means.
    pub(crate) words: String,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewTopic<'a> {
    pub(crate) name: &'a str,
    /// The number of partitions; -1 = the brokers' default.
    pub(crate) partitions: i32,
    /// The replication factor; -1 = the brokers' default.
    pub(crate) replication: i32,
    pub(crate) config: Vec<(&'static str, String)>,
}

/// Which topic of a name: another one when it was deleted and made again (KIP-516).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicId(i64, i64);

/// An object of librdkafka, destroyed when this is dropped.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, Refusal> {
        let pointer = NonNull::new(pointer).ok_or_else(|| refusal("librdkafka refuses"))?;
        Ok(Self(pointer, free))
    }

    const fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka together with the function that frees it, nobody
        // else frees it, and it is not used any more.
        unsafe { self.1(self.0.as_ptr()) }
    }
}

fn refusal(words: &str) -> Refusal {
    Refusal {
        code: RDKafkaErrorCode::Fail,
        words: words.into(),
    }
}

/// A text of librdkafka's, if there is one.
///
/// # Safety
/// `text` is null, or ends with a null byte and lives as long as this call.
unsafe fn words(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the contract of this function.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
}

/// A question that the brokers have been asked. `K` keeps the client, which has to outlive the
/// queue.
pub(crate) struct Question<K> {
    queue: Owned<rd::rd_kafka_queue_t>,
    _keeps: K,
}

// SAFETY: librdkafka's queues may be used from any thread, and this is the only pointer to it here.
unsafe impl<K: Send> Send for Question<K> {}

impl<K> Question<K> {
    /// Asks; `ask` gets the client, the options and the queue that the answer comes to.
    fn new<C: ClientContext>(
        client: &Client<C>,
        keeps: K,
        kind: rd::rd_kafka_admin_op_t,
        patience: Duration,
        ask: impl FnOnce(
            *mut rd::rd_kafka_t,
            *mut rd::rd_kafka_AdminOptions_t,
            *mut rd::rd_kafka_queue_t,
        ),
    ) -> Result<Self, Refusal> {
        let native = client.native_ptr();
        let mut why = [0; 256];
        // SAFETY: the client lives as long as it is borrowed; options and queue are freed by `Owned`,
        // the options after the request, which copies them; `why` is as long as it is said to be.
        unsafe {
            let options = Owned::new(
                rd::rd_kafka_AdminOptions_new(native, kind),
                rd::rd_kafka_AdminOptions_destroy,
            )?;
            let error = rd::rd_kafka_AdminOptions_set_request_timeout(
                options.get(),
                patience.as_millis() as i32,
                why.as_mut_ptr(),
                why.len(),
            );
            if error.is_error() {
                return Err(refusal(&words(why.as_ptr()).unwrap_or_default()));
            }
            let queue = Owned::new(rd::rd_kafka_queue_new(native), rd::rd_kafka_queue_destroy)?;
            ask(native, options.get(), queue.get());
            Ok(Self {
                queue,
                _keeps: keeps,
            })
        }
    }

    /// The answer, if it comes within `patience`; else `None`.
    fn answer(&self, patience: Duration) -> Option<Result<Answer, Refusal>> {
        // SAFETY: the queue lives as long as `self`; the event is freed by `Owned`.
        unsafe {
            let event = rd::rd_kafka_queue_poll(self.queue.get(), patience.as_millis() as i32);
            let event = Owned::new(event, rd::rd_kafka_event_destroy).ok()?;
            let code = rd::rd_kafka_event_error(event.get());
            if !code.is_error() {
                return Some(Ok(Answer(event)));
            }
            let code = code.into();
            let said = words(rd::rd_kafka_event_error_string(event.get()));
            Some(Err(Refusal {
                code,
                words: said.unwrap_or_else(|| code.to_string()),
            }))
        }
    }
}

/// An answer that is no error as a whole.
struct Answer(Owned<rd::rd_kafka_event_t>);

/// Has a client that knows no broker any more begin anew with `brokers`, `host:port` with commas between:
/// what it has accepted, and where it reads, stays.
pub(crate) fn begin_anew<C: ClientContext>(client: &Client<C>, brokers: &str) {
    // The settings were checked when the client was made.
    let Ok(brokers) = CString::new(brokers) else {
        return;
    };
    // SAFETY: the client lives as long as it is borrowed, any thread may add brokers to it, and the text
    // outlives the call, which copies it.
    unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}

/// Creates a topic and waits `patience` for the answer, at most.
pub(crate) fn create_topic<C: ClientContext>(
    client: &Client<C>,
    wished: &NewTopic<'_>,
    patience: Duration,
) -> Result<(), Refusal> {
    let text = |text: &str| CString::new(text).map_err(|_| refusal("a text has a null byte"));
    let name = text(wished.name)?;
    let mut why = [0; 256];
    // SAFETY: all texts end with a null byte and outlive the calls, which copy them; `why` is as
    // long as it is said to be; the topic is freed by `Owned`, after the request, which copies it.
    let topic = unsafe {
        let topic = rd::rd_kafka_NewTopic_new(
            name.as_ptr(),
            wished.partitions,
            wished.replication,
            why.as_mut_ptr(),
            why.len(),
        );
        let Ok(topic) = Owned::new(topic, rd::rd_kafka_NewTopic_destroy) else {
            return Err(refusal(&words(why.as_ptr()).unwrap_or_default()));
        };
        for (key, value) in &wished.config {
            let (key, value) = (text(key)?, text(value)?);
            rd::rd_kafka_NewTopic_set_config(topic.get(), key.as_ptr(), value.as_ptr());
        }
        topic
    };
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    let question = Question::new(client, client, kind, patience, |native, options, queue| {
        let mut topics = [topic.get()];
        // SAFETY: all pointers are alive; the request copies what they lead to.
        unsafe {
            rd::rd_kafka_CreateTopics(native, topics.as_mut_ptr(), 1, options, queue);
        }
    })?;
    let answer = question.answer(patience + Duration::from_secs(1));
    let Answer(event) = answer.ok_or_else(|| refusal("no answer"))??;
    // SAFETY: the result belongs to the event, which lives to the end of this function; the list
    // has as many entries as it says.
    unsafe {
        let result = rd::rd_kafka_event_CreateTopics_result(event.get());
        if result.is_null() {
            return Err(refusal("another answer"));
        }
        let mut count = 0;
        let topics = rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
        if count == 0 || topics.is_null() {
            return Err(refusal("an empty answer"));
        }
        let topic = *topics;
        let code = rd::rd_kafka_topic_result_error(topic);
        if !code.is_error() {
            return Ok(());
        }
        let code = code.into();
        let said = words(rd::rd_kafka_topic_result_error_string(topic));
        Err(Refusal {
            code,
            words: said.unwrap_or_else(|| code.to_string()),
        })
    }
}

/// Asks which topic has this name; the answer is polled.
pub(crate) fn ask_topic_id<C: ConsumerContext>(
    consumer: &Arc<BaseConsumer<C>>,
    topic: &str,
    patience: Duration,
) -> Result<Question<Arc<BaseConsumer<C>>>, Refusal> {
    let name = CString::new(topic).map_err(|_| refusal("a name has a null byte"))?;
    let mut names = [name.as_ptr()];
    // SAFETY: the name outlives the call, which copies it; the collection is freed by `Owned`, after
    // the request, which copies it.
    let names = unsafe {
        Owned::new(
            rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            rd::rd_kafka_TopicCollection_destroy,
        )?
    };
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    let keeps = Arc::clone(consumer);
    Question::new(
        consumer.client(),
        keeps,
        kind,
        patience,
        |native, options, queue| {
            // SAFETY: all pointers are alive; the request copies what they lead to.
            unsafe { rd::rd_kafka_DescribeTopics(native, names.get(), options, queue) }
        },
    )
}

impl<K> Question<K> {
    /// Which topic it is, if the answer comes within `patience`.
    pub(crate) fn topic_id(&self, patience: Duration) -> Option<Result<TopicId, Refusal>> {
        let event = match self.answer(patience)? {
            Ok(Answer(event)) => event,
            Err(refusal) => return Some(Err(refusal)),
        };
        // SAFETY: result, descriptions and id belong to the event, which lives to the end of this
        // function; the list has as many entries as it says.
        Some(unsafe {
            let result = rd::rd_kafka_event_DescribeTopics_result(event.get());
            if result.is_null() {
                return Some(Err(refusal("another answer")));
            }
            let mut count = 0;
            let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            if count == 0 || topics.is_null() {
                return Some(Err(refusal("an empty answer")));
            }
            let error = rd::rd_kafka_TopicDescription_error(*topics);
            let code = rd::rd_kafka_error_code(error);
            if code.is_error() {
                let code = code.into();
                let said = words(rd::rd_kafka_error_string(error));
                return Some(Err(Refusal {
                    code,
                    words: said.unwrap_or_else(|| code.to_string()),
                }));
            }
            match rd::rd_kafka_TopicDescription_topic_id(*topics) {
                id if id.is_null() => Err(refusal("no id")),
                id => Ok(TopicId(
                    rd::rd_kafka_Uuid_most_significant_bits(id),
                    rd::rd_kafka_Uuid_least_significant_bits(id),
                )),
            }
        })
    }
}
